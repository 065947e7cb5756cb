"""Innovations against real leave-one-out fusion; cameras that have moved are named, counted less, and forgiven."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import LENSES, ring
from view_cases import IMAGE, PERIOD_NS, START_NS, TruthMethod, frames, hand, project, rotation, see
from view_noise import NetworkNoise, waving

from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.innovations import innovations
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.estimation.view_health import GROUPS, SCALES, Observation, ViewHealth
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.geometric_fusion import fuse

torch.set_num_threads(1)

HAND = hand()
RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
RATE_HZ = 15
# The issue's own drift.
TURN_DEG, SHIFT_M = 1.0, 0.005


def moved_rig(rig, camera, axis=(1, 0, 0), shift=(0, 1, 0), turn_deg=TURN_DEG, shift_m=SHIFT_M):
    """The calibration of a rig whose `camera` has turned about its own axis and gone along it since."""
    cameras = list(rig.cameras)
    drift = np.eye(4)
    drift[:3, :3] = rotation(np.radians(turn_deg) * np.asarray(axis) / np.linalg.norm(axis))
    drift[:3, 3] = shift_m * np.asarray(shift) / np.linalg.norm(shift)
    cameras[camera] = cameras[camera].with_pose(cameras[camera].world_from_camera @ drift)
    return CameraRig(cameras)


def only(estimate, rows):
    """The estimate of some of its views."""
    return replace(estimate, cameras=tuple(estimate.cameras[row] for row in rows), **{
        name: getattr(estimate, name)[rows] for name in ('joints_px', 'variance_px2', 'valid', 'score', 'boxes_px')})


# --- innovations ------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(st.integers(3, 6), st.integers(0, 2**31), st.floats(0, 0.25))
def test_innovations_are_those_of_fusing_the_other_views(views, seed, missing):
    """Noise of a thousandth of σ: linear, and no outlier, so that only rounding and curvature remain."""
    rng = np.random.default_rng(seed)
    rig = ring(np.linspace(0, 300, views) + rng.uniform(-15, 15, views), radius=0.6, height=0.35, models=tuple(LENSES))
    hidden = [(view, joint) for view in range(views) for joint in range(21) if rng.random() < missing]
    estimate = see(rig, HAND, rng.uniform(1, 4, (views, 21, 2)), noise=1e-3, seed=seed % 1000, hidden=hidden)
    found = innovations(estimate, rig, fuse(estimate, rig).joints)
    np.testing.assert_allclose(np.square(found.whitened).sum(-1), found.squared)
    for view in range(views):
        rows = [row for row in range(views) if row != view]
        sub = rig.subset([rig.names[row] for row in rows])
        others = fuse(only(estimate, rows), sub)
        seen = estimate.valid[view] & (others.valid | (estimate.valid[rows].sum(0) == 1))
        assert np.array_equal(np.isfinite(found.squared[view]), seen) and np.array_equal(found.dof[view] > 0, seen)
        told = estimate.valid[view] & others.valid
        jacobian = rig.projection_jacobian(torch.from_numpy(others.joints)).numpy()[view]
        error = (estimate.joints_px[view] - project(rig, others.joints)[view])[told]
        covariance = (jacobian @ others.propagated @ jacobian.swapaxes(1, 2))[told]
        covariance += estimate.variance_px2[view][told][:, :, None] * np.eye(2)
        expected = np.einsum('ni,nij,nj->n', error, np.linalg.inv(covariance), error)
        np.testing.assert_allclose(found.squared[view][told], expected, rtol=0.01, atol=1e-10)
        assert (found.dof[view][told] == 2).all()
        # Signed: along the image's axes, in units of their σ whitened by the symmetric root.
        sigma = np.sqrt(estimate.variance_px2[view][told])
        values, vectors = np.linalg.eigh(covariance / sigma[:, :, None] / sigma[:, None, :])
        root = (vectors / np.sqrt(values)[:, None]) @ vectors.swapaxes(1, 2)
        expected = (root @ (error / sigma)[..., None])[..., 0]
        np.testing.assert_allclose(found.whitened[view][told], expected, rtol=0.02, atol=2e-5)


def test_of_two_views_only_the_distance_from_the_epipolar_line_is_an_innovation():
    """One number for both: the squared error that remains when the joint is where it fits both best."""
    rig = ring((10, 80), radius=0.6, height=0.35)
    estimate = see(rig, HAND, 1.5, noise=0.02, seed=3)
    fused = fuse(estimate, rig)
    found = innovations(estimate, rig, fused.joints)
    assert (found.dof == 1).all()
    for view in range(2):
        np.testing.assert_allclose(found.squared[view], fused.mahalanobis2.sum(0), rtol=0.01, atol=1e-8)


@pytest.mark.parametrize('views', (2, 3, 4))
def test_innovations_are_of_unit_variance_where_the_views_tell_the_truth(views):
    """840 independent joints: without robust weights the mean square would be 1 ± 0.06 (three standard deviations, and
    more data with more views). Cauchy weights, 0.76 on the mean, make the others seem less sure."""
    rig = ring((0, 75, 170, 260)[:views], radius=0.6, height=0.35)
    squared, dof = 0.0, 0
    for seed in range(40):
        estimate = see(rig, hand(np.random.default_rng(seed).normal(0, 1, 3)), 1.5, noise=1.0, seed=seed)
        found = innovations(estimate, rig, fuse(estimate, rig).joints)
        squared, dof = squared + found.squared.sum(), dof + found.dof.sum()
    assert 0.78 < squared / dof < 1.06, squared / dof


def test_an_outlier_is_the_innovation_of_its_own_view():
    estimate = see(RIG, HAND, 1.5, noise=0.5, seed=1)
    estimate.joints_px[1, 7] += 40
    found = innovations(estimate, RIG, fuse(estimate, RIG).joints)
    assert found.squared[1, 7] > 100 and np.delete(found.squared[:, 7], 1).max() < 15
    # The same, had the view been left out of the fusion.
    rows = [0, 2, 3]
    without = fuse(only(estimate, rows), RIG.subset([RIG.names[row] for row in rows]))
    np.testing.assert_allclose(innovations(estimate, RIG, without.joints).squared[1, 7], found.squared[1, 7], rtol=0.05)


def test_a_shift_of_one_view_is_what_explains_its_innovations_and_those_of_the_others():
    """The reduced system: of the shifted view alone it gives the shift, and nothing is left for the other views."""
    shift = np.array([0.06, -0.03])
    for view in range(4):
        estimate = see(RIG, HAND, np.random.default_rng(view).uniform(1, 3, (4, 21, 2)))
        estimate.joints_px[view] += shift
        found = innovations(estimate, RIG, fuse(estimate, RIG).joints)
        assert (np.linalg.eigvalsh(found.information) > -1e-12).all()
        pair = [2 * view, 2 * view + 1]
        np.testing.assert_allclose(np.linalg.solve(found.information[np.ix_(pair, pair)], found.score[pair]), shift,
                                   rtol=0.02)
        expected = found.information[:, pair] @ shift
        np.testing.assert_allclose(found.score, expected, atol=0.02 * np.abs(expected).max())


# --- the shift of a camera ----------------------------------------------------------------------------------

class Watch:
    """Feeds the noise of a network to an estimator, with one calibration after the other."""

    def __init__(self, rig=RIG, seed=0, **options):
        self.truth, self.noise, self.set = rig, NetworkNoise(len(rig), seed), 0
        method = TruthMethod(waving)
        method.look = lambda seen, stamp_ns: only(
            self.noise.look(self.truth, waving(self.set / RATE_HZ)), [rig.names.index(name) for name in seen.names])
        self.estimator = HandEstimator(method, EstimatorSettings(**options))
        self.errors = []

    def show(self, rig, seconds, until=None):
        """Sets for so long or until a condition holds; the seconds that took, None if it never held."""
        for count in range(round(seconds * RATE_HZ)):
            stamp_ns = START_NS + self.set * PERIOD_NS
            result = self.estimator.process(FrameSet(stamp_ns, {
                name: View(rig[name], IMAGE, stamp_ns) for name in rig.names}, self.truth.names))
            for found in result.hands:
                self.errors.append(np.linalg.norm(found.joints - waving(self.set / RATE_HZ), axis=1))
                self.result = result
            self.set += 1
            if until is not None and until():
                return (count + 1) / RATE_HZ
        return None

    @property
    def moved(self):
        return self.estimator.health.moved


def watch_healthy(views, seconds, seed):
    """Blamed sets of a rig on which nothing is wrong. The linearisation is about the truth, which saves the fusion."""
    rig = RIG.subset(RIG.names[:views])
    noise, health, blamed = NetworkNoise(views, seed), ViewHealth(rig.names), 0
    for index in range(seconds * RATE_HZ):
        joints = waving(index / RATE_HZ)
        estimate = noise.look(rig, joints)
        health.update(START_NS + index * PERIOD_NS, [
            Observation(estimate, innovations(estimate, rig, joints), np.ones(views, bool))])
        blamed += bool(health.moved) or any(report.disagrees for report in health.reports())
    return blamed, health


@pytest.mark.parametrize('views', (pytest.param(2, marks=pytest.mark.slow), 4))
def test_a_healthy_rig_is_not_blamed(views):
    blamed, health = watch_healthy(views, 60, seed=81_200 + views)
    assert blamed == 0
    for report in health.reports():
        # Claimed σ are larger than most errors.
        assert set(report.innovation) == set(GROUPS) and all(0.2 < nis < 1.6 for nis in report.innovation.values())
        assert report.suspects == () and report.left_out == 0 and 0 <= report.strength < SCALES[0].raise_at


@pytest.mark.slow
@pytest.mark.parametrize('views', (2, 3, 4))
def test_a_healthy_rig_is_not_blamed_in_ten_minutes(views):
    assert watch_healthy(views, 600, seed=81_210 + views)[0] == 0


@pytest.mark.parametrize('factor, shifts_px', ((1.0, (0.5, 1.8)), (2.0, (1.8, 6.0))))
def test_a_method_whose_views_err_alike_asks_for_larger_shifts(factor, shifts_px):
    """σ are 2 px and 0.35 σ of the innovation a pixel: 1.8 px is 0.63, between 0.42 and 0.84."""
    for shift_px, blamed in zip(shifts_px, (False, True)):
        health = ViewHealth(RIG.names, factor)
        for index in range(12 * RATE_HZ):
            joints = waving(index / RATE_HZ)
            estimate = see(RIG, joints, 2.0, noise=1.0, seed=index)
            estimate.joints_px[2, :, 0] += shift_px
            health.update(START_NS + index * PERIOD_NS, [
                Observation(estimate, innovations(estimate, RIG, joints), np.ones(4, bool))])
        assert bool(health.moved) == blamed, (shift_px, [report.strength for report in health.reports()])
        assert not blamed or set(health.moved) == {RIG.names[2]}


TILTED, PANNED = ((1, 0, 0), (0, -1, 0)), ((0, -1, 0), (0, 0, 1))


@pytest.mark.parametrize('camera, axis, shift', [
    *((camera, *drift) for camera, drift in enumerate((TILTED, PANNED, TILTED, PANNED))),
    *(pytest.param(camera, *drift, marks=pytest.mark.slow) for camera, drift in enumerate(
        (PANNED, TILTED, PANNED, TILTED)))])
def test_a_camera_that_moves_is_named_within_three_seconds(camera, axis, shift):
    """After a while in which all was well; and no other is named. It turns about an axis across that of the lens; a
    turn about the lens' own hardly moves the image of the hand."""
    watch = Watch(seed=camera)
    watch.show(RIG, 4)
    assert watch.moved == {}
    drifted = moved_rig(RIG, camera, axis, shift)
    name = RIG.names[camera]
    took_s = watch.show(drifted, 3, lambda: bool(watch.moved))
    assert took_s is not None and watch.moved == {name: (name,)}
    for _ in range(3):
        watch.show(drifted, 1)
        assert watch.moved == {name: (name,)}
    # 1° and 5 mm at 520 px of focal length and 0.7 m: 9.1 px, and 3.7 px more where they add.
    reports = watch.result.view_reports
    assert 5 < reports[camera].shift_px < 17
    assert [bool(report.suspects) for report in reports] == [row == camera for row in range(4)]


