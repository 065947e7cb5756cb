"""An image message of a bag to pixels."""

from __future__ import annotations

import numpy as np
from rosbags.typesys.store import Typestore

from hand_unc_ros.data.image_messages import decode_compressed, decode_image
from hand_unc_ros.errors import ImageFormatError
from hand_unc_ros.geometry.cameras import Camera


def decode_stored_image(store: Typestore, kind: str, data: bytes, camera: Camera | None = None) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of a stored sensor_msgs/Image or CompressedImage, checked against its camera's size.

    Raises ImageFormatError for one that cannot be read, whatever is wrong with it: it costs one view, not the set.
    """
    try:
        message = store.deserialize_cdr(data, kind)
    except Exception as error:
        # A damaged message can make its parser fail anywhere.
        reason = str(error) or type(error).__name__
        raise ImageFormatError(f'a message of {len(data)} bytes is no {kind}: {reason}') from error
    return (decode_compressed if 'Compressed' in kind else decode_image)(message, camera)
