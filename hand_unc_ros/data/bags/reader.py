"""Reading ROS 2 bags (MCAP or SQLite) without ROS, with errors that say what is wrong and what to do."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from hand_unc_ros.data.bags.files import BagFiles
from hand_unc_ros.data.bags.metadata import NAME as METADATA
from hand_unc_ros.data.bags.metadata import Metadata, read_metadata
from hand_unc_ros.errors import RecordingError

INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
IMAGE_TYPES = ('sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/Image')
TF_TYPE = 'tf2_msgs/msg/TFMessage'
INPUT_TYPES = (*IMAGE_TYPES, INFO_TYPE, TF_TYPE)
# From and to, seconds after a bag's start.
WHOLE = (0.0, math.inf)
_STORAGE_SUFFIXES = ('.mcap', '.db3')


@dataclass(frozen=True)
class TopicSummary:
    """rate_hz: messages over the bag's span, NaN-free; 0 with fewer than two messages."""

    name: str
    type: str
    count: int
    rate_hz: float


@dataclass(frozen=True)
class CameraSummary:
    """One camera of a bag, from its first CameraInfo. image_topic: None where its images are missing."""

    name: str
    width: int
    height: int
    distortion_model: str
    frame_id: str
    image_topic: str | None


@dataclass(frozen=True)
class BagSummary:
    path: Path
    size_bytes: int
    start_ns: int
    duration_ns: int
    message_count: int
    topics: tuple[TopicSummary, ...]
    cameras: tuple[CameraSummary, ...]
    custom_data: dict[str, str]


def _refuse_hopeless(path: Path) -> None:
    """Raise for what is not a bag at first sight, where the remedy is most specific."""
    if not path.exists():
        raise RecordingError(f'bag {path}: no such file or folder; check the path')
    if path.is_file():
        if path.suffix == '.bag':
            raise RecordingError(
                f'bag {path} is of ROS 1; convert it: `pip install rosbags && rosbags-convert --src {path} '
                f'--dst {path.with_suffix("")}`')
        if path.suffix not in _STORAGE_SUFFIXES:
            raise RecordingError(f'{path} is not a ROS 2 bag; give a bag folder, or a .mcap or .db3 file')
        return
    if not (path / METADATA).is_file() and not storage_files(path):
        raise RecordingError(f'{path} is not a ROS 2 bag: it has neither metadata.yaml nor a .mcap or .db3 file; '
                             'give the folder that holds them')


def storage_files(path: Path) -> list[Path]:
    """The files with the messages of a bag folder, or a single such file itself."""
    return [path] if path.is_file() else [file for file in path.iterdir() if file.suffix in _STORAGE_SUFFIXES]


def _open_files(path: Path) -> tuple[BagFiles | Reader, Metadata | None]:
    """The reader of a bag's files, and its metadata where they are of use. What differs from a bag that was ended
    properly is said on stderr."""
    if path.is_file():
        return _recovered(path, [path]), None
    metadata, files = read_metadata(path), storage_files(path)
    if metadata is None:
        return _recovered(path, files), None
    if metadata.fault:
        print(f'bag {path}: metadata.yaml cannot be used ({metadata.fault}); it is read from its files, and '
              '`ros2 bag reindex` writes it anew', file=sys.stderr)
        return _recovered(path, files), None
    if metadata.compression == 'file':
        reader = Reader(path)
        reader.open()
        return reader, metadata
    named = [path / name for name in metadata.files]
    missing = [file.name for file in named if not file.is_file()]
    if missing:
        if len(files) < len(named):
            raise RecordingError(f'bag {path}: metadata.yaml names {", ".join(missing)}, which is not there; copy the '
                                 'whole bag again, or delete metadata.yaml to read what is left')
        print(f'bag {path}: metadata.yaml names {", ".join(missing)}, which is not there; read instead: '
              f'{", ".join(sorted(file.name for file in files))}', file=sys.stderr)
        named = files
    elif strays := sorted({file.name for file in files} - set(metadata.files)):
        print(f'bag {path}: {", ".join(strays)} is left out, as metadata.yaml does not name it', file=sys.stderr)
    reader = BagFiles(named, metadata.compression == 'message')
    if reader.losses:
        # Complete once, or there would be no metadata: it was not copied whole.
        reader.close()
        raise RecordingError('; '.join(reader.losses))
    if metadata.count not in (None, reader.message_count):
        print(f'bag {path}: metadata.yaml speaks of {metadata.count} messages, the files hold {reader.message_count}; '
              'all of them are read', file=sys.stderr)
    return reader, metadata


