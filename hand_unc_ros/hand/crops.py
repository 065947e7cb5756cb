"""Square, rolled crops of an image: a box is (centre x, centre y, side, roll).

Pixels have their centres at integers. The roll is the clockwise angle from the image's up direction to
the crop's up direction, so a crop rolled by the hand's direction shows it upright.
"""

from __future__ import annotations

import numpy as np

from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST

# Side of the box in palm lengths (wrist → middle knuckle). About the middle knuckle it holds every joint of a
# hand in any pose, so the crop does not depend on what is believed of the fingers: a crop drawn around wrongly
# curled fingers would cut off the real ones and so confirm the mistake.
REACH_PALMS = 2.45
PALM_RANGE = (0.06, 0.13)  # metres; estimates outside of it are clipped
BOX_EXPANSION = 1.35


def image_from_crop(box: np.ndarray, size: int) -> np.ndarray:
    """Affine maps (..., 2, 3) from crop pixels to image pixels for boxes (..., 4) and a crop side in pixels."""
    box = np.asarray(box, dtype=np.float64)
    scale = box[..., 2] / size
    cos, sin = np.cos(box[..., 3]) * scale, np.sin(box[..., 3]) * scale
    affine = np.empty(box.shape[:-1] + (2, 3))
    affine[..., 0, 0], affine[..., 0, 1] = cos, -sin
    affine[..., 1, 0], affine[..., 1, 1] = sin, cos
    middle = (size - 1) / 2
    affine[..., :, 2] = box[..., :2] - (affine[..., :, :2] * middle).sum(axis=-1)
    return affine


def crop_from_image(box: np.ndarray, size: int) -> np.ndarray:
    """Inverse maps (..., 2, 3) of `image_from_crop`."""
    box = np.asarray(box, dtype=np.float64)
    forward = image_from_crop(box, size)
    # A rotation times a scale: its inverse is the transpose over the scale squared.
    linear = np.swapaxes(forward[..., :2], -1, -2) * (size / box[..., 2])[..., None, None] ** 2
    return np.concatenate([linear, -(linear @ forward[..., 2:])], axis=-1)


def transform(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply affine maps (..., 2, 3) to points (..., N, 2)."""
    return points @ np.swapaxes(affine[..., :2], -1, -2) + affine[..., None, :, 2]


def upright_roll(joints_px: np.ndarray) -> np.ndarray:
    """The roll (...) that makes wrist → middle knuckle point up, from joints (..., 21, 2)."""
    direction = joints_px[..., MIDDLE_MCP, :] - joints_px[..., WRIST, :]
    return np.arctan2(direction[..., 0], -direction[..., 1])


def reach_box(joints: np.ndarray, joints_px: np.ndarray, px_per_metre: float) -> np.ndarray:
    """The upright box (4,) of everything the hand can reach.

    joints: (21, 3) metres, any frame, for the length of the palm.  joints_px: (21, 2) their projections.
    px_per_metre: focal length over the depth of the middle knuckle.
    """
    palm = np.clip(np.linalg.norm(joints[MIDDLE_MCP] - joints[WRIST]), *PALM_RANGE)
    return np.array([*joints_px[MIDDLE_MCP], REACH_PALMS * palm * px_per_metre, upright_roll(joints_px)])


def transform_box(affine: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The box (4,) after a similarity map (2, 3) without reflection."""
    scale = np.hypot(affine[0, 0], affine[1, 0])
    return np.array([*transform(affine, box[None, :2])[0], box[2] * scale,
                     box[3] + np.arctan2(affine[1, 0], affine[0, 0])])


def box_around(joints_px: np.ndarray, expansion: float = BOX_EXPANSION) -> np.ndarray:
    """The upright box (..., 4) around joints (..., 21, 2), square in the rolled frame."""
    joints_px = np.asarray(joints_px, dtype=np.float64)
    roll = upright_roll(joints_px)
    cos, sin = np.cos(roll), np.sin(roll)
    turn = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    turned = joints_px @ np.swapaxes(turn, -1, -2)
    low, high = turned.min(axis=-2), turned.max(axis=-2)
    centre = np.squeeze(((low + high) / 2)[..., None, :] @ turn, -2)
    side = (high - low).max(axis=-1) * expansion
    return np.concatenate([centre, side[..., None], roll[..., None]], axis=-1)
