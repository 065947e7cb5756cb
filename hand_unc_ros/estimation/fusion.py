"""From 2D Gaussians per view to 3D joints with covariance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.types import ViewEstimate
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import nearest_psd
from hand_unc_ros.geometry.measurement_range import MAX_DISTANCE, clamp_measurements, is_estimated
from hand_unc_ros.geometry.triangulation import (
    CAUCHY_SCALE,
    covariance_from_pixels,
    gate_weights,
    inverse_variance_weights,
    propagate_covariance,
    refine_reprojection,
    triangulate_dlt,
)
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE

# 'refined' is the package's default; the others are JUMP-Hand's comparison (supplement, Table 2).
METHODS = ('refined', 'inverse_variance', 'ug_dlt', 'vanilla')
# A view whose median whitened error over the joints exceeds this (in σ, 2D) disagrees with the rest.
DISAGREEMENT_SIGMA = 6.0
# Of the information about one joint: beyond it the inverse is rounding alone.
MAX_CONDITION = 1e14


@dataclass(frozen=True)
class Fused:
    """joints: (21, 3) and covariance: (21, 3, 3), NaN where invalid.  valid: (21,).
    weights: (V, 21) sums to 1 over views.  used: (V,) bool.  reprojection_px: (V, 21), NaN where unused.
    mahalanobis2: (V, 21) squared whitened reprojection errors, NaN where unused.
    gate: (V, 21) JUMP-Hand's weights of the views by their variances, whatever the method; zero where unused."""

    joints: np.ndarray
    covariance: np.ndarray
    valid: np.ndarray
    weights: np.ndarray
    used: np.ndarray
    reprojection_px: np.ndarray
    mahalanobis2: np.ndarray
    gate: np.ndarray


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
    """

    whitened: np.ndarray
    squared: np.ndarray
    dof: np.ndarray
    score: np.ndarray
    information: np.ndarray
    weight: np.ndarray


def fuse(estimate: ViewEstimate, rig: CameraRig, method: str = 'refined', min_views: int = 2) -> Fused:
    """Triangulate the joints of the views of `estimate`, which are the cameras of `rig` in the same order.

    A view on whose joints the others cannot agree is left out, worst first, while more than `min_views`
    remain (and at least three, for of two views none can be called the wrong one).
    Raises ConfigError for an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(f'triangulation {method!r} is unknown; choose one of {", ".join(METHODS)}')
    estimate = _within_range(estimate)
    px = torch.from_numpy(estimate.joints_px)
    xy, jacobian = rig.normalise_with_jacobian(px)
    variance_px2 = torch.from_numpy(estimate.variance_px2)
    valid = (torch.from_numpy(estimate.valid.copy()) & torch.isfinite(xy).all(-1)
             & (torch.isfinite(variance_px2) & (variance_px2 > 0)).all(-1))
    covariance = covariance_from_pixels(variance_px2, jacobian)
    fused = _triangulate(estimate, rig, xy, covariance, valid, method)
    while fused.used.sum() > max(2, min_views) and _disagreement(fused) > DISAGREEMENT_SIGMA ** 2:
        # Whose absence lets the others agree: by residuals alone a good view of three is blamed now and then.
        remaining = []
        for view in np.flatnonzero(fused.used):
            without = valid.clone()
            without[view] = False
            remaining.append((_triangulate(estimate, rig, xy, covariance, without, method), without))
        fewest = fused.valid.sum() / 2
        fused, valid = min(remaining, key=lambda pair: (pair[0].valid.sum() < fewest, _disagreement(pair[0])))
    return fused


