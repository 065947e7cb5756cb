"""Covariance matrices against numbers from tables and against samples."""

import numpy as np
import pytest

from hand_unc_ros.geometry.gaussians import (
    chi2_quantile, coverage, ellipsoid_axes, is_psd, mahalanobis_squared, nearest_psd, square_roots,
)


def random_covariances(count, dim, seed=0):
    factors = np.random.default_rng(seed).normal(size=(count, dim, dim))
    return factors @ factors.swapaxes(-1, -2) + 0.05 * np.eye(dim)


@pytest.mark.parametrize('probability, dof, expected', [
    (0.95, 1, 3.841459), (0.95, 2, 5.991465), (0.95, 3, 7.814728), (0.99, 3, 11.344867), (0.5, 3, 2.365974),
    (0.05, 10, 3.940299), (0.95, 63, 82.528727), (0.999, 1, 10.827566),
])
def test_chi2_quantile_against_the_tables(probability, dof, expected):
    assert chi2_quantile(probability, dof) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize('probability, dof', [(0.0, 3), (1.0, 3), (0.5, 0), (float('nan'), 3)])
def test_chi2_quantile_refuses(probability, dof):
    with pytest.raises(ValueError):
        chi2_quantile(probability, dof)


def test_is_psd():
    good = random_covariances(4, 3)
    assert is_psd(good).all()
    assert is_psd(np.zeros((3, 3))) and is_psd(np.diag((1.0, 1.0, 0.0)))
    negative, skew, nan = good[0].copy(), good[0].copy(), good[0].copy()
    negative[2, 2] = -1.0
    skew[0, 1] += 1e-3
    nan[1, 1] = np.nan
    assert not is_psd(np.stack((negative, skew, nan))).any()
    # Rounding of a propagated 63 × 63 matrix must not count as negative.
    thin = np.random.default_rng(1).normal(size=(63, 5))
    assert is_psd(thin @ thin.T)


def test_nearest_psd():
    good = random_covariances(3, 3)
    np.testing.assert_allclose(nearest_psd(good), good, atol=1e-12)
    # Eigenvalues 3 and −1: the nearest has 3 and 0, that is 1.5 everywhere.
    indefinite = np.array([[1.0, 2.0], [2.0, 1.0]])
    np.testing.assert_allclose(nearest_psd(indefinite), np.full((2, 2), 1.5), atol=1e-12)
    floored = nearest_psd(np.diag((4.0, 0.0, -2.0)), floor=0.5)
    np.testing.assert_allclose(floored, np.diag((4.0, 0.5, 0.5)), atol=1e-12)
    assert is_psd(nearest_psd(np.random.default_rng(2).normal(size=(50, 6, 6)))).all()
    assert np.isnan(nearest_psd(np.full((3, 3), np.nan))).all()


def test_mahalanobis_squared():
    covariance = random_covariances(20, 3)
    error = np.random.default_rng(3).normal(size=(20, 3))
    expected = [e @ np.linalg.inv(c) @ e for e, c in zip(error, covariance)]
    np.testing.assert_allclose(mahalanobis_squared(error, covariance), expected, rtol=1e-9)
    assert mahalanobis_squared(np.array([0.0, 2.0]), np.diag((1.0, 4.0))) == pytest.approx(1.0)
    assert np.isnan(mahalanobis_squared(np.ones(3), np.diag((1.0, 1.0, 0.0))))
    assert np.isnan(mahalanobis_squared(np.ones(3), np.diag((1.0, np.nan, 1.0))))
    assert np.isnan(mahalanobis_squared(np.array([np.nan, 0, 0]), np.eye(3)))


def test_ellipsoid_axes():
    covariance = random_covariances(10, 3)
    radii, rotation = ellipsoid_axes(covariance, 0.95)
    assert (np.diff(radii, axis=-1) <= 0).all()
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-12)
    rebuilt = (rotation * (radii ** 2 / chi2_quantile(0.95, 3))[:, None]) @ rotation.swapaxes(-1, -2)
    np.testing.assert_allclose(rebuilt, covariance, atol=1e-10)
    # Its surface is where the squared Mahalanobis distance is the quantile.
    tips = rotation[..., 0] * radii[:, :1]
    np.testing.assert_allclose(mahalanobis_squared(tips, covariance), chi2_quantile(0.95, 3), rtol=1e-9)
    radii, rotation = ellipsoid_axes(np.stack((np.zeros((3, 3)), np.full((3, 3), np.nan))))
    assert (radii[0] == 0).all() and np.isnan(radii[1]).all() and np.isnan(rotation[1]).all()
    np.testing.assert_allclose(np.linalg.det(rotation[0]), 1.0)


def test_coverage_of_what_is_promised():
    covariance = random_covariances(1, 3)[0]
    error = np.random.default_rng(4).multivariate_normal(np.zeros(3), covariance, 20_000)
    covariances = np.broadcast_to(covariance, (20_000, 3, 3))
    for probability in (0.5, 0.95):
        # Binomial: standard deviation at most 0.0035 with 20,000 draws, so 0.014 is four of them.
        assert coverage(error, covariances, probability) == pytest.approx(probability, abs=0.014)
    # A covariance that claims half the spread: P(χ²₃ < 7.81 / 4) = 0.418.
    assert coverage(error, covariances / 4, 0.95) == pytest.approx(0.418, abs=0.014)


def test_coverage_leaves_out_what_is_invalid():
    error = np.array([[0.1, 0, 0], [9.0, 0, 0], [np.nan, 0, 0], [0.1, 0, 0]])
    covariance = np.stack((np.eye(3), np.eye(3), np.eye(3), np.full((3, 3), np.nan)))
    assert coverage(error, covariance) == 0.5
    assert np.isnan(coverage(error[2:], covariance[2:]))


def test_square_roots_give_the_covariance_and_its_inverse():
    root = np.random.default_rng(3).normal(size=(5, 3, 3))
    covariance = root @ root.swapaxes(-1, -2)
    covariance[3], covariance[4, 0, 1] = 0.0, np.nan
    half, inverse, known = square_roots(covariance)
    assert known.tolist() == [True] * 3 + [False] * 2
    np.testing.assert_allclose((half @ half)[:3], covariance[:3], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose((inverse @ half)[:3], np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-9)
    assert (half[3:] == np.eye(3)).all() and (inverse[3:] == np.eye(3)).all()
