"""`hand-unc calibrate-delays`: by how much each camera's images are older than their stamps, by the motion of hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.innovations import innovations
from hand_unc_ros.estimation.settings import MAX_DELAY_S
from hand_unc_ros.estimation.types import FrameResult
from hand_unc_ros.estimation.view_delays import Moment, Motion, MotionSums, joint_delays
from hand_unc_ros.evaluation.recordings.replay import Replay, find_calibration, find_images
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.settings.recordings import BagSettings

# The recording is cut into as many parts, of which each is left out in turn; hands must move in most of them.
PARTS, LEAST_PARTS = 10, 6
# A delay is told where it is so many times its standard deviation, and not below what this finds without any, s.
TOLD, LEAST_S = 2.0, 0.002


@dataclass(frozen=True)
class Delays:
    """cameras: V names.  delay_s: (V,), and deviation_s: (V,), their standard deviations."""

    cameras: tuple[str, ...]
    delay_s: np.ndarray
    deviation_s: np.ndarray


def calibrate_delays(bag: Path, settings: BagSettings = BagSettings()) -> Delays:
    """Delays against the mean of all cameras. The deviations are the jackknife's, over parts of the recording, since the
    errors of the views last from set to set (Efron and Stein, The jackknife estimate of variance, 1981).

    Views that are far apart count less, so that delays come out a little too short. Raises HandUncError with the remedy.
    """
    cameras, parts = _watched(bag, settings)
    moving = [part for part in parts if part.weight.any()]
    count = len(moving)
    if count < LEAST_PARTS:
        raise RecordingError(f'in {count} of {PARTS} parts of bag {bag} a hand that several cameras see moves; move one'
                             f' before all cameras, to and fro, for a minute (at least {LEAST_PARTS} parts are needed)')
    found = joint_delays(_total(moving, len(cameras)))
    without = [joint_delays(_total(moving[:row] + moving[row + 1:], len(cameras))) for row in range(count)]
    before = np.array([settings.estimator.delays_ns.get(camera, 0) for camera in cameras]) * 1e-9
    return Delays(cameras, np.clip(before + found, -MAX_DELAY_S, MAX_DELAY_S),
                  np.sqrt((count - 1) * np.var(without, axis=0)))


def run(bag: Path, settings: BagSettings) -> Delays:
    """The command: find the delays and say what to do with them."""
    delays = calibrate_delays(bag, settings)
    for camera, delay_s, deviation_s in zip(delays.cameras, delays.delay_s, delays.deviation_s):
        print(f'{camera}: {1e3 * delay_s:+.0f} ms, standard deviation {1e3 * deviation_s:.0f} ms')
    print('Positive: its images show the hand before their stamps, against the mean of all cameras.')
    told = np.abs(delays.delay_s) > np.maximum(TOLD * delays.deviation_s, LEAST_S)
    if told.any():
        entries = [f'{camera}={delay_s:.4f}' for camera, delay_s in zip(delays.cameras, delays.delay_s)]
        print(f'In the parameters: camera_delays: [{", ".join(np.array(entries)[told])}]')
        print('Before you keep it: hand-unc evaluate --bag on another recording, with it and without.')
    else:
        print('None of that is more than chance: go without camera_delays.')
    return delays


def _watched(bag: Path, settings: BagSettings) -> tuple[tuple[str, ...], list[MotionSums]]:
    """The cameras of a recording, and what the motion of its hands says of them in each of its parts."""
    with open_bag(bag, settings.part_s) as opened:
        calibrated = find_calibration(opened, settings)
        cameras = tuple(find_images(opened, calibrated, settings))
        estimator = build_estimator(settings.estimator, cameras)
        try:
            replay = Replay(opened, calibrated, settings, estimator)
            motion = Motion(len(cameras))
            sums = [motion.sums_of(_moments(processed.result, replay.rig)) for processed in replay]
        finally:
            estimator.close()
    edges = np.linspace(0, len(sums), PARTS + 1).astype(int)
    return cameras, [_total(sums[start:stop], len(cameras)) for start, stop in zip(edges, edges[1:])]


def _moments(result: FrameResult, rig: CameraRig) -> list[tuple[str, Moment]]:
    found = []
    for hand in result.hands:
        views = result.readings_of(hand).gaussians
        rows = np.array([rig.names.index(name) for name in views.cameras])
        seen = innovations(views, rig.subset(list(views.cameras)), hand.joints)
        found.append((hand.handedness, Moment(result.stamp_ns / 1e9, rows, seen)))
    return found


def _total(parts: Sequence[MotionSums], cameras: int) -> MotionSums:
    total = MotionSums(cameras)
    for part in parts:
        total.add(part)
    return total
