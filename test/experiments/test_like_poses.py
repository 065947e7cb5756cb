"""Rendered hands beside photographs: both sides are cut and judged alike, and a given hand is where it was put."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adaptation_cases import RIG, estimators, filmed, small, turning
from landmark_cases import landmark_paths, take  # noqa: F401

pytest.importorskip('numba', reason='renderings need the extra `synthetic`')

from hand_unc_ros.data.synthetic import multiview  # noqa: E402
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings, draw_cameras  # noqa: E402
from hand_unc_ros.experiments import landmark_errors, like_poses  # noqa: E402
from hand_unc_ros.experiments.like_poses import MIRROR, Posed, compare, rendered  # noqa: E402
from hand_unc_ros.geometry.cameras import Camera  # noqa: E402
from hand_unc_ros.hand.anny import ANNY  # noqa: E402
from hand_unc_ros.hand.fitting import HandFit, load_hand_fitter  # noqa: E402
from hand_unc_ros.hand.model import load_hand_model  # noqa: E402
from hand_unc_ros.methods.contract import View  # noqa: E402
from hand_unc_ros.networks.blaze_hand import HAND_SIZE  # noqa: E402

RIGHT = np.ones(3)
LEFT = np.array([-1.0, 1.0, 1.0])


@pytest.fixture(autouse=True)
def few_backgrounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiview, 'BACKGROUND_COUNT', 2)


@pytest.fixture(scope='module')
def fit() -> HandFit:
    """Anny's hand, laid onto the joints of one that was drawn."""
    sample = MultiviewSamples(load_hand_model(ANNY), 5, MultiviewSettings(image_size=64)).sample(0, 1)
    found = load_hand_fitter(ANNY, 'right').fit(sample.joints, np.tile(1e-6 * np.eye(3), (21, 1, 1)))
    # Joints of the model itself: what is left is posture that its angles do not have.
    assert found is not None and found.residual_m < 0.001
    return found


@pytest.fixture(scope='module')
def camera(fit: HandFit) -> Camera:
    """With a lens that bends straight lines, 0.6 m from the hand."""
    pose = draw_cameras(np.random.default_rng(3), fit.joints.mean(axis=0), 1)[0]
    K = np.array([[700.0, 0.0, 320.0], [0.0, 700.0, 240.0], [0.0, 0.0, 1.0]])
    aside = pose.copy()
    aside[:3, 3] = fit.joints.mean(axis=0) - 0.6 * pose[:3, 2]
    return Camera('cam', 640, 480, K, 'plumb_bob', np.array([-0.1, 0.02, 0.0, 0.0, 0.0]), aside)


def test_a_given_hand_is_filmed_where_it_is(fit: HandFit, camera: Camera) -> None:
    source = MultiviewSamples(load_hand_model(ANNY), 6, MultiviewSettings(image_size=96))
    pose = camera.world_from_camera
    (view,), (again,) = (source.given(3, fit.vertices, fit.joints, [pose]) for _ in range(2))
    assert (view.read() == again.read()).all()
    np.testing.assert_allclose(view.camera.project(fit.joints)[0], view.joints_px, atol=1e-6)
    # The camera stands where it was put, turned about its axis alone.
    own = view.camera.world_from_camera
    np.testing.assert_allclose(own[:3, 3], pose[:3, 3], atol=1e-9)
    np.testing.assert_allclose(own[:3, 2], pose[:3, 2], atol=1e-9)
    # The vertices' place is the hand's colour, and not that of another person's there.
    px = np.rint(view.camera.project(fit.vertices)[0]).astype(int)
    bare = source.given(3, fit.vertices + 10.0 * pose[:3, 2], fit.joints, [pose])[0].read()
    inside = ((px >= 0) & (px < view.camera.width)).all(1)
    x, y = px[inside].T
    changed = np.abs(view.read()[y, x].astype(int) - bare[y, x]).max(-1) > 8
    assert inside.mean() > 0.9 and changed.mean() > 0.8


def test_a_left_hand_is_compared_in_the_mirror(fit: HandFit, camera: Camera) -> None:
    """Its fit is that of a right one; photograph, landmarks and pose belong together in the mirrored world."""
    other = replace(camera, world_from_camera=MIRROR @ camera.world_from_camera @ MIRROR)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (480, 640, 3), np.uint8)
    seen = like_poses._seen(np.random.default_rng(1), View(camera, image, 1), fit, RIGHT)
    left = like_poses._seen(np.random.default_rng(1), View(other, image, 1), fit, LEFT)
    assert seen is not None and left is not None
    pose, photograph, landmarks = left
    np.testing.assert_allclose(pose, seen[0], atol=1e-9)
    assert photograph.shape == (HAND_SIZE, HAND_SIZE, 3) and np.isfinite(landmarks).all()
    assert ((landmarks > 0) & (landmarks < HAND_SIZE)).mean() > 0.9


def test_a_view_that_cuts_the_hand_is_left_out(fit: HandFit, camera: Camera) -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    moved = camera.world_from_camera.copy()
    moved[:3, 3] += 0.25 * moved[:3, 0]
    cut = replace(camera, world_from_camera=moved)
    assert like_poses._seen(np.random.default_rng(0), View(cut, image, 1), fit, RIGHT) is None


def test_crops_of_both_kinds_are_as_many(fit: HandFit, camera: Camera, landmark_paths,  # noqa: F811
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, landmark_paths)
    monkeypatch.setattr('hand_unc_ros.experiments.look_statistics.landmark_models', lambda: landmark_paths[:2])
    pose = camera.world_from_camera
    hand = Posed(fit, [pose, pose], np.zeros((2, HAND_SIZE, HAND_SIZE, 3), np.uint8), np.full((2, 21, 2), 100.0))
    numbers, crops = compare([hand, hand], 1)
    assert numbers['crops'] == len(crops.images) == 4
    assert set(numbers['rendered']) == {'seen', 'right', 'error_px', 'error_palms'}
    assert set(numbers['photographed']) == {'seen', 'error_palms'}
    # Each with a person and a room of its own, from one seed.
    assert (rendered([hand, hand], 1).images == crops.images).all()
    assert np.abs(crops.images[0].astype(int) - crops.images[2]).mean() > 2


def test_the_command_compares_a_recording(landmark_paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
                                          capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr('hand_unc_ros.experiments.look_statistics.landmark_models', lambda: landmark_paths[:2])
    monkeypatch.setattr(landmark_errors, 'build_estimator', estimators(motion=turning, sigma_px=0.3))
    bag = filmed(tmp_path / 'bag', 6, small(RIG.subset(['cam0', 'cam1'])))
    like_poses.main(['--recording', str(bag), '--every', '2', '-o', str(tmp_path / 'out')])
    numbers = json.loads((tmp_path / 'out' / 'like_poses.json').read_text())['bag']
    # The first sets are those in which the hand is found; both cameras have all of it.
    assert 2 <= numbers['crops'] <= 6 and numbers['rendered']['seen'] == numbers['photographed']['seen'] == 1.0
    assert json.loads(capsys.readouterr().out) == {'recording': 'bag', **numbers}
    assert (tmp_path / 'out' / 'bag.png').stat().st_size > 1000
