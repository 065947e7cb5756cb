"""`hand-unc bag record`: inputs and outputs of the estimator, into a bag (no rosbag2 needed).

Messages are taken as the bytes that came over the wire and written by a thread of their own, so that a disk that
stalls loses none. Every half a second everything is handed to the system: after a kill at most the last second is
missing.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from hand_unc_ros import __version__
from hand_unc_ros.data.bags.message_definitions import message_definition
from hand_unc_ros.data.bags.reader import IMAGE_TYPES
from hand_unc_ros.data.bags.writer import BagWriter, Topic
from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.nodes.bag_player import message_class
from hand_unc_ros.nodes.process import node_of_its_own
from hand_unc_ros.processes.stop_signals import StopSignals
from hand_unc_ros.settings.recorded_topics import Selection, select

# Messages that may wait for this process, which takes them one by one.
_IMAGE_DEPTH, _DEPTH = 50, 500
_FLUSH_S = 0.5
_DISCOVERY_S = 0.2
_SPIN_S = 0.05
# Publishers that are running when the recording begins have been discovered by then.
_MISSING_AFTER_S = 3.0
_PROGRESS_S, _PROGRESS_LINE_S = 0.5, 10.0
# What may wait for a disk that stalls; then messages are lost, and counted.
_QUEUE_BYTES = 256_000_000
# A clock may be set back a little; more than that is a recording that is played again from its start.
_CLOCK_STEP_NS = 1_000_000_000


@dataclass
class Recording:
    """What was recorded. lost: topic → messages that were published and are not in the bag, as far as the middleware
    numbers them. silent: topics that were asked for and gave nothing, with the reason."""

    path: Path
    messages: int = 0
    size_bytes: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)


class _Item(NamedTuple):
    topic: str
    data: bytes
    log_ns: int
    publish_ns: int
    sequence: int


class _Writing(threading.Thread):
    """Writes what is put in, in order, until `stop`."""

    def __init__(self, writer: BagWriter) -> None:
        super().__init__(name='bag_writer', daemon=True)
        self.error: BaseException | None = None
        self._writer = writer
        self._queue: queue.SimpleQueue[Topic | _Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_bytes = 0

    def put(self, item: Topic | _Item) -> bool:
        """False when too much is waiting already: the item is not taken."""
        if isinstance(item, _Item):
            with self._lock:
                if self._waiting_bytes > _QUEUE_BYTES:
                    return False
                self._waiting_bytes += len(item.data)
        self._queue.put(item)
        return True

    def stop(self) -> None:
        """Write what is waiting, the index and the metadata."""
        self._queue.put(None)
        self.join()

    def run(self) -> None:
        try:
            self._write_all()
            self._writer.close()
        except BaseException as error:
            self.error = error

    def _write_all(self) -> None:
        flush_s = time.monotonic() + _FLUSH_S
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, flush_s - time.monotonic()))
            except queue.Empty:
                pass
            else:
                if item is None:
                    return
                if isinstance(item, Topic):
                    self._writer.add_topic(item)
                else:
                    self._writer.write(*item)
                    with self._lock:
                        self._waiting_bytes -= len(item.data)
            if time.monotonic() >= flush_s:
                self._writer.flush()
                flush_s = time.monotonic() + _FLUSH_S


class _Recorder:
    """The subscriptions, made as publishers appear."""

    def __init__(self, node: Node, selection: Selection, writing: _Writing) -> None:
        self._node = node
        self._selection = selection
        self._writing = writing
        self._subscriptions: dict[str, tuple[Any, QoSProfile]] = {}
        self._refused: dict[str, str] = {}
        self._last: dict[tuple[str, bytes], int] = {}
        self._last_ns = 0
        self._early: list[_Item] = []
        self.counts: dict[str, int] = {}
        self.lost: dict[str, int] = {}

    def discover(self) -> None:
        """Subscribe to what is published by now; to all of it as all of its publishers allow."""
        self._now_ns()
        for alternatives in self._selection.topics:
            chosen = next((topic for topic in alternatives if topic in self._subscriptions), None)
            for topic in alternatives if chosen is None else (chosen,):
                publishers = self._node.get_publishers_info_by_topic(topic)
                if publishers and topic not in self._refused:
                    self._subscribe(topic, publishers)
                    break

    def _subscribe(self, topic: str, publishers: list[TopicEndpointInfo]) -> None:
        qos = _matching_qos(publishers)
        old, old_qos = self._subscriptions.get(topic, (None, None))
        if qos == old_qos:
            return
        if old is None and not self._register(topic, publishers, qos):
            return
        if old is not None:
            self._node.destroy_subscription(old)

        def take(data: bytes, info: dict[str, Any]) -> None:
            self._take(topic, data, info)

        kind = message_class(publishers[0].topic_type)
        self._subscriptions[topic] = (self._node.create_subscription(kind, topic, take, qos, raw=True), qos)

    def _register(self, topic: str, publishers: list[TopicEndpointInfo], qos: QoSProfile) -> bool:
        kind = publishers[0].topic_type
        others = {publisher.topic_type for publisher in publishers} - {kind}
        try:
            if others:
                raise RecordingError(f'it is published as {kind} and as {", ".join(sorted(others))}')
            if message_class(kind) is None:
                raise RecordingError(f'{kind} is not installed here')
            definition = message_definition(kind)
        except RecordingError as error:
            self._refused[topic] = str(error)
            _tell(f'{topic} is left out: {error}')
            return False
        offered = tuple(dict.fromkeys(_recorded_qos(publisher.qos_profile) for publisher in publishers))
        # Before Iron, rclpy does not know the hashes of types.
        type_hash = str(getattr(publishers[0], 'topic_type_hash', ''))
        latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
        self._writing.put(Topic(topic, kind, definition, offered, type_hash if type_hash != 'INVALID' else '', latched))
        _tell(f'recording {topic}')
        return True

    def _take(self, topic: str, data: bytes, info: dict[str, Any]) -> None:
        sequence = info.get('publication_sequence_number') or 0
        publisher = (topic, (info.get('publisher_gid') or {}).get('data', b''))
        if sequence:
            self._count_lost(topic, sequence - self._last.get(publisher, sequence) - 1)
            self._last[publisher] = sequence
        log_ns = self._now_ns()
        item = _Item(topic, data, log_ns, info.get('source_timestamp') or log_ns, sequence)
        if log_ns == 0:
            self._early.append(item)
            return
        for early in self._early:
            self._put(early._replace(log_ns=log_ns))
        self._early.clear()
        self._put(item)

    def _put(self, item: _Item) -> None:
        if self._writing.put(item):
            self.counts[item.topic] = self.counts.get(item.topic, 0) + 1
        else:
            self._count_lost(item.topic, 1)

    def _count_lost(self, topic: str, count: int) -> None:
        # Below 0: a publisher that counts anew.
        if count > 0:
            self.lost[topic] = self.lost.get(topic, 0) + count

    def _now_ns(self) -> int:
        """The node's time, 0 while there is none yet. It does not run backwards, so that messages keep their order."""
        now_ns = self._node.get_clock().now().nanoseconds
        if now_ns < self._last_ns - _CLOCK_STEP_NS:
            _tell(f'the time went back by {(self._last_ns - now_ns) / 1e9:.1f} s: readers, who go by it, will mix what '
                  'comes now with what came before')
            self._last_ns = now_ns
        self._last_ns = max(self._last_ns, now_ns)
        return self._last_ns

    def silent(self) -> dict[str, str]:
        """Topics without a message so far, and why."""
        reasons = {}
        for alternatives in self._selection.topics:
            if any(topic in self.counts for topic in alternatives):
                continue
            name = ' or '.join(alternatives)
            refused = [self._refused[topic] for topic in alternatives if topic in self._refused]
            if refused:
                reasons[name] = refused[0]
            elif any(topic in self._subscriptions for topic in alternatives):
                reasons[name] = 'a publisher, but no message came'
            else:
                reasons[name] = 'nobody publishes it'
        return reasons

    @property
    def waiting_for_clock(self) -> bool:
        return self._last_ns == 0


