"""Skinning weights carried over to the 21 public joints, and with them uncertainty from joints to the surface."""

from __future__ import annotations

import numpy as np

from hand_unc_ros.hand.joints import FINGERTIPS, JOINT_COUNT, ORDERS

_SMPLX_JOINTS = 16


def skinning_on_bones(weights: np.ndarray) -> np.ndarray:
    """(N, 21) weights on the bones that begin at the public joints; no bone begins at a tip: its column is zero.

    weights: (N, 16) in smplx's joint order.  Raises ValueError for another shape.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != _SMPLX_JOINTS:
        raise ValueError(f'expected skinning weights (N, {_SMPLX_JOINTS}), got {weights.shape}')
    bones = np.zeros((len(weights), JOINT_COUNT))
    for public, other in enumerate(ORDERS['smplx']):
        if other < _SMPLX_JOINTS:
            bones[:, public] = weights[:, other]
    return bones


def skinning_to_joints(weights: np.ndarray) -> np.ndarray:
    """(N, 21) weights of the public joints for each vertex: a tip takes half of its distal joint's weight.

    weights: (N, 16) in smplx's joint order.  Rows sum to 1, whatever rounding those of `weights` carry.
    Raises ValueError for another shape.
    """
    joints = skinning_on_bones(weights)
    for tip in FINGERTIPS:
        joints[:, tip] = joints[:, tip - 1] = joints[:, tip - 1] / 2
    return joints / joints.sum(axis=1, keepdims=True)


def vertex_variance(skinning: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """(N, 3) m²: the skinning-weighted mean of the joints' variances, NaN where a joint it needs is.

    skinning: (N, 21) from `skinning_to_joints`.  covariance: (63, 63) m².  JUMP-Hand weights vertex
    variances so.
    """
    variances = np.diagonal(covariance).reshape(JOINT_COUNT, 3)
    lost = ~np.isfinite(variances).all(axis=1)
    spread = skinning @ np.where(lost[:, None], 0.0, variances)
    spread[(skinning[:, lost] > 0).any(axis=1)] = np.nan
    return spread
