"""The constant-velocity filter: consistent, forgetful, and never indefinite."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hand_unc_ros.estimation.filter import (
    ACCELERATION_DENSITY,
    INITIAL_SPEED,
    ConstantVelocityFilter,
)
from hand_unc_ros.geometry.gaussians import is_psd, mahalanobis_squared

STEP_NS = 33_333_333
STEP = STEP_NS * 1e-9
NOISE = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 9.0]]) * 1e-6


def simulate(steps, seed, density=ACCELERATION_DENSITY):
    """Truth (steps, 21, 3) of points with white acceleration, drawn exactly, its measurements and speeds."""
    rng = np.random.default_rng(seed)
    q = density * np.array([[STEP ** 3 / 3, STEP ** 2 / 2], [STEP ** 2 / 2, STEP]])
    root, noise_root = np.linalg.cholesky(q), np.linalg.cholesky(NOISE)
    position, velocity = rng.normal(0, 0.1, (21, 3)), rng.normal(0, INITIAL_SPEED, (21, 3))
    truth, measured, speeds = [], [], []
    for _ in range(steps):
        truth.append(position)
        speeds.append(velocity)
        measured.append(position + rng.standard_normal((21, 3)) @ noise_root.T)
        kick = rng.standard_normal((21, 3, 2)) @ root.T
        position, velocity = position + STEP * velocity + kick[..., 0], velocity + kick[..., 1]
    return np.array(truth), np.array(measured), np.array(speeds)


def test_errors_are_as_large_as_the_filter_says():
    """NEES of targets that follow the model: χ² with 3 degrees of freedom at every step."""
    collected, speed_errors = [], []
    for seed in range(6):
        truth, measured, speeds = simulate(40, seed)
        cv = ConstantVelocityFilter()
        for k in range(40):
            out = cv.update(k * STEP_NS, measured[k], np.broadcast_to(NOISE, (21, 3, 3)))
            if k in (0, 3, 10, 20, 39):
                collected.append(mahalanobis_squared(out.joints - truth[k], out.covariance))
                speed_errors.append(mahalanobis_squared(out.velocity - speeds[k], cv.covariance[:, 3:, 3:]))
    nees = np.array(collected).reshape(6, 5, 21)
    # 126 independent χ²₃ values per step: their mean is 3 ± √(6/126) = 0.22; four deviations.
    assert np.abs(nees.mean((0, 2)) - 3).max() < 4 * np.sqrt(6 / 126)
    assert np.abs(np.array(speed_errors).reshape(6, 5, 21).mean((0, 2)) - 3).max() < 4 * np.sqrt(6 / 126)
    assert (np.trace(out.covariance, axis1=1, axis2=2) < np.trace(NOISE)).all()


def test_a_point_that_stands_still_is_averaged():
    rng = np.random.default_rng(0)
    place = rng.normal(0, 0.1, (21, 3))
    cv = ConstantVelocityFilter(acceleration_density=1e-6)
    for k in range(60):
        out = cv.update(
            k * STEP_NS, place + rng.normal(0, 0.002, (21, 3)), np.broadcast_to(4e-6 * np.eye(3), (21, 3, 3))
        )
    # A straight line fitted to 60 points has a deviation of 2/√60 = 0.26 of one measurement at its end.
    assert np.sqrt(np.square(out.joints - place).mean()) == pytest.approx(0.002 * 2 / np.sqrt(60), rel=0.3)
    np.testing.assert_allclose(
        np.sqrt(np.trace(out.covariance, axis1=1, axis2=2) / 3), 0.002 * 2 / np.sqrt(60), rtol=0.1
    )


def test_the_first_measurement_is_taken_as_it_is():
    cv = ConstantVelocityFilter()
    assert cv.predict(5) is None
    joints = np.random.default_rng(0).normal(0, 0.1, (21, 3))
    joints[7] = np.nan
    out = cv.update(0, joints, np.broadcast_to(NOISE, (21, 3, 3)))
    np.testing.assert_array_equal(out.joints, joints)
    np.testing.assert_array_equal(out.covariance[6], NOISE)
    assert np.isnan(out.covariance[7]).all() and np.isnan(out.velocity[7]).all()
    np.testing.assert_array_equal(np.delete(out.velocity, 7, 0), 0)


def test_prediction_follows_the_motion_and_changes_nothing():
    cv = ConstantVelocityFilter()
    start, velocity = np.random.default_rng(1).normal(0, 0.1, (21, 3)), np.array([0.5, -0.2, 0.1])
    for k in range(40):
        cv.update(k * STEP_NS, start + k * STEP * velocity, np.broadcast_to(1e-8 * np.eye(3), (21, 3, 3)))
    for ahead in (0, 1, 5):
        expected = start + (39 + ahead) * STEP * velocity
        # Exact measurements of 0.1 mm, and a velocity that settles within a few steps.
        np.testing.assert_allclose(cv.predict((39 + ahead) * STEP_NS), expected, atol=2e-4)
    np.testing.assert_array_equal(cv.predict(45 * STEP_NS), cv.predict(45 * STEP_NS))


def test_a_joint_not_seen_is_predicted_with_growing_doubt_and_then_forgotten():
    cv = ConstantVelocityFilter(memory_s=0.3)
    noise = np.broadcast_to(NOISE, (21, 3, 3))
    joints = np.random.default_rng(2).normal(0, 0.1, (21, 3))
    for k in range(10):
        cv.update(k * STEP_NS, joints + k * STEP * 0.1, noise)
    traces = []
    for k in range(10, 25):
        seen = joints + k * STEP * 0.1
        seen[4] = np.nan
        out = cv.update(k * STEP_NS, seen, noise)
        age = (k - 9) * STEP_NS
        known = age <= 300_000_000
        assert np.isfinite(out.joints[4]).all() == np.isfinite(out.covariance[4]).all() == known, k
        assert np.isfinite(np.delete(out.joints, 4, 0)).all()
        if known:
            traces.append(np.trace(out.covariance[4]))
            np.testing.assert_allclose(out.joints[4], joints[4] + k * STEP * 0.1, atol=0.02)
    assert len(traces) == 9 and (np.diff(traces) > 0).all()
    # Seen again it starts anew, with the measurement alone.
    out = cv.update(25 * STEP_NS, joints, noise)
    np.testing.assert_array_equal(out.joints[4], joints[4])
    np.testing.assert_array_equal(out.covariance[4], NOISE)


def test_time_must_advance():
    cv = ConstantVelocityFilter()
    joints, noise = np.zeros((21, 3)), np.broadcast_to(NOISE, (21, 3, 3))
    stamp = 1_700_000_000_000_000_000
    cv.update(stamp, joints, noise)
    for other in (stamp, stamp - 1, 0):
        with pytest.raises(ValueError, match=str(stamp)):
            cv.update(other, joints, noise)
    cv.reset()
    assert cv.predict(stamp) is None
    np.testing.assert_array_equal(cv.update(0, joints, noise).joints, joints)


def test_a_measurement_without_a_covariance_counts_as_none():
    cv = ConstantVelocityFilter()
    noise = np.broadcast_to(NOISE, (21, 3, 3)).copy()
    noise[3, 0, 0] = np.nan
    out = cv.update(0, np.zeros((21, 3)), noise)
    assert np.isnan(out.joints[3]).all() and np.isfinite(np.delete(out.joints, 3, 0)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1e-6, 5.0), st.floats(-12, 2), st.floats(-12, 2), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2**31),
)
def test_covariances_stay_positive_semi_definite(history, seed):
    """Gaps of a microsecond to five seconds; measurements from a micrometre to ten metres, flat or round."""
    rng = np.random.default_rng(seed)
    cv = ConstantVelocityFilter()
    stamp = 0
    for gap, wide, narrow, missing in history:
        stamp += max(1, int(gap * 1e9))
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        noise = turn @ np.diag([10.0 ** wide, 10.0 ** narrow, 10.0 ** narrow]) @ turn.T
        noise = np.broadcast_to((noise + noise.T) / 2, (21, 3, 3))
        joints = rng.normal(0, 1, (21, 3))
        if missing:
            joints[rng.random(21) < 0.5] = np.nan
        out = cv.update(stamp, joints, noise)
        known = np.isfinite(out.joints).all(1)
        assert np.array_equal(known, np.isfinite(out.covariance).all((1, 2)))
        assert np.isfinite(out.joints[~np.isnan(joints).any(1)]).all()
        assert is_psd(out.covariance[known]).all()
        assert is_psd(cv.covariance[known]).all()
