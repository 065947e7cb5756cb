"""Triangulation and its covariance: exactness, the gate, and the statistics that it promises."""

import math

import cv2
import numpy as np
import pytest
import torch
from rig_cases import camera, hand_points, mixed_rig, observe, ring

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.triangulation import (
    gate_weights, inverse_variance_weights, propagate_covariance, refine_reprojection, triangulate_dlt,
)

FOUR = (10, 75, 170, 260)


def svd_triangulate(xy, camera_from_world):
    """One point by the textbook: smallest singular vector of the homogeneous system.  xy: (V, 2)."""
    rows = [xy[v, axis] * camera_from_world[v, 2] - camera_from_world[v, axis]
            for v in range(len(xy)) for axis in range(2)]
    homogeneous = np.linalg.svd(np.stack(rows))[2][-1]
    return homogeneous[:3] / homogeneous[3]


def test_exact_rays_meet_in_the_point():
    rig, points = mixed_rig(), hand_points()
    xy, covariance = observe(rig, points)
    linear = triangulate_dlt(xy, rig.camera_from_world)
    assert linear.valid.all()
    # Undistortion is solved to 1e-14 and the system is well conditioned.
    torch.testing.assert_close(linear.points, points, atol=1e-12, rtol=0)
    refined = refine_reprojection(linear.points, xy, covariance, rig.camera_from_world)
    assert refined.valid.all()
    torch.testing.assert_close(refined.points, points, atol=1e-12, rtol=0)
    assert refined.mahalanobis2.max() < 1e-18


def test_agrees_with_opencv_and_with_the_singular_vector():
    rig = ring((20, 95), models=('none',))
    points = hand_points(50)
    xy, _ = observe(rig, points, noise=1.0)
    ours = triangulate_dlt(xy, rig.camera_from_world).points.numpy()
    projections = rig.camera_from_world.numpy()
    opencv = cv2.triangulatePoints(projections[0], projections[1], xy[0].numpy().T, xy[1].numpy().T)
    svd = np.stack([svd_triangulate(xy[:, n].numpy(), projections) for n in range(50)])
    np.testing.assert_allclose(svd, (opencv[:3] / opencv[3]).T, atol=1e-9)
    # The homogeneous solution minimises the same residuals under another normalisation.  Noise of 1 px
    # moves the point by ~2 mm; the choice of normalisation moves it by less than a hundredth of that.
    moved = np.linalg.norm(ours - points.numpy(), axis=1).mean()
    assert 5e-4 < moved < 5e-3
    assert np.linalg.norm(ours - svd, axis=1).max() < 0.02 * moved
    exact, _ = observe(rig, points)
    exact = exact.numpy()
    svd = np.stack([svd_triangulate(exact[:, n], projections) for n in range(50)])
    linear = triangulate_dlt(torch.from_numpy(exact), rig.camera_from_world)
    np.testing.assert_allclose(linear.points, svd, atol=1e-10)


def test_row_weights_are_squared_in_the_least_squares():
    """α multiplies rows: with α the solution solves Σ α² aᵀa X = Σ α² aᵀb, here by NumPy's lstsq."""
    rig = ring(FOUR, models=('none',))
    xy, _ = observe(rig, hand_points(5), noise=2.0)
    alpha = torch.tensor([0.6, 0.2, 0.15, 0.05], dtype=torch.float64)[:, None].expand(4, 5)
    ours = triangulate_dlt(xy, rig.camera_from_world, alpha).points.numpy()
    P = rig.camera_from_world.numpy()
    for n in range(5):
        rows = np.concatenate([alpha[v, n].item() * (xy[v, n, :, None].numpy() * P[v, 2:] - P[v, :2])
                               for v in range(4)])
        expected = np.linalg.lstsq(rows[:, :3], -rows[:, 3], rcond=None)[0]
        np.testing.assert_allclose(ours[n], expected, atol=1e-11)


