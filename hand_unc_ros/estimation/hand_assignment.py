"""Which detections and readings of a set belong to which hand: the estimator's side of `association`.

A method that finds hands without reading them gives detections no joints to associate; each view's best detection of a
side is taken then, as where there is nothing to decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from hand_unc_ros.estimation.association import AssociatedHand, ExpectedHand, ImageHands, associate
from hand_unc_ros.estimation.tracks import Track
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods.contract import HANDEDNESS, Detection, ViewReading

# How far the handedness of a followed hand is trusted.
TRACK_RIGHT = {'right': 0.99, 'left': 0.01}
# A hand that views take for one side with more than this is not followed as the other one.
MOST_OTHER_SIDE = 0.9
# Readings of two tracks that lie closer than this share of the crop's side, in the median over the joints, show one hand.
SAME_HAND_SHARE = 0.12
# A detection is a followed hand where it is as near as that to where the views of the same set have put it: hands that
# hold one thing are nearer to each other than SAME_HAND_SHARE in some images.
CLAIMED_SHARE = 0.05
# A reading may be another hand's where it is not nearer to its own than by this factor, in the median over the joints.
DOUBT = 0.5
# Fewest joints of a reading that can be compared.
MIN_JOINTS = 8


@dataclass(frozen=True)
class _Shown:
    """A hand in one view's image. view: its index.  reading: of it.  owners: places of the tracks whose crops show
    it."""

    view: int
    reading: ViewReading
    owners: frozenset[int]


def expected_hand(track: Track, stamp_ns: int) -> ExpectedHand | None:
    """Where a track's hand is expected at a time, None where that is not known."""
    joints = track.predict(stamp_ns)
    if joints is None:
        return None
    return ExpectedHand(joints, track.expected_covariance(stamp_ns), TRACK_RIGHT[track.handedness])


def unclaimed(found: Sequence[Sequence[Detection]], rig: CameraRig,
              followed: Sequence[np.ndarray]) -> list[list[Detection]]:
    """Of the detections of each of a rig's cameras those that are not followed hands, where these are in the same set:
    one view's reading of them and another's of a new hand would make a third one. followed: their joints (21, 3)
    metres, world, NaN where unknown."""
    if not followed:
        return [list(of_view) for of_view in found]
    px = rig.project(torch.from_numpy(np.concatenate(followed)))[0].numpy().reshape(len(rig), len(followed), -1, 2)
    return [[one for one in of_view if one.reading is None or not _shows(one.reading, px[view])]
            for view, of_view in enumerate(found)]


def _shows(reading: ViewReading, hands_px: np.ndarray) -> bool:
    """Whether a reading is of one of H hands, whose joints (H, 21, 2) px are in its image."""
    apart = np.linalg.norm(reading.joints_px - hands_px, axis=-1)
    return any(shared.sum() >= MIN_JOINTS and np.median(own[shared]) < CLAIMED_SHARE * reading.box_px[2]
               for own, shared in zip(apart, np.isfinite(apart)))


def boxes_of_new_hands(found: Sequence[Sequence[Detection]], rig: CameraRig, sides: Sequence[str],
                       followed: Sequence[Track], lost: Sequence[Track], stamp_ns: int) -> dict[str, list[np.ndarray]]:
    """Side → boxes (4,) of the V views, NaN where a view does not show that hand, for the `sides` that are missing.

    found: detections of each of V views.  rig: their cameras.  followed: tracks whose hands are there already.
    lost: tracks that ended a moment ago, for whose hands these may be.
    """
    if _undecided(found, sides, followed):
        places = [(view, one) for view, of_view in enumerate(found) for one in of_view]
        hands = _image_hands([_Shown(view, one.reading, frozenset()) for view, one in places])
        known = [(track, hand) for track in (*followed, *lost) if (hand := expected_hand(track, stamp_ns)) is not None]
        groups = associate(hands, rig, [hand for _, hand in known], max_hands=len(sides) + len(followed) + 1)
        owner = [None if group.expected is None else known[group.expected][0] for group in groups]
        fresh = [(group, track) for group, track in zip(groups, owner) if not any(track is one for one in followed)]
        if fresh:
            free = [side for side in HANDEDNESS if all(track.handedness != side for track in followed)]
            return {side: _boxes(places, len(found), group.members.values())
                    for side, group in _sides(fresh, free).items() if side in sides}
        if groups:
            return {}
    return {side: [_best(of_view, side) for of_view in found] for side in sides}


def _undecided(found: Sequence[Sequence[Detection]], sides: Sequence[str], followed: Sequence[Track]) -> bool:
    """Whether detections must be associated: they could belong to more than one hand, or to none."""
    detections = [one for of_view in found for one in of_view]
    if not detections or any(one.reading is None for one in detections):
        return False
    return (bool(followed) or len(sides) > 1 or any(len(of_view) > 1 for of_view in found)
            or any(one.handedness not in sides for one in detections))


