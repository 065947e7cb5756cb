"""Whether each camera still is where the rig says: its joints against those of the other views, over time.

A camera that has moved shifts all of its joints alike, set after set, while a network's errors change with the hand.
So the one number that is followed per camera is the common shift of its joints in its image, as the other views see
them.  Views are coupled through the points that they share: a shift of one seems to be a part of the same shift, the
other way, in every other.  The camera whose shift explains most is blamed first, and the others are asked again with
that shift taken as known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hand_unc_ros.estimation.blame import blame_worst
from hand_unc_ros.estimation.innovations import Innovations
from hand_unc_ros.estimation.types import ViewReport
from hand_unc_ros.estimation.view_delays import Moment, ViewDelays
from hand_unc_ros.estimation.windows import Window
from hand_unc_ros.methods.view_gaussians import ViewGaussians

# The knuckles move with the palm.
GROUPS = {'palm': (0, 1, 5, 9, 13, 17), 'thumb': (2, 3, 4), 'index': (6, 7, 8), 'middle': (10, 11, 12),
          'ring': (14, 15, 16), 'little': (18, 19, 20)}
_GROUP_OF = np.array([next(row for row, joints in enumerate(GROUPS.values()) if joint in joints)
                      for joint in range(21)])
_MEMBERS = (_GROUP_OF[:, None] == np.arange(len(GROUPS))).astype(float)


class Scale(NamedTuple):
    """One window over the shifts. window_s: seconds of sets that it holds.  raise_at, clear_at: strengths at which a
    camera is blamed, and at which it is good again."""

    window_s: float
    raise_at: float
    clear_at: float


# Strength is the shift in units of the innovation's σ, as the views claim it.
SCALES = (Scale(2.5, 0.75, 0.5), Scale(10.0, 0.42, 0.28))
# Share of the sets in the longest window from which a view was left out for disagreeing with all others.
LEFT_OUT_RAISE, LEFT_OUT_CLEAR = 0.5, 0.3
# Prior on a shift, as a share of its mean information; two views say nothing of a shift along the epipolar lines.
_PRIOR = 0.02
# Nothing is forgotten in a pause, and a slow stream is not more certain for being slow.
_LONGEST_STEP_S = 0.2


class Observation(NamedTuple):
    """One hand of a set. views: V readings.  innovations: theirs, about the fused joints.  agreed: (V,) bool, those
    that were not left out for disagreement.  handedness: tells it from the other hand of the set."""

    views: ViewGaussians
    innovations: Innovations
    agreed: np.ndarray
    handedness: str = 'right'


class _Sums:
    """Sums over sets: score (2V,), information (2V, 2V) and weight (V,) as in Innovations; squared innovations and
    degrees of freedom (V, groups); sets that offered each view, and from which it was left out (V,)."""

    def __init__(self, cameras: int) -> None:
        self.score, self.information = np.zeros(2 * cameras), np.zeros((2 * cameras, 2 * cameras))
        self.weight, self.offered, self.left_out = np.zeros((3, cameras))
        self.squared, self.dof = np.zeros((2, cameras, len(GROUPS)))

    def add(self, other: _Sums, sign: float = 1.0) -> None:
        for name, sums in vars(self).items():
            sums += sign * getattr(other, name)


class ViewHealth:
    """Follows the innovations of the named cameras: `update` takes each fused set, `reports` rates each camera, and
    `extra_variance_px2` lets those that have moved count less.

    shift_factor: of the strengths of SCALES at which a camera is blamed, for a method whose joints in a view err alike
    for as long as a hand keeps its pose.
    """

    def __init__(self, cameras: tuple[str, ...], shift_factor: float = 1.0) -> None:
        self.cameras = cameras
        self._scales = tuple(Scale(scale.window_s, shift_factor * scale.raise_at, shift_factor * scale.clear_at)
                             for scale in SCALES)
        self.reset()

    def reset(self) -> None:
        """Know nothing, as after a jump in time."""
        count = len(self.cameras)
        self._windows = [Window(scale.window_s, lambda: _Sums(count)) for scale in self._scales]
        self._delays = ViewDelays(count)
        self._disagrees = np.zeros(count, bool)
        self._blamed: dict[int, tuple[int, ...]] = {}
        self._shift_px = np.full((count, 2), np.nan)
        self._strength = np.full(count, np.nan)
        self._seen_ns: int | None = None

    @property
    def moved(self) -> dict[str, tuple[str, ...]]:
        """Blamed cameras, each with all those of which one has moved, itself first; alone where it is clear."""
        return {self.cameras[row]: tuple(self.cameras[other] for other in suspects)
                for row, suspects in self._blamed.items()}

    @property
    def extra_variance_px2(self) -> dict[str, np.ndarray]:
        """Added to the variances of a camera that has moved, (2,): its shift as one more standard deviation along each
        axis.  Where it is not clear which camera has moved, all count as they are.

        To leave the view out altogether costs more than a shift of 1° and 5 mm does: of four views and of three.
        """
        return {self.cameras[row]: np.square(self._shift_px[row]) for row, suspects in self._blamed.items()
                if len(suspects) == 1}

    def update(self, stamp_ns: int, observed: Sequence[Observation]) -> None:
        """Take the hands of a set. A stamp that is not after the one before resets."""
        if self._seen_ns is not None and stamp_ns <= self._seen_ns:
            self.reset()
        step_s = 0.0 if self._seen_ns is None else min((stamp_ns - self._seen_ns) / 1e9, _LONGEST_STEP_S)
        self._seen_ns = stamp_ns
        sums = _Sums(len(self.cameras))
        for hand in observed:
            sums.add(self._sums_of(hand))
        for window in self._windows:
            window.add(sums, step_s)
        self._delays.update([(hand.handedness, Moment(stamp_ns / 1e9, self._rows(hand), hand.innovations))
                             for hand in observed], step_s)
        recent = self._windows[-1].total
        share = recent.left_out / np.maximum(recent.offered, 1e-9)
        self._disagrees = np.where(self._disagrees, share > LEFT_OUT_CLEAR,
                                   self._windows[-1].judges() & (share > LEFT_OUT_RAISE))
        self._blame()

    def _rows(self, hand: Observation) -> np.ndarray:
        return np.array([self.cameras.index(name) for name in hand.views.cameras])

    def _sums_of(self, hand: Observation) -> _Sums:
        rows = self._rows(hand)
        pairs = (2 * rows[:, None] + (0, 1)).ravel()
        offered, innovations = hand.views.valid.any(1), hand.innovations
        sums = _Sums(len(self.cameras))
        sums.score[pairs], sums.information[np.ix_(pairs, pairs)] = innovations.score, innovations.information
        sums.weight[rows] = innovations.weight
        sums.squared[rows], sums.dof[rows] = np.nan_to_num(innovations.squared) @ _MEMBERS, innovations.dof @ _MEMBERS
        sums.offered[rows], sums.left_out[rows] = offered, offered & ~hand.agreed
        return sums

    def _blame(self) -> None:
        """Blame anew, one after the other; a camera that was blamed before needs less to stay so."""
        before, blamed = self._blamed, {}
        for index, (window, scale) in enumerate(zip(self._windows, self._scales)):
            judges = window.judges()
            while True:
                explained, strength, shift = _shifts(window.total, list(blamed))
                if index == 0 and not blamed:
                    self._strength, self._shift_px = strength, shift
                limit = np.where(judges, scale.raise_at, np.inf)
                limit[list(before)] = scale.clear_at
                limit[list(blamed)] = np.inf
                guilty = np.flatnonzero(strength >= limit)
                if not len(guilty):
                    break
                worst = blame_worst(explained, guilty, blamed)
                self._strength[worst], self._shift_px[worst] = strength[worst], shift[worst]
        self._blamed = blamed

    def reports(self) -> tuple[ViewReport, ...]:
        """One for each camera."""
        suspects = {row: group for group in self._blamed.values() for row in group}
        late = {row: group for group in self._delays.late.values() for row in group}
        with np.errstate(invalid='ignore', divide='ignore'):
            short, long = self._windows[0].total, self._windows[-1].total
            innovation = np.where(short.dof > 0.5, short.squared / short.dof, np.nan)
            left_out = np.where(long.offered > 0.5, long.left_out / long.offered, np.nan)
        return tuple(ViewReport(
            dict(zip(GROUPS, innovation[row].tolist())), float(np.hypot(*self._shift_px[row])),
            float(self._strength[row]), tuple(self.cameras[other] for other in suspects.get(row, ())),
            float(left_out[row]), bool(self._disagrees[row]), float(self._delays.delay_s[row]),
            tuple(self.cameras[other] for other in late.get(row, ()))) for row in range(len(self.cameras)))


def _shifts(sums: _Sums, known: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each camera alone, given that those in `known` are shifted by whatever fits best: what its shift explains
    (V,), twice the log-likelihood; its strength (V,); the shift (V, 2) in px.  NaN-free; 0 where nothing is known."""
    count = len(sums.weight)
    each = np.arange(count)
    score, information = sums.score, sums.information
    prior = _PRIOR * np.diag(information).reshape(count, 2).mean(1) + 1e-12
    if known:
        rows = (2 * np.array(known)[:, None] + (0, 1)).ravel()
        gain = np.linalg.solve(information[np.ix_(rows, rows)] + np.diag(np.repeat(prior[known], 2)),
                               information[rows]).T
        score, information = score - gain @ score[rows], information - gain @ information[rows]
    blocks = information.reshape(count, 2, count, 2)[each, :, each, :] + prior[:, None, None] * np.eye(2)
    pairs = score.reshape(count, 2)
    shift = np.linalg.solve(blocks, pairs[..., None])[..., 0]
    explained = np.maximum((pairs * shift).sum(1), 0.0)
    return explained, np.sqrt(explained / np.maximum(sums.weight, 1e-9)), shift
