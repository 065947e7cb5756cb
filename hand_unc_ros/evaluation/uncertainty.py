"""How good a predicted covariance is: its order, its size, its correlations, and proper scores of all three.

errors: (N, 21, 3) metres, estimate − truth.  covariances: (N, 63, 63) m², joint-major (x0 y0 z0 x1 …).  NumPy, float64
inside.  A joint whose error or 3×3 block has a non-finite entry is missing: it is left out, and so is, where a number
needs it, a covariance that is not positive definite.  Where nothing is left the answer is NaN, never an exception.

- Order (sparsification): does the error fall when what is called uncertain goes?  AUSC and AUSE after Correlation-aware
  aleatoric uncertainty, Section 4.1; `ause_stereo` is the other number of that name, of the stereo community.
- Size: normalised estimation error squared (NEES), 1 per degree of freedom, and the share of errors inside the 50 …
  99 % ellipsoids, of joints (3 degrees of freedom) and of hands (3 for every joint that is known).
- Proper scores: no other prediction than the true distribution has a better expectation (Gneiting and Raftery, Strictly
  proper scoring rules, prediction, and estimation, 2007).  Lower is better.

Errors of neighbouring frames are correlated: a mean over them is less sure than its number of joints says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.integrate import simpson, trapezoid
from scipy.special import chdtr

from hand_unc_ros.evaluation.metrics import finite_mean, pearson
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import JOINT_COUNT

LEVELS = (0.50, 0.68, 0.90, 0.95, 0.99)
KEPT_PERCENT = np.arange(2, 101, 2)
STEREO_INTERVALS = 50
# Probabilities of a reliability diagram.
NOMINAL = np.arange(1, 100) / 100
# Nodes ln(s √S) of the integral in `expected_distance`; what lies beyond them is below 1e-9 of the result.
_NODE_STEP = 0.25
_NODES = np.arange(-7.0, 11.0, _NODE_STEP)
# Covariances of hands are taken in portions that fit into a cache.
_PORTION = 256


def summary(errors: np.ndarray, covariances: np.ndarray) -> dict[str, Any]:
    """The numbers of a table: lengths in mm, joints pooled over all hands.  Keys:

    ausc, ause: mm·%, the paper's.  ause_stereo: mm.  pearson_3d: of trace and error, the paper's; pearson_3d_sigma: of
    the trace's root and error.  nees_per_dof, nees_63_per_dof: of joints and of hands, ideally 1.  coverage,
    coverage_63: share within the ellipsoid of joints and of hands for every level, keys '50' … '99'.
    calibration_error: mean distance of the reliability diagram from its diagonal, of joints.  energy_score_mm: of
    joints.  nll: nats per joint, of a density per mm³.  nll_63_per_dof: nats per coordinate, of a density per mm.
    sharpness_mm: mean radius of the sphere that is as large as a joint's one-sigma ellipsoid.  rmse_mm and
    predicted_rmse_mm: √ of the mean squared 3D error, and of the mean trace.  points: that have both.  judged_points,
    judged_hands: that NEES and NLL are of; undefined_points: with an error, but without a positive definite covariance.

    Raises ValueError for other shapes.
    """
    errors, covariances = np.asarray(errors, np.float64), np.asarray(covariances)
    count, coordinates = len(errors), 3 * JOINT_COUNT
    if errors.shape != (count, JOINT_COUNT, 3) or covariances.shape != (count, coordinates, coordinates):
        raise ValueError(f'errors {errors.shape} and covariances {covariances.shape} must be (N, {JOINT_COUNT}, 3) and '
                         f'(N, {coordinates}, {coordinates})')
    blocks = joint_blocks(covariances).astype(np.float64)
    length, trace = np.linalg.norm(errors, axis=-1), np.trace(blocks, axis1=-2, axis2=-1)
    distance2, log_det = joint_distances(errors, blocks)
    judged = np.isfinite(distance2)
    hands = hand_distances(errors, covariances)
    known_hands = np.isfinite(hands.squared)
    dof = hands.dof[known_hands].sum()
    both = np.isfinite(length) & np.isfinite(trace)
    curve = sparsification(length, trace)
    confidences = confidence(distance2)
    return {
        'ausc': curve.ausc, 'ause': curve.ause, 'ause_stereo': ause_stereo(length, trace),
        'pearson_3d': pearson(trace, length),
        'pearson_3d_sigma': pearson(np.sqrt(np.maximum(trace, 0.0)), length),
        'nees_per_dof': finite_mean(distance2) / 3,
        'nees_63_per_dof': float(hands.squared[known_hands].sum() / dof) if dof else float('nan'),
        'coverage': coverage(confidences),
        'coverage_63': coverage(confidence(hands.squared, hands.dof)),
        'calibration_error': calibration_error(confidences),
        'energy_score_mm': 1e3 * finite_mean(energy_score(errors, blocks)),
        'nll': finite_mean(negative_log_likelihood(distance2, log_det, 3)),
        'nll_63_per_dof': float(negative_log_likelihood(*hands)[known_hands].sum() / dof) if dof else float('nan'),
        'sharpness_mm': 1e3 * finite_mean(np.exp(np.where(judged, log_det, np.nan) / 6)),
        'rmse_mm': 1e3 * finite_mean(np.where(both, length, np.nan) ** 2) ** 0.5,
        'predicted_rmse_mm': 1e3 * finite_mean(np.where(both, np.maximum(trace, 0.0), np.nan)) ** 0.5,
        'points': int(both.sum()), 'judged_points': int(judged.sum()), 'judged_hands': int(known_hands.sum()),
        'undefined_points': int((np.isfinite(length) & ~judged).sum()),
    }


# Order

class Sparsification(NamedTuple):
    """Mean error of the most certain `kept_percent` (50,) of all points, mm: chosen by the uncertainty, and by the
    error itself."""

    kept_percent: np.ndarray
    curve_mm: np.ndarray
    oracle_mm: np.ndarray

    @property
    def ausc(self) -> float:
        """Area under the curve by Simpson's rule, mm·%, from 2 % to 100 %."""
        return float(simpson(self.curve_mm, x=self.kept_percent))

    @property
    def ause(self) -> float:
        """Area between curve and oracle, mm·%; 0 for a perfect order."""
        return float(simpson(self.curve_mm - self.oracle_mm, x=self.kept_percent))


