"""From 2D Gaussians per view to 3D joints with covariance, for every method that triangulates."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

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
from hand_unc_ros.hand.bone_lengths import BoneLengths
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
    """Triangulated joints, refined by a network. joints: (21, 3) and vertices: (N, 3) metres, world.
    gate: (V, 21).  covariance: (63, 63) m² of these joints, where a head has learned their errors."""

    joints: np.ndarray
    vertices: np.ndarray
    gate: np.ndarray
    covariance: np.ndarray | None = None


def with_refinement(triangulation: Triangulation, refinement: Refinement | None,
                    stage_ms: dict[str, float] | None = None, bones: BoneLengths | None = None) -> Fused:
    """The refined hand; without a refinement the triangulated one, held to the lengths of its bones where they are
    given. A joint that was not triangulated has no covariance, so it stays invalid."""
    covariance = block_diagonal(triangulation.covariance)
    if refinement is None:
        joints = triangulation.joints
        if bones is not None:
            joints, covariance = bones.hold(joints, covariance)
        return Fused(joints, covariance, triangulation.gate, triangulation, stage_ms=stage_ms or {})
    joints = np.where(triangulation.valid[:, None], refinement.joints, np.nan)
    if refinement.covariance is not None:
        # The head was trained on propagated covariances, so it gets those; what the residuals say comes on top.
        covariance = inflate(refinement.covariance, triangulation.inflation)
    return Fused(joints, covariance, refinement.gate, triangulation, refinement.vertices, stage_ms or {})


class _Solution(NamedTuple):
    """Joints by the views that `contributes` names, without what their residuals say of the covariance; any number of
    dimensions may be in front.

    points: (21, 3) metres, world, and spread: (21, 3, 3) m², meaningless where not known: (21,) bool.  contributes:
    (V, 21) bool.  weights: (V, 21), each joint's sum to 1.  residual_px: (V, 21, 2), observed minus projected, and
    mahalanobis2: (V, 21), NaN where a view does not contribute.  jacobian: (V, 21, 2, 3) px/m.
    """

    points: np.ndarray
    spread: np.ndarray
    known: np.ndarray
    contributes: np.ndarray
    weights: np.ndarray
    residual_px: np.ndarray
    mahalanobis2: np.ndarray
    jacobian: np.ndarray


@torch.inference_mode()
def fuse(views: ViewGaussians, rig: CameraRig, triangulation: str = 'refined', min_views: int = 2) -> Triangulation:
    """Triangulate the joints of `views`, which are the cameras of `rig` in the same order.

    A view on whose joints the others cannot agree is left out, worst first, while more than `min_views`
    remain (and at least three, for of two views none can be called the wrong one).
    Raises ConfigError for an unknown triangulation.
    """
    if triangulation not in TRIANGULATIONS:
        raise ConfigError(f'triangulation {triangulation!r} is unknown; choose one of {", ".join(TRIANGULATIONS)}')
    views = within_range(views)
    xy, jacobian = rig.normalise_with_jacobian(torch.from_numpy(views.joints_px))
    covariance = covariance_from_pixels(torch.from_numpy(views.variance_px2), jacobian)
    valid = torch.from_numpy(views.valid) & torch.isfinite(xy).all(-1)
    observed = Observations(xy, covariance, rig.camera_from_world, valid)
    solution = _solve(views, rig, observed, triangulation)
    while (solution.contributes.any(1).sum() > max(2, min_views)
           and _disagreement(solution) > DISAGREEMENT_SIGMA ** 2):
        # Whose absence lets the others agree: by residuals alone a good view of three is blamed now and then.
        left_out = torch.eye(len(rig), dtype=torch.bool)[solution.contributes.any(1)]
        without = observed.valid & ~left_out[..., None]
        remaining = _solve(views, rig, observed._replace(valid=without), triangulation)
        few = remaining.known.sum(-1) < solution.known.sum() / 2
        best = np.lexsort((_disagreement(remaining), few))[0]
        solution, observed = _Solution(*(part[best] for part in remaining)), observed._replace(valid=without[best])
    return _with_residuals(solution, views)


def within_range(views: ViewGaussians) -> ViewGaussians:
    """The views with their measurements in the range of geometry.measurement_range."""
    joints, variance, valid = clamp_measurements(views.joints_px, views.variance_px2, views.valid)
    return replace(views, joints_px=joints, variance_px2=variance, valid=valid)


def _disagreement(solution: _Solution) -> np.ndarray:
    """(...) the largest median over joints of a view's squared whitened error; infinite where no view contributes."""
    # NaN sorts last.
    ordered, count = np.sort(solution.mahalanobis2, -1), np.isfinite(solution.mahalanobis2).sum(-1)
    middle = np.maximum(np.stack([count - 1, count], -1), 0) // 2
    median = np.take_along_axis(ordered, middle, -1).mean(-1)
    return np.where(solution.contributes.any((-2, -1)), np.where(count > 0, median, 0.0).max(-1), np.inf)


