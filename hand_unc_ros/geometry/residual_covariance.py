"""Covariance of triangulated points that takes the disagreement of the views into account.

A propagated covariance is that of the noise the views claim, whatever their residuals.  Here every point has a small
Bayesian model instead, with x the published point, and r_v and J_v a view's residual and Jacobian there:

    r_v | s² ~ N(J_v δ, s² S_v)       where the view is regular,       S_v = diag(σ²) as claimed,
    r_v | s² ~ N(J_v δ, s² G_v)       where it is a gross outlier,     G_v = S_v + gross_v² I,
    P(outlier) = OUTLIER_SHARE,
    s² ~ InverseGamma with mean 1     (SCALE_DOF: twice its shape parameter, less 2),          p(δ) ∝ 1.

Every hypothesis h, one choice of outliers, is linear and conjugate.  With W_v = S_v⁻¹ or G_v⁻¹, V views and
d = 2V − 3:

    N = Σ J_vᵀ W_v J_v,  δ = N⁻¹ Σ J_vᵀ W_v r_v,  q = Σ r_vᵀ W_v r_v − δᵀ N δ
    P(h | r) ∝ P(h) Π |W_v|^½ |N|^-½ (1 + q / a)^(-(a + 2 + d) / 2)         a = SCALE_DOF
    E[s² | h, r] = (a + q) / (a + d)

and the covariance is the second moment of the error of x, Σ_h P(h | r) (E[s²] N⁻¹ + δ δᵀ): what a Student-t posterior
has for covariance, summed over the hypotheses.  With two views d is 1: only the residual across the epipolar line says
anything.  Residuals of gross outliers do not widen a point on which the other views agree; such a point only loses
their information.

Two departures keep the covariance of regular points as it was propagated.  The scale never falls, and rises only
beyond the quantile c of χ²_d that regular noise leaves (CONTRADICTED): (a + max(q, c)) / (a + c) in place of E[s²].
Agreement is no proof of precision, since errors that all views share leave no residual.  And the shift between x and
the least-squares point counts only beyond what a robust x has under regular noise (ROBUST_SHIFT).

References: Gelman et al., Bayesian Data Analysis, 3rd ed., 2013, 14.2 (conjugate regression); Box & Tiao, A Bayesian
approach to some outlier problems, Biometrika 55, 1968 (hypotheses of outliers).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from hand_unc_ros.geometry.gaussians import chi2_quantile, square_roots

# Prior strength of s² = 1, in residuals.  The smaller, the sooner a moderate disagreement widens the covariance, and
# the more regular points widen: NEES of clean views falls by 1 to 2 % at this value.
SCALE_DOF = 25.0
# The scale rises where the residuals are beyond this quantile of the claimed noise.
CONTRADICTED = 0.9
# Squared Mahalanobis distance between a robust point and the least-squares one that regular noise gives: 5 % of χ²₃'s
# quantile of 90 %, for the Cauchy scale of geometry.triangulation.
ROBUST_SHIFT = 0.3
# Prior probability that a view's joint is a gross outlier.  Far below the share that occurs: with two views an outlier
# along the epipolar line cannot be seen, and a larger prior would widen the covariance of every point for it.
OUTLIER_SHARE = 2e-4
# The number of hypotheses grows with this power of the number of views. At a share of 3 %, three outliers of one joint
# occur in 0.2 % of joints with eight views.
MOST_OUTLIERS = 2


class ResidualCovariance(NamedTuple):
    """covariance: (N, 3, 3) m², of the published points.  inflation: (N, 3, 3) T, with T Σ Tᵀ that covariance where Σ
    is the propagated one.  outlying: (V, N) probability that a view is a gross outlier.  NaN where Σ is; outlying is 0
    for views that are not used."""

    covariance: np.ndarray
    inflation: np.ndarray
    outlying: np.ndarray


def residual_covariance(
    propagated: np.ndarray, residual_px: np.ndarray, jacobian: np.ndarray, variance_px2: np.ndarray,
    gross_px: np.ndarray, used: np.ndarray, *, scale_dof: float = SCALE_DOF, outlier_share: float = OUTLIER_SHARE,
) -> ResidualCovariance:
    """The covariance of points, given how far the views are from them.

    propagated: (N, 3, 3) m², the covariance of the noise that the views claim, NaN where a point is unknown.
    residual_px: (V, N, 2), observed minus projected.  jacobian: (V, N, 2, 3) ∂px/∂X, px/m.  variance_px2: (V, N, 2).
    gross_px: (V,) standard deviation per axis of a gross outlier, e.g. the crop's side / √12.  used: (V, N) bool.
    scale_dof and outlier_share: see the module.  Raises ValueError for values outside of their range.
    """
    if scale_dof <= 0 or not 0 <= outlier_share < 0.5:
        raise ValueError(f'scale_dof {scale_dof} must be positive and outlier_share {outlier_share} in [0, 0.5)')
    root, inverse_root, known = square_roots(propagated)
    used = used & known & np.isfinite(residual_px).all(-1) & np.isfinite(jacobian).all((-2, -1))
    used = used & (np.isfinite(variance_px2) & (variance_px2 > 0)).all(-1)
    enough = used.sum(0) > 1
    used = used & enough
    information, outside = _informations(variance_px2, gross_px, used)
    # In units of the propagated σ all information matrices are near the identity, however narrow the baseline.
    rows = np.where(used[..., None, None], jacobian, 0.0) @ root
    residual = np.where(used[..., None], residual_px, 0.0)
    outliers = _hypotheses(len(used), MOST_OUTLIERS if outlier_share > 0 else 0)
    regular = ~outliers
    terms = regular @ _terms(rows, residual, information) + outliers @ _terms(rows, residual, outside)
    normal, gradient, square, log_weights = _unpacked(terms, used.shape[1])
    normal[:, ~enough] = np.eye(3)
    sign, log_determinant = np.linalg.slogdet(normal)
    singular = ~np.isfinite(log_determinant) | (sign <= 0)
    # Where the views' claims differ beyond rounding, residuals cannot be weighed: the propagated covariance stays.
    normal[singular], log_determinant[singular] = np.eye(3), -np.inf
    weighable = ~singular.any(0)
    spread = np.linalg.inv(normal)
    spread = (spread + spread.swapaxes(-1, -2)) / 2
    shift = (spread @ gradient[..., None])[..., 0]
    distance2 = (shift * gradient).sum(-1)
    square = np.maximum(square - distance2, 0.0)
    dof = 2.0 * used.sum(0) - 3.0
    count = (outliers[:, :, None] & used).sum(1)
    odds = np.log(outlier_share / (1 - outlier_share)) if outlier_share else 0.0
    evidence = (count * odds + (log_weights - np.where(singular, 0.0, log_determinant)) / 2
                - (scale_dof + 2 + dof) / 2 * np.log1p(square / scale_dof))
    # A hypothesis about a view that is not there repeats another one; one view alone must remain.
    possible = (count == outliers.sum(1)[:, None]) & ((count < used.sum(0)) | (count == 0))
    evidence = np.where(possible, evidence, -np.inf)
    weight = np.exp(evidence - evidence.max(0))
    weight /= weight.sum(0)
    expected = np.array([chi2_quantile(CONTRADICTED, max(int(number), 1)) for number in dof])
    scale = (scale_dof + np.maximum(square, expected)) / (scale_dof + expected)
    # Hypothesis 0 has no outlier.
    shift[0] *= np.sqrt(1.0 - ROBUST_SHIFT / np.maximum(distance2[0], ROBUST_SHIFT))[:, None]
    moments = scale[..., None, None] * spread + shift[..., None] * shift[..., None, :]
    moments = (weight[..., None, None] * moments).sum(0)
    weighable = weighable & np.isfinite(moments).all((-2, -1))
    moments[~weighable] = np.eye(3)
    factor = root @ _root(moments)
    unknown = ~(known & enough & weighable)[:, None, None]
    covariance = factor @ factor.swapaxes(-1, -2)
    unchanged = np.where(known[:, None, None], np.eye(3), np.nan)
    return ResidualCovariance(np.where(unknown, propagated, covariance),
                              np.where(unknown, unchanged, factor @ inverse_root),
                              (outliers.T @ weight) * used)


def inflate(covariance: np.ndarray, inflation: np.ndarray) -> np.ndarray:
    """T Σ Tᵀ (3N, 3N) m² of a covariance of all points, joint-major, with T block diagonal of inflation (N, 3, 3).

    Rows and columns of a point whose inflation is NaN become NaN.
    """
    count = len(inflation)
    blocks = covariance.reshape(count, 3, count, 3).swapaxes(1, 2)
    blocks = inflation[:, None] @ blocks @ inflation[None].swapaxes(-1, -2)
    whole = blocks.swapaxes(1, 2).reshape(3 * count, 3 * count)
    return (whole + whole.T) / 2


@lru_cache(maxsize=64)
def _hypotheses(views: int, most: int) -> np.ndarray:
    """(M, V) bool, which views are outliers: none, each one, each pair … up to `most`."""
    chosen = [rows for number in range(most + 1) for rows in combinations(range(views), number)]
    table = np.zeros((len(chosen), views), bool)
    for row, members in zip(table, chosen):
        row[list(members)] = True
    return table


def _informations(variance_px2: np.ndarray, gross_px: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse variances (V, N, 2) of regular views and of gross outliers, zeros where not used."""
    variance = np.where(used[..., None], variance_px2, 1.0)
    gross = np.square(np.where(np.isfinite(gross_px), gross_px, 0.0))[:, None, None]
    return used[..., None] / variance, used[..., None] / (variance + gross)


def _terms(rows: np.ndarray, residual: np.ndarray, information: np.ndarray) -> np.ndarray:
    """What each view adds to N (9), JᵀWr (3), rᵀWr and log |W| of each point: (V, 14 N)."""
    weighted = information[..., None] * rows
    normal = (rows.swapaxes(-1, -2) @ weighted).reshape(*rows.shape[:2], 9)
    gradient = (weighted * residual[..., None]).sum(-2)
    square = (information * residual ** 2).sum(-1, keepdims=True)
    logs = np.log(np.where(information > 0, information, 1.0)).sum(-1, keepdims=True)
    return np.concatenate([normal, gradient, square, logs], -1).reshape(len(rows), -1)


def _unpacked(terms: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    terms = terms.reshape(len(terms), points, 14)
    return terms[..., :9].reshape(len(terms), points, 3, 3).copy(), terms[..., 9:12], terms[..., 12], terms[..., 13]


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]) @ vectors.swapaxes(-1, -2)
