"""The estimator with a method that knows the truth: what it gives, following, resets, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from estimator_cases import RIG, STILL, estimator_of, moving, still
from view_cases import IMAGE, PERIOD_NS, START_NS, Refused, TruthMethod, frames, hand, see

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.covariance_map import FLOOR, CovarianceMap
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.tracks import TRACK_MEMORY_S
from hand_unc_ros.estimation.types import FrameSet, HandEstimate
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import is_psd, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.fitting import load_hand_fitter
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.geometric_fusion import fuse

torch.set_num_threads(1)


# --- what an estimate holds -------------------------------------------------------------------------------

def test_an_estimate_is_complete():
    estimator = estimator_of()
    result = estimator.process(frames(RIG))
    assert isinstance(result, HandEstimate)
    np.testing.assert_allclose(result.joints, STILL, atol=1e-9)
    assert result.valid.all() and result.stamp_ns == START_NS and result.handedness == 'right'
    assert result.score == pytest.approx(0.9) and result.track_id == 1
    assert result.cameras == RIG.names and result.view_used.all()
    np.testing.assert_allclose(result.view_weights.sum(0), 1)
    assert result.reprojection_px.max() < 1e-6
    assert result.velocity is None and result.vertices is None and result.vertex_variance is None
    assert result.fit is None
    stage_ms = estimator.result.stage_ms
    assert set(stage_ms) >= {'views', 'fusion', 'refinement', 'finish'} and stage_ms['refinement'] == 0.25
    assert min(stage_ms['views'], stage_ms['finish'], stage_ms['health']) >= 0
    assert estimator.last_views.cameras == RIG.names


def test_the_covariance_is_the_fused_one_in_blocks_with_a_floor():
    plain = estimator_of().process(frames(RIG))
    assert not plain.covariance_calibrated
    blocks = plain.covariance.reshape(21, 3, 21, 3)
    fused = fuse(see(RIG, STILL), RIG)
    for j in range(21):
        np.testing.assert_allclose(blocks[j, :, j], fused.covariance[j] + FLOOR ** 2 * np.eye(3), rtol=1e-9)
        assert not np.delete(blocks[j], j, axis=1).any()
    assert np.array_equal(plain.covariance, plain.covariance.T)


def test_calibration_scales_by_the_number_of_views_of_each_joint():
    scale = CovarianceMap('scalar', {2: 4.0, 3: 3.0, 4: 2.0})
    hide = dict(alter=lambda estimate: see(RIG, STILL, hidden=[(0, 5), (1, 5), (2, 9)]))
    plain = estimator_of(TruthMethod(still, **hide)).process(frames(RIG))
    scaled = estimator_of(TruthMethod(still, **hide), scale).process(frames(RIG))
    assert scaled.covariance_calibrated
    for joint, factor in ((0, 2.0), (9, 3.0), (5, 4.0)):
        at = np.s_[3 * joint:3 * joint + 3, 3 * joint:3 * joint + 3]
        floor = FLOOR ** 2 * np.eye(3)
        np.testing.assert_allclose(
            scaled.covariance[at] - floor, factor * (plain.covariance[at] - floor), rtol=1e-6
        )
    np.testing.assert_array_equal(scaled.joints, plain.joints)


def test_missing_cameras_and_joints_keep_their_places():
    front = TruthMethod(
        still, alter=lambda e: see(RIG.subset(['cam3', 'cam1']), STILL, hidden=[(0, 8), (1, 20)])
    )
    result = estimator_of(front).process(frames(RIG, cameras=('cam3', 'cam1')))
    assert result.cameras == RIG.names and result.view_used.tolist() == [False, True, False, True]
    assert (result.view_weights[[0, 2]] == 0).all() and np.isnan(result.reprojection_px[[0, 2]]).all()
    assert np.flatnonzero(~result.valid).tolist() == [8, 20]
    assert np.isnan(result.joints[[8, 20]]).all()
    assert (result.view_weights[:, [8, 20]] == 0).all()
    lost = np.isnan(result.covariance)
    rows = np.r_[24:27, 60:63]
    expected = np.zeros((63, 63), bool)
    expected[rows] = expected[:, rows] = True
    assert np.array_equal(lost, expected)


def test_less_views_mean_more_doubt():
    doubt = []
    for cameras in (RIG.names, RIG.names[:3], RIG.names[:2]):
        result = estimator_of().process(frames(RIG, cameras=cameras))
        doubt.append(np.trace(result.covariance))
    assert doubt[0] < doubt[1] < doubt[2]


@pytest.mark.parametrize('side', ('right', 'left'))
def test_a_mesh_comes_with_a_surface_and_only_then(side):
    truth = hand(side=side, curl=0.3)
    surface = load_hand_fitter('stand-in', side)
    estimator = estimator_of(
        TruthMethod(lambda t: truth), surface=surface, handedness=side, hand_model='stand-in'
    )
    result = estimator.process(frames(RIG))
    assert result.handedness == side and result.fit.side == side
    assert result.vertices.shape == result.vertex_variance.shape == (778, 3)
    fit = surface.fit(result.joints, result.covariance, result.valid)
    np.testing.assert_array_equal(result.vertices, fit.vertices)
    # The stand-in's own joints, bent at other places than its model bends: within a few mm.
    assert result.fit.residual_m == fit.residual_m < 0.006
    assert (result.vertex_variance > 0).all()
    # Skin is as uncertain as the joints that it hangs on.
    spread = np.diag(result.covariance).reshape(21, 3)
    assert (result.vertex_variance <= spread.max(0) + 1e-12).all() and (
        result.vertex_variance >= spread.min(0) - 1e-12
    ).all()

    hidden = [(view, joint) for view in range(4) for joint in (0, 8)]
    blind = estimator_of(
        TruthMethod(still, alter=lambda e: see(RIG, STILL, hidden=hidden)), surface=surface, hand_model='stand-in'
    )
    result = blind.process(frames(RIG))
    assert isinstance(result, HandEstimate)
    assert result.vertices is None and result.vertex_variance is None and result.fit is None


@pytest.mark.parametrize('side', ('right', 'left'))
def test_a_mesh_may_have_another_number_of_vertices(side):
    truth = hand(side=side, curl=0.3)
    estimator = estimator_of(TruthMethod(lambda t: truth), surface=load_hand_fitter('anny', side), handedness=side,
                             hand_model='anny')
    result = estimator.process(frames(RIG))
    assert result.vertices.shape == result.vertex_variance.shape == (1609, 3)
    assert np.isfinite(result.vertices).all() and (result.vertex_variance > 0).all()
    # Joints of another hand, with Anny's bones: within a few mm.
    assert result.fit.residual_m < 0.008


def test_colours_of_a_mesh_are_those_of_the_method_on_its_own_surface():
    """With its own vertices and those of the same model that is fitted; another model's vertices are not its."""
    painted = np.random.default_rng(0).integers(0, 256, (778, 3), dtype=np.uint8)

    class Painter(TruthMethod):
        surface = 'stand-in'

        def fuse(self, window, rig, track):
            return replace(super().fuse(window, rig, track), vertices=np.zeros((778, 3)), vertex_colours=painted)

    def colours(surface, **options):
        estimator = estimator_of(Painter(still), surface=load_hand_fitter(surface, 'right'), **options)
        return estimator.process(frames(RIG)).vertex_colours

    np.testing.assert_array_equal(colours('stand-in'), painted)
    np.testing.assert_array_equal(colours('stand-in', hand_model='stand-in'), painted)
    assert colours('anny', hand_model='anny') is None


