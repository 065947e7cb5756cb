"""Cutting network inputs out of camera images."""

from __future__ import annotations

import cv2
import numpy as np

from hand_unc_ros.hand import crops

# Beyond this reduction bilinear sampling skips pixels; the crop is then cut larger and averaged down.
MAX_REDUCTION = 1.5
# A box can be as large as a joint's projection goes when it nears the camera; its crop must stay affordable.
MAX_OVERSAMPLING = 8


def cut(image: np.ndarray, box: np.ndarray, size: int, mirrored: bool = False) -> np.ndarray:
    """The (size, size, 3) uint8 crop of a (H, W, 3) image under a box (4,); outside the image is black.

    mirrored: flip it, so that a left hand looks like a right one.
    """
    oversampling = int(np.clip(np.ceil(box[2] / size / MAX_REDUCTION), 1, MAX_OVERSAMPLING))
    side = size * oversampling
    out = cv2.warpAffine(image, crops.image_from_crop(box, side), (side, side),
                         flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT)
    if oversampling > 1:
        out = cv2.resize(out, (size, size), interpolation=cv2.INTER_AREA)
    return out[:, ::-1] if mirrored else out


def uncut(joints: np.ndarray, variance: np.ndarray, box: np.ndarray, size: int,
          mirrored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N, 2) and variances (N, 2) from crop pixels to image pixels.

    The roll turns the axes of the variance; what is kept is the diagonal in image axes.
    """
    if mirrored:
        joints = np.column_stack([size - 1 - joints[:, 0], joints[:, 1]])
    affine = crops.image_from_crop(box, size)
    return crops.transform(affine, joints), variance @ (affine[:, :2] ** 2).T


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
