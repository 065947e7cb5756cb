"""A followed hand at a time of which no view tells: where it is expected, and how much less is known of that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hand_unc_ros.estimation.filter import ConstantVelocityFilter
from hand_unc_ros.estimation.types import FrameSet, HandEstimate
from hand_unc_ros.geometry.gaussians import nearest_psd
from hand_unc_ros.hand.joints import JOINT_COUNT

# Of a real hand before two cameras at 15 Hz (handpose3d): the time constant with which its velocities fade that
# predicts it best, at 0.1 to 0.5 s; by how much it is then elsewhere, along each axis, m/s, 1 σ; and the share of that
# variance that all joints have in common.
FADE_S, STRAY_MPS, TOGETHER = 0.1, 0.13, 0.65


def carried(hand: HandEstimate, follower: ConstantVelocityFilter, frames: FrameSet) -> HandEstimate:
    """A hand at the time of a set that shows nothing of it.

    hand: as it was published last.  follower: of its motion, at that time.  Velocities fade, and errors that grow with
    time are added to those of the last set.  No view is used, and the score is 0; the mesh moves as the joints do, in
    the mean.
    """
    seconds = (frames.stamp_ns - hand.stamp_ns) * 1e-9
    step = FADE_S * (1 - np.exp(-seconds / FADE_S)) * follower.velocity
    valid = hand.valid & np.isfinite(step).all(axis=1)
    joints = np.where(valid[:, None], hand.joints + step, np.nan)
    together = TOGETHER * np.ones((JOINT_COUNT, JOINT_COUNT)) + (1 - TOGETHER) * np.eye(JOINT_COUNT)
    stray = (STRAY_MPS * seconds) ** 2 * np.kron(together, np.eye(3))
    covariance, known = np.full_like(hand.covariance, np.nan), np.ix_(np.repeat(valid, 3), np.repeat(valid, 3))
    covariance[known] = nearest_psd((hand.covariance + stray)[known])
    count = len(frames.expected)
    vertices = None if hand.vertices is None or not valid.any() else hand.vertices + step[valid].mean(axis=0)
    return replace(hand, stamp_ns=frames.stamp_ns, score=0.0, joints=joints, covariance=covariance, valid=valid,
                   cameras=frames.expected, view_used=np.zeros(count, bool),
                   view_weights=np.zeros((count, JOINT_COUNT)), reprojection_px=np.full((count, JOINT_COUNT), np.nan),
                   motion=None, vertices=vertices, fit=None)