def test_the_views_last_read_tell_their_gate():
    """A softmax over the views that were used; nothing where the set gave no hand or was not read."""
    front = TruthMethod(still, lost=('cam2',))
    estimator = estimator_of(front)
    assert estimator.last_views is None
    estimator.process(frames(RIG))
    gate = estimator.last_views.gate
    assert gate.shape == (4, 21) and (gate[2] == 0).all() and (gate[[0, 1, 3]] > 0).all()
    np.testing.assert_allclose(gate.sum(0), 1, atol=1e-12)
    front.lost = set(RIG.names[1:])
    assert isinstance(estimator.process(frames(RIG, 1)), Refused)
    assert estimator.last_views.gate is None and estimator.last_views.valid[0].all()
    estimator.process(frames(RIG, 2, cameras=('cam0',)))
    assert estimator.last_views is None


def test_stamps_of_views_may_differ_from_that_of_the_set():
    views = {name: View(RIG[name], IMAGE, START_NS + 1000 * row) for row, name in enumerate(RIG.names)}
    result = estimator_of().process(FrameSet(START_NS + 2000, views, RIG.names))
    assert result.stamp_ns == START_NS + 2000


# --- following --------------------------------------------------------------------------------------------

def test_a_hand_is_searched_once_and_then_followed():
    front = TruthMethod(moving, noise=0.3)
    estimator = estimator_of(front)
    results = [estimator.process(frames(RIG, index)) for index in range(12)]
    assert [result.track_id for result in results] == [1] * 12
    assert front.calls[0][1] is None and all(predicted is not None for _, predicted in front.calls[1:])
    for stamp, predicted in front.calls[4:]:
        # Constant velocity: within the noise of the last estimates, far less than a hand.
        assert np.linalg.norm(predicted - moving((stamp - START_NS) * 1e-9), axis=1).max() < 0.015