def _solve(views: ViewGaussians, rig: CameraRig, observed: Observations, method: str) -> _Solution:
    """The dimensions in front are those of observed.valid: (..., V, 21)."""
    gates = gate_weights(_variance_cells2(views), observed.valid) if method == 'ug_dlt' else None
    points, _, weights, spread = triangulate(method, observed, gates)
    if spread is None:
        spread = propagate_covariance(points, *observed[1:])
    points, spread, weights = points.numpy(), spread.numpy(), weights.numpy()
    known = is_estimated(points, spread)
    contributes = observed.valid.numpy() & known[..., None, :]
    at = torch.from_numpy(np.where(known[..., None], points, 0.0).reshape(-1, 3))
    projected, jacobian = (np.moveaxis(part.numpy().reshape(len(rig), *known.shape, *part.shape[2:]), 0, known.ndim - 1)
                           for part in rig.project_with_jacobian(at))
    residual = np.where(contributes[..., None], views.joints_px - projected, np.nan)
    weights = np.where(contributes, weights, 0.0)
    total = weights.sum(-2, keepdims=True)
    return _Solution(points, spread, known, contributes, weights / np.where(total > 0, total, 1.0), residual,
                     (np.square(residual) / views.variance_px2).sum(-1), jacobian)


def _with_residuals(solution: _Solution, views: ViewGaussians) -> Triangulation:
    """With the covariance that the residuals leave (geometry.residual_covariance); a joint that this makes too
    uncertain is unknown."""
    known = solution.known
    # The inverse of a nearly singular information can be indefinite by its rounding.
    propagated = nearest_psd(np.where(known[:, None, None], solution.spread, np.nan))
    # A gross outlier lies anywhere in its crop.
    gross_px = views.boxes_px[:, 2] / math.sqrt(12.0)
    found = residual_covariance(propagated, solution.residual_px, solution.jacobian, views.variance_px2, gross_px,
                                np.isfinite(solution.mahalanobis2))
    known = known & is_estimated(solution.points, found.covariance)
    contributes = solution.contributes & known
    joints, covariance, propagated = (np.where(known.reshape(-1, *[1] * (part.ndim - 1)), part, np.nan)
                                      for part in (solution.points, found.covariance, propagated))
    return Triangulation(
        joints, covariance, known, np.where(known, solution.weights, 0.0), contributes.any(1),
        np.where(known, np.linalg.norm(solution.residual_px, axis=-1), np.nan),
        np.where(known, solution.mahalanobis2, np.nan),
        gate_weights(_variance_cells2(views), torch.from_numpy(contributes)).numpy(), propagated, found.inflation,
        np.where(known, found.outlying, 0.0))


def _variance_cells2(estimate: ViewGaussians) -> Tensor:
    """Variances in heatmap cells of the view's own crop, the unit of JUMP-Hand's gate."""
    cell_px = estimate.boxes_px[:, 2] / HEATMAP_SIZE
    return torch.from_numpy(estimate.variance_px2 / (cell_px ** 2)[:, None, None])