def record(output: str | Path, selection: Selection, *, max_size_mb: float = 0.0, duration_s: float | None = None,
           use_sim_time: bool = False) -> Recording:
    """Record until SIGINT, SIGTERM or the end of `duration_s`; the bag is whole afterwards. In the main thread only.

    duration_s: from the first message on, which is waited for for three seconds.

    max_size_mb: begin another file at about that size; 0: never. use_sim_time: times are those of /clock.

    Raises RecordingError when the folder exists, or the disk is full: what was written stays readable then.
    """
    writer = BagWriter(output, round(max_size_mb * 1e6), {'recorder': f'hand-unc {__version__}'})
    if selection.rig is not None:
        save_rig(selection.rig, writer.path / 'rig.yaml', selection.image_topics)
    writing = _Writing(writer)
    signals = StopSignals()
    try:
        with node_of_its_own(lambda context: Node(
                'bag_recorder', context=context, start_parameter_services=False,
                parameter_overrides=[Parameter('use_sim_time', value=use_sim_time)])) as node:
            executor = SingleThreadedExecutor(context=node.context)
            executor.add_node(node)
            writing.start()
            recorder = _Recorder(node, selection, writing)
            try:
                _tell(f'recording to {writer.path}; end with Ctrl-C')
                _spin(executor, recorder, writing, writer, signals, duration_s)
                _drain(executor, recorder)
            finally:
                executor.shutdown()
                writing.stop()
            return _conclude(recorder, writing, writer)
    finally:
        signals.restore()


