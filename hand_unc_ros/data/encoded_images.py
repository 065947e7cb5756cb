"""JPEG, PNG, TIFF, WebP and BMP to pixels: the one decoder for what is live, recorded or in a dataset."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from hand_unc_ros.data.image_headers import Jpeg, read_header
from hand_unc_ros.errors import ImageFormatError

CheckSize = Callable[[int, int], None]
LARGEST_IMAGE = 1 << 26
"""Pixels. A larger image is refused before it is decoded."""

# What libjpeg gives where it has no data: every coefficient 0.
_GREY = 128
# Bytes without a marker, and no two blocks of them alike.
_FILLER = bytes(np.random.default_rng(0).integers(0, 255, 2048, dtype=np.uint8))


def decode_colours(data: bytes, name: str, check_size: CheckSize | None = None) -> np.ndarray:
    """Pixels of an encoded image: (H, W, 3) uint8 RGB.

    name: of the image, for messages.  check_size: called with width and height before decoding; raises for a size that
    is not wanted.  An EXIF orientation is ignored: a camera calibration belongs to the pixels as they are stored.
    Raises ImageFormatError for an image that is empty, cut off, damaged, or of an unknown format.
    """
    return cv2.cvtColor(_decode(data, name, check_size, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decode_stored(data: bytes, name: str, check_size: CheckSize | None = None) -> np.ndarray:
    """Values of an encoded image as they are stored: (H, W) or (H, W, C), BGR, uint8 or uint16. As `decode_colours`."""
    return _decode(data, name, check_size, cv2.IMREAD_UNCHANGED)


def _decode(data: bytes, name: str, check_size: CheckSize | None, mode: int) -> np.ndarray:
    if not data:
        raise ImageFormatError(f'{name} has no data')
    try:
        header = read_header(data)
    except ImageFormatError as error:
        raise ImageFormatError(f'{name} {error}') from error
    if check_size is not None:
        check_size(header.width, header.height)
    if not 0 < header.width * header.height <= LARGEST_IMAGE:
        raise ImageFormatError(f'{name} declares {header.width}×{header.height} pixels; at most {LARGEST_IMAGE} are '
                               'decoded')
    pixels = _by_opencv(data, name, mode)
    if pixels.shape[:2] != (header.height, header.width):
        raise ImageFormatError(f'{name} is damaged: {pixels.shape[1]}×{pixels.shape[0]} pixels and a header of '
                               f'{header.width}×{header.height}')
    if header.jpeg is not None and _lacks_data(data, header.jpeg, pixels, mode):
        raise ImageFormatError(f'{name} has lost a part of its data (JPEG that ends before the picture is complete)')
    return pixels


def _by_opencv(data: bytes, name: str, mode: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except Exception as error:
        # Of a decoder that fails nothing is known, and it must cost this one image only.
        raise ImageFormatError(f'{name} cannot be decoded: {str(error) or type(error).__name__}') from error
    if pixels is None:
        raise ImageFormatError(f'{name} is damaged: OpenCV cannot decode it')
    return pixels


def _lacks_data(data: bytes, jpeg: Jpeg, pixels: np.ndarray, mode: int) -> bool:
    """Whether libjpeg made up a part of the picture.

    libjpeg fills in grey where entropy-coded data end too soon and warns, which OpenCV does not hand on. Where a JPEG
    is complete, bytes behind its data change nothing; where it is not, they are taken for the missing data. That second
    decoding is spent on pictures with grey blocks alone, and on those whose losses are not grey (several scans).
    """
    if jpeg.simple and not _made_up(jpeg, pixels):
        return False
    if jpeg.simple and not jpeg.restarts:
        # Without a marker behind it, libjpeg does not warn on standard error that the filler was of no use.
        filled = data[:jpeg.ends[0]] + _FILLER
    else:
        edges = (0, *jpeg.ends, len(data))
        filled = _FILLER.join(data[start:end] for start, end in zip(edges, edges[1:]))
    try:
        other = _by_opencv(filled, '', mode)
    except ImageFormatError:
        return True
    return not np.array_equal(other, pixels)


def _made_up(jpeg: Jpeg, pixels: np.ndarray) -> bool:
    """Whether blocks are of the grey that libjpeg fills in: the last one, or any where data may be lost on the way."""
    width, height = jpeg.block
    last = ((jpeg.height - 1) // height * height, (jpeg.width - 1) // width * width)
    if _is_grey(pixels, *last, jpeg.block):
        return True
    if not jpeg.restarts:
        return False
    middles = pixels[height // 2::height, width // 2::width]
    grey = (middles == _GREY).reshape(*middles.shape[:2], -1).all(-1)
    return any(_is_grey(pixels, row * height, column * width, jpeg.block) for row, column in np.argwhere(grey))


def _is_grey(pixels: np.ndarray, top: int, left: int, block: tuple[int, int]) -> bool:
    # Colours of the blocks above and to the left run over by a pixel where they are stored at half the resolution.
    inner = pixels[top + 1:top + block[1] - 1, left + 1:left + block[0] - 1]
    return bool((inner == _GREY).all())
