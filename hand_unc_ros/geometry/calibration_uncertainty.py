"""The effect of camera calibration errors on triangulated joints, to first order.

Noise of the images differs from joint to joint and from frame to frame.  An error of the calibration does not: it moves
all joints of a hand much alike, and stays.  So it fills the covariance between joints, and no filter averages it out.
"""

from __future__ import annotations

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import CalibrationUncertainty, CameraRig
from hand_unc_ros.geometry.triangulation import MIN_DEPTH


def calibration_covariance(
    joints: np.ndarray, covariance: np.ndarray, rig: CameraRig, used: np.ndarray, variance_px2: np.ndarray,
    published: np.ndarray | None = None,
) -> np.ndarray | None:
    """Covariance (3J, 3J) m², joint-major, that comes from errors of the rig's calibration; None where no camera of the
    rig says how well it is calibrated.

    joints: (J, 3) fused, metres, world, NaN where invalid.  covariance: (J, 3, 3) m², Σ below, as the fusion propagates
    it.  used: (V, J) bool, views that were fused.  variance_px2: (V, J, 2) of their 2D joints.  published: (J, 3) for
    which joints the answer is wanted, finite for those; one of them that is not fused (a filter predicts it) takes the
    errors of the nearest fused one.  None for the fused ones.  Other rows and columns are NaN.

    The fused joint minimises Σₙ ‖project(X; θₙ) − pxₙ‖² / σₙ²; where θₙ is wrong by δθₙ, it moves by
    δX_j = −Σₙ G_jn A_jn δθₙ with the gain G_jn = Σ_j J_jnᵀ S_jn⁻¹, J = ∂px/∂X, A = ∂px/∂θ (implicit function theorem;
    Hartley & Zisserman, Multiple View Geometry, 2nd ed., 5.2 and 5.6 for J and A).  With B_jn = G_jn A_jn diag(σ(θₙ)),
    the covariance is B Bᵀ, positive semi-definite by its making.  Robust weights of the fusion are left out, as in Σ.
    """
    if all(camera.uncertainty is None for camera in rig):
        return None
    count = len(joints)
    known = np.isfinite(joints).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    effect, jacobian = _effects(rig, np.where(known[:, None], joints, 0.0))
    seen = used & known & np.isfinite(jacobian).all(axis=(2, 3))
    whitened = np.divide(jacobian, variance_px2[..., None], where=seen[..., None, None], out=np.zeros_like(jacobian))
    spread = np.where(known[:, None, None], covariance, 0.0)
    moved = spread @ (whitened.swapaxes(2, 3) @ np.where(seen[..., None, None], effect, 0.0))
    # (V, J, 3, 10) to a row for each coordinate of a joint and a column for each error of a camera.
    moved = moved.transpose(1, 2, 0, 3).reshape(count, 3, -1)
    wanted = known if published is None else np.isfinite(published).all(axis=1)
    if known.any():
        for j in np.flatnonzero(wanted & ~known):
            distance = np.where(known, np.linalg.norm(joints - published[j], axis=1), np.inf)
            moved[j] = moved[distance.argmin()]
    factor = np.where(wanted[:, None, None], moved, np.nan).reshape(3 * count, -1)
    return factor @ factor.T


def _effects(rig: CameraRig, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """∂px/∂θ diag(σ(θ)) (V, J, 2, 10) for rotation, translation, focal lengths and principal point in this order, and
    J (V, J, 2, 3) = ∂px/∂X, px/m, at points (J, 3); NaN where a point is not in front or the lens model does not hold.
    """
    pose = rig.camera_from_world.numpy()
    local = points @ pose[:, :, :3].swapaxes(1, 2) + pose[:, None, :, 3]
    depth = np.where(local[..., 2] > MIN_DEPTH, local[..., 2], np.nan)
    xy = local[..., :2] / depth[..., None]
    with torch.inference_mode():
        px, lens = (part.numpy() for part in rig.denormalise_with_jacobian(torch.from_numpy(xy)))
    u, v = xy[..., 0], xy[..., 1]
    # A camera turned by δφ and moved by δc sees the point p at p − δφ × p − δc.
    effect = np.zeros((*u.shape, 2, 10))
    effect[..., 0, 0], effect[..., 0, 1], effect[..., 0, 2] = u * v, -1.0 - u * u, v
    effect[..., 1, 0], effect[..., 1, 1], effect[..., 1, 2] = 1.0 + v * v, -u * v, -u
    effect[..., 0, 3] = effect[..., 1, 4] = -1.0 / depth
    effect[..., 5] = xy / depth[..., None]
    effect = lens @ effect
    jacobian = -effect[..., 3:6] @ pose[:, None, :, :3]
    K = np.stack([camera.K for camera in rig])[:, None]
    y = (px[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    x = (px[..., 0] - K[..., 0, 2] - K[..., 0, 1] * y) / K[..., 0, 0]
    effect[..., 0, 6], effect[..., 1, 7] = x, y
    effect[..., 0, 8] = effect[..., 1, 9] = 1.0
    return effect * _sigma(rig)[:, None, None], jacobian


def _sigma(rig: CameraRig) -> np.ndarray:
    """(V, 10) standard deviations, zero where a camera does not say."""
    said = [camera.uncertainty or CalibrationUncertainty() for camera in rig]
    return np.stack([np.concatenate([getattr(one, field) for field in CalibrationUncertainty.FIELDS]) for one in said])
