"""The one public joint order, and the named orders of other projects.

Public order (OpenPose's): wrist; then thumb, index, middle, ring, little, each base to tip.
"""

from __future__ import annotations

import numpy as np

JOINT_COUNT = 21
FINGERS = ('thumb', 'index', 'middle', 'ring', 'little')

JOINT_NAMES = (
    'wrist',
    'thumb_cmc', 'thumb_mcp', 'thumb_ip', 'thumb_tip',
    'index_mcp', 'index_pip', 'index_dip', 'index_tip',
    'middle_mcp', 'middle_pip', 'middle_dip', 'middle_tip',
    'ring_mcp', 'ring_pip', 'ring_dip', 'ring_tip',
    'little_mcp', 'little_pip', 'little_dip', 'little_tip',
)

# Kinematic parent of each joint; the wrist is its own root.
PARENTS = (-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19)
BONES = tuple((parent, child) for child, parent in enumerate(PARENTS) if parent >= 0)
FINGERTIPS = (4, 8, 12, 16, 20)
WRIST = 0
MIDDLE_MCP = 9

# For every named order: ORDERS[name][i] is the index, in that order, of public joint i,
# so `joints_public = joints_other[..., ORDERS[name], :]`.
ORDERS: dict[str, tuple[int, ...]] = {
    'openpose': tuple(range(21)),
    'mediapipe': tuple(range(21)),
    # smplx.MANO's 16 joints followed by the five tips thumb … little.
    'smplx': (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20),
    # One hand of InterHand2.6M: thumb, index, middle, ring, little, each tip to base, then the wrist.
    'interhand': (20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16),
    # One hand of the Rendered Hand Pose Dataset: the wrist, then thumb, index, middle, ring, little, each tip to base.
    'rhd': (0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17),
}


def to_public(joints: np.ndarray, order: str) -> np.ndarray:
    """Reorder `joints` (..., 21, C) from the named order to the public one.

    Raises KeyError naming the known orders when `order` is unknown.
    """
    if order not in ORDERS:
        raise KeyError(f'unknown joint order {order!r}; known: {", ".join(sorted(ORDERS))}')
    return joints[..., ORDERS[order], :]


def from_public(joints: np.ndarray, order: str) -> np.ndarray:
    """Reorder `joints` (..., 21, C) from the public order to the named one."""
    if order not in ORDERS:
        raise KeyError(f'unknown joint order {order!r}; known: {", ".join(sorted(ORDERS))}')
    return joints[..., np.argsort(ORDERS[order]), :]
