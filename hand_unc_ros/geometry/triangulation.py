"""Points from several views, with a 3×3 covariance, batched and differentiable.

Everything works on undistorted normalised image coordinates (CameraRig.normalise), computes in float64
and returns the dtype of its input.  A point that the views do not determine is NaN with valid False:
fewer than two usable views, rays that are all parallel within MIN_RAY_ANGLE, a used camera that has the
point behind it, or numbers that are not finite.

Reference: Hartley & Zisserman, Multiple View Geometry, 2nd ed., 12.2 (linear), 5.2 (covariance).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hand_unc_ros.geometry.pose_terms import PoseTerms, pose_terms

# Two rays are parallel (or opposite) below this angle: at a focal length of 600 px, 0.1° is one pixel,
# so an error of one pixel moves the point by about its whole distance.
MIN_RAY_ANGLE = math.radians(0.1)
# The normal equations lose digits in proportion to their condition; at 1e10 about 6 are left.
MAX_CONDITION = 1e10
# Cauchy scale, in units of the 2D Mahalanobis distance, for 95 % efficiency under Gaussian noise of
# two-dimensional residuals (the familiar 2.3849 is for one dimension).
CAUCHY_SCALE = 2.5486
# Depths up to this count as behind the camera, metres.
MIN_DEPTH = 1e-6


class Triangulation(NamedTuple):
    """points: (..., N, 3) world frame, NaN where invalid.  valid: (..., N) bool."""

    points: Tensor
    valid: Tensor


class Refined(NamedTuple):
    """Points with their covariance.

    points: (..., N, 3) and covariance: (..., N, 3, 3), world frame, NaN where invalid.  valid: (..., N).  weights:
    (..., V, N) each view's share of the robust information (trace), sums to 1 over views; zeros where invalid.
    mahalanobis2: (..., V, N) squared whitened reprojection error, NaN where unused.
    """

    points: Tensor
    covariance: Tensor
    valid: Tensor
    weights: Tensor
    mahalanobis2: Tensor


def triangulate_dlt(
    xy: Tensor, camera_from_world: Tensor, weights: Tensor | None = None, valid: Tensor | None = None,
) -> Triangulation:
    """Linear triangulation from weighted rows.

    xy: (..., V, N, 2) normalised.  camera_from_world: (..., V, 3, 4).  weights: (..., V, N) ≥ 0, multiply both rows of
    their view, so the effective least-squares weight is the square (JUMP-Hand's UG-DLT with `gate_weights`;
    inverse-variance DLT with `inverse_variance_weights`); None is vanilla DLT.  valid: (..., V, N) bool, views to use.
    A view with weight 0 or NaN counts as missing.

    Each view gives two planes through its centre C: (x r₃ − r₁)·(X − C) = 0 and (y r₃ − r₂)·(X − C) = 0.  They are
    solved for the finite point X by 3×3 normal equations about the mean camera centre: unlike the singular vector of
    the homogeneous system, this does not depend on the choice of world frame and has no gradient singularity.  For exact
    data both agree.
    """
    dtype = xy.dtype
    xy, used = _usable(xy, camera_from_world, valid)
    poses = pose_terms(camera_from_world)
    if weights is None:
        weights2 = used.double()
    else:
        used = used & torch.isfinite(weights) & (weights > 0)
        weights = torch.where(used, weights, 0.0).double()
        weights2 = _unit_peak(weights).square()
    # Per view, the normal matrix is linear in w²(x² + y²), w²x, w²y and w²: one product with constants.
    x, y = xy.movedim(-1, 0).contiguous()
    wx, wy = weights2 * x, weights2 * y
    sums = _sum_over_views((wx * x + wy * y, wx, wy, weights2), poses.planes)
    inverse, solvable = _inverse_3x3(sums[..., :9].unflatten(-1, (3, 3)))
    solution = (inverse * sums[..., None, 9:]).sum(-1) + poses.origin
    depth = poses.cameras[..., 2, :3] @ solution.mT + poses.cameras[..., 2, 3:]
    ok = (solvable & _rays_differ(x, y, used, poses.scatter) & ((depth > MIN_DEPTH) | ~used).all(-2)
          & torch.isfinite(solution).all(-1))
    return Triangulation(torch.where(ok[..., None], solution, math.nan).to(dtype), ok)


def gate_weights(variance_cells2: Tensor, valid: Tensor | None = None) -> Tensor:
    """JUMP-Hand's view gate: softmax over views of −(σx² + σy²)/2.

    variance_cells2: (..., V, N, 2) in squared cells of the heatmap grid; the unit is part of the method,
    since the softmax has no temperature.  valid: (..., V, N) bool.  Returns alpha (..., V, N) that sums to
    1 over views; a missing view gets 0, and all are 0 where every view is missing.
    """
    used = torch.isfinite(variance_cells2).all(-1)
    if valid is not None:
        used = used & valid
    variance = torch.where(used[..., None], variance_cells2, 0.0)
    # Halves are added, since a sum of two finite variances may not be finite.
    logits = (-(variance / 2).sum(-1)).masked_fill(~used, -math.inf)
    logits = torch.where(used.any(-2, keepdim=True), logits, 0.0)
    return torch.where(used, torch.softmax(logits, -2), 0.0)


def inverse_variance_weights(
    points: Tensor, xy_covariance: Tensor, camera_from_world: Tensor, valid: Tensor | None = None,
) -> Tensor:
    """Row weights 1/(σ·depth) that make DLT's rows whitened reprojection errors.

    points: (..., N, 3) a first solution, for the depths only.  xy_covariance: (..., V, N, 2, 2)
    normalised; σ² is half its trace.  Returns (..., V, N), 0 where a view cannot be used.
    """
    cameras = camera_from_world.double()
    depth = (cameras[..., 2, :3] @ points.detach().double().mT) + cameras[..., 2, 3:]
    sigma2 = xy_covariance.double().diagonal(dim1=-2, dim2=-1).mean(-1)
    used = (depth > MIN_DEPTH) & torch.isfinite(depth) & torch.isfinite(sigma2) & (sigma2 > 0)
    if valid is not None:
        used = used & valid
    # Both factors are masked, not their product: NaN times a zero gradient is NaN.
    scale2 = torch.where(used, sigma2, 1.0) * torch.where(used, depth, 1.0).square()
    return torch.where(used, scale2.rsqrt(), 0.0).to(xy_covariance.dtype)


def covariance_from_pixels(variance_px2: Tensor, jacobian: Tensor) -> Tensor:
    """Covariance in normalised coordinates, J diag(σx², σy²) Jᵀ (..., 2, 2).

    variance_px2: (..., 2) px².  jacobian: (..., 2, 2) = d xy / d px, of CameraRig.normalise_with_jacobian.
    """
    return (jacobian * variance_px2[..., None, :].to(jacobian.dtype)) @ jacobian.mT


def refine_reprojection(
    points: Tensor, xy: Tensor, xy_covariance: Tensor, camera_from_world: Tensor,
    valid: Tensor | None = None, iterations: int = 5, robust: str = 'cauchy',
    robust_scale: float = CAUCHY_SCALE,
) -> Refined:
    """Minimise the whitened reprojection error from a first solution.

    points: (..., N, 3) world, from `triangulate_dlt`.  xy: (..., V, N, 2) and xy_covariance: (..., V, N, 2, 2)
    normalised.  camera_from_world: (..., V, 3, 4).  valid: (..., V, N) bool.  robust: 'cauchy' for cost
    (c²/2) log(1 + e²/c²) of each view's Mahalanobis distance e, with c = robust_scale, or 'none' for e²/2.

    Gauss-Newton with Levenberg damping, iteratively reweighted; a step is kept where it lowers the point's cost and
    leaves the point in front of every used camera, so the cost never rises.  The covariance is (Σₙ Jₙᵀ Sₙ⁻¹ Jₙ)⁻¹ at
    the solution, without the robust weights: it is that of the Gaussian noise the input claims.  Differentiable through the
    iterations.
    """
    if robust not in ('cauchy', 'none'):
        raise ValueError(f"robust is '{robust}'; use 'cauchy' or 'none'")
    scale2 = robust_scale ** 2 if robust == 'cauchy' else math.inf
    dtype = points.dtype
    problem = _Reprojection.build(xy, xy_covariance, camera_from_world, valid)
    known = torch.isfinite(points).all(-1)
    current = torch.where(known[..., None], points, 0.0).double()
    at = problem.evaluate(current, scale2)
    sums, cost = at.sums, at.cost
    damping = torch.full_like(cost, 1e-4)
    diagonal = torch.eye(3, dtype=torch.float64, device=points.device)
    for _ in range(iterations):
        normal = sums[..., :9].unflatten(-1, (3, 3))
        cofactors, determinant = _cofactors(normal + diagonal * (damping[..., None, None] * normal))
        step = (cofactors * sums[..., None, 9:]).sum(-1) / torch.where(determinant > 0, determinant, 1.0)[..., None]
        candidate = current - step
        at = problem.evaluate(candidate, scale2)
        better = at.cost <= cost
        current = torch.where(better[..., None], candidate, current)
        sums = torch.where(better[..., None], at.sums, sums)
        cost = torch.where(better, at.cost, cost)
        damping = damping * torch.where(better, 0.1, 10.0)
    at = problem.evaluate(current, math.inf)
    covariance, solvable = problem.covariance(at)
    ok = known & solvable
    share = at.trace / (1 + at.distance2 / scale2)
    total = share.sum(-2, keepdim=True)
    share = share / torch.where(total > 0, total, 1.0)
    observed = ok[..., None, :] & problem.used
    return Refined(
        torch.where(ok[..., None], current, math.nan).to(dtype),
        torch.where(ok[..., None, None], covariance, math.nan).to(dtype),
        ok,
        torch.where(observed, share, 0.0).to(dtype),
        torch.where(observed, at.distance2, math.nan).to(dtype),
    )


def propagate_covariance(
    points: Tensor, xy_covariance: Tensor, camera_from_world: Tensor, valid: Tensor | None = None,
) -> Tensor:
    """First-order covariance of the least-squares point, (Σₙ Jₙᵀ Sₙ⁻¹ Jₙ)⁻¹ (Hartley & Zisserman 5.2).

    points: (..., N, 3) world.  xy_covariance: (..., V, N, 2, 2) normalised.
    camera_from_world: (..., V, 3, 4).  valid: (..., V, N) bool.  Returns (..., N, 3, 3), NaN where the
    views do not determine the point.
    """
    nowhere = torch.zeros_like(xy_covariance[..., 0])
    problem = _Reprojection.build(nowhere, xy_covariance, camera_from_world, valid)
    known = torch.isfinite(points).all(-1)
    current = torch.where(known[..., None], points, 0.0).double()
    covariance, solvable = problem.covariance(problem.evaluate(current, math.inf))
    ok = known & solvable
    return torch.where(ok[..., None, None], covariance, math.nan).to(points.dtype)


class _Evaluation(NamedTuple):
    """sums: (..., N, 12), normal matrix JᵀΩJ (9) and gradient JᵀΩr (3), Ω = robust weight × S⁻¹.
    cost: (..., N), infinite where a used camera has the point behind it.  The rest is (..., V, N):
    distance2 squared Mahalanobis, trace of the view's part of the normal matrix, u and v the projection."""

    sums: Tensor
    cost: Tensor
    distance2: Tensor
    trace: Tensor
    u: Tensor
    v: Tensor


