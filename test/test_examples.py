"""The examples: probabilities against closed forms, gate, covariance of vectors, filter, and dex-retargeting."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import ROOT
from scipy.spatial.transform import Rotation
from scipy.stats import ncx2

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.hand.joints import FINGERTIPS

sys.path.insert(0, str(ROOT / 'examples'))

from grasp_gate import GraspGate, aperture, probability_aperture_within, probability_within, relative  # noqa: E402
from retargeting import RobotHand, VectorFilter, human_vectors, palm_frame, vector_covariance  # noqa: E402

# Of the probability from 4096 quasi-random points; plain Monte Carlo would have a standard deviation of 0.008 at 0.5.
ACCURACY = 0.01
# From the wrist and from the wrist's neighbours to four fingertips, as dex-retargeting has it for four-fingered hands.
WHERE = np.zeros(4, int), np.array([4, 8, 12, 16])


def a_hand(seed: int = 0) -> np.ndarray:
    """A flat right hand with fingers spread: palm to +x, fingers to +z, thumb to +y; slightly disturbed."""
    joints = np.zeros((21, 3))
    for finger, angle in enumerate((0.9, 0.25, 0.0, -0.2, -0.4)):
        for bone in range(4):
            length = 0.03 + 0.025 * bone if finger == 0 else 0.085 + 0.025 * bone
            joints[1 + 4 * finger + bone] = 0.002 * bone ** 2, length * np.sin(angle), length * np.cos(angle)
    return joints + 0.002 * np.random.default_rng(seed).standard_normal((21, 3))


def a_covariance(seed: int, scale: float = 0.004) -> np.ndarray:
    """A dense (63, 63) covariance."""
    root = np.random.default_rng(seed).standard_normal((63, 63)) / np.sqrt(63)
    return scale ** 2 * (root @ root.T + 0.1 * np.eye(63))


@pytest.mark.parametrize('sigma', [0.003, 0.006, 0.012])
def test_independent_fingertips_multiply(sigma: float) -> None:
    joints, tolerance = a_hand(), 0.015
    one = ncx2.cdf((tolerance / sigma) ** 2, 3, 0)
    covariance = sigma ** 2 * np.eye(63)
    assert probability_within(tolerance, joints, covariance) == pytest.approx(one ** 5, abs=ACCURACY)
    assert probability_within(tolerance, joints, covariance, which=[8]) == pytest.approx(one, abs=ACCURACY)


def test_distance_from_a_target_counts() -> None:
    joints, sigma, tolerance = a_hand(), 0.005, 0.01
    target = joints[[8]] + [[0.004, -0.003, 0.0]]
    expected = ncx2.cdf((tolerance / sigma) ** 2, 3, (0.005 / sigma) ** 2)
    assert probability_within(tolerance, joints, sigma ** 2 * np.eye(63), [8], target) == pytest.approx(
        expected, abs=ACCURACY)


def test_fingertips_that_err_together_are_as_one() -> None:
    joints, sigma, tolerance = a_hand(), 0.006, 0.015
    together = sigma ** 2 * np.kron(np.ones((21, 21)), np.eye(3))
    expected = ncx2.cdf((tolerance / sigma) ** 2, 3, 0)
    assert probability_within(tolerance, joints, together) == pytest.approx(expected, abs=ACCURACY)
    # The same blocks without correlation are worse by far: five tips have five chances to be wrong.
    assert probability_within(tolerance, joints, sigma ** 2 * np.eye(63)) < expected - 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.002, 0.03), st.floats(0.001, 0.02))
def test_probability_falls_with_spread_and_rises_with_tolerance(seed: int, tolerance: float, more: float) -> None:
    joints, covariance = a_hand(), a_covariance(seed)
    p = probability_within(tolerance, joints, covariance)
    assert 0.0 <= p <= probability_within(tolerance + more, joints, covariance) <= 1.0
    assert probability_within(tolerance, joints, 4 * covariance) <= p


def test_a_certain_hand_is_certain_and_a_missing_tip_unknown() -> None:
    joints, covariance = a_hand(), np.zeros((63, 63))
    assert probability_within(1e-6, joints, covariance) == 1.0
    joints[12], covariance[36:39], covariance[:, 36:39] = np.nan, np.nan, np.nan
    assert math.isnan(probability_within(0.02, joints, covariance))
    assert probability_within(0.02, joints, covariance, which=[4, 8]) == 1.0
    assert math.isnan(probability_aperture_within(0.02, joints, covariance, 4, 12))


def test_aperture_is_surer_where_errors_are_shared() -> None:
    joints, sigma, rho = a_hand(), 0.008, 0.75
    shared = sigma ** 2 * np.kron((1 - rho) * np.eye(21) + rho * np.ones((21, 21)), np.eye(3))
    assert np.allclose(relative(joints, shared)[1], 2 * (1 - rho) * sigma ** 2 * np.eye(3), atol=1e-12)
    distance, spread = aperture(joints, shared)
    assert distance == pytest.approx(np.linalg.norm(joints[8] - joints[4]))
    assert spread == pytest.approx(sigma * np.sqrt(2 * (1 - rho)), rel=1e-9)
    # Anticorrelated errors make it worse than independent ones.
    opposed = sigma ** 2 * np.eye(63)
    opposed[12:15, 24:27] = opposed[24:27, 12:15] = -0.5 * sigma ** 2 * np.eye(3)
    assert aperture(joints, opposed)[1] == pytest.approx(sigma * np.sqrt(3), rel=1e-9)
    independent = probability_aperture_within(0.008, joints, sigma ** 2 * np.eye(63))
    assert probability_aperture_within(0.008, joints, shared) > independent + 0.1
    assert probability_aperture_within(0.008, joints, opposed) < independent - 0.05


def test_gate_has_hysteresis_and_closes_on_doubt() -> None:
    gate = GraspGate(p_open=0.9, p_close=0.7, max_age_s=0.2)
    assert not gate.judge(0.85, 0.05)
    assert gate.judge(0.92, 0.05)
    assert gate.judge(0.75, 0.05), 'open, it stays open above p_close'
    assert not gate.judge(0.69, 0.05)
    assert not gate.judge(0.85, 0.05), 'closed, it waits for p_open'
    for probability, age_s, word in ((1.0, 0.21, 'old'), (1.0, -0.3, 'old'), (1.0, math.nan, 'old'),
                                     (math.nan, 0.0, 'missing')):
        assert gate.judge(1.0, 0.0)
        assert not gate.judge(probability, age_s)
        assert word in gate.reason
    gate.judge(1.0, 0.0)
    assert not gate.refuse('not calibrated') and not gate.is_open and gate.reason == 'not calibrated'
    with pytest.raises(ValueError, match='p_close'):
        GraspGate(p_open=0.5, p_close=0.6)


@pytest.mark.parametrize('side', ['right', 'left'])
def test_vectors_do_not_depend_on_where_the_hand_is(side: str) -> None:
    joints = a_hand() * ([1, 1, 1] if side == 'right' else [1, -1, 1])
    turn = Rotation.from_euler('xyz', [0.4, -1.1, 2.0]).as_matrix()
    frame = palm_frame(joints, side)
    assert np.allclose(frame.T @ frame, np.eye(3), atol=1e-12) and np.linalg.det(frame) > 0
    vectors = human_vectors(joints, *WHERE, side)
    assert np.allclose(human_vectors(joints @ turn.T + [0.3, -2.0, 1.0], *WHERE, side), vectors, atol=1e-12)
    # Fingers point to z, and the palm, which the tips bend to, to x, for either hand.
    assert (vectors[1:, 2] > 0.1).all() and frame[0, 0] > 0.9


def test_covariance_of_vectors_is_that_of_samples() -> None:
    joints, covariance = a_hand(), a_covariance(3, scale=5e-4)
    draws = np.linalg.cholesky(covariance) @ np.random.default_rng(4).standard_normal((63, 40_000))
    vectors = human_vectors(joints + draws.T.reshape(-1, 21, 3), *WHERE).reshape(-1, 12)
    expected = np.cov(vectors.T)
    predicted = vector_covariance(joints, covariance, *WHERE)
    # 40,000 samples tell a covariance to 1/sqrt(20,000) = 0.7 % per entry; the map is not quite linear.
    assert np.linalg.norm(predicted - expected) < 0.03 * np.linalg.norm(expected)


def test_missing_fingertip_leaves_the_other_vectors() -> None:
    joints, covariance = a_hand(), a_covariance(5)
    whole = vector_covariance(joints, covariance, *WHERE)
    joints[8], covariance[24:27], covariance[:, 24:27] = np.nan, np.nan, np.nan
    part = vector_covariance(joints, covariance, *WHERE)
    rest = np.array([0, 1, 2, 6, 7, 8, 9, 10, 11])
    assert np.allclose(part[np.ix_(rest, rest)], whole[np.ix_(rest, rest)], rtol=1e-9)
    assert np.isnan(part[3:6]).all()


def test_filter_follows_the_sure_and_holds_the_unsure() -> None:
    start, jump = np.zeros((2, 3)), np.full((2, 3), 0.02)
    spread = np.diag([1e-8] * 3 + [1e-2] * 3)
    smooth = VectorFilter(drift=3e-3)
    smooth.update(0.0, start, np.eye(6) * 1e-6)
    moved = smooth.update(0.05, jump, spread)
    assert np.allclose(moved[0], 0.02, atol=1e-4)
    assert np.allclose(moved[1], 0.02 * (1e-6 + 1.5e-4) / (1e-6 + 1.5e-4 + 1e-2), rtol=1e-6)


def test_filter_moves_what_is_correlated_and_holds_what_is_missing() -> None:
    smooth = VectorFilter()
    assert smooth.update(0.0, np.array([[np.nan] * 3, [0.0] * 3]), np.eye(6)) is None
    smooth.update(0.0, np.zeros((2, 3)), 1e-4 * np.kron(np.array([[1.0, 0.9], [0.9, 1.0]]), np.eye(3)))
    spread = 1e-8 * np.eye(6)
    spread[3:], spread[:, 3:] = np.nan, np.nan
    moved = smooth.update(0.0, np.array([[0.01] * 3, [np.nan] * 3]), spread)
    # Regression of the missing on the seen one: 0.9 of its way.
    assert np.allclose(moved, [[0.01] * 3, [0.009] * 3], atol=1e-5)
    assert np.linalg.eigvalsh(smooth.covariance)[0] > -1e-15
    smooth.reset()
    assert smooth.mean is None


def test_filter_shakes_less_with_the_right_covariance_than_with_its_mean() -> None:
    """Noise that comes and goes: at each time the right gain beats one gain for all times."""
    rng = np.random.default_rng(6)
    sigma = np.where(np.arange(600) % 60 < 20, 0.015, 0.002)
    truth = np.cumsum(rng.normal(0, np.sqrt(3e-3 / 30), (600, 3)), axis=0)
    seen = truth + sigma[:, None] * rng.standard_normal((600, 3))
    error = {}
    for name, spread in (('own', sigma ** 2), ('mean', np.full(600, np.mean(sigma ** 2)))):
        smooth = VectorFilter(3e-3)
        track = [smooth.update(1 / 30, v[None], s * np.eye(3))[0] for v, s in zip(seen, spread)]
        error[name] = np.sqrt(np.mean((track - truth) ** 2))
    assert error['own'] < 0.9 * error['mean'] and error['own'] < 0.8 * np.sqrt(np.mean((seen - truth) ** 2))


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, 'dex_retargeting.constants', None)
    with pytest.raises(MissingDependencyError, match='requirements.txt'):
        RobotHand('allegro', tmp_path)


def test_missing_urdf_is_named(tmp_path: Path) -> None:
    pytest.importorskip('dex_retargeting', reason='dex-retargeting is not installed')
    with pytest.raises(ConfigError, match='dex-urdf'):
        RobotHand('allegro', tmp_path)
    with pytest.raises(ConfigError, match='allegro'):
        RobotHand('hook', tmp_path)


@pytest.mark.parametrize('robot', ['allegro', 'leap'])
def test_robot_follows_the_vectors(robot: str) -> None:
    pytest.importorskip('dex_retargeting', reason='dex-retargeting is not installed')
    folder = os.environ.get('DEX_URDF_HANDS')
    if not folder:
        pytest.skip('DEX_URDF_HANDS names no robots/hands of dex-urdf')
    hand = RobotHand(robot, folder)
    assert tuple(hand.tasks) == FINGERTIPS[:4] and len(hand.joint_names) == 16
    joints = a_hand()
    straight = hand.retarget(human_vectors(joints, hand.origins, hand.tasks))
    bent = joints.copy()
    bent[[8, 12, 16]] = bent[[5, 9, 13]] + [0.04, 0.0, 0.01]
    for _ in range(5):
        curled = hand.retarget(human_vectors(bent, hand.origins, hand.tasks))
    assert np.isfinite(curled).all()
    # Three fingers of four go from straight to a right angle and more; the angles sum over their twelve joints.
    assert np.abs(curled - straight).sum() > 3.0
