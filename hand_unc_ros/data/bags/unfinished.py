"""Reading recordings that were killed: files without an index are gone through from the start, as far as they go."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, Header, Message, Schema
from mcap.stream_reader import breakup_chunk
from rosbags.interfaces import (
    Connection,
    ConnectionExtRosbag2,
    MessageDefinition,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)

from hand_unc_ros.data.bags.mcap_files import check_chunk, decompress
from hand_unc_ros.data.bags.metadata import load_plain_yaml
from hand_unc_ros.errors import RecordingError

_MAGIC = b'\x89MCAP0\r\n'
_RECORD_HEAD = struct.Struct('<BQ')
# The others, attachments among them, may be of any size.
_HELD = {Opcode.HEADER, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.CHUNK}
_FORMATS = {'ros2msg': MessageDefinitionFormat.MSG, 'ros2idl': MessageDefinitionFormat.IDL}


class ForeignFormat(RecordingError):
    """A file that is no MCAP file of ROS 2."""


class _Block(NamedTuple):
    """A chunk, or a message outside of chunks, of a file."""

    start_ns: int
    end_ns: int
    offset: int
    length: int
    opcode: int


class UnindexedFile:
    """An MCAP file without an index, or one that is cut. Open until `close`.

    loss: what is wrong with its end, '' where it is whole. Raises RecordingError for a file that is no MCAP of ROS 2.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.message_count = 0
        self.start_time, self.end_time = 2 ** 63 - 1, 0
        self.loss = ''
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._counts: dict[int, int] = {}
        self._blocks: list[_Block] = []
        self._file = path.open('rb')
        try:
            self._scan()
        except BaseException:
            self._file.close()
            raise
        self.connections = [_connection(channel, self._schemas.get(channel.schema_id), self._counts[number])
                            for number, channel in self._channels.items()]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scan(self) -> None:
        size = self.path.stat().st_size
        magic = self._file.read(len(_MAGIC))
        if not _MAGIC.startswith(magic):
            raise ForeignFormat(f'{self.path} is of a foreign format: it does not begin as an MCAP file does')
        while (offset := self._file.tell()) < size:
            head = self._file.read(_RECORD_HEAD.size)
            opcode, length = _RECORD_HEAD.unpack(head) if len(head) == _RECORD_HEAD.size else (0, size)
            if self._file.tell() + length > size:
                self.loss = f'{self.path.name} is cut after {offset} of {size} bytes, in the middle of a record'
                return
            if opcode == Opcode.DATA_END:
                self._file.seek(max(size - len(_MAGIC), 0))
                if self._file.read() != _MAGIC:
                    self.loss = f'{self.path.name} is cut in its index, behind all messages'
                return
            try:
                if opcode in _HELD:
                    check_chunk(length)
                    self._take(opcode, offset, self._file.read(length))
                else:
                    self._file.seek(length, 1)
            except ForeignFormat:
                raise
            except Exception as error:
                # A damaged record can make its parser fail with any kind of exception.
                reason = str(error) or type(error).__name__
                self.loss = f'{self.path.name} is damaged after {offset} of {size} bytes ({reason})'
                return
        self.loss = f'{self.path.name} ends after {size} bytes without an index'

    def _take(self, opcode: int, offset: int, body: bytes) -> None:
        if opcode == Opcode.HEADER:
            profile = Header.read(ReadDataStream(BytesIO(body))).profile
            if profile != 'ros2':
                raise ForeignFormat(f'{self.path} is of a foreign format: an MCAP file of {profile or "no profile"}, '
                                    'not of ROS 2')
            return
        times = []
        for record in _records(opcode, body):
            if isinstance(record, Schema):
                self._schemas[record.id] = record
            elif isinstance(record, Channel):
                self._channels[record.id] = record
                self._counts.setdefault(record.id, 0)
            elif record.channel_id in self._channels:
                times.append(record.log_time)
                self._counts[record.channel_id] += 1
        if times:
            block = _Block(min(times), max(times), offset + _RECORD_HEAD.size, len(body), opcode)
            self._blocks.append(block)
            self.message_count += len(times)
            self.start_time = min(self.start_time, block.start_ns)
            self.end_time = max(self.end_time, block.end_ns + 1)

    def messages(self, connections: Sequence[Connection], start_ns: int | None,
                 stop_ns: int | None) -> Iterator[tuple[Connection, int, bytes]]:
        """In order of log time; equal times in the order of the file."""
        wanted = {connection.id: connection for connection in connections}
        low, high = start_ns or 0, 2 ** 63 if stop_ns is None else stop_ns
        ready: list[tuple[int, int, int, int, bytes]] = []
        for block in sorted(self._blocks):
            # Nothing that is still to be read can come before this block.
            while ready and ready[0][0] < block.start_ns:
                yield self._message(wanted, heapq.heappop(ready))
            if block.end_ns < low or block.start_ns >= high:
                continue
            self._file.seek(block.offset)
            for place, record in enumerate(_records(block.opcode, self._file.read(block.length))):
                if isinstance(record, Message) and record.channel_id in wanted and low <= record.log_time < high:
                    heapq.heappush(ready, (record.log_time, block.offset, place, record.channel_id, record.data))
        while ready:
            yield self._message(wanted, heapq.heappop(ready))

    @staticmethod
    def _message(wanted: dict[int, Connection],
                 entry: tuple[int, int, int, int, bytes]) -> tuple[Connection, int, bytes]:
        log_ns, _, _, channel, data = entry
        return wanted[channel], log_ns, data


def _records(opcode: int, body: bytes) -> list[Schema | Channel | Message]:
    stream = ReadDataStream(BytesIO(body))
    if opcode == Opcode.CHUNK:
        chunk = Chunk.read(stream)
        records = decompress(chunk.data, chunk.compression, chunk.uncompressed_size)
        return breakup_chunk(replace(chunk, compression='', data=records), validate_crc=True)
    if opcode == Opcode.SCHEMA:
        return [Schema.read(stream)]
    if opcode == Opcode.CHANNEL:
        return [Channel.read(stream)]
    if opcode == Opcode.MESSAGE:
        return [Message.read(stream, len(body))]
    return []


def _connection(channel: Channel, schema: Schema | None, count: int) -> Connection:
    definition = MessageDefinition(MessageDefinitionFormat.NONE, '')
    if schema is not None and schema.encoding in _FORMATS:
        definition = MessageDefinition(_FORMATS[schema.encoding], schema.data.decode())
    offered = ConnectionExtRosbag2(channel.message_encoding, _qos(channel.metadata.get('offered_qos_profiles', '')))
    return Connection(channel.id, channel.topic, schema.name if schema else '', definition, '', count, offered, None)


def _qos(text: str) -> list[Qos]:
    """Profiles as rosbag2 writes them: numbers up to metadata version 8, words later. Empty where the text is no such
    thing: the messages are as good without."""
    def member(kind: type, value: int | str) -> object:
        try:
            return kind(value) if isinstance(value, int) else kind[value.upper()]
        except (KeyError, ValueError):
            return kind.UNKNOWN

    try:
        return [Qos(member(QosHistory, profile['history']), int(profile['depth']),
                    member(QosReliability, profile['reliability']), member(QosDurability, profile['durability']),
                    QosTime(**profile['deadline']), QosTime(**profile['lifespan']),
                    member(QosLiveliness, profile['liveliness']), QosTime(**profile['liveliness_lease_duration']),
                    bool(profile['avoid_ros_namespace_conventions']))
                for profile in load_plain_yaml(text) or ()]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
