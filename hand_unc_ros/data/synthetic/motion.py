"""How hands move: from posture to posture within anatomical limits, smooth in time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic.finger_capsules import ANGLE_FINGERS, SOFT_M, clearance
from hand_unc_ros.data.synthetic.postures import draw_angles, settle
from hand_unc_ros.hand.limits import ANGLE_COUNT, ANGLE_NAMES, REACH_LIMITS

# Fingers get from one posture to the next in about this time (median and deviation of its logarithm), and not all at
# the same moment: free, unhurried movements of the fingers last 0.2 to 0.6 s.
MOVE_S, MOVE_SPREAD, MOVE_LEAST_S, STAGGER_S = 0.38, 0.4, 0.16, 0.06
# Share of key poses that only vary the posture before, by this share of the way to another, least and most.
VARIED, VARIED_SHARE = 0.3, (0.05, 0.35)
# Levels and bands of the drift are such that speeds and accelerations spread as those of a real hand that makes
# gestures (test/data/synthetic/test_motion.py). Fingers that hold a posture still fidget, now more, now less: largest
# excursion in rad of a finger's flexion, its abduction, and the thumb's angles (sums of sines seldom come near it);
# bands of frequencies in Hz of the excursions and of their level. Physiological tremor (8–12 Hz) is smaller by two
# orders.
DRIFT_FLEXION, DRIFT_ABDUCTION, DRIFT_THUMB = 0.23, 0.25, 0.32
DRIFT_HZ, LEVEL_HZ = (0.3, 4.0), (0.1, 0.3)
_DRIFTS = 8
# A thumb that has this much room drifts as it likes.
FREE_M = 0.015
_DRIFT = np.array([DRIFT_THUMB] * 5 + [DRIFT_FLEXION, DRIFT_ABDUCTION, DRIFT_FLEXION, DRIFT_FLEXION] * 4)
# Fingers fidget together, and spread from the middle one or sway.
_SPREAD = np.ones(ANGLE_COUNT)
_SPREAD[[i for i, name in enumerate(ANGLE_NAMES) if name.endswith('mcp_abduction')]] = [1.0, 0.3, -0.4, -1.0]


@dataclass(frozen=True)
class HandState:
    """angles: (A,) rad.  orientation: global rotation vector (3,).  translation: (3,) metres, world."""

    angles: np.ndarray
    orientation: np.ndarray
    translation: np.ndarray


class _Moves(NamedTuple):
    """When thumb … little move between two keys: onset and duration (5,), seconds."""

    onset: np.ndarray
    duration: np.ndarray


class _Drift(NamedTuple):
    """share (A, K), of absolute sum 1 in each row, rate (K,) rad/s and phase (A, K) of sines; rate and phase (2,) of
    their level."""

    share: np.ndarray
    rate: np.ndarray
    phase: np.ndarray
    level: np.ndarray


@dataclass(frozen=True)
class HandMotion:
    """A hand that moves for ever and can be asked for any instant: key poses every `period_s`, joined by minimum-jerk
    profiles, each drawn from its own stream of the seed.

    The wrist takes the whole period and rests at the keys. Each finger takes a part of it and holds its posture for
    the rest, but for a slow drift.

    base: rotation vector (3,) about which the orientation varies by up to `turn` rad.
    centre, reach: box of translations, metres.
    """

    seed: int
    period_s: float = 1.1
    base: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: float = 1.2
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reach: tuple[float, float, float] = (0.07, 0.07, 0.05)

    def _key(self, index: int) -> HandState:
        rng = np.random.default_rng((self.seed, index))
        axis = rng.normal(size=3)
        offset = Rotation.from_rotvec(axis / np.linalg.norm(axis) * self.turn * rng.random() ** 0.5)
        orientation = (offset * Rotation.from_rotvec(self.base)).as_rotvec()
        return HandState(_posture(self.seed, index), orientation,
                         np.array(self.centre) + rng.uniform(-1, 1, 3) * self.reach)

    def at(self, t: float) -> HandState:
        """The state at time t ≥ 0 in seconds."""
        index = int(np.floor(t / self.period_s))
        before, after = self._key(index), self._key(index + 1)
        s = _minimum_jerk(t / self.period_s - index)
        start = Rotation.from_rotvec(before.orientation)
        step = (Rotation.from_rotvec(after.orientation) * start.inv()).as_rotvec()
        orientation = (Rotation.from_rotvec(s * step) * start).as_rotvec()
        moves = _moves(self.seed, index, self.period_s)
        shares = _shares(moves, np.array([t - index * self.period_s]))[0]
        angles = before.angles + shares * (after.angles - before.angles)
        freedom = _freedom(self.seed, index)
        freedom = freedom + shares * (_freedom(self.seed, index + 1) - freedom)
        return HandState(_drifted(angles, _drift(self.seed), freedom, t), orientation,
                         before.translation + s * (after.translation - before.translation))


def _minimum_jerk(s: np.ndarray | float) -> np.ndarray | float:
    return s * s * s * (10 + s * (6 * s - 15))


def _varies(seed: int, index: int) -> bool:
    return index > 0 and np.random.default_rng((seed, index, 2)).random() < VARIED


# A sequence asks many times between the same two keys.
@lru_cache(maxsize=512)
def _posture(seed: int, index: int) -> np.ndarray:
    """Angles (A,) rad of a key pose: a posture of its own, or that of a key before, varied."""
    rng = np.random.default_rng((seed, index, 1))
    angles = draw_angles(rng)
    if _varies(seed, index):
        before = index - 1
        while before > 0 and _varies(seed, before):
            before -= 1
        angles = settle(_posture(seed, before) + rng.uniform(*VARIED_SHARE) * (angles - _posture(seed, before)))
    angles.flags.writeable = False
    return angles


@lru_cache(maxsize=512)
def _moves(seed: int, index: int, period_s: float) -> _Moves:
    """The thumb goes with the fingers, first or last: whichever keeps it farthest from running through them."""
    rng = np.random.default_rng((seed, index, 3))
    duration = np.clip(MOVE_S * np.exp(rng.normal(0, MOVE_SPREAD) + rng.normal(0, 0.1, 5)), MOVE_LEAST_S, period_s)
    onset = rng.random() * (period_s - duration.max()) + rng.uniform(-STAGGER_S, STAGGER_S, 5)
    choices = []
    for ahead in (0.0, 0.6 * duration[0], -0.6 * duration[0]):
        start = onset.copy()
        start[0] -= ahead
        choices.append(_Moves(np.clip(start, 0, period_s - duration), duration))
    times = onset.min() + np.linspace(-0.4, 1.4, 10) * duration.max()
    before, after = _posture(seed, index), _posture(seed, index + 1)
    ways = [before + _shares(moves, times) * (after - before) for moves in choices]
    gaps = np.minimum(clearance(np.concatenate(ways))[1].reshape(len(choices), -1).min(axis=1), -SOFT_M)
    return choices[int(gaps.argmax())]


def _shares(moves: _Moves, times: np.ndarray) -> np.ndarray:
    """How far (T, A) each angle has come at `times` (T,), seconds after the key before, from 0 to 1."""
    return _minimum_jerk(np.clip((times[:, None] - moves.onset) / moves.duration, 0, 1))[:, ANGLE_FINGERS]


@lru_cache(maxsize=512)
def _freedom(seed: int, index: int) -> np.ndarray:
    """Share (A,) of its drift that each angle has at a key pose: a thumb that touches something holds still."""
    gap = clearance(_posture(seed, index)[None])[1][0]
    return np.where(ANGLE_FINGERS == 0, np.clip((gap + SOFT_M) / FREE_M, 0.1, 1.0), 1.0)


@lru_cache(maxsize=128)
def _drift(seed: int) -> _Drift:
    rng = np.random.default_rng((seed, 0, 4))
    share = np.abs(rng.normal(size=_DRIFTS) + rng.normal(0, 0.5, (ANGLE_COUNT, _DRIFTS)))
    phase = rng.uniform(0, 2 * np.pi, _DRIFTS) + rng.normal(0, 0.7, (ANGLE_COUNT, _DRIFTS))
    rate = 2 * np.pi * np.exp(rng.uniform(*np.log(DRIFT_HZ), _DRIFTS))
    level = np.array([2 * np.pi * rng.uniform(*LEVEL_HZ), rng.uniform(0, 2 * np.pi)])
    return _Drift(_SPREAD[:, None] * share / share.sum(axis=1, keepdims=True), rate, phase, level)


def _drifted(angles: np.ndarray, drift: _Drift, freedom: np.ndarray, t: float) -> np.ndarray:
    """The angles (A,) with their drift, of which there is a share of `freedom` (A,), and which ends at the limits."""
    room = np.minimum(angles - REACH_LIMITS[:, 0], REACH_LIMITS[:, 1] - angles)
    level = 0.2 + 0.8 * (0.5 + 0.5 * np.sin(drift.level[0] * t + drift.level[1])) ** 2
    swing = level * freedom * np.clip(room, 0, _DRIFT)
    return angles + swing * (drift.share * np.sin(drift.rate * t + drift.phase)).sum(axis=1)
