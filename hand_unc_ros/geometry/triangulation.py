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

    points: (..., N, 3) and covariance: (..., N, 3, 3), world frame, NaN where invalid.  valid: (..., N).
    weights: (..., V, N) each view's share of the robust information (trace), sums to 1 over views; zeros
    where invalid.  mahalanobis2: (..., V, N) squared whitened reprojection error, NaN where unused.
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

    xy: (..., V, N, 2) normalised.  camera_from_world: (..., V, 3, 4).  weights: (..., V, N) ≥ 0, multiply
    both rows of their view, so the effective least-squares weight is the square (JUMP-Hand's UG-DLT with
    `gate_weights`; inverse-variance DLT with `inverse_variance_weights`); None is vanilla DLT.
    valid: (..., V, N) bool, views to use.  A view with weight 0 or NaN counts as missing.

    Each view gives two planes through its centre C: (x r₃ − r₁)·(X − C) = 0 and (y r₃ − r₂)·(X − C) = 0.
    They are solved for the finite point X by 3×3 normal equations about the mean camera centre: unlike
    the singular vector of the homogeneous system, this does not depend on the choice of world frame and
    has no gradient singularity.  For exact data both agree.
    """
    dtype = xy.dtype
    xy, used = _usable(xy, camera_from_world, valid)
    cameras = camera_from_world.double()
    if weights is None:
        weights = used.double()
    else:
        weights = weights.mT
        used = used & torch.isfinite(weights) & (weights > 0)
        weights = _unit_peak(torch.where(used, weights, 0.0).double())
    rotation, origin = cameras[..., :3], _centres(cameras).mean(-2, keepdim=True)
    # Planes about the origin: rows x P₃ − P₁ and y P₃ − P₂ of every view, with P = [R | t + R origin].
    shifted = torch.cat((rotation, cameras[..., 3:] + rotation @ origin[..., None, :].mT), -1)
    planes = xy[..., None] * shifted[..., None, :, 2:, :] - shifted[..., None, :, :2, :]
    planes = (planes * weights[..., None, None]).flatten(-3, -2)
    sums = planes[..., :3].mT @ planes
    inverse, solvable = _inverse_3x3(sums[..., :3])
    solution = origin - (inverse @ sums[..., 3:])[..., 0]
    depth = solution @ cameras[..., 2, :3].mT + cameras[..., None, :, 2, 3]
    rays = (xy[..., None, :] @ rotation[..., None, :, :2, :])[..., 0, :] + rotation[..., None, :, 2, :]
    ok = (solvable & _rays_differ(rays, used) & ((depth > MIN_DEPTH) | ~used).all(-1)
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

    points: (..., N, 3) world, from `triangulate_dlt`.  xy: (..., V, N, 2) and xy_covariance:
    (..., V, N, 2, 2) normalised.  camera_from_world: (..., V, 3, 4).  valid: (..., V, N) bool.
    robust: 'cauchy' for cost (c²/2) log(1 + e²/c²) of each view's Mahalanobis distance e, with
    c = robust_scale, or 'none' for e²/2.

    Gauss-Newton with Levenberg damping, iteratively reweighted; a step is kept where it lowers the
    point's cost and leaves the point in front of every used camera, so the cost never rises.  The
    covariance is (Σₙ Jₙᵀ Sₙ⁻¹ Jₙ)⁻¹ at the solution, without the robust weights: it is that of the
    Gaussian noise the input claims.  Differentiable through the iterations.
    """
    if robust not in ('cauchy', 'none'):
        raise ValueError(f"robust is '{robust}'; use 'cauchy' or 'none'")
    scale2 = robust_scale ** 2 if robust == 'cauchy' else math.inf
    dtype = points.dtype
    problem = _Reprojection.build(xy, xy_covariance, camera_from_world, valid)
    known = torch.isfinite(points).all(-1)
    current = torch.where(known[..., None], points, 0.0).double()
    at = problem.evaluate(current, scale2)
    damping = torch.full_like(at.cost, 1e-4)
    diagonal = torch.eye(3, dtype=torch.float64, device=points.device)
    for _ in range(iterations):
        sums = at.sums(at.rows / (1 + at.distance2 / scale2)[..., None, None])
        normal = sums[..., :3]
        cofactors, determinant = _cofactors(normal + diagonal * (damping[..., None, None] * normal))
        step = (cofactors @ sums[..., 3:])[..., 0] / torch.where(determinant > 0, determinant, 1.0)[..., None]
        candidate = problem.evaluate(current - step, scale2)
        better = candidate.cost <= at.cost
        current = torch.where(better[..., None], current - step, current)
        at = _Evaluation(torch.where(better[..., None, None, None], candidate.rows, at.rows),
                         torch.where(better[..., None], candidate.distance2, at.distance2),
                         torch.where(better, candidate.cost, at.cost))
        damping = damping * torch.where(better, 0.1, 10.0)
    covariance, solvable = problem.covariance(current, at)
    ok = known & solvable
    share = at.rows[..., :3].square().sum((-2, -1)) / (1 + at.distance2 / scale2)
    total = share.sum(-1, keepdim=True)
    share = share / torch.where(total > 0, total, 1.0)
    observed = ok[..., None] & problem.used
    return Refined(
        torch.where(ok[..., None], current, math.nan).to(dtype),
        torch.where(ok[..., None, None], covariance, math.nan).to(dtype),
        ok,
        torch.where(observed, share, 0.0).mT.to(dtype),
        torch.where(observed, at.distance2, math.nan).mT.to(dtype),
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
    covariance, solvable = problem.covariance(current, problem.evaluate(current, math.inf))
    ok = known & solvable
    return torch.where(ok[..., None, None], covariance, math.nan).to(points.dtype)


class _Evaluation(NamedTuple):
    """rows: (..., N, V, 2, 4), whitened Jacobian J and residual r.  distance2: (..., N, V) squared Mahalanobis.
    cost: (..., N), infinite where a used camera has the point behind it."""

    rows: Tensor
    distance2: Tensor
    cost: Tensor

    def sums(self, weighted: Tensor) -> Tensor:
        """Normal matrix JᵀwJ and gradient Jᵀwr (..., N, 3, 4) from the rows times their robust weights w."""
        return self.rows[..., :3].flatten(-3, -2).mT @ weighted.flatten(-3, -2)


class _Reprojection(NamedTuple):
    """A batch of reprojection problems in float64, points before views: a point's views are the rows of one product.

    With S⁻¹ = LᵀL, the residual L(px − xy) is of unit variance, and the rows L P₁₂ of a camera P = [R | t] project
    whitened at once.
    """

    cameras: Tensor  # (..., V, 3, 4)
    used: Tensor  # (..., N, V)
    whitened: Tensor  # (..., N, V, 2, 4): L P₁₂, zeros where unused
    observed: Tensor  # (..., N, V, 2): L xy, zeros where unused

    @staticmethod
    def build(
        xy: Tensor, covariance: Tensor, camera_from_world: Tensor, valid: Tensor | None,
    ) -> _Reprojection:
        xy, used = _usable(xy, camera_from_world, valid)
        covariance = covariance.double().transpose(-4, -3)
        a, b, d = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
        determinant = a * d - b * b
        used = used & (a > 0) & (determinant > 0) & torch.isfinite(a) & torch.isfinite(d)
        a, determinant = torch.where(used, a, 1.0), torch.where(used, determinant, 1.0)
        # L is the inverse of Cholesky's factor of S.
        first, second = a.rsqrt(), (a / determinant).sqrt()
        whitening = torch.stack((first, torch.zeros_like(a), -torch.where(used, b, 0.0) / a * second, second), -1)
        whitening = torch.where(used[..., None], whitening, 0.0).unflatten(-1, (2, 2))
        cameras = camera_from_world.double()
        return _Reprojection(cameras, used, whitening @ cameras[..., None, :, :2, :],
                             (whitening @ xy[..., None])[..., 0])

    def evaluate(self, points: Tensor, scale2: float) -> _Evaluation:
        """Linearise at points (..., N, 3).  scale2: squared Cauchy scale of the cost, infinite for none."""
        axes = self.cameras[..., 2, :]
        depth = points @ axes[..., :3].mT + axes[..., None, :, 3]
        front = depth > MIN_DEPTH
        inverse_depth = torch.where(front, depth, 1.0).reciprocal()[..., None]
        image = self.whitened.flatten(-3, -2)
        image = (image[..., :3] @ points[..., None])[..., 0] + image[..., 3]
        image = image.unflatten(-1, (-1, 2)) * inverse_depth
        residual = image - self.observed
        jacobian = self.whitened[..., :3] - image[..., None] * axes[..., None, :, None, :3]
        rows = torch.cat((jacobian * inverse_depth[..., None], residual[..., None]), -1)
        distance2 = residual.square().sum(-1)
        cost = distance2.sum(-1) if math.isinf(scale2) else scale2 * torch.log1p(distance2 / scale2).sum(-1)
        return _Evaluation(rows, distance2, torch.where((front | ~self.used).all(-1), cost, math.inf))

    def covariance(self, points: Tensor, at: _Evaluation) -> tuple[Tensor, Tensor]:
        """Inverse information (..., N, 3, 3) of an evaluation at points without robust weights, and whether the views
        determine the point (..., N)."""
        covariance, solvable = _inverse_3x3(at.sums(at.rows)[..., :3])
        rays = points[..., None, :] - _centres(self.cameras)[..., None, :, :]
        return covariance, solvable & _rays_differ(rays, self.used) & torch.isfinite(at.cost)


def _usable(xy: Tensor, camera_from_world: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """xy (..., V, N, 2) as (..., N, V, 2) in float64 with zeros where unused, and which are used (..., N, V)."""
    views = xy.shape[-3]
    if camera_from_world.shape[-3:] != (views, 3, 4):
        raise ValueError(f'camera_from_world is {tuple(camera_from_world.shape)}; '
                         f'xy {tuple(xy.shape)} needs (..., {views}, 3, 4)')
    used = torch.isfinite(xy).all(-1)
    if valid is not None:
        used = used & valid
    used = used.mT
    return torch.where(used[..., None], xy.transpose(-3, -2), 0.0).double(), used


def _centres(cameras: Tensor) -> Tensor:
    """Centres of projection (..., V, 3) of camera_from_world (..., V, 3, 4)."""
    return -(cameras[..., :3] * cameras[..., 3:]).sum(-2)


def _unit_peak(weights: Tensor) -> Tensor:
    """Scale weights (..., N, V) to a peak of 1 over views, which changes no solution."""
    peak = weights.amax(-1, keepdim=True)
    return weights / torch.where(peak > 0, peak, 1.0)


def _rays_differ(rays: Tensor, used: Tensor) -> Tensor:
    """Whether the used rays (..., N, V, 3), of any length, fix a depth -> (..., N).

    Sum over pairs of sin² of their angle, from Σᵢⱼ cos²θᵢⱼ = ‖Σᵢ dᵢdᵢᵀ‖²; for two rays the threshold is
    MIN_RAY_ANGLE exactly.  Opposite rays count as parallel: the point is somewhere between the cameras.
    """
    with torch.no_grad():
        unit = rays * torch.where(used, rays.square().sum(-1).rsqrt(), 0.0)[..., None]
        scatter = unit.mT @ unit
        spread = used.sum(-1).square() - scatter.square().sum((-2, -1))
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
