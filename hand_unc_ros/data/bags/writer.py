"""Writing a bag while its messages come, so that it can be read whenever the writing stops.

The messages go into MCAP chunks that are handed to the system whole: a process that is killed leaves complete chunks
and at most one that is cut, which readers skip. metadata.yaml is written at the end, when every file has its index;
a folder without it is a recording that was not ended properly.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mcap.writer import CompressionType, Writer
from rosbags.interfaces import Qos

from hand_unc_ros import __version__
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.files import write_file

# Of rosbag2. Later ones keep QoS profiles in a form that ROS 2 Humble refuses to parse, and all that came after read 8.
METADATA_VERSION = 8
_CHUNK_BYTES = 1_000_000
_MESSAGE_OVERHEAD = 31  # opcode, length, channel, sequence and two times
# Latched messages are repeated in every file. Some publishers send theirs again and again with a new stamp.
_LATCHED_LIMIT = 100


@dataclass(frozen=True)
class Topic:
    """definition: as from `message_definition`. type_hash: REP-2011's, '' where unknown. latched: its messages
    are also written at the start of every further file."""

    name: str
    type: str
    definition: str
    qos: tuple[Qos, ...] = ()
    type_hash: str = ''
    latched: bool = False


@dataclass
class _File:
    """One storage file: what metadata.yaml says of it."""

    path: Path
    start_ns: int | None = None
    end_ns: int = 0
    count: int = 0

    def add(self, log_ns: int) -> None:
        self.start_ns = log_ns if self.start_ns is None else min(self.start_ns, log_ns)
        self.end_ns = max(self.end_ns, log_ns)
        self.count += 1


@dataclass
class _Series:
    """A topic's channel in the open file, its messages so far, and those to repeat."""

    topic: Topic
    channel: int = 0
    count: int = 0
    latched: dict[bytes, int] = field(default_factory=dict)


