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
from hand_unc_ros.geometry.gaussians import chi2_quantile, is_psd, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import block_diagonal, joint_blocks

STEP_NS = 33_333_333
STEP = STEP_NS * 1e-9
NOISE = np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 9.0]]) * 1e-6


def alike(block):
    """(63, 63) with the same (3, 3) block for each joint."""
    return block_diagonal(np.broadcast_to(block, (21, 3, 3)))


def correlated(rng, sigma=0.002, common=0.8):
    """A (63, 63) covariance as triangulation has them: a few errors that all joints share, and each joint's own."""
    shared = rng.normal(0, 1, (63, 6))
    own = rng.normal(0, 1, (21, 3, 3))
    own = block_diagonal(own @ own.swapaxes(1, 2) / 3 + np.eye(3))
    return sigma ** 2 * (common * shared @ shared.T / 6 + (1 - common) * own)


def simulate(steps, seed, noise, density=ACCELERATION_DENSITY):
    """Truth (steps, 21, 3) of points with white acceleration, drawn exactly, its measurements and speeds."""
    rng = np.random.default_rng(seed)
    q = density * np.array([[STEP ** 3 / 3, STEP ** 2 / 2], [STEP ** 2 / 2, STEP]])
    root, noise_root = np.linalg.cholesky(q), np.linalg.cholesky(noise)
    position, velocity = rng.normal(0, 0.1, (21, 3)), rng.normal(0, INITIAL_SPEED, (21, 3))
    truth, measured, speeds = [], [], []
    for _ in range(steps):
        truth.append(position)
        speeds.append(velocity)
        measured.append(position + (noise_root @ rng.standard_normal(63)).reshape(21, 3))
        kick = rng.standard_normal((21, 3, 2)) @ root.T
        position, velocity = position + STEP * velocity + kick[..., 0], velocity + kick[..., 1]
    return np.array(truth), np.array(measured), np.array(speeds)


def come_and_go(rng, joints, share=0.25):
    return np.where(rng.random(21)[:, None] < share, np.nan, joints)


def without_missing(joints, covariance):
    """The covariance as the estimator gives it: NaN in the rows and columns of missing joints."""
    covariance = covariance.copy()
    missing = np.isnan(joints).any(1).repeat(3)
    covariance[missing], covariance[:, missing] = np.nan, np.nan
    return covariance


# --- what it computes -------------------------------------------------------------------------------------

def one_joint(stamps, measurements, memory_ns=300_000_000):
    """The textbook filter of a single joint, [(position, covariance, velocity) or None] for its measurements
    [(z, R) or None]; independent of the package's code."""
    x = P = seen = last = None
    H = np.hstack([np.eye(3), np.zeros((3, 3))])
    out = []
    for stamp, measurement in zip(stamps, measurements):
        if x is not None:
            dt = (stamp - last) * 1e-9
            F = np.eye(6)
            F[0, 3] = F[1, 4] = F[2, 5] = dt
            Q = np.zeros((6, 6))
            for axis in range(3):
                Q[axis, axis], Q[axis + 3, axis + 3] = dt ** 3 / 3, dt
                Q[axis, axis + 3] = Q[axis + 3, axis] = dt ** 2 / 2
            x, P = F @ x, F @ P @ F.T + ACCELERATION_DENSITY * Q
        last = stamp
        if measurement is not None:
            z, R = measurement
            if x is None:
                x, P = np.concatenate([z, np.zeros(3)]), np.zeros((6, 6))
                P[:3, :3], P[3:, 3:] = R, INITIAL_SPEED ** 2 * np.eye(3)
            else:
                K = P @ H.T @ np.linalg.inv(H @ P @ H.T + R)
                x, P = x + K @ (z - H @ x), (np.eye(6) - K @ H) @ P
            seen = stamp
        elif x is not None and stamp - seen > memory_ns:
            x = P = None
        out.append(None if x is None else (x[:3], P[:3, :3], x[3:]))
    return out


