"""The storage files of a bag as one recording, by what is in them."""

from __future__ import annotations

import heapq
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from operator import itemgetter
from pathlib import Path

import zstandard
from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from hand_unc_ros.data.bags.mcap_files import IndexedFile
from hand_unc_ros.data.bags.unfinished import UnindexedFile
from hand_unc_ros.errors import RecordingError

LARGEST_MESSAGE = 1 << 28
"""Bytes of a message that was compressed by itself."""


class SqliteFile(Sqlite3Reader):
    """A .db3 file. Open until `close`. Raises an exception of any kind for a file that is none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        _refuse_multiplied(path)
        self.open()

    @property
    def start_time(self) -> int:
        """Time of the first message, nanoseconds."""
        return self.metadata.start_time

    @property
    def end_time(self) -> int:
        """One nanosecond after the last message."""
        return self.metadata.end_time

    @property
    def message_count(self) -> int:
        """Number of messages."""
        return self.metadata.message_count


Part = IndexedFile | UnindexedFile | SqliteFile


class BagFiles:
    """Files of one recording, with span, counts and topics as the files have them.

    Messages of one topic and type are one connection, whatever QoS each of its publishers had. MCAP files without an
    index, or cut ones, are read as far as they go. compressed: whether each message is compressed by itself.  losses:
    a sentence for each file whose end is missing.  Raises an exception of any kind where a file cannot be read.
    """

    def __init__(self, files: Iterable[Path], compressed: bool = False) -> None:
        self._compressed = compressed
        self._parts: list[Part] = []
        try:
            for path in sorted(files, key=split_order):
                self._parts.append(_open_part(path))
        except BaseException:
            self.close()
            raise
        self.losses = [part.loss for part in self._parts if isinstance(part, UnindexedFile) and part.loss]
        held = [part for part in self._parts if part.message_count]
        self.message_count = sum(part.message_count for part in held)
        self.start_time = min((part.start_time for part in held), default=0)
        self.end_time = max((part.end_time for part in held), default=0)
        self.connections = _merged(connection for part in self._parts for connection in part.connections)
        ends = [part.end_time for part in held]
        self._in_order = all(part.start_time >= end - 1 for part, end in zip(held[1:], ends))

    def messages(self, connections: Sequence[Connection] = (), start_ns: int | None = None,
                 stop_ns: int | None = None) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, log time ns, CDR bytes) in order of log time; no connections: all."""
        chosen = {(connection.topic, connection.msgtype): connection
                  for connection in connections or self.connections}
        streams = [self._of_part(part, chosen, start_ns, stop_ns) for part in self._parts]
        if self._in_order:
            for stream in streams:
                yield from stream
        else:
            yield from heapq.merge(*streams, key=itemgetter(1))

    def _of_part(self, part: Part, chosen: dict[tuple[str, str], Connection], start_ns: int | None,
                 stop_ns: int | None) -> Iterator[tuple[Connection, int, bytes]]:
        wanted = [of for of in part.connections if (of.topic, of.msgtype) in chosen]
        if wanted:
            for of, log_ns, data in part.messages(wanted, start_ns, stop_ns):
                yield chosen[of.topic, of.msgtype], log_ns, _inflated(data) if self._compressed else data

    def close(self) -> None:
        """Close all files."""
        for part in self._parts:
            part.close()


def split_order(path: Path) -> tuple[str, int]:
    """A key for files in the order in which rosbag2 wrote them: it numbers them without leading zeros."""
    match = re.fullmatch(r'(.*?)_?(\d+)', path.stem)
    return (match.group(1), int(match.group(2))) if match else (path.stem, -1)


def _open_part(path: Path) -> Part:
    if path.suffix != '.mcap':
        return SqliteFile(path)
    try:
        return IndexedFile(path)
    except Exception:
        # Whatever the parser says about a file that ends too soon, or about its index.
        return UnindexedFile(path)


def _merged(connections: Iterable[Connection]) -> list[Connection]:
    merged: dict[tuple[str, str], Connection] = {}
    for connection in connections:
        form = connection.ext.serialization_format
        if form != 'cdr':
            raise RecordingError(f'topic {connection.topic} is stored as {form!r}; only cdr can be read')
        key = (connection.topic, connection.msgtype)
        first = merged.get(key)
        if first is None:
            merged[key] = connection._replace(id=len(merged) + 1)
            continue
        offered = [*first.ext.offered_qos_profiles]
        offered += [qos for qos in connection.ext.offered_qos_profiles if qos not in offered]
        merged[key] = first._replace(msgcount=first.msgcount + connection.msgcount,
                                     msgdef=first.msgdef if first.msgdef.data else connection.msgdef,
                                     ext=ConnectionExtRosbag2('cdr', offered))
    return list(merged.values())


def _inflated(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
        message = stream.read(LARGEST_MESSAGE + 1)
    if len(message) > LARGEST_MESSAGE:
        raise RecordingError(f'a message of {len(data)} bytes grows to more than {LARGEST_MESSAGE}')
    return message


def _refuse_multiplied(path: Path) -> None:
    """Raise RecordingError for QoS texts with merged aliases, by which a few lines of YAML multiply to any size."""
    with closing(sqlite3.connect(f'{path.absolute().as_uri()}?immutable=1', uri=True)) as database:
        columns = {row[1] for row in database.execute('PRAGMA table_info(topics)')}
        if 'offered_qos_profiles' in columns and database.execute(
                "SELECT count(*) FROM topics WHERE offered_qos_profiles LIKE '%<<%'").fetchone()[0]:
            raise RecordingError(f'{path.name}: the QoS profiles in it are no plain YAML')