def test_a_hand_lost_for_long_is_a_new_one():
    front = TruthMethod(still)
    estimator = estimator_of(front)
    estimator.process(frames(RIG, 0))
    memory_ns = int(TRACK_MEMORY_S * 1e9)
    kept = estimator.process(frames(RIG, stamp_ns=START_NS + memory_ns))
    assert kept.track_id == 1 and front.resets == 0
    new = estimator.process(frames(RIG, stamp_ns=START_NS + 2 * memory_ns + 1))
    assert new.track_id == 2 and front.resets == 1 and front.calls[-1][1] is None


@pytest.mark.parametrize('back_ns', (0, 1, PERIOD_NS, 10 ** 12))
def test_time_that_runs_back_or_stands_still_starts_anew_at_once(back_ns):
    """A bag that loops must not be waited out."""
    front = TruthMethod(still)
    estimator = estimator_of(front)
    for index in range(3):
        last = estimator.process(frames(RIG, index)).stamp_ns
    result = estimator.process(frames(RIG, stamp_ns=last - back_ns))
    assert isinstance(result, HandEstimate) and result.stamp_ns == last - back_ns
    assert result.track_id == 2 and front.resets == 1 and front.calls[-1][1] is None
    again = estimator.process(frames(RIG, stamp_ns=last - back_ns + PERIOD_NS))
    assert again.track_id == 2 and front.calls[-1][1] is not None


def test_a_moment_without_views_does_not_end_the_track():
    front = TruthMethod(still)
    estimator = estimator_of(front)
    estimator.process(frames(RIG, 0))
    assert isinstance(estimator.process(frames(RIG, 1, cameras=('cam1',))), Refused)
    assert isinstance(estimator.process(frames(RIG, 2, cameras=())), Refused)
    after = estimator.process(frames(RIG, 3))
    assert after.track_id == 1 and front.calls[-1][1] is not None and front.resets == 0


def test_what_was_followed_and_is_no_hand_is_searched_anew():
    spoil = [False]
    front = TruthMethod(still, alter=lambda e: see(RIG, 3 * STILL) if spoil[0] else e)
    estimator = estimator_of(front)
    estimator.process(frames(RIG, 0))
    spoil[0] = True
    assert isinstance(estimator.process(frames(RIG, 1)), Refused) and front.calls[1][1] is not None
    assert front.calls[-1][1] is None
    spoil[0] = False
    result = estimator.process(frames(RIG, 2))
    assert result.track_id == 1 and front.calls[-1][1] is None


def test_reset_forgets():
    front = TruthMethod(still)
    estimator = estimator_of(front)
    estimator.process(frames(RIG, 0))
    estimator.reset()
    assert estimator.process(frames(RIG, 1)).track_id == 2
    assert front.resets == 1 and front.calls[-1][1] is None


def test_each_set_of_cameras_has_its_own_calibration():
    """Views come and go, and a camera is calibrated anew: the newest calibration counts."""
    estimator = estimator_of()
    moved = np.eye(4)
    moved[:3, 3] = 0.3, 0.1, -0.2
    for index in range(12):
        rig = (
            RIG
            if index % 3
            else CameraRig([camera.with_pose(moved @ camera.world_from_camera) for camera in RIG])
        )
        cameras = rig.names if index % 2 else rig.names[:2]
        shift = 0 if index % 3 else moved[:3, 3]
        estimator.reset()
        estimator.estimator.method = TruthMethod(lambda t, shift=shift: STILL + shift)
        result = estimator.process(frames(rig, index, cameras=cameras))
        np.testing.assert_allclose(result.joints, STILL + shift, atol=1e-9)


# --- filter -----------------------------------------------------------------------------------------------

def test_the_filter_gives_velocity_and_less_noise():
    truth = np.array([0.25, -0.1, 0.05])
    raw, smooth = (estimator_of(TruthMethod(moving, 2.0, noise=1.0), filter=on) for on in (False, True))
    errors = []
    for index in range(40):
        pair = [estimator.process(frames(RIG, index)) for estimator in (raw, smooth)]
        # As for a bag that is filtered hard: at the default density 15 Hz leaves little to average.
        smooth.track.smoother.density = 0.05
        errors.append([np.square(result.joints - moving(index * PERIOD_NS * 1e-9)).mean() for result in pair])
        assert is_psd(pair[1].covariance)
    assert pair[0].velocity is None
    # 63 components of unit variance, in units of what the filter says of its velocities: 1 ± 0.18; the points
    # keep their speed, which is less than the filter allows for.
    nees = mahalanobis_squared(pair[1].velocity - truth, joint_blocks(smooth.track.smoother.covariance[63:, 63:]))
    assert 0.1 < nees.mean() / 3 < 1.6
    late = np.mean(errors[10:], axis=0)
    assert late[1] < 0.6 * late[0]


