"""Hands that hold something: a thing seated on the palm or on the pads of the fingers, which close until they touch.

The search bends skin by `FingerSkin`; what is returned was measured on the surface that the hand itself gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic import shapes
from hand_unc_ros.data.synthetic.finger_capsules import ANGLE_FINGERS, SOFT_M, clearance
from hand_unc_ros.data.synthetic.finger_skin import FingerSkin
from hand_unc_ros.data.synthetic.motion import HandState
from hand_unc_ros.data.synthetic.rasteriser import Mesh
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.data.synthetic.solids import KINDS, Solid, draw_solid
from hand_unc_ros.geometry.vectors import cross, unit
from hand_unc_ros.hand.limits import ANGLE_COUNT, REACH_LIMITS

# Skin may sink in by PENETRATION_M and touches what is within CONTACT_M. The search stops before.
PENETRATION_M, CONTACT_M = 0.003, 0.003
_SOFT_M = 0.0012
# Of fingers through each other, on the coarse hand.
_SELF_M = 0.0045
# Share of grasps by the whole hand whose thumb goes round the thing; it lies along or across it in the others.
_WRAPPED = 0.6
# From the axis of the thumb's last bone to its pad.
_THUMB_M = 0.008
_TRIES = 24
_SWEEP = np.linspace(0, 1, 8)
# Share of grasps by the pads of the fingers, by kind; pens and cards have no other.
_PRECISION = {'bottle': 0.0, 'mug': 0.0, 'box': 0.35, 'ball': 0.35, 'pen': 1.0, 'card': 1.0}
_ABDUCTIONS, _KNUCKLES = np.array([6, 10, 14, 18]), np.array([5, 9, 13, 17])
_OUTER = np.setdiff1d(np.arange(ANGLE_COUNT), np.concatenate([[0, 1, 2], _ABDUCTIONS, _KNUCKLES]))


class Grasp(NamedTuple):
    """state: of the hand.  vertices (V, 3), joints (21, 3): its surface, metres, world.  thing: the mesh in the world.
    solid: the thing about its origin.  rotation (3, 3), translation (3,): world from solid."""

    state: HandState
    vertices: np.ndarray
    joints: np.ndarray
    thing: Mesh
    solid: Solid
    rotation: np.ndarray
    translation: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Of points (..., 3) to the thing's surface, metres, negative inside."""
        return self.solid.distance(points, self.rotation, self.translation)


@dataclass(frozen=True)
class _Frame:
    """Unit vectors (3,), world: `up` along the fingers, `out` of the palm, `across` to the thumb's side."""

    up: np.ndarray
    out: np.ndarray
    across: np.ndarray


# What of a hand is the same for all its grasps.
_SKINS: WeakKeyDictionary[PosedHand, FingerSkin] = WeakKeyDictionary()


def finger_skin(hand: PosedHand) -> FingerSkin:
    """The hand's FingerSkin, made once."""
    if hand not in _SKINS:
        _SKINS[hand] = FingerSkin(hand)
    return _SKINS[hand]


def draw_grasp(rng: np.random.Generator, hand: PosedHand, betas: np.ndarray | None = None,
               orientation: np.ndarray | None = None, translation: np.ndarray | None = None,
               kind: str | None = None) -> Grasp:
    """A hand that holds an everyday thing.

    betas: (10,), zeros by default.  orientation: rotation vector (3,), translation: (3,) metres, of the hand.
    kind: of `solids.KINDS`, any by default.

    Skin sinks into the thing by 3 mm at most; two fingers and the palm or the thumb are within 3 mm of it. Where no
    such grasp is found in 24 tries, which has not been seen, the nearest one is returned.
    """
    betas = np.zeros(10) if betas is None else betas
    orientation = np.zeros(3) if orientation is None else orientation
    translation = np.zeros(3) if translation is None else translation
    best, least = None, np.inf
    for _ in range(_TRIES):
        chosen = kind or str(rng.choice(KINDS, p=[0.25, 0.17, 0.16, 0.1, 0.12, 0.2]))
        attempt = _Attempt(rng, hand, betas, orientation, translation, draw_solid(rng, chosen))
        grasp, excess = attempt.close()
        if excess < least:
            best, least = grasp, excess
        if excess <= 0:
            break
    return best