def test_a_camera_that_has_moved_less_is_named_later():
    """Half a degree alone, 4.5 px: in the longer of the two windows."""
    watch = Watch(seed=5)
    drifted = moved_rig(RIG, 1, turn_deg=0.5, shift_m=0.0)
    assert watch.show(drifted, 12, lambda: bool(watch.moved)) is not None
    watch.show(drifted, 3)
    assert watch.moved == {'cam1': ('cam1',)}


def test_two_cameras_that_have_moved_are_both_named():
    watch = Watch(ring((0, 60, 120, 180, 240, 300), radius=0.6, height=0.35), seed=6)
    rig = watch.truth
    watch.show(moved_rig(moved_rig(rig, 0), 3, (0, 1, 0), (1, 0, 0)), 6)
    assert watch.moved == {'cam0': ('cam0',), 'cam3': ('cam3',)}


def test_of_two_cameras_either_may_have_moved():
    rig = ring((10, 80), radius=0.6, height=0.35)
    watch = Watch(rig, seed=7)
    # Across the epipolar lines, which are level here.
    watch.show(moved_rig(rig, 1, (1, 0, 0), (0, -1, 0)), 4)
    assert [set(suspects) for suspects in watch.moved.values()] == [{'cam0', 'cam1'}]
    assert all(set(report.suspects) == {'cam0', 'cam1'} for report in watch.result.view_reports)