def test_the_filter_bridges_a_hidden_joint():
    gone = [False]
    front = TruthMethod(
        moving, alter=lambda e: replace(e, valid=e.valid & (not gone[0] or np.arange(21) != 8))
    )
    estimator = estimator_of(front, filter=True)
    for index in range(6):
        before = estimator.process(frames(RIG, index))
    gone[0] = True
    for index in range(6, 10):
        result = estimator.process(frames(RIG, index))
        assert result.valid.all()
        assert np.linalg.norm(result.joints[8] - moving(index * PERIOD_NS * 1e-9)[8]) < 0.01
        assert (result.view_weights[:, 8] == 0).all() and np.isnan(result.reprojection_px[:, 8]).all()
        assert np.trace(result.covariance[24:27, 24:27]) > np.trace(before.covariance[24:27, 24:27])
        before = result
    # 0.3 s after it was last seen it is unknown.
    result = estimator.process(frames(RIG, 11))
    assert not result.valid[8] and np.isnan(result.covariance[24:27]).all()


# --- refusals ---------------------------------------------------------------------------------------------

def reason_of(method, rig=RIG, cameras=None, **options):
    result = estimator_of(method, **options).process(frames(rig, cameras=cameras))
    assert isinstance(result, Refused) and result.stamp_ns == START_NS
    return result.reason


def test_too_few_views_are_reported_never_triangulated():
    front = TruthMethod(still)
    assert reason_of(front, cameras=('cam2',)).startswith('1 of 4 cameras came in time, 2 are needed')
    assert reason_of(front, cameras=()).startswith('0 of 4 cameras')
    assert reason_of(front, cameras=RIG.names[:2], min_views=3).startswith('2 of 4 cameras came in time, 3')
    assert front.calls == []
    # Of one view alone depth is not observable, and the user is told so.
    for seeing in (1, 0):
        blind = TruthMethod(still, lost=RIG.names[seeing:])
        assert reason_of(blind) == f'{seeing} of 4 views show a hand, 2 are needed: depth is not observable'
    assert 'depth is not observable' in reason_of(front, cameras=('cam2',))
    assert '3 are needed' in reason_of(TruthMethod(still, lost=RIG.names[2:]), min_views=3)


@pytest.mark.parametrize('factor', (1000.0, 100.0, 0.001))
def test_a_rig_in_other_units_is_suspected(factor):
    """Positions in millimetres: the hand comes out a thousand times too large."""
    def scaled(camera):
        pose = np.array(camera.world_from_camera)
        pose[:3, 3] *= factor
        return camera.with_pose(pose)

    front = TruthMethod(still, alter=lambda e: see(RIG, STILL))
    rig = CameraRig([scaled(camera) for camera in RIG])
    reason = reason_of(front, rig)
    assert 'units of the rig metres' in reason and 'palm' in reason


def test_what_cannot_be_a_hand_is_not_published():
    scattered = STILL + np.random.default_rng(0).normal(0, 0.08, (21, 3))
    scattered[[0, 9]] = STILL[[0, 9]]
    assert 'impossible lengths' in reason_of(TruthMethod(lambda t: scattered))
    shifted = [hand((0.5, -0.3, 0.8), (0, 0, 0)), hand((0.5, -0.3, 0.8), (0, 0, 0.12))]

    def two_hands(estimate):
        other = see(RIG.subset(estimate.cameras), shifted[1])
        joints = estimate.joints_px.copy()
        joints[1] = other.joints_px[1]
        return replace(estimate, joints_px=joints)

    assert 'views disagree' in reason_of(TruthMethod(still, alter=two_hands), cameras=RIG.names[:2])
    front = TruthMethod(
        still, alter=lambda e: see(RIG, STILL, hidden=[(v, j) for v in range(3) for j in range(11)])
    )
    assert 'only 10 of 21 joints' in reason_of(front)


@pytest.mark.parametrize('changes, words', (
    (dict(method='openpose'), "method 'openpose'.*jump_hand, landmarks"),
    (dict(method='correlated_uncertainty'), "method 'correlated_uncertainty'.*jump_hand, landmarks"),
    (dict(handedness='either'), "handedness 'either'.*right, left, both"),
    (dict(triangulation='dlt'), "triangulation 'dlt'.*refined"),
    (dict(method='landmarks', min_views=1), 'min_views is 1'), (dict(min_views=0), 'min_views is 0')))
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        EstimatorSettings(**changes)
