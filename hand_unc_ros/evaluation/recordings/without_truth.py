"""Checks of the covariances of a recording without a truth: agreement of the views, rigid bones, trembling at rest.

Each measure sees some errors and is blind to others: what all views share, and what does not change with time, shows
in none of them. Only the truth tells that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import chdtr

from hand_unc_ros.estimation.innovations import innovations
from hand_unc_ros.evaluation.recordings.replay import Estimates
from hand_unc_ros.evaluation.uncertainty import coverage
from hand_unc_ros.geometry.gaussians import chi2_quantile
from hand_unc_ros.hand.bone_lengths import bone_vectors
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import BONES, JOINT_NAMES
from hand_unc_ros.methods.geometric_fusion import fuse

# Of a joint that counts as at rest, metres per second, and the fewest moments of rest that say something.
REST_SPEED, FEWEST_AT_REST = 0.05, 20
# Steps between estimates longer than this many periods are gaps.
LONGEST_STEP = 1.5
# Median absolute deviation to standard deviation, for a Gaussian.
MAD = 1.4826


class Agreement(NamedTuple):
    """How the views of N hands agree. nis: (N, 21), squared whitened reprojection errors of a joint's fusion, summed
    over its views, of `dof` (N, 21) degrees of freedom, 2 V − 3.  innovation: (N, V, 21), the squared whitened distance
    of a view from what the others say, of `innovation_dof` (N, V, 21), 2, or 1, across the epipolar line, with one
    other.  published_px: (N, V, 21), distance of the published joints, projected, from the view's, and
    triangulated_px: (N, V, 21), of the joints before refinement.  NaN and 0 where
    unknown."""

    nis: np.ndarray
    dof: np.ndarray
    innovation: np.ndarray
    innovation_dof: np.ndarray
    published_px: np.ndarray
    triangulated_px: np.ndarray


def agreement(estimates: Estimates, triangulation: str = 'refined') -> Agreement:
    """Fuse the views of every hand anew, by one of geometric_fusion.TRIANGULATIONS. `estimates.rig` must be known."""
    rows = []
    for index in range(len(estimates.stamps_ns)):
        views = estimates.views_of(index)
        fused = fuse(views, estimates.rig, triangulation)
        apart = innovations(views, estimates.rig, fused.joints)
        taking_part = np.isfinite(fused.mahalanobis2)
        nis, dof = np.nansum(fused.mahalanobis2, axis=0), 2 * taking_part.sum(0) - 3
        # What views that were left out differ by is told by the innovations.
        known = fused.valid & (dof > 0)
        projected = estimates.rig.project(torch.from_numpy(estimates.joints[index]))[0].numpy()
        rows.append((np.where(known, nis, np.nan), np.where(known, dof, 0), apart.squared, apart.dof,
                     np.linalg.norm(projected - views.joints_px, axis=-1), fused.reprojection_px))
    return Agreement(*(np.array(part) for part in zip(*rows)))


def spread_summary(distance2: np.ndarray, dof: np.ndarray | int) -> dict[str, Any] | None:
    """Of squared whitened errors of `dof` degrees of freedom each, NaN left out: nis_per_dof, the mean; coverage, the
    share inside regions of uncertainty.LEVELS; factor, by which the covariances must be multiplied so that 95 % lie
    inside theirs; count.  None where there are none."""
    dof = np.broadcast_to(dof, distance2.shape)
    known = np.isfinite(distance2) & (dof > 0)
    if not known.any():
        return None
    distance2, dof = distance2[known], dof[known].astype(int)
    kinds = np.unique(dof)
    limit = np.array([chi2_quantile(0.95, int(kind)) for kind in kinds])[np.searchsorted(kinds, dof)]
    return {
        'nis_per_dof': float(distance2.sum() / dof.sum()),
        'coverage': coverage(chdtr(dof, distance2)),
        'factor': float(np.quantile(distance2 / limit, 0.95)), 'count': len(distance2)}


def pixels(error_px: np.ndarray) -> dict[str, float] | None:
    """Median and 90th percentile of distances in pixels, NaN left out."""
    error_px = error_px[np.isfinite(error_px)]
    if not len(error_px):
        return None
    return {'median_px': float(np.median(error_px)), 'p90_px': float(np.quantile(error_px, 0.9))}


def bones(joints: np.ndarray, covariances: np.ndarray) -> dict[str, Any]:
    """Lengths of the bones over time, of joints (N, 21, 3) metres and covariances (N, 63, 63) m².

    A bone is rigid: what its length varies by is error. spread_mm: standard deviation of the length, by the median
    deviation; predicted_mm: what the covariance of its two ends, and between them, makes of it to first order, the root
    of the median variance.  ratio: of the two; above 1 the covariance is too small.  An error that stays the same does
    not show.
    """
    vectors, spreads = bone_vectors(joints, covariances)
    table = []
    for place, (first, second) in enumerate(BONES):
        length = np.linalg.norm(vectors[:, place], axis=1)
        along = vectors[:, place] / length[:, None]
        variance = np.einsum('na,nab,nb->n', along, spreads[:, place], along)
        known = np.isfinite(length) & np.isfinite(variance)
        if known.sum() < 3:
            continue
        middle = np.median(length[known])
        measured = MAD * np.median(np.abs(length[known] - middle))
        predicted = np.sqrt(max(np.median(variance[known]), 0.0))
        table.append({'bone': f'{JOINT_NAMES[first]}–{JOINT_NAMES[second]}', 'median_mm': 1e3 * float(middle),
                      'spread_mm': 1e3 * float(measured), 'predicted_mm': 1e3 * float(predicted),
                      'variation': float(measured / middle),
                      'ratio': float(measured / predicted) if predicted else float('nan')})
    return {'bones': table, 'variation': _median(table, 'variation'), 'ratio': _median(table, 'ratio')}


def jitter(estimates: Estimates) -> dict[str, Any]:
    """How much each joint trembles, mm, by the second difference of its positions at three estimates in a row.

    Independent errors of σ per axis give it a standard deviation of √6 σ; what is reported is that σ.  at_rest: over
    moments at which the joint moves slower than REST_SPEED, None with fewer than FEWEST_AT_REST of them; all: over all,
    where the hand's own acceleration counts too; predicted: σ of the covariance at the same moments.  Errors that
    persist from set to set do not tremble, so that σ may well be larger; a smaller one cannot be right.
    """
    step = np.diff(estimates.stamps_ns) / 1e9
    whole = (step[1:] <= LONGEST_STEP * estimates.period_s) & (step[:-1] <= LONGEST_STEP * estimates.period_s)
    whole &= (estimates.tracks[2:] == estimates.tracks[:-2]) & (step[1:] > 0) & (step[:-1] > 0)
    at = np.flatnonzero(whole)
    joints = estimates.joints
    second = joints[at] - 2 * joints[at + 1] + joints[at + 2]
    speed = np.linalg.norm(joints[at + 2] - joints[at], axis=-1) / (step[at] + step[at + 1])[:, None]
    variance = np.trace(joint_blocks(estimates.covariances[at + 1]), axis1=-2, axis2=-1) / 3
    # The median of the squared length of a 3D Gaussian, by which outliers do not count.
    tremble2 = np.square(second).sum(-1) / 6 / chi2_quantile(0.5, 3)
    known = np.isfinite(tremble2) & np.isfinite(variance)

    def told(chosen: np.ndarray) -> dict[str, Any] | None:
        if chosen.sum() < FEWEST_AT_REST:
            return None
        sigma = 1e3 * float(np.sqrt(np.median(tremble2[chosen])))
        predicted = 1e3 * float(np.sqrt(np.median(variance[chosen])))
        return {'sigma_mm': sigma, 'predicted_mm': predicted, 'ratio': sigma / predicted if predicted else float('nan'),
                'moments': int(chosen.sum())}

    resting = known & (speed < REST_SPEED)
    per_joint = []
    for joint, name in enumerate(JOINT_NAMES):
        column = np.zeros_like(known)
        column[:, joint] = True
        per_joint.append({'joint': name, 'at_rest': told(resting & column), 'all': told(known & column)})
    return {'at_rest': told(resting), 'all': told(known), 'joints': per_joint}


def percentiles(values: np.ndarray) -> dict[str, float] | None:
    """p50, p95 and p99 of the finite ones."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    return {f'p{share}': float(np.percentile(values, share)) for share in (50, 95, 99)}


def _median(table: list[dict[str, Any]], name: str) -> float:
    values = [row[name] for row in table if np.isfinite(row[name])]
    return float(np.median(values)) if values else float('nan')
