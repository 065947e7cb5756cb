"""The front door: what `from hand_unc_ros import …` offers, and what it says to those who call it wrongly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recording_cases import calibration_messages, estimate_messages, image_messages, write_bag
from rig_cases import ring
from view_cases import PERIOD_NS, START_NS, hand, see

import hand_unc_ros
from hand_unc_ros import HandTracker, api, load_bag, load_rig, project, triangulate
from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.errors import CalibrationError, ConfigError, ImageFormatError, RecordingError
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.geometry.calibration_uncertainty import calibration_covariance
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, CameraRig
from hand_unc_ros.geometry.gaussians import mahalanobis_squared

RIG = ring((0, 90, 210), models=('plumb_bob', 'equidistant', 'none'))


def motion(t: float) -> np.ndarray:
    return hand(place=(0.05 * t, 0.0, 0.0))


def test_package_is_cheap_to_import_and_offers_the_front_door() -> None:
    code = ("import sys, hand_unc_ros; loaded = {'numpy', 'torch', 'hand_unc_ros.api'} & set(sys.modules); "
            "assert not loaded, loaded; from hand_unc_ros import triangulate, cli; assert 'torch' in sys.modules")
    subprocess.run([sys.executable, '-c', code], check=True)
    assert hand_unc_ros.__all__ == api.__all__ == sorted(api.__all__)
    assert set(api.__all__) <= set(dir(hand_unc_ros))
    with pytest.raises(AttributeError, match='no attribute .nonsense'):
        _ = hand_unc_ros.nonsense


def test_triangulation_is_that_of_the_live_pipeline() -> None:
    views = see(RIG, motion(0.0), sigma_px=1.5, noise=1.0, seed=4, hidden=[(0, 3), (1, 3), (2, 7)])
    fused = fuse(views, RIG)
    joints, covariance = triangulate(views.joints_px, np.sqrt(views.variance_px2), RIG)
    assert np.array_equal(joints, fused.joints, equal_nan=True)
    assert np.array_equal(np.isnan(covariance), np.isnan(fused.propagated))
    assert np.allclose(covariance, fused.propagated, rtol=1e-12, atol=0, equal_nan=True)
    assert np.isnan(joints[3]).all() and np.isfinite(joints[7]).all()


def test_covariance_holds_for_any_number_of_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.1, 0.1, (4000, 3))
    px, depth = project(points, RIG)
    assert px.shape == (3, 4000, 2) and depth.shape == (3, 4000) and (depth > 0).all()
    sigma = rng.uniform(0.5, 2.0, px.shape)
    joints, covariance = triangulate(px + sigma * rng.standard_normal(px.shape), sigma, RIG)
    distance2 = mahalanobis_squared(joints - points, covariance)
    # The mean of 4000 draws of χ² with 3 degrees of freedom has a deviation of √(6 / 4000) = 0.04.
    assert abs(distance2.mean() - 3.0) < 0.1
    assert triangulate(np.zeros((3, 0, 2)), 1.0, RIG)[1].shape == (0, 3, 3)


def test_sigma_of_camera_point_or_axis() -> None:
    px, _ = project(motion(0.0), RIG)
    whole = np.broadcast_to(np.array([1.0, 2.0, 0.5])[:, None, None], px.shape)
    expected = triangulate(px, whole, RIG)
    for sigma in ([1.0, 2.0, 0.5], whole[..., 0]):
        assert all(np.array_equal(one, other) for one, other in zip(triangulate(px, sigma, RIG), expected))
    unseen = np.full(px.shape, 1.0)
    unseen[1:, 5] = np.nan
    assert np.isnan(triangulate(px, unseen, RIG)[0][5]).all()


def test_covariance_includes_the_calibration_error_that_a_rig_gives() -> None:
    sure, unsure = RIG, CameraRig([api.Camera(
        camera.name, camera.width, camera.height, camera.K, camera.distortion_model, camera.D, camera.world_from_camera,
        CalibrationUncertainty(rotation_rad=0.002, translation_m=0.001)) for camera in RIG])
    px, _ = project(motion(0.0), sure)
    joints, covariance = triangulate(px, 1.0, sure)
    more = triangulate(px, 1.0, unsure)[1] - covariance
    shared = calibration_covariance(joints, covariance, unsure, np.ones((3, 21), bool), np.ones((3, 21, 2)))
    assert np.allclose(more[4], shared[12:15, 12:15], rtol=1e-9) and (np.linalg.eigvalsh(more)[:, 0] > 0).all()


@pytest.mark.parametrize('px, sigma, rig, error, words', [
    (np.zeros((2, 21, 2)), 1.0, RIG, ValueError, r'\(2, 21, 2\); give \(3, N, 2\)'),
    (np.zeros((3, 21, 2)), np.ones((3, 20)), RIG, ValueError, r'\(3, 20\); give one number'),
    (np.zeros((3, 21, 2)), np.ones((3, 21, 1)), RIG, ValueError, r'\(3, 21, 2\)'),
    (np.zeros((3, 21, 2)), 0.0, RIG, ValueError, 'above 0'),
    ('pixels', 1.0, RIG, ValueError, 'points_px is not an array'),
    (np.zeros((3, 21, 2)), 1.0, 'rig.yaml', TypeError, 'load_rig'),
])
def test_mistakes_of_triangulate_are_named(px: object, sigma: object, rig: object, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        triangulate(px, sigma, rig)


def test_mistakes_of_project_and_load_rig_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'\(3,\); give \(N, 3\)'):
        project([0.0, 0.0, 1.0], RIG)
    with pytest.raises(CalibrationError, match='no such file'):
        load_rig(tmp_path / 'nowhere.yaml')
    save_rig(RIG, tmp_path / 'rig.yaml')
    assert load_rig(str(tmp_path / 'rig.yaml')).names == RIG.names


def test_bag_gives_frame_sets_with_their_estimates(tmp_path: Path) -> None:
    messages = image_messages(RIG, 5, lost={(2, 'cam1')}) + estimate_messages(RIG, motion, 6)
    recording = load_bag(write_bag(tmp_path / 'bag', messages, RIG))
    assert recording.cameras == RIG.names and recording.rig.names == RIG.names and len(recording.hands) == 6
    for _ in range(2):
        sets = list(recording)
        assert [frames.stamp_ns for frames in sets] == [START_NS + index * PERIOD_NS for index in range(6)]
        assert [len(frames.images) for frames in sets] == [3, 3, 2, 3, 3, 0]
        assert set(sets[2].images) == {'cam0', 'cam2'} == set(sets[2].stamps_ns)
        assert all(len(frames.hands) == 1 and frames.hands[0].stamp_ns == frames.stamp_ns for frames in sets)
    assert sets[0].images['cam0'].shape == (480, 640, 3) and sets[0].images['cam0'].dtype == np.uint8
    assert np.abs(sets[3].hands[0].joints - motion(3 * PERIOD_NS / 1e9)).max() < 0.02
    assert sets[3].hands[0].covariance.shape == (63, 63) and sets[3].hands[0].full


def test_bag_of_estimates_alone_needs_no_calibration(tmp_path: Path) -> None:
    recording = load_bag(write_bag(tmp_path / 'bag', estimate_messages(RIG, motion, 4)))
    assert recording.rig is None and recording.cameras == ()
    assert [len(frames.hands) for frames in recording] == [1] * 4
    assert all(frames.images == {} for frames in recording)


def test_a_bag_of_a_single_camera_gives_its_images(tmp_path: Path) -> None:
    single = RIG.subset(['cam0'])
    recording = load_bag(write_bag(tmp_path / 'bag', image_messages(single, 3), single))
    assert recording.cameras == ('cam0',) and [list(frames.images) for frames in recording] == [['cam0']] * 3


def test_mistakes_of_load_bag_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match='no such file'):
        load_bag(tmp_path / 'nowhere')
    with pytest.raises(RecordingError, match='how its cameras are calibrated'):
        load_bag(write_bag(tmp_path / 'images', image_messages(RIG, 2)))
    with pytest.raises(RecordingError, match='neither images nor estimates'):
        load_bag(write_bag(tmp_path / 'neither', calibration_messages(RIG)))
    bag = write_bag(tmp_path / 'bag', image_messages(RIG, 2), RIG)
    assert [frames.hands for frames in load_bag(bag)] == [(), ()]
    with pytest.raises(RecordingError, match='/other'):
        load_bag(bag, estimates='/other')
    save_rig(ring((0, 90)), tmp_path / 'rig.yaml')
    assert load_bag(bag, rig=tmp_path / 'rig.yaml').cameras == ('cam0', 'cam1')


def test_tracker_says_why_there_is_no_hand_and_follows_the_rig() -> None:
    with HandTracker(RIG, method='jump_hand', refinement=False) as tracker:
        black = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in RIG}
        result = tracker.process(black, START_NS)
        assert result.hands == () and 'views show a hand' in result.reasons[0] and result.stamp_ns == START_NS
        few = tracker.process({'cam2': black['cam2']}, START_NS + PERIOD_NS)
        assert few.hands == () and '1 of 3 cameras' in few.reasons[0]
        for images, stamp, error, words in (
                ({'cam9': black['cam0']}, 1, CalibrationError, 'cam9'),
                ({'cam0': black['cam0'][..., 0]}, 1, ImageFormatError, r'cam0.*\(480, 640\); give'),
                ({'cam0': black['cam0'] / 255.0}, 1, ImageFormatError, 'float64'),
                ({'cam0': None}, 1, ImageFormatError, 'NoneType'),
                ({'cam0': black['cam0'][:240]}, 1, ImageFormatError, '640×240'),
                (black, 1.5, TypeError, 'integer nanoseconds')):
            with pytest.raises(error, match=words):
                tracker.process(images, stamp)
        tracker.reset()


def test_settings_of_the_tracker_are_checked() -> None:
    with pytest.raises(ConfigError, match="no setting 'handednes'.*handedness"):
        HandTracker(RIG, handednes='left')
    with pytest.raises(ConfigError, match='either'):
        HandTracker(RIG, handedness='either')
    with pytest.raises(ConfigError, match='min_views'):
        HandTracker(RIG.subset(['cam0']))
    with pytest.raises(TypeError, match='load_rig'):
        HandTracker('rig.yaml')