def test_inverse_variance_rows_approach_the_optimum():
    """Depth-normalised rows over σ make DLT nearly maximum likelihood; vanilla DLT stays behind."""
    rig = CameraRig([camera('near', (0.4, 0.1, 0.2)), camera('back', (-0.5, 0.3, 0.1)),
                     camera('side', (0.1, -1.0, 0.4)), camera('far', (-1.0, 1.6, 0.5))])
    points = hand_points(4000)
    variance = torch.tensor([1.0, 1.0, 9.0, 25.0], dtype=torch.float64)[:, None, None]
    xy, covariance = observe(rig, points, variance, noise=1.0)
    vanilla = triangulate_dlt(xy, rig.camera_from_world).points
    weights = inverse_variance_weights(vanilla, covariance, rig.camera_from_world)
    weighted = triangulate_dlt(xy, rig.camera_from_world, weights).points
    best = refine_reprojection(weighted, xy, covariance, rig.camera_from_world, robust='none').points
    error = [float((p - points).square().sum(-1).mean().sqrt()) for p in (vanilla, weighted, best)]
    # Errors of 4000 points: each known to ~1 %, and they share their noise.
    assert error[1] < 0.9 * error[0]
    assert error[1] == pytest.approx(error[2], rel=0.02)


def test_float32_in_float32_out():
    rig = ring(FOUR)
    xy, covariance = observe(rig, hand_points())
    linear = triangulate_dlt(xy.float(), rig.camera_from_world.float())
    refined = refine_reprojection(linear.points, xy.float(), covariance.float(), rig.camera_from_world)
    assert linear.points.dtype == refined.points.dtype == refined.covariance.dtype == torch.float32
    torch.testing.assert_close(refined.points.double(), hand_points(), atol=1e-6, rtol=0)


def test_leading_dimensions_batch_over_rigs():
    rigs = [ring(FOUR), ring((0, 40, 130, 220), radius=1.1, height=0.2)]
    observed = [observe(rig, hand_points(seed=i), noise=1.0, seed=i) for i, rig in enumerate(rigs)]
    xy, covariance = (torch.stack(parts) for parts in zip(*observed))
    cameras = torch.stack([rig.camera_from_world for rig in rigs])
    linear = triangulate_dlt(xy, cameras)
    together = refine_reprojection(linear.points, xy, covariance, cameras)
    for i in range(2):
        alone = refine_reprojection(linear.points[i], xy[i], covariance[i], cameras[i])
        for a, b in zip(together, alone):
            torch.testing.assert_close(a[i], b, atol=1e-11, rtol=1e-9)
    with pytest.raises(ValueError, match='camera_from_world'):
        triangulate_dlt(xy, cameras[:, :3])
    with pytest.raises(ValueError, match='cauchy'):
        refine_reprojection(linear.points, xy, covariance, cameras, robust='huber')


def entropy(alpha):
    return float(-(alpha * alpha.clamp_min(1e-300).log()).sum(0))


def test_gate_entropy_names_the_unit():
    """Five views with variances 0, 0.5 … 2 cell²: α ∝ exp(−k/2), entropy 1.394 by hand.

    The paper reports 1.38 for its data against ln 5 = 1.609.  The same heatmaps described in [0, 1] units
    give a gate that does nothing, and in pixels of a 256 px crop (8 px a cell) one view alone.
    """
    cells2 = (0.5 * torch.arange(5, dtype=torch.float64))[:, None, None].expand(5, 1, 2)
    alpha = gate_weights(cells2)[:, 0]
    z = sum(math.exp(-k / 2) for k in range(5))
    by_hand = sum(math.exp(-k / 2) / z * (math.log(z) + k / 2) for k in range(5))
    assert by_hand == pytest.approx(1.3943, abs=1e-4)
    assert entropy(alpha) == pytest.approx(by_hand, abs=1e-12)
    assert entropy(gate_weights(cells2 / 32 ** 2)[:, 0]) == pytest.approx(math.log(5), abs=1e-6)
    assert entropy(gate_weights(cells2 * 8 ** 2)[:, 0]) < 1e-6


