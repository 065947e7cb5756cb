"""sensor_msgs Image and CompressedImage to RGB uint8, without a copy where the encoding allows.

Messages of rclpy and of rosbags alike: only their fields are looked at.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np

from hand_unc_ros.data.camera_messages import check_pixels
from hand_unc_ros.data.encoded_images import decode_colours, decode_stored
from hand_unc_ros.errors import ImageFormatError
from hand_unc_ros.geometry.cameras import Camera


class _Encoding(NamedTuple):
    """bits of a channel, channels of a pixel in memory, and OpenCV's conversion to RGB (None: it is RGB).
    chroma_below: half as many rows follow below the image, which hold its colours."""

    bits: int
    channels: int
    to_rgb: int | None
    chroma_below: bool = False


_COLOURS = {'rgb': (3, None), 'bgr': (3, cv2.COLOR_BGR2RGB), 'rgba': (4, cv2.COLOR_RGBA2RGB),
            'bgra': (4, cv2.COLOR_BGRA2RGB), 'mono': (1, cv2.COLOR_GRAY2RGB),
            'bayer_rggb': (1, cv2.COLOR_BayerRGGB2RGB), 'bayer_bggr': (1, cv2.COLOR_BayerBGGR2RGB),
            'bayer_gbrg': (1, cv2.COLOR_BayerGBRG2RGB), 'bayer_grbg': (1, cv2.COLOR_BayerGRBG2RGB)}

ENCODINGS: dict[str, _Encoding] = {
    **{f'{name}{bits}': _Encoding(bits, *layout) for name, layout in _COLOURS.items() for bits in (8, 16)},
    # OpenCV's type names say nothing about colours; its images are BGR.
    '8UC1': _Encoding(8, 1, cv2.COLOR_GRAY2RGB),
    '8UC3': _Encoding(8, 3, cv2.COLOR_BGR2RGB),
    '8UC4': _Encoding(8, 4, cv2.COLOR_BGRA2RGB),
    'yuv422': _Encoding(8, 2, cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': _Encoding(8, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': _Encoding(8, 2, cv2.COLOR_YUV2RGB_YUYV),
    'yuyv': _Encoding(8, 2, cv2.COLOR_YUV2RGB_YUYV),
    'nv12': _Encoding(8, 1, cv2.COLOR_YUV2RGB_NV12, chroma_below=True),
    'nv21': _Encoding(8, 1, cv2.COLOR_YUV2RGB_NV21, chroma_below=True),
}
"""What is decoded here. 16 bits are cut to the upper 8, or 12 of 16 where no more are used."""

_DEPTH = ('16UC1', '32FC1')


def decode_image(message: Any, camera: Camera | None = None) -> np.ndarray:
    """Pixels of a sensor_msgs/Image: (H, W, 3) uint8 RGB, read-only; by cv_bridge, where it is installed, for encodings
    that are not in ENCODINGS.

    camera: an image of another size than it is calibrated for is refused before anything is decoded.
    For 'rgb8' it is a view on the message's data; rows may then be further apart than 3 W bytes.
    Raises ImageFormatError, naming the encoding, when size, step and data do not fit together or the
    encoding cannot be decoded.
    """
    encoding = ENCODINGS.get(message.encoding)
    if message.encoding in _DEPTH:
        raise ImageFormatError(f"encoding '{message.encoding}' is a depth image; "
                               'give the topic of a colour or grey camera')
    if camera is not None:
        check_pixels(camera, message.width, message.height)
    if encoding is None:
        return _decode_by_cv_bridge(message)
    name = f"image {message.width}×{message.height} of encoding '{message.encoding}'"
    return _to_rgb(_pixels(message, encoding, name), encoding, name)


def decode_compressed(message: Any, camera: Camera | None = None) -> np.ndarray:
    """Pixels of a sensor_msgs/CompressedImage (JPEG, PNG, …): (H, W, 3) uint8 RGB, read-only.

    camera: as in `decode_image`; the size is that of the file's header.
    The encoding of the source that image_transport names in front ("bayer_rggb8; jpeg compressed ") is honoured: a
    mosaic is stored as a grey picture. Raises ImageFormatError, naming the format, for empty, truncated, damaged or
    undecodable data.
    """
    name = f"compressed image of format '{message.format}'"
    source = message.format.partition(';')[0].strip()
    if 'compressedDepth' in message.format or source in _DEPTH:
        raise ImageFormatError(f'{name} is a depth image; give the topic of a colour or grey camera')
    data = bytes(message.data)
    check = None if camera is None else partial(check_pixels, camera)
    encoding = ENCODINGS.get(source)
    if encoding is not None and encoding.channels == 1 and (encoding.bits == 16 or source.startswith('bayer')):
        pixels = decode_stored(data, name, check)
        if pixels.ndim == 2:
            return _to_rgb(pixels, encoding, name)
    if source.startswith('bayer') and encoding is None:
        raise ImageFormatError(f"{name} is a mosaic of an unknown pattern; use one of "
                               f'{", ".join(sorted(name for name in ENCODINGS if name.startswith("bayer")))}')
    pixels = decode_colours(data, name, check)
    pixels.flags.writeable = False
    return pixels


def _to_rgb(pixels: np.ndarray, encoding: _Encoding, name: str) -> np.ndarray:
    """(H, W, 3) uint8, read-only, from pixels as `encoding` stores them."""
    if pixels.dtype.itemsize == 2:
        pixels = (pixels >> (4 if _has_12_bits(pixels) else 8)).astype(np.uint8)
    if encoding.to_rgb is not None:
        try:
            pixels = cv2.cvtColor(pixels, encoding.to_rgb)
        except cv2.error as error:
            raise ImageFormatError(f'{name} cannot be converted to colours: {error}') from error
    pixels.flags.writeable = False
    return pixels


def _has_12_bits(pixels: np.ndarray) -> bool:
    """Whether 16-bit values are those of a 12-bit sensor, kept in the lower bits: none above, and all of the lower ones
    used. A 16-bit image is like that only where it is darker than a sixteenth throughout."""
    return bool(pixels.max() < 4096 and (pixels & 15).any())


def _decode_by_cv_bridge(message: Any) -> np.ndarray:
    unknown = f"encoding '{message.encoding}' cannot be decoded; use one of {', '.join(sorted(ENCODINGS))}"
    try:
        from cv_bridge import CvBridge
    except ImportError:
        raise ImageFormatError(f"{unknown}, or install ROS's cv_bridge") from None
    try:
        pixels = CvBridge().imgmsg_to_cv2(message, 'rgb8')
    except Exception as error:
        raise ImageFormatError(f'{unknown}; cv_bridge, which is installed, says: {error}') from error
    pixels.flags.writeable = False
    return pixels


def _pixels(message: Any, encoding: _Encoding, name: str) -> np.ndarray:
    """A view on the message's data: (H, W) or (H, W, C), uint8 or uint16 in the message's byte order; H is half as
    much again where the colours follow below."""
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageFormatError(f'{name} has no pixels')
    if (encoding.channels == 2 or encoding.chroma_below) and width % 2:
        raise ImageFormatError(f"encoding '{message.encoding}' needs an even width; got {width}")
    if encoding.chroma_below:
        if height % 2:
            raise ImageFormatError(f"encoding '{message.encoding}' needs an even height; got {height}")
        height += height // 2
    row = width * encoding.channels * encoding.bits // 8
    if step < row:
        raise ImageFormatError(f'{name} has a step of {step} bytes; a row takes {row}')
    data = np.frombuffer(message.data, np.uint8)
    # The padding behind the last row may be left out.
    if not step * (height - 1) + row <= data.size <= step * height:
        raise ImageFormatError(f'{name} has {data.size} bytes of data; its step of {step} bytes '
                               f'and {height} rows make {step * height}')
    size = encoding.bits // 8
    dtype = np.dtype(np.uint8) if size == 1 else np.dtype('>u2' if message.is_bigendian else '<u2')
    shape = (height, width) if encoding.channels == 1 else (height, width, encoding.channels)
    strides = (step, size * encoding.channels, size)[:len(shape)]
    return np.ndarray(shape, dtype, data.data, strides=strides)