def test_a_camera_that_is_good_again_is_forgiven():
    watch = Watch(seed=8)
    watch.show(moved_rig(RIG, 2), 12)
    assert watch.moved == {'cam2': ('cam2',)}
    assert watch.show(RIG, 12, lambda: not watch.moved) is not None
    watch.show(RIG, 5)
    assert watch.moved == {}


def test_a_jump_back_in_time_forgets_and_a_pause_does_not():
    watch = Watch(seed=9)
    drifted = moved_rig(RIG, 3)
    watch.show(drifted, 4)
    watch.set += 60 * RATE_HZ
    watch.show(drifted, 1 / RATE_HZ)
    assert watch.moved == {'cam3': ('cam3',)}
    watch.set -= 30 * RATE_HZ
    watch.show(drifted, 1 / RATE_HZ)
    assert watch.moved == {}
    assert watch.show(drifted, 3, lambda: bool(watch.moved)) is not None


def test_cameras_that_come_and_go_keep_their_state():
    watch = Watch(seed=10)
    drifted = moved_rig(RIG, 0)
    for _ in range(2 * RATE_HZ):
        watch.show(drifted, 1 / RATE_HZ)
        watch.show(drifted.subset(['cam3', 'cam0', 'cam1']), 1 / RATE_HZ)
        watch.show(drifted.subset(['cam1', 'cam2', 'cam3']), 1 / RATE_HZ)
    assert watch.moved == {'cam0': ('cam0',)}


