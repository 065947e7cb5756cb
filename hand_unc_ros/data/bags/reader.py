"""Reading ROS 2 bags (MCAP or SQLite) without ROS, with errors that say what is wrong and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from hand_unc_ros.data.bags.unfinished import UnfinishedReader
from hand_unc_ros.errors import RecordingError

INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
IMAGE_TYPES = ('sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/Image')
TF_TYPE = 'tf2_msgs/msg/TFMessage'
INPUT_TYPES = (*IMAGE_TYPES, INFO_TYPE, TF_TYPE)
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
    if not (path / 'metadata.yaml').is_file() and not storage_files(path):
        raise RecordingError(f'{path} is not a ROS 2 bag: it has neither metadata.yaml nor a .mcap or .db3 file; '
                             'give the folder that holds them')


def storage_files(path: Path) -> list[Path]:
    """The files with the messages of a bag folder, or a single such file itself."""
    return [path] if path.is_file() else [file for file in path.iterdir() if file.suffix in _STORAGE_SUFFIXES]


def _open_reader(path: Path) -> Reader | UnfinishedReader:
    """The reader for a bag that was ended properly, or for one that was not, which is told on stderr."""
    # A file in a folder with metadata.yaml was complete once: if it is cut now, it was not copied whole.
    if not path.is_dir() or (path / 'metadata.yaml').is_file():
        reader = Reader(path)
        try:
            reader.open()
            return reader
        except Exception:
            if path.suffix != '.mcap' or path.is_dir():
                raise
    unfinished = UnfinishedReader(storage_files(path))
    lost = '; '.join(unfinished.losses) or 'metadata.yaml is missing, the files are whole'
    print(f'bag {path} was not ended properly, or not copied whole: {unfinished.message_count} messages recovered; '
          f'{lost}', file=sys.stderr)
    return unfinished


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever the parser says about a damaged or foreign file into a RecordingError.

    A damaged file can make the parser fail anywhere, with any kind of exception.
    """
    try:
        yield
    except RecordingError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise RecordingError(
            f'bag {path} cannot be read: {reason}. The file is truncated, damaged or of a foreign format: '
            'copy it again from where it was recorded, or try `mcap recover` on the .mcap file') from error


class Bag:
    """An open bag. Use `open_bag`."""

    def __init__(self, path: Path, reader: Reader | UnfinishedReader) -> None:
        self.path = path
        self._reader = reader

    @property
    def finished(self) -> bool:
        """Whether the recording was ended properly."""
        return isinstance(self._reader, Reader)

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
        # rosbags counts to one nanosecond after the last message.
        return max(self._reader.duration - 1, 0)

    @property
    def custom_data(self) -> dict[str, str]:
        """What the recorder wrote beside the messages, from metadata.yaml."""
        metadata = self._reader.storage.metadata if self.finished else None
        return dict(getattr(metadata, 'custom', None) or {})

    def messages(self, connections: list[Connection] | None = None, start_ns: int | None = None,
                 stop_ns: int | None = None) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, log time ns, CDR bytes) in order of time, start_ns ≤ time < stop_ns."""
        with _reading(self.path):
            yield from self._reader.messages(connections or (), start_ns, stop_ns)

    def decoded(self, connections: list[Connection], store: Typestore) -> Iterator[tuple[Connection, int, Any]]:
        """(connection, log time ns, message) of connections whose types the store knows, in order of time."""
        with _reading(self.path):
            for connection, log_ns, data in self.messages(connections) if connections else ():
                yield connection, log_ns, store.deserialize_cdr(data, connection.msgtype)


@contextmanager
def open_bag(path: str | Path) -> Iterator[Bag]:
    """Open a bag folder or a single storage file.

    A recording that was killed (a folder without metadata.yaml, or a single .mcap file that is cut) is read as far as
    it goes; stderr says so, and how many messages that gives.

    Raises RecordingError, naming the file and the remedy, when it is missing, truncated after it was
    complete, empty, of a foreign format, or holds no messages.
    """
    path = Path(path)
    _refuse_hopeless(path)
    with _reading(path):
        reader = _open_reader(path)
    try:
        if reader.message_count == 0:
            raise RecordingError(f'bag {path} holds no messages; record it again with the cameras running')
        yield Bag(path, reader)
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
