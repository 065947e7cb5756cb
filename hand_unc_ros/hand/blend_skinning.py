"""MANO's function on the whole surface, differentiable: linear blend skinning with shape and pose correctives.

After Romero, Tzionas and Black, "Embodied Hands" (2017), eqs. 2-4, written from the paper alone, so that the stand-in
hand needs no package whose licence is non-commercial.  `skinned_points` holds the same function at a few vertices.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Squared angle, rad², below which the series of sin(a)/a is exact in float32.
_SMALL = 1e-4


def rotation_matrices(axis_angles: Tensor) -> Tensor:
    """(…, 3, 3) of the axis-angles (…, 3) rad, by Rodrigues' formula; differentiable at zero too."""
    squared = axis_angles.square().sum(dim=-1)
    small = squared < _SMALL
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    along = torch.where(small, 1 - squared / 6 + squared.square() / 120, torch.sin(angle) / angle)
    # (1 - cos a) / a² without the cancellation.
    half = torch.sin(angle / 2) / (angle / 2)
    across = torch.where(small, 0.5 - squared / 24 + squared.square() / 720, half.square() / 2)
    x, y, z = axis_angles.unbind(dim=-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    identity = torch.eye(3, dtype=axis_angles.dtype, device=axis_angles.device)
    return identity + along[..., None, None] * cross + across[..., None, None] * (cross @ cross)


class BlendSkinning(torch.nn.Module):
    """Vertices and joints of a hand model's arrays.

    State is only the arrays, as buffers that follow the module to its device and are not stored with it.
    parents: of the joints 1 … 15.
    """

    def __init__(self, arrays: dict[str, np.ndarray], rows: np.ndarray | None = None) -> None:
        """arrays: as `model.check_arrays` wants them.  rows: which vertices are moved, in this order; None for all."""
        super().__init__()
        template, shapes, poses, regressor, weights = (
            torch.as_tensor(np.asarray(arrays[key], dtype=np.float64))
            for key in ('v_template', 'shapedirs', 'posedirs', 'J_regressor', 'weights'))
        kept = slice(None) if rows is None else torch.as_tensor(rows)
        tables = {
            'template': template[kept], 'shapes': shapes[kept].flatten(0, 1), 'poses': poses[kept].flatten(0, 1),
            'weights': weights[kept],
            'joints': regressor @ template, 'joint_shapes': torch.tensordot(regressor, shapes, 1).flatten(0, 1)}
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)
        self.parents = [int(parent) for parent in np.asarray(arrays['kintree_table'])[0, 1:]]
        self._levels = _levels(self.parents)

    def forward(self, pose: Tensor, betas: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices (B, N, 3) and joints (B, 16, 3), metres.

        pose: (B, 48) rad, absolute axis-angles: the wrist's, then those of 15 joints relative to their parents.
        betas: (B, 10).  translation: (B, 3) metres.
        """
        turns = rotation_matrices(pose.unflatten(1, (16, 3)))
        identity = torch.eye(3, dtype=pose.dtype, device=pose.device)
        correctives = (turns[:, 1:] - identity).flatten(1) @ self.poses.T
        rest = self.template + (betas @ self.shapes.T + correctives).unflatten(1, (-1, 3))
        rest_joints = self.joints + (betas @ self.joint_shapes.T).unflatten(1, (-1, 3))
        world, places = self._chain(turns, rest_joints)
        offsets = places - (world @ rest_joints[..., None])[..., 0]
        blended = (self.weights @ world.flatten(2)).unflatten(2, (3, 3))
        vertices = (blended @ rest[..., None])[..., 0] + self.weights @ offsets
        return vertices + translation[:, None], places + translation[:, None]

    def _chain(self, turns: Tensor, rest_joints: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, 16, 3, 3) and places (B, 16, 3) of the joints before the translation, root first."""
        world: list[Tensor] = [turns[:, 0]] * 16
        places: list[Tensor] = [rest_joints[:, 0]] * 16
        for joints, parents in self._levels:
            above = torch.stack([world[parent] for parent in parents], dim=1)
            bones = rest_joints[:, joints] - rest_joints[:, parents]
            below = above @ turns[:, joints]
            moved = torch.stack([places[parent] for parent in parents], dim=1) + (above @ bones[..., None])[..., 0]
            for position, joint in enumerate(joints):
                world[joint], places[joint] = below[:, position], moved[:, position]
        return torch.stack(world, dim=1), torch.stack(places, dim=1)


def _levels(parents: list[int]) -> list[tuple[list[int], list[int]]]:
    """Joints of one depth, which are moved together, with their parents. parents: of the joints 1 … 15."""
    depth = [0]
    for parent in parents:
        depth.append(depth[parent] + 1)
    levels = []
    for level in range(1, max(depth) + 1):
        joints = [joint for joint, own in enumerate(depth) if own == level]
        levels.append((joints, [parents[joint - 1] for joint in joints]))
    return levels