def test_gate_averages_the_axes_and_leaves_out_missing_views():
    variance = torch.tensor([[1.0, 3.0], [2.0, 2.0], [0.1, 0.1], [math.nan, 1.0]], dtype=torch.float64)
    variance = variance[:, None]
    valid = torch.tensor([True, True, False, True])[:, None]
    alpha = gate_weights(variance.requires_grad_(), valid)
    torch.testing.assert_close(alpha[:, 0].detach(), torch.tensor([0.5, 0.5, 0.0, 0.0], dtype=torch.float64))
    alpha[0].sum().backward()
    assert variance.grad.isfinite().all()
    nothing = gate_weights(variance.detach(), torch.zeros_like(valid))
    assert (nothing == 0).all()


def test_gate_of_variances_that_overflow_when_added():
    largest = torch.full((3, 1, 2), torch.finfo(torch.float64).max, dtype=torch.float64)
    assert (gate_weights(largest) == 1 / 3).all()
    largest[1] = 1.0
    assert gate_weights(largest)[:, 0].tolist() == [0, 1, 0]


GEOMETRIES = {
    'ring of four': (ring(FOUR), 1.0),
    'stereo pair at 25 degrees': (ring((0, 25), models=('none',)), 1.0),
    'four lenses, anisotropic': (mixed_rig(), ((4.0, 0.25), (1.0, 1.0), (0.3, 2.5), (9.0, 0.5))),
    'three views, one much worse': (ring((0, 60, 110)), ((1.0, 1.0), (0.5, 0.5), (25.0, 16.0))),
}


@pytest.mark.parametrize('case', GEOMETRIES)
def test_propagated_covariance_is_the_sample_covariance(case):
    """Gauss-Newton on 40,000 draws of one point; relative Frobenius distance below 5 %.

    The sample covariance of n Gaussian draws is off by sqrt((1 + tr²Σ / trΣ²) / n) ≤ 2/sqrt(n) = 1 % (rms),
    so 5 % leaves room for what linearisation leaves out and still catches any wrong factor.
    """
    rig, variance = GEOMETRIES[case]
    variance = torch.tensor(variance, dtype=torch.float64)
    variance = variance[:, None] if variance.ndim else variance
    point = torch.tensor([[0.03, -0.05, 0.02]], dtype=torch.float64)
    xy, covariance = observe(rig, point.expand(40_000, 3), variance, noise=1.0, seed=5)
    start = triangulate_dlt(xy, rig.camera_from_world)
    refined = refine_reprojection(start.points, xy, covariance, rig.camera_from_world, iterations=3,
                                  robust='none')
    assert refined.valid.all()
    _, exact_covariance = observe(rig, point, variance)
    claimed = propagate_covariance(point, exact_covariance, rig.camera_from_world)[0]
    sample = torch.cov(refined.points.T)
    assert float((sample - claimed).norm() / claimed.norm()) < 0.05
    # What each draw reports about itself is the same covariance, from its own noisy solution.
    assert float((refined.covariance.mean(0) - claimed).norm() / claimed.norm()) < 0.05
    # Bias: second order in the noise, invisible beside the spread.
    assert float((refined.points.mean(0) - point[0]).norm()) < 0.05 * float(claimed.trace().sqrt())
    # The residuals keep 2V − 3 degrees of freedom: e² summed over views has that mean (to 1 %).
    assert float(refined.mahalanobis2.sum(0).mean()) == pytest.approx(2 * len(rig) - 3, rel=0.03)


def test_robust_estimator_loses_five_percent_at_most():
    """Cauchy's scale is set for 95 % efficiency in two dimensions; with few views it loses less."""
    rig = ring(range(0, 360, 36))
    point = torch.tensor([[0.03, -0.05, 0.02]], dtype=torch.float64)
    xy, covariance = observe(rig, point.expand(8000, 3), noise=1.0, seed=6)
    start = triangulate_dlt(xy, rig.camera_from_world).points
    spread = {}
    for robust in ('none', 'cauchy'):
        refined = refine_reprojection(start, xy, covariance, rig.camera_from_world,
                                      iterations=6, robust=robust)
        spread[robust] = float(torch.cov(refined.points.T).trace())
    # Same noise in both: the ratio is known to 0.4 %, far better than either trace.
    assert 1.02 < spread['cauchy'] / spread['none'] < 1.07


