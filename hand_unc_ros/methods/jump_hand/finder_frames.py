"""The whole image as the hand finder takes it; crops of the hand are in hand/pinhole_crops.py."""

from __future__ import annotations

import cv2
import numpy as np

from hand_unc_ros.hand import crops


def fit_frame(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole image scaled into width × height, its edges continued where the shapes differ.

    Returns the frame and the affine map (2, 3) from frame pixels to image pixels.
    """
    scale = max(image.shape[1] / width, image.shape[0] / height)
    box = np.array([(image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2, scale * width, 0.0])
    affine = crops.image_from_crop(box, width)
    affine[1, 2] -= scale * (height - width) / 2
    inner = (min(width, round(image.shape[1] / scale)), min(height, round(image.shape[0] / scale)))
    small = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    frame = cv2.copyMakeBorder(small, top, height - inner[1] - top, left, width - inner[0] - left,
                               cv2.BORDER_REPLICATE)
    return frame, affine
