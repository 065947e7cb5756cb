"""Where the optical axes of a rig's cameras meet."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hand_unc_ros.geometry.cameras import CameraRig

# Optical axes meet where they come this near each other, as a share of the distance, at angles above this.
_NEAR = 0.15
_LEAST_ANGLE = math.radians(10.0)


class MeetingPoint(NamedTuple):
    """Where optical axes meet: point (3,) in the world and its depths (V,) in the cameras, metres."""

    point: np.ndarray
    depths: np.ndarray


def inverted(rig: CameraRig) -> CameraRig:
    """The rig with the inverse of every pose."""
    return CameraRig([camera.with_pose(camera.camera_from_world) for camera in rig])


def meeting_point(rig: CameraRig) -> MeetingPoint | None:
    """The point nearest to all optical axes, where it is in front of all cameras and near all axes; None where the
    axes are almost parallel, pass each other, or meet behind a camera."""
    axes = np.stack([camera.world_from_camera[:3, 2] for camera in rig])
    centres = np.stack([camera.centre for camera in rig])
    if np.arccos(np.clip(axes @ axes.T, -1.0, 1.0)).max() < _LEAST_ANGLE:
        return None
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    normal = across.sum(0)
    if np.linalg.eigvalsh(normal)[0] < 0.5 * _LEAST_ANGLE ** 2:
        return None
    point = np.linalg.solve(normal, (across @ centres[..., None]).sum(0)[:, 0])
    offset = point - centres
    depths = (offset * axes).sum(1)
    beside = np.linalg.norm(offset - depths[:, None] * axes, axis=1)
    if (depths <= 0).any() or (beside > _NEAR * depths).any():
        return None
    return MeetingPoint(point, depths)
