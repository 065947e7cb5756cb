"""Each view's 2D joints against the fusion of the other views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.measurement_range import MAX_DISTANCE
from hand_unc_ros.geometry.triangulation import CAUCHY_SCALE
from hand_unc_ros.methods.geometric_fusion import within_range
from hand_unc_ros.methods.view_gaussians import ViewGaussians

# Of the information about one joint: beyond it the inverse is rounding alone.
MAX_CONDITION = 1e14

_PALM = [0, 1, 5, 9, 13, 17]


@dataclass(frozen=True)
class Innovations:
    """How each view's 2D joints differ from what the other views say of them.

    whitened: (V, 21, 2), signed along the image's axes, of unit variance where the claimed variances hold; with one
    other view only its component across the epipolar line is known, and it lies in that direction.  squared: (V, 21),
    their squared norms, the normalised innovation squared (NIS).  dof: (V, 21), 2, or 1 with one other view; 0 and
    NaN where the view has no joint or no other view tells anything of it.
    The rest is for the hypothesis that whole views are shifted by b (V, 2) px: up to a constant, the negative
    log-likelihood is bᵀ I b / 2 − bᵀ s.
    score: (2V,) s in 1/px, u and v of each view in turn.  information: (2V, 2V) I in 1/px².  weight: (V,), the number
    of joints of each view that count in it.
    jacobian: (V, 2, 3) px/m, of the view's pixels by the palm's middle, centre: (3,) metres; NaN where that is unknown.
    """

    whitened: np.ndarray
    squared: np.ndarray
    dof: np.ndarray
    score: np.ndarray
    information: np.ndarray
    weight: np.ndarray
    jacobian: np.ndarray
    centre: np.ndarray


def innovations(views: ViewGaussians, rig: CameraRig, joints: np.ndarray) -> Innovations:
    """Every view against the fusion of the others, by one linear step from the fused joints (21, 3), metres, world.

    No view is triangulated again: with Σ the covariance of all views, A a view's Jacobian and e its residual at their
    common solution, both divided by its σ, and K = A Σ Aᵀ, the innovation's inverse covariance is I − K, and that
    times the innovation is e (Woodbury's identity).  Outlying joints of the others count less, by Cauchy weights at
    `joints`; the view's own weight w is taken out again, which makes it (I − wK)(I + (1 − w)K)⁻¹.  For errors that are
    as Gaussian as they claim, those weights make the squares smaller than their degrees of freedom, by about a seventh.
    The shifts' information is that of bundle adjustment with the points eliminated (Triggs et al., Bundle adjustment:
    a modern synthesis, 2000, section 6).
    """
    views, size = within_range(views), len(views.cameras)
    joints = np.where((np.abs(joints) <= MAX_DISTANCE).all(-1, keepdims=True), joints, np.nan)
    with torch.inference_mode():
        projected, by_point = (part.numpy() for part in rig.project_with_jacobian(torch.from_numpy(joints)))
    sigma = np.sqrt(views.variance_px2)
    residual = (views.joints_px - projected) / sigma
    jacobian = by_point / sigma[..., None]
    seen = views.valid & np.isfinite(residual).all(-1) & np.isfinite(jacobian).all((-2, -1))
    count = seen.sum(0)
    seen = seen & (count > 1)
    residual = np.where(seen[..., None], residual, 0.0)
    jacobian = np.where(seen[..., None, None], jacobian, 0.0)
    sigma = np.where(seen[..., None], sigma, 1.0)
    weight = seen / (1.0 + np.square(residual).sum(-1) / CAUCHY_SCALE ** 2)

    # Joints first: (21, 2V, 3) and (21, 2V), the rows of all views.
    rows = jacobian.swapaxes(0, 1).reshape(-1, 2 * size, 3)
    error = residual.swapaxes(0, 1).reshape(-1, 2 * size)
    row_weight = np.repeat(weight.T, 2, axis=1)
    weighted = row_weight[..., None] * rows
    normal = weighted.swapaxes(1, 2) @ rows
    normal[count < 2] = np.eye(3)
    spread, known = _inverses(normal)
    if not known.all():
        # Rays that do not cross tell nothing of each other.
        seen, weight, count = seen & known, weight * known, count * known
        row_weight, weighted, rows, error = (np.where(known.reshape(-1, *[1] * (part.ndim - 1)), part, 0.0)
                                             for part in (row_weight, weighted, rows, error))
        jacobian = jacobian * known[:, None, None]
    step = spread @ (weighted.swapaxes(1, 2) @ error[..., None])
    error = error - (rows @ step)[..., 0]

    own = jacobian @ spread @ jacobian.swapaxes(-1, -2)
    own_weight = weight[..., None, None]
    denominator = _inverse_2x2(np.eye(2) + (1 - own_weight) * own)
    precision = (np.eye(2) - own_weight * own) @ denominator
    pulled = (denominator @ error.reshape(-1, size, 2).swapaxes(0, 1)[..., None])[..., 0]
    whitened, dof = _whiten(pulled, precision)
    whitened[~seen], dof[~seen] = np.nan, 0

    scale = 1.0 / sigma.swapaxes(0, 1).reshape(-1, 2 * size)
    pixels = scale[..., None] * weighted
    information = np.diag((row_weight * scale ** 2).sum(0)) - (pixels @ spread @ pixels.swapaxes(1, 2)).sum(0)
    return Innovations(whitened, np.square(whitened).sum(-1), dof, (row_weight * scale * error).sum(0),
                       (information + information.T) / 2, weight.sum(1), by_point[:, _PALM].mean(1),
                       joints[_PALM].mean(0))


def _inverses(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverses of (N, d, d) and which of them exist; the identity for the others."""
    try:
        inverses = np.linalg.inv(matrices)
    except np.linalg.LinAlgError:
        inverses = np.linalg.pinv(np.where(np.isfinite(matrices), matrices, 0.0))
    with np.errstate(over='ignore', invalid='ignore'):
        condition = np.abs(matrices).max((1, 2)) * np.abs(inverses).max((1, 2))
        product = np.abs(matrices @ inverses - np.eye(matrices.shape[-1])).max((1, 2))
    exist = (condition < MAX_CONDITION) & (product < 1e-3)
    return np.where(exist[:, None, None], inverses, np.eye(matrices.shape[-1])), exist


def _inverse_2x2(matrix: np.ndarray) -> np.ndarray:
    """Inverse of symmetric positive definite (..., 2, 2)."""
    a, b, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    adjugate = np.stack([d, -b, -b, a], -1).reshape(matrix.shape)
    return adjugate / (a * d - b * b)[..., None, None]


def _whiten(pulled: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Q^(-1/2) q (..., 2) of q (..., 2) and Q (..., 2, 2), and the rank of Q (...), 1 or 2; q lies in its range."""
    trace = np.maximum(np.trace(precision, axis1=-2, axis2=-1), 1e-12)
    root = np.sqrt(np.maximum(np.linalg.det(precision), 0.0))
    full = root > 1e-6 * trace
    # The root of a 2×2 matrix is (Q + √det) / √(tr + 2√det), and its determinant √det.
    safe = np.where(full, root, 1.0)
    halved = (precision + safe[..., None, None] * np.eye(2)) / np.sqrt(trace + 2 * safe)[..., None, None]
    halved = np.where(full[..., None, None], halved, np.eye(2))
    square = (_inverse_2x2(halved) @ pulled[..., None])[..., 0]
    return np.where(full[..., None], square, pulled / np.sqrt(trace)[..., None]), np.where(full, 2, 1)
