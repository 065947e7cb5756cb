"""A coarse hand of capsules: whether fingers of given angles run through each other or into the palm.

The skeleton is the stand-in's of average size, whatever mesh is posed in the end: what is decided here is a pose, and
angles are all that a pose shares with a mesh.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hand_unc_ros.hand.joints import FINGERS, ORDERS
from hand_unc_ros.hand.limits import ANGLE_COUNT, FIRST_POSE_JOINT, FlexionAxes
from hand_unc_ros.hand.standin_shape import skeleton

# Half the thickness in metres of the three phalanges (thumb: metacarpal first), thumb … little, as the stand-in's skin.
RADII = 1e-3 * np.array([[12.0, 10.6, 9.2], [9.3, 8.5, 7.3], [9.5, 8.7, 7.4], [8.9, 8.2, 7.1], [8.0, 7.3, 6.3]])
PALM_RADIUS = 0.0115
# Soft tissue gives way by this much where fingers press on each other.
SOFT_M = 0.003
# Whose each of the 21 angles is: 0 thumb … 4 little.
ANGLE_FINGERS = np.array([0] * 5 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4)
_FIRST = 1 + 4 * np.arange(5)


class _Pairs(NamedTuple):
    """Indices (P,) of the capsules that may not meet, and the sum (P,) of their radii; `finger` (P,) is the one that
    is to stop there (0 thumb … 4 little)."""

    one: np.ndarray
    other: np.ndarray
    reach: np.ndarray
    finger: np.ndarray


class FingerTurns:
    """Turns of the bones of five fingers, thumb … little, by anatomical angles, in the frame of the wrist."""

    def __init__(self, axes: FlexionAxes) -> None:
        places = np.array([[FIRST_POSE_JOINT[finger] + k for finger in FINGERS] for k in range(3)])
        self._flexion = _crosses(axes.flexion[places])
        self._abduction, self._twist = _crosses(axes.abduction[places[0]]), _crosses(axes.twist[places[0, 0]])

    def world(self, angles: np.ndarray) -> np.ndarray:
        """(B, 3, 5, 3, 3) from rest, of three bones of each finger, for angles (B, 21) rad in the order ANGLE_NAMES."""
        thumb, fingers = angles[:, :5], angles[:, 5:].reshape(-1, 4, 4)
        bend = np.empty((len(angles), 3, 5))
        bend[:, :, 0], bend[:, :, 1:] = thumb[:, [0, 3, 4]], fingers[:, :, [0, 2, 3]].swapaxes(1, 2)
        aside = np.concatenate([thumb[:, 1:2], fingers[:, :, 1]], axis=1)
        world = _turn(self._flexion, bend)
        world[:, 0] = world[:, 0] @ _turn(self._abduction, aside)
        world[:, 0, 0] = world[:, 0, 0] @ _turn(self._twist, thumb[:, 2])
        for k in (1, 2):
            world[:, k] = world[:, k - 1] @ world[:, k]
        return world


def place_chains(bases: np.ndarray, bones: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """(B, 4, 5, 3), joints of five fingers from base to tip; `bases` (5, 3) are the first ones, `bones` (3, 5, 3) what
    `turns` (B, 3, 5, 3, 3) turn."""
    places = np.empty((len(turns), 4, 5, 3))
    places[:, 0] = bases
    steps = (turns @ bones[..., None])[..., 0]
    for k in range(3):
        places[:, k + 1] = places[:, k] + steps[:, k]
    return places


def _crosses(axis: np.ndarray) -> np.ndarray:
    """Pairs (..., 2, 3, 3) of the cross-product matrix of unit axes (..., 3) and its square."""
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    return np.stack([cross, cross @ cross], axis=-3)


def _turn(crosses: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotations (..., 3, 3) by Rodrigues, of what `_crosses` gives."""
    turns = np.sin(angle)[..., None, None] * crosses[..., 0, :, :]
    turns += (1 - np.cos(angle))[..., None, None] * crosses[..., 1, :, :]
    turns += np.eye(3)
    return turns


@lru_cache
def _rest() -> tuple[np.ndarray, FingerTurns]:
    """Joints (21, 3) metres of the flat hand, and its fingers' turns."""
    joints = 1e-3 * skeleton(np.zeros(10)).joints[list(ORDERS['smplx'])]
    return joints, FingerTurns(FlexionAxes.from_rest_joints(joints, 'right'))


