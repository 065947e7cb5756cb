"""What triangulation must refuse, its gradients, and properties that hold for every rig."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import LENSES, camera, hand_points, look_at, observe, ring

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.triangulation import (
    MIN_RAY_ANGLE, gate_weights, propagate_covariance, refine_reprojection, triangulate_dlt,
)

FOUR = (10, 75, 170, 260)


def solve_all(rig, xy, covariance, valid=None, points=None):
    """Every solver on one problem: their (points, valid) pairs."""
    linear = triangulate_dlt(xy, rig.camera_from_world, None, valid)
    start = linear.points if points is None else points
    refined = refine_reprojection(start, xy, covariance, rig.camera_from_world, valid)
    propagated = propagate_covariance(start, covariance, rig.camera_from_world, valid)
    return linear, refined, propagated


def assert_refused(rig, xy, covariance, valid=None, points=None):
    linear, refined, propagated = solve_all(rig, xy, covariance, valid, points)
    assert not linear.valid.any() and linear.points.isnan().all()
    assert not refined.valid.any() and refined.points.isnan().all() and refined.covariance.isnan().all()
    assert (refined.weights == 0).all() and refined.mahalanobis2.isnan().all()
    assert propagated.isnan().all()


def test_fewer_than_two_views_are_refused():
    rig, points = ring(FOUR), hand_points(3)
    xy, covariance = observe(rig, points)
    for keep in ([], [2]):
        valid = torch.zeros(4, 3, dtype=torch.bool)
        valid[keep] = True
        assert_refused(rig, xy, covariance, valid)
        assert_refused(rig, xy, covariance, valid, points)
    one = rig.subset(('cam1',))
    assert_refused(one, xy[1:2], covariance[1:2], None, points)


def test_not_finite_input_is_a_missing_view():
    rig, points = ring(FOUR), hand_points(3)
    xy, covariance = observe(rig, points)
    xy[0, :, 1] = math.nan
    xy[1, :, 0] = math.inf
    linear, refined, propagated = solve_all(rig, xy, covariance)
    without = solve_all(rig.subset(('cam2', 'cam3')), xy[2:], covariance[2:])
    torch.testing.assert_close(linear.points, without[0].points, atol=1e-12, rtol=0)
    torch.testing.assert_close(refined.covariance, without[1].covariance, atol=1e-14, rtol=1e-9)
    xy[2] = math.nan
    linear = triangulate_dlt(xy, rig.camera_from_world)
    assert not linear.valid.any() and linear.points.isnan().all()
    refined = refine_reprojection(points, xy, covariance, rig.camera_from_world)
    assert not refined.valid.any() and refined.points.isnan().all()
    covariance[:, :, 0, 0] = math.nan
    assert propagate_covariance(points, covariance, rig.camera_from_world).isnan().all()


@pytest.mark.parametrize('bad', [
    ((0.0, 0.0), (0.0, 0.0)), ((-1.0, 0.0), (0.0, -1.0)), ((1.0, 1.0), (1.0, 1.0)),
    ((math.inf, 0.0), (0.0, 1.0)),
])
def test_a_covariance_that_is_none_is_a_missing_view(bad):
    rig, points = ring((0, 60)), hand_points(3)
    xy, covariance = observe(rig, points)
    covariance[1] = torch.tensor(bad, dtype=torch.float64)
    refined = refine_reprojection(points, xy, covariance, rig.camera_from_world)
    assert not refined.valid.any() and refined.covariance.isnan().all()


def test_zero_weights_are_refused():
    rig, points = ring(FOUR), hand_points(3)
    xy, _ = observe(rig, points)
    weights = torch.zeros(4, 3, dtype=torch.float64)
    assert not triangulate_dlt(xy, rig.camera_from_world, weights).valid.any()
    weights[0] = 1.0
    assert not triangulate_dlt(xy, rig.camera_from_world, weights).valid.any()
    weights[1], weights[2] = math.nan, -1.0
    assert not triangulate_dlt(xy, rig.camera_from_world, weights).valid.any()
    weights[3] = 1e-3
    assert triangulate_dlt(xy, rig.camera_from_world, weights).valid.all()
    # α² = 1e-14 against 1: numerically one view, whatever its angle.
    weights[3] = 1e-7
    assert not triangulate_dlt(xy, rig.camera_from_world, weights).valid.any()


def facing_pair(angle):
    """Two cameras 1 m from the origin whose rays through it differ by `angle`."""
    return CameraRig([camera('a', (1.0, 0.0, 0.0), 'none'),
                      camera('b', (math.cos(angle), math.sin(angle), 0.0), 'none')])


@pytest.mark.parametrize('angle, accepted', [
    (0.0, False), (0.5 * MIN_RAY_ANGLE, False), (1.5 * MIN_RAY_ANGLE, True),
    (math.pi - 1.5 * MIN_RAY_ANGLE, True), (math.pi - 0.5 * MIN_RAY_ANGLE, False),
])
def test_parallel_and_opposite_rays_are_refused(angle, accepted):
    rig, points = facing_pair(angle), torch.zeros(1, 3, dtype=torch.float64)
    xy, covariance = observe(rig, points)
    if not accepted:
        assert_refused(rig, xy, covariance, None, points)
        return
    linear, refined, _ = solve_all(rig, xy, covariance)
    assert linear.valid.all() and refined.valid.all()
    # A pixel is 1.9 mrad here and the rays differ by 2.6 mrad: depth is uncertain by about a metre.
    assert 0.2 < float(refined.covariance[0].diagonal().max().sqrt()) < 3.0


def test_a_point_at_infinity_is_refused():
    pose = look_at((0.0, -1.0, 0.0))
    shifted = pose.copy()
    shifted[:3, 3] += 0.5 * pose[:3, 0]
    rig = CameraRig([camera('a', (0, -1, 0), 'none').with_pose(pose),
                     camera('b', (0, -1, 0), 'none').with_pose(shifted)])
    xy = torch.tensor([0.1, -0.2], dtype=torch.float64).expand(2, 1, 2)
    linear = triangulate_dlt(xy, rig.camera_from_world)
    assert not linear.valid.any() and linear.points.isnan().all()


def test_a_point_behind_a_used_camera_is_refused():
    pose = look_at((0.0, -1.0, 0.0))
    shifted = pose.copy()
    shifted[:3, 3] += 0.5 * pose[:3, 0]
    rig = CameraRig([camera('a', (0, -1, 0), 'none').with_pose(pose),
                     camera('b', (0, -1, 0), 'none').with_pose(shifted)])
    # Diverging rays: the lines meet behind both cameras.
    xy = torch.tensor([[[-0.3, 0.0]], [[0.3, 0.0]]], dtype=torch.float64)
    covariance = 1e-6 * torch.eye(2, dtype=torch.float64).expand(2, 1, 2, 2)
    linear = triangulate_dlt(xy, rig.camera_from_world)
    assert not linear.valid.any() and linear.points.isnan().all()
    behind = torch.tensor([[0.25, -2.0, 0.0]], dtype=torch.float64)
    assert propagate_covariance(behind, covariance, rig.camera_from_world).isnan().all()
    assert refine_reprojection(linear.points, xy, covariance, rig.camera_from_world).points.isnan().all()
    # A camera that looks away does not matter while it is not used.
    four = ring(FOUR)
    away = CameraRig([*four, camera('away', (0.0, -1.0, 0.4), 'none', target=(0.0, -3.0, 0.0))])
    points = hand_points(3)
    xy, covariance = observe(four, points)
    xy = torch.cat((xy, torch.zeros(1, 3, 2, dtype=torch.float64)))
    covariance = torch.cat((covariance, covariance[:1]))
    valid = torch.ones(5, 3, dtype=torch.bool)
    assert not triangulate_dlt(xy, away.camera_from_world, None, valid).valid.any()
    valid[4] = False
    linear, refined, _ = solve_all(away, xy, covariance, valid)
    assert linear.valid.all() and refined.valid.all()


def test_one_bad_point_does_not_touch_its_neighbours():
    rig, points = ring(FOUR), hand_points()
    xy, covariance = observe(rig, points, noise=1.0)
    expected = solve_all(rig, xy, covariance)
    spoiled = xy.clone()
    spoiled[1:, 7] = math.nan
    linear, refined, propagated = solve_all(rig, spoiled, covariance)
    others = torch.arange(21) != 7
    assert not linear.valid[7] and not refined.valid[7] and propagated[7].isnan().all()
    torch.testing.assert_close(linear.points[others], expected[0].points[others], atol=1e-13, rtol=0)
    torch.testing.assert_close(refined.covariance[others], expected[1].covariance[others], atol=0, rtol=1e-9)


def test_gradients():
    rig, points = ring((0, 70, 150)), hand_points(2)
    xy, covariance = observe(rig, points, noise=1.0)
    weights = torch.tensor([[0.5, 0.2], [0.3, 0.5], [0.2, 0.3]], dtype=torch.float64)
    cameras = rig.camera_from_world
    inputs = xy.requires_grad_(), weights.requires_grad_(), cameras.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda xy, w, c: triangulate_dlt(xy, c, w).points, inputs, atol=1e-6)
    start = (points + 0.01).requires_grad_()

    def refine(start, xy, sigma):
        scaled = sigma[:, None, None, None] ** 2 * covariance
        refined = refine_reprojection(start, xy, scaled, cameras, iterations=3)
        return refined.points, 1e4 * refined.covariance, refined.weights

    sigma = torch.tensor([1.0, 1.3, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(refine, (start, xy, sigma), eps=1e-7, atol=1e-4, rtol=1e-3)
    assert torch.autograd.gradcheck(
        lambda p, s: 1e4 * propagate_covariance(p, s[:, None, None, None] ** 2 * covariance, cameras),
        (start, sigma), atol=1e-4)


def test_gradients_are_finite_beside_every_degenerate_case():
    rig, points = ring(FOUR), hand_points(6)
    xy, covariance = observe(rig, points, noise=1.0)
    xy[:, 0] = math.nan  # no view
    xy[1:, 1] = math.nan  # one view
    xy[1, 2] = 1e9  # a ray at a right angle to the axis
    covariance[:, 3] = 0.0  # not a covariance
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[:, 4] = False
    xy, covariance = xy.requires_grad_(), covariance.requires_grad_()
    alpha = gate_weights(torch.ones(4, 6, 2, dtype=torch.float64), valid).requires_grad_()
    linear = triangulate_dlt(xy, rig.camera_from_world, alpha, valid)
    refined = refine_reprojection(linear.points, xy, covariance, rig.camera_from_world, valid)
    loss = linear.points.nan_to_num().sum() + refined.points.nan_to_num().sum()
    loss = loss + refined.covariance.nan_to_num().sum() + refined.mahalanobis2.nan_to_num().sum()
    loss.backward()
    for leaf in (xy, covariance, alpha):
        assert leaf.grad.isfinite().all()
    same = torch.zeros(2, 1, 2, dtype=torch.float64, requires_grad=True)  # parallel rays
    parallel = triangulate_dlt(same, facing_pair(0.0).camera_from_world)
    parallel.points.nan_to_num().sum().backward()
    assert not parallel.valid.any() and same.grad.isfinite().all()


angles = st.lists(st.integers(0, 35), min_size=2, max_size=6, unique=True).filter(
    lambda steps: any((a - b) % 18 for a in steps for b in steps))
rigs = st.builds(
    lambda steps, radius, height, first: ring(
        [10 * step for step in steps], radius, height, [tuple(LENSES)[(first + i) % 4] for i in range(4)]),
    angles, st.floats(0.5, 3.0), st.floats(0.1, 0.8), st.integers(0, 3))
scenes = st.builds(lambda seed: hand_points(5, seed), st.integers(0, 10_000))
examples = settings(max_examples=25, deadline=None, derandomize=True)


@examples
@given(rigs, scenes)
def test_property_round_trip(rig, points):
    xy, covariance = observe(rig, points)
    linear, refined, _ = solve_all(rig, xy, covariance)
    assert linear.valid.all() and refined.valid.all()
    # Cameras at 10° steps: condition of the normal equations below 1e5, so 1e-10 m is safe.
    torch.testing.assert_close(linear.points, points, atol=1e-10, rtol=0)
    torch.testing.assert_close(refined.points, points, atol=1e-10, rtol=0)


@examples
@given(rigs, scenes, st.integers(0, 10_000), st.floats(0.0, 50.0))
def test_property_moving_the_world_moves_the_answer(rig, points, seed, distance):
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation, distance * rng.normal(size=3)
    moved = CameraRig([cam.with_pose(motion @ cam.world_from_camera) for cam in rig])
    xy, covariance = observe(rig, points, noise=1.0)
    here, there = solve_all(rig, xy, covariance), solve_all(moved, xy, covariance)
    turn, shift = torch.from_numpy(rotation), torch.from_numpy(motion[:3, 3])
    for a, b in zip(here[:2], there[:2]):
        assert (a.valid == b.valid).all()
        # 50 m away from the world's origin costs 50/1e-16 digits, times the condition.
        torch.testing.assert_close(a.points @ turn.T + shift, b.points, atol=1e-7, rtol=0, equal_nan=True)
    torch.testing.assert_close(turn @ here[1].covariance @ turn.T, there[1].covariance,
                               atol=1e-12, rtol=1e-5, equal_nan=True)


@examples
@given(rigs, scenes, st.randoms(use_true_random=False))
def test_property_the_order_of_views_does_not_matter(rig, points, random):
    order = list(range(len(rig)))
    random.shuffle(order)
    xy, covariance = observe(rig, points, noise=1.0)
    here = solve_all(rig, xy, covariance)
    there = solve_all(rig.subset([rig.names[i] for i in order]), xy[order], covariance[order])
    torch.testing.assert_close(here[0].points, there[0].points, atol=1e-10, rtol=0, equal_nan=True)
    torch.testing.assert_close(here[1].points, there[1].points, atol=1e-9, rtol=0, equal_nan=True)
    torch.testing.assert_close(here[1].weights[order], there[1].weights, atol=1e-7, rtol=0)


@examples
@given(rigs, scenes, st.integers(0, 5))
def test_property_a_masked_view_is_an_absent_view(rig, points, which):
    which %= len(rig)
    xy, covariance = observe(rig, points, noise=1.0)
    valid = torch.ones(len(rig), 5, dtype=torch.bool)
    valid[which] = False
    rest = [i for i in range(len(rig)) if i != which]
    masked = solve_all(rig, xy, covariance, valid)
    absent = solve_all(rig.subset([rig.names[i] for i in rest]), xy[rest], covariance[rest])
    assert (masked[0].valid == absent[0].valid).all()
    torch.testing.assert_close(masked[0].points, absent[0].points, atol=1e-10, rtol=0, equal_nan=True)
    torch.testing.assert_close(masked[1].points, absent[1].points, atol=1e-9, rtol=0, equal_nan=True)
    torch.testing.assert_close(masked[1].weights[rest], absent[1].weights, atol=1e-7, rtol=0)
    torch.testing.assert_close(masked[2], absent[2], atol=1e-14, rtol=1e-8, equal_nan=True)
