"""The plots of a recording's report: each takes an evaluation and gives an <svg> element, or None where it has no
data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtr

from hand_unc_ros.evaluation import plots, uncertainty
from hand_unc_ros.evaluation.metrics import finite_mean
from hand_unc_ros.geometry.gaussians import chi2_quantile
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import JOINT_NAMES

if TYPE_CHECKING:
    from hand_unc_ros.evaluation.recordings.evaluate import Evaluation

BIN_S = 0.5


def reliability(evaluation: Evaluation) -> str | None:
    """Stated against found coverage of whatever there is to compare."""
    pits = {}
    if evaluation.errors is not None:
        blocks = joint_blocks(evaluation.estimates.covariances)
        pits['joints, truth'] = chdtr(3, uncertainty.joint_distances(evaluation.errors, blocks)[0])
    if evaluation.left_out is not None:
        pits['left-out views'] = chdtr(2, evaluation.left_out.distance2(evaluation.left_out_factors))
    if evaluation.agreement is not None:
        known = evaluation.agreement.dof > 0
        pits['reprojection'] = chdtr(evaluation.agreement.dof[known], evaluation.agreement.nis[known])
    pits = {name: pit for name, pit in pits.items() if np.isfinite(pit).any()}
    return plots.reliability(pits) if pits else None


def timeline(evaluation: Evaluation) -> str | None:
    """How each camera agrees with the others: the median of its squared innovations in every BIN_S, over that of χ²."""
    agreement, estimates = evaluation.agreement, evaluation.estimates
    if agreement is None:
        return None
    part = ((estimates.stamps_ns - estimates.stamps_ns[0]) / 1e9 // BIN_S).astype(int)
    # Each of two views is as far from the other as the other is from it.
    names = estimates.cameras if len(estimates.cameras) > 2 else (' and '.join(estimates.cameras),)
    medians = np.array([np.nan, chi2_quantile(0.5, 1), chi2_quantile(0.5, 2)])
    each = agreement.innovation / medians[agreement.innovation_dof]
    series = {name: np.full(part[-1] + 1, np.nan) for name in names}
    for index in np.unique(part):
        for row, name in enumerate(names):
            values = each[part == index, row]
            if np.isfinite(values).any():
                series[name][index] = np.nanmedian(values)
    return plots.time_series(BIN_S * (np.arange(part[-1] + 1) + 0.5), series, 'squared distance, 1 is as claimed', 1.0,
                             log=True)


def bones(evaluation: Evaluation) -> str | None:
    """Spread of the lengths of bones, measured and predicted."""
    table = evaluation.summary['bones']['bones']
    return plots.bars([row['bone'].split('–')[1] for row in table],
                      {'measured': [row['spread_mm'] for row in table],
                       'predicted': [row['predicted_mm'] for row in table]}, 'σ of the length, mm') if table else None


def jitter(evaluation: Evaluation) -> str | None:
    """Trembling of each joint, measured and predicted, at rest where most of them rested."""
    table = evaluation.summary['jitter']['joints']
    resting = sum(row['at_rest'] is not None for row in table) > len(table) / 2
    rows = [(row['joint'], row['at_rest' if resting else 'all']) for row in table]
    rows = [(name, told) for name, told in rows if told is not None]
    return plots.bars([name for name, _ in rows],
                      {f'measured, {"at rest" if resting else "in motion"}': [told['sigma_mm'] for _, told in rows],
                       'predicted': [told['predicted_mm'] for _, told in rows]}, 'σ per axis, mm') if rows else None


def joint_errors(evaluation: Evaluation) -> str | None:
    """Root mean square error of each joint beside what its covariance expects of it."""
    if evaluation.errors is None:
        return None
    squared = np.square(evaluation.errors).sum(-1)
    trace = np.trace(joint_blocks(evaluation.estimates.covariances), axis1=-2, axis2=-1)
    trace = np.where(np.isfinite(squared), trace, np.nan)
    found, expected = ([1e3 * np.sqrt(finite_mean(column)) for column in values.T] for values in (squared, trace))
    return plots.bars(JOINT_NAMES, {'found': found, 'expected by the covariance': expected}, 'RMS error, mm')


def nees(evaluation: Evaluation) -> str | None:
    """NEES of each joint."""
    if evaluation.errors is None:
        return None
    return plots.nees_per_joint(uncertainty.per_joint(evaluation.errors, evaluation.estimates.covariances))


def sparsification(evaluation: Evaluation) -> str | None:
    """Mean error of the most certain joints, by the covariance and in the best order."""
    if evaluation.errors is None:
        return None
    trace = np.trace(joint_blocks(evaluation.estimates.covariances), axis1=-2, axis2=-1)
    return plots.sparsification({'by the covariance': uncertainty.sparsification(
        np.linalg.norm(evaluation.errors, axis=-1), trace)})


def correlation(evaluation: Evaluation) -> str | None:
    """Correlation of the errors of joints, predicted and found."""
    if evaluation.errors is None:
        return None
    return plots.correlation(uncertainty.joint_correlation(evaluation.errors, evaluation.estimates.covariances))
