"""A coarse hand of capsules: whether fingers of given angles run through each other or into the palm.

The skeleton is the stand-in's of average size, whatever mesh is posed in the end: what is decided here is a pose, and
angles are all that a pose shares with a mesh.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit
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
# Of three joints of thumb … little, among MANO's 15.
_PLACES = np.array([[FIRST_POSE_JOINT[finger] + k for finger in FINGERS] for k in range(3)])


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
        self._crosses = (_crosses(axes.flexion[_PLACES]), _crosses(axes.abduction[_PLACES[0]]),
                         _crosses(axes.twist[_PLACES[0, 0]]))

    def world(self, angles: np.ndarray) -> np.ndarray:
        """(B, 3, 5, 3, 3) from rest, of three bones of each finger, for angles (B, 21) rad in the order ANGLE_NAMES."""
        return _turns(*self._crosses, np.array(angles, float), True)

    def of_pose(self, angles: np.ndarray) -> np.ndarray:
        """(B, 15, 3, 3) from the bone before, in MANO's order, for the same angles; as `pose_from_angles`."""
        turns = np.empty((len(angles), 15, 3, 3))
        turns[:, _PLACES] = _turns(*self._crosses, np.array(angles, float), False)
        return turns


@njit(cache=True, nogil=True, error_model='numpy')
def place_chains(bases, bones, turns):
    """(B, 4, 5, 3), joints of five fingers from base to tip; `bases` (5, 3) are the first ones, `bones` (3, 5, 3) what
    `turns` (B, 3, 5, 3, 3) turn."""
    places = np.empty((len(turns), 4, 5, 3))
    for b in range(len(turns)):
        for f in range(5):
            for i in range(3):
                places[b, 0, f, i] = bases[f, i]
            for k in range(3):
                for i in range(3):
                    step = 0.0
                    for j in range(3):
                        step += turns[b, k, f, i, j] * bones[k, f, j]
                    places[b, k + 1, f, i] = places[b, k, f, i] + step
    return places


def _crosses(axis: np.ndarray) -> np.ndarray:
    """Pairs (..., 2, 3, 3) of the cross-product matrix of unit axes (..., 3) and its square."""
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*x.shape, 3, 3)
    return np.stack([cross, cross @ cross], axis=-3)


@njit(cache=True, nogil=True, error_model='numpy')
def _turn(crosses, angle, turn):
    """Rodrigues' rotation, of what `_crosses` gives, into `turn` (3, 3)."""
    sine, rest = np.sin(angle), 1 - np.cos(angle)
    for i in range(3):
        for j in range(3):
            turn[i, j] = sine * crosses[0, i, j] + rest * crosses[1, i, j] + (1.0 if i == j else 0.0)


@njit(cache=True, nogil=True, error_model='numpy')
def _multiply(one, other, product):
    """Of matrices (3, 3); the product may be one of them."""
    for i in range(3):
        a, b, c = one[i, 0], one[i, 1], one[i, 2]
        for j in range(3):
            product[i, j] = a * other[0, j] + b * other[1, j] + c * other[2, j]


@njit(cache=True, nogil=True, error_model='numpy')
def _turns(flexion, abduction, twist, angles, from_wrist):
    """(B, 3, 5, 3, 3) of what `_crosses` gives for axes (3, 5), (5,) and (), and angles (B, 21)."""
    turns = np.empty((len(angles), 3, 5, 3, 3))
    own, more = np.empty((3, 3)), np.empty((3, 3))
    for b in range(len(angles)):
        for f in range(5):
            first = 0 if f == 0 else 1 + 4 * f
            for k in range(3):
                place = first if k == 0 else first + k + (2 if f == 0 else 1)
                _turn(flexion[k, f], angles[b, place], own)
                if k == 0:
                    _turn(abduction[f], angles[b, first + 1], more)
                    _multiply(own, more, own)
                if k == 0 and f == 0:
                    _turn(twist, angles[b, 2], more)
                    _multiply(own, more, own)
                if k > 0 and from_wrist:
                    _multiply(turns[b, k - 1, f], own, turns[b, k, f])
                else:
                    turns[b, k, f] = own
    return turns


class _Rest(NamedTuple):
    """The flat hand, metres. wrist: (3,).  bases: (5, 3) first joints of the fingers.  bones: (3, 5, 3)."""

    wrist: np.ndarray
    bases: np.ndarray
    bones: np.ndarray