def test_joints_that_are_not_correlated_are_filtered_each_by_itself():
    """21 textbook filters, joints coming and going for longer than the memory, gaps of 10 ms to 0.4 s."""
    rng = np.random.default_rng(3)
    steps = 60
    stamps = np.cumsum(rng.integers(10_000_000, 400_000_000, steps))
    own = rng.normal(0, 0.002, (steps, 21, 3, 3))
    noise = own @ own.swapaxes(2, 3) + 1e-7 * np.eye(3)
    joints = rng.normal(0, 0.1, (steps, 21, 3))
    for j in range(21):
        joints[rng.random(steps) < 0.04 * j, j] = np.nan
    cv = ConstantVelocityFilter()
    out = [cv.update(int(stamp), z, without_missing(z, block_diagonal(R)))
           for stamp, z, R in zip(stamps, joints, noise)]
    states = {True: 0, False: 0}
    for j in range(21):
        expected = one_joint(stamps, [None if np.isnan(z[j]).any() else (z[j], R[j]) for z, R in zip(joints, noise)])
        for k, state in enumerate(expected):
            states[state is None] += 1
            block = joint_blocks(out[k].covariance)[j]
            if state is None:
                assert np.isnan(out[k].joints[j]).all() and np.isnan(block).all() and np.isnan(out[k].velocity[j]).all()
                continue
            position, covariance, velocity = state
            np.testing.assert_allclose(out[k].joints[j], position, rtol=1e-8, atol=1e-10)
            np.testing.assert_allclose(out[k].velocity[j], velocity, rtol=1e-7, atol=1e-8)
            np.testing.assert_allclose(block, covariance, rtol=1e-6, atol=1e-9 * np.trace(covariance))
    assert min(states.values()) > 100


def test_it_is_the_gaussian_conditioned_on_everything_measured():
    """Against one batch estimate: all positions of all times are jointly Gaussian, and a joint that is seen for the
    first time is one whose prior is flat. Correlated noise, a joint that comes late and one that drops out."""
    rng = np.random.default_rng(5)
    steps, late, lost = 5, 4, 9
    covariances = [correlated(rng) for _ in range(steps)]
    joints = rng.normal(0, 0.05, (steps, 21, 3))
    joints[:2, late] = np.nan
    joints[3, lost] = np.nan
    cv = ConstantVelocityFilter()
    for k in range(steps):
        out = cv.update(k * STEP_NS, joints[k], without_missing(joints[k], covariances[k]))
    # The unknowns are each joint's position and velocity at each step it exists; information form, all at once.
    first = np.where(np.arange(21) == late, 2, 0)
    place, size = {}, 0
    for j in range(21):
        for k in range(first[j], steps):
            place[k, j] = np.arange(size, size + 6)
            size += 6
    information, vector = np.zeros((size, size)), np.zeros(size)
    F = np.kron([[1, STEP], [0, 1]], np.eye(3))
    Q = ACCELERATION_DENSITY * np.kron([[STEP ** 3 / 3, STEP ** 2 / 2], [STEP ** 2 / 2, STEP]], np.eye(3))
    for j in range(21):
        velocity = place[first[j], j][3:]
        information[velocity, velocity] += INITIAL_SPEED ** -2
        for k in range(first[j] + 1, steps):
            both = np.concatenate([place[k - 1, j], place[k, j]])
            G = np.hstack([-F, np.eye(6)])
            information[np.ix_(both, both)] += G.T @ np.linalg.inv(Q) @ G
    for k in range(steps):
        seen = np.flatnonzero(np.isfinite(joints[k]).all(1))
        rows = np.concatenate([place[k, j][:3] for j in seen])
        at = (3 * seen[:, None] + np.arange(3)).ravel()
        weight = np.linalg.inv(covariances[k][np.ix_(at, at)])
        information[np.ix_(rows, rows)] += weight
        vector[rows] += weight @ joints[k][seen].ravel()
    covariance = np.linalg.inv(information)
    mean = covariance @ vector
    end = np.concatenate([place[steps - 1, j][:3] for j in range(21)])
    np.testing.assert_allclose(out.joints.ravel(), mean[end], atol=1e-7)
    np.testing.assert_allclose(out.covariance, covariance[np.ix_(end, end)], atol=1e-7 * np.trace(out.covariance))
    # It matters: without the correlations the answer is another.
    blind = ConstantVelocityFilter()
    for k in range(steps):
        other = blind.update(k * STEP_NS, joints[k], without_missing(joints[k], block_diagonal(joint_blocks(
            covariances[k]))))
    assert np.abs(other.joints - out.joints).max() > 1e-4


def test_errors_are_as_large_as_the_filter_says():
    """NEES of targets that follow the model, measured with correlated noise: χ² with 63 degrees of freedom for all
    joints together, with 3 for each, and for the velocities."""
    steps, tracks = (0, 3, 10, 20, 29), 40
    together, each, speed = np.zeros((tracks, len(steps))), np.zeros((tracks, len(steps), 21)), []
    for seed in range(tracks):
        noise = correlated(np.random.default_rng(1000 + seed))
        truth, measured, speeds = simulate(30, seed, noise)
        cv = ConstantVelocityFilter()
        for k in range(30):
            out = cv.update(k * STEP_NS, measured[k], noise)
            if k in steps:
                at = steps.index(k)
                together[seed, at] = mahalanobis_squared((out.joints - truth[k]).ravel(), out.covariance)
                each[seed, at] = mahalanobis_squared(out.joints - truth[k], joint_blocks(out.covariance))
        speed.append(mahalanobis_squared((out.velocity - speeds[k]).ravel(), cv.covariance[63:, 63:]))
    # Sums over 40 independent tracks are χ² with 2520 degrees of freedom; within its quantiles of 1e-4 at both sides.
    low, high = (chi2_quantile(p, 63 * tracks) for p in (1e-4, 1 - 1e-4))
    assert (together.sum(0) > low).all() and (together.sum(0) < high).all()
    assert low < np.sum(speed) < high
    # Joints of one track are alike, so only the tracks count as independent: 3 ± √(6/40) = 0.39 at most, 4 deviations.
    assert np.abs(each.mean((0, 2)) - 3).max() < 4 * np.sqrt(6 / tracks)


