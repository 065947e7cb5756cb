"""What a recording says of the right and of the left hand, each by itself, before refinement and after."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hand_unc_ros.evaluation.recordings import without_truth as alone
from hand_unc_ros.evaluation.recordings.left_out import LeftOut
from hand_unc_ros.evaluation.recordings.replay import Estimates


class SidedChecks(NamedTuple):
    """Left-out views of all hands of a recording. sides: (R,) names of the hands.  stamps_ns: (R,) of their sets.
    published: against what is published without the view.  triangulated: against the triangulation of the others,
    before refinement."""

    sides: np.ndarray
    stamps_ns: np.ndarray
    published: LeftOut
    triangulated: LeftOut


def by_hand(told: Estimates, agreement: alone.Agreement | None, checks: SidedChecks | None,
            factors: np.ndarray | None) -> dict[str, Any] | None:
    """Side → its numbers; None where the sides of hands are not known. factors: (R, 21), of the covariance map on what
    is published."""
    if told.sides is None:
        return None
    table = {}
    for side in sorted(set(told.sides), reverse=True):
        mine = told.sides == side
        table[side] = {
            'hands': int(mine.sum()), 'share_of_sets': None if not told.sets else float(mine.sum() / told.sets),
            'tracks': len(set(told.tracks[mine])),
            'reprojection': None if agreement is None else {
                'triangulated': alone.pixels(agreement.triangulated_px[mine]),
                'published': alone.pixels(agreement.published_px[mine])},
            'leave_one_view_out': None if checks is None else {
                'triangulated': _left_out(checks.triangulated, checks.sides == side, 1.0),
                'published': _left_out(checks.published, checks.sides == side, factors)},
            'bones_variation': alone.bones(told.joints[mine], told.covariances[mine])['variation']}
    return table


def _left_out(left_out: LeftOut, chosen: np.ndarray, factors: np.ndarray | float) -> dict[str, Any] | None:
    distance2 = left_out.distance2(factors)[chosen]
    summary = alone.spread_summary(distance2, 2)
    return None if summary is None else {**summary, **alone.pixels(np.linalg.norm(left_out.error_px[chosen], axis=-1))}
