"""What a frozen landmark network calls a joint, and what a hand model does: the labels of one turned into the other.

Both mean nearly the same points. The rest is a bias that a decoder would learn on synthetic hands and pull real ones
by. It is measured on the training samples, joint by joint in the frame of its bone, and put onto the labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hand_unc_ros.hand.joints import JOINT_COUNT, MIDDLE_MCP, PARENTS, WRIST
from hand_unc_ros.hand.palm_frame import INDEX_MCP, LITTLE_MCP

# Metres. A triangulated joint that is farther off was mistaken for another one, or not seen.
BELIEVABLE = 0.03
# Joints from which the median of a joint's bias is taken, at least; with fewer there is none.
FEWEST = 30


def bone_frames(joints: Tensor) -> Tensor:
    """Axes (B, 21, 3, 3) of each joint, as columns in the world, of joints (B, 21, 3): the axis about which fingers
    flex, the bone that ends in the joint, and what is left, from the palm to the back."""
    parents = torch.tensor(PARENTS)
    bones = joints - joints[:, parents.clamp_min(0)]
    bones = torch.cat([(joints[:, MIDDLE_MCP] - joints[:, WRIST])[:, None], bones[:, 1:]], 1)
    along = F.normalize(bones, dim=-1)
    across = (joints[:, LITTLE_MCP] - joints[:, INDEX_MCP])[:, None].expand_as(along)
    across = F.normalize(across - (across * along).sum(-1, keepdim=True) * along, dim=-1)
    return torch.stack([across, along, torch.linalg.cross(across, along)], -1)


def label_bias(labels: Tensor, coarse: Tensor) -> Tensor:
    """(21, 3) metres in the frames of the bones: the median of what triangulated landmarks (N, 21, 3), NaN where
    unknown, are away from the labels (N, 21, 3). Zero for a joint of which too little is known."""
    away = coarse - labels
    local = (bone_frames(labels).mT @ away[..., None])[..., 0]
    usable = torch.isfinite(local).all(-1) & (away.norm(dim=-1) < BELIEVABLE)
    local = torch.where(usable[..., None], local, torch.nan)
    bias = local.nanmedian(dim=0).values
    return torch.where((usable.sum(0) >= FEWEST)[:, None], bias, 0.0)


def adapted(labels: Tensor, bias: Tensor) -> Tensor:
    """Labels (B, 21, 3) as the landmark network means them; unknown where those are."""
    return labels + (bone_frames(labels) @ bias.to(labels)[:, :, None])[..., 0].reshape(-1, JOINT_COUNT, 3)
