"""A recorded bag through the live pipeline, without ROS: the same images give the same sets and the same hands.

The synchroniser is driven by the times at which messages were logged, as it is live by the times at which they come.
Unlike the live node nothing is skipped: every set is worked on, however long that takes.
"""

from __future__ import annotations

import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from hand_unc_ros.data.bags.reader import IMAGE_TYPES, INFO_TYPE, TF_TYPE, Bag
from hand_unc_ros.data.bags.stored_images import decode_stored_image
from hand_unc_ros.data.calibrated_image import check_rectified, is_rectified
from hand_unc_ros.data.camera_messages import rig_from_messages
from hand_unc_ros.data.rigs import load_rig, load_topics
from hand_unc_ros.errors import NoHandError, RecordingError
from hand_unc_ros.estimation.no_hand_remedy import Traffic, no_hand_remedy
from hand_unc_ros.estimation.settings import require_cameras
from hand_unc_ros.estimation.stream import Estimator, Processed, Stream
from hand_unc_ros.estimation.synchroniser import MatchedSet, Synchroniser
from hand_unc_ros.estimation.types import FrameResult
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.methods.view_gaussians import ViewGaussians
from hand_unc_ros.settings.recordings import BagSettings

# A recording is no live system: its clocks may be decades apart, and stamps are not held against the log's times.
_NO_FUTURE_S = 4e9
_COMPRESSED = '/compressed'
# A delay beyond this is no delay: stamp and log were made by different clocks.
LONGEST_DELAY_S = 60.0


@dataclass(frozen=True)
class Calibrated:
    """rig: the cameras of a recording.  source: where the rig is from, in words.  topics: camera → topic
    that a rig file names for it."""

    rig: CameraRig
    source: str
    topics: Mapping[str, str] = field(default_factory=dict)


@dataclass
class CameraTraffic:
    """Messages of one camera. span_s: from its first to its last stamp.  missing: messages that the gaps between its
    stamps have room for.  longest_gap_s: between two stamps.  delay_ms: median of log time less stamp, NaN
    where these are by different clocks.  used: how many
    took part in a set, and drops: reason → how many did not; None where the recorded estimates do not tell."""

    received: int
    span_s: float
    missing: int
    longest_gap_s: float
    delay_ms: float
    used: int | None = None
    drops: Counter[str] | None = None


@dataclass
class Estimates:
    """The hands of a recording: N, in the order of their sets.

    cameras: V names.  rig: theirs, None where it is not known.  stamps_ns: (N,).  tracks: (N,) ids.  joints:
    (N, 21, 3) metres, world, NaN where invalid.  covariances: (N, 63, 63) m².  joints_px, variance_px2:
    (N, V, 21, 2), NaN where a view has no joint.  boxes_px: (N, V, 4), as in ViewReading.  sets: those that gave no
    hand as well; None where that was not recorded.  reasons: why sets gave none.  calibrated: whether a map was applied
    to the covariances.  frame_id: their world.  latency_ms: (N,) from capture to log, None where it was not recorded.
    processing_ms: of each set, by this machine's clock, None for recorded estimates.  correlated: whether
    what is between the joints is known; else it is 0.  sides: (N,) 'right' or 'left', None where not known.
    """

    cameras: tuple[str, ...]
    rig: CameraRig | None
    stamps_ns: np.ndarray
    tracks: np.ndarray
    joints: np.ndarray
    covariances: np.ndarray
    joints_px: np.ndarray
    variance_px2: np.ndarray
    boxes_px: np.ndarray
    sets: int | None
    reasons: Counter[str]
    calibrated: bool
    frame_id: str
    traffic: dict[str, CameraTraffic]
    period_s: float
    latency_ms: np.ndarray | None = None
    processing_ms: np.ndarray | None = None
    correlated: bool = True
    sides: np.ndarray | None = None

    def views_of(self, index: int) -> ViewGaussians:
        """The readings of one hand by all V views; nothing is valid in a view without one."""
        px, variance = self.joints_px[index], self.variance_px2[index]
        valid = (np.isfinite(px) & np.isfinite(variance)).all(-1)
        return ViewGaussians(self.cameras, px, variance, valid, valid.any(1).astype(float), self.boxes_px[index])