class _Sink:
    """A new file, written without a buffer: what `write` has returned from survives the process."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.offset = 0

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            written = os.write(self._descriptor, left)
            self.offset += written
            left = left[written:]
        return len(data)

    def tell(self) -> int:
        return self.offset

    def flush(self) -> None:
        """There is no buffer."""

    def cut(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class BagWriter:
    """A bag of MCAP files. Not for several threads at once.

    max_bytes: begin another file when one has grown to about that size; 0: never. about: what `custom_data` of
    metadata.yaml says.

    All methods raise RecordingError when the disk is full or gone; what was flushed before stays readable then.
    """

    def __init__(self, path: str | Path, max_bytes: int = 0, about: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self.message_count = 0
        self.size_bytes = 0  # of the finished files
        self._max_bytes = max_bytes
        self._about = dict(about or {})
        self._series: dict[str, _Series] = {}
        self._files: list[_File] = []
        self._repeated = 0  # latched messages that the open file begins with
        self._pending_bytes = 0
        if os.path.lexists(self.path):
            raise RecordingError(f'{self.path} exists already and is not overwritten; remove it or choose another name')
        try:
            self.path.mkdir(parents=True)
            self._open_file()
        except OSError as error:
            raise disk_error(self.path, error) from error

    @property
    def written_bytes(self) -> int:
        """On the disk already, over all files."""
        return self.size_bytes + self._sink.offset

    def _open_file(self) -> None:
        file = _File(self.path / f'{self.path.name}_{len(self._files)}.mcap')
        self._sink = _Sink(file.path)
        self._files.append(file)
        self._flushed_bytes, self._flushed_count = 0, self.message_count
        self._writer = Writer(self._sink, chunk_size=_CHUNK_BYTES, compression=CompressionType.NONE)
        self._writer.start(profile='ros2', library=f'hand_unc_ros {__version__}')
        self._mark()
        self._schemas: dict[str, int] = {}
        for series in self._series.values():
            self._register(series)

    def _register(self, series: _Series) -> None:
        topic = series.topic
        if topic.type not in self._schemas:
            self._schemas[topic.type] = self._writer.register_schema(topic.type, 'ros2msg', topic.definition.encode())
        metadata = {'offered_qos_profiles': _qos_text(topic.qos)}
        if topic.type_hash:
            metadata['topic_type_hash'] = topic.type_hash
        series.channel = self._writer.register_channel(topic.name, 'cdr', self._schemas[topic.type], metadata)

    def _mark(self) -> None:
        """Everything up to here is complete in the file."""
        self._flushed_bytes, self._flushed_count, self._pending_bytes = self._sink.offset, self.message_count, 0

    def add_topic(self, topic: Topic) -> None:
        """To be called once for each name, before its first message."""
        series = _Series(topic)
        self._series[topic.name] = series
        with self._disk():
            self._register(series)

    def write(self, topic: str, data: bytes, log_ns: int, publish_ns: int, sequence: int = 0) -> None:
        """Add a message: CDR bytes, when it came, when it was published, and the publisher's counter."""
        series = self._series[topic]
        with self._disk():
            size = self._sink.offset + self._pending_bytes + len(data) + _MESSAGE_OVERHEAD
            if self._max_bytes and size > self._max_bytes and self._files[-1].count > self._repeated:
                self._finish_file()
                self._open_file()
                self._repeat_latched(log_ns)
            self._add(series, data, log_ns, publish_ns, sequence)
        if series.topic.latched:
            series.latched.pop(data, None)
            series.latched[data] = publish_ns
            while len(series.latched) > _LATCHED_LIMIT:
                series.latched.pop(next(iter(series.latched)))

    def _repeat_latched(self, log_ns: int) -> None:
        for series in self._series.values():
            for data, publish_ns in series.latched.items():
                self._add(series, data, log_ns, publish_ns, 0)
        self._repeated = self._files[-1].count

    def _add(self, series: _Series, data: bytes, log_ns: int, publish_ns: int, sequence: int) -> None:
        before = self._sink.offset
        self.message_count += 1
        series.count += 1
        self._files[-1].add(log_ns)
        self._pending_bytes += len(data) + _MESSAGE_OVERHEAD
        self._writer.add_message(series.channel, log_ns, data, publish_ns, sequence & 0xffffffff)
        if self._sink.offset != before:
            self._mark()

    def flush(self) -> None:
        """Hand everything to the system: what was written until now survives a kill."""
        with self._disk():
            self._writer.flush()
            self._mark()

    def close(self) -> None:
        """Write the index of the last file, and metadata.yaml."""
        with self._disk():
            self._finish_file()
            self._write_metadata()

    def _finish_file(self) -> None:
        self._writer.flush()
        self._mark()
        self._writer.finish()
        self.size_bytes += self._sink.offset
        self._sink.close()
        self._sink.offset = 0

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Turn an OSError into the error for the user; the open file is left at the end of its last complete chunk."""
        try:
            yield
        except OSError as error:
            with suppress(OSError):
                self._sink.cut(self._flushed_bytes)
            self._sink.close()
            self.message_count = self._flushed_count
            raise disk_error(self.path, error) from error

    def _write_metadata(self) -> None:
        def span(start_ns: int | None, end_ns: int) -> dict[str, Any]:
            return {'starting_time': {'nanoseconds_since_epoch': start_ns or 0},
                    'duration': {'nanoseconds': end_ns - start_ns if start_ns is not None else 0}}

        held = [file for file in self._files if file.count]
        start_ns = min((file.start_ns for file in held), default=None)
        content = {
            'version': METADATA_VERSION,
            'storage_identifier': 'mcap',
            **span(start_ns, max((file.end_ns for file in held), default=0)),
            'message_count': self.message_count,
            'topics_with_message_count': [
                {'topic_metadata': {
                    'name': series.topic.name, 'type': series.topic.type, 'serialization_format': 'cdr',
                    'offered_qos_profiles': _qos_text(series.topic.qos),
                    'type_description_hash': series.topic.type_hash},
                 'message_count': series.count} for series in self._series.values()],
            'compression_format': '',
            'compression_mode': '',
            'relative_file_paths': [file.path.name for file in self._files],
            'files': [{'path': file.path.name, **span(file.start_ns, file.end_ns), 'message_count': file.count}
                      for file in self._files],
            'custom_data': self._about or None,
            'ros_distro': os.environ.get('ROS_DISTRO', 'unknown'),
        }
        text = yaml.safe_dump({'rosbag2_bagfile_information': content}, sort_keys=False, allow_unicode=True)
        write_file(self.path / 'metadata.yaml', text, RecordingError)


def disk_error(output: Path, error: OSError) -> RecordingError:
    """The error for a bag that cannot be written, with a remedy by its cause."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = 'free some space or choose another disk'
    elif error.errno == errno.EFBIG:
        remedy = 'the largest size of a file is reached there (`ulimit -f`, or the kind of disk); split it by size'
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = 'choose a folder that you may write to'
    else:
        remedy = 'choose another place'
    return RecordingError(f'cannot write the bag {output}: {error.strerror or error}; {remedy}')


def _qos_text(profiles: tuple[Qos, ...]) -> str:
    """As rosbag2 up to metadata version 8 writes it: YAML with numbers for the enumerations."""
    if not profiles:
        return ''
    return yaml.safe_dump([{
        'history': qos.history.value, 'depth': qos.depth, 'reliability': qos.reliability.value,
        'durability': qos.durability.value, 'deadline': qos.deadline._asdict(), 'lifespan': qos.lifespan._asdict(),
        'liveliness': qos.liveliness.value, 'liveliness_lease_duration': qos.liveliness_lease_duration._asdict(),
        'avoid_ros_namespace_conventions': qos.avoid_ros_namespace_conventions} for qos in profiles], sort_keys=False)
