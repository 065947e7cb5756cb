"""Quaternions of rotation matrices, the same with every SciPy from 1.8 on."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation


def quaternions_xyzw(rotation: np.ndarray) -> np.ndarray:
    """(…, 4) x, y, z, w of (…, 3, 3) matrices; of the two signs that with w > 0, then with the first other positive."""
    rotation = np.asarray(rotation, np.float64)
    # SciPy 1.8 takes no read-only array, and stacks of one axis only.
    quaternions = Rotation.from_matrix(np.array(rotation).reshape(-1, 3, 3)).as_quat()
    x, y, z, w = quaternions.T
    negative = (w < 0) | (w == 0) & ((x < 0) | (x == 0) & ((y < 0) | (y == 0) & (z < 0)))
    quaternions[negative] *= -1
    return quaternions.reshape(*rotation.shape[:-2], 4)
