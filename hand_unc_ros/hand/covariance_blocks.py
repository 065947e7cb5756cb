"""Covariances of all joints, 63×63 and joint-major (x0 y0 z0 x1 …), and their 3×3 blocks."""

from __future__ import annotations

import numpy as np

from hand_unc_ros.hand.joints import JOINT_COUNT


def joint_blocks(covariance: np.ndarray) -> np.ndarray:
    """The 3×3 diagonal blocks (..., 21, 3, 3) of joint-major covariances (..., 63, 63)."""
    parts = covariance.reshape(*covariance.shape[:-2], JOINT_COUNT, 3, JOINT_COUNT, 3)
    return np.einsum('...jajb->...jab', parts)


def block_diagonal(blocks: np.ndarray) -> np.ndarray:
    """(63, 63) from (21, 3, 3), symmetrised; rows and columns of a NaN block are NaN."""
    full = np.zeros((JOINT_COUNT, 3, JOINT_COUNT, 3))
    joint = np.arange(JOINT_COUNT)
    full[joint, :, joint, :] = (blocks + np.swapaxes(blocks, 1, 2)) / 2
    lost = ~np.isfinite(blocks).all(axis=(1, 2))
    full[lost] = np.nan
    full[:, :, lost] = np.nan
    return full.reshape(3 * JOINT_COUNT, 3 * JOINT_COUNT)
