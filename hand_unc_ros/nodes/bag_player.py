"""Plays a bag on ROS topics, message by message as it was recorded (no rosbag2 needed)."""

from __future__ import annotations

import importlib
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Connection, QosDurability, QosReliability
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from hand_unc_ros.data.bags.message_definitions import is_installed
from hand_unc_ros.data.bags.reader import IMAGE_TYPES, INPUT_TYPES, Bag, open_bag
from hand_unc_ros.errors import ConfigError, RecordingError
from hand_unc_ros.nodes.process import node_of_its_own

CLOCK_PERIOD_NS = 10_000_000
_DEFAULT_DEPTH = 10
_POLL_S = 0.02
# A publisher may know its subscriber before the subscriber knows the publisher; what a best-effort publisher sends
# in between is lost without a trace, and DDS offers no way to ask.
_SETTLE_S = 0.5
_ACKNOWLEDGE_S = 5.0


@dataclass
class Playback:
    """What was played. skipped: topics whose message type is not installed here.  lost: a sentence for each topic of
    which not all messages were played, or may not have arrived."""

    published: dict[str, int] = field(default_factory=dict)
    passes: int = 0
    late_s: float = 0.0
    skipped: tuple[str, ...] = ()
    lost: list[str] = field(default_factory=list)


def play(
    path: str | Path,
    *,
    rate: float = 1.0,
    loop: bool = False,
    clock: bool = False,
    remap: Mapping[str, str] | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    inputs: bool = False,
    wait_for_subscribers_s: float | None = None,
    subscribers: int = 1,
    progress: bool | None = None,
) -> Playback:
    """Publish a bag's messages, unchanged, at their recorded distances divided by `rate`.

    clock: also publish /clock with the bag's time (100 times per second, and right before each message),
    for nodes with use_sim_time. remap: topic in the bag → topic to publish on. start_s: seconds into the
    bag to start at (latched topics from before are still sent). duration_s: seconds of the bag to play.
    inputs: only what goes into an estimator (images, CameraInfo, TF), not what one gave when it was recorded.
    wait_for_subscribers_s: before starting, wait up to that long until every image topic has that many subscribers.
    progress: True, False, or None for a bar on a terminal only. Returns at the end of the bag, or never
    with `loop`; KeyboardInterrupt passes through after the node is taken down. What was lost is said on stderr too.

    Raises RecordingError for a bag that cannot be read or played, ConfigError for a bad argument.
    """
    if not rate > 0:
        raise ConfigError(f'rate {rate} is out of range; give a positive factor')
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise ConfigError('start must not be negative, and duration must be above 0')
    with open_bag(path) as bag:
        begin_ns = bag.start_ns + round(start_s * 1e9)
        if begin_ns > bag.start_ns + bag.duration_ns:
            raise ConfigError(
                f'start {start_s} s is after the end of the bag ({bag.duration_ns / 1e9:.3f} s)')
        last_ns = None if duration_s is None else begin_ns + round(duration_s * 1e9)
        with node_of_its_own(lambda context: Node('bag_player', context=context,
                                                  start_parameter_services=False)) as node:
            player = _Player(node, bag, rate, clock, dict(remap or {}), inputs)
            if wait_for_subscribers_s is not None:
                player.wait_for_subscribers(wait_for_subscribers_s, subscribers)
            total = sum(connection.msgcount for connection in player.connections)
            with tqdm(total=None if loop else total, unit='msg', desc=Path(path).name,
                      disable=None if progress is None else not progress) as bar:
                while True:
                    player.play_once(begin_ns, last_ns, bar)
                    if not loop:
                        break
            player.check_complete(whole=start_s == 0 and duration_s is None)
            player.acknowledge()
    for sentence in player.playback.lost:
        print(sentence, file=sys.stderr)
    return player.playback


