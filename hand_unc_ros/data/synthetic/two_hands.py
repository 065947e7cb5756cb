"""A right and a left hand together: apart, one before the other, touching, or clasped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic.finger_capsules import ANGLE_FINGERS, SOFT_M, clearance
from hand_unc_ros.data.synthetic.grasps import finger_skin
from hand_unc_ros.data.synthetic.motion import HandState
from hand_unc_ros.data.synthetic.near_surface import NEAR_M, NearSurface
from hand_unc_ros.data.synthetic.postures import draw_angles
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.geometry.vectors import cross, unit
from hand_unc_ros.hand.limits import ANGLE_COUNT, REACH_LIMITS

KINDS = ('apart', 'crossing', 'touching', 'clasped')
# Skin of one hand may sink into the other's by this much; hands are pushed apart to less.
PENETRATION_M = 0.004
# Hands are brought this deep together; what is within the other distance counts as touching, vertex by vertex.
_TOUCH_M, _TOUCHING_M = 0.0015, 0.004
# Side of the cells by which hands are slid together, about the spacing of vertices and centres of faces.
_CELL_M = 0.005
_CELLS = 128
_PUSHES, _TRIES = 6, 3
# How far back from where middle joints cross interlaced fingers are tried, and how far aside, of their pitch.
_BACK, _ASIDE = np.arange(-0.016, 0.016, 0.006), (0.4, 0.5, 0.6)
_SWEEP = np.linspace(0, 1, 7)
_OPEN_AGAIN = (0.0, 0.07, 0.2, 0.5, 1.0)
_PALM = [0, 5, 9, 13, 17]


# Palms of hands at rest: the same for all pairs.
_PALMS: WeakKeyDictionary[PosedHand, _Frame] = WeakKeyDictionary()


class PlacedHand(NamedTuple):
    """state: of a hand.  vertices (V, 3), joints (21, 3): its surface, metres, world."""

    state: HandState
    vertices: np.ndarray
    joints: np.ndarray


class TwoHands(NamedTuple):
    """right, left: the hands.  kind: one of KINDS.  penetration: how deep in metres the skin of either is in the other,
    0 where they are apart."""

    right: PlacedHand
    left: PlacedHand
    kind: str
    penetration: float


class _Frame(NamedTuple):
    """Unit vectors (3,): along the fingers, out of the palm, to the thumb's side."""

    up: np.ndarray
    out: np.ndarray
    across: np.ndarray


def draw_two_hands(rng: np.random.Generator, right: PosedHand, left: PosedHand, betas: np.ndarray | None = None,
                   kind: str | None = None, centre: np.ndarray | None = None,
                   towards: np.ndarray | None = None) -> TwoHands:
    """Both hands of a person.

    betas: (10,) of both, zeros by default.  kind: of KINDS, any by default.
    centre: (3,) metres, world, between the palms.  towards: (3,) unit vector, world, to whom hands that cross hide each
    other; any by default.  Raises ValueError for an unknown kind.
    """
    kind = kind or str(rng.choice(KINDS, p=[0.2, 0.3, 0.25, 0.25]))
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    betas = np.zeros(10) if betas is None else betas
    centre = np.zeros(3) if centre is None else centre
    towards = unit(rng.normal(size=3)) if towards is None else unit(towards)
    pair = _Pair(rng, right, left, betas)
    getattr(pair, f'_{kind}')(towards)
    return pair.answer(kind, centre)


def penetration(hands: Sequence[PosedHand], placed: Sequence[PlacedHand]) -> float:
    """How deep, in metres, vertices of either of two hands lie behind the nearest vertices of the other."""
    skins = [NearSurface(place.vertices, hand.faces) for hand, place in zip(hands, placed)]
    return max(0.0, *(-float(skin.away(other.vertices).min()) for skin, other in zip(skins, reversed(placed))))


