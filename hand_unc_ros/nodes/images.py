"""Images whose encoding only ROS's cv_bridge knows; the common ones are decoded in data/image_messages.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from hand_unc_ros.data import image_messages
from hand_unc_ros.errors import ImageFormatError


def decode_image(message: Any) -> np.ndarray:
    """As `image_messages.decode_image`, and by cv_bridge, where it is installed, for encodings unknown there.

    Raises ImageFormatError, naming the encoding.
    """
    try:
        return image_messages.decode_image(message)
    except image_messages.UnknownEncoding as error:
        return _decode_by_cv_bridge(message, error)


def _decode_by_cv_bridge(message: Any, unknown: ImageFormatError) -> np.ndarray:
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