class _Reprojection(NamedTuple):
    """A batch of reprojection problems in float64; components instead of small matrices keep it fast."""

    poses: PoseTerms
    used: Tensor  # (..., V, N)
    x: Tensor  # (..., V, N), zeros where unused, as y
    y: Tensor
    information: tuple[Tensor, Tensor, Tensor]  # xx, xy, yy of S⁻¹, each (..., V, N); zeros where unused

    @staticmethod
    def build(
        xy: Tensor, covariance: Tensor, camera_from_world: Tensor, valid: Tensor | None,
    ) -> _Reprojection:
        xy, used = _usable(xy, camera_from_world, valid)
        covariance = covariance.double()
        a, b, d = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
        determinant = a * d - b * b
        used = used & (a > 0) & (determinant > 0) & torch.isfinite(a) & torch.isfinite(d)
        determinant = torch.where(used, determinant, 1.0)
        information = tuple(torch.where(used, part, 0.0) / determinant for part in (d, -b, a))
        x, y = xy.movedim(-1, 0).contiguous()
        return _Reprojection(pose_terms(camera_from_world), used, x, y, information)

    def evaluate(self, points: Tensor, scale2: float) -> _Evaluation:
        """Linearise at points (..., N, 3); scale2: squared Cauchy scale, infinite for none."""
        local = self.poses.axes[..., :3] @ points.mT + self.poses.axes[..., 3:]
        u, v, depth = local.unflatten(-2, (3, -1)).unbind(-3)
        front = depth > MIN_DEPTH
        inverse_depth = torch.where(front, depth, 1.0).reciprocal()
        u, v = u * inverse_depth, v * inverse_depth
        ru, rv = u - self.x, v - self.y
        xx, xy, yy = self.information
        gu, gv = xx * ru + xy * rv, xy * ru + yy * rv
        distance2 = ru * gu + rv * gv
        if math.isinf(scale2):
            cost, weight = distance2.sum(-2), inverse_depth
        else:
            relative = distance2 / scale2
            cost, weight = scale2 * torch.log1p(relative).sum(-2), inverse_depth / (1 + relative)
        gu, gv = gu * weight, gv * weight
        # Camera-frame part K = Gᵀ S⁻¹ G / depth², with d(u, v)/d(local) = G / depth, G = [1 0 −u; 0 1 −v].
        weight = weight * inverse_depth
        k11, k12, k22 = xx * weight, xy * weight, yy * weight
        k13, k23 = -(u * k11 + v * k12), -(u * k12 + v * k22)
        k33 = -(u * k13 + v * k23)
        parts = (k11, k12, k13, k22, k23, k33, gu, gv, -(u * gu + v * gv))
        cost = torch.where((front | ~self.used).all(-2), cost, math.inf)
        return _Evaluation(_sum_over_views(parts, self.poses.world), cost, distance2, k11 + k22 + k33, u, v)

    def covariance(self, at: _Evaluation) -> tuple[Tensor, Tensor]:
        """Inverse information (..., N, 3, 3) of an evaluation without robust weights, and whether the
        views determine the point (..., N)."""
        covariance, solvable = _inverse_3x3(at.sums[..., :9].unflatten(-1, (3, 3)))
        differ = _rays_differ(at.u, at.v, self.used, self.poses.scatter)
        return covariance, solvable & differ & torch.isfinite(at.cost)


