"""Triangulations that differ in how they weight the views, behind one function."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hand_unc_ros.geometry.triangulation import inverse_variance_weights, refine_reprojection, triangulate_dlt

# 'refined' is Gauss-Newton on the reprojection error, robust and weighted by 1/σ², the package's default. The others
# are linear, JUMP-Hand's comparison (supplement, Table 2); 'ug_dlt' and 'learnable' take weights.
TRIANGULATIONS = ('refined', 'inverse_variance', 'ug_dlt', 'vanilla', 'learnable')


class Observations(NamedTuple):
    """xy: (..., V, N, 2) and covariance: (..., V, N, 2, 2), normalised.  camera_from_world: (..., V, 3, 4).
    valid: (..., V, N) bool."""

    xy: Tensor
    covariance: Tensor
    camera_from_world: Tensor
    valid: Tensor


class Weighted(NamedTuple):
    """points: (..., N, 3) world frame, NaN where invalid.  valid: (..., N) bool.  weights: (..., V, N) of the views.
    covariance: (..., N, 3, 3) of 'refined', None for the others."""

    points: Tensor
    valid: Tensor
    weights: Tensor
    covariance: Tensor | None = None


def triangulate(method: str, observed: Observations, weights: Tensor | None = None, *, iterations: int = 5,
                unweighted_spare: bool = True) -> Weighted:
    """Points by one of TRIANGULATIONS.

    weights: (..., V, N) ≥ 0, of the rows, for 'ug_dlt' and 'learnable'.  iterations: of 'refined'.
    unweighted_spare: take the unweighted point where inverse-variance weights determine none.
    Raises ValueError for an unknown method.
    """
    xy, covariance, cameras, valid = observed
    if method == 'vanilla':
        return Weighted(*triangulate_dlt(xy, cameras, None, valid), valid.to(xy.dtype))
    if method in ('ug_dlt', 'learnable'):
        return Weighted(*triangulate_dlt(xy, cameras, weights, valid), weights)
    if method not in ('inverse_variance', 'refined'):
        raise ValueError(f'triangulation {method!r} is unknown; use one of {", ".join(TRIANGULATIONS)}')
    with torch.no_grad():
        first = triangulate_dlt(xy, cameras, None, valid)
    weights = inverse_variance_weights(first.points, covariance, cameras, valid)
    points, known = triangulate_dlt(xy, cameras, weights, valid)
    if unweighted_spare:
        points, known = torch.where(known[..., None], points, first.points), known | first.valid
    if method == 'inverse_variance':
        return Weighted(points, known, weights)
    refined = refine_reprojection(points, xy, covariance, cameras, valid, iterations)
    return Weighted(refined.points, refined.valid, refined.weights, refined.covariance)
