"""MANO's function in NumPy at chosen vertices: their places, the 16 joints' places, and analytic Jacobians.

Linear blend skinning with shape and pose correctives (Romero et al. 2017, eqs. 2-4).  Only the rows of the
chosen vertices are kept, so a handful of points costs microseconds where the whole surface takes a
hundred times more.  Angles in rad, lengths in metres, joints in smplx's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.standin import PARENTS16

JOINTS16 = len(PARENTS16)
SHAPE_COUNT = 10
# Columns of a Jacobian: three turns of each joint, shape, translation.
PARAMETER_COUNT = 3 * JOINTS16 + SHAPE_COUNT + 3
# Joints of one depth are moved together: wrist, first, second and last joints of the fingers.
_LEVELS = ([1, 4, 7, 10, 13], [2, 5, 8, 11, 14], [3, 6, 9, 12, 15])
_PARENTS = np.array(PARENTS16)


def _subtrees() -> np.ndarray:
    """(16, 16), row k: 1 for joint k and all joints that a turn of k moves."""
    below = np.eye(JOINTS16)
    for joint in range(JOINTS16 - 1, 0, -1):
        below[PARENTS16[joint]] += below[joint]
    return below


_SUBTREES = _subtrees()


class PlacedPoints(NamedTuple):
    """turns (16, 3, 3): each joint's frame in the world.  joints (16, 3), points (M, 3): metres, world.

    rest_joints (16, 3), rest_points (M, 3): with shape and pose correctives, before skinning.
    point_turns (M, 3, 3): the blended linear maps from rest to world.
    """

    turns: np.ndarray
    joints: np.ndarray
    points: np.ndarray
    rest_joints: np.ndarray
    rest_points: np.ndarray
    point_turns: np.ndarray


class SkinnedPoints:
    """The 16 joints and M chosen vertices of a hand model."""

    def __init__(self, arrays: dict[str, np.ndarray], vertices: Sequence[int] | np.ndarray) -> None:
        """arrays: as `model.check_arrays` wants them.  Raises HandModelError for a tree other than MANO's."""
        # MANO's own file holds the wrist's parent as 2**32 - 1.
        if tuple(np.asarray(arrays['kintree_table'])[0, 1:]) != PARENTS16[1:]:
            raise HandModelError("'kintree_table' is not MANO's tree of joints; convert the model again with "
                                 '`hand-unc mano convert`')
        vertices = np.asarray(vertices)
        template, shapes, regressor = (
            np.asarray(arrays[key], dtype=np.float64) for key in ('v_template', 'shapedirs', 'J_regressor'))
        self._joints, self._joint_shapes = regressor @ template, np.tensordot(regressor, shapes, 1)
        self._points, self._point_shapes = template[vertices], shapes[vertices]
        self._weights = np.asarray(arrays['weights'], dtype=np.float64)[vertices]
        self._poses = np.asarray(arrays['posedirs'], dtype=np.float64)[vertices].reshape(-1, 135)
        self._poses_by_joint = np.ascontiguousarray(self._poses.reshape(-1, 15, 9).swapaxes(0, 1))

    def at_rest(self) -> tuple[np.ndarray, np.ndarray]:
        """Joints, then points, of the mean shape in the rest pose (16 + M, 3), and their change with each
        shape coefficient (16 + M, 3, 10); metres."""
        return (np.concatenate([self._joints, self._points]),
                np.concatenate([self._joint_shapes, self._point_shapes]))

    def place(self, turns: np.ndarray, shape: np.ndarray, translation: np.ndarray) -> PlacedPoints:
        """turns: (16, 3, 3), of each joint relative to its parent, the wrist's to the world.
        shape: (10,).  translation: (3,) metres."""
        rest_joints = self._joints + self._joint_shapes @ shape
        correctives = self._poses @ (turns[1:] - np.eye(3)).ravel()
        rest_points = self._points + self._point_shapes @ shape + correctives.reshape(-1, 3)
        world, joints = turns.copy(), rest_joints + translation
        for level in _LEVELS:
            parents = _PARENTS[level]
            world[level] = world[parents] @ turns[level]
            bones = (rest_joints[level] - rest_joints[parents])[:, :, None]
            joints[level] = joints[parents] + (world[parents] @ bones)[..., 0]
        offsets = joints - (world @ rest_joints[:, :, None])[..., 0]
        point_turns = (self._weights @ world.reshape(JOINTS16, 9)).reshape(-1, 3, 3)
        points = (point_turns @ rest_points[:, :, None])[..., 0] + self._weights @ offsets
        return PlacedPoints(world, joints, points, rest_joints, rest_points, point_turns)

    def jacobian(self, turns: np.ndarray, axes: np.ndarray, placed: PlacedPoints) -> np.ndarray:
        """d (joints, then points) / d (turns, shape, translation): (16 + M, 3, 61).

        turns: (16, 3, 3) as given to `place`, placed: its answer.  axes: (16, 3, 3), in columns the axes, in
        joint k's own turned frame, of its three small turns: R_k becomes R_k exp([axes_k d]x).
        """
        result = np.empty((JOINTS16 + len(placed.points), 3, PARAMETER_COUNT))
        turning = result[..., :3 * JOINTS16].reshape(len(result), 3, JOINTS16, 3)
        # What a turn of joint k moves lies at these arms from it: (16 + M, 16, 3).
        moved = np.einsum('kij,nj->nki', placed.turns, placed.rest_points)
        moved += placed.joints - (placed.turns @ placed.rest_joints[:, :, None])[..., 0]
        arms = np.empty((len(result), JOINTS16, 3))
        arms[:JOINTS16] = (placed.joints[:, None] - placed.joints) * _SUBTREES.T[:, :, None]
        arms[JOINTS16:] = _SUBTREES @ (self._weights[:, :, None] * moved)
        arms[JOINTS16:] -= (self._weights @ _SUBTREES.T)[:, :, None] * placed.joints
        world_axes = placed.turns @ axes
        for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
            turning[:, i] = world_axes[:, j] * arms[:, :, k, None] - world_axes[:, k] * arms[:, :, j, None]
        turning[JOINTS16:, :, 1:] += self._corrective_slopes(turns, axes, placed.point_turns)
        result[..., :3 * JOINTS16] = turning.reshape(len(result), 3, -1)
        result[..., 3 * JOINTS16:-3] = self._shape_slopes(placed)
        result[..., -3:] = np.eye(3)
        return result

    def _corrective_slopes(self, turns: np.ndarray, axes: np.ndarray, point_turns: np.ndarray) -> np.ndarray:
        """(M, 3, 15, 3): what the pose correctives add to the turning of the points."""
        crosses = np.zeros((15, 3, 3, 3))
        x, y, z = axes[1:].transpose(1, 0, 2)
        crosses[:, :, 2, 1], crosses[:, :, 0, 2], crosses[:, :, 1, 0] = x, y, z
        crosses[:, :, 1, 2], crosses[:, :, 2, 0], crosses[:, :, 0, 1] = -x, -y, -z
        slopes = (turns[1:, None] @ crosses).reshape(15, 3, 9).swapaxes(1, 2)
        at_rest = (self._poses_by_joint @ slopes).reshape(15, -1, 3, 3)
        return (point_turns @ at_rest).transpose(1, 2, 0, 3)

    def _shape_slopes(self, placed: PlacedPoints) -> np.ndarray:
        """(16 + M, 3, 10)."""
        slopes = self._joint_shapes.copy()
        for level in _LEVELS:
            parents = _PARENTS[level]
            slopes[level] = slopes[parents] + placed.turns[parents] @ (
                self._joint_shapes[level] - self._joint_shapes[parents])
        offsets = slopes - placed.turns @ self._joint_shapes
        points = placed.point_turns @ self._point_shapes
        points += (self._weights @ offsets.reshape(JOINTS16, -1)).reshape(points.shape)
        return np.concatenate([slopes, points])