def test_a_point_that_stands_still_is_averaged():
    rng = np.random.default_rng(0)
    place = rng.normal(0, 0.1, (21, 3))
    cv = ConstantVelocityFilter(acceleration_density=1e-6)
    for k in range(60):
        out = cv.update(k * STEP_NS, place + rng.normal(0, 0.002, (21, 3)), 4e-6 * np.eye(63))
    # A straight line fitted to 60 points has a deviation of 2/√60 = 0.26 of one measurement at its end.
    assert np.sqrt(np.square(out.joints - place).mean()) == pytest.approx(0.002 * 2 / np.sqrt(60), rel=0.3)
    np.testing.assert_allclose(np.sqrt(np.trace(joint_blocks(out.covariance), axis1=1, axis2=2) / 3),
                               0.002 * 2 / np.sqrt(60), rtol=0.1)


# --- beginning, predicting, forgetting ----------------------------------------------------------------------

def test_the_first_measurement_is_taken_as_it_is():
    cv = ConstantVelocityFilter()
    assert cv.predict(5) is None
    rng = np.random.default_rng(0)
    joints, noise = rng.normal(0, 0.1, (21, 3)), correlated(rng)
    joints[7] = np.nan
    out = cv.update(0, joints, without_missing(joints, noise))
    np.testing.assert_array_equal(out.joints, joints)
    np.testing.assert_allclose(out.covariance, without_missing(joints, noise), rtol=1e-12)
    assert np.isnan(out.velocity[7]).all()
    np.testing.assert_array_equal(np.delete(out.velocity, 7, 0), 0)


def test_prediction_follows_the_motion_and_changes_nothing():
    cv = ConstantVelocityFilter()
    start, velocity = np.random.default_rng(1).normal(0, 0.1, (21, 3)), np.array([0.5, -0.2, 0.1])
    for k in range(40):
        cv.update(k * STEP_NS, start + k * STEP * velocity, 1e-8 * np.eye(63))
    for ahead in (0, 1, 5):
        expected = start + (39 + ahead) * STEP * velocity
        # Exact measurements of 0.1 mm, and a velocity that settles within a few steps.
        np.testing.assert_allclose(cv.predict((39 + ahead) * STEP_NS), expected, atol=2e-4)
    np.testing.assert_array_equal(cv.predict(45 * STEP_NS), cv.predict(45 * STEP_NS))


def test_a_joint_not_seen_is_predicted_with_growing_doubt_and_then_forgotten():
    cv = ConstantVelocityFilter(memory_s=0.3)
    noise = alike(NOISE)
    joints = np.random.default_rng(2).normal(0, 0.1, (21, 3))
    for k in range(10):
        cv.update(k * STEP_NS, joints + k * STEP * 0.1, noise)
    traces = []
    for k in range(10, 25):
        seen = joints + k * STEP * 0.1
        seen[4] = np.nan
        out = cv.update(k * STEP_NS, seen, without_missing(seen, noise))
        blocks = joint_blocks(out.covariance)
        age = (k - 9) * STEP_NS
        known = age <= 300_000_000
        assert np.isfinite(out.joints[4]).all() == np.isfinite(blocks[4]).all() == known, k
        assert np.isfinite(np.delete(out.joints, 4, 0)).all()
        if known:
            traces.append(np.trace(blocks[4]))
            np.testing.assert_allclose(out.joints[4], joints[4] + k * STEP * 0.1, atol=0.02)
    assert len(traces) == 9 and (np.diff(traces) > 0).all()
    # Seen again it starts anew, with the measurement alone.
    out = cv.update(25 * STEP_NS, joints, noise)
    np.testing.assert_array_equal(out.joints[4], joints[4])
    np.testing.assert_array_equal(joint_blocks(out.covariance)[4], NOISE)


