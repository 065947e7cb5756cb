"""Where the crops of a followed hand are cut."""

from __future__ import annotations

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST
from hand_unc_ros.hand.pinhole_crops import hand_box
from hand_unc_ros.methods.contract import CropBox

# Share of the projected joints that must lie inside an image for a view to be worth a crop.
MIN_INSIDE = 0.5


@torch.inference_mode()
def boxes_around(rig: CameraRig, predicted: np.ndarray, crop_box: CropBox = crops.reach_box) -> np.ndarray:
    """Boxes (V, 4) in undistorted pixels around the projected joints; NaN where most of these are outside the image.

    crop_box: the rule by which the method draws them.
    """
    known = np.isfinite(predicted).all(axis=1)
    boxes = np.full((len(rig), 4), np.nan)
    projected, depths = (part.numpy() for part in rig.project(torch.from_numpy(predicted)))
    for row, camera in enumerate(rig.cameras):
        px = projected[row]
        seen = known & np.isfinite(px).all(axis=1)
        inside = seen & np.all((px > 0) & (px < [camera.width - 1, camera.height - 1]), axis=1)
        if seen[[WRIST, MIDDLE_MCP]].all() and inside.sum() >= MIN_INSIDE * known.sum():
            boxes[row] = hand_box(predicted, camera, depths[row, MIDDLE_MCP], crop_box)
    return boxes
