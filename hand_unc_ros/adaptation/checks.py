"""Whether recordings can be learned from: checks on their first seconds that refuse with the reason and the remedy.

Each hand that single cameras find is held against those of the other cameras, pair by pair: where a calibration is
wrong, or clocks are, hands are seen and lie off each other's epipolar lines by many σ. Delays that are shorter show in
the motion of the hand (estimation/view_delays.py).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from hand_unc_ros.adaptation.plan import Source
from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.bags.video_sync import Lag, curve_of_images, match
from hand_unc_ros.errors import CalibrationError, RecordingError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.evaluation.recordings.replay import Replay, find_calibration
from hand_unc_ros.estimation.types import ViewReport
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods.contract import Method, View, ViewReading
from hand_unc_ros.methods.cropping import cut_crop, whole_image
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.methods.view_gaussians import stack

log = logging.getLogger(__name__)

# Seconds of a recording that are looked at, and sets of images of these in which single cameras are searched.
CHECKED_S, SEARCHED_SETS = 40.0, 40
# Sets in which two cameras must see a hand before their disagreement says anything.
FEWEST_PAIRED = 5
# Distance from the epipolar line, in σ, of the nearest hand of the other camera, in the best AGREEING share of the
# sets: cameras may look at different hands for most of the time, or take something else for one. Right calibrations
# give 0.2 to 3 there, and a camera that is turned by a degree 2: variances of first readings are a wide noise model's.
MOST_SIGMA, AGREEING = 5.0, 0.1
# Share of the sets with a hand below which a recording is one without hands.
LEAST_SHARE_OF_HANDS = 0.02
# Share of the sets with a hand in which a camera's stamps must be found late, or the camera somewhere else, before a
# recording is refused; and by how many claimed σ all joints must be shifted alike (estimation/view_health.py).
LATE_SHARE, MOVED_SHARE, MOVED_SIGMA = 0.5, 0.5, 3.0
# A lag between the motion in two cameras' images that their stamps should not have, periods.
LAG_PERIODS = 1.5
# Longer side of the images that motion is seen in.
THUMBNAIL_PX = 160


@dataclass
class Found:
    """What the first seconds of a recording show. sets: of images.  with_hand: sets with a 3D hand.  seen: camera →
    searched sets in which it shows a hand.  apart: pair of cameras → median distance in σ of each searched set in which
    both do, infinite for rays that do not meet.  late: camera → (sets in which its stamps were found late, sum of the
    delays in s).  moved: camera → (sets in which the other views found it somewhere else, sum of the shifts in px).
    lags: pair of cameras → seconds by which the images of the second lag.  seconds_per_set: that this machine took.
    remedy: for no hand."""

    sets: int = 0
    with_hand: int = 0
    searched: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    apart: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    late: dict[str, tuple[int, float]] = field(default_factory=dict)
    moved: dict[str, tuple[int, float]] = field(default_factory=dict)
    lags: dict[tuple[str, str], float] = field(default_factory=dict)
    period_s: float = 1.0
    seconds_per_set: float = 0.0
    remedy: str = ''


class _Moments(NamedTuple):
    """Small grey images of one camera, and their stamps in s."""

    images: list[np.ndarray]
    seconds: list[float]


def check_source(source: Source) -> Found:
    """Look at the first seconds of a recording. Raises RecordingError for one without hands or with clocks that are
    apart, and CalibrationError where the calibration contradicts the images."""
    found = look_at(source)
    name = source.path
    disagreeing = _disagreeing(found)
    lagging = {pair: lag for pair, lag in found.lags.items() if abs(lag) > LAG_PERIODS * found.period_s}
    if disagreeing and lagging:
        (first, second), lag = max(lagging.items(), key=lambda item: abs(item[1]))
        raise RecordingError(
            f'bag {name}: its cameras are not synchronised: the motion in the images of {second} comes {lag:+.2f} s '
            f'after that of {first}, by their stamps. Trigger the cameras together or set their clocks by PTP or '
            'chrony; for videos make the bag anew with `hand-unc bag from-videos --sync auto`, or give the offset by '
            '--shift')
    if disagreeing:
        cameras, sigma = disagreeing
        raise CalibrationError(
            f'bag {name}: the camera calibration contradicts the images: hands in the images of {cameras} lie '
            f'{sigma:.0f} σ or more from the epipolar lines of the other cameras. Check that the rig file is of this '
            'recording, names the cameras as the topics do and is in metres; calibrate anew where a camera has moved')
    for camera, (sets, shift_px) in found.moved.items():
        if sets >= MOVED_SHARE * max(found.with_hand, 1):
            raise CalibrationError(
                f'bag {name}: the camera calibration contradicts the images: {camera} shows the hands '
                f'{shift_px / sets:.0f} px from where the other cameras see them, in {sets} of {found.with_hand} sets. '
                'It has moved since it was calibrated, or the rig file is of another recording: calibrate anew')
    for camera, (sets, delay_s) in found.late.items():
        if sets >= LATE_SHARE * max(found.with_hand, 1):
            raise RecordingError(
                f'bag {name}: its cameras are not synchronised: the images of {camera} are {1e3 * delay_s / sets:+.0f} '
                'ms later than their stamps say, by the motion of the hand. Set the clocks by PTP or chrony, have the '
                'driver stamp images when they are exposed, or make the bag anew with --shift')
    if found.with_hand < max(1, LEAST_SHARE_OF_HANDS * found.sets):
        seen = ', '.join(f'{camera} in {found.seen[camera]}' for camera in source.cameras)
        raise RecordingError(f'bag {name}: no hand is seen by two cameras at once (of {found.searched} searched sets '
                             f'of images {seen}). Likely cause: {found.remedy}')
    for camera, (sets, delay_s) in found.late.items():
        log.warning('bag %s: in %d of %d sets with a hand, the images of %s seem %+.0f ms later than their stamps say; '
                    'labels of fast motion are the worse for it', name, sets, found.with_hand, camera,
                    1e3 * delay_s / sets)
    return found


def look_at(source: Source) -> Found:
    """Everything that the checks go by."""
    part_s = (0.0, min(CHECKED_S, source.duration_s + 1))
    found = Found()
    motion = {camera: _Moments([], []) for camera in source.cameras}
    with open_bag(source.path, part_s) as bag:
        estimator = build_estimator(source.settings.estimator, source.cameras)
        try:
            replay = Replay(bag, find_calibration(bag, source.settings), source.settings, estimator)
            found.period_s = replay.period_s
            expected = max((traffic.received for traffic in replay.traffic.values()), default=1)
            every = max(1, expected // SEARCHED_SETS)
            reasons: Counter[str] = Counter()
            for processed in replay:
                found.sets += 1
                found.with_hand += bool(processed.result.hands)
                reasons.update(processed.result.reasons)
                for name, view in processed.frames.views.items():
                    step = max(1, max(view.image.shape) // THUMBNAIL_PX)
                    motion[name].images.append(view.image[::step, ::step].copy())
                    motion[name].seconds.append(view.stamp_ns * 1e-9)
                if processed.result.hands:
                    _note_health(found, source.cameras, processed.result.view_reports)
                if found.sets % every == 1 or every == 1:
                    _note_pairs(found, estimator.method, processed.frames.views, source.rig)
            found.remedy = replay.remedy(reasons)
            found.seconds_per_set = sum(replay.processing_ms) / 1e3 / max(found.sets, 1)
        finally:
            estimator.close()
    curves = {camera: curve_of_images(of.images, np.array(of.seconds)) for camera, of in motion.items()
              if len(of.seconds) > 2}
    starts = {camera: motion[camera].seconds[0] for camera in curves}
    for first, second in combinations(curves, 2):
        lag = match(curves[first], curves[second])
        if isinstance(lag, Lag):
            found.lags[first, second] = lag.lag_s + starts[second] - starts[first]
    return found


def pair_distance(readings: Mapping[str, Sequence[ViewReading]], rig: CameraRig) -> float:
    """Distance in σ of the landmarks of two cameras from each other's epipolar lines, median over the joints, of those
    hands of either that fit best; NaN where one of them sees none."""
    names = list(readings)
    best = np.nan
    for pair in product(*readings.values()):
        views = stack(pair)
        if not (views.valid[0] & views.valid[1]).any():
            continue
        squared = fuse(views, rig.subset(names)).mahalanobis2.sum(0)
        # Rays that do not meet in front of the cameras agree on nothing.
        squared = np.where(np.isfinite(squared), squared, np.inf)[views.valid.all(0)]
        best = np.fmin(best, np.sqrt(np.median(squared)))
    return float(best)


def _note_health(found: Found, cameras: Sequence[str], reports: Sequence[ViewReport]) -> None:
    for camera, report in zip(cameras, reports):
        blamed = report.suspects and report.suspects[0] == camera and report.strength > MOVED_SIGMA
        if blamed or report.disagrees:
            sets, shift_px = found.moved.get(camera, (0, 0.0))
            found.moved[camera] = (sets + 1, shift_px + report.shift_px)
        # The camera itself comes first in the group of which one is late.
        if report.late and report.late[0] == camera and np.isfinite(report.delay_s):
            sets, delay_s = found.late.get(camera, (0, 0.0))
            found.late[camera] = (sets + 1, delay_s + report.delay_s)


def _note_pairs(found: Found, method: Method, views: Mapping[str, View], rig: CameraRig) -> None:
    found.searched += 1
    readings = {name: [reading for reading in read if reading.valid.any()]
                for name, read in zip(views, _first_readings(method, views))}
    found.seen.update(name for name, read in readings.items() if read)
    for pair in combinations(views, 2):
        if all(readings[name] for name in pair):
            found.apart.setdefault(pair, []).append(pair_distance({name: readings[name] for name in pair}, rig))


def _first_readings(method: Method, views: Mapping[str, View]) -> list[list[ViewReading]]:
    """The hands that each camera finds, read by itself."""
    method.reset()
    found = []
    for name, detections in zip(views, method.find(views)):
        view, read = views[name], []
        for detection in detections:
            if detection.reading is not None:
                read.append(detection.reading)
                continue
            crop = (whole_image(view, detection.handedness) if method.crop_size is None else
                    cut_crop(view, detection.box_px, detection.handedness, method.crop_size))
            read += method.read([crop])
        found.append(read)
    return found


def _disagreeing(found: Found) -> tuple[str, float] | None:
    """The cameras that the others do not agree with, in words, and by how many σ they are off, median over the others,
    the least of them; None where there is none."""
    apart = {pair: float(np.quantile(values, AGREEING, method='higher')) for pair, values in found.apart.items()
             if len(values) >= FEWEST_PAIRED}
    # Along its epipolar lines a wrong camera may agree with one other by accident.
    typical = {camera: float(np.quantile([sigma for pair, sigma in apart.items() if camera in pair], 0.5,
                                         method='lower')) for pair in apart for camera in pair}
    wrong = {camera: sigma for camera, sigma in typical.items() if sigma > MOST_SIGMA}
    return (' and '.join(sorted(wrong)), min(wrong.values())) if wrong else None