class _Pair:
    """Two hands on their way to each other. The hand `still` stays where it is, the other one is placed."""

    def __init__(self, rng: np.random.Generator, right: PosedHand, left: PosedHand, betas: np.ndarray) -> None:
        self.rng, self.betas = rng, betas
        self.hands = [right, left] if rng.random() < 0.5 else [left, right]
        self.still_is_right = self.hands[0] is right
        self.placed: list[PlacedHand] = []
        # The skin of each hand where it was last posed; shifts since then are those of what is asked of it.
        self.skins: list[tuple[np.ndarray, NearSurface | None]] = []

    def answer(self, kind: str, centre: np.ndarray) -> TwoHands:
        """The pair about `centre`."""
        depth = 0.0 if kind in ('apart', 'crossing') else self._depth()
        middle = np.mean([hand.joints[_PALM].mean(axis=0) for hand in self.placed], axis=0)
        moved = [_shifted(hand, centre - middle) for hand in self.placed]
        first, second = moved if self.still_is_right else moved[::-1]
        return TwoHands(first, second, kind, depth)

    def _apart(self, towards: np.ndarray) -> None:
        """Beside each other, neither before the other for whom they are shown to."""
        self._put(0, draw_angles(self.rng), self._any_frame())
        self._put(1, draw_angles(self.rng), self._any_frame())
        aside = unit(cross(towards, self.rng.normal(size=3)))
        self._slide(aside, towards * self.rng.normal(0, 0.05), self.rng.uniform(0.02, 0.25))

    def _crossing(self, towards: np.ndarray) -> None:
        """One before the other, without touching it."""
        self._put(0, draw_angles(self.rng), self._any_frame())
        self._put(1, draw_angles(self.rng), self._any_frame())
        aside = self.rng.normal(0, 0.035, 3)
        self._slide(towards, aside - towards * (aside @ towards), self.rng.uniform(0.004, 0.1))

    def _touching(self, towards: np.ndarray) -> None:
        """Palms, backs, fists and fingertips: one hand brought up to the other until it touches."""
        frame = self._any_frame()
        self._put(0, draw_angles(self.rng), frame)
        way = unit([frame.out, -frame.out, frame.up, frame.across, -frame.across][self.rng.choice(
            5, p=[0.5, 0.2, 0.1, 0.1, 0.1])] + self.rng.normal(0, 0.25, 3))
        # What meets the other hand: the palm, the back, or the tips of the fingers.
        meets = self.rng.choice(3, p=[0.5, 0.15, 0.35])
        if meets < 2:
            out = -way if meets == 0 else way
            other = _frame(cross(out, self.rng.normal(size=3)) + 0.7 * frame.up, out)
        else:
            other = _frame(-way + self.rng.normal(0, 0.3, 3), self.rng.normal(size=3))
        self._put(1, draw_angles(self.rng), other)
        aside = self.rng.normal(0, 0.025, 3)
        self._slide(way, aside - way * (aside @ way), -_TOUCH_M)
        self._touch(way)
        self._part(way)

    def _clasped(self, towards: np.ndarray) -> None:
        """One hand closed around the other, or the fingers of both between each other."""
        frame = self._any_frame()
        if self.rng.random() < 0.6:
            self._cupped(frame)
        else:
            self._interlaced(frame)

    def _cupped(self, frame: _Frame) -> None:
        """The other palm on the back, the palm or an edge of a hand, its fingers around it."""
        rng = self.rng
        start, end = _bent([-20, 30, 20, 0, 0], 2, 8, 4), _bent([35, 10, 50, 40, 40], 88, 92, 55)
        for _ in range(_TRIES):
            inner = np.clip(_bent([40, 18, 35, 30, 30], 75, 85, 45) * rng.uniform(0.2, 1.0), *REACH_LIMITS.T)
            self._put(0, inner + rng.normal(0, 0.05, ANGLE_COUNT), frame)
            way = unit([frame.out, -frame.out, frame.across, -frame.across][rng.choice(4, p=[0.45, 0.3, 0.05, 0.2])]
                        + rng.normal(0, 0.15, 3))
            up = frame.across * rng.choice([-1, 1]) + rng.normal(0, 0.5) * frame.up + rng.normal(0, 0.3) * frame.out
            self._put(1, start, _frame(up, -way))
            # The distal palm on the middle of the other hand, so that the fingers reach round it.
            aside = self.placed[1].joints[_PALM].mean(axis=0) - self.placed[1].joints[9]
            aside = rng.uniform(0.2, 1.0) * aside + rng.normal(0, 0.008, 3)
            self._slide(way, aside - way * (aside @ way), -_TOUCH_M)
            self._touch(way)
            self._part(way)
            if self._close(1, end) >= 2:
                return
        self._touch(way)
        self._part(way)

    def _interlaced(self, frame: _Frame) -> None:
        """Fingers of one hand through the gaps of the other's, crossing near their middle joints, then bent over its
        back. Skin does not yield here, so they cross farther out than those of people do."""
        rng = self.rng
        spread = np.array([20.0, 6.0, -12.0, -27.0])
        opened, closed = [_bent([-18, 10, 10, 0, 0], *bends, list(spread))
                          for bends in ((rng.uniform(-8, 1), 4, 3), (rng.uniform(30, 60), 85, 50))]
        self._put(0, opened, frame)
        middle, knuckles = self.placed[0].joints[[6, 10, 14, 18]], self.placed[0].joints[[5, 9, 13, 17]]
        fingers = (middle - knuckles).mean(axis=0)
        up = unit(fingers - frame.across * (fingers @ frame.across))
        out = cross(frame.across, up) * (1.0 if cross(frame.across, up) @ frame.out > 0 else -1.0)
        angle = rng.uniform(np.deg2rad(55), np.deg2rad(110))
        # The palms face each other; seen from the thumbs, the fingers make an X.
        tilt = np.arctan2(frame.out @ up, frame.up @ up)
        turn = angle + 2 * tilt
        self._put(1, opened, _frame(np.cos(turn) * frame.up - np.sin(turn) * frame.out,
                                    -np.cos(turn) * frame.out - np.sin(turn) * frame.up))
        way = unit((1 - np.cos(angle)) * up + np.sin(angle) * out)
        pitch = frame.across * ((middle[1] - middle[2]) @ frame.across) * rng.choice([-1, 1])
        self._shift(1, middle.mean(axis=0) - self.placed[1].joints[[6, 10, 14, 18]].mean(axis=0))
        # As near to the knuckles as the fingers get through.
        skin = self.placed[1].vertices[finger_skin(self.hands[1]).finger > 0][::2]
        for back in _BACK:
            depths = [-self._away(0, skin + back * way + aside * pitch).min() for aside in _ASIDE]
            if min(depths) < 0.75 * PENETRATION_M:
                self._shift(1, back * way + _ASIDE[int(np.argmin(depths))] * pitch)
                break
        else:
            self._cupped(frame)
            return
        self._part(way)
        self._close(1, closed)
        self._close(0, closed)

    def _any_frame(self) -> _Frame:
        return _frame(self.rng.normal(size=3), self.rng.normal(size=3))

    def _put(self, which: int, angles: np.ndarray, frame: _Frame) -> None:
        """Poses hand `which` with its palm as `frame` says; `across` follows from its side."""
        hand = self.hands[which]
        own = _palm_at_rest(hand)
        wanted = _frame(frame.up, frame.out, hand.model.side)
        turn = np.stack(wanted, axis=1) @ np.stack(own, axis=1).T
        state = HandState(np.clip(angles, *REACH_LIMITS.T), Rotation.from_matrix(turn).as_rotvec(), np.zeros(3))
        self._pose(which, state)

    def _pose(self, which: int, state: HandState) -> None:
        vertices, joints = self.hands[which].surfaces([state], self.betas[None])
        self.placed[which:which + 1] = [PlacedHand(state, vertices[0], joints[0])]
        self.skins[which:which + 1] = [(state.translation, None)]

    def _away(self, which: int, points: np.ndarray) -> np.ndarray:
        """(N,) of `points` (N, 3) from hand `which`, as `NearSurface.away`."""
        place, skin = self.skins[which]
        if skin is None:
            place = self.placed[which].state.translation
            skin = NearSurface(self.placed[which].vertices, self.hands[which].faces)
            self.skins[which] = place, skin
        return skin.away(points - (self.placed[which].state.translation - place))

    def _shift(self, which: int, by: np.ndarray) -> None:
        self.placed[which] = _shifted(self.placed[which], by)

    def _slide(self, way: np.ndarray, aside: np.ndarray, gap: float) -> None:
        """Places the second hand on the `way` (3,) from the first, `gap` metres behind where they first touch when it
        comes from afar, palm over palm but for `aside`."""
        apart = self.placed[0].joints[_PALM].mean(axis=0) - self.placed[1].joints[_PALM].mean(axis=0)
        self._shift(1, apart + aside)
        axes = np.stack(_across(way))
        middle = self.placed[1].joints[_PALM].mean(axis=0)
        tallest = _heights(self._points(0), middle, axes, way, 1.0)
        lowest = _heights(self._points(1), middle, axes, way, -1.0)
        # Where the two are over each other; −inf where there is nothing of one.
        needed = (tallest + lowest).max()
        if not np.isfinite(needed):
            needed = 0.05
        self._shift(1, way * (needed + gap))

    def _points(self, which: int) -> np.ndarray:
        vertices = self.placed[which].vertices
        return np.concatenate([vertices, vertices[self.hands[which].faces].mean(axis=1)])

    def _touch(self, way: np.ndarray) -> None:
        """Brings the second hand back along `way` (3,) to the first where cells have stopped it too early."""
        for _ in range(2):
            gap = min(self._away(0, self.placed[1].vertices).min(), NEAR_M)
            if gap < 2 * _TOUCH_M:
                return
            self._shift(1, -gap * way)

    def _part(self, way: np.ndarray) -> None:
        """Pushes the second hand along `way` (3,) until neither is deep in the other."""
        for _ in range(_PUSHES):
            depth = self._depth()
            if depth <= 0.75 * PENETRATION_M:
                return
            self._shift(1, way * (depth - 0.4 * PENETRATION_M + 0.001))

    def _depth(self) -> float:
        """How deep, in metres, vertices of one hand lie behind the nearest vertices of the other."""
        # Those beyond a plate between the hands' boxes cannot touch.
        boxes = [(hand.vertices.min(axis=0) - NEAR_M, hand.vertices.max(axis=0) + NEAR_M) for hand in self.placed]
        low, high = np.maximum(boxes[0][0], boxes[1][0]), np.minimum(boxes[0][1], boxes[1][1])
        if (low >= high).any():
            return 0.0
        deepest = 0.0
        for which in (0, 1):
            vertices = self.placed[1 - which].vertices
            vertices = vertices[((vertices >= low) & (vertices <= high)).all(axis=1)]
            if len(vertices):
                deepest = max(deepest, -float(self._away(which, vertices).min()))
        return deepest

    def _close(self, which: int, end: np.ndarray) -> int:
        """Bends the fingers of hand `which` towards the pose `end` (21,) until they touch the other hand; the number of
        those that do. Those that meet nothing stay half bent."""
        here, skin = self.placed[which], finger_skin(self.hands[which])
        start = here.state.angles
        low, high, allowed = np.zeros(5), np.ones(5), None
        for _ in range(2):
            shares = low + (high - low) * _SWEEP[:, None]
            ways = start + shares[:, ANGLE_FINGERS] * (end - start)
            bent = skin.bent(here.vertices, here.joints, here.state.orientation, start, ways, 2)
            fingers, thumb = clearance(ways)
            # The first of each finger's part of every other vertex.
            away = self._away(1 - which, bent.reshape(-1, 3)).reshape(len(ways), -1)
            away = np.minimum.reduceat(away, (skin.ends[:-1] + 1) // 2, axis=1)
            # A finger that lies on the other hand goes on as long as it sinks in no deeper.
            allowed = np.minimum(-_TOUCH_M, away[0] - 5e-4) if allowed is None else allowed
            free = (np.column_stack([thumb, fingers]) >= -SOFT_M) & (away >= allowed)
            met = np.where(free.all(axis=0), len(_SWEEP), free.argmin(axis=0))
            low, high = (shares[np.clip(met - 1, 0, None), np.arange(5)],
                         shares[np.clip(met, 0, len(_SWEEP) - 1), np.arange(5)])
        low = np.where(low == 1, 0.4, low)
        # Skin was bent approximately: fingers open again where they are too deep on the exact surface.
        for less in _OPEN_AGAIN:
            angles = start + (1 - less) * low[ANGLE_FINGERS] * (end - start)
            self._pose(which, HandState(angles, here.state.orientation, here.state.translation))
            if self._depth() <= PENETRATION_M:
                break
        away = self._away(1 - which, self.placed[which].vertices)
        return sum(away[skin.finger == finger].min() < _TOUCHING_M for finger in range(5))


def _heights(points: np.ndarray, middle: np.ndarray, axes: np.ndarray, way: np.ndarray, sign: float) -> np.ndarray:
    """(C, C) greatest of sign · height along `way` of points in cells across it, −inf in empty ones."""
    cells = np.floor((points - middle) @ axes.T / _CELL_M).astype(int) + _CELLS // 2
    inside = ((cells >= 0) & (cells < _CELLS)).all(axis=1)
    heights = np.full(_CELLS * _CELLS, -np.inf)
    np.maximum.at(heights, cells[inside] @ [_CELLS, 1], sign * (points[inside] @ way))
    return heights


def _bent(thumb: list[float], mcp: float, pip: float, dip: float, spread: list[float] | None = None) -> np.ndarray:
    """Angles (21,) rad from degrees, all fingers alike."""
    fan = [0.0] * 4 if spread is None else spread
    return np.deg2rad(thumb + [value for place in range(4) for value in (mcp, fan[place], pip, dip)])


def _shifted(hand: PlacedHand, by: np.ndarray) -> PlacedHand:
    state = HandState(hand.state.angles, hand.state.orientation, hand.state.translation + by)
    return PlacedHand(state, hand.vertices + by, hand.joints + by)


def _palm_at_rest(hand: PosedHand) -> _Frame:
    if hand not in _PALMS:
        joints, side = hand.model.rest_joints(), hand.model.side
        up = unit(joints[9] - joints[0])
        out = (1.0 if side == 'right' else -1.0) * cross(joints[5] - joints[17], up)
        _PALMS[hand] = _frame(up, out, side)
    return _PALMS[hand]


def _frame(up: np.ndarray, out: np.ndarray, side: str = 'right') -> _Frame:
    """Of a hand whose palm faces as near to `out` as lets its fingers point `up`."""
    up = unit(up)
    out = unit(out - up * (up @ out))
    return _Frame(up, out, cross(up, out) * (1.0 if side == 'right' else -1.0))


def _across(way: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = unit(cross(way, np.eye(3)[np.abs(way).argmin()]))
    return first, cross(way, first)