def _recovered(path: Path, files: Sequence[Path]) -> BagFiles:
    reader = BagFiles(files)
    losses = '; '.join(reader.losses)
    if losses or not (path.is_file() or (path / METADATA).is_file()):
        print(f'bag {path} was not ended properly, or not copied whole: {reader.message_count} messages recovered; '
              f'{losses or "metadata.yaml is missing, the files are whole"}', file=sys.stderr)
    return reader


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever the parser says about a damaged or foreign file into a RecordingError.

    A damaged file can make the parser fail anywhere, with any kind of exception.
    """
    try:
        yield
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, RecordingError) and str(path) in reason:
            raise
        raise RecordingError(
            f'bag {path} cannot be read: {reason}. The file is truncated, damaged or of a foreign format: '
            'copy it again from where it was recorded, or try `mcap recover` on the .mcap file') from error


class Bag:
    """An open bag. Use `open_bag`. part_s: seconds after `start_ns` between which its messages are read; camera
    calibrations and transforms, which may be sent only once, are read all."""

    def __init__(self, path: Path, reader: BagFiles | Reader, metadata: Metadata | None,
                 part_s: tuple[float, float] = WHOLE) -> None:
        self.path = path
        self.part_s = part_s
        self._reader = reader
        self._metadata = metadata

    @property
    def finished(self) -> bool:
        """Whether the recording was ended properly."""
        return self._metadata is not None or (self.path.is_file() and not self._reader.losses)

    @property
    def connections(self) -> list[Connection]:
        """One for each topic, type and publisher."""
        return list(self._reader.connections)

    @property
    def start_ns(self) -> int:
        """Log time of the first message, nanoseconds."""
        return self._reader.start_time

    @property
    def duration_ns(self) -> int:
        """From the first to the last message."""
        return max(self._reader.end_time - 1 - self._reader.start_time, 0)

    @property
    def custom_data(self) -> dict[str, str]:
        """What the recorder wrote beside the messages, from metadata.yaml."""
        return dict(self._metadata.custom) if self._metadata is not None else {}

    def messages(self, connections: list[Connection] | None = None, start_ns: int | None = None,
                 stop_ns: int | None = None) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, log time ns, CDR bytes) in order of time, start_ns ≤ time < stop_ns."""
        with _reading(self.path):
            for message in self._reader.messages(connections or (), start_ns, stop_ns):
                if self.part_s == WHOLE or message[0].msgtype in (INFO_TYPE, TF_TYPE) or self._in_part(message[1]):
                    yield message

    def _in_part(self, log_ns: int) -> bool:
        first, end = self.part_s
        return first <= (log_ns - self.start_ns) * 1e-9 < end

    def decoded(self, connections: list[Connection], store: Typestore) -> Iterator[tuple[Connection, int, Any]]:
        """(connection, log time ns, message) of connections whose types the store knows, in order of time."""
        with _reading(self.path):
            for connection, log_ns, data in self.messages(connections) if connections else ():
                yield connection, log_ns, store.deserialize_cdr(data, connection.msgtype)


