"""Whether the images of a camera are later than their stamps say, by the motion of the hand.

A driver that buffers, or stamps an image when it has been transferred, shows the hand where it was before. While the
hand moves slowly the views still agree, and since it moves to and fro no shift of the camera is left on average. So the
shift of its joints, as `innovations` has it, is held against the velocity of the hand in its image: a delay τ shifts
them by −τ u, set after set. The same delay of all cameras can't be told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hand_unc_ros.estimation.blame import blame_worst
from hand_unc_ros.estimation.innovations import Innovations
from hand_unc_ros.estimation.windows import Window

WINDOW_S = 10.0
# Strength at which a camera is blamed and at which it is good again: the shift by the delay, in units of claimed σ,
# while the hand moves.
RAISE_AT, CLEAR_AT = 0.4, 0.25
# Less is jitter.
SHORTEST_S = 0.04
# Velocities are central differences over so long a time to each side. Forward or backward ones would take a part of the
# noise of the innovation for motion.
_HALF_SPAN_S = 0.12
# A slower hand tells nothing of delays.
_SLOWEST_M_S = 0.04
# In which share of the window's parts the hand has to move.
_MOVING = 0.5
# Prior on a delay, as a share of its information.
_PRIOR = 0.02
_LONGEST_GAP_S = 0.3


class Moment(NamedTuple):
    """A hand in one set. seconds: of its stamp.  rows: (V,) of its views among all cameras.  innovations: of its
    views."""

    seconds: float
    rows: np.ndarray
    innovations: Innovations


class MotionSums:
    """Sums over sets in which a hand moved: score (V,) in 1/s, information (V, V) in 1/s², weight (V,) joints, and
    sets that offered each view (V,)."""

    def __init__(self, cameras: int) -> None:
        self.score, self.information = np.zeros(cameras), np.zeros((cameras, cameras))
        self.weight, self.offered = np.zeros((2, cameras))

    def add(self, other: MotionSums, sign: float = 1.0) -> None:
        """Add the other's sums, or with sign −1 take them away."""
        for name, sums in vars(self).items():
            sums += sign * getattr(other, name)


class Motion:
    """Tells what the motion of hands says of the cameras' delays, set after set."""

    def __init__(self, cameras: int) -> None:
        self._count = cameras
        self._moments: dict[str, deque[Moment]] = {}

    def sums_of(self, hands: Sequence[tuple[str, Moment]]) -> MotionSums:
        """By the hands of the next set, by handedness."""
        sums = MotionSums(self._count)
        for side, moment in hands:
            self._add(sums, self._moments.setdefault(side, deque()), moment)
        return sums

    def _add(self, sums: MotionSums, moments: deque[Moment], newest: Moment) -> None:
        """Add the moment that lies half a span back, whose velocity is known now."""
        if moments and newest.seconds - moments[-1].seconds > _LONGEST_GAP_S:
            moments.clear()
        moments.append(newest)
        middle = next((moment for moment in reversed(moments)
                       if newest.seconds - moment.seconds >= _HALF_SPAN_S), None)
        if middle is None:
            return
        first = next((moment for moment in reversed(moments)
                      if middle.seconds - moment.seconds >= _HALF_SPAN_S), None)
        if first is None:
            return
        while moments[0] is not first:
            moments.popleft()
        velocity = (newest.innovations.centre - first.innovations.centre) / (newest.seconds - first.seconds)
        if not np.linalg.norm(velocity) >= _SLOWEST_M_S:
            return
        found, rows = middle.innovations, middle.rows
        # (V, 2) px/s, by which a view is shifted for a second of delay.
        shift = np.nan_to_num(-found.jacobian @ velocity)
        pairs = len(rows), 2
        sums.score[rows] += (shift * found.score.reshape(pairs)).sum(1)
        sums.information[np.ix_(rows, rows)] += np.einsum(
            'vi,viwj,wj->vw', shift, found.information.reshape(*pairs, *pairs), shift)
        sums.weight[rows] += found.weight
        sums.offered[rows] += found.weight > 0


class ViewDelays:
    """Follows the delays of cameras: `update` takes each fused set.

    delay_s, strength: (V,), NaN before anything is known.  late: rows of blamed cameras, each with all those of which
    one's stamps are wrong, itself first.
    """

    def __init__(self, cameras: int) -> None:
        self._window = Window(WINDOW_S, lambda: MotionSums(cameras))
        self._motion = Motion(cameras)
        self.late: dict[int, tuple[int, ...]] = {}
        self.delay_s, self.strength = np.full((2, cameras), np.nan)

    def update(self, hands: Sequence[tuple[str, Moment]], step_s: float) -> None:
        """Take the hands of a set, by handedness; `step_s` after the set before."""
        self._window.add(self._motion.sums_of(hands), step_s)
        self._blame()

    def _blame(self) -> None:
        """Blame anew, one after the other, those that are late for what the ones before can't explain."""
        before, blamed = self.late, {}
        total, judged = self._window.total, self._window.judges(_MOVING)
        while True:
            explained, strength, delay_s = _delays(total, list(blamed))
            if not blamed:
                self.strength, self.delay_s = strength, delay_s
            limit = np.where(judged & (np.abs(delay_s) >= SHORTEST_S), RAISE_AT, np.inf)
            limit[list(before)] = CLEAR_AT
            limit[list(blamed)] = np.inf
            guilty = np.flatnonzero(strength >= limit)
            if not len(guilty):
                break
            worst = blame_worst(explained, guilty, blamed)
            self.strength[worst], self.delay_s[worst] = strength[worst], delay_s[worst]
        self.late = blamed


def _delays(sums: MotionSums, known: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each camera alone, given that those in `known` are late by whatever fits best: what its delay explains (V,),
    twice the log-likelihood; its strength (V,); the delay (V,) in s.  NaN-free; 0 where nothing is known."""
    score, information = sums.score, sums.information
    prior = _PRIOR * np.diag(information) + 1e-12
    if known:
        gain = np.linalg.solve(information[np.ix_(known, known)] + np.diag(prior[known]), information[known]).T
        score, information = score - gain @ score[known], information - gain @ information[known]
    delay_s = score / (np.diag(information) + prior)
    explained = np.maximum(score * delay_s, 0.0)
    return explained, np.sqrt(explained / np.maximum(sums.weight, 1e-9)), delay_s


def joint_delays(sums: MotionSums) -> np.ndarray:
    """The delays (V,) s of all cameras together that fit best; their mean is 0, for the views say nothing of it."""
    information = sums.information + _PRIOR * np.diag(np.diag(sums.information)) + 1e-12 * np.eye(len(sums.score))
    return np.linalg.solve(information + information.trace() * np.ones_like(information), sums.score)
