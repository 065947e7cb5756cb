"""What hands do with their fingers: a mixture of everyday postures, each varied, none through itself.

Knuckles and interphalangeal joints of a finger bend each on their own: long flexors act on the latter, intrinsic muscles
on the former. Tendons couple neighbouring fingers, and the last joint of a finger with the one before. The
postures are those that clinical and grasp literature names (hook, intrinsic plus, pinch, tripod; Cutkosky 1989, Feix et
al. 2016); their means and spreads are round numbers chosen within `REACH_LIMITS`. No distribution is fitted to a
recording; one real recording was used to see that no range was too narrow (test/data/synthetic/test_motion.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from hand_unc_ros.data.synthetic.finger_capsules import SOFT_M, clearance
from hand_unc_ros.hand.limits import ANGLE_COUNT, REACH_LIMITS

FINGERS = ('index', 'middle', 'ring', 'little')
# Neighbouring fingers share muscles: correlation of their closures, index … little (Häger-Ross and Schieber 2000:
# the index finger is the most independent one, the ring finger the least).
CLOSURE_CORRELATION = np.array([[1.0, 0.6, 0.4, 0.3], [0.6, 1.0, 0.8, 0.6], [0.4, 0.8, 1.0, 0.85],
                                [0.3, 0.6, 0.85, 1.0]])
_CLOSURE_FACTOR = np.linalg.cholesky(CLOSURE_CORRELATION)
# The last joint follows the one before by about two thirds (Rijpkema and Girard 1991), in fists fully.
_DIP_PER_PIP = 0.67
# Share of fingers whose last joint is pressed into overextension, or bent by itself.
_PRESSED = 0.1
# Bent, fingers point to the scaphoid (Kapandji): degrees towards the thumb's side of a finger bent alone.
_CONVERGENCE = np.array([-5.0, 8.0, 18.0, 32.0])
# Postures are reached from here: an open hand, fingers a little apart, the thumb beside the palm.
_OPEN_DEG = np.array([-8, 2, 5, 5, 5] + [8, 4, 12, 6] + [8, 0, 12, 6] + [8, -2, 12, 6] + [8, -6, 12, 6], float)
_SWEEP = np.linspace(0, 1, 9)


class _Fingers(NamedTuple):
    """Degrees. mcp, pip, abduction: (4,) index … little.  dip: (4,), NaN where it follows pip.  thumb: (5,)."""

    mcp: np.ndarray
    pip: np.ndarray
    dip: np.ndarray
    abduction: np.ndarray
    thumb: np.ndarray


def draw_angles(rng: np.random.Generator) -> np.ndarray:
    """Anatomical joint angles (len(ANGLE_NAMES),) rad within REACH_LIMITS, of a posture drawn from the mixture."""
    draw = _POSTURES[rng.choice(len(_POSTURES), p=_SHARES)][0]
    return settle(_angles(rng, draw(rng)))


def draw_closure(rng: np.random.Generator) -> np.ndarray:
    """Angles as draw_angles gives them, all flexions of a finger by one number, which the fingers nearly share."""
    closure = np.clip(rng.beta(0.9, 0.9) + rng.normal(0, 0.1, 4), 0, 1)
    fingers = _Fingers(85 * closure, 100 * closure, 65 * closure, _fan(rng, 0.3, 0.8), _thumb(rng))
    return settle(_angles(rng, fingers))


def settle(angles: np.ndarray) -> np.ndarray:
    """The pose (21,) rad, stopped where fingers, then the thumb, meet the palm or each other on their way from an
    open hand."""
    start = np.deg2rad(_OPEN_DEG)
    # All fingers come together; each stops at what it meets, if where they stop is free.
    shares = np.ones(ANGLE_COUNT)
    free = clearance(_between(start, angles, _SWEEP[:, None]))[0] >= -SOFT_M
    reached = _SWEEP[np.where(free.all(axis=0), len(_SWEEP), np.maximum(free.argmin(axis=0), 1)) - 1]
    if (reached < 1).any():
        shares[5:] = np.repeat(reached, 4)
        together = shares.copy()
        together[5:] = reached.min()
        fingers = clearance(_between(start, angles, np.stack([shares, together])))[0]
        if (fingers[0] < -SOFT_M).any():
            shares = together
    ways = np.tile(shares, (len(_SWEEP), 1))
    low, high = 0.0, 1.0
    # The second sweep refines where the first met something.
    for _ in range(2):
        ways[:, :5] = (low + (high - low) * _SWEEP)[:, None]
        gaps = clearance(_between(start, angles, ways))[1]
        free = gaps >= -SOFT_M
        if free.all():
            low = high
            break
        met = int(free.argmin())
        if met == 0:
            # Nowhere to start from: fingers are where the thumb is. The least bad place is taken.
            low = float(ways[gaps.argmax(), 0])
            break
        low, high = float(ways[met - 1, 0]), float(ways[met, 0])
    shares[:5] = low
    return _between(start, angles, shares[None])[0]


def _between(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    return start + share * (end - start)


def _angles(rng: np.random.Generator, pose: _Fingers) -> np.ndarray:
    """Angles (21,) rad of a posture, with each hand's own deviations."""
    own = _CLOSURE_FACTOR @ rng.normal(0, 1, (4, 2))
    mcp = pose.mcp + 5 * own[:, 0] + rng.normal(0, 4, 4)
    pip = pose.pip + 5 * own[:, 1] + rng.normal(0, 4, 4)
    follows = _DIP_PER_PIP * pip + rng.normal(4, 11, 4) + np.array([0.0, 0.0, 0.1, 0.2]) * np.maximum(pip, 0)
    dip = np.where(np.isnan(pose.dip), follows, pose.dip + rng.normal(0, 6, 4))
    alone = rng.random(4)
    dip = np.where(alone < _PRESSED, rng.uniform(-30, 8, 4), np.where(alone > 1 - _PRESSED / 2,
                                                                     dip + rng.uniform(20, 50, 4), dip))
    # Bent knuckles have tight collateral ligaments: fingers cannot be spread in a fist.
    slack = 1 - 0.6 * np.clip(mcp / 90, 0, 1)
    abduction = slack * (pose.abduction + rng.normal(0, 5) + rng.normal(0, [4.5, 4.5, 4.5, 5.5]))
    abduction += rng.beta(1.0, 1.5) * np.clip(mcp / 90, 0, 1) * _CONVERGENCE
    thumb = pose.thumb + rng.normal(0, [4, 4, 7, 6, 8])
    fingers = np.stack([mcp, abduction, pip, dip], axis=1)
    return np.clip(np.deg2rad(np.concatenate([thumb, fingers.ravel()])), REACH_LIMITS[:, 0], REACH_LIMITS[:, 1])