def place_joints(angles: np.ndarray) -> np.ndarray:
    """Joints (B, 21, 3) in metres, the wrist's frame at rest, of angles (B, 21) rad in the order ANGLE_NAMES."""
    rest, turns = _rest()
    chains = rest[_FIRST + np.arange(4)[:, None]]
    joints = np.empty((len(angles), 21, 3))
    joints[:, 0] = rest[0]
    placed = place_chains(chains[0], np.diff(chains, axis=0), turns.world(angles))
    joints[:, 1:] = placed.swapaxes(1, 2).reshape(-1, 20, 3)
    return joints


@lru_cache
def _pairs() -> tuple[_Pairs, _Pairs]:
    """Pairs among capsules 0–14 (three of thumb … little) and 15–18 (the palm, index … little): the fingers with
    each other and the palm, and the thumb with all."""
    radii = np.concatenate([RADII.ravel(), np.full(4, PALM_RADIUS)])
    between, thumb = [], []
    for finger in range(1, 5):
        phalanges = range(3 * finger, 3 * finger + 3)
        # A proximal phalanx starts in its own knuckle and its neighbours', and folds no further than to the palm's rim.
        between += [(i, 15 + palm, finger) for i in phalanges[1:] for palm in range(4)]
        between += [(i, j, finger) for i in phalanges for j in range(3, 3 * finger)]
        # The ball of the thumb is in the way of the fingers, wherever the thumb is.
        between += [(i, 0, finger) for i in phalanges[1:]]
        thumb += [(i, j, 0) for i in (1, 2) for j in phalanges]
    # Its first phalanx starts beside the index finger's metacarpal.
    thumb += [(i, 15 + palm, 0) for i in (1, 2) for palm in range(4) if (i, palm) != (1, 0)]

    def pairs(rows: list) -> _Pairs:
        one, other, finger = np.array(rows).T
        return _Pairs(one, other, radii[one] + radii[other], finger)

    return pairs(between), pairs(thumb)


def _capsules(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends (B, 19, 3) of all capsules."""
    starts = joints[:, (_FIRST[:, None] + np.arange(3)).ravel()].copy()
    ends = joints[:, (_FIRST[:, None] + np.arange(1, 4)).ravel()].copy()
    # A fingertip is a point of the skin.
    last = ends[:, 2::3] - starts[:, 2::3]
    ends[:, 2::3] -= last / np.linalg.norm(last, axis=-1, keepdims=True) * RADII[:, 2, None]
    knuckles = joints[:, _FIRST[1:]]
    palm = joints[:, :1] + 0.25 * (knuckles - joints[:, :1]), joints[:, :1] + 0.93 * (knuckles - joints[:, :1])
    return np.concatenate([starts, palm[0]], axis=1), np.concatenate([ends, palm[1]], axis=1)


def _gaps(capsules: tuple[np.ndarray, np.ndarray], pairs: _Pairs) -> np.ndarray:
    """Distances (B, P) between the surfaces of capsules; negative where they meet. After Ericson, Real-Time Collision
    Detection, 5.1.9."""
    start, end = capsules
    p, q = start[:, pairs.one], start[:, pairs.other]
    d, e, r = end[:, pairs.one] - p, end[:, pairs.other] - q, p - q
    a, b, f = np.einsum('bpi,bpi->bp', d, d), np.einsum('bpi,bpi->bp', d, e), np.einsum('bpi,bpi->bp', e, r)
    c, g = np.einsum('bpi,bpi->bp', d, r), np.einsum('bpi,bpi->bp', e, e)
    s = np.clip((b * f - c * g) / np.maximum(a * g - b * b, 1e-12), 0, 1)
    t = np.clip((b * s + f) / g, 0, 1)
    s = np.clip((b * t - c) / a, 0, 1)
    apart = r + s[..., None] * d - t[..., None] * e
    return np.sqrt(np.einsum('bpi,bpi->bp', apart, apart)) - pairs.reach


def clearance(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least distances in metres, negative where capsules meet, of poses (B, 21): (B, 4) of index … little to the palm,
    to the ball of the thumb and to the fingers on their thumb's side, and (B,) of the thumb to all."""
    if angles.ndim != 2 or angles.shape[1] != ANGLE_COUNT:
        raise ValueError(f'expected angles (B, {ANGLE_COUNT}), got {angles.shape}')
    capsules = _capsules(place_joints(angles))
    between, thumb = _pairs()
    gaps = _gaps(capsules, between)
    fingers = np.stack([gaps[:, between.finger == finger].min(axis=1) for finger in range(1, 5)], axis=1)
    return fingers, _gaps(capsules, thumb).min(axis=1)