def innovations(estimate: ViewEstimate, rig: CameraRig, joints: np.ndarray) -> Innovations:
    """Every view against the fusion of the others, by one linear step from the fused joints (21, 3), metres, world.

    No view is triangulated again: with Σ the covariance of all views, A a view's Jacobian and e its residual at their
    common solution, both divided by its σ, and K = A Σ Aᵀ, the innovation's inverse covariance is I − K, and that
    times the innovation is e (Woodbury's identity).  Outlying joints of the others count less, by Cauchy weights at
    `joints`; the view's own weight w is taken out again, which makes it (I − wK)(I + (1 − w)K)⁻¹.  For errors that are
    as Gaussian as they claim, those weights make the squares smaller than their degrees of freedom, by about a seventh.
    The shifts' information is that of bundle adjustment with the points eliminated (Triggs et al., Bundle adjustment:
    a modern synthesis, 2000, section 6).
    """
    estimate, views = _within_range(estimate), len(estimate.cameras)
    joints = np.where((np.abs(joints) <= MAX_DISTANCE).all(-1, keepdims=True), joints, np.nan)
    points = torch.from_numpy(np.ascontiguousarray(joints))
    sigma = np.sqrt(estimate.variance_px2)
    residual = (estimate.joints_px - rig.project(points)[0].numpy()) / sigma
    jacobian = rig.projection_jacobian(points).numpy() / sigma[..., None]
    seen = estimate.valid & np.isfinite(residual).all(-1) & np.isfinite(jacobian).all((-2, -1))
    count = seen.sum(0)
    seen = seen & (count > 1)
    residual = np.where(seen[..., None], residual, 0.0)
    jacobian = np.where(seen[..., None, None], jacobian, 0.0)
    sigma = np.where(seen[..., None], sigma, 1.0)
    weight = seen / (1.0 + np.square(residual).sum(-1) / CAUCHY_SCALE ** 2)

    # Joints first: (21, 2V, 3) and (21, 2V), the rows of all views.
    rows = jacobian.swapaxes(0, 1).reshape(-1, 2 * views, 3)
    error = residual.swapaxes(0, 1).reshape(-1, 2 * views)
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
    pulled = (denominator @ error.reshape(-1, views, 2).swapaxes(0, 1)[..., None])[..., 0]
    whitened, dof = _whiten(pulled, precision)
    whitened[~seen], dof[~seen] = np.nan, 0

    scale = 1.0 / sigma.swapaxes(0, 1).reshape(-1, 2 * views)
    pixels = scale[..., None] * weighted
    information = np.diag((row_weight * scale ** 2).sum(0)) - (pixels @ spread @ pixels.swapaxes(1, 2)).sum(0)
    return Innovations(whitened, np.square(whitened).sum(-1), dof, (row_weight * scale * error).sum(0),
                       (information + information.T) / 2, weight.sum(1))


def _within_range(estimate: ViewEstimate) -> ViewEstimate:
    joints, variance, valid = clamp_measurements(estimate.joints_px, estimate.variance_px2, estimate.valid)
    return replace(estimate, joints_px=joints, variance_px2=variance, valid=valid)


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


def _disagreement(fused: Fused) -> float:
    """The largest median over joints of a view's squared whitened error; infinite where no view is used."""
    if not fused.used.any():
        return np.inf
    return float(np.nanmedian(fused.mahalanobis2[fused.used], axis=1).max())


def _triangulate(estimate: ViewEstimate, rig: CameraRig, xy: Tensor, covariance: Tensor, valid: Tensor,
                 method: str) -> Fused:
    poses = rig.camera_from_world
    first = triangulate_dlt(xy, poses, None, valid)
    if method == 'vanilla':
        weights = valid.double()
        points = first.points
    elif method == 'ug_dlt':
        weights = gate_weights(_variance_cells2(estimate), valid)
        points = triangulate_dlt(xy, poses, weights, valid).points
    else:
        weights = inverse_variance_weights(first.points, covariance, poses, valid)
        linear = triangulate_dlt(xy, poses, weights, valid)
        points = torch.where(linear.valid[..., None], linear.points, first.points)
    if method == 'refined':
        refined = refine_reprojection(points, xy, covariance, poses, valid)
        points, spread, weights = refined.points, refined.covariance, refined.weights
    else:
        spread = propagate_covariance(points, covariance, poses, valid)
    ok = torch.from_numpy(is_estimated(points.numpy(), spread.numpy()))
    projected, _ = rig.project(torch.where(ok[:, None], points, torch.zeros_like(points)))
    contributes = valid & ok
    residual = torch.where(contributes[..., None], projected - torch.from_numpy(estimate.joints_px),
                           torch.full_like(projected, torch.nan))
    weights = torch.where(contributes, weights, torch.zeros_like(weights))
    total = weights.sum(0, keepdim=True)
    weights = weights / torch.where(total > 0, total, torch.ones_like(total))
    nan = torch.full_like(points, torch.nan)
    # The inverse of a nearly singular information can be indefinite by its rounding.
    spread = nearest_psd(torch.where(ok[:, None, None], spread, nan[..., None]).numpy())
    return Fused(torch.where(ok[:, None], points, nan).numpy(), spread, ok.numpy(), weights.numpy(),
                 contributes.any(1).numpy(), residual.norm(dim=-1).numpy(),
                 (residual.square() / torch.from_numpy(estimate.variance_px2)).sum(-1).numpy(),
                 gate_weights(_variance_cells2(estimate), contributes).numpy())


def _variance_cells2(estimate: ViewEstimate) -> Tensor:
    """Variances in heatmap cells of the view's own crop, the unit of JUMP-Hand's gate."""
    cell_px = estimate.boxes_px[:, 2] / HEATMAP_SIZE
    return torch.from_numpy(estimate.variance_px2 / (cell_px ** 2)[:, None, None])
