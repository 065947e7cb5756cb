"""A constant-velocity Kalman filter of all joints together, which carries their full covariance along."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hand_unc_ros.hand.joints import JOINT_COUNT

# White acceleration, m²/s³: fingers reach a few m/s within tenths of a second.
ACCELERATION_DENSITY = 15.0
# Prior spread of the velocity of a joint that has just been seen for the first time, m/s.
INITIAL_SPEED = 1.0
# Updates after which its output no longer rests on that prior.
SETTLED = 4

_SIZE = 3 * JOINT_COUNT
# Share of each variance that is added before a covariance is inverted: above its rounding, below any noise.
_RIDGE = 1e-12


@dataclass(frozen=True)
class Motion:
    """What the filter knows of velocities. cross: (63, 63) their covariance with the joints, m²/s.  spread: (63, 63) with
    each other, m²/s². Joint-major; zero for unknown joints."""

    cross: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Filtered:
    """joints: (21, 3) metres.  covariance: (63, 63) m², joint-major.  velocity: (21, 3) m/s.  NaN where unknown, rows
    and columns of the covariance too.  motion: of the velocities."""

    joints: np.ndarray
    covariance: np.ndarray
    velocity: np.ndarray
    motion: Motion


class ConstantVelocityFilter:
    """State: positions and velocities of the joints, with correlations between joints as the measurements bring them.
    Joints are accelerated independently of each other.  A joint not measured is predicted for up to `memory_s`, with
    a covariance that grows, and then unknown.

    joints and velocity: (21, 3), NaN where unknown.  covariance: (126, 126), positions before velocities, each
    joint-major; zero for unknown joints.
    """

    def __init__(self, acceleration_density: float = ACCELERATION_DENSITY, memory_s: float = 0.3) -> None:
        self.density = acceleration_density
        self.memory_ns = int(memory_s * 1e9)
        self.reset()

    def reset(self) -> None:
        """Forget everything, as after a jump in time or a lost hand."""
        self.joints = np.full((JOINT_COUNT, 3), np.nan)
        self.velocity = np.full((JOINT_COUNT, 3), np.nan)
        self.covariance = np.zeros((2 * _SIZE, 2 * _SIZE))
        self.seen_ns = np.full(JOINT_COUNT, np.iinfo(np.int64).min // 2)
        self.stamp_ns: int | None = None

    def predict(self, stamp_ns: int) -> np.ndarray | None:
        """Expected joints (21, 3) at a time, NaN where unknown; None before the first update."""
        if self.stamp_ns is None:
            return None
        dt = (stamp_ns - self.stamp_ns) * 1e-9
        return self.joints + dt * self.velocity

    def predicted_covariance(self, stamp_ns: int) -> np.ndarray:
        """Covariances (21, 3, 3) m² of the joints that `predict` gives; meaningless for unknown joints."""
        dt = 0.0 if self.stamp_ns is None else (stamp_ns - self.stamp_ns) * 1e-9
        P = self.covariance
        cross = P[:_SIZE, _SIZE:]
        spread = P[:_SIZE, :_SIZE] + dt * (cross + cross.T) + dt ** 2 * P[_SIZE:, _SIZE:]
        spread = spread + self.density * abs(dt) ** 3 / 3 * np.eye(_SIZE)
        return np.einsum('jajb->jab', spread.reshape(JOINT_COUNT, 3, JOINT_COUNT, 3))

    def update(self, stamp_ns: int, joints: np.ndarray, covariance: np.ndarray) -> Filtered:
        """Take a measurement: joints (21, 3) metres, NaN where there is none, and their covariance (63, 63) m².

        Raises ValueError when time does not advance; call `reset` on a backward jump.  And where the covariance
        between two measured joints is not finite.
        """
        if self.stamp_ns is not None and stamp_ns <= self.stamp_ns:
            raise ValueError(f'time stands still or runs back: {stamp_ns} after {self.stamp_ns} ns')
        measured = np.isfinite(joints).all(axis=1) & np.isfinite(covariance.diagonal()).reshape(-1, 3).all(axis=1)
        known = np.isfinite(self.joints).all(axis=1)
        old, new = _rows(measured & known), _rows(measured & ~known)
        both = np.concatenate([old, new])
        noise = covariance[np.ix_(both, both)]
        if not np.isfinite(noise).all():
            raise ValueError('the covariance between two measured joints is not finite')
        if self.stamp_ns is not None:
            self._advance((stamp_ns - self.stamp_ns) * 1e-9, _rows(known))
        self.stamp_ns = stamp_ns
        flat, count = joints.reshape(-1), len(old)
        self._correct(old, flat[old], noise[:count, :count])
        self._begin(new, flat[new], old, flat[old], noise)
        self.seen_ns[measured] = stamp_ns
        self._forget(stamp_ns - self.seen_ns > self.memory_ns)
        published = self.covariance[:_SIZE, :_SIZE].copy()
        unknown = np.isnan(self.joints).any(axis=1).repeat(3)
        published[unknown] = np.nan
        published[:, unknown] = np.nan
        motion = Motion(self.covariance[:_SIZE, _SIZE:].copy(), self.covariance[_SIZE:, _SIZE:].copy())
        return Filtered(self.joints.copy(), published, self.velocity.copy(), motion)

    def _advance(self, dt: float, rows: np.ndarray) -> None:
        self.joints += dt * self.velocity
        P = self.covariance
        # F P Fᵀ with F = [1 dt; 0 1], in place.
        P[:_SIZE] += dt * P[_SIZE:]
        P[:, :_SIZE] += dt * P[:, _SIZE:]
        P[rows, rows] += self.density * dt ** 3 / 3
        P[rows, _SIZE + rows] += self.density * dt ** 2 / 2
        P[_SIZE + rows, rows] += self.density * dt ** 2 / 2
        P[_SIZE + rows, _SIZE + rows] += self.density * dt

    def _correct(self, rows: np.ndarray, position: np.ndarray, noise: np.ndarray) -> None:
        """Kalman's update with the measured coordinates `rows`."""
        P = self.covariance
        gain = _solve(P[np.ix_(rows, rows)] + noise, P[rows]).T
        change = gain @ (position - self.joints.reshape(-1)[rows])
        self.joints += change[:_SIZE].reshape(-1, 3)
        self.velocity += change[_SIZE:].reshape(-1, 3)
        # Joseph's form, (1 − KH) P (1 − KH)ᵀ + K R Kᵀ, is positive semi-definite for any gain.
        P = P - gain @ P[rows]
        P += (gain @ noise - P[:, rows]) @ gain.T
        self.covariance = (P + P.T) / 2

    def _begin(self, rows: np.ndarray, position: np.ndarray, others: np.ndarray, seen: np.ndarray,
               noise: np.ndarray) -> None:
        """Take in the new coordinates `rows`, of whose position nothing was known.

        noise: covariance of the measurements `seen` of `others` and of the new ones, in this order.  What the others'
        noise turned out to be tells of the new ones' noise, which is M times it and an independent rest.
        """
        if not len(rows):
            return
        P, count = self.covariance, len(others)
        M = _solve(noise[:count, :count], noise[:count, count:]).T
        rest = np.concatenate([-M, np.eye(len(rows))], axis=1)
        cross = M @ P[others]
        P[rows] = cross
        P[:, rows] = cross.T
        own = cross[:, others] @ M.T + rest @ noise @ rest.T
        P[np.ix_(rows, rows)] = (own + own.T) / 2
        P[_SIZE + rows, _SIZE + rows] = INITIAL_SPEED ** 2
        self.joints.reshape(-1)[rows] = position - M @ (seen - self.joints.reshape(-1)[others])
        self.velocity.reshape(-1)[rows] = 0.0

    def _forget(self, forgotten: np.ndarray) -> None:
        self.joints[forgotten] = np.nan
        self.velocity[forgotten] = np.nan
        rows = _rows(forgotten)
        rows = np.concatenate([rows, _SIZE + rows])
        self.covariance[rows] = 0.0
        self.covariance[:, rows] = 0.0


def _solve(covariance: np.ndarray, right: np.ndarray) -> np.ndarray:
    """covariance⁻¹ right, by unit variances, since a joint can be known a million times better than the next."""
    variance = covariance.diagonal()
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))[:, None]
    unit = covariance / (scale * scale.T)
    unit.flat[::len(unit) + 1] += _RIDGE
    return np.linalg.solve(unit, right / scale) / scale


def _rows(joints: np.ndarray) -> np.ndarray:
    """Places of the coordinates of the joints (21,) bool in 63 numbers."""
    return np.flatnonzero(joints.repeat(3))
