"""Lens distortion on normalised image coordinates, and its inverse.

Models carry ROS's names (sensor_msgs/CameraInfo) and OpenCV's coefficient order:
plumb_bob k1 k2 p1 p2 k3; rational_polynomial k1 k2 p1 p2 k3 k4 k5 k6; equidistant k1 k2 k3 k4.
Every model here is the gradient of a potential, so its 2×2 Jacobian is symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.lens_names import DISTORTION_MODELS

# A point counts as undistorted when distorting it again lands this near (normalised units: at a
# focal length of 600 px, 1e-6 is 0.0006 px).
ROUND_TRIP_TOLERANCE = 1e-6
_NEWTON_ITERATIONS = 12
_CONVERGED = 1e-14
# Below this squared radius the equidistant model uses its series; both branches are then good to 1e-10.
_SMALL_RADIUS2 = 1e-5
_FAR_RADIUS = 1e8


class _Distorted(NamedTuple):
    """Distorted coordinates and the symmetric Jacobian d(xd, yd)/d(x, y), as separate components."""

    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor


def distort(xy: Tensor, model: str, D: Tensor) -> Tensor:
    """Apply lens distortion.

    xy: (..., 2) normalised coordinates.  D: (..., n) coefficients that broadcast over xy's batch,
    n as in DISTORTION_MODELS.  Returns (..., 2).  Differentiable in xy and D.
    Raises CalibrationError for an unknown model or a wrong number of coefficients.
    """
    k = coefficients(model, D)
    result = distort_components(xy[..., 0], xy[..., 1], model, k)
    return torch.stack((result.x, result.y), -1)


def undistort(xy: Tensor, model: str, D: Tensor) -> Tensor:
    """Invert `distort` by Newton's method.

    xy: (..., 2) distorted normalised coordinates.  D: (..., n), broadcasting over xy's batch.
    Returns (..., 2); NaN where there is no preimage inside the radius at which the model folds back.
    Differentiable in xy and D (implicit function theorem, first order).
    """
    k = coefficients(model, D)
    limit = folding_radius(model, D).to(xy.device)
    x, y, _ = undistort_components(xy[..., 0], xy[..., 1], model, k, limit)
    return torch.stack((x, y), -1)


def coefficients(model: str, D: Tensor) -> tuple[Tensor, ...]:
    """Check `model` and `D` and split D (..., n) into n tensors (...)."""
    if model not in DISTORTION_MODELS:
        raise CalibrationError(
            f"unknown distortion model '{model}'; use one of {', '.join(DISTORTION_MODELS)}")
    if model == 'none':
        return ()
    count = DISTORTION_MODELS[model]
    if D.shape[-1] != count:
        raise CalibrationError(
            f"distortion model '{model}' takes {count} coefficients, got {D.shape[-1]}")
    return D.unbind(-1)


def folding_radius(model: str, D: Tensor) -> Tensor:
    """Radius in undistorted normalised coordinates up to which the radial part is one-to-one.

    D: (..., n).  Returns (...) float64, `_FAR_RADIUS` where the model never folds.  Beyond that radius
    different scene points share a pixel, so neither projection nor undistortion means anything.
    """
    if model == 'none':
        return torch.full(D.shape[:-1], _FAR_RADIUS, dtype=torch.float64)
    rows = D.detach().cpu().double().reshape(-1, D.shape[-1]).tolist()
    limits = [_folding_radius_one(model, *row) for row in rows]
    return torch.tensor(limits, dtype=torch.float64).reshape(D.shape[:-1])


@lru_cache(maxsize=1024)
def _folding_radius_one(model: str, *D: float) -> float:
    if model == 'equidistant':
        # d(theta_d)/d(theta) as a polynomial in theta², highest power first.
        slope = np.array([9 * D[3], 7 * D[2], 5 * D[1], 3 * D[0], 1.0])
        theta2 = _smallest_positive_root(slope)
        return math.tan(math.sqrt(theta2)) if theta2 < (math.pi / 2) ** 2 else _FAR_RADIUS
    numerator = np.poly1d([D[4], D[1], D[0], 1.0])
    denominator = np.poly1d([D[7], D[6], D[5], 1.0] if model == 'rational_polynomial' else [1.0])
    q = np.poly1d([1.0, 0.0])
    slope = (numerator + 2 * q * numerator.deriv()) * denominator - 2 * q * numerator * denominator.deriv()
    first = min(_smallest_positive_root(slope.coeffs), _smallest_positive_root(denominator.coeffs))
    return min(math.sqrt(first), _FAR_RADIUS)


def _smallest_positive_root(polynomial: np.ndarray) -> float:
    """Of a polynomial, highest power first, whose constant term is 1. Its reciprocal polynomial is monic, so that tiny
    coefficients of high powers, which would make np.roots divide by them, do no harm."""
    inverse = np.roots(polynomial[::-1])
    real = inverse.real[(np.abs(inverse.imag) < 1e-9 * np.abs(inverse.real)) & (inverse.real > 0)]
    return 1 / float(real.max()) if real.size else math.inf


def distort_components(x: Tensor, y: Tensor, model: str, k: Sequence[Tensor]) -> _Distorted:
    """Distorted point and its Jacobian.  x, y: (...); k: coefficients broadcasting with them."""
    if model == 'none':
        one = torch.ones_like(x)
        return _Distorted(x, y, one, torch.zeros_like(x), one)
    if model == 'equidistant':
        return _equidistant(x, y, k)
    return _radial_tangential(x, y, k)


def _radial_tangential(x: Tensor, y: Tensor, k: Sequence[Tensor]) -> _Distorted:
    k1, k2, p1, p2, k3 = k[:5]
    q = torch.addcmul(x * x, y, y)
    radial = 1 + q * torch.addcmul(k1, q, torch.addcmul(k2, q, k3))
    slope = torch.addcmul(k1, q, torch.addcmul(2 * k2, q, 3 * k3))  # d radial / dq
    if len(k) == 8:
        k4, k5, k6 = k[5:]
        denominator = 1 + q * torch.addcmul(k4, q, torch.addcmul(k5, q, k6))
        denominator_slope = torch.addcmul(k4, q, torch.addcmul(2 * k5, q, 3 * k6))
        radial = radial / denominator
        slope = (slope - radial * denominator_slope) / denominator
    p2x, p1y = p2 * x, p1 * y
    # The tangential terms 2 p1 xy + p2 (q + 2x²) and p1 (q + 2y²) + 2 p2 xy, regrouped.
    scale = torch.add(radial, p1y + p2x, alpha=2)
    slope_x, slope_y = slope * x, slope * y
    return _Distorted(
        torch.addcmul(p2 * q, x, scale),
        torch.addcmul(p1 * q, y, scale),
        torch.add(scale, torch.add(slope_x * x, p2x, alpha=2), alpha=2),
        2 * (torch.addcmul(p1 * x, y, p2) + slope_x * y),
        torch.add(scale, torch.add(slope_y * y, p1y, alpha=2), alpha=2),
    )


def _equidistant(x: Tensor, y: Tensor, k: Sequence[Tensor]) -> _Distorted:
    k1, k2, k3, k4 = k
    q = x * x + y * y
    small = q < _SMALL_RADIUS2
    # Both branches see harmless numbers, so gradients stay finite at the image centre.
    q_far = torch.where(small, torch.ones_like(q), q)
    q_near = torch.where(small, q, torch.zeros_like(q))
    radius = q_far.sqrt()
    theta = radius.atan()
    t = theta * theta
    theta_d = theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4))))
    theta_slope = 1 + t * (3 * k1 + t * (5 * k2 + t * (7 * k3 + t * 9 * k4)))
    scale = theta_d / radius
    bend = (theta_slope / (1 + q_far) - scale) / q_far  # (d scale / d radius) / radius
    first, second = k1 - 1 / 3, k2 - k1 + 0.2
    scale = torch.where(small, 1 + q_near * (first + q_near * second), scale)
    bend = torch.where(small, 2 * (first + 2 * q_near * second), bend)
    return _Distorted(scale * x, scale * y, scale + bend * x * x, bend * x * y, scale + bend * y * y)


def undistort_components(
    x: Tensor, y: Tensor, model: str, k: Sequence[Tensor], limit: Tensor,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Undistorted point and the Jacobian of the undistortion.

    x, y: (...) distorted.  limit: folding radius, broadcasting with them.
    Returns x, y and the components (xx, xy, yy) of d(undistorted)/d(distorted); NaN where it fails.
    """
    if model == 'none':
        finite = torch.isfinite(x) & torch.isfinite(y)
        nan = torch.full_like(x, math.nan)
        one = torch.where(finite, torch.ones_like(x), nan)
        return (torch.where(finite, x, nan), torch.where(finite, y, nan),
                (one, torch.where(finite, torch.zeros_like(x), nan), one))
    finite = torch.isfinite(x) & torch.isfinite(y)
    x_in = torch.where(finite, x, torch.zeros_like(x))
    y_in = torch.where(finite, y, torch.zeros_like(y))
    with torch.no_grad():
        u, v = (_equidistant_start(x_in, y_in, k) if model == 'equidistant' else (x_in.clone(), y_in.clone()))
        for iteration in range(_NEWTON_ITERATIONS + 1):
            at = distort_components(u, v, model, k)
            ex, ey = at.x - x_in, at.y - y_in
            error = torch.maximum(ex.abs(), ey.abs())
            if iteration == _NEWTON_ITERATIONS or not bool((error > _CONVERGED).any()):
                break
            xx, xy, yy = _inverse_symmetric(at)
            u, v = u - (xx * ex + xy * ey), v - (xy * ex + yy * ey)
        determinant = at.xx * at.yy - at.xy * at.xy
        ok = finite & (error < ROUND_TRIP_TOLERANCE) & (determinant > 0) & (u * u + v * v < limit * limit)
        u, v = torch.where(ok, u, torch.zeros_like(u)), torch.where(ok, v, torch.zeros_like(v))
    inverse = _inverse_symmetric(at, ok)
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad or any(c.requires_grad for c in k)):
        # One Newton step that moves nothing (the root is reached) carries the implicit derivative.
        at = distort_components(u, v, model, k)
        ex, ey = at.x - x_in, at.y - y_in
        xx, xy, yy = (component.detach() for component in inverse)
        u, v = u - torch.where(ok, xx * ex + xy * ey, 0.0), v - torch.where(ok, xy * ex + yy * ey, 0.0)
        inverse = _inverse_symmetric(distort_components(u, v, model, k), ok)
    nan = torch.full_like(u, math.nan)
    return (torch.where(ok, u, nan), torch.where(ok, v, nan),
            tuple(torch.where(ok, component, nan) for component in inverse))


def _inverse_symmetric(at: _Distorted, ok: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    determinant = at.xx * at.yy - at.xy * at.xy
    if ok is not None:
        determinant = torch.where(ok, determinant, torch.ones_like(determinant))
    return at.yy / determinant, -at.xy / determinant, at.xx / determinant


def _equidistant_start(x: Tensor, y: Tensor, k: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Solve theta_d(theta) = distorted radius in one dimension; tan() makes 2D Newton from x slow."""
    k1, k2, k3, k4 = k
    radius = torch.sqrt(x * x + y * y)
    theta = radius
    for _ in range(6):
        t = theta * theta
        value = theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4))))
        slope = 1 + t * (3 * k1 + t * (5 * k2 + t * (7 * k3 + t * 9 * k4)))
        theta = (theta - (value - radius) / slope).clamp(0.0, math.pi / 2 - 1e-6)
    scale = torch.where(radius > 1e-8, theta.tan() / radius.clamp_min(1e-8), torch.ones_like(radius))
    return scale * x, scale * y