def _usable(xy: Tensor, camera_from_world: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """xy (..., V, N, 2) in float64 with zeros where unused, and which are used (..., V, N)."""
    views = xy.shape[-3]
    if camera_from_world.shape[-3:] != (views, 3, 4):
        raise ValueError(f'camera_from_world is {tuple(camera_from_world.shape)}; '
                         f'xy {tuple(xy.shape)} needs (..., {views}, 3, 4)')
    used = torch.isfinite(xy).all(-1)
    if valid is not None:
        used = used & valid
    return torch.where(used[..., None], xy, 0.0).double(), used


def _sum_over_views(parts: tuple[Tensor, ...], terms: Tensor) -> Tensor:
    """Σ over views and parts: F parts (..., V, N) with terms (..., C, F V) -> (..., N, C)."""
    return (terms @ torch.stack(parts, -3).flatten(-3, -2)).mT


def _unit_peak(weights: Tensor) -> Tensor:
    """Scale weights (..., V, N) to a peak of 1 over views, which changes no solution."""
    peak = weights.amax(-2, keepdim=True)
    return weights / torch.where(peak > 0, peak, 1.0)


def _rays_differ(x: Tensor, y: Tensor, used: Tensor, scatter_terms: Tensor) -> Tensor:
    """Whether the used rays through (x, y, 1), each (..., V, N), fix a depth -> (..., N).

    Sum over pairs of sin² of their angle, from Σᵢⱼ cos²θᵢⱼ = ‖Σᵢ dᵢdᵢᵀ‖²; for two rays the threshold is
    MIN_RAY_ANGLE exactly.  Opposite rays count as parallel: the point is somewhere between the cameras.
    """
    with torch.no_grad():
        xx, yy = x * x, y * y
        weight = torch.where(used, (1 + xx + yy).reciprocal(), 0.0)
        wx, wy = weight * x, weight * y
        parts = (weight * xx, wx * y, wx, weight * yy, wy, weight)
        scatter = _sum_over_views(parts, scatter_terms)
        spread = used.sum(-2).square() - scatter.square().sum(-1)
        return spread > 2 * math.sin(MIN_RAY_ANGLE) ** 2


def _inverse_3x3(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of symmetric (..., 3, 3) by cofactors, and whether its condition is below MAX_CONDITION.

    Where it is not, the result is finite and meaningless, and so are its gradients.
    """
    scale = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
    scale = torch.where(scale > 0, scale, 1.0)[..., None, None]
    cofactors, determinant = _cofactors(matrix / scale)
    # The trace is 1, so trace(inverse) = trace(cofactors) / determinant bounds the condition number.
    spread = cofactors.diagonal(dim1=-2, dim2=-1).sum(-1)
    solvable = (determinant > 0) & (spread < MAX_CONDITION * determinant)
    determinant = torch.where(solvable, determinant, 1.0)
    return cofactors / (determinant[..., None, None] * scale), solvable


def _cofactors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Cofactors of (..., 3, 3), and its determinant."""
    cofactors = torch.linalg.cross(matrix.roll(-1, -2), matrix.roll(-2, -2), dim=-1)
    return cofactors, (matrix[..., 0, :] * cofactors[..., 0, :]).sum(-1)