def _fan(rng: np.random.Generator, spread: float, sigma: float) -> np.ndarray:
    """Abductions (4,) of fingers that fan out, or close ranks where it is negative."""
    return rng.normal(spread, sigma) * np.array([12.0, 2.0, -8.0, -18.0])


def _thumb(rng: np.random.Generator) -> np.ndarray:
    """Any thumb: from beside the palm (0) to in front of the fingers (1), its joints bent on their own."""
    across = rng.beta(0.9, 0.9)
    return np.array([rng.uniform(-18, 36), -26 + 48 * across + rng.normal(0, 8), -22 + 75 * across + rng.normal(0, 14),
                     -14 + 60 * rng.beta(0.9, 1.5), -28 + 100 * rng.beta(1.2, 1.5)])


_FOLLOWING = np.full(4, np.nan)


def _free(rng: np.random.Generator) -> _Fingers:
    """Knuckles and middle joints anywhere, each with its neighbours', not with each other."""
    shares = ndtr(_CLOSURE_FACTOR @ rng.normal(size=(4, 2)))
    # More often towards the ends than in between: fingers rest open or closed.
    mcp, pip = (np.sin(np.pi / 2 * shares ** 1.3) ** 1.5).T
    return _Fingers(-18 + 113 * mcp, -8 + 113 * pip, _FOLLOWING, _fan(rng, 0.3, 0.8), _thumb(rng))


def _open(rng: np.random.Generator) -> _Fingers:
    """Flat to spread and strained open."""
    strain = rng.random()
    thumb = np.array([-12, rng.uniform(-30, 12), rng.uniform(-15, 25), 2, 4]) + rng.normal(0, [6, 3, 8, 7, 10])
    return _Fingers(10 - 28 * strain + rng.normal(0, 5, 4), 6 - 8 * strain + np.abs(rng.normal(0, 5, 4)),
                    rng.normal(3, 9, 4), _fan(rng, 0.6, 0.7), thumb)


def _relaxed(rng: np.random.Generator) -> _Fingers:
    """As gravity leaves it: bent the more the nearer to the little finger."""
    slack = rng.uniform(0.4, 1.5)
    rise = np.array([0.8, 1.0, 1.1, 1.15])
    thumb = np.array([rng.uniform(-5, 20), rng.uniform(-15, 15), rng.uniform(-5, 35), 12, 18])
    return _Fingers(22 * slack * rise, 32 * slack * rise, _FOLLOWING, _fan(rng, 0.1, 0.4), thumb)


def _fist(rng: np.random.Generator) -> _Fingers:
    thumb = np.array([rng.uniform(15, 38), rng.uniform(5, 25), rng.uniform(20, 60), rng.uniform(15, 50),
                      rng.uniform(0, 70)])
    return _Fingers(np.array([80, 85, 90, 94]) + rng.normal(0, 5), rng.uniform(85, 105) + rng.normal(0, 4, 4),
                    rng.uniform(45, 90) + rng.normal(0, 8, 4), _fan(rng, 0, 0.2), thumb)


