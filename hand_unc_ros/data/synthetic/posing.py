"""The whole surface of a hand posed by anatomical angles in two compiled loops, for hands one at a time.

What `HandModel` computes in torch, where small tensors cost many times the arithmetic; without derivatives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.finger_capsules import FingerTurns
from hand_unc_ros.data.synthetic.rasteriser import HONEST_MATH
from hand_unc_ros.hand.blend_skinning import BlendSkinning


class _Rows(NamedTuple):
    """What is not zero of a matrix: of row r, `values` from `starts[r]` to `starts[r + 1]`, in `columns`."""

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class Posing:
    """Poses what a `BlendSkinning` does."""

    def __init__(self, skinning: BlendSkinning, turns: FingerTurns) -> None:
        self._turns, self._parents = turns, np.array(skinning.parents)
        template, shapes, joints, joint_shapes = (
            _numbers(table) for table in (skinning.template, skinning.shapes, skinning.joints, skinning.joint_shapes))
        # Skin and the 16 joints: their mean shape (N + 16, 3) and how betas change it (3 (N + 16), 10).
        self._template, self._shapes = np.concatenate([template, joints]), np.concatenate([shapes, joint_shapes])
        self._correctives, self._weights = _rows(_numbers(skinning.poses)), _rows(_numbers(skinning.weights))

    def place(self, angles: np.ndarray, orientation: np.ndarray, betas: np.ndarray,
              translation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (N, 3) and joints (16, 3), metres, world, of angles (21,), an orientation (3,) as a rotation vector,
        betas (10,) and a translation (3,) metres."""
        turns = np.empty((16, 3, 3))
        turns[0] = Rotation.from_rotvec(orientation).as_matrix()
        turns[1:] = self._turns.of_pose(angles[None])[0]
        rest = self._template + (self._shapes @ betas).reshape(-1, 3)
        return _posed(turns, self._parents, rest, self._correctives, self._weights, np.array(translation, float))


def _numbers(table: torch.Tensor) -> np.ndarray:
    return table.double().cpu().numpy()


def _rows(matrix: np.ndarray) -> _Rows:
    rows, columns = np.nonzero(matrix)
    return _Rows(np.searchsorted(rows, np.arange(len(matrix) + 1)), columns, matrix[rows, columns])


@njit(cache=True, nogil=True, error_model='numpy', fastmath=HONEST_MATH)
def _posed(turns, parents, rest, correctives, weights, translation):
    """rest: (N + 16, 3), vertices and joints.  correctives: 3 N rows.  weights: N rows.  parents: of joints 1 … 15."""
    count = len(rest) - 16
    bends = np.empty(135)
    for j in range(15):
        for i in range(9):
            bends[9 * j + i] = turns[1 + j, i // 3, i % 3] - (1.0 if i % 4 == 0 else 0.0)
    # Of each joint: where its frame takes a point of the hand at rest, as (3, 4).
    frames, joints = np.empty((16, 3, 4)), np.empty((16, 3))
    for j in range(16):
        for i in range(3):
            if j == 0:
                joints[j, i] = rest[count, i]
                frames[j, i, :3] = turns[0, i]
            else:
                above = frames[parents[j - 1], i]
                joints[j, i] = above[3]
                for k in range(3):
                    joints[j, i] += above[k] * rest[count + j, k]
                    frames[j, i, k] = above[0] * turns[j, 0, k] + above[1] * turns[j, 1, k] + above[2] * turns[j, 2, k]
            frames[j, i, 3] = joints[j, i]
            for k in range(3):
                frames[j, i, 3] -= frames[j, i, k] * rest[count + j, k]
    vertices, blend, point = np.empty((count, 3)), np.empty((3, 4)), np.empty(3)
    for n in range(count):
        for i in range(3):
            row = 3 * n + i
            point[i] = rest[n, i]
            for at in range(correctives.starts[row], correctives.starts[row + 1]):
                point[i] += correctives.values[at] * bends[correctives.columns[at]]
        blend[:] = 0.0
        for at in range(weights.starts[n], weights.starts[n + 1]):
            blend += weights.values[at] * frames[weights.columns[at]]
        for i in range(3):
            vertices[n, i] = (blend[i, 0] * point[0] + blend[i, 1] * point[1] + blend[i, 2] * point[2] + blend[i, 3]
                              + translation[i])
    return vertices, joints + translation
