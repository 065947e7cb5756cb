"""Poses that map the other way: world to camera where camera to world is meant, recognised by what the cameras see."""

from __future__ import annotations

import math

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.optical_axes import inverted
from hand_unc_ros.geometry.triangulation import triangulate_dlt

# Inverse poses are named where they explain joints to within this, and the given ones are this much worse.
_FITS_PX = 8.0
_WORSE = 4.0


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
