"""Multi-scale deformable attention into several views, joined by a gate; plain torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What a view tells of its camera: right, down and forward axes in the hand's frame.
CAMERA_SIZE = 9
# What a view's 2D joints tell a query: the residual in cells (2), lifted to the hand's frame (3), and log σ² (2).
EVIDENCE_SIZE = 7
# References beyond this are outside of any crop and are kept from running away, in half crops.
REFERENCE_LIMIT = 2.0


class GatedViewAttention(nn.Module):
    """Uncertainty-gated cross-attention (JUMP-Hand): y_q = Σ_n α_qn y_qn, where y_qn samples view n's features around
    the projection of query q (Zhu et al. 2021).

    The queries live in the hand's frame and the samples in a view's image, so both the sampling and its result are
    modulated by the view's camera axes: what is to the right of a reference means another direction in every view.
    """

    def __init__(self, width: int, feature_channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.value = nn.Linear(feature_channels, width)
        self.query_camera = nn.Linear(CAMERA_SIZE, 2 * width)
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention = nn.Linear(width, heads * levels * points)
        self.value_camera = nn.Linear(CAMERA_SIZE, 2 * width)
        self.residual = nn.Linear(EVIDENCE_SIZE, width)
        self.output = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.attention.weight)
        nn.init.zeros_(self.attention.bias)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        ring = torch.stack([angles.cos(), angles.sin()], -1)[:, None, None]
        steps = torch.arange(1, points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_((ring * steps).expand(heads, levels, points, 2).reshape(-1))

    def forward(self, queries: Tensor, references: Tensor, evidence: Tensor, cameras: Tensor, levels: list[Tensor],
                gates: Tensor) -> Tensor:
        """queries: (B, Q, C).  references: (B, V, Q, 2) in [−1, 1] over the crop.  evidence: (B, V, Q,
        EVIDENCE_SIZE), see
        `Decoder`.  cameras: (B, V, CAMERA_SIZE).  levels: (B, V, C_f, s, s) each.  gates: (B, V, Q), zero for a missing
        view, whatever its features hold.  Returns (B, Q, C)."""
        # Queries stand last in memory up to the end of sampling, so that every step passes over contiguous numbers.
        gain, shift = self.query_camera(cameras)[:, :, None].chunk(2, -1)
        asked = (queries[:, None] * (1 + gain) + shift).flatten(0, 1).transpose(1, 2)
        offsets = _columns(self.offsets, asked).unflatten(1, (self.heads, self.levels, self.points, 2)).float()
        attention = _columns(self.attention, asked).unflatten(1, (self.heads, -1)).softmax(2).flatten(0, 1)
        references = references.clamp(-REFERENCE_LIMIT, REFERENCE_LIMIT).flatten(0, 1)
        references = references.transpose(1, 2).contiguous()[:, None, None]
        sampled = 0
        for level, offset, weight in zip(levels, offsets.unbind(2), attention.split(self.points, 1)):
            value = _columns(self.value, level.flatten(3).flatten(0, 1)).float()
            value = value.reshape(-1, value.shape[1] // self.heads, *level.shape[3:])
            # Offsets are in cells of their level; [−1, 1] spans its side.
            grid = torch.add(references, offset, alpha=2 / level.shape[-1]).flatten(0, 1).transpose(-1, -2)
            sampled = sampled + (F.grid_sample(value, grid, align_corners=False) * weight[:, None]).sum(2)
        sampled = sampled.reshape(*cameras.shape[:2], -1, sampled.shape[-1]).transpose(-1, -2)
        gain, shift = self.value_camera(cameras)[:, :, None].chunk(2, -1)
        seen = self.output(sampled * (1 + gain) + shift + self.residual(evidence))
        gates = gates[..., None].to(seen.dtype)
        return torch.where(gates > 0, gates * seen, 0.0).sum(1)


def _columns(linear: nn.Linear, x: Tensor) -> Tensor:
    """The layer on the columns of x (N, C, M), as a batched product: what it takes and gives is never copied."""
    # Not len(x): in an exported graph that would be a constant.
    return torch.baddbmm(linear.bias[:, None], linear.weight.expand(x.shape[0], -1, -1), x)