class _Attempt:
    """One thing seated on one hand."""

    def __init__(self, rng: np.random.Generator, hand: PosedHand, betas: np.ndarray, orientation: np.ndarray,
                 translation: np.ndarray, solid: Solid) -> None:
        self.hand, self.skin, self.betas, self.solid = hand, finger_skin(hand), betas, solid
        self.orientation, self.translation = orientation, translation
        self.precise = rng.random() < _PRECISION[solid.kind]
        if self.precise:
            self.start, self.end, self.used = _precision_ways(rng, solid)
        else:
            self.start, self.end, self.used = *_power_ways(rng), 4
        self.vertices, self.joints = self._surface(self.start)
        self.rotation, self.place = self._seat_on_pads(rng) if self.precise else self._seat_on_palm(rng)
        if self._away(self.vertices[self.skin.finger == 0]).min() < -_SOFT_M:
            self._start_beside()
        if self.precise or rng.random() < _WRAPPED:
            self._aim_thumb(rng)

    def close(self) -> tuple[Grasp, float]:
        """The closed grasp, and by how much in metres it misses its conditions, 0 where it meets them."""
        angles = self._swept(self.start, self.end)
        if not self.precise:
            # Further joints wrap on where a nearer bone has met the thing.
            further = angles.copy()
            further[_OUTER] = self.end[_OUTER]
            angles = self._swept(angles, further)
        grasp, excess = self._measured(angles)
        if 0 < excess < 0.02:
            # The search bends skin approximately; once more, from the exact surface.
            self.start, self.vertices, self.joints = angles, grasp.vertices, grasp.joints
            grasp, excess = self._measured(self._corrected(angles))
        return grasp, excess

    def _measured(self, angles: np.ndarray) -> tuple[Grasp, float]:
        vertices, joints = self._surface(angles)
        state = HandState(angles, self.orientation, self.translation)
        thing = shapes.placed(self.solid.mesh, self.rotation, self.place)
        grasp = Grasp(state, vertices, joints, thing, self.solid, self.rotation, self.place)
        away = self._away(vertices)
        fingers = np.sort([away[self.skin.finger == finger].min() for finger in range(1, 5)])
        opposed = min(away[self.skin.finger == 0].min(), away[self.skin.palm].min())
        between, thumb = clearance(angles[None])
        return grasp, max(0.0, -away.min() - PENETRATION_M, max(fingers[1], opposed) - CONTACT_M,
                          -min(between.min(), thumb[0]) - _SELF_M)

    def _surface(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        state = HandState(angles, self.orientation, self.translation)
        vertices, joints = self.hand.surfaces([state], self.betas[None])
        return vertices[0], joints[0]

    def _away(self, points: np.ndarray) -> np.ndarray:
        return self.solid.distance(points, self.rotation, self.place)

    def _depths(self, angles: np.ndarray) -> np.ndarray:
        """(B, 5) least distance of the thumb … little to the thing, of poses (B, 21)."""
        away = self._away(self.skin.bent(self.vertices, self.joints, self.orientation, self.start, angles))
        return np.minimum.reduceat(away, self.skin.ends[:-1], axis=1)

    def _swept(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Each finger as far from `start` to `end` (21,) as it gets before it sinks in or runs into the hand itself:
        a coarse sweep, then a fine one."""
        low, high = np.zeros(5), np.ones(5)
        for _ in range(2):
            shares = low + (high - low) * _SWEEP[:, None]
            ways = start + shares[:, ANGLE_FINGERS] * (end - start)
            fingers, thumb = clearance(ways)
            free = self._depths(ways) >= -_SOFT_M
            free[:, 1:] &= fingers >= -SOFT_M
            free[:, 0] &= thumb >= -SOFT_M
            met = np.where(free.all(axis=0), len(_SWEEP), free.argmin(axis=0))
            low, high = (shares[np.clip(met - 1, 0, None), np.arange(5)],
                         shares[np.clip(met, 0, len(_SWEEP) - 1), np.arange(5)])
        return start + low[ANGLE_FINGERS] * (end - start)

    def _corrected(self, angles: np.ndarray) -> np.ndarray:
        """The pose with each finger opened or closed by a few degrees, to where its skin just touches."""
        closing = np.zeros(ANGLE_COUNT)
        closing[_KNUCKLES] = closing[_KNUCKLES + 2] = np.deg2rad(7.0)
        closing[0] = closing[3] = np.deg2rad(7.0)
        shares = np.linspace(-1, 1, 13)
        ways = np.clip(angles + shares[:, None] * closing, *REACH_LIMITS.T)
        depths = self._depths(ways)
        # The last of those that are free from the most open one on; a finger that touches nothing stays.
        free = depths >= -_SOFT_M
        met = np.where(free.all(axis=0), np.where(depths[6] < 2 * CONTACT_M, 13, 7), free.argmin(axis=0))
        chosen = np.clip(met - 1, 0, None)
        return ways[chosen[ANGLE_FINGERS], np.arange(ANGLE_COUNT)]

    def _frame(self) -> _Frame:
        up = unit(self.joints[9] - self.joints[0])
        side = 1.0 if self.hand.model.side == 'right' else -1.0
        out = side * unit(cross(self.joints[5] - self.joints[17], up))
        return _Frame(up, out, unit(cross(up, out)) * side)

    def _seat_on_palm(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The long axis lies across the palm, or slants towards the heel as handles do."""
        frame, half = self._frame(), self.solid.half
        slant = rng.normal(np.deg2rad(15), np.deg2rad(14))
        axis = np.cos(slant) * frame.across + np.sin(slant) * frame.up + rng.normal(0, 0.06) * frame.out
        if self.solid.kind == 'ball':
            axis = rng.normal(size=3)
        rotation = _frame_of(axis, frame.out)
        if self.solid.kind == 'mug':
            # The handle away from the hand.
            turn = rng.uniform(-0.6, 0.6)
            rotation = rotation @ Rotation.from_rotvec([0, 0, turn]).as_matrix()
        knuckles = self.joints[[5, 9, 13, 17]].mean(axis=0)
        place = (knuckles - rng.uniform(0.012, 0.03) * frame.up + rng.normal(0, 0.008) * frame.across
                 + rng.uniform(-0.5, 0.5) * max(half[2] - 0.05, 0) * axis)
        rows = np.flatnonzero(self.skin.finger != 0)
        place = self._pushed(rotation, place, frame.out, rows)
        # The thumb goes round from below, near the index finger.
        beside = 0.0 if self.solid.kind == 'ball' else np.clip((self.joints[5] - place) @ axis, -half[2], half[2])
        self.grip = unit(frame.out - rng.uniform(0, 1.2) * frame.up), place + beside * axis
        return rotation, place

    def _seat_on_pads(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Against the pads of the fingers in use, which the thumb faces."""
        tips, last = self.joints[[8, 12, 16, 20]][:self.used], self.joints[[7, 11, 15, 19]][:self.used]
        along = unit((tips - last).mean(axis=0))
        across = self._frame().across
        across = unit(across - along * (across @ along))
        side = 1.0 if self.hand.model.side == 'right' else -1.0
        grip = unit(cross(across, along)) * side
        place = middle = (0.45 * last + 0.55 * tips).mean(axis=0)
        self.grip = grip, middle
        half = self.solid.half
        if self.solid.kind == 'pen':
            lean = rng.uniform(np.deg2rad(15), np.deg2rad(70))
            axis = np.sin(lean) * along + np.cos(lean) * across
            place = place + rng.uniform(-0.3, 0.55) * half[2] * axis
            rotation = _frame_of(axis, grip)
        elif self.solid.kind == 'card':
            # Held near an edge: most of it lies beyond the fingers.
            lean = rng.normal(0, 0.35)
            beyond = np.cos(lean) * along + np.sin(lean) * across
            first = rng.random() < 0.5
            other = cross(beyond, grip)
            rotation = _frame_of(other if first else beyond, grip)
            place = place + beyond * ((half[1] if first else half[2]) - rng.uniform(0.012, 0.022))
        else:
            turn = rng.normal(0, 0.4)
            axis = np.cos(turn) * (along if rng.random() < 0.5 else across) + np.sin(turn) * cross(grip, across)
            rotation = _frame_of(axis, grip)
            # The thing's middle a little beyond the fingertips, the more the larger it is.
            beyond = np.abs(rotation.T @ along) @ half if self.solid.kind == 'box' else half[0]
            place = place + (beyond - rng.uniform(0.01, 0.02)) * along
        rows = np.flatnonzero((self.skin.finger > 0) & (self.skin.finger <= self.used))
        return rotation, self._pushed(rotation, place, grip, rows)

    def _start_beside(self) -> None:
        """Another place for the thumb to come from: the freest one of some."""
        thumbs = np.deg2rad([[flexion, abduction, 15, -5, -10]
                             for flexion in (-24, -8, 12) for abduction in (36, 8, -28)])
        ways = np.tile(self.start, (len(thumbs), 1))
        ways[:, :5] = thumbs
        self.start = ways[np.minimum(self._depths(ways)[:, 0], clearance(ways)[1]).argmax()]
        self.vertices, self.joints = self._surface(self.start)

    def _aim_thumb(self, rng: np.random.Generator) -> None:
        """Ends the thumb's way past where its pad faces the fingers' on the thing's far side, by random search."""
        grip, middle = self.grip
        reach = middle + np.linspace(0, 0.12, 61)[:, None] * grip
        inside = np.flatnonzero(self._away(reach) < 0)
        target = reach[inside[-1]] if len(inside) else middle + 0.012 * grip
        turn = Rotation.from_rotvec(self.orientation).as_matrix()
        base, bones = self.joints[1], np.diff(self.joints[1:5], axis=0)
        here = self.skin.turns.world(self.start[None])[0, :, 0]
        bones = np.einsum('kji,kj->ki', turn @ here, bones)
        best, spread = np.array([0.2, 0.3, 0.7, 0.3, 0.2]), np.array([0.4, 0.4, 0.4, 0.4, 0.4])
        low, high = np.deg2rad([-20, -15, -10, -8, -20]), np.deg2rad([44, 35, 74, 50, 55])
        for _ in range(3):
            thumbs = np.clip(best + spread * rng.normal(size=(60, 5)), low, high)
            ways = np.tile(self.start, (60, 1))
            ways[:, :5] = thumbs
            world = turn @ self.skin.turns.world(ways)[:, :, 0]
            steps = (world @ bones[..., None])[..., 0]
            pads = world[:, 2] @ self.skin.thumb_pad
            touch = base + steps[:, :2].sum(axis=1) + 0.6 * steps[:, 2] + _THUMB_M * pads
            miss = ((touch - target) ** 2).sum(axis=1) / 0.005 ** 2 + (1 + pads @ grip) / 0.2
            best, spread = thumbs[miss.argmin()], spread / 2.5
        self.end[:5] = np.clip(best + 0.25 * (best - self.start[:5]), *REACH_LIMITS[:5].T)

    def _pushed(self, rotation: np.ndarray, place: np.ndarray, out: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The place moved along `out` until the vertices `rows` just touch the thing."""
        low, high = -0.06, 0.12
        points = self.vertices[rows]
        for _ in range(3):
            shifts = np.linspace(low, high, 12)
            # From far out inwards, the last one that is free.
            first = len(shifts)
            while first:
                away = self.solid.distance(points, rotation, place + shifts[first - 1] * out)
                if away.min() < -0.5 * _SOFT_M:
                    break
                first -= 1
            low, high = shifts[max(first - 1, 0)], shifts[min(first, len(shifts) - 1)]
        return place + high * out


def _power_ways(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Angles (21,) rad of an open hand and of one that is closed further than any thing lets it."""
    fan = rng.normal(0.2, 0.4) * np.array([8.0, 1.0, -6.0, -12.0]) + rng.normal(0, 2, 4)
    dip = rng.uniform(0.45, 0.85)
    opened, closed = [-18, 26, rng.uniform(5, 40), -5, 0], [38, rng.uniform(10, 24), rng.uniform(35, 65), 45, 60]
    for place in range(4):
        opened += [-12, fan[place], 4, 4]
        closed += [88 + rng.normal(0, 5), 0.5 * fan[place], 100 + rng.normal(0, 4), 100 * dip]
    return _within(opened), _within(closed)


def _precision_ways(rng: np.random.Generator, solid: Solid) -> tuple[np.ndarray, np.ndarray, int]:
    """The same of a pinch, and with how many fingers beside the thumb."""
    used = int(rng.integers(2, 5)) if solid.kind != 'pen' else 2
    mcp, pip, dip = rng.uniform(32, 58), rng.uniform(18, 48), rng.uniform(0, 25)
    rest = rng.uniform(-5, 60), rng.uniform(10, 80)
    opened = [-12, 32, rng.uniform(35, 60), -5, rng.uniform(-10, 15)]
    closed = [40, rng.uniform(8, 26), opened[2] + rng.uniform(0, 15), 45, 45]
    fan = rng.normal(0, 0.3) * np.array([8.0, 1.0, -6.0, -12.0]) + np.array([-2.0, 1.0, 2.0, 3.0])
    for place in range(4):
        if place < used:
            bend = np.array([mcp, fan[place], pip, dip]) + rng.normal(0, [1.5, 1, 1.5, 2])
            opened += list(bend)
            closed += list(bend + [14, 0, 18, 10])
        else:
            opened += [min(rest[0], mcp - 12), fan[place], min(rest[1], pip), 8]
            closed += [rest[0] + 4, fan[place], rest[1] + 4, 0.6 * rest[1]]
    return _within(opened), _within(closed), used


def _within(degrees: list[float]) -> np.ndarray:
    return np.clip(np.deg2rad(degrees), *REACH_LIMITS.T)


def _frame_of(axis: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) that turns z to `axis` and x as near to `out` as that lets it."""
    z = unit(axis)
    x = unit(out - z * (out @ z))
    return np.stack([x, cross(z, x), z], axis=1)
