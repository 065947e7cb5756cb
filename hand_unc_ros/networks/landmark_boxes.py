"""The boxes under which the hand landmark network is used to seeing hands.

MediaPipe's rules: from a palm where the hand was just found, from the landmarks of the last image where it is followed.
Boxes are those of `hand/crops.py`, in pixels without lens distortion.
"""

from __future__ import annotations

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.networks.palm_detection import MIDDLE_KEYPOINT, WRIST_KEYPOINT, Palm

PALM_EXPANSION, PALM_SHIFT = 2.6, 0.5
HAND_EXPANSION, HAND_SHIFT = 2.0, 0.1
# Of the box of a hand's reach, to be about as large as the network is used to.
REACH_EXPANSION = 1.15
# Wrist, thumb without its tip, and the two lower joints of each finger.
STEADY_JOINTS = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)
INDEX_MCP, MIDDLE_MCP, RING_MCP = 5, 9, 13


def box_of_palm(palm: Palm, camera: Camera) -> np.ndarray:
    """The crop's box (4,) for a palm in the camera's image; NaN where the lens model does not hold."""
    low, high = palm.box[:2], palm.box[2:]
    middle = (low + high) / 2
    points = np.vstack([middle, palm.keypoints[[WRIST_KEYPOINT, MIDDLE_KEYPOINT]]])
    rig = CameraRig([camera])
    xy, jacobian = (part[0].numpy() for part in rig.normalise_with_jacobian(torch.from_numpy(points)[None]))
    ideal = xy @ camera.K[:2, :2].T + camera.K[:2, 2]
    # How much larger the lens makes the palm's surroundings than a pinhole would.
    scale = np.sqrt(abs(np.linalg.det(camera.K[:2, :2] @ jacobian[0])))
    sides = (high - low) * scale
    direction = ideal[2] - ideal[1]
    roll = np.arctan2(direction[0], -direction[1])
    return _shifted(ideal[0], sides[1], sides.max() * PALM_EXPANSION, roll, PALM_SHIFT)


def box_of_landmarks(landmarks: np.ndarray) -> np.ndarray:
    """The crop's box (4,) for the next image, from landmarks (21, 2) in pixels without lens distortion."""
    knuckles = (landmarks[INDEX_MCP] + landmarks[RING_MCP]) / 4 + landmarks[MIDDLE_MCP] / 2
    direction = knuckles - landmarks[0]
    roll = np.arctan2(direction[0], -direction[1])
    cos, sin = np.cos(roll), np.sin(roll)
    upright = np.array([[cos, sin], [-sin, cos]])
    turned = landmarks[list(STEADY_JOINTS)] @ upright.T
    low, high = turned.min(0), turned.max(0)
    sides = high - low
    return _shifted((low + high) / 2 @ upright, sides[1], sides.max() * HAND_EXPANSION, roll, HAND_SHIFT)


def box_of_hand(joints: np.ndarray, joints_px: np.ndarray, px_per_metre: float) -> np.ndarray:
    """The crop's box (4,) for a hand whose joints are expected: as after landmarks. Where some of these joints are
    unknown, that of its reach; the landmarks err more there.

    Arguments as of `hand/crops.py`'s reach_box.
    """
    if np.isfinite(joints_px[list(STEADY_JOINTS)]).all():
        return box_of_landmarks(joints_px)
    box = reach_box(joints, joints_px, px_per_metre)
    box[2] *= REACH_EXPANSION
    return box


def _shifted(centre: np.ndarray, height: float, side: float, roll: float, shift: float) -> np.ndarray:
    """A box moved towards the fingers by a share of the height of what it was made from."""
    up = np.array([np.sin(roll), -np.cos(roll)])
    return np.array([*(centre + shift * height * up), side, roll])
