"""Poses that map the other way: world to camera where camera to world is meant, recognised by what the cameras see."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.optical_axes import inverted
from hand_unc_ros.geometry.triangulation import triangulate_dlt

# Inverse poses are named where they explain joints to within this, and the given ones are this much worse.
_FITS_PX = 8.0
_WORSE = 4.0


@torch.inference_mode()
def inversion_hint(rig: CameraRig, px: np.ndarray, valid: np.ndarray) -> str | None:
    """The warning where joints px (V, N, 2), valid (V, N), do not triangulate as the poses are given and do with every
    pose inverted; None elsewhere."""
    if (valid.sum(0) > 1).sum() < 4:
        return None
    xy = rig.normalise(torch.from_numpy(np.ascontiguousarray(px, dtype=np.float64)))
    as_given = _residual_px(rig, px, xy, valid)
    if as_given < _FITS_PX:
        return None
    other = _residual_px(_kept_inverse(rig), px, xy, valid)
    if not other < min(_FITS_PX, as_given / _WORSE):
        return None
    given = f'{as_given:.0f} px' if math.isfinite(as_given) else 'not at all'
    return (f'the joints fit to {other:.1f} px with every camera pose inverted, and {given} as given: give '
            'world_from_camera in the rig file, not camera_from_world (or the other way round in files of other tools)')


# A rig takes ten times as long to make as the joints to triangulate, and every set without a hand asks for it.
_kept_inverse = lru_cache(maxsize=4)(inverted)


def _residual_px(rig: CameraRig, px: np.ndarray, xy: torch.Tensor, valid: np.ndarray) -> float:
    """Median distance of triangulated points (N, 3) from their pixels; inf where fewer than half are determined.
    xy: (V, N, 2) normalised px."""
    used = torch.from_numpy(np.ascontiguousarray(valid)) & torch.isfinite(xy).all(-1)
    result = triangulate_dlt(xy, rig.camera_from_world, None, used)
    projected = rig.project(torch.where(result.valid[:, None], result.points, 0.0))[0].numpy()
    distance = np.linalg.norm(projected - px, axis=-1)
    seen = used.numpy() & result.valid.numpy() & np.isfinite(distance)
    wanted = (used.numpy().sum(0) > 1).sum()
    if seen.any(0).sum() < max(wanted / 2, 1):
        return math.inf
    return float(np.median(distance[seen]))
