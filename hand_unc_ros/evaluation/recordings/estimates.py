"""The estimates that a running node published, as they were recorded: the live truth, delays and losses too."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from hand_unc_ros.data.bags.hands import (
    HAND_TYPE,
    VIEW_TYPE,
    RecordedHand,
    RecordedView,
    hand_of,
    read_messages,
    topics_of_type,
    view_of,
)
from hand_unc_ros.data.bags.reader import Bag
from hand_unc_ros.errors import CalibrationError, RecordingError
from hand_unc_ros.evaluation.recordings.replay import (
    Calibrated,
    CameraTraffic,
    Estimates,
    camera_traffic,
    find_images,
    known_delays_ms,
    stamps_by_topic,
)
from hand_unc_ros.settings.recordings import BagSettings


def estimates_topic(bag: Bag, wanted: str = '', truth: str = '') -> str:
    """The topic of recorded estimates: the wanted one, else the only joints_with_covariance, '' for none.

    Other topics of the type may be the truth and are not taken for estimates unasked.  Raises RecordingError where the
    wanted one is absent, or where there are several.
    """
    topics = [topic for topic in topics_of_type(bag, HAND_TYPE) if topic != truth]
    if wanted:
        if wanted not in topics:
            raise RecordingError(f'bag {bag.path} has no estimates on {wanted}; it has them on '
                                 f'{", ".join(topics) or "no topic"}')
        return wanted
    likely = [topic for topic in topics if topic.endswith('/joints_with_covariance')]
    if len(likely) > 1:
        raise RecordingError(f'bag {bag.path} has estimates on several topics, {", ".join(likely)}: choose one with '
                             '--estimates TOPIC')
    return likely[0] if likely else ''


def read_estimates(bag: Bag, topic: str, calibrated: Calibrated | None, settings: BagSettings) -> Estimates:
    """The messages on `topic`, and on view_estimates beside it.

    A view belongs to the hand whose stamp is nearest to its own, within half a period. calibrated: the rig, None where
    it is not known.  Raises RecordingError, or CalibrationError for a rig that lacks a camera.
    """
    beside = topic.rpartition('/')[0] + '/view_estimates'
    view_topic = beside if beside in topics_of_type(bag, VIEW_TYPE) else ''
    hands: list[RecordedHand] = []
    views: dict[str, list[RecordedView]] = defaultdict(list)
    for name, log_ns, message in read_messages(bag, [topic, *filter(None, [view_topic])]):
        if name == topic:
            hands.append(hand_of(log_ns, message))
        else:
            view = view_of(log_ns, message)
            views[view.camera].append(view)
    if not hands:
        raise RecordingError(f'bag {bag.path} has no estimate on {topic}')
    cameras = hands[0].cameras or tuple(views)
    frames = {hand.frame_id for hand in hands}
    if len(frames) > 1:
        raise RecordingError(f'the estimates on {topic} are in several frames: {", ".join(sorted(frames))}')
    rig = None
    if calibrated is not None and cameras:
        lacking = [camera for camera in cameras if camera not in calibrated.rig.names]
        if lacking:
            raise CalibrationError(f'{calibrated.source} has no camera {lacking[0]!r}, of which {topic} speaks; it has '
                                   f'{", ".join(calibrated.rig.names)}')
        rig = calibrated.rig.subset(list(cameras))
    stamps = np.array([hand.stamp_ns for hand in hands], np.int64)
    every_ns = np.unique(np.concatenate([stamps, *(np.array([view.stamp_ns for view in of], np.int64)
                                                   for of in views.values())]))
    period_s = settings.period_s or _period_s([stamps, *(np.array([view.stamp_ns for view in of], np.int64)
                                                        for of in views.values())])
    px, variance = np.full((2, len(hands), len(cameras), 21, 2), np.nan)
    boxes = np.full((len(hands), len(cameras), 4), np.nan)
    for row, camera in enumerate(cameras):
        _match(stamps, views.get(camera, []), period_s, px[:, row], variance[:, row], boxes[:, row])
    traffic = _image_traffic(bag, calibrated, settings, cameras)
    if not traffic:
        traffic = {camera: camera_traffic([view.stamp_ns for view in views[camera]],
                                          [view.log_ns for view in views[camera]]) for camera in cameras
                   if views.get(camera)}
    # A set shows in its views even where it gave no hand.
    sets = _count_sets(every_ns, period_s) if views else None
    reasons = Counter({'not recorded': sets - len(hands)}) if sets is not None and sets > len(hands) else Counter()
    return Estimates(
        cameras, rig, stamps, np.array([hand.track_id for hand in hands]), np.array([hand.joints for hand in hands]),
        np.array([hand.covariance for hand in hands]), px, variance, boxes, sets, reasons,
        all(hand.calibrated for hand in hands), hands[0].frame_id, traffic, period_s,
        latency_ms=known_delays_ms(np.array([hand.log_ns - hand.stamp_ns for hand in hands])),
        correlated=all(hand.full for hand in hands))


def _period_s(series: Sequence[np.ndarray]) -> float:
    """Median distance of the stamps of the fastest series."""
    steps = [np.median(np.diff(np.unique(stamps))) / 1e9 for stamps in series if len(np.unique(stamps)) > 1]
    return float(min(steps, default=1.0))


def _count_sets(stamps_ns: np.ndarray, period_s: float) -> int:
    """Moments among sorted stamps: those less than half a period after the first of a moment belong to it."""
    count, first = 0, -np.inf
    for stamp in stamps_ns:
        if stamp - first > 0.5e9 * period_s:
            count, first = count + 1, stamp
    return count


def _match(stamps_ns: np.ndarray, views: Sequence[RecordedView], period_s: float, px: np.ndarray,
           variance: np.ndarray, boxes: np.ndarray) -> None:
    """Fill in (N, 21, 2) px and px² and boxes (N, 4) of the views nearest to the stamps."""
    if not views:
        return
    ordered = sorted(views, key=lambda view: view.stamp_ns)
    times = np.array([view.stamp_ns for view in ordered], np.int64)
    after = np.searchsorted(times, stamps_ns)
    for row, place in enumerate(after):
        near = min((index for index in (place - 1, place) if 0 <= index < len(times)),
                   key=lambda index: abs(int(times[index]) - int(stamps_ns[row])))
        if abs(int(times[near]) - int(stamps_ns[row])) <= 0.5e9 * period_s:
            _, _, _, px[row], variance[row], boxes[row] = ordered[near]


def _image_traffic(bag: Bag, calibrated: Calibrated | None, settings: BagSettings,
                   cameras: tuple[str, ...]) -> dict[str, CameraTraffic]:
    """Of the images that were recorded beside the estimates; empty where there are none."""
    if calibrated is None:
        return {}
    try:
        topics = find_images(bag, calibrated, settings)
    except RecordingError:
        return {}
    times = stamps_by_topic(bag, [connection for connection in bag.connections
                                  if connection.topic in topics.values()])
    return {camera: camera_traffic(*times[topic]) for camera, topic in topics.items() if camera in cameras}
