"""Alignments of predicted points to the truth before an error is taken.  NumPy, batched.

points, target: (..., N, 3), metres; the result is `points` moved onto `target`, same shape.  NaN in a
point set makes that set's result NaN.  What an error means depends on which of these was used: print it.
"""

from __future__ import annotations

import numpy as np


def align_root(points: np.ndarray, target: np.ndarray, root: int = 0) -> np.ndarray:
    """Translate so that point `root` coincides (the usual wrist-relative error)."""
    return points - points[..., root:root + 1, :] + target[..., root:root + 1, :]


def align_scale_translation(
    points: np.ndarray, target: np.ndarray, root: int = 0, reference: int = 9,
) -> np.ndarray:
    """HO3D's scale-translation alignment.

    Scales so that the bone root–reference has the target's length, and moves the roots together.  The
    defaults are wrist and middle-finger MCP in the public joint order (HO3D's own order numbers them 0
    and 4).  A bone of length 0 leaves the scale as it is.
    """
    bone = np.linalg.norm(points[..., reference, :] - points[..., root, :], axis=-1)
    bone_target = np.linalg.norm(target[..., reference, :] - target[..., root, :], axis=-1)
    scale = np.where(bone > 0, bone_target / np.where(bone > 0, bone, 1.0), 1.0)
    centred = points - points[..., root:root + 1, :]
    return centred * scale[..., None, None] + target[..., root:root + 1, :]


def align_rigid(points: np.ndarray, target: np.ndarray, allow_reflection: bool = False) -> np.ndarray:
    """Rotate and translate for the least squared error (Kabsch; Umeyama 1991 without scale)."""
    centred, centred_target, mean_target = _centre(points, target)
    rotation, _ = _rotation(centred, centred_target, allow_reflection)
    return centred @ rotation.swapaxes(-1, -2) + mean_target


def align_similarity(points: np.ndarray, target: np.ndarray, allow_reflection: bool = False) -> np.ndarray:
    """Rotate, scale and translate for the least squared error (Umeyama 1991; "Procrustes", PA-MPJPE).

    allow_reflection: FreiHAND's evaluation has no guard against reflections; True reproduces it.
    """
    centred, centred_target, mean_target = _centre(points, target)
    rotation, singular_sum = _rotation(centred, centred_target, allow_reflection)
    spread = (centred ** 2).sum((-2, -1))
    scale = np.where(spread > 0, singular_sum / np.where(spread > 0, spread, 1.0), 1.0)
    return scale[..., None, None] * (centred @ rotation.swapaxes(-1, -2)) + mean_target


def best_rotation(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation (..., 3, 3) that turns `points` best into `target`, both about their means (Kabsch)."""
    centred, centred_target, _ = _centre(points, target)
    return _rotation(centred, centred_target, False)[0]


def _centre(points: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean_target = target.mean(-2, keepdims=True)
    return points - points.mean(-2, keepdims=True), target - mean_target, mean_target


def _rotation(
    points: np.ndarray, target: np.ndarray, allow_reflection: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Best rotation (..., 3, 3) from centred points to centred target, and the trace it achieves (...)."""
    correlation = target.swapaxes(-1, -2) @ points
    finite = np.isfinite(correlation).all((-2, -1))
    u, singular, vt = np.linalg.svd(np.where(finite[..., None, None], correlation, 0.0))
    if not allow_reflection:
        handed = np.sign(np.linalg.det(u) * np.linalg.det(vt))
        u[..., 2] *= handed[..., None]
        singular[..., 2] *= handed
    rotation = np.where(finite[..., None, None], u @ vt, np.nan)
    return rotation, singular.sum(-1)
