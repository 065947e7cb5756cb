"""From 2D Gaussians per view to 3D joints with covariance, for every method that triangulates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import nearest_psd
from hand_unc_ros.geometry.measurement_range import clamp_measurements, is_estimated
from hand_unc_ros.geometry.residual_covariance import inflate, residual_covariance
from hand_unc_ros.geometry.triangulation import covariance_from_pixels, gate_weights, propagate_covariance
from hand_unc_ros.geometry.weighted_triangulation import TRIANGULATIONS as ALL_TRIANGULATIONS
from hand_unc_ros.geometry.weighted_triangulation import Observations, triangulate
from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.methods.contract import Fused, Triangulation
from hand_unc_ros.methods.view_gaussians import ViewGaussians
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE

# Those that need nothing learned.
TRIANGULATIONS = tuple(name for name in ALL_TRIANGULATIONS if name != 'learnable')
# A view whose median whitened error over the joints exceeds this (in σ, 2D) disagrees with the rest.
DISAGREEMENT_SIGMA = 6.0


@dataclass(frozen=True)
class Refinement:
    """Triangulated joints, refined by a network. joints: (21, 3) and vertices: (778, 3) metres, world.
    gate: (V, 21).  covariance: (63, 63) m² of these joints, where a head has learned their errors."""

    joints: np.ndarray
    vertices: np.ndarray
    gate: np.ndarray
    covariance: np.ndarray | None = None


def with_refinement(triangulation: Triangulation, refinement: Refinement | None,
                    stage_ms: dict[str, float] | None = None) -> Fused:
    """The refined hand; the triangulated one without a refinement. A joint that was not triangulated has no covariance,
    so it stays invalid."""
    covariance = block_diagonal(triangulation.covariance)
    if refinement is None:
        return Fused(triangulation.joints, covariance, triangulation.gate, triangulation, stage_ms=stage_ms or {})
    joints = np.where(triangulation.valid[:, None], refinement.joints, np.nan)
    if refinement.covariance is not None:
        # The head was trained on propagated covariances, so it gets those; what the residuals say comes on top.
        covariance = inflate(refinement.covariance, triangulation.inflation)
    return Fused(joints, covariance, refinement.gate, triangulation, refinement.vertices, stage_ms or {})


def fuse(views: ViewGaussians, rig: CameraRig, triangulation: str = 'refined', min_views: int = 2) -> Triangulation:
    """Triangulate the joints of `views`, which are the cameras of `rig` in the same order.

    A view on whose joints the others cannot agree is left out, worst first, while more than `min_views`
    remain (and at least three, for of two views none can be called the wrong one).
    Raises ConfigError for an unknown triangulation.
    """
    if triangulation not in TRIANGULATIONS:
        raise ConfigError(f'triangulation {triangulation!r} is unknown; choose one of {", ".join(TRIANGULATIONS)}')
    views = within_range(views)
    px = torch.from_numpy(views.joints_px)
    xy, jacobian = rig.normalise_with_jacobian(px)
    variance_px2 = torch.from_numpy(views.variance_px2)
    valid = (torch.from_numpy(views.valid.copy()) & torch.isfinite(xy).all(-1)
             & (torch.isfinite(variance_px2) & (variance_px2 > 0)).all(-1))
    covariance = covariance_from_pixels(variance_px2, jacobian)
    fused = _triangulate(views, rig, xy, covariance, valid, triangulation)
    while fused.used.sum() > max(2, min_views) and _disagreement(fused) > DISAGREEMENT_SIGMA ** 2:
        # Whose absence lets the others agree: by residuals alone a good view of three is blamed now and then.
        remaining = []
        for view in np.flatnonzero(fused.used):
            without = valid.clone()
            without[view] = False
            remaining.append((_triangulate(views, rig, xy, covariance, without, triangulation), without))
        fewest = fused.valid.sum() / 2
        fused, valid = min(remaining, key=lambda pair: (pair[0].valid.sum() < fewest, _disagreement(pair[0])))
    return _with_residuals(fused, views, rig)


def within_range(views: ViewGaussians) -> ViewGaussians:
    """The views with their measurements in the range of geometry.measurement_range."""
    joints, variance, valid = clamp_measurements(views.joints_px, views.variance_px2, views.valid)
    return replace(views, joints_px=joints, variance_px2=variance, valid=valid)


def _disagreement(fused: Triangulation) -> float:
    """The largest median over joints of a view's squared whitened error; infinite where no view is used."""
    if not fused.used.any():
        return np.inf
    return float(np.nanmedian(fused.mahalanobis2[fused.used], axis=1).max())


def _triangulate(estimate: ViewGaussians, rig: CameraRig, xy: Tensor, covariance: Tensor, valid: Tensor,
                 method: str) -> Triangulation:
    poses = rig.camera_from_world
    gates = gate_weights(_variance_cells2(estimate), valid) if method == 'ug_dlt' else None
    points, _, weights, spread = triangulate(method, Observations(xy, covariance, poses, valid), gates)
    if spread is None:
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
    return Triangulation(torch.where(ok[:, None], points, nan).numpy(), spread, ok.numpy(), weights.numpy(),
                         contributes.any(1).numpy(), residual.norm(dim=-1).numpy(),
                         (residual.square() / torch.from_numpy(estimate.variance_px2)).sum(-1).numpy(),
                         gate_weights(_variance_cells2(estimate), contributes).numpy(), spread,
                         np.broadcast_to(np.eye(3), spread.shape), np.zeros(contributes.shape))


def _with_residuals(fused: Triangulation, views: ViewGaussians, rig: CameraRig) -> Triangulation:
    """The same joints with the covariance that their residuals leave (geometry.residual_covariance)."""
    points = torch.from_numpy(np.ascontiguousarray(fused.joints))
    residual = views.joints_px - rig.project(points)[0].numpy()
    # A gross outlier lies anywhere in its crop.
    gross_px = views.boxes_px[:, 2] / math.sqrt(12.0)
    found = residual_covariance(fused.propagated, residual, rig.projection_jacobian(points).numpy(),
                                views.variance_px2, gross_px, np.isfinite(fused.mahalanobis2))
    fused = replace(fused, covariance=found.covariance, inflation=found.inflation, outlying=found.outlying)
    known = is_estimated(fused.joints, fused.covariance)
    return fused if (known == fused.valid).all() else _only(fused, known & fused.valid)


def _only(fused: Triangulation, known: np.ndarray) -> Triangulation:
    """Without the joints that are not known (21,)."""
    unknown = {name: np.where(known.reshape(-1, *[1] * (getattr(fused, name).ndim - 1)), getattr(fused, name), np.nan)
               for name in ('joints', 'covariance', 'propagated')}
    of_views = {name: np.where(known, getattr(fused, name), np.nan) for name in ('reprojection_px', 'mahalanobis2')}
    nothing = {name: np.where(known, getattr(fused, name), 0.0) for name in ('weights', 'gate', 'outlying')}
    return replace(fused, **unknown, **of_views, **nothing, valid=known,
                   used=fused.used & np.isfinite(of_views['reprojection_px']).any(axis=1))


def _variance_cells2(estimate: ViewGaussians) -> Tensor:
    """Variances in heatmap cells of the view's own crop, the unit of JUMP-Hand's gate."""
    cell_px = estimate.boxes_px[:, 2] / HEATMAP_SIZE
    return torch.from_numpy(estimate.variance_px2 / (cell_px ** 2)[:, None, None])
