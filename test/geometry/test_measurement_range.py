"""No measurement, however extreme, leaves a result that is not finite, not positive semi-definite or absurd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rig_cases import mixed_rig, ring
from view_cases import EXTREMES, hand, see

from hand_unc_ros.api import triangulate
from hand_unc_ros.estimation.innovations import innovations
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.geometry.measurement_range import (
    MAX_PIXELS,
    MAX_SIGMA,
    MAX_VARIANCE_PX2,
    MIN_VARIANCE_PX2,
    clamp_measurements,
    is_estimated,
)
from hand_unc_ros.methods.geometric_fusion import TRIANGULATIONS, fuse

torch.set_num_threads(1)

RIGS = (mixed_rig(), ring((10, 75, 170, 260)), ring((0, 90)), ring((0, 0.05, 0.1)), ring((30, 30, 30)))
STILL = hand()


def spoiled(rng, rig):
    """What a rig measures of a hand, with numbers of any size in any place: a few, a view's, or all."""
    estimate = see(rig, STILL, sigma_px=rng.choice([0.1, 1.0, 30.0]), noise=1.0, seed=int(rng.integers(2 ** 31)))

    def exchanged(values):
        share = rng.choice([0.0, 0.0, 0.05, 0.5, 1.0])
        extreme = np.where(rng.random(values.shape) < 0.5, rng.choice(EXTREMES, values.shape),
                           10.0 ** rng.uniform(-308, 308, values.shape)
                           * rng.choice([1.0, 1.0, 1.0, -1.0], values.shape))
        return np.where(rng.random(values.shape) < share, extreme, values)

    return replace(estimate, joints_px=exchanged(estimate.joints_px), variance_px2=exchanged(estimate.variance_px2),
                   boxes_px=exchanged(estimate.boxes_px))


def check(count, seed):
    rng = np.random.default_rng(seed)
    published = 0
    for number in range(count):
        rig = RIGS[rng.integers(len(RIGS))]
        estimate = spoiled(rng, rig)
        with np.errstate(all='ignore'):
            fused = fuse(estimate, rig, TRIANGULATIONS[number % len(TRIANGULATIONS)])
            covariance = fused.covariance[fused.valid]
            assert np.isfinite(fused.joints[fused.valid]).all() and np.isfinite(covariance).all()
            assert is_psd(covariance).all()
            assert (np.linalg.eigvalsh(covariance) <= MAX_SIGMA ** 2 * (1 + 1e-9)).all()
            assert np.isnan(fused.joints[~fused.valid]).all() and np.isnan(fused.covariance[~fused.valid]).all()
            assert np.isfinite(fused.weights).all() and np.isfinite(fused.gate).all()
            published += fused.valid.sum()
            joints = fused.joints if number % 3 else np.where(
                rng.random((21, 3)) < 0.2, rng.choice(EXTREMES, (21, 3)), STILL)
            found = innovations(estimate, rig, joints)
        known = found.dof > 0
        assert np.isfinite(found.whitened[known]).all() and np.isfinite(found.squared[known]).all()
        assert np.isfinite(found.score).all() and np.isfinite(found.information).all()
        assert np.isnan(found.squared[~known]).all() and np.isfinite(found.weight).all()
    assert published > count


def test_extreme_measurements_leave_sound_results():
    check(400, 1)


@pytest.mark.slow
def test_a_hundred_thousand_extreme_measurements_leave_sound_results():
    check(100_000, 2)


def test_measurements_within_the_range_are_left_as_they_are():
    rng = np.random.default_rng(3)
    joints, variance = rng.uniform(-1e3, 5e3, (4, 21, 2)), 10.0 ** rng.uniform(-6, 6, (4, 21, 2))
    valid = rng.random((4, 21)) < 0.8
    joints[~valid], variance[~valid] = np.nan, np.nan
    for got, given in zip(clamp_measurements(joints, variance, valid), (joints, variance, valid)):
        np.testing.assert_array_equal(got, given)


@pytest.mark.parametrize('px, variance, usable, clamped', [
    (3.0, 1e-300, True, MIN_VARIANCE_PX2), (3.0, 1e300, True, MAX_VARIANCE_PX2), (3.0, 0.0, False, None),
    (3.0, -1.0, False, None), (3.0, np.inf, False, None), (3.0, np.nan, False, None),
    (2 * MAX_PIXELS, 1.0, False, None),
    (np.nan, 1.0, False, None), (np.inf, 1.0, False, None),
])
def test_measurements_beyond_the_range(px, variance, usable, clamped):
    joints, variances, valid = clamp_measurements(np.array([px, 1.0]), np.array([variance, 1.0]), np.array(True))
    assert valid == usable
    assert np.array_equal(variances, [clamped, 1.0]) and np.array_equal(joints, [px, 1.0]) if usable else (
        np.isnan(joints).all() and np.isnan(variances).all())


def test_points_of_which_too_little_is_known_are_not_estimated():
    points = np.zeros((5, 3))
    points[4, 0] = 2e3
    covariance = np.stack([np.eye(3) * 0.5, np.diag([1.1, 0, 0]), np.diag([0.9, 0.9, 0.9]), np.full((3, 3), np.nan),
                           np.eye(3) * 1e-6])
    assert is_estimated(points, covariance).tolist() == [True, False, True, False, False]


def test_extremes_through_the_front_door():
    """`triangulate` for users: points and covariances that are sound, or both unknown."""
    rng = np.random.default_rng(5)
    positive = np.abs(EXTREMES[np.abs(EXTREMES) > 0])
    known = 0
    for number in range(200):
        rig = RIGS[rng.integers(len(RIGS))]
        estimate = see(rig, STILL, sigma_px=1.0, noise=1.0, seed=number)
        share = rng.choice([0.0, 0.1, 0.5, 1.0])
        px = np.where(rng.random(estimate.joints_px.shape) < share / 2, rng.choice(EXTREMES, estimate.joints_px.shape),
                      estimate.joints_px)
        sigma = np.where(rng.random(px.shape) < share, rng.choice(positive, px.shape), 1.0)
        with np.errstate(all='ignore'):
            joints, covariance = triangulate(px, sigma, rig)
        found = np.isfinite(joints).all(-1)
        assert np.isfinite(covariance[found]).all() and is_psd(covariance[found]).all()
        assert np.isnan(joints[~found]).all() and np.isnan(covariance[~found]).all()
        known += found.sum()
    assert known > 500