def header_stamp_ns(data: bytes) -> int:
    """The stamp of a message that begins with a std_msgs/Header, from its CDR bytes.

    Raises RecordingError for one that is too short.
    """
    if len(data) < 12:
        raise RecordingError(f'a message of {len(data)} bytes is cut off; copy the bag again from where it was '
                             'recorded')
    seconds, nanoseconds = struct.unpack_from('<iI' if data[1] & 1 else '>iI', data, 4)
    return seconds * 1_000_000_000 + nanoseconds


def find_calibration(bag: Bag, settings: BagSettings) -> Calibrated:
    """The rig of a recording: of the file that was given, of rig.yaml beside it, or of its own messages.

    Raises RecordingError where there is none, CalibrationError for one that cannot be used.
    """
    beside = (bag.path if bag.path.is_dir() else bag.path.parent) / 'rig.yaml'
    path = settings.rig or (beside if beside.is_file() else None)
    if path is not None:
        return Calibrated(load_rig(path), str(path), load_topics(path))
    store = get_typestore(Stores.ROS2_HUMBLE)
    wanted = [connection for connection in bag.connections if connection.msgtype == INFO_TYPE
              or (connection.topic.endswith('/tf_static') and connection.msgtype == TF_TYPE)]
    infos: dict[str, Any] = {}
    transforms: list[Any] = []
    for connection, _, message in bag.decoded(wanted, store):
        if connection.msgtype == TF_TYPE:
            transforms += message.transforms
        else:
            infos.setdefault(connection.topic, message)
    if not infos or not transforms:
        lacks = ' and '.join(name for name, held in (('CameraInfo', infos), ('/tf_static', transforms)) if not held)
        raise RecordingError(f'bag {bag.path} does not say how its cameras are calibrated: it has no rig.yaml beside '
                             f'it and no {lacks} in it; give the camera calibration with --rig FILE')
    named = {topic.rsplit('/', 1)[0].strip('/'): info for topic, info in sorted(infos.items())}
    topics = {camera: _image_topic(bag, camera, {}, settings) for camera in named}
    rectified = [camera for camera, topic in topics.items() if topic is not None and is_rectified(topic)]
    return Calibrated(rig_from_messages(named, transforms, settings.world_frame, rectified),
                      'CameraInfo and /tf_static in the bag')


def find_images(bag: Bag, calibrated: Calibrated, settings: BagSettings) -> dict[str, str]:
    """The image topic of each camera that has one in the bag, in the order of the cameras.

    Raises RecordingError where fewer than two have one (none, with a min_views of 1), or where it is not clear which one
    it is.
    """
    found = {}
    for camera in settings.cameras or calibrated.rig.names:
        topic = _image_topic(bag, camera, calibrated.topics, settings)
        if topic is not None:
            found[camera] = topic
    least = min(2, settings.estimator.min_views)
    if len(found) < least:
        names = ', '.join(settings.cameras or calibrated.rig.names)
        needed = 'one is needed' if least == 1 else 'two are needed (one with min_views: 1)'
        raise RecordingError(
            f'bag {bag.path} has images of {len(found)} of the cameras {names}, {needed}; its image topics are '
            f'{", ".join(sorted(_image_types(bag))) or "none"}. Name the cameras of the rig file as the topics do, or give '
            'each its `topic:` there')
    check_rectified(calibrated.rig, found)
    return found


def _image_types(bag: Bag) -> dict[str, str]:
    return {connection.topic: connection.msgtype for connection in bag.connections
            if connection.msgtype in IMAGE_TYPES}


def _image_topic(bag: Bag, camera: str, named: Mapping[str, str], settings: BagSettings) -> str | None:
    """The topic of a camera's images, None where the bag has none; RecordingError where it is not clear which."""
    types = _image_types(bag)
    patterns = [topic for topic in (named.get(camera), settings.image_topic.replace('{camera}', camera)) if topic]
    exact = [topic + end for topic in patterns for end in ('', _COMPRESSED) if topic + end in types]
    # A camera in some namespace: its whole name as a part of the topic's path.
    likely = sorted(topic for topic in types if f'/{camera}/' in topic)
    bases = {topic.removesuffix(_COMPRESSED) for topic in likely}
    if not exact and len(bases) > 1:
        raise RecordingError(f'bag {bag.path} has several image topics for camera {camera!r}: {", ".join(likely)}; '
                             "say which in the rig file (`topic:`) or as image_topic in --params")
    return (exact or likely or [None])[0]


