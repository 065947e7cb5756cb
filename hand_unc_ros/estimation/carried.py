"""A followed hand at a time of which no view tells: where it was going, and how much less is known of that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hand_unc_ros.estimation.filter import ConstantVelocityFilter
from hand_unc_ros.estimation.types import FrameSet, HandEstimate
from hand_unc_ros.geometry.gaussians import nearest_psd
from hand_unc_ros.hand.covariance_blocks import block_diagonal


def carried(hand: HandEstimate, follower: ConstantVelocityFilter, frames: FrameSet) -> HandEstimate:
    """A hand at the time of a set that shows nothing of it.

    hand: as it was published last.  follower: of its motion, at that time.  The joints are moved on as the follower
    expects, and by what its prediction becomes less certain their covariance grows: the errors of the last set, of
    which most stay (the depth by one view), and those of its motion.  No view is used, and the score is 0; the mesh
    moves as the wrist and the palm do, in the mean.
    """
    assert follower.stamp_ns is not None
    step = follower.predict(frames.stamp_ns) - follower.joints
    growth = (follower.predicted_covariance(frames.stamp_ns)
              - follower.predicted_covariance(follower.stamp_ns))
    valid = hand.valid & np.isfinite(step).all(axis=1)
    joints = np.where(valid[:, None], hand.joints + step, np.nan)
    covariance, known = np.full_like(hand.covariance, np.nan), np.ix_(np.repeat(valid, 3), np.repeat(valid, 3))
    covariance[known] = nearest_psd((hand.covariance + block_diagonal(growth))[known])
    count = len(frames.expected)
    moved = None if hand.vertices is None or not valid.any() else hand.vertices + step[valid].mean(axis=0)
    return replace(hand, stamp_ns=frames.stamp_ns, score=0.0, joints=joints, covariance=covariance, valid=valid,
                   cameras=frames.expected, view_used=np.zeros(count, bool), view_weights=np.zeros((count, 21)),
                   reprojection_px=np.full((count, 21), np.nan), motion=None, vertices=moved, fit=None)