# --- what follows from it -----------------------------------------------------------------------------------

def joint_error(calibration, seed, **options):
    """Mean error in metres over 4 s, after 3 s in which to find out what is wrong."""
    watch = Watch(RIG, seed, **options)
    watch.show(calibration, 3)
    watch.errors.clear()
    watch.show(calibration, 4)
    return np.mean(watch.errors), watch


@pytest.mark.parametrize('seeds', [(1,), pytest.param((1, 2, 3), marks=pytest.mark.slow)])
def test_a_moved_camera_that_counts_less_does_less_harm(seeds):
    """Of what the drift adds to the joints' error at least a quarter goes; with the shipped network's views and four
    cameras half of it went (8.2 mm with the drift, 7.3 mm so, 6.8 mm without)."""
    drifted = moved_rig(RIG, 1, (1, 0, 0), (0, -1, 0))
    healthy, moved, less = 0.0, 0.0, 0.0
    for seed in seeds:
        healthy += joint_error(RIG, seed)[0]
        moved += joint_error(drifted, seed)[0]
        error, watch = joint_error(drifted, seed, down_weight=True)
        less += error
        assert watch.moved == {'cam1': ('cam1',)} and watch.result.hands[0].view_used.all()
        # It still is a view, and the others count more than it does.
        assert 0 < watch.result.hands[0].view_weights[1].mean() < 0.2
    assert moved > 1.1 * healthy and less < moved - 0.25 * (moved - healthy), (healthy, moved, less)


