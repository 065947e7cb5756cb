"""A recorder as a process, a raw listener, and recordings made without ROS, for the tests of `hand-unc bag record`."""

from __future__ import annotations

from pathlib import Path

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.bags.writer import BagWriter, Topic

STRING = 'std_msgs/msg/String'
STRING_DEFINITION = 'string data\n'
NEVER = QosTime(9223372036, 854775807)


def offered(latched: bool = False) -> Qos:
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(QosHistory.KEEP_LAST, 1000, QosReliability.RELIABLE, durability, NEVER, NEVER,
               QosLiveliness.AUTOMATIC, NEVER, False)


def write_strings(path: Path, count: int, size: int = 5000, max_bytes: int = 0, first: int = 0) -> BagWriter:
    """An open bag with one latched message and `count` others of that size, one every millisecond."""
    writer = BagWriter(path, max_bytes, {'kind': 'test'})
    writer.add_topic(Topic('/latched', STRING, STRING_DEFINITION, (offered(True),), latched=True))
    writer.add_topic(Topic('/numbers', STRING, STRING_DEFINITION, (offered(),)))
    writer.write('/latched', cdr('the pose'), 1_000_000, 1_000_000)
    for index in range(first, first + count):
        stamp = (index + 2) * 1_000_000
        writer.write('/numbers', cdr(f'{index} '.ljust(size, 'x')), stamp, stamp, index + 1)
    return writer


def cdr(text: str) -> bytes:
    """A String as it comes over the wire: padded to words of four bytes."""
    data = text.encode() + b'\0'
    return b'\0\1\0\0' + len(data).to_bytes(4, 'little') + data + b'\0' * (-len(data) % 4)


def contents(path: Path) -> list[tuple[str, int, bytes]]:
    """Everything in a bag, in the order in which it is read."""
    with open_bag(path) as bag:
        return [(connection.topic, stamp, bytes(data)) for connection, stamp, data in bag.messages()]


def by_topic(messages: list[tuple[str, int, bytes]]) -> dict[str, list[bytes]]:
    topics: dict[str, list[bytes]] = {}
    for topic, _, data in messages:
        topics.setdefault(topic, []).append(data)
    return topics