def test_a_hidden_joint_follows_those_it_is_correlated_with():
    """What all joints' errors share is learned from those still seen, and corrects the hidden one as well."""
    shared = np.kron(np.ones((21, 21)), 1e-4 * np.eye(3)) + 1e-8 * np.eye(63)
    joints = np.random.default_rng(4).normal(0, 0.05, (21, 3))
    cv = ConstantVelocityFilter(acceleration_density=1e-9)
    cv.update(0, joints + 0.01, shared)
    hidden = joints.copy()
    hidden[6] = np.nan
    for k in range(1, 4):
        out = cv.update(k * 1000, hidden, without_missing(hidden, 1e-8 * np.eye(63)))
    np.testing.assert_allclose(out.joints, joints, atol=4e-4)
    assert np.sqrt(out.covariance[18, 18]) < 5e-4


def test_time_must_advance():
    cv = ConstantVelocityFilter()
    joints, noise = np.zeros((21, 3)), alike(NOISE)
    stamp = 1_700_000_000_000_000_000
    before = cv.update(stamp, joints, noise)
    for other in (stamp, stamp - 1, 0):
        with pytest.raises(ValueError, match=str(stamp)):
            cv.update(other, joints + 1, noise)
    np.testing.assert_array_equal(cv.predict(stamp), before.joints)
    cv.reset()
    assert cv.predict(stamp) is None
    np.testing.assert_array_equal(cv.update(0, joints, noise).joints, joints)


def test_a_measurement_without_a_covariance_counts_as_none():
    cv = ConstantVelocityFilter()
    noise = alike(NOISE)
    noise[9, 9] = np.nan
    out = cv.update(0, np.zeros((21, 3)), noise)
    assert np.isnan(out.joints[3]).all() and np.isfinite(np.delete(out.joints, 3, 0)).all()
    noise = alike(NOISE)
    noise[0, 30] = noise[30, 0] = np.nan
    with pytest.raises(ValueError, match='not finite'):
        cv.update(1, np.zeros((21, 3)), noise)
    assert np.isfinite(cv.update(1, np.zeros((21, 3)), alike(NOISE)).joints).all()


# --- never indefinite -------------------------------------------------------------------------------------

def test_thousands_of_steps_with_joints_coming_and_going():
    rng = np.random.default_rng(6)
    cv = ConstantVelocityFilter()
    noises = [correlated(rng, sigma) for sigma in (1e-4, 2e-3, 0.05)]
    for k in range(3000):
        joints = come_and_go(rng, rng.normal(0, 0.05, (21, 3)), share=rng.choice([0.0, 0.3, 0.9]))
        out = cv.update(k * STEP_NS, joints, without_missing(joints, noises[k % 3]))
        if k % 50 == 0 or k > 2990:
            known = np.isfinite(out.joints).all(1).repeat(3)
            assert known.any() and np.isfinite(out.joints[np.isfinite(joints).all(1)]).all()
            assert is_psd(out.covariance[known][:, known]) and is_psd(cv.covariance)
            assert np.isnan(out.covariance[~known]).all() and np.isnan(out.covariance[:, ~known]).all()
            assert np.array_equal(out.covariance, out.covariance.T, equal_nan=True)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(1e-6, 5.0), st.floats(-12, 2), st.floats(-12, 2), st.booleans(), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2**31),
)
def test_covariances_stay_positive_semi_definite(history, seed):
    """Gaps of a microsecond to five seconds; measurements from a micrometre to ten metres, flat or round, of
    independent joints or of joints with errors in common."""
    rng = np.random.default_rng(seed)
    cv = ConstantVelocityFilter()
    stamp = 0
    for gap, wide, narrow, missing, common in history:
        stamp += max(1, int(gap * 1e9))
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        noise = alike(turn @ np.diag([10.0 ** wide, 10.0 ** narrow, 10.0 ** narrow]) @ turn.T)
        if common:
            shared = rng.normal(0, 10.0 ** (wide / 2), (63, 3))
            noise = noise + shared @ shared.T
        joints = come_and_go(rng, rng.normal(0, 1, (21, 3)), 0.5 if missing else 0.0)
        out = cv.update(stamp, joints, without_missing(joints, noise))
        known = np.isfinite(out.joints).all(1)
        blocks = joint_blocks(out.covariance)
        assert np.array_equal(known, np.isfinite(blocks).all((1, 2)))
        assert np.isfinite(out.joints[~np.isnan(joints).any(1)]).all()
        assert is_psd(blocks[known]).all()
        rows = known.repeat(3)
        assert is_psd(out.covariance[rows][:, rows]).all() and is_psd(cv.covariance)
        # It knows no joint worse than the measurement just taken.
        measured = np.isfinite(joints).all(1)
        said = joint_blocks(noise)[measured]
        assert (np.trace(blocks[measured], axis1=1, axis2=2) <= (1 + 1e-6) * np.trace(said, axis1=1, axis2=2)).all()