def camera_traffic(stamps_ns: Sequence[int], log_ns: Sequence[int]) -> CameraTraffic:
    """The flow of a camera's messages, from their stamps and log times."""
    stamps, delays = np.asarray(stamps_ns, np.int64), np.asarray(log_ns, np.int64) - np.asarray(stamps_ns, np.int64)
    steps = np.diff(np.unique(stamps)) / 1e9
    period = float(np.median(steps)) if len(steps) else 0.0
    missing = int(np.maximum(np.round(steps / period) - 1, 0).sum()) if period else 0
    return CameraTraffic(len(stamps), float(steps.sum()), missing, float(steps.max(initial=0.0)),
                         float(np.median(known_delays_ms(delays))) if len(delays) else float('nan'))


def known_delays_ms(delays_ns: np.ndarray) -> np.ndarray:
    """Delays in ms, NaN all of them where stamps and log are by different clocks, as in a recorded replay."""
    delays = np.asarray(delays_ns) / 1e6
    return delays if abs(np.median(delays)) < 1e3 * LONGEST_DELAY_S else np.full(len(delays), np.nan)


def stamps_by_topic(bag: Bag, connections: Sequence[Connection]) -> dict[str, tuple[list[int], list[int]]]:
    """Topic → stamps and log times, ns, of messages that begin with a header."""
    times: dict[str, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for connection, log_ns, data in bag.messages(list(connections)) if connections else ():
        stamps, logged = times[connection.topic]
        stamps.append(header_stamp_ns(data))
        logged.append(log_ns)
    return times


class Replay:
    """The sets of a bag's images through the stream that runs live; to be iterated over once.

    traffic: of each camera; its `used` and `drops` are known when all sets have been given.  faults: of each camera,
    why its first unusable image could not be used.  processing_ms: of each set so far.
    """

    def __init__(self, bag: Bag, calibrated: Calibrated, settings: BagSettings, estimator: Estimator) -> None:
        self.bag = bag
        topics = find_images(bag, calibrated, settings)
        require_cameras(settings.estimator.min_views, len(topics), f'bag {bag.path}')
        self.rig = calibrated.rig.subset(list(topics))
        self._camera_of = {topic: camera for camera, topic in topics.items()}
        self._connections = [connection for connection in bag.connections if connection.topic in self._camera_of]
        times = stamps_by_topic(bag, self._connections)
        self.traffic = {camera: camera_traffic(*times[topic]) for camera, topic in topics.items()}
        self._delays_s = {camera: float(np.median(np.subtract(times[topic][1], times[topic][0]))) / 1e9
                          for camera, topic in topics.items() if times[topic][0]}
        self._handedness = settings.estimator.handedness
        self._total = sum(traffic.received for traffic in self.traffic.values())
        if not self._total:
            raise RecordingError(f'bag {bag.path} has no image on {", ".join(self._camera_of)}')
        steps = [traffic.span_s / (traffic.received - 1 + traffic.missing) for traffic in self.traffic.values()
                 if traffic.received > 1]
        self.period_s = settings.period_s or (float(np.median(steps)) if steps else 0.0) or 1.0
        self._tolerance_s = settings.tolerance_s or self.period_s / 2
        self.synchroniser = Synchroniser(
            tuple(topics), period_s=self.period_s, deadline_s=settings.deadline_s or self.period_s,
            tolerance_s=self._tolerance_s, min_views=settings.estimator.least_views,
            future_s=_NO_FUTURE_S)
        self._stream = Stream(self.synchroniser, estimator, lambda camera: self.rig[camera], self._decode)
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self.faults: dict[str, str] = {}
        self.processing_ms: list[float] = []

    def __iter__(self) -> Iterator[Processed]:
        self._stream.estimator.reset()
        undecodable: Counter[str] = Counter()
        for matched in self._matched():
            started = time.perf_counter()
            processed = self._stream.process(matched)
            self.processing_ms.append(1e3 * (time.perf_counter() - started))
            for camera, fault in processed.faults.items():
                if fault is not None:
                    undecodable[camera] += 1
                    self.faults.setdefault(camera, fault)
            yield processed
        for camera, statistics in self.synchroniser.statistics.cameras.items():
            bad = undecodable[camera]
            drops = Counter({reason: count for reason, count in statistics.drops.items() if count})
            if bad:
                drops['undecodable'] = bad
            self.traffic[camera].used = statistics.used - bad
            self.traffic[camera].drops = drops

    def remedy(self, reasons: Mapping[str, int]) -> str:
        """The remedy where no set gave a hand, for `reasons`; all sets must have been given."""
        traffic = {camera: Traffic(self.traffic[camera].received, self.traffic[camera].drops or {}, delay_s)
                   for camera, delay_s in self._delays_s.items()}
        return no_hand_remedy(traffic, reasons, self._tolerance_s, self._handedness)

    def _matched(self) -> Iterator[MatchedSet]:
        now_ns = 1
        messages = self.bag.messages(self._connections)
        for connection, log_ns, data in tqdm(messages, total=self._total, unit='image', desc='images', disable=None,
                                             leave=False):
            # A deadline between two messages passes before the second one comes.
            while (due_ns := self.synchroniser.next_deadline_ns) is not None and due_ns < log_ns:
                yield from self.synchroniser.poll(due_ns)
            now_ns = max(log_ns, 1)
            self.synchroniser.add(self._camera_of[connection.topic], header_stamp_ns(data), (connection.msgtype, data),
                                  now_ns)
            yield from self.synchroniser.poll(now_ns)
        while (due_ns := self.synchroniser.next_deadline_ns) is not None:
            yield from self.synchroniser.poll(max(due_ns, now_ns))

    def _decode(self, stored: tuple[str, bytes], camera: Camera) -> np.ndarray:
        """Pixels of a stored message. Raises ImageFormatError for one that cannot be read."""
        return decode_stored_image(self._store, *stored, camera)


class Collector:
    """Gathers the hands of a replay. 33 kB for each of them, most of it the full covariance."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self.cameras = cameras
        self.sets = 0
        self.reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self.hands: list[tuple] = []
        self.sides: list[str] = []
        self.calibrated = False

    def add(self, result: FrameResult) -> None:
        """Take the result of one set."""
        self.sets += 1
        for reason in result.reasons:
            # Given once with its numbers, counted whatever they are.
            self.reasons[self._examples.setdefault(without_numbers(reason), reason)] += 1
        for hand in result.hands:
            views = result.readings_of(hand).gaussians
            px, variance = np.full((2, len(self.cameras), 21, 2), np.nan)
            boxes = np.full((len(self.cameras), 4), np.nan)
            rows = [self.cameras.index(name) for name in views.cameras]
            known = views.valid[..., None]
            px[rows] = np.where(known, views.joints_px, np.nan)
            variance[rows] = np.where(known, views.variance_px2, np.nan)
            boxes[rows] = views.boxes_px
            self.calibrated = hand.covariance_calibrated and (self.calibrated or not self.hands)
            joints = np.where(hand.valid[:, None], hand.joints, np.nan)
            self.sides.append(hand.handedness)
            self.hands.append((hand.stamp_ns, hand.track_id, joints, hand.covariance, px, variance, boxes))

    def estimates(self, replay: Replay, settings: BagSettings) -> Estimates:
        """Everything that was gathered from the replay. Raises NoHandError where no set gave a hand."""
        if not self.hands:
            why = '; '.join(f'{count}: {reason}' for reason, count in self.reasons.most_common(4))
            drops = '; '.join(f'{camera}: {", ".join(f"{n} {reason}" for reason, n in traffic.drops.items()) or "none"}'
                              for camera, traffic in replay.traffic.items())
            faults = ''.join(f'; {camera}: {fault}' for camera, fault in replay.faults.items())
            raise NoHandError(f'no hand was found in bag {replay.bag.path}: {self.sets} sets ({why}); images '
                                 f'dropped before: {drops}{faults}. Likely cause: {replay.remedy(self.reasons)}')
        stamps, tracks, *arrays = (np.array(part) for part in zip(*self.hands))
        return Estimates(self.cameras, replay.rig, stamps, tracks, *arrays, sets=self.sets, reasons=self.reasons,
                         calibrated=self.calibrated, frame_id=settings.world_frame, traffic=replay.traffic,
                         period_s=replay.period_s, processing_ms=np.array(replay.processing_ms),
                         sides=np.array(self.sides))


def without_numbers(reason: str) -> str:
    """A reason without its numbers, so that those that differ in nothing else can be counted."""
    return ' '.join(word.lstrip('0123456789.') for word in reason.split(' '))