def test_of_two_suspects_none_counts_less():
    rig = ring((10, 80), radius=0.6, height=0.35)
    watch = Watch(rig, seed=7, down_weight=True)
    watch.show(moved_rig(rig, 1, (1, 0, 0), (0, -1, 0)), 4)
    assert watch.moved and watch.estimator.health.extra_variance_px2 == {}


def test_a_view_that_is_left_out_again_and_again_is_told():
    """It sees another hand: no common shift explains that, and the fusion does without it."""
    other = project(RIG, hand((1.5, 0.4, -1.0), (0.1, -0.1, 0.05)))[2]

    def alter(estimate):
        joints = estimate.joints_px.copy()
        joints[2] = other + np.random.default_rng(len(front.calls)).normal(0, 30, (21, 2))
        return replace(estimate, joints_px=joints)

    front = TruthMethod(lambda t: HAND, sigma_px=2.0, noise=0.5, alter=alter)
    estimator = HandEstimator(front, EstimatorSettings())
    for index in range(12 * RATE_HZ):
        reports = estimator.process(frames(RIG, index)).view_reports
    assert [report.disagrees for report in reports] == [False, False, True, False]
    assert reports[2].left_out > 0.95 and reports[0].left_out == 0


def test_nothing_is_watched_where_it_is_switched_off():
    result = HandEstimator(TruthMethod(lambda t: HAND), EstimatorSettings(view_health=False)).process(frames(RIG))
    assert len(result.hands) == 1 and result.view_reports == ()


@pytest.mark.slow
@pytest.mark.parametrize('camera', (None, 0, 2))
def test_the_shipped_network_tells_a_moved_camera_within_three_seconds(camera):
    """Rendered hands and the network itself, a scene not used to choose the thresholds; None: nothing has moved."""
    pytest.importorskip('numba', reason='rendering needs the extra `synthetic`')
    from hand_unc_ros.data.synthetic.ring import ring_of_cameras
    from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
    from hand_unc_ros.estimation.build import build_estimator
    from hand_unc_ros.hand.model import load_hand_model

    scene = Scene(load_hand_model(None), ring_of_cameras(4, seed=81_102), 81_102, SceneSettings(clutter=1))
    rig = scene.rig if camera is None else moved_rig(scene.rig, camera, (1, 0, 0), (0, -1, 0))
    estimator = build_estimator(EstimatorSettings(method='jump_hand', threads=1), rig.names)
    for index in range(3 * RATE_HZ):
        stamp_ns = START_NS + index * PERIOD_NS
        views = {name: View(rig[name], image, stamp_ns) for name, image in scene.images(index / RATE_HZ).items()}
        estimator.process(FrameSet(stamp_ns, views, rig.names))
    assert estimator.health.moved == ({} if camera is None else {f'cam{camera}': (f'cam{camera}',)})
