"""The other hand of a person whose right hand moves: it passes close by, or goes along, touching or clasped."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic.motion import HandMotion, HandState
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.data.synthetic.two_hands import PENETRATION_M, PlacedHand, draw_two_hands, penetration
from hand_unc_ros.geometry.vectors import unit

# Share of second hands that pass by; the others go along with the first one.
PASSING = 0.6
# Of a hand that passes: metres a second, and how near the palms' middles come at first, metres; moved away step by step
# where that is through each other.
SPEED_MPS, GAP_M, STEP_M = (0.08, 0.6), (0.03, 0.08), 0.01
# Time between its key poses, seconds, and how far it strays from its way, metres.
PERIOD_S, STRAYS_M = 1.1, (0.02, 0.02, 0.02)
_PALM = [0, 5, 9, 13, 17]


class MovingHands(NamedTuple):
    """states: of the right hand at F times.  vertices (F, N, 3) and joints (F, 21, 3) of both, metres, world."""

    states: list[HandState]
    vertices: np.ndarray
    joints: np.ndarray
    other_vertices: np.ndarray
    other_joints: np.ndarray


def with_second_hand(rng: np.random.Generator, right: PosedHand, left: PosedHand, betas: np.ndarray,
                     states: list[HandState], stamps: np.ndarray, free: bool) -> MovingHands:
    """A left hand beside a right one with these states at stamps (F,), seconds. betas: (10,) of both.  free: whether
    the right hand holds nothing, so that the left one can go along with it; its fingers then keep still."""
    if free and rng.random() >= PASSING:
        return _going_along(rng, right, left, betas, states)
    return _passing(rng, right, left, betas, states, stamps)


def _going_along(rng: np.random.Generator, right: PosedHand, left: PosedHand, betas: np.ndarray,
                 states: list[HandState]) -> MovingHands:
    pair = draw_two_hands(rng, right, left, betas, str(rng.choice(['touching', 'clasped'])))
    states = [replace(state, angles=pair.right.state.angles) for state in states]
    vertices, joints = right.surfaces(states, np.tile(betas, (len(states), 1)))
    back = Rotation.from_rotvec(pair.right.state.orientation).inv()
    other = [np.stack([(Rotation.from_rotvec(state.orientation) * back).apply(part - pair.right.joints[0]) + wrist
                       for state, wrist in zip(states, joints[:, 0])])
             for part in (pair.left.vertices, pair.left.joints)]
    return MovingHands(states, vertices, joints, *other)


def _passing(rng: np.random.Generator, right: PosedHand, left: PosedHand, betas: np.ndarray, states: list[HandState],
             stamps: np.ndarray) -> MovingHands:
    vertices, joints = right.surfaces(states, np.tile(betas, (len(states), 1)))
    base = tuple(Rotation.random(random_state=int(rng.integers(2 ** 31))).as_rotvec())
    motion = HandMotion(int(rng.integers(2 ** 62)), PERIOD_S, base, reach=STRAYS_M)
    start = rng.uniform(0, 4 * PERIOD_S)
    others = [motion.at(start + t) for t in stamps]
    other_vertices, other_joints = left.surfaces(others, np.tile(betas, (len(others), 1)))
    way = unit(rng.normal(size=3))
    aside = unit(np.cross(way, rng.normal(size=3)))
    along = rng.uniform(*SPEED_MPS) * (stamps - rng.uniform(stamps[0], stamps[-1]))
    # From its own place, about which it strays, to beside the other palm.
    shift = joints[:, _PALM].mean(axis=1) - other_joints[0, _PALM].mean(axis=0) + along[:, None] * way
    gap = rng.uniform(*GAP_M)
    while True:
        moved = [part + (shift + gap * aside)[:, None] for part in (other_vertices, other_joints)]
        firsts, seconds = map(PlacedHand, states, vertices, joints), map(PlacedHand, others, *moved)
        if max(penetration((right, left), pair) for pair in zip(firsts, seconds)) <= PENETRATION_M:
            return MovingHands(states, vertices, joints, *moved)
        gap += STEP_M