@lru_cache
def _rest() -> tuple[_Rest, FingerTurns]:
    """The flat hand, and its fingers' turns."""
    joints = 1e-3 * skeleton(np.zeros(10)).joints[list(ORDERS['smplx'])]
    chains = joints[_FIRST + np.arange(4)[:, None]]
    return (_Rest(joints[0], chains[0], np.diff(chains, axis=0)),
            FingerTurns(FlexionAxes.from_rest_joints(joints, 'right')))


def place_joints(angles: np.ndarray) -> np.ndarray:
    """Joints (B, 21, 3) in metres, the wrist's frame at rest, of angles (B, 21) rad in the order ANGLE_NAMES."""
    rest, turns = _rest()
    joints = np.empty((len(angles), 21, 3))
    joints[:, 0] = rest.wrist
    joints[:, 1:] = place_chains(rest.bases, rest.bones, turns.world(angles)).swapaxes(1, 2).reshape(-1, 20, 3)
    return joints


@lru_cache
def _pairs() -> _Pairs:
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
    one, other, finger = np.ascontiguousarray(np.array(between + thumb).T)
    return _Pairs(one, other, radii[one] + radii[other], finger)


@njit(cache=True, nogil=True, error_model='numpy')
def _place_capsules(wrist, places, radii, start, end):
    """Fills in the ends (19, 3) of all capsules. places: (4, 5, 3) joints of the fingers."""
    for f in range(5):
        for k in range(3):
            start[3 * f + k], end[3 * f + k] = places[k, f], places[k + 1, f]
        # A fingertip is a point of the skin.
        last = places[3, f] - places[2, f]
        end[3 * f + 2] -= last / np.sqrt((last * last).sum()) * radii[f]
        if f > 0:
            palm = places[0, f] - wrist
            start[14 + f], end[14 + f] = wrist + 0.25 * palm, wrist + 0.93 * palm


@njit(cache=True, nogil=True, error_model='numpy')
def _gap(p, p_end, q, q_end):
    """Distance between two segments from p and q (3,). After Ericson, Real-Time Collision Detection, 5.1.9."""
    a, b, c, e, f = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(3):
        one, other, apart = p_end[i] - p[i], q_end[i] - q[i], p[i] - q[i]
        a += one * one
        b += one * other
        c += one * apart
        e += other * other
        f += other * apart
    s = min(max((b * f - c * e) / max(a * e - b * b, 1e-12), 0.0), 1.0)
    t = min(max((b * s + f) / e, 0.0), 1.0)
    s = min(max((b * t - c) / a, 0.0), 1.0)
    square = 0.0
    for i in range(3):
        square += (p[i] - q[i] + s * (p_end[i] - p[i]) - t * (q_end[i] - q[i])) ** 2
    return np.sqrt(square)


@njit(cache=True, nogil=True, error_model='numpy')
def _gaps(rest, radii, pairs, turns):
    """(B, 5) least gaps, negative where capsules meet, of the pairs at which each of thumb … little is to stop."""
    places = place_chains(rest.bases, rest.bones, turns)
    start, end = np.empty((19, 3)), np.empty((19, 3))
    least = np.full((len(turns), 5), np.inf)
    for b in range(len(turns)):
        _place_capsules(rest.wrist, places[b], radii, start, end)
        for pair in range(len(pairs.one)):
            one, other, finger = pairs.one[pair], pairs.other[pair], pairs.finger[pair]
            gap = _gap(start[one], end[one], start[other], end[other]) - pairs.reach[pair]
            least[b, finger] = min(least[b, finger], gap)
    return least


def clearance(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least distances in metres, negative where capsules meet, of poses (B, 21): (B, 4) of index … little to the palm,
    to the ball of the thumb and to the fingers on their thumb's side, and (B,) of the thumb to all."""
    if angles.ndim != 2 or angles.shape[1] != ANGLE_COUNT:
        raise ValueError(f'expected angles (B, {ANGLE_COUNT}), got {angles.shape}')
    rest, turns = _rest()
    gaps = _gaps(rest, RADII[:, 2], _pairs(), turns.world(angles))
    return gaps[:, 1:], gaps[:, 0]
