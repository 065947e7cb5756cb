"""Confidence-aware feature interaction over the graph of all views' joints (Section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.hand.joints import BONES, JOINT_COUNT
from hand_unc_ros.networks.point_transformer import MASKED

# What a joint's bones weigh at the start, beside itself.
BONE_WEIGHT = 0.2


class AdaptiveGraph(nn.Module):
    """A graph convolution whose adjacency is learned: among the joints of a view, from the skeleton's on, and from the
    mean of the other views, so that any number of views will do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        skeleton = torch.eye(JOINT_COUNT)
        for parent, child in BONES:
            skeleton[parent, child] = skeleton[child, parent] = BONE_WEIGHT
        self.within = nn.Parameter(skeleton / skeleton.sum(1, keepdim=True))
        self.across = nn.Parameter(torch.eye(JOINT_COUNT))
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, width)
        self.others = nn.Linear(width, width)

    def forward(self, nodes: Tensor, present: Tensor) -> Tensor:
        """nodes: (N, V, 21, C), zero in views that are not present (N, V, 1, 1)."""
        normed = torch.where(present, self.norm(nodes), 0.0)
        others = (normed.sum(1, keepdim=True) - normed) / (present.sum(1, keepdim=True) - 1).clamp_min(1)
        return nodes + F.gelu(self.own(self.within @ normed) + self.others(self.across @ others))


class ConfidenceAttention(nn.Module):
    """CASA: self-attention among all joints of all views, whose queries, keys and values know the confidence (Eqs. 4,
    5)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width + 1, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, nodes: Tensor, confidence: Tensor, present: Tensor) -> Tensor:
        """nodes: (N, V, 21, C).  confidence: (N, V, 21).  present: (N, V, 1, 1)."""
        inputs = torch.cat([self.norm(nodes), confidence[..., None]], -1).flatten(1, 2)
        query, key, value = self.qkv(inputs).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        there = present.expand(-1, -1, JOINT_COUNT, -1).flatten(1)[:, None, None]
        mask = torch.where(there, 0.0, MASKED).to(nodes.dtype).expand(-1, 1, query.shape[2], -1)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return nodes + self.merge(out.transpose(1, 2).flatten(2)).unflatten(1, nodes.shape[1:3])


class Interaction(nn.Module):
    """Alternating graph convolutions and attention, and an MLP: nodes to F_fuse."""

    def __init__(self, node_size: int, width: int, heads: int, layers: int, gcn: bool, casa: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(node_size, width)
        self.joint = nn.Parameter(0.02 * torch.randn(JOINT_COUNT, width))
        self.graphs = nn.ModuleList(AdaptiveGraph(width) for _ in range(layers if gcn else 0))
        self.attentions = nn.ModuleList(ConfidenceAttention(width, heads) for _ in range(layers if casa else 0))
        self.layers = layers
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, nodes: Tensor, confidence: Tensor, mask: Tensor) -> Tensor:
        """F_fuse (N, V, 21, C), zero for absent views. nodes: (N, V, 21, D).  confidence: (N, V, 21).  mask: (N, V)."""
        present = mask[..., None, None]
        x = torch.where(present, self.embed(torch.where(present, nodes, 0.0)) + self.joint, 0.0)
        confidence = torch.where(mask[..., None], confidence, 0.0)
        for layer in range(self.layers):
            if self.graphs:
                x = self.graphs[layer](x, present)
            if self.attentions:
                x = self.attentions[layer](x, confidence, present)
        return torch.where(present, self.mlp(x), 0.0)
