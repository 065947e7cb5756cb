"""What an encoded image says of itself before it is decoded: format, size, and where a JPEG's data end.

Nothing is decompressed here, so that a file that declares 40000×40000 pixels costs no more than its header.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

from hand_unc_ros.errors import ImageFormatError

_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_END_OF_IMAGE, _START_OF_SCAN, _RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_RESTARTS = range(0xD0, 0xD8)
# Markers without a length: TEM, and RST as padding between segments.
_BARE = (0x01, *_RESTARTS)
_TIFF_TYPES = {1: 'B', 3: 'H', 4: 'I'}


class Jpeg(NamedTuple):
    """The structure of a JPEG file.

    block: width and height in pixels of its smallest coded unit.  simple: one scan, sequential, Huffman, at most three
    channels.  restarts: whether it has restart markers.  ends: offsets at which entropy-coded data end, each that of a
    marker.
    """

    width: int
    height: int
    block: tuple[int, int]
    simple: bool
    restarts: bool
    ends: tuple[int, ...]


class Header(NamedTuple):
    """format: 'JPEG', 'PNG', 'BMP', 'WebP' or 'TIFF'.  jpeg: its structure, None for other formats."""

    format: str
    width: int
    height: int
    jpeg: Jpeg | None = None


def read_header(data: bytes) -> Header:
    """Format and size of an encoded image. The structure of a JPEG or PNG file is checked up to its end.

    Raises ImageFormatError, a predicate without a subject ('is cut off …'), for a format that is not among the five,
    or a file whose structure is damaged.
    """
    try:
        if data[:2] == b'\xff\xd8':
            jpeg = _read_jpeg(data)
            return Header('JPEG', jpeg.width, jpeg.height, jpeg)
        if data[:8] == _PNG_MAGIC:
            return Header('PNG', *_read_png(data))
        if data[:2] == b'BM':
            return Header('BMP', *_read_bmp(data))
        if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
            return Header('WebP', *_read_webp(data))
        if data[:4] in (b'II*\0', b'MM\0*'):
            return Header('TIFF', *_read_tiff(data))
    except (struct.error, IndexError) as error:
        raise ImageFormatError(f'is cut off after {len(data)} bytes, inside its header') from error
    raise ImageFormatError('is not an image that can be decoded (JPEG, PNG, TIFF, WebP or BMP)')


def _read_jpeg(data: bytes) -> Jpeg:
    bytes_ = np.frombuffer(data, np.uint8)
    candidates = np.flatnonzero(bytes_[:-1] == 0xFF)
    codes = bytes_[candidates + 1]
    # Stuffed zeros belong to the data, and a run of 0xFF fills up to the marker behind it.
    markers = candidates[(codes != 0) & (codes != 0xFF)]
    frame: tuple | None = None
    interval = scans = 0
    ends: list[int] = []
    position = 2
    while True:
        place = np.searchsorted(markers, position)
        if place == len(markers):
            raise ImageFormatError(f'is cut off after {len(data)} bytes (JPEG without an end)')
        start = int(markers[place])
        code = data[start + 1]
        position = start + 2
        if code == _END_OF_IMAGE:
            break
        if code in _BARE:
            continue
        length, = struct.unpack_from('>H', data, position)
        body = data[position + 2:position + length]
        if length < 2 or position + length > len(data):
            raise ImageFormatError(f'is cut off after {len(data)} bytes (JPEG, inside a segment)')
        position += length
        if code in _FRAMES:
            if frame is not None:
                raise ImageFormatError('is damaged (JPEG with two frame headers)')
            frame = (code, *_frame(body))
        elif code == _RESTART_INTERVAL:
            interval, = struct.unpack('>H', body)
        elif code == _START_OF_SCAN:
            if frame is None:
                raise ImageFormatError('is damaged (JPEG with a scan before its frame header)')
            scans += 1
            inside = markers[np.searchsorted(markers, position):]
            others = np.flatnonzero((bytes_[inside + 1] & 0xF8) != 0xD0)
            inside = inside[:others[0] + 1] if len(others) else inside
            if interval:
                _check_restarts(bytes_[inside[:-1] + 1])
            ends += inside.tolist()
            position = int(inside[-1]) if len(inside) else len(data)
    if frame is None or not scans:
        raise ImageFormatError('is damaged (JPEG without image data)')
    code, height, width, factors = frame
    if scans == 1:
        _check_interval(width, height, factors, interval, len(ends))
    return Jpeg(width, height, _block(factors), scans == 1 and code in (0xC0, 0xC1) and len(factors) <= 3,
                interval > 0, tuple(ends))


def _frame(body: bytes) -> tuple[int, int, list[tuple[int, int]]]:
    """Height, width, and horizontal and vertical sampling factors of each channel."""
    _, height, width, channels = struct.unpack_from('>BHHB', body)
    factors = [(body[7 + 3 * i] >> 4, body[7 + 3 * i] & 15) for i in range(channels)]
    if not (width and height and factors and all(1 <= f <= 4 for pair in factors for f in pair)):
        raise ImageFormatError('is damaged (JPEG of no size)')
    return height, width, factors


def _block(factors: list[tuple[int, int]]) -> tuple[int, int]:
    # A single channel is coded block by block whatever its factors.
    if len(factors) == 1:
        return 8, 8
    return 8 * max(h for h, _ in factors), 8 * max(v for _, v in factors)


def _check_restarts(codes: np.ndarray) -> None:
    if not np.array_equal(codes & 7, np.arange(len(codes)) % 8):
        raise ImageFormatError('has lost data in the middle (JPEG with a restart marker missing)')


def _check_interval(width: int, height: int, factors: list[tuple[int, int]], interval: int, pieces: int) -> None:
    block = _block(factors)
    needed = -(-width // block[0]) * -(-height // block[1])
    # Some encoders also write a restart marker behind the last piece.
    if interval and pieces < -(-needed // interval):
        raise ImageFormatError('has lost data in the middle (JPEG with restart markers missing)')


def _read_png(data: bytes) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from('>I4sII', data, 8)
    if kind != b'IHDR' or length != 13:
        raise ImageFormatError('is damaged (PNG that does not begin with its header)')
    position = 8
    while True:
        if position + 12 > len(data):
            raise ImageFormatError(f'is cut off after {len(data)} bytes (PNG without an end)')
        length, kind = struct.unpack_from('>I4s', data, position)
        end = position + 12 + length
        if end > len(data):
            raise ImageFormatError(f'is cut off after {len(data)} bytes (PNG without an end)')
        if zlib.crc32(memoryview(data)[position + 4:end - 4]) != struct.unpack_from('>I', data, end - 4)[0]:
            raise ImageFormatError(f"is damaged (PNG whose part '{kind.decode('latin-1')}' fails its checksum)")
        if kind == b'IEND':
            return width, height
        position = end


def _read_bmp(data: bytes) -> tuple[int, int]:
    size, = struct.unpack_from('<I', data, 14)
    if size == 12:
        return struct.unpack_from('<HH', data, 18)
    width, height = struct.unpack_from('<ii', data, 18)
    return abs(width), abs(height)


def _read_webp(data: bytes) -> tuple[int, int]:
    length, = struct.unpack_from('<I', data, 4)
    if length + 8 > len(data):
        raise ImageFormatError(f'is cut off after {len(data)} of {length + 8} bytes')
    kind = data[12:16]
    if kind == b'VP8 ':
        width, height = struct.unpack_from('<HH', data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b'VP8L':
        bits, = struct.unpack_from('<I', data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b'VP8X':
        low_w, high_w, low_h, high_h = struct.unpack_from('<HBHB', data, 24)
        return (high_w << 16 | low_w) + 1, (high_h << 16 | low_h) + 1
    raise ImageFormatError('is damaged (WebP without a picture)')


def _read_tiff(data: bytes) -> tuple[int, int]:
    order = '<' if data[:2] == b'II' else '>'
    place, = struct.unpack_from(order + 'I', data, 4)
    count, = struct.unpack_from(order + 'H', data, place)
    sizes = {}
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + 'HH', data, entry)
        if tag in (256, 257):
            if kind not in _TIFF_TYPES:
                break
            sizes[tag], = struct.unpack_from(order + _TIFF_TYPES[kind], data, entry + 8)
    if len(sizes) < 2:
        raise ImageFormatError('is damaged (TIFF without a size)')
    return sizes[256], sizes[257]
