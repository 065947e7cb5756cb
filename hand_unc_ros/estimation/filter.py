"""A constant-velocity Kalman filter per joint, which carries the joints' 3×3 covariances along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# White acceleration, m²/s³: fingers reach a few m/s within tenths of a second.
ACCELERATION_DENSITY = 15.0
# Prior spread of the velocity of a joint that has just been seen for the first time, m/s.
INITIAL_SPEED = 1.0


@dataclass(frozen=True)
class Filtered:
    """joints: (21, 3) metres.  covariance: (21, 3, 3) m².  velocity: (21, 3) m/s.  All NaN where unknown."""

    joints: np.ndarray
    covariance: np.ndarray
    velocity: np.ndarray


class ConstantVelocityFilter:
    """State per joint: position and velocity with their 6×6 covariance. A joint not measured is predicted for
    up to `memory_s`, with a covariance that grows, and then unknown."""

    def __init__(self, acceleration_density: float = ACCELERATION_DENSITY, memory_s: float = 0.3) -> None:
        self.density = acceleration_density
        self.memory_ns = int(memory_s * 1e9)
        self.reset()

    def reset(self) -> None:
        """Forget everything, as after a jump in time or a lost hand."""
        self.mean = np.full((21, 6), np.nan)
        self.covariance = np.full((21, 6, 6), np.nan)
        self.seen_ns = np.full(21, np.iinfo(np.int64).min // 2)
        self.stamp_ns: int | None = None

    def predict(self, stamp_ns: int) -> np.ndarray | None:
        """Expected joints (21, 3) at a time, NaN where unknown; None before the first update."""
        if self.stamp_ns is None:
            return None
        dt = (stamp_ns - self.stamp_ns) * 1e-9
        return self.mean[:, :3] + dt * self.mean[:, 3:]

    def update(self, stamp_ns: int, joints: np.ndarray, covariance: np.ndarray) -> Filtered:
        """Take a measurement: joints (21, 3), NaN where there is none, and their covariances (21, 3, 3).

        Raises ValueError when time does not advance; call `reset` on a backward jump.
        """
        measured = np.isfinite(joints).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
        if self.stamp_ns is not None:
            if stamp_ns <= self.stamp_ns:
                raise ValueError(f'time stands still or runs back: {stamp_ns} after {self.stamp_ns} ns')
            self._advance((stamp_ns - self.stamp_ns) * 1e-9)
        self.stamp_ns = stamp_ns
        known = np.isfinite(self.mean).all(axis=1)
        for j in np.flatnonzero(measured & known):
            self._correct(j, joints[j], covariance[j])
        for j in np.flatnonzero(measured & ~known):
            self.mean[j] = np.concatenate([joints[j], np.zeros(3)])
            self.covariance[j] = 0
            self.covariance[j, :3, :3] = covariance[j]
            self.covariance[j, 3:, 3:] = INITIAL_SPEED ** 2 * np.eye(3)
        self.seen_ns[measured] = stamp_ns
        forgotten = stamp_ns - self.seen_ns > self.memory_ns
        self.mean[forgotten] = np.nan
        self.covariance[forgotten] = np.nan
        return Filtered(self.mean[:, :3].copy(), self.covariance[:, :3, :3].copy(), self.mean[:, 3:].copy())

    def _advance(self, dt: float) -> None:
        transition = np.eye(6)
        transition[:3, 3:] = dt * np.eye(3)
        q = self.density * np.array([[dt ** 3 / 3, dt ** 2 / 2], [dt ** 2 / 2, dt]])
        self.mean = self.mean @ transition.T
        self.covariance = transition @ self.covariance @ transition.T + np.kron(q, np.eye(3))

    def _correct(self, j: int, joint: np.ndarray, noise: np.ndarray) -> None:
        P = self.covariance[j]
        gain = np.linalg.solve(P[:3, :3] + noise, P[:3]).T
        self.mean[j] = self.mean[j] + gain @ (joint - self.mean[j, :3])
        # Joseph's form keeps the covariance positive semi-definite, and symmetric but for rounding.
        keep = np.eye(6)
        keep[:, :3] -= gain
        P = keep @ P @ keep.T + gain @ noise @ gain.T
        self.covariance[j] = (P + P.T) / 2
