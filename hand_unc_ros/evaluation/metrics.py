"""Errors of joints, meshes and 2D estimates, in the conventions of the public evaluators.  NumPy, float64 inside.

points, target: (N, P, 3) metres, N samples of P joints or vertices.  A point with a non-finite coordinate is missing,
in the prediction or in the truth: it gets the error NaN, is left out of every mean, and `PointScore` counts it.
Where nothing is left the answer is NaN, never an exception.

- FreiHAND (eval.py of the dataset): errors as they are and after Procrustes with scale and without a guard against
  reflections, joints and vertices each aligned by themselves; mean of the points' means; AUC of the PCK curve (≤) over
  100 thresholds from 0 to 50 mm, by trapezoids, divided by the range; F-scores at 5 and 15 mm (<), mean over samples.
- HO3D (eval.py of the dataset): the same, and joints after scale-translation alignment.
- POEM (its metrics): the same Procrustes and PCK; AUC of unaligned errors over 20 thresholds from 0 to 20 mm (on HO3D
  from 0 to 50 mm).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.alignment import align_root, align_scale_translation, align_similarity
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST

# What an error was taken after, in the words that are printed beside it.
ALIGNMENTS = {
    'none': 'no alignment',
    'root': 'wrists moved together',
    'scale_translation': 'wrists moved together, bone wrist to middle MCP scaled to the truth (HO3D)',
    'procrustes': 'Procrustes with rotation, translation, scale and, where it fits better, reflection (FreiHAND)',
}
F_SCORE_THRESHOLDS = (0.005, 0.015)
# A similarity has seven degrees of freedom: two points always align exactly, three are the fewest that show an error.
MIN_PROCRUSTES_POINTS = 3


class AucRange(NamedTuple):
    """maximum: largest threshold of the PCK curve, metres; the smallest is 0.  steps: number of thresholds."""

    maximum: float
    steps: int

    def __str__(self) -> str:
        return f'0–{1e3 * self.maximum:g} mm, {self.steps} thresholds'

    @property
    def thresholds(self) -> np.ndarray:
        """(steps,) metres, equally spaced, both ends included."""
        return np.linspace(0.0, self.maximum, self.steps)


FREIHAND_AUC = AucRange(0.050, 100)
POEM_AUC = AucRange(0.020, 20)
POEM_AUC_HO3D = AucRange(0.050, 20)


class PointScore(NamedTuple):
    """One line of a table: what it was measured on stands beside the number.

    mean_mm: mean error.  auc: in [0, 1] over auc_range.  samples: those with at least one error.  points: errors that
    went in.  missing_target, missing_points: left out for lack of truth, and with truth but without a prediction.
    """

    alignment: str
    mean_mm: float
    auc: float
    auc_range: AucRange
    samples: int
    points: int
    missing_target: int
    missing_points: int


def score_points(points: np.ndarray, target: np.ndarray, alignment: str = 'none',
                 auc_range: AucRange = FREIHAND_AUC) -> PointScore:
    """Mean error and AUC of points against target (N, P, 3), after one of ALIGNMENTS.

    Points that an alignment cannot place (see `align`) count as missing_points.
    """
    errors = point_errors(points, target, alignment)
    truth = np.isfinite(target).all(-1)
    known = np.isfinite(errors)
    return PointScore(alignment, 1e3 * mean_error(errors), auc(errors, auc_range), auc_range, int(known.any(-1).sum()),
                      int(known.sum()), int((~truth).sum()), int((truth & ~known).sum()))


def point_errors(points: np.ndarray, target: np.ndarray, alignment: str = 'none') -> np.ndarray:
    """Distances (N, P), metres, of the aligned points to the target; NaN where either is missing."""
    difference = align(points, target, alignment) - np.asarray(target, np.float64)
    return np.sqrt((difference ** 2).sum(-1))


def align(points: np.ndarray, target: np.ndarray, alignment: str) -> np.ndarray:
    """points (N, P, 3) moved onto target by one of ALIGNMENTS, from the points that both have; NaN where missing.

    A sample is NaN as a whole where the alignment is not defined: no wrist ('root'), no wrist or middle MCP
    ('scale_translation'; both take points in the public joint order), fewer than three common points ('procrustes').
    Where all points coincide, 'scale_translation' moves them to the target's wrist and 'procrustes' to its centroid; so
    does 'procrustes' where all of the target coincides.  Where either lies on one line, a rotation about it is open, on
    which no distance depends; the result is finite.  Raises ConfigError for another name.
    """
    points, target = np.asarray(points, np.float64), np.asarray(target, np.float64)
    if points.shape != target.shape or points.ndim != 3 or points.shape[-1] != 3:
        raise ValueError(f'points {points.shape} and target {target.shape} must both be (N, P, 3)')
    if alignment not in ALIGNMENTS:
        raise ConfigError(f'unknown alignment {alignment!r}; choose one of {", ".join(ALIGNMENTS)}')
    known = np.isfinite(points).all(-1) & np.isfinite(target).all(-1)
    points = np.where(known[..., None], points, np.nan)
    if alignment == 'none':
        return points
    if alignment == 'root':
        return align_root(points, target, WRIST)
    if alignment == 'scale_translation':
        placed = known[:, WRIST] & known[:, MIDDLE_MCP]
        aligned = align_scale_translation(points, target, WRIST, MIDDLE_MCP)
        return np.where(placed[:, None, None], aligned, np.nan)
    return _align_procrustes(points, target, known)


def _align_procrustes(points: np.ndarray, target: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Complete samples at once; the others each by the points that they have."""
    aligned = np.full_like(points, np.nan)
    whole = known.all(-1) & (known.sum(-1) >= MIN_PROCRUSTES_POINTS)
    if whole.any():
        aligned[whole] = align_similarity(points[whole], target[whole], allow_reflection=True)
    for index in np.flatnonzero(~whole & (known.sum(-1) >= MIN_PROCRUSTES_POINTS)):
        here = known[index]
        aligned[index, here] = align_similarity(points[index, here], target[index, here], allow_reflection=True)
    return aligned


