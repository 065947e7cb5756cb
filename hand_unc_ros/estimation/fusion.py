"""From 2D Gaussians per view to 3D joints with covariance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.types import ViewEstimate
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import nearest_psd
from hand_unc_ros.geometry.triangulation import (
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


def fuse(estimate: ViewEstimate, rig: CameraRig, method: str = 'refined', min_views: int = 2) -> Fused:
    """Triangulate the joints of the views of `estimate`, which are the cameras of `rig` in the same order.

    A view on whose joints the others cannot agree is left out, worst first, while more than `min_views`
    remain (and at least three, for of two views none can be called the wrong one).
    Raises ConfigError for an unknown method.
    """
    if method not in METHODS:
        raise ConfigError(f'triangulation {method!r} is unknown; choose one of {", ".join(METHODS)}')
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
    ok = torch.isfinite(points).all(-1) & torch.isfinite(spread).flatten(-2).all(-1)
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
