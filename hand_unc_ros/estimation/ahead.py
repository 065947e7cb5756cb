"""A published hand at a later time than its images: where it is now, and how much less is known of that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hand_unc_ros.estimation.filter import ACCELERATION_DENSITY
from hand_unc_ros.estimation.types import HandEstimate
from hand_unc_ros.geometry.gaussians import nearest_psd

# Nothing is said of a hand that was seen longer ago, seconds: fingers turn back within this time.
AHEAD_S = 0.25


def ahead(hand: HandEstimate, stamp_ns: int) -> HandEstimate:
    """The hand at a time after its stamp, at most AHEAD_S after it: moved on with its velocities, with the covariance of
    the constant-velocity model (white acceleration of ACCELERATION_DENSITY). Its stamp is that time; its mesh, which is
    that of its images, is left out.

    Without a filter's motion, or for a time that is not later, the hand as it is.
    """
    seconds = min((stamp_ns - hand.stamp_ns) * 1e-9, AHEAD_S)
    if hand.motion is None or hand.velocity is None or seconds <= 0:
        return hand
    cross, spread = hand.motion.cross, hand.motion.spread
    covariance = hand.covariance + seconds * (cross + cross.T) + seconds ** 2 * spread
    covariance = covariance + ACCELERATION_DENSITY * seconds ** 3 / 3 * np.eye(len(covariance))
    known = np.repeat(hand.valid, 3)
    rows = np.ix_(known, known)
    # The map scales what the filter says of the joints and not what it says of their velocities.
    covariance[rows] = nearest_psd(covariance[rows])
    return replace(hand, stamp_ns=hand.stamp_ns + round(1e9 * seconds), joints=hand.joints + seconds * hand.velocity,
                   covariance=covariance, vertices=None, vertex_variance=None,
                   vertex_colours=None, fit=None)
