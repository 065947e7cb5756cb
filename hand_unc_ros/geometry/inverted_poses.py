"""Poses that map the other way: world to camera where camera to world is meant, recognised by what the cameras see."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.triangulation import triangulate_dlt

# Optical axes meet where they come this near each other, as a share of the distance, at angles above this.
_NEAR = 0.15
_LEAST_ANGLE = math.radians(10.0)
# Inverse poses are named where they explain joints to within this, and the given ones are this much worse.
_FITS_PX = 8.0
_WORSE = 4.0


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


def inversion_hint(rig: CameraRig, px: np.ndarray, valid: np.ndarray) -> str | None:
    """The warning where joints px (V, N, 2), valid (V, N), do not triangulate as the poses are given and do with every
    pose inverted; None elsewhere."""
    if (valid.sum(0) > 1).sum() < 4:
        return None
    as_given = _residual_px(rig, px, valid)
    if as_given < _FITS_PX:
        return None
    other = _residual_px(inverted(rig), px, valid)
    if not other < min(_FITS_PX, as_given / _WORSE):
        return None
    given = f'{as_given:.0f} px' if math.isfinite(as_given) else 'not at all'
    return (f'the joints fit to {other:.1f} px with every camera pose inverted, and {given} as given: give '
            'world_from_camera in the rig file, not camera_from_world (or the other way round in files of other tools)')


def _residual_px(rig: CameraRig, px: np.ndarray, valid: np.ndarray) -> float:
    """Median distance of triangulated points (N, 3) from their pixels; inf where fewer than half are determined."""
    with torch.no_grad():
        xy = rig.normalise(torch.from_numpy(np.ascontiguousarray(px, dtype=np.float64)))
        used = torch.from_numpy(np.ascontiguousarray(valid)) & torch.isfinite(xy).all(-1)
        result = triangulate_dlt(xy, rig.camera_from_world, None, used)
        points = torch.where(result.valid[:, None], result.points, torch.zeros_like(result.points))
        projected = rig.project(points)[0].numpy()
    distance = np.linalg.norm(projected - px, axis=-1)
    seen = used.numpy() & result.valid.numpy() & np.isfinite(distance)
    wanted = (used.numpy().sum(0) > 1).sum()
    if seen.any(0).sum() < max(wanted / 2, 1):
        return math.inf
    return float(np.median(distance[seen]))
