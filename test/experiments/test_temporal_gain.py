"""The numbers of refinement over time: of trajectories whose error, lag and covariance are known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('numba', reason='scenes need the extra `synthetic`')

from hand_unc_ros.experiments.temporal_gain import Followed, judge  # noqa: E402

RATE_HZ = 20.0
SIGMA = 0.004


def truth(t: float) -> np.ndarray:
    """A hand that swings a metre in a second and a half."""
    return 0.08 * np.random.default_rng(1).normal(size=(21, 3)) + [0.5 * np.sin(4 * t), 0.0, 0.0]


def said(lag_frames: float, sigma: float) -> Followed:
    rng = np.random.default_rng(2)
    numbers = [number for number in range(400) if number % 10 != 3]
    joints = [truth((number - lag_frames) / RATE_HZ) + sigma * rng.normal(size=(21, 3)) for number in numbers]
    return Followed(numbers, joints, [SIGMA ** 2 * np.eye(63)] * len(numbers), [1.0])


def test_noise_of_a_known_size_is_measured() -> None:
    """Of 3D Gaussian noise the mean length is 1.596 σ; that of a second difference is √6 times as long."""
    row = judge([(said(0.0, SIGMA), truth)], RATE_HZ)
    assert row['mpjpe_mm'] == pytest.approx(1596 * SIGMA, rel=0.02)
    assert row['coverage95'] == pytest.approx(0.95, abs=0.01)
    assert row['acceleration_mps2'] == pytest.approx(1.596 * SIGMA * np.sqrt(6) * RATE_HZ ** 2, rel=0.02)
    assert row['lag_frames'] == pytest.approx(0.0, abs=1e-6)


def test_a_lag_is_found() -> None:
    assert judge([(said(0.7, SIGMA), truth)], RATE_HZ)['lag_frames'] == pytest.approx(0.7, abs=0.05)
