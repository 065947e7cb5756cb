"""Crops of views, for the estimator and for methods that look twice."""

from __future__ import annotations

import numpy as np

from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole, mirror_view
from hand_unc_ros.methods.contract import Crop, View


def cut_crop(view: View, box_px: np.ndarray, handedness: str, size: int) -> Crop:
    """The crop of `size` px under a box (4,), as in Detection; mirrored for a left hand, so that networks read right
    hands alone."""
    K = crop_intrinsics(view.camera, box_px, size)
    image = cut_pinhole(view.image, view.camera, K, size)
    pose = view.camera.camera_from_world[:3]
    mirrored = handedness == 'left'
    if mirrored:
        image, _, K, pose = mirror_view(image, np.zeros((0, 2)), K, pose)
    return Crop(image, K, pose, box_px, view, handedness, mirrored)


def whole_image(view: View, handedness: str) -> Crop:
    """The image as it was captured, for a method that finds the hand in it by itself."""
    height, width = view.image.shape[:2]
    box = np.array([(width - 1) / 2, (height - 1) / 2, max(width, height), 0.0])
    return Crop(view.image, view.camera.K, view.camera.camera_from_world[:3], box, view, handedness, False)
