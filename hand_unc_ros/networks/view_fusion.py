"""How views are weighted and fused for each joint: JUMP-Hand's gates, and its coarse joints."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hand_unc_ros.geometry.triangulation import covariance_from_pixels, gate_weights, propagate_covariance
from hand_unc_ros.geometry.weighted_triangulation import Observations, triangulate

GATES = ('uncertainty', 'average', 'learnable', 'top-k', 'confidence')
# Of the refined triangulation: the decoder goes on from there.
ITERATIONS = 3
# Residuals widen the covariance of a coarse joint by no more than this factor.
MOST_INFLATION = 25.0
# Standard deviations of a coarse joint that count, metres: rigs are calibrated no better than the first, the last is
# that of a joint that was not triangulated.
LEAST_SPREAD, MOST_SPREAD = 5e-4, 0.05


class Coarse(NamedTuple):
    """points: (B, 21, 3) metres, world, zeros where invalid.  valid: (B, 21) bool."""

    points: Tensor
    valid: Tensor


def gate(kind: str, variance_cells2: Tensor, mask: Tensor, *, logits: Tensor | None = None,
         confidence: Tensor | None = None, top_k: int = 2) -> Tensor:
    """Weights of the views for each joint, (B, V, N), zero for a missing view and with sum 1 over the others.

    kind: 'uncertainty' is JUMP-Hand's softmax of −σ² (see `gate_weights`), 'average' weights all alike, 'learnable'
    takes a softmax of `logits`, 'top-k' the uncertainty gate among the `top_k` surest views, 'confidence' a softmax of
    an outside detector's confidences (supplement, Table 5).
    variance_cells2: (B, V, N, 2) cells².  mask: (B, V) bool.  logits, confidence: (B, V, N).
    """
    mask = mask[..., None].expand(variance_cells2.shape[:-1])
    if kind == 'uncertainty':
        return gate_weights(variance_cells2, mask)
    if kind == 'top-k':
        spread = variance_cells2.mean(-1).masked_fill(~mask, math.inf)
        kept = spread <= spread.sort(dim=1).values[:, min(top_k, spread.shape[1]) - 1, None]
        return gate_weights(variance_cells2, mask & kept)
    scores = {'average': torch.zeros_like(variance_cells2[..., 0]), 'learnable': logits, 'confidence': confidence}[kind]
    if scores is None:
        raise ValueError(f"the gate '{kind}' needs {'logits' if kind == 'learnable' else 'confidence'}")
    scores = scores.float().masked_fill(~mask, -math.inf)
    scores = torch.where(mask.any(1, keepdim=True), scores, 0.0)
    return torch.where(mask, scores.softmax(dim=1), 0.0)


def coarse_joints(method: str, observed: Observations, variance_cells2: Tensor,
                  learned: Tensor | None = None) -> Coarse:
    """The coarse 3D joints, by one of TRIANGULATIONS (supplement, Table 2).

    variance_cells2: (B, V, N, 2), for the gate.  learned: (B, V, N) ≥ 0, rows' weights of learnable DLT.
    """
    weights = gate_weights(variance_cells2, observed.valid) if method == 'ug_dlt' else learned
    found = triangulate(method, observed, weights, iterations=ITERATIONS, unweighted_spare=False)
    return Coarse(torch.where(found.valid[..., None], found.points, 0.0), found.valid)


@torch.no_grad()
def coarse_spread(points: Tensor, observed: Observations) -> Tensor:
    """Symmetric square roots (B, 21, 3, 3) metres, world, of the covariances of coarse joints (B, 21, 3): what the
    views' variances propagate to, widened where residuals are larger than these (Birge's ratio). That of a joint which
    the views do not determine is MOST_SPREAD in every direction.

    Being symmetric, it turns with the world: Rᵀ root R is the root in a frame with axes R.
    """
    xy, covariance, cameras, valid = observed
    spread = propagate_covariance(points, covariance, cameras, valid).double()
    local = points[:, None] @ cameras[..., :3].mT + cameras[:, :, None, :, 3]
    residual = xy - local[..., :2] / local[..., 2:].clamp_min(1e-3)
    known = torch.isfinite(spread).all(-1).all(-1)
    squares = (residual[..., None, :] @ inverse_2x2(covariance) @ residual[..., None])[..., 0, 0]
    squares = torch.where(valid, squares, 0.0).sum(1)
    freedom = 2 * valid.sum(1) - 3
    inflation = (squares / freedom.clamp_min(1)).clamp(1.0, MOST_INFLATION)
    eye = torch.eye(3).to(spread)
    spread = torch.where(known[..., None, None], spread * inflation[..., None, None], MOST_SPREAD ** 2 * eye)
    values, axes = torch.linalg.eigh(spread)
    return ((axes * values.clamp(LEAST_SPREAD ** 2, MOST_SPREAD ** 2).sqrt()[..., None, :]) @ axes.mT).to(points.dtype)


def normalised(px: Tensor, variance_px2: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised coordinates (B, V, N, 2) and their covariance (B, V, N, 2, 2) of pixels with diagonal variance.

    px, variance_px2: (B, V, N, 2).  K: (B, V, 3, 3) affine, of a crop that may be rolled.
    """
    inverse = inverse_2x2(K[..., :2, :2])[:, :, None]
    xy = (inverse @ (px - K[:, :, None, :2, 2])[..., None])[..., 0]
    return xy, covariance_from_pixels(variance_px2, inverse)


def inverse_2x2(matrix: Tensor) -> Tensor:
    """Inverse of (..., 2, 2) in closed form: for a handful of small matrices LAPACK's overhead is milliseconds."""
    a, b, c, d = matrix.flatten(-2).unbind(-1)
    adjugate = torch.stack([d, -b, -c, a], -1).unflatten(-1, (2, 2))
    return adjugate / (a * d - b * c)[..., None, None]


def inverse_symmetric_3x3(matrix: Tensor) -> Tensor:
    """Inverse of symmetric (..., 3, 3) that are well conditioned, in closed form."""
    rows = matrix.unbind(-2)
    cofactors = torch.stack([torch.linalg.cross(rows[1], rows[2]), torch.linalg.cross(rows[2], rows[0]),
                             torch.linalg.cross(rows[0], rows[1])], -2)
    return cofactors / (rows[0] * cofactors[..., 0, :]).sum(-1)[..., None, None]