def _hook(rng: np.random.Generator) -> _Fingers:
    """Knuckles straight or overextended, the other joints bent: a bag's handle, a claw."""
    return _Fingers(rng.uniform(-25, 25) + rng.normal(0, 5, 4), rng.uniform(55, 108) + rng.normal(0, 6, 4),
                    _FOLLOWING, _fan(rng, 0.2, 0.6), _thumb(rng))


def _plate(rng: np.random.Generator) -> _Fingers:
    """Intrinsic plus: knuckles bent, fingers straight, as around a plate or a book."""
    thumb = np.array([rng.uniform(0, 36), rng.uniform(0, 28), rng.uniform(10, 60), rng.uniform(-10, 25),
                      rng.uniform(-20, 20)])
    return _Fingers(rng.uniform(40, 95) + rng.normal(0, 5, 4), rng.uniform(0, 25) + rng.normal(0, 5, 4),
                    rng.uniform(-12, 20) + rng.normal(0, 6, 4), _fan(rng, 0, 0.3), thumb)


def _grasp(rng: np.random.Generator) -> _Fingers:
    """Around a cylinder or a ball of any size, the thumb opposite."""
    closure, ball = rng.uniform(0.2, 1.0), rng.random()
    rise = np.array([0.9, 1.0, 1.05, 1.1])
    thumb = np.array([rng.uniform(-5, 30), rng.uniform(5, 30), rng.uniform(15, 65), rng.uniform(-5, 40),
                      rng.uniform(-10, 55)])
    return _Fingers((70 * closure + rng.normal(0, 8)) * rise, (85 * closure + rng.normal(0, 8)) * rise, _FOLLOWING,
                    _fan(rng, 0.8 * ball, 0.3), thumb)


def _counting(rng: np.random.Generator) -> _Fingers:
    """Some fingers stretched, the others folded: pointing, counting, signs."""
    up = rng.random(4) < 0.5
    mcp = np.where(up, rng.uniform(-12, 28, 4), rng.uniform(55, 95, 4))
    pip = np.where(up, rng.uniform(0, 18, 4), rng.uniform(75, 105, 4))
    if rng.random() < 0.6:
        # Folded fingers are held down by the thumb.
        thumb = np.array([rng.uniform(15, 38), rng.uniform(5, 28), rng.uniform(15, 60), rng.uniform(10, 50),
                          rng.uniform(0, 60)])
    else:
        thumb = np.array([-12, rng.uniform(-30, 10), rng.uniform(-15, 15), 0, rng.uniform(-25, 15)])
    return _Fingers(mcp, pip, _FOLLOWING, _fan(rng, 0.4, 0.8), thumb)


def _pinch(rng: np.random.Generator) -> _Fingers:
    """The thumb meets one to three fingertips; the others rest, spread or fold. Two fingers: the tripod of a pen."""
    first, count = (0, rng.integers(1, 4)) if rng.random() < 0.7 else (rng.integers(1, 4), 1)
    meets = (np.arange(4) >= first) & (np.arange(4) < first + count)
    others = rng.uniform(-10, 95) + rng.normal(0, 8, 4), rng.uniform(0, 100) + rng.normal(0, 8, 4)
    mcp = np.where(meets, rng.uniform(30, 62) + rng.normal(0, 3, 4), others[0])
    pip = np.where(meets, rng.uniform(25, 75) + rng.normal(0, 3, 4), others[1])
    dip = np.where(meets, rng.uniform(-15, 45) + rng.normal(0, 3, 4), np.nan)
    # Past the fingertip: `settle` stops it there. The farther the finger, the farther the thumb crosses the palm.
    thumb = np.array([12 + 7 * first + rng.normal(0, 3), 24 + rng.normal(0, 4), 38 + 8 * first + rng.normal(0, 6),
                      rng.uniform(5, 40) + 4 * first, rng.uniform(-15, 55)])
    return _Fingers(mcp, pip, dip, _fan(rng, 0.2, 0.4), thumb)


def _key(rng: np.random.Generator) -> _Fingers:
    """The thumb's pad on the side of the bent index finger, as with a key."""
    thumb = np.array([rng.uniform(5, 35), rng.uniform(-18, 8), rng.uniform(-10, 30), rng.uniform(0, 30),
                      rng.uniform(-20, 60)])
    return _Fingers(rng.uniform(20, 75) + rng.normal(0, 6, 4), rng.uniform(45, 100) + rng.normal(0, 6, 4), _FOLLOWING,
                    _fan(rng, 0, 0.2), thumb)


_POSTURES: tuple[tuple[Callable[[np.random.Generator], _Fingers], float], ...] = (
    (_free, 0.30), (_open, 0.12), (_relaxed, 0.08), (_fist, 0.05), (_hook, 0.07), (_plate, 0.06), (_grasp, 0.10),
    (_counting, 0.09), (_pinch, 0.09), (_key, 0.04))
_SHARES = np.array([share for _, share in _POSTURES])