@contextmanager
def open_bag(path: str | Path, part_s: tuple[float, float] = WHOLE) -> Iterator[Bag]:
    """Open a bag folder or a single storage file, whole or a part of it: from and to, seconds after its start.

    Span, counts and topics are those of the files, whatever metadata.yaml says. A recording that was killed (a folder
    without metadata.yaml, or a single .mcap file that is cut) is read as far as it goes; stderr says so, and how many
    messages that gives.

    Raises RecordingError, naming the file and the remedy, when it is missing, truncated after it was
    complete, empty, of a foreign format, or holds no messages, and where it ends before the part begins.
    """
    path = Path(path)
    _refuse_hopeless(path)
    with _reading(path):
        reader, metadata = _open_files(path)
    try:
        if reader.message_count == 0:
            raise RecordingError(f'bag {path} holds no messages; record it again with the cameras running')
        bag = Bag(path, reader, metadata, part_s)
        if part_s[0] > 1e-9 * bag.duration_ns:
            raise RecordingError(f'bag {path} is {1e-9 * bag.duration_ns:.1f} s long; nothing of it is left from'
                                 f' {part_s[0]:g} s on')
        yield bag
    finally:
        reader.close()


def describe_bag(path: str | Path) -> BagSummary:
    """What is in a bag. Every message is read once, so a damaged bag raises RecordingError."""
    path = Path(path)
    with open_bag(path) as bag:
        connections = bag.connections
        counts = dict.fromkeys((connection.topic for connection in connections), 0)
        first_info: dict[str, tuple[str, bytes]] = {}
        for connection, _, data in bag.messages():
            counts[connection.topic] += 1
            if connection.msgtype == INFO_TYPE:
                first_info.setdefault(connection.topic, (connection.msgtype, data))
        promised = sum(connection.msgcount for connection in connections)
        if sum(counts.values()) != promised:
            raise RecordingError(
                f'bag {path} holds {sum(counts.values())} of the {promised} messages that its index '
                'promises; copy it again, or rebuild the index with `ros2 bag reindex`')
        types = {connection.topic: connection.msgtype for connection in connections}
        span_s = bag.duration_ns / 1e9
        topics = tuple(
            TopicSummary(topic, types[topic], count, (count - 1) / span_s if count > 1 and span_s else 0.0)
            for topic, count in sorted(counts.items()))
        with _reading(path):
            cameras = tuple(_camera(topic, data, types) for topic, (_, data) in sorted(first_info.items()))
        return BagSummary(path, _size(path), bag.start_ns, bag.duration_ns, promised, topics, cameras,
                          bag.custom_data)


def _camera(topic: str, data: bytes, types: dict[str, str]) -> CameraSummary:
    info = get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr(data, INFO_TYPE)
    namespace = topic.rsplit('/', 1)[0]
    images = [name for name, kind in types.items()
              if kind in IMAGE_TYPES and name.startswith(f'{namespace}/')]
    return CameraSummary(namespace.strip('/'), info.width, info.height, info.distortion_model,
                         info.header.frame_id, min(images, default=None))


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob('*') if file.is_file())


def format_summary(bag: BagSummary) -> str:
    """The text of `hand-unc bag info`."""
    start = datetime.fromtimestamp(bag.start_ns / 1e9, tz=timezone.utc)
    lines = [
        f'bag       {bag.path}',
        f'size      {bag.size_bytes / 1e6:.1f} MB',
        f'start     {start:%Y-%m-%d %H:%M:%S.%f} UTC',
        f'duration  {bag.duration_ns / 1e9:.3f} s',
        f'messages  {bag.message_count}',
    ]
    lines += [f'{key:<9} {value}' for key, value in bag.custom_data.items()]
    lines += ['', 'topics']
    width = max(len(topic.name) for topic in bag.topics)
    lines += [f'  {topic.name:<{width}}  {topic.count:>7}  {topic.rate_hz:>7.2f} Hz  {topic.type}'
              for topic in bag.topics]
    lines += ['', 'cameras' if bag.cameras else 'cameras   none (no CameraInfo in this bag)']
    for camera in bag.cameras:
        model = camera.distortion_model or 'no distortion model'
        lines.append(f'  {camera.name}  {camera.width}x{camera.height}  {model}  '
                     f'frame {camera.frame_id or "unnamed"}  {camera.image_topic or "no images"}')
    return '\n'.join(lines)
