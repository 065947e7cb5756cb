"""How the skin of the fingers moves when they bend a little more, at a fraction of what posing the whole hand costs."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.finger_capsules import FingerTurns, place_chains
from hand_unc_ros.data.synthetic.motion import HandState
from hand_unc_ros.data.synthetic.rasteriser import HONEST_MATH
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.hand.joints import FINGERS
from hand_unc_ros.hand.limits import ANGLE_COUNT, ANGLE_NAMES, FIRST_POSE_JOINT

_CHAINS = 1 + 4 * np.arange(5) + np.arange(4)[:, None]
# A bend by which the hand is asked what moves with what.
_PROBE_RAD = 0.3


class FingerSkin:
    """Linear blend skinning of finger vertices, learned from a hand by bending it joint by joint; without the hand's
    own correctives. Good to 1 mm or so for bends of half a radian from a surface that the hand itself has posed.

    finger: (V,) 0 thumb … 4 little, −1 for what moves with no finger: palm and wrist.
    rows: (F,) vertices that move with a finger, thumb's first; `ends` (6,) bound each finger's part.
    palm: vertices of the palm's inner side.  thumb_pad: (3,) where the thumb's pad faces at rest.
    """

    def __init__(self, hand: PosedHand) -> None:
        self.turns = FingerTurns(hand.axes)
        probes = [np.zeros(ANGLE_COUNT)]
        for place in _flexion_places().ravel():
            probes.append(np.zeros(ANGLE_COUNT))
            probes[-1][place] = _PROBE_RAD
        states = [HandState(angles, np.zeros(3), np.zeros(3)) for angles in probes]
        surfaces, joints = hand.surfaces(states, np.zeros((len(states), 10)))
        rest, chains = surfaces[0], joints[0][_CHAINS]
        turned = self.turns.world(np.stack(probes))
        follows = np.zeros((3, 5, len(rest)))
        for k in range(3):
            for finger in range(5):
                number = 1 + 5 * k + finger
                arm = rest - chains[k, finger]
                rigid = arm @ (turned[number, k, finger] - np.eye(3)).T
                size = (rigid ** 2).sum(axis=1)
                # On the axis of a turn nothing moves: such a vertex goes half with either bone.
                follows[k, finger] = np.where(size > 1e-6, ((surfaces[number] - rest) * rigid).sum(axis=1)
                                              / np.maximum(size, 1e-6), 0.5 * (np.linalg.norm(arm, axis=1) < 0.015))
        follows = np.clip(follows, 0, 1)
        own = follows[0].argmax(axis=0)
        share = follows[:, own, np.arange(len(rest))]
        share[1] = np.minimum(share[0], share[1])
        share[2] = np.minimum(share[1], share[2])
        moves = share[0] > 0.03
        self.finger = np.where(moves & (share[0] > 0.5), own, -1)
        rows = np.flatnonzero(moves)
        self.rows = rows[np.argsort(own[rows], kind='stable')]

        self.ends = np.searchsorted(own[self.rows], np.arange(6))
        first, second, third = share[:, self.rows]
        # (4, F): with the palm, and with the three bones of its finger.
        self._weights = np.stack([1 - first, first - second, second - third, third])
        bone = joints[0][4] - joints[0][3]
        last = FIRST_POSE_JOINT['thumb'] + 2
        self.thumb_pad = np.cross(hand.axes.flexion[last], bone / np.linalg.norm(bone))
        self.palm = np.flatnonzero(~moves & (hand.skin.palm > 0.5))

    def bent(self, vertices: np.ndarray, joints: np.ndarray, orientation: np.ndarray, start: np.ndarray,
             angles: np.ndarray, step: int = 1) -> np.ndarray:
        """Where the vertices `rows` are, (B, F, 3) metres, when fingers go from `start` (21,) to `angles` (B, 21) rad.

        vertices (V, 3), joints (21, 3) metres: the surface at `start`.  orientation: (3,) rotation vector of the hand.
        step: only every so many of the rows are asked for.
        """
        turn = Rotation.from_rotvec(orientation).as_matrix()
        turns = self.turns.world(np.concatenate([start[None], angles]))
        # From the start's bones to the others, in the world.
        turns = turn @ turns[1:] @ (turn @ turns[:1]).swapaxes(-1, -2)
        chains = joints[_CHAINS]
        places = place_chains(chains[0], np.diff(chains, axis=0), turns)
        shifts = places[:, :3] - (turns @ chains[:3, ..., None])[..., 0]
        ends = -(-self.ends // step)
        weights = np.ascontiguousarray(self._weights[:, ::step])
        return _blended(vertices[self.rows[::step]], ends, weights, turns, shifts)


@njit(cache=True, nogil=True, error_model='numpy', fastmath=HONEST_MATH)
def _blended(here, ends, weights, turns, shifts):
    """(B, F, 3) of points `here` (F, 3): where their part of the four weights (4, F) takes them, with the palm, which
    stays, and with three bones of the finger, by `ends` (6,), that turn (B, 3, 5, 3, 3) and shift (B, 3, 5, 3)."""
    moved = np.empty((len(turns), *here.shape))
    for b in range(len(turns)):
        for f in range(5):
            turn, shift = turns[b, :, f].copy(), shifts[b, :, f].copy()
            for n in range(ends[f], ends[f + 1]):
                x, y, z = here[n, 0], here[n, 1], here[n, 2]
                rest, one, two, three = weights[0, n], weights[1, n], weights[2, n], weights[3, n]
                for i in range(3):
                    moved[b, n, i] = (
                        rest * here[n, i]
                        + one * (turn[0, i, 0] * x + turn[0, i, 1] * y + turn[0, i, 2] * z + shift[0, i])
                        + two * (turn[1, i, 0] * x + turn[1, i, 1] * y + turn[1, i, 2] * z + shift[1, i])
                        + three * (turn[2, i, 0] * x + turn[2, i, 1] * y + turn[2, i, 2] * z + shift[2, i]))
    return moved


def _flexion_places() -> np.ndarray:
    """(3, 5) places in ANGLE_NAMES of the flexions of three joints of thumb … little."""
    names = [['thumb_cmc', *(f'{finger}_mcp' for finger in FINGERS[1:])],
             ['thumb_mcp', *(f'{finger}_pip' for finger in FINGERS[1:])],
             ['thumb_ip', *(f'{finger}_dip' for finger in FINGERS[1:])]]
    return np.array([[ANGLE_NAMES.index(f'{name}_flexion') for name in row] for row in names])