def _sides(groups: Sequence[tuple[AssociatedHand, Track | None]], free: Sequence[str]) -> dict[str, AssociatedHand]:
    """The side of each group that can have one of the `free` sides. A group that was followed before keeps its own."""
    odds = np.array([[_probability(group, track, side) for side in free] for group, track in groups])
    rows, columns = linear_sum_assignment(-np.log(odds))
    return {free[column]: groups[row][0] for row, column in zip(rows, columns)
            if odds[row, column] > 1 - MOST_OTHER_SIDE}


def _probability(group: AssociatedHand, track: Track | None, side: str) -> float:
    right = float(np.clip(group.right, 1e-3, 1 - 1e-3))
    own = right if side == 'right' else 1 - right
    if track is None:
        return own
    prior = TRACK_RIGHT[track.handedness] if side == 'right' else 1 - TRACK_RIGHT[track.handedness]
    return own * prior / (own * prior + (1 - own) * (1 - prior))


def _best(detections: Sequence[Detection], side: str) -> np.ndarray:
    of_side = [one for one in detections if one.handedness == side]
    return max(of_side, key=lambda one: one.score).box_px if of_side else np.full(4, np.nan)


def _boxes(places: Sequence[tuple[int, Detection]], views: int, members: Sequence[int]) -> list[np.ndarray]:
    boxes = [np.full(4, np.nan)] * views
    for member in members:
        view, detection = places[member]
        boxes[view] = detection.box_px
    return boxes


def owned_readings(readings: Sequence[Mapping[str, ViewReading]], tracks: Sequence[Track], lost: Sequence[Track],
                   rig: CameraRig, stamp_ns: int) -> list[frozenset[str]] | None:
    """Of each track, the cameras whose readings show its own hand; None where there is no doubt: every reading is far
    nearer to where its own hand is expected than to where another one is.

    readings: of each track's crops, by camera in the order of `rig`.  lost: tracks that ended a moment ago.
    """
    expected = [expected_hand(track, stamp_ns) for track in (*tracks, *lost)]
    if any(hand is None for hand in expected) or not _doubtful(readings, expected, rig):
        return None
    shown: list[_Shown] = []
    for view, camera in enumerate(rig.names):
        of_view: list[_Shown] = []
        for place, of_track in enumerate(readings):
            reading = of_track[camera]
            if reading.valid.sum() < MIN_JOINTS:
                continue
            same = next((one for one in of_view if _difference(one.reading, reading) < SAME_HAND_SHARE), None)
            if same is not None:
                of_view.remove(same)
                reading = max(same.reading, reading, key=lambda one: one.score)
            of_view.append(_Shown(view, reading, frozenset({place}) | (same.owners if same else frozenset())))
        shown += of_view
    owned: list[frozenset[str]] = [frozenset()] * len(tracks)
    for group in associate(_image_hands(shown), rig, expected, max_hands=len(expected)):
        if group.expected is not None and group.expected < len(tracks):
            owned[group.expected] = frozenset(rig.names[view] for view, member in group.members.items()
                                              if group.expected in shown[member].owners)
    return owned


def _image_hands(shown: Sequence[_Shown]) -> ImageHands:
    """For `association`, in the same order."""
    count = len(shown)
    return ImageHands(np.array([one.view for one in shown], int),
                      np.array([one.reading.joints_px for one in shown]).reshape(count, 21, 2),
                      np.array([one.reading.variance_px2 for one in shown]).reshape(count, 21, 2),
                      np.array([one.reading.right for one in shown], float))


def _difference(one: ViewReading, other: ViewReading) -> float:
    """Median distance of their joints as a share of the crop's side; infinite where they share too few."""
    shared = one.valid & other.valid
    if shared.sum() < MIN_JOINTS:
        return np.inf
    apart = np.linalg.norm(one.joints_px[shared] - other.joints_px[shared], axis=1)
    return float(np.median(apart) / max(one.box_px[2], other.box_px[2]))


def _doubtful(readings: Sequence[Mapping[str, ViewReading]], expected: Sequence[ExpectedHand], rig: CameraRig) -> bool:
    """Whether a reading may show another hand than its own: `expected` begins with those of `readings`."""
    if len(expected) < 2:
        return False
    joints = np.stack([hand.joints for hand in expected])
    px = rig.project(torch.from_numpy(joints.reshape(-1, 3)))[0].numpy().reshape(len(rig), len(expected), -1, 2)
    for place, of_track in enumerate(readings):
        for view, camera in enumerate(rig.names):
            apart = np.linalg.norm(px[view] - of_track[camera].joints_px, axis=-1)
            shared = np.isfinite(apart).all(0)
            if shared.sum() < MIN_JOINTS:
                continue
            middle = np.median(apart[:, shared], axis=1)
            if middle[place] > DOUBT * np.delete(middle, place).min():
                return True
    return False
