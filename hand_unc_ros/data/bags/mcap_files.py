"""MCAP files of ROS 2 by their index, and chunks that stay within bounds whatever they declare."""

from __future__ import annotations

import heapq
import struct
import zlib
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path

import lz4.frame
import zstandard
from rosbags.interfaces import Connection
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader

from hand_unc_ros.errors import RecordingError

LARGEST_CHUNK = 1 << 28
"""Bytes of a chunk, compressed or not. Recorders end a chunk at about a megabyte, or behind one larger message."""

_CHUNK_HEAD = struct.Struct('<QQQI')
_RECORD_HEAD = struct.Struct('<BQ')
_MESSAGE_HEAD = struct.Struct('<HIQQ')
_MESSAGE = 0x05


def decompress(data: bytes, compression: str, size: int) -> bytes:
    """The records of a chunk. Raises RecordingError where they are larger than declared, or than LARGEST_CHUNK."""
    check_chunk(max(len(data), size))
    if compression == '':
        records = data
    elif compression == 'zstd':
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as stream:
            records = stream.read(size + 1)
    elif compression == 'lz4':
        records = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
    else:
        raise RecordingError(f'an MCAP chunk is compressed by {compression!r}; zstd and lz4 can be read')
    if len(records) != size:
        held = f'{len(records)} bytes' if len(records) < size else 'more'
        raise RecordingError(f'an MCAP chunk declares {size} bytes and holds {held}')
    return records


def check_chunk(size: int) -> None:
    """Raise RecordingError for a chunk that is larger than LARGEST_CHUNK."""
    if size > LARGEST_CHUNK:
        raise RecordingError(f'an MCAP chunk declares {size} bytes; at most {LARGEST_CHUNK} are read')


class IndexedFile(McapReader):
    """A whole MCAP file with an index that covers its messages. Open until `close`.

    Raises an exception of any kind for a file that is none.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.open()
        if any(not chunk.channel_count for chunk in self.chunks):
            self.close()
            raise ReaderError('a chunk is not indexed')

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

    def read_index(self) -> None:
        """Channels and chunks, from the end of the file. QoS profiles in which YAML aliases are merged, by which a few
        lines multiply to any size, are left to readers that do not expand them."""
        self.bio.seek(self.data_end)
        if b'<<' in self.bio.read():
            raise ReaderError('QoS profiles of no plain YAML')
        super().read_index()

    def meta_scan(self) -> None:
        """A file without an index is not for this reader, whose scan trusts the sizes that chunks declare."""
        raise ReaderError('the file has no index')

    def messages(self, connections: Sequence[Connection], start: int | None = None,
                 stop: int | None = None) -> Iterator[tuple[Connection, int, bytes]]:
        """(connection, log time ns, CDR bytes), start ≤ time < stop, in order of time; equal times as in the file."""
        wanted = {connection.id: connection for connection in connections}
        low, high = start or 0, 2 ** 63 if stop is None else stop
        ready: list[tuple[int, int, int, int, bytes]] = []
        chunks = [chunk for chunk in self.chunks if any(chunk.channel_count.get(number) for number in wanted)
                  and chunk.message_end_time >= low and chunk.message_start_time < high]
        for chunk in sorted(chunks, key=itemgetter(0, 2)):
            # Nothing that is still to be read can come before this chunk.
            while ready and ready[0][0] < chunk.message_start_time:
                log_ns, _, _, channel, data = heapq.heappop(ready)
                yield wanted[channel], log_ns, data
            for place, (channel, log_ns, data) in enumerate(_messages(self._records(chunk))):
                if channel in wanted and low <= log_ns < high:
                    heapq.heappush(ready, (log_ns, chunk.chunk_start_offset, place, channel, data))
        while ready:
            log_ns, _, _, channel, data = heapq.heappop(ready)
            yield wanted[channel], log_ns, data

    def _records(self, chunk: ChunkInfo) -> bytes:
        check_chunk(max(chunk.compressed_size, chunk.uncompressed_size))
        self.bio.seek(chunk.chunk_start_offset + _RECORD_HEAD.size)
        *_, size, checksum = _CHUNK_HEAD.unpack(self.bio.read(_CHUNK_HEAD.size))
        self.bio.seek(4 + len(chunk.compression) + 8, 1)
        data = self.bio.read(chunk.compressed_size)
        if size != chunk.uncompressed_size or len(data) != chunk.compressed_size:
            raise RecordingError(f'{self.path.name}: a chunk and its entry in the index differ')
        records = decompress(data, chunk.compression, size)
        if checksum and zlib.crc32(records) != checksum:
            raise RecordingError(f'{self.path.name}: a chunk fails its checksum')
        return records


def _messages(records: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Channel, log time and data of the messages among the records of a chunk."""
    position = 0
    while position < len(records):
        opcode, length = _RECORD_HEAD.unpack_from(records, position)
        position += _RECORD_HEAD.size
        if position + length > len(records):
            raise RecordingError('a record reaches beyond its chunk')
        if opcode == _MESSAGE:
            channel, _, log_ns, _ = _MESSAGE_HEAD.unpack_from(records, position)
            yield channel, log_ns, records[position + _MESSAGE_HEAD.size:position + length]
        position += length