def _spin(executor: SingleThreadedExecutor, recorder: _Recorder, writing: _Writing, writer: BagWriter,
          signals: StopSignals, duration_s: float | None) -> None:
    begin_s = discovered_s = time.monotonic()
    discovery_s, missing_s, progress_s = begin_s, begin_s + _MISSING_AFTER_S, begin_s
    terminal = sys.stderr.isatty()
    progress_s += _PROGRESS_S if terminal else _PROGRESS_LINE_S
    while not signals.came and writing.error is None:
        now_s = time.monotonic()
        if not recorder.counts:
            discovered_s = now_s
        if duration_s is not None and now_s >= min(discovered_s, begin_s + _MISSING_AFTER_S) + duration_s:
            return
        if now_s >= discovery_s:
            recorder.discover()
            discovery_s = now_s + _DISCOVERY_S
        if now_s >= missing_s:
            missing_s = float('inf')
            silent = recorder.silent()
            for reason in dict.fromkeys(silent.values()):
                names = ', '.join(topic for topic, its in silent.items() if its == reason)
                _tell(f'{reason} (yet): {names}')
            if recorder.waiting_for_clock:
                _tell('nobody publishes /clock (yet), which gives the time')
        if now_s >= progress_s:
            text = (f'{now_s - begin_s:.0f} s, {sum(recorder.counts.values())} messages, '
                    f'{writer.written_bytes / 1e6:.1f} MB, {sum(recorder.lost.values())} lost')
            if terminal:
                print(f'\r{text}  ', end='', file=sys.stderr, flush=True)
            else:
                _tell(text)
            progress_s = now_s + (_PROGRESS_S if terminal else _PROGRESS_LINE_S)
        executor.spin_once(timeout_sec=_SPIN_S)


def _drain(executor: SingleThreadedExecutor, recorder: _Recorder) -> None:
    """Take what has arrived already, which is not for ever: publishers go on."""
    end_s = time.monotonic() + _FLUSH_S
    idle = 0
    while idle < 3 and time.monotonic() < end_s:
        before = sum(recorder.counts.values())
        executor.spin_once(timeout_sec=0.0)
        idle = idle + 1 if sum(recorder.counts.values()) == before else 0


def _conclude(recorder: _Recorder, writing: _Writing, writer: BagWriter) -> Recording:
    if isinstance(writing.error, RecordingError):
        raise RecordingError(f'{writing.error}. The {writer.message_count} messages that were written before can be '
                             f'read (`hand-unc bag info {writer.path}`)') from writing.error
    if writing.error is not None:
        raise writing.error
    recording = Recording(writer.path, writer.message_count, writer.written_bytes, recorder.lost, recorder.silent())
    _tell(f'{recording.path}: {recording.messages} messages, {recording.size_bytes / 1e6:.1f} MB, '
          f'{sum(recording.lost.values())} lost')
    for topic, count in recording.lost.items():
        _tell(f'{topic}: {count} of {count + recorder.counts.get(topic, 0)} messages lost')
    for topic, reason in recording.silent.items():
        _tell(f'{topic}: {reason}')
    if recorder.waiting_for_clock:
        raise RecordingError('nothing was recorded: nobody published /clock, which was to give the time; play the bag '
                             'with --clock, or leave out --use-sim-time')
    return recording


def _tell(text: str) -> None:
    # On a terminal over the line of progress.
    print(f'\r{text}\033[K' if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def _matching_qos(publishers: list[TopicEndpointInfo]) -> QoSProfile:
    """The strongest that every one of the publishers offers."""
    offered = [publisher.qos_profile for publisher in publishers]
    reliable = all(qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered)
    latched = all(qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=_IMAGE_DEPTH if publishers[0].topic_type in IMAGE_TYPES else _DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)


def _recorded_qos(qos: QoSProfile) -> Qos:
    def span(duration: Any) -> QosTime:
        return QosTime(*divmod(duration.nanoseconds, 1_000_000_000))

    return Qos(QosHistory(int(qos.history)), qos.depth, QosReliability(int(qos.reliability)),
               QosDurability(int(qos.durability)), span(qos.deadline), span(qos.lifespan),
               QosLiveliness(int(qos.liveliness)), span(qos.liveliness_lease_duration),
               qos.avoid_ros_namespace_conventions)


def record_command(args: Any) -> int:
    """The command; 1 when nothing at all was recorded."""
    selection = select(args.params, args.rig, args.namespace, args.topic, images=not args.no_images)
    recording = record(args.output, selection, max_size_mb=args.max_size or 0.0, duration_s=args.duration,
                       use_sim_time=args.use_sim_time)
    return 0 if recording.messages else 1