def test_robust_refinement_withstands_a_wrong_view():
    rig, points = ring((0, 72, 144, 216, 288)), hand_points(200)
    xy, covariance = observe(rig, points, noise=1.0)
    wrong, _ = observe(rig, points + torch.tensor([0.0, 0.05, 0.03], dtype=torch.float64))
    xy[2] = wrong[2]
    start = triangulate_dlt(xy, rig.camera_from_world).points
    errors = {}
    for robust in ('none', 'cauchy'):
        refined = refine_reprojection(start, xy, covariance, rig.camera_from_world,
                                      iterations=10, robust=robust)
        errors[robust] = float((refined.points - points).norm(dim=-1).median())
        if robust == 'cauchy':
            assert refined.weights[2].median() < 0.02
            assert refined.mahalanobis2[2].median() > 50 * refined.mahalanobis2[[0, 1, 3, 4]].median()
    # One pixel is 1.5 mm at this distance: the robust error stays near the noise, the other does not.
    assert errors['cauchy'] < 0.003 < 0.006 < errors['none']


def test_weights_are_shares_of_information():
    rig, points = ring(FOUR, models=('none',)), torch.zeros(1, 3, dtype=torch.float64)
    variance = torch.tensor([1.0, 1.0, 4.0, 1.0], dtype=torch.float64)[:, None, None]
    xy, covariance = observe(rig, points, variance)
    valid = torch.tensor([True, False, True, True])[:, None]
    refined = refine_reprojection(points, xy, covariance, rig.camera_from_world, valid)
    # All cameras see the origin from the same distance under the same angle: shares 1 : 1/4 : 1.
    torch.testing.assert_close(refined.weights[:, 0],
                               torch.tensor([4.0, 0.0, 1.0, 4.0], dtype=torch.float64) / 9, atol=1e-9, rtol=0)
    assert refined.mahalanobis2[1, 0].isnan() and refined.mahalanobis2[[0, 2, 3]].isfinite().all()


def test_losing_a_view_grows_the_covariance():
    rig, points = ring(FOUR), hand_points()
    xy, covariance = observe(rig, points)
    valid = torch.ones(4, 21, dtype=torch.bool)
    valid[1] = False
    full = propagate_covariance(points, covariance, rig.camera_from_world)
    less = propagate_covariance(points, covariance, rig.camera_from_world, valid)
    # The lost view had two measurements: the covariance grows along two directions, and along none shrinks.
    growth = torch.linalg.eigvalsh(less - full) / torch.linalg.eigvalsh(full)[:, -1:]
    assert (growth[:, 0] > -1e-9).all() and (growth[:, 1:] > 1e-3).all()


def test_refinement_never_raises_the_cost():
    """From a start that is 10 cm wrong, with 5 px noise; two views cannot do worse than they began."""
    rig, points = ring((0, 40)), hand_points(300)
    xy, covariance = observe(rig, points, 25.0, noise=1.0)
    generator = torch.Generator().manual_seed(3)
    start = points + 0.1 * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    before = refine_reprojection(start, xy, covariance, rig.camera_from_world, iterations=0, robust='none')
    after = refine_reprojection(start, xy, covariance, rig.camera_from_world, iterations=8, robust='none')
    assert (after.mahalanobis2.sum(0) <= before.mahalanobis2.sum(0)).all() and after.valid.all()
    from_linear = refine_reprojection(triangulate_dlt(xy, rig.camera_from_world).points, xy, covariance,
                                      rig.camera_from_world, iterations=8, robust='none')
    torch.testing.assert_close(after.points, from_linear.points, atol=1e-6, rtol=0)
