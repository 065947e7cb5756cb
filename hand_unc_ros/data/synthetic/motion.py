"""How hands are posed and how they move: correlated fingers within anatomical limits, smooth in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.hand.limits import ANGLE_LIMITS, ANGLE_NAMES

FINGERS = ('index', 'middle', 'ring', 'little')
# Neighbouring fingers share muscles: the correlation of their closures, index … little.
CLOSURE_CORRELATION = np.array([[1.0, 0.6, 0.4, 0.3], [0.6, 1.0, 0.8, 0.6], [0.4, 0.8, 1.0, 0.85],
                                [0.3, 0.6, 0.85, 1.0]])
_CLOSURE_FACTOR = np.linalg.cholesky(CLOSURE_CORRELATION)
_INDEX = {name: i for i, name in enumerate(ANGLE_NAMES)}


def draw_angles(rng: np.random.Generator) -> np.ndarray:
    """Anatomical joint angles (len(ANGLE_NAMES),) rad: a grasp closure with correlated fingers, or a gesture
    in which each finger is open or closed on its own; the two interphalangeal joints of a finger are coupled."""
    low, high = ANGLE_LIMITS[:, 0], ANGLE_LIMITS[:, 1]
    angles = np.zeros(len(ANGLE_NAMES))
    if rng.random() < 0.3:
        closures = np.where(rng.random(4) < 0.5, rng.uniform(0, 0.15, 4), rng.uniform(0.7, 1.0, 4))
    else:
        closures = rng.beta(0.9, 1.1) + 0.22 * (_CLOSURE_FACTOR @ rng.normal(size=4))
    closures = np.clip(closures, 0, 1)
    spread = rng.normal(0, 0.5)
    for place, (finger, closure) in enumerate(zip(FINGERS, closures)):
        def set_share(joint: str, share: float) -> None:
            i = _INDEX[f'{finger}_{joint}']
            angles[i] = low[i] + np.clip(share, 0, 1) * (high[i] - low[i])

        rest = -low[_INDEX[f'{finger}_mcp_flexion']] / np.ptp(
            ANGLE_LIMITS[_INDEX[f'{finger}_mcp_flexion']])
        set_share('mcp_flexion', rest + closure * (1 - rest) + rng.normal(0, 0.12))
        pip = closure + rng.normal(0, 0.14)
        set_share('pip_flexion', pip)
        set_share('dip_flexion', 0.75 * pip + rng.normal(0, 0.1))
        i = _INDEX[f'{finger}_mcp_abduction']
        fan = spread * (1.5 - place) / 1.5 + rng.normal(0, 0.2)
        angles[i] = np.clip(0.6 * fan * (1 - 0.7 * closure), -1, 1) * (high[i] - low[i]) / 2
    for i, name in enumerate(ANGLE_NAMES):
        if name.startswith('thumb'):
            angles[i] = low[i] + rng.beta(1.4, 1.4) * (high[i] - low[i])
    return np.clip(angles, low, high)


@dataclass(frozen=True)
class HandState:
    """angles: (A,) rad.  orientation: global rotation vector (3,).  translation: (3,) metres, world."""

    angles: np.ndarray
    orientation: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True)
class HandMotion:
    """A hand that moves for ever and can be asked for any instant: key poses every `period_s`, joined
    with zero velocity at the keys (minimum jerk), each drawn from its own stream of the seed.

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
        angles = draw_angles(rng)
        axis = rng.normal(size=3)
        offset = Rotation.from_rotvec(axis / np.linalg.norm(axis) * self.turn * rng.random() ** 0.5)
        orientation = (offset * Rotation.from_rotvec(self.base)).as_rotvec()
        return HandState(angles, orientation, np.array(self.centre) + rng.uniform(-1, 1, 3) * self.reach)

    def at(self, t: float) -> HandState:
        """The state at time t ≥ 0 in seconds."""
        index = int(np.floor(t / self.period_s))
        before, after = self._key(index), self._key(index + 1)
        s = t / self.period_s - index
        s = s * s * s * (10 + s * (6 * s - 15))
        start = Rotation.from_rotvec(before.orientation)
        step = (Rotation.from_rotvec(after.orientation) * start.inv()).as_rotvec()
        orientation = (Rotation.from_rotvec(s * step) * start).as_rotvec()
        return HandState((1 - s) * before.angles + s * after.angles, orientation,
                         (1 - s) * before.translation + s * after.translation)