def mean_error(errors: np.ndarray) -> float:
    """Mean over the P points of each point's mean over samples, of errors (N, P), same unit.

    The order matters where points are missing; it is FreiHAND's.  Points that never have an error are left out.
    """
    return _mean(_mean(errors, axis=0))


def pck(errors: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of errors (N, P) that are at most each threshold (T,) -> (T,); mean of the points' shares."""
    known = np.isfinite(errors)
    count = known.sum(0)
    seen = count > 0
    if not seen.any():
        return np.full(len(thresholds), np.nan)
    # Comparison with NaN is False.
    return np.array([((errors <= threshold).sum(0)[seen] / count[seen]).mean() for threshold in thresholds])


def auc(errors: np.ndarray, auc_range: AucRange) -> float:
    """Area under the PCK curve of errors (N, P) in metres, by trapezoids, divided by the range: in [0, 1]."""
    curve = pck(errors, auc_range.thresholds)
    return float((curve[:-1] + curve[1:]).mean() / 2)


def f_scores(points: np.ndarray, target: np.ndarray, threshold: float) -> np.ndarray:
    """F-score of each sample (N,): harmonic mean of the shares of points and of target that have a nearest neighbour in
    the other set closer than (<) the threshold in metres.

    points: (N, P, 3).  target: (N, Q, 3).  Missing points are left out of their set.  0 where a sample has truth but no
    prediction or no neighbours at all; NaN where it has no truth.
    """
    return np.array([_f_score(np.asarray(a, np.float64), np.asarray(b, np.float64), threshold)
                     for a, b in zip(points, target, strict=True)])


def _f_score(points: np.ndarray, target: np.ndarray, threshold: float) -> float:
    points, target = (cloud[np.isfinite(cloud).all(-1)] for cloud in (points, target))
    if not len(target):
        return np.nan
    if not len(points):
        return 0.0
    precision = (cKDTree(target).query(points)[0] < threshold).mean()
    recall = (cKDTree(points).query(target)[0] < threshold).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def pixel_errors(joints_px: np.ndarray, target_px: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """2D distances (N, V, J) in pixels of joints_px to target_px (N, V, J, 2); NaN where mask (N, V, J) is False or
    either is missing."""
    distance = np.sqrt(((np.asarray(joints_px, np.float64) - target_px) ** 2).sum(-1))
    return np.where(mask & np.isfinite(distance), distance, np.nan)


def view_weight_entropy(weights: np.ndarray) -> np.ndarray:
    """Entropy −Σ α ln α over views, in nats, of weights (..., V, J) ≥ 0 -> (..., J).

    Weights are normalised to a sum of 1 first.  It lies between 0 (one view) and ln V (all alike).  NaN where all
    weights are 0, or one is negative or not finite.
    """
    weights = np.asarray(weights, np.float64)
    total = weights.sum(-2)
    valid = np.isfinite(total) & (weights >= 0).all(-2) & (total > 0)
    share = np.where(valid[..., None, :], weights, 1.0)
    share = share / share.sum(-2, keepdims=True)
    # 0 ln 0 = 0; and + 0.0 turns the −0 of a single view into 0.
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(-2) + 0.0
    return np.where(valid, entropy, np.nan)


def pearson(sigma: np.ndarray, error: np.ndarray) -> float:
    """Correlation coefficient of two arrays of one shape, pooled over all their entries where both are finite.

    JUMP-Hand takes the standard deviation and the 2D error over all samples, views and joints.  NaN for fewer than two
    pairs, or where one of the two does not vary.
    """
    sigma, error = np.asarray(sigma, np.float64), np.asarray(error, np.float64)
    known = np.isfinite(sigma) & np.isfinite(error)
    x, y = sigma[known], error[known]
    if len(x) < 2:
        return float('nan')
    # Taken from the first entry, what does not vary becomes exactly 0, whatever its mean rounds to.
    x, y = x - x[0], y - y[0]
    x, y = x - x.mean(), y - y.mean()
    length = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.clip(x @ y / length, -1.0, 1.0)) if length > 0 else float('nan')


def hard_subset(reference_error: np.ndarray, share: float = 0.1) -> np.ndarray:
    """The `share` of the samples with the largest reference error (N,) -> (N,) bool.

    reference_error: 2D error of a chosen reference method, so that all methods are compared on the same samples.
    Samples without one (NaN) belong to neither part.  The count is rounded up; of equal errors the earlier sample is
    taken.  Raises ConfigError unless 0 < share ≤ 1.
    """
    if not 0 < share <= 1:
        raise ConfigError(f'the hard subset must be a share above 0 and up to 1 of the samples, not {share}')
    reference_error = np.asarray(reference_error, np.float64)
    known = np.flatnonzero(np.isfinite(reference_error))
    # Rounded first: 0.07 · 100 is a little more than 7.
    count = int(np.ceil(round(share * len(known), 9)))
    hardest = known[np.argsort(-reference_error[known], kind='stable')[:count]]
    chosen = np.zeros(len(reference_error), bool)
    chosen[hardest] = True
    return chosen


def finite_mean(values: np.ndarray) -> float:
    """Mean of the finite entries of an array of any shape; NaN when there is none."""
    return float(_mean(np.ravel(values), axis=0))


def _mean(values: np.ndarray, axis: int = 0) -> np.ndarray | float:
    """np.nanmean of finite entries, without its warning."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