class _Player:
    """The publishers of one bag, and the clock that paces them."""

    def __init__(self, node: Node, bag: Bag, rate: float, clock: bool, remap: dict[str, str], inputs: bool) -> None:
        self._bag = bag
        self._rate = rate
        self.playback = Playback()
        self.connections: list[Connection] = []
        self._publishers: dict[int, Publisher] = {}
        self._played: Counter[int] = Counter()
        unknown = set(remap) - {connection.topic for connection in bag.connections}
        if unknown:
            raise ConfigError(f'remap names {sorted(unknown)[0]!r}, which is not in the bag; its topics are '
                              f'{", ".join(sorted({connection.topic for connection in bag.connections}))}')
        skipped = {}
        for connection in bag.connections:
            if inputs and connection.msgtype not in INPUT_TYPES:
                continue
            kind = message_class(connection.msgtype)
            if kind is None:
                skipped[connection.topic] = connection.msgtype
                continue
            self.connections.append(connection)
            self._publishers[connection.id] = node.create_publisher(
                kind, remap.get(connection.topic, connection.topic), _qos(connection))
        if not self.connections and not skipped:
            raise RecordingError(f'bag {bag.path} holds no images, CameraInfo or TF to play')
        if not self.connections:
            raise RecordingError(
                f'bag {bag.path}: none of its message types is installed here '
                f'({", ".join(sorted(set(skipped.values())))}); install their packages')
        for topic, kind in skipped.items():
            print(f'{topic} is left out: {kind} is not installed here', file=sys.stderr)
        self.playback.skipped = tuple(skipped)
        self._clock = node.create_publisher(Clock, '/clock', _DEFAULT_DEPTH) if clock else None
        busiest = max(connection.msgcount for connection in self.connections)
        self._gap_ns = bag.duration_ns // max(busiest - 1, 1)
        self._next_ns: int | None = None

    def wait_for_subscribers(self, timeout_s: float, count: int) -> None:
        waiting = [self._publishers[connection.id] for connection in self.connections
                   if connection.msgtype in IMAGE_TYPES] or list(self._publishers.values())
        end = time.monotonic() + timeout_s
        while missing := [publisher for publisher in waiting if publisher.get_subscription_count() < count]:
            if time.monotonic() > end:
                found = missing[0].get_subscription_count()
                who = f'only {found} of {count} nodes' if found else 'nobody'
                raise RecordingError(
                    f'{who} subscribed to {missing[0].topic_name} within {timeout_s:g} s; start the node '
                    'first, and check its camera names, namespace and ROS_DOMAIN_ID')
            time.sleep(_POLL_S)
        time.sleep(_SETTLE_S)

    def play_once(self, begin_ns: int, last_ns: int | None, bar: tqdm) -> None:
        """One pass over [begin_ns, last_ns], None for all there is; the next pass follows one frame period after it."""
        self._publish_latched(begin_ns)
        wall_start_ns = time.monotonic_ns() if self._next_ns is None else self._next_ns

        def due_ns(stamp_ns: int) -> int:
            return wall_start_ns + round((stamp_ns - begin_ns) / self._rate)

        stop_ns = None if last_ns is None else last_ns + 1
        end_ns = self._bag.start_ns + self._bag.duration_ns
        end_ns = end_ns if last_ns is None else min(last_ns, end_ns)
        for connection, stamp_ns, data in self._bag.messages(self.connections, begin_ns, stop_ns):
            end_ns = max(end_ns, stamp_ns)
            self._wait_until(due_ns(stamp_ns), stamp_ns)
            self._send(connection, data)
            self._played[connection.id] += 1
            bar.update()
        self._next_ns = due_ns(end_ns + self._gap_ns)
        self.playback.passes += 1

    def _publish_latched(self, begin_ns: int) -> None:
        latched = [connection for connection in self.connections if _is_latched(connection)]
        if latched and begin_ns > self._bag.start_ns:
            for connection, _, data in self._bag.messages(latched, None, begin_ns):
                self._send(connection, data)

    def _send(self, connection: Connection, data: bytes) -> None:
        publisher = self._publishers[connection.id]
        publisher.publish(bytes(data))
        topic = publisher.topic_name
        self.playback.published[topic] = self.playback.published.get(topic, 0) + 1

    def _wait_until(self, due_ns: int, stamp_ns: int) -> None:
        """Sleep until due_ns, ticking the clock, whose time then is stamp_ns."""
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            if self._clock is None:
                time.sleep(left_ns / 1e9)
                continue
            self._tick(stamp_ns - round(left_ns * self._rate))
            time.sleep(min(left_ns, CLOCK_PERIOD_NS) / 1e9)
        self.playback.late_s = max(self.playback.late_s, -left_ns / 1e9)
        if self._clock is not None:
            self._tick(stamp_ns)

    def _tick(self, time_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(max(time_ns, 0), 1_000_000_000)
        self._clock.publish(message)

    def check_complete(self, whole: bool) -> None:
        """Note the topics of which fewer messages were played than the bag's index promises. whole: whether all of the
        bag was to be played."""
        for connection in self.connections if whole else ():
            played, promised = self._played[connection.id], connection.msgcount * self.playback.passes
            if played != promised:
                self.playback.lost.append(
                    f'{connection.topic}: {played} of {promised} messages played; the index of the bag is damaged: '
                    '`mcap recover` or `ros2 bag reindex` writes it anew')

    def acknowledge(self) -> None:
        """Wait until reliable subscribers have the last messages, which die with their publisher; note those that do
        not."""
        end = time.monotonic() + _ACKNOWLEDGE_S
        for publisher in self._publishers.values():
            left_s = max(end - time.monotonic(), 0.0)
            if not publisher.wait_for_all_acked(Duration(seconds=left_s)):
                self.playback.lost.append(f'{publisher.topic_name}: a subscriber did not take the last messages within '
                                          f'{_ACKNOWLEDGE_S:g} s; it is busy or stopped')


def message_class(name: str) -> Any | None:
    """The Python class of a message type such as 'sensor_msgs/msg/Image'; None where it is not installed.

    A bag may name any module: imported is only what is installed as a ROS message.
    """
    if not is_installed(name):
        return None
    package, _, kind = name.partition('/msg/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), kind, None)
    except ImportError:
        return None


def _is_latched(connection: Connection) -> bool:
    return any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in connection.ext.offered_qos_profiles)


def _qos(connection: Connection) -> QoSProfile:
    """The recorded QoS; reliable and volatile where the bag says nothing."""
    offered = connection.ext.offered_qos_profiles
    # Several publishers may have been recorded on one topic: offer what every one of them offered.
    best_effort = any(qos.reliability == QosReliability.BEST_EFFORT for qos in offered)
    latched = bool(offered) and all(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in offered)
    depth = max((qos.depth for qos in offered), default=0)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth if depth > 0 else _DEFAULT_DEPTH,
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)