def sparsification(errors: np.ndarray, uncertainty: np.ndarray) -> Sparsification:
    """The paper's curves: errors, metres, and uncertainty of one shape, pooled over all entries where both are finite.

    Only the order of the uncertainty matters; the paper's is the trace of the 3×3 block.  Of n points, n·p/100 are
    kept, rounded down, at least one.  Equally uncertain points share their mean error, so that the order in which they
    are given has no influence.
    """
    known = np.isfinite(errors) & np.isfinite(uncertainty)
    length = 1e3 * np.asarray(errors, np.float64)[known]
    if not len(length):
        nothing = np.full(len(KEPT_PERCENT), np.nan)
        return Sparsification(KEPT_PERCENT, nothing, nothing)
    _, rank, tied = np.unique(np.asarray(uncertainty)[known], return_inverse=True, return_counts=True)
    curve = np.repeat(np.bincount(rank, length) / tied, tied)
    kept = np.maximum(KEPT_PERCENT * len(length) // 100, 1)
    return Sparsification(KEPT_PERCENT, *(np.cumsum(values)[kept - 1] / kept for values in (curve, np.sort(length))))


def ause_stereo(errors: np.ndarray, uncertainty: np.ndarray) -> float:
    """Area between curve and oracle as for depth images, mm, mean over samples; errors (N, P), metres.

    The share that is removed runs from 0 to 1 in 50 intervals, what goes at each is cut off at a percentile of the
    sample, the end of both curves is 0, trapezoids; curves are not divided by the error of the whole (Ilg et al.,
    Uncertainty estimates and multi-hypotheses networks for optical flow, 2018, without their normalisation; as Poggi et
    al., On the uncertainty of self-supervised monocular depth estimation, 2020).  Samples with fewer than two points
    are left out.
    """
    errors, uncertainty = np.asarray(errors, np.float64), np.asarray(uncertainty, np.float64)
    known = np.isfinite(errors) & np.isfinite(uncertainty)
    enough = known.sum(-1) > 1
    if not enough.any():
        return float('nan')
    errors, uncertainty, known = errors[enough], uncertainty[enough], known[enough]
    length, count = np.where(known, errors, 0.0), known.sum(-1)
    areas = [trapezoid(_remaining_error(length, np.where(known, by, np.inf), count), dx=1 / STEREO_INTERVALS)
             for by in (uncertainty, errors)]
    return 1e3 * float((areas[0] - areas[1]).mean())


def _remaining_error(length: np.ndarray, by: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(N, 51) mean of length (N, P) over what remains when 0, 1/50 … of the largest `by` are removed; 0 at the end.

    The first count (N,) in the order of `by` are known; the others have the length 0.
    """
    order = np.argsort(by, axis=-1)
    by, total = np.take_along_axis(by, order, -1), np.cumsum(np.take_along_axis(length, order, -1), -1)
    # The percentile lies between two points of the sample: what is not below it, counted from the uncertain end.
    cut = -(-np.arange(STEREO_INTERVALS) * (count[:, None] - 1) // STEREO_INTERVALS)
    last = count[:, None] - 1 - cut
    # All that are as certain as the last one stay with it.
    position = np.arange(by.shape[-1])
    ends = np.where(np.append(by[:, 1:] != by[:, :-1], np.ones((len(by), 1), bool), -1), position, by.shape[-1])
    ends = np.minimum.accumulate(ends[:, ::-1], -1)[:, ::-1]
    last = np.take_along_axis(ends, last, -1)
    curve = np.take_along_axis(total, last, -1) / (last + 1)
    return np.append(curve, np.zeros((len(curve), 1)), -1)


# Size

class HandDistances(NamedTuple):
    """squared: eᵀ Σ⁻¹ e of all known joints of a hand together, (N,).  log_det: ln det Σ, m², (N,).  dof: (N,) int,
    three for every known joint.  NaN where Σ is not positive definite or no joint is known."""

    squared: np.ndarray
    log_det: np.ndarray
    dof: np.ndarray


def joint_distances(errors: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """eᵀ Σ⁻¹ e and ln det Σ of errors (..., 3), blocks (..., 3, 3) -> (...) each; NaN where missing or not definite."""
    errors = np.where(np.isfinite(errors).all(-1)[..., None], errors, np.nan)
    distance2 = mahalanobis_squared(errors, blocks)
    definite = np.isfinite(distance2)
    log_det = np.linalg.slogdet(np.where(definite[..., None, None], blocks, np.eye(3)))[1]
    return distance2, np.where(definite, log_det, np.nan)


def hand_distances(errors: np.ndarray, covariances: np.ndarray) -> HandDistances:
    """Distances of whole hands, each by the joints that it has."""
    parts = [_hand_distances(*portion) for portion in _portions(errors, covariances)]
    return HandDistances(*(np.concatenate(part) for part in zip(*parts)))


def _hand_distances(errors: np.ndarray, covariances: np.ndarray) -> HandDistances:
    """The same, of one portion: by Cholesky, after scaling to unit variances; missing coordinates become independent
    ones with the error 0, which add nothing to either number."""
    known = _known_coordinates(errors, covariances)
    variance = np.diagonal(covariances, axis1=-2, axis2=-1)
    scale = np.sqrt(np.where(known & (variance > 0), variance, 1.0))
    scaled = np.where(known[:, :, None] & known[:, None, :], covariances / (scale[:, :, None] * scale[:, None, :]),
                      np.eye(known.shape[-1]))
    finite = np.isfinite(scaled).all((-2, -1))
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(np.where(finite[:, None, None], scaled, 0.0)))
    identity = torch.eye(known.shape[-1], dtype=factor.dtype)
    factor = torch.where(failed[:, None, None] > 0, identity, factor)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False).numpy()
    white = inverse @ np.where(known, errors.reshape(known.shape) / scale, 0.0)[..., None]
    pivots = factor.diagonal(dim1=-2, dim2=-1).numpy()
    # At most the smallest eigenvalue, which is no more than rounding below this; the pivots may not show it.
    smallest = 1 / np.square(inverse).sum((-2, -1))
    definite = (failed.numpy() == 0) & (smallest > known.shape[-1] * np.finfo(np.float64).eps)
    definite &= known.any(-1)
    log_det = 2 * np.log(np.where(definite[:, None], pivots * scale, 1.0)).sum(-1)
    return HandDistances(np.where(definite, (white[..., 0] ** 2).sum(-1), np.nan),
                         np.where(definite, log_det, np.nan), known.sum(-1))


def confidence(distance2: np.ndarray, dof: np.ndarray | int = 3) -> np.ndarray:
    """How much of the predicted Gaussian is nearer than the error: the χ² distribution function of squared distances,
    any shape, same shape as dof or one number.  Uniform in [0, 1] where the covariance is right; NaN stays."""
    return chdtr(np.maximum(dof, 1), distance2)


def coverage(confidences: np.ndarray) -> dict[str, float]:
    """Share of errors inside the ellipsoid of each of LEVELS, keys '50' … '99'; of `confidence`, any shape, NaN left
    out."""
    share = _share_below(confidences, np.array(LEVELS))
    return {f'{100 * level:.0f}': float(inside) for level, inside in zip(LEVELS, share)}


def reliability(confidences: np.ndarray) -> np.ndarray:
    """Share of errors inside the ellipsoid of each of NOMINAL -> (99,), ideally NOMINAL itself; as `coverage`."""
    return _share_below(confidences, NOMINAL)


def calibration_error(confidences: np.ndarray) -> float:
    """Mean |empirical − nominal| of the reliability diagram, in [0, 0.5]: 0 is ideal."""
    return float(np.abs(reliability(confidences) - NOMINAL).mean())


def _share_below(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Share of the finite values, any shape, that are at most each limit."""
    values = np.sort(values[np.isfinite(values)])
    return np.searchsorted(values, limits, 'right') / len(values) if len(values) else np.full(len(limits), np.nan)


def nees_band(points: int, dof: int = 3, probability: float = 0.95) -> tuple[float, float]:
    """Between which the mean NEES per degree of freedom of `points` independent errors lies with this probability when
    the covariance is right.  Infinite without points."""
    if points < 1:
        return 0.0, float('inf')
    low, high = ((1 - probability) / 2, (1 + probability) / 2)
    return chi2_quantile(low, points * dof) / (points * dof), chi2_quantile(high, points * dof) / (points * dof)


class PerJoint(NamedTuple):
    """(21,) each, of the joints with error and positive definite block.  points: how many.  error_mm: mean 3D error.
    sharpness_mm: as in `summary`.  nees_per_dof, coverage95: ideally 1 and 0.95."""

    points: np.ndarray
    error_mm: np.ndarray
    sharpness_mm: np.ndarray
    nees_per_dof: np.ndarray
    coverage95: np.ndarray


def per_joint(errors: np.ndarray, covariances: np.ndarray) -> PerJoint:
    """A row for every joint."""
    errors = np.asarray(errors, np.float64)
    distance2, log_det = joint_distances(errors, joint_blocks(np.asarray(covariances)))
    judged = np.isfinite(distance2)
    inside = np.where(judged, confidence(distance2) <= 0.95, np.nan)
    length = np.where(judged, np.linalg.norm(errors, axis=-1), np.nan)
    columns = (1e3 * length, 1e3 * np.exp(log_det / 6), distance2 / 3, inside)
    return PerJoint(judged.sum(0), *(np.array([finite_mean(joint) for joint in column.T]) for column in columns))


# Proper scores

def negative_log_likelihood(distance2: np.ndarray, log_det: np.ndarray, dof: np.ndarray | int) -> np.ndarray:
    """−ln of the Gaussian density, nats, of a density per mm in each of the dof dimensions; log_det of Σ in m²."""
    return (distance2 + log_det + dof * np.log(2 * np.pi)) / 2 + dof * np.log(1e3)


def energy_score(errors: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """E‖X − y‖ − ½ E‖X − X′‖ of errors (..., d) under N(0, Σ), in their unit; Σ may be singular.

    By `expected_distance`, not sampled.  NaN where something is not finite or Σ is not positive semi-definite.
    """
    errors = np.asarray(errors, np.float64)
    matrix = np.asarray(covariances, np.float64)
    finite = np.isfinite(errors).all(-1) & np.isfinite(matrix).all((-2, -1))
    values, vectors = (part.numpy() for part in torch.linalg.eigh(torch.from_numpy(
        np.where(finite[..., None, None], matrix, 0.0))))
    semidefinite = finite & (values[..., 0] >= -1e-9 * np.abs(values[..., -1]))
    values = np.maximum(values, 0.0)
    offset = (np.where(finite[..., None], errors, 0.0)[..., None, :] @ vectors)[..., 0, :]
    score = expected_distance(offset, values) - expected_distance(0 * offset, 2 * values) / 2
    return np.where(semidefinite, score, np.nan)


def hand_energy_score(errors: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Energy score of whole hands (N,), metres, of vectors of 3·(known joints); slow, as every hand takes an
    eigendecomposition.  NaN where no joint is known.
    """
    scores = []
    for some, matrices in _portions(errors, covariances):
        known = _known_coordinates(some, matrices)
        # A coordinate that is always 0 does not count.
        score = energy_score(np.where(known, some.reshape(known.shape), 0.0),
                             np.where(known[:, :, None] & known[:, None, :], matrices, 0.0))
        scores.append(np.where(known.any(-1), score, np.nan))
    return np.concatenate(scores)


def expected_distance(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """E‖X‖ of X ~ N(mean, diag(variance)), both (..., d) -> (...), to 1e-9 of the result.

    With ‖x‖ = π^(−½) ∫ (1 − exp(−s² ‖x‖²)) / s² ds over s > 0 the expectation is one-dimensional: that of the
    exponential is Π (1 + 2 s² λ)^(−½) exp(−s² μ² / (1 + 2 s² λ)).  Subtracting the same integral for a point at the
    distance √S, S = E‖X‖², leaves one that falls off fast on both sides; the trapezoidal rule in ln s takes it.
    """
    square = np.ascontiguousarray(np.moveaxis(np.square(mean), -1, 0))
    variance = np.ascontiguousarray(np.moveaxis(np.asarray(variance, np.float64), -1, 0))
    size = (square + variance).sum(0)
    safe = np.where(size > 0, size, 1.0)
    square, variance = square / safe, 2 * variance / safe
    total = np.zeros(size.shape)
    # Where a product overflows, its reciprocal is the 0 that it should be.
    with np.errstate(over='ignore'):
        for node in _NODES:
            t = np.exp(2 * node)
            spread = 1 + t * variance
            value = np.exp(-t * (square / spread).sum(0)) / np.sqrt(spread.prod(0))
            total += (value - np.exp(-t)) * np.exp(-node)
    return np.sqrt(size) * (1 - _NODE_STEP / np.sqrt(np.pi) * total)


# Correlation

class Correlation(NamedTuple):
    """predicted and empirical, (K, K), with a unit diagonal; NaN where no hand has both."""

    predicted: np.ndarray
    empirical: np.ndarray


def joint_correlation(errors: np.ndarray, covariances: np.ndarray) -> Correlation:
    """21 × 21, of joints as a whole: tr Σ_ij / √(tr Σ_ii tr Σ_jj), which does not depend on the directions of the axes.

    predicted: mean over hands.  empirical: mean of e_i·e_j, each error divided by the predicted √tr Σ_ii of its hand,
    so that hands with large errors don't outweigh the others; about zero, so that a common offset counts as correlated.
    """
    parts = np.reshape(covariances, (-1, JOINT_COUNT, 3, JOINT_COUNT, 3))
    return _correlation(np.asarray(errors, np.float64), np.einsum('niaja->nij', parts).astype(np.float64))


def coordinate_correlation(errors: np.ndarray, covariances: np.ndarray) -> Correlation:
    """63 × 63, of single coordinates, joint-major; otherwise as `joint_correlation`."""
    errors = np.asarray(errors, np.float64)
    return _correlation(errors.reshape(len(errors), -1, 1), np.asarray(covariances, np.float64))


def _correlation(errors: np.ndarray, moments: np.ndarray) -> Correlation:
    """Of errors (N, K, D) and their predicted second moments (N, K, K)."""
    variance = np.diagonal(moments, axis1=-2, axis2=-1)
    known = np.isfinite(errors).all(-1) & np.isfinite(variance) & (variance > 0)
    # A hand without the moments between two joints that it has tells of none.
    known &= (np.isfinite(moments) | ~(known[:, :, None] & known[:, None, :])).all((-2, -1))[:, None]
    scale = np.sqrt(np.where(known, variance, 1.0))
    predicted = moments / (scale[:, :, None] * scale[:, None, :])
    predicted = np.where(known[:, :, None] & known[:, None, :], predicted, 0.0).sum(0)
    white = np.where(known[..., None], errors / scale[..., None], 0.0)
    total = np.tensordot(white, white, ((0, 2), (0, 2)))
    count = known.T.astype(np.float64) @ known
    count[count == 0] = np.nan
    total /= count
    # Errors that are all 0 correlate with nothing.
    size = np.sqrt(np.where(np.diagonal(total) > 0, np.diagonal(total), np.nan))
    return Correlation(predicted / count, total / (size[:, None] * size[None, :]))


# Parts

def _portions(errors: np.ndarray, covariances: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """errors and covariances in float64, some hundred hands at a time; one empty portion of no hands."""
    for start in range(0, max(len(errors), 1), _PORTION):
        part = slice(start, start + _PORTION)
        yield np.asarray(errors[part], np.float64), np.asarray(covariances[part], np.float64)


def _known_coordinates(errors: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """(N, 63) bool: coordinates of joints whose error and 3×3 block are finite."""
    known = np.isfinite(errors).all(-1) & np.isfinite(joint_blocks(covariances)).all((-2, -1))
    return np.repeat(known, 3, axis=-1)
