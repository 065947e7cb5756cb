"""A frame that moves with the palm, so that a network meets every hand in the same pose, wherever it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hand_unc_ros.hand.joints import JOINT_NAMES, MIDDLE_MCP, WRIST

INDEX_MCP, LITTLE_MCP = JOINT_NAMES.index('index_mcp'), JOINT_NAMES.index('little_mcp')
# The unit of the hand's frame in metres.
HAND_UNIT = 0.1


class HandFrame(NamedTuple):
    """The palm's frame.

    rotation: (B, 3, 3), its columns are the frame's axes in the world.  origin: (B, 3) metres, the middle knuckle.
    """

    rotation: Tensor
    origin: Tensor

    def from_world(self, points: Tensor) -> Tensor:
        """(B, N, 3) metres, world, to units of HAND_UNIT."""
        return (points - self.origin[:, None]) @ self.rotation / HAND_UNIT

    def to_world(self, points: Tensor) -> Tensor:
        """(B, N, 3) in units of HAND_UNIT to metres, world; inverse of `from_world`."""
        return points * HAND_UNIT @ self.rotation.transpose(-1, -2) + self.origin[:, None]


def palm_frame(joints: Tensor) -> HandFrame:
    """The frame of joints (B, 21, 3): y from wrist to middle knuckle, z out of the palm's plane."""
    wrist, middle = joints[:, WRIST], joints[:, MIDDLE_MCP]
    along = F.normalize(middle - wrist, dim=-1)
    across = torch.linalg.cross(joints[:, INDEX_MCP] - wrist, joints[:, LITTLE_MCP] - wrist)
    # Where the palm is degenerate any frame does, as long as it is one.
    axes = torch.eye(3, dtype=joints.dtype, device=joints.device)
    along = torch.where(along.norm(dim=-1, keepdim=True) > 0.5, along, axes[1])
    spare = axes[along.abs().argmin(-1)]
    flat = torch.linalg.cross(along, across)
    flat = torch.where(flat.norm(dim=-1, keepdim=True) > 1e-8, flat, torch.linalg.cross(along, spare))
    flat = F.normalize(flat, dim=-1)
    return HandFrame(torch.stack([flat, along, torch.linalg.cross(flat, along)], -1), middle)
