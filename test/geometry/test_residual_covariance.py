"""Covariance from residuals: clean views change nothing, outliers widen or are taken out, symmetries, limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import ring
from view_cases import hand, project, see

from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.geometry.gaussians import chi2_quantile, coverage, is_psd, mahalanobis_squared
from hand_unc_ros.geometry.residual_covariance import inflate, residual_covariance

POINTS = 21
ANGLES = (10, 75, 130, 190, 250, 310, 40, 100)


def case(views=4, seed=0, sigma=2.0, residual=None, points=POINTS):
    """The arguments of `residual_covariance` for `points` in front of a ring, with residuals of the claimed noise."""
    rng = np.random.default_rng(seed)
    rig = ring(ANGLES[:views], models=('none',))
    at = torch.from_numpy(rng.normal(0, 0.05, (points, 3)))
    jacobian = rig.projection_jacobian(at).numpy()
    variance = np.broadcast_to(np.asarray(sigma, float) ** 2, (views, points, 2)).copy()
    normal = (jacobian.swapaxes(-1, -2) @ (jacobian / variance[..., None])).sum(0)
    noise = np.sqrt(variance) * rng.standard_normal((views, points, 2)) if residual is None else residual
    # What least squares leaves of the noise.
    gain = np.linalg.solve(normal, (jacobian.swapaxes(-1, -2) @ (noise / variance)[..., None]).sum(0))
    return (np.linalg.inv(normal), noise - (jacobian @ gain)[..., 0], jacobian, variance, np.full(views, 60.0),
            np.ones((views, points), bool))


def scale(found, propagated):
    """The inflation of the mean variance of each point."""
    return np.trace(found.covariance, axis1=1, axis2=2) / np.trace(propagated, axis1=1, axis2=2)


@pytest.mark.parametrize('views', (2, 3, 4, 8))
def test_views_that_agree_keep_the_propagated_covariance(views):
    """No hypothesis of an outlier is likely, and agreement does not sharpen."""
    args = case(views, residual=np.zeros((views, POINTS, 2)))
    found = residual_covariance(*args)
    np.testing.assert_allclose(scale(found, args[0]), 1, rtol=0.01)
    assert found.outlying.max() < 1e-3


@pytest.mark.parametrize('views', (2, 3, 4, 8))
def test_clean_noise_keeps_its_covariance_on_average(views):
    args = case(views, seed=views, points=4000)
    found = residual_covariance(*args)
    widths = scale(found, args[0])
    # With two views, the depth that an unseen outlier would leave open counts a little in every trace.
    assert 1 / np.mean(1 / widths) < 1.03 and np.median(widths) < 1.01
    assert (found.outlying > 0.5).mean() < 1e-3


def test_one_scale_for_all_views_follows_the_conjugate_posterior():
    """Without hypotheses of outliers: (a + max(q, c)) / (a + c) times the propagated covariance."""
    args = case(4, sigma=2.0)
    wide = (args[0], 2.5 * args[1], *args[2:])
    found = residual_covariance(*wide, outlier_share=0.0)
    square = (wide[1] ** 2 / wide[3]).sum((0, 2))
    limit = chi2_quantile(0.9, 5)
    expected = ((25 + np.maximum(square, limit)) / (25 + limit))[:, None, None] * args[0]
    assert (square > limit).sum() > 10
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-8, atol=1e-14)


def test_with_two_views_only_the_residual_across_the_epipolar_line_counts():
    """Noise along the epipolar lines moves the point and leaves no residual, so that it leaves the covariance too."""
    rng = np.random.default_rng(3)
    args = case(2, residual=np.zeros((2, POINTS, 2)))
    along = (args[2] @ rng.normal(0, 0.02, (POINTS, 3, 1)))[..., 0]
    assert np.linalg.norm(along, axis=-1).max() > 10
    same = residual_covariance(*case(2, residual=along))
    still = residual_covariance(*args)
    np.testing.assert_allclose(same.covariance, still.covariance, rtol=1e-6)


@pytest.mark.parametrize('views', (3, 4, 8))
def test_a_gross_outlier_is_named_and_loses_its_information(views):
    """The covariance is about that of the other views, not that of a scale that is blown up."""
    rng = np.random.default_rng(views)
    rig = ring(ANGLES[:views], models=('none',))
    truth = hand()
    estimate = see(rig, truth, 2.0, noise=1.0, seed=1)
    px = estimate.joints_px.copy()
    px[1, [4, 9, 17]] += rng.choice([-1, 1], (3, 2)) * 45.0
    bad = fuse(type(estimate)(**{**vars(estimate), 'joints_px': px}), rig)
    valid = estimate.valid.copy()
    valid[1, [4, 9, 17]] = False
    without = fuse(type(estimate)(**{**vars(estimate), 'valid': valid}), rig)
    others = [joint for joint in range(21) if joint not in (4, 9, 17)]
    assert bad.outlying[1, [4, 9, 17]].min() > 0.95
    assert bad.outlying[:, others].max() < 0.3
    ratio = np.trace(bad.covariance, axis1=1, axis2=2) / np.trace(without.covariance, axis1=1, axis2=2)
    assert (0.8 < ratio[[4, 9, 17]]).all() and (ratio[[4, 9, 17]] < 2.0).all()
    np.testing.assert_allclose(ratio[others], 1, rtol=1e-6)


def test_with_two_views_a_gross_outlier_widens_the_joint():
    rig = ring(ANGLES[:2], models=('none',))
    estimate = see(rig, hand(), 2.0, noise=0.5, seed=1)
    px = estimate.joints_px.copy()
    px[1, 8] += [10.0, 50.0]
    fused = fuse(type(estimate)(**{**vars(estimate), 'joints_px': px}), rig)
    error = fused.joints - hand()
    assert mahalanobis_squared(error, fused.propagated)[8] > 50
    assert mahalanobis_squared(error, fused.covariance)[8] < 8


@pytest.mark.parametrize('views', (3, 4, 8))
def test_three_percent_of_outliers_leave_the_covariance_honest(views):
    """NEES per degree of freedom ≤ 1.5, and the 95 % ellipsoids hold the truth."""
    errors, covariances, propagated = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        rig = ring(np.array(ANGLES[:views]) + rng.uniform(-8, 8, views))
        truth = hand(rng.normal(0, 1, 3))
        estimate = see(rig, truth, 2.0, noise=1.0, seed=seed)
        side = estimate.boxes_px[:, 2, None, None]
        centre = project(rig, truth).mean(1, keepdims=True)
        wrong = rng.random((views, 21, 1)) < 0.03
        px = np.where(wrong, centre + side * rng.uniform(-0.5, 0.5, (views, 21, 2)), estimate.joints_px)
        fused = fuse(type(estimate)(**{**vars(estimate), 'joints_px': px}), rig)
        errors.append(fused.joints - truth)
        covariances.append(fused.covariance)
        propagated.append(fused.propagated)
    error, covariance = np.concatenate(errors), np.concatenate(covariances)
    nees = np.nanmean(mahalanobis_squared(error, covariance)) / 3
    before = np.nanmean(mahalanobis_squared(error, np.concatenate(propagated))) / 3
    assert 0.8 < nees < min(1.5, before), (nees, before)
    assert 0.92 < coverage(error, covariance) < 0.98


@given(seed=st.integers(0, 10 ** 6), views=st.integers(2, 6), spread=st.floats(0, 60))
@settings(max_examples=40, deadline=None)
def test_always_positive_definite_and_consistent(seed, views, spread):
    rng = np.random.default_rng(seed)
    args = list(case(views, seed, residual=spread * rng.standard_normal((views, POINTS, 2))))
    args[5] = rng.random((views, POINTS)) < 0.8
    found = residual_covariance(*args)
    assert is_psd(found.covariance).all()
    assert (np.linalg.eigvalsh(found.covariance)[:, 0] > 0).all()
    assert ((found.outlying >= 0) & (found.outlying <= 1 + 1e-12)).all() and (found.outlying[~args[5]] == 0).all()
    again = found.inflation @ args[0] @ found.inflation.swapaxes(-1, -2)
    np.testing.assert_allclose(again, found.covariance, rtol=1e-6, atol=1e-12)


@given(seed=st.integers(0, 10 ** 6))
@settings(max_examples=20, deadline=None)
def test_independent_of_the_world_frame_the_order_of_views_and_the_unit(seed):
    rng = np.random.default_rng(seed)
    propagated, residual, jacobian, variance, gross, used = case(4, seed, residual=9 * rng.standard_normal((4, 21, 2)))
    found = residual_covariance(propagated, residual, jacobian, variance, gross, used)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turned = residual_covariance(turn @ propagated @ turn.T, residual, jacobian @ turn.T, variance, gross, used)
    np.testing.assert_allclose(turned.covariance, turn @ found.covariance @ turn.T, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(turned.inflation, turn @ found.inflation @ turn.T, rtol=1e-6, atol=1e-7)
    order = rng.permutation(4)
    mixed = residual_covariance(propagated, *(part[order] for part in (residual, jacobian, variance, gross, used)))
    np.testing.assert_allclose(mixed.covariance, found.covariance, rtol=1e-8)
    np.testing.assert_allclose(mixed.outlying, found.outlying[order], atol=1e-9)
    larger = residual_covariance(1e6 * propagated, residual, jacobian / 1e3, variance, gross, used)
    np.testing.assert_allclose(larger.covariance, 1e6 * found.covariance, rtol=1e-8)


def test_larger_residuals_never_sharpen_a_point():
    args = case(4, residual=np.random.default_rng(5).standard_normal((4, POINTS, 2)))
    widths = [scale(residual_covariance(args[0], factor * args[1], *args[2:]), args[0]) for factor in (1, 2, 3, 4)]
    assert (np.diff(widths, axis=0) > -1e-9).all() and (widths[-1] > 1.2).sum() > POINTS / 3


def test_unknown_points_stay_unknown_and_single_views_unchanged():
    args = list(case(3))
    args[0][5] = np.nan
    args[1][:, 5] = np.nan
    args[5][:2, 7] = False
    found = residual_covariance(*args)
    assert np.isnan(found.covariance[5]).all() and np.isnan(found.inflation[5]).all()
    np.testing.assert_array_equal(found.covariance[7], args[0][7])
    np.testing.assert_array_equal(found.inflation[7], np.eye(3))
    assert (found.outlying[:, [5, 7]] == 0).all()


def test_extremes_stay_finite():
    """Residuals, deviations and baselines far from any camera's."""
    for sigma, spread, gross in ((1e-3, 1e3, 60.0), (1e4, 1.0, 60.0), (2.0, 1e6, 1e6), (2.0, 5.0, 0.0)):
        args = list(case(4, sigma=sigma, residual=spread * np.random.default_rng(1).standard_normal((4, POINTS, 2))))
        args[4] = np.full(4, gross)
        found = residual_covariance(*args)
        assert np.isfinite(found.covariance).all() and is_psd(found.covariance).all()
    rig = ring((10, 10.3))
    fused = fuse(see(rig, hand(), 2.0, noise=1.0, seed=2), rig)
    assert is_psd(fused.covariance[fused.valid]).all()


def test_inflation_of_a_whole_covariance():
    rng = np.random.default_rng(0)
    factor, blocks = rng.standard_normal((63, 63)), rng.standard_normal((21, 3, 3))
    whole = factor @ factor.T
    block = np.zeros((63, 63))
    for j in range(21):
        block[3 * j:3 * j + 3, 3 * j:3 * j + 3] = blocks[j]
    np.testing.assert_allclose(inflate(whole, blocks), block @ whole @ block.T, rtol=1e-9, atol=1e-9)
    blocks[3] = np.nan
    spoiled = inflate(whole, blocks)
    assert np.isnan(spoiled[9:12]).all() and np.isnan(spoiled[:, 9:12]).all() and np.isfinite(spoiled[:9, :9]).all()


def test_values_outside_of_their_range_are_refused():
    with pytest.raises(ValueError, match='outlier_share'):
        residual_covariance(*case(), outlier_share=0.6)
    with pytest.raises(ValueError, match='scale_dof'):
        residual_covariance(*case(), scale_dof=0.0)
