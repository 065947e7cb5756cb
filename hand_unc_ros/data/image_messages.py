"""sensor_msgs Image and CompressedImage to RGB uint8, without a copy where the encoding allows.

Messages of rclpy and of rosbags alike: only their fields are looked at.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from hand_unc_ros.errors import ImageFormatError


class _Encoding(NamedTuple):
    """bits of a channel, channels of a pixel in memory, and OpenCV's conversion to RGB (None: it is RGB)."""

    bits: int
    channels: int
    to_rgb: int | None


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
}
"""What is decoded here. 16 bits are cut to the upper 8."""

_DEPTH = ('16UC1', '32FC1')


def decode_image(message: Any) -> np.ndarray:
    """Pixels of a sensor_msgs/Image: (H, W, 3) uint8 RGB, read-only; by cv_bridge, where it is installed, for encodings
    that are not in ENCODINGS.

    For 'rgb8' it is a view on the message's data; rows may then be further apart than 3 W bytes.
    Raises ImageFormatError, naming the encoding, when size, step and data do not fit together or the
    encoding cannot be decoded.
    """
    encoding = ENCODINGS.get(message.encoding)
    if message.encoding in _DEPTH:
        raise ImageFormatError(f"encoding '{message.encoding}' is a depth image; "
                               'give the topic of a colour or grey camera')
    if encoding is None:
        return _decode_by_cv_bridge(message)
    pixels = _pixels(message, encoding)
    if encoding.bits == 16:
        pixels = (pixels >> 8).astype(np.uint8)
    if encoding.to_rgb is not None:
        if encoding.channels == 2 and message.width % 2:
            raise ImageFormatError(f"encoding '{message.encoding}' needs an even width; got {message.width}")
        pixels = cv2.cvtColor(pixels, encoding.to_rgb)
    pixels.flags.writeable = False
    return pixels


def decode_compressed(message: Any) -> np.ndarray:
    """Pixels of a sensor_msgs/CompressedImage (JPEG, PNG, …): (H, W, 3) uint8 RGB, read-only.

    An EXIF orientation is ignored: the calibration belongs to the pixels as they are stored.
    Raises ImageFormatError, naming the format, for empty, truncated or undecodable data.
    """
    name = f"compressed image of format '{message.format}'"
    if 'compressedDepth' in message.format:
        raise ImageFormatError(f'{name} is a depth image; give the topic of a colour or grey camera')
    data = np.frombuffer(message.data, np.uint8)
    if data.size == 0:
        raise ImageFormatError(f'{name} has no data')
    # OpenCV fills up what a cut-off file lacks with grey, which would pass for an image.
    if data[:2].tobytes() == b'\xff\xd8' and data.tobytes().rfind(b'\xff\xd9') < 0:
        raise ImageFormatError(f'{name} is cut off after {data.size} bytes (JPEG without an end)')
    if data[:4].tobytes() == b'\x89PNG' and data[-16:].tobytes().rfind(b'IEND') < 0:
        raise ImageFormatError(f'{name} is cut off after {data.size} bytes (PNG without an end)')
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageFormatError(f'{name} cannot be decoded; OpenCV takes JPEG, PNG, TIFF, WebP and BMP')
    pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    pixels.flags.writeable = False
    return pixels


def _decode_by_cv_bridge(message: Any) -> np.ndarray:
    unknown = f"encoding '{message.encoding}' cannot be decoded; use one of {', '.join(sorted(ENCODINGS))}"
    try:
        from cv_bridge import CvBridge
    except ImportError:
        raise ImageFormatError(f"{unknown}, or install ROS's cv_bridge") from None
    try:
        pixels = CvBridge().imgmsg_to_cv2(message, 'rgb8')
    except Exception as error:
        raise ImageFormatError(f"encoding '{message.encoding}' cannot be decoded, by cv_bridge neither: {error}"
                               ) from error
    pixels.flags.writeable = False
    return pixels


def _pixels(message: Any, encoding: _Encoding) -> np.ndarray:
    """A view on the message's data: (H, W) or (H, W, C), uint8 or uint16 in the message's byte order."""
    height, width, step = message.height, message.width, message.step
    name = f"image {width}×{height} of encoding '{message.encoding}'"
    if height == 0 or width == 0:
        raise ImageFormatError(f'{name} has no pixels')
    row = width * encoding.channels * encoding.bits // 8
    if step < row:
        raise ImageFormatError(f'{name} has a step of {step} bytes; a row takes {row}')
    data = np.frombuffer(message.data, np.uint8)
    # The padding behind the last row may be left out.
    if not step * (height - 1) + row <= data.size <= step * height:
        raise ImageFormatError(f'{name} has {data.size} bytes of data; its step of {step} bytes '
                               f'and height make {step * height}')
    size = encoding.bits // 8
    dtype = np.dtype(np.uint8) if size == 1 else np.dtype('>u2' if message.is_bigendian else '<u2')
    shape = (height, width) if encoding.channels == 1 else (height, width, encoding.channels)
    strides = (step, size * encoding.channels, size)[:len(shape)]
    return np.ndarray(shape, dtype, data.data, strides=strides)
