"""Attention among points: vector attention over neighbours in space, and attention over time by time differences.

Vector attention: Zhao et al. 2021, Point Transformer. UST-Hand (Section 3.5) uses it within a cloud of joints, and from
this cloud to another one.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Far beyond any distance in a hand, in its units: points that are not there are nobody's neighbours.
ABSENT = 1e4
# Octaves of the sines of a time difference; the slowest has a period of 4 s.
TIME_OCTAVES = 6
SLOWEST_HZ = 0.25
# How long frames count for a prediction, what holds back its slope, seconds, and the weight of others below which there
# is none.
MEMORY_S, RIDGE_S, LEAST_WEIGHT = 0.15, 0.01, 1e-3
# Of frames: every one.
ALL = slice(None)
# In a softmax: what is not there. Finite, so that a row of nothing else stays finite.
MASKED = -1e4


def nearest(points: Tensor, others: Tensor, present: Tensor, count: int) -> Tensor:
    """Indices (N, Q, k) of the `count` nearest of `others` (N, P, 3) to each of `points` (N, Q, 3), among those that
    are `present` (N, P) as far as there are enough; k is P at most."""
    distance = torch.cdist(points, others) + ABSENT * (~present[:, None]).to(points.dtype)
    return distance.topk(min(count, others.shape[1]), dim=-1, largest=False).indices


def gathered(values: Tensor, index: Tensor) -> Tensor:
    """(N, Q, k, C) of values (N, P, C) at index (N, Q, k)."""
    chosen = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, chosen).unflatten(1, index.shape[1:])


class VectorAttention(nn.Module):
    """y_i = Σ_j softmax_j(γ(q_i − k_j + δ_ij)) ⊙ (v_j + δ_ij) over the neighbours j of i, δ_ij = θ((x_i − x_j) / unit):
    a weight for every channel. γ and θ pass through a quarter of the width. unit: about how far neighbours are apart."""

    def __init__(self, width: int, unit: float = 1.0) -> None:
        super().__init__()
        self.unit = unit
        narrow = max(width // 4, 4)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.place = nn.Sequential(nn.Linear(3, narrow), nn.ReLU(), nn.Linear(narrow, width))
        self.weigh = nn.Sequential(nn.Linear(width, narrow), nn.ReLU(), nn.Linear(narrow, width))
        self.merge = nn.Linear(width, width)

    def forward(self, x: Tensor, points: Tensor, others: Tensor, other_points: Tensor, present: Tensor,
                index: Tensor) -> Tensor:
        """x: (N, Q, C) at points (N, Q, 3).  others: (N, P, C) at other_points (N, P, 3), of which there are those
        that are present (N, P).  index: (N, Q, k), see `nearest`.  Returns (N, Q, C)."""
        keys, values = gathered(self.key_value(others), index).chunk(2, -1)
        place = self.place((points[:, :, None] - gathered(other_points, index)) / self.unit)
        weights = self.weigh(self.query(x)[:, :, None] - keys + place)
        there = present[:, None].expand(-1, index.shape[1], -1).gather(2, index)[..., None]
        weights = torch.where(there, weights, MASKED).softmax(2)
        return self.merge((weights * (values + place)).sum(2))


class TimeAttention(nn.Module):
    """Attention of each joint over the frames of a window. What tells frames apart is when they were, in seconds before
    or after the frame that is asked for, and where the joint was then; so any rate, uneven intervals and frames that
    never came are all one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.time = nn.Linear(2 * TIME_OCTAVES + 1, width)
        self.place = nn.Linear(3, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, x: Tensor, moved: Tensor, seconds: Tensor, present: Tensor, frames: slice = ALL) -> Tensor:
        """x: (B, T, J, C).  moved: (B, T, J, 3), where each joint is, beside its place in the frame that is asked for,
        in numbers of about 1.
        seconds: (B, T), since that frame.  present: (B, T, J) bool.  frames: those that look at all others, t of T.
        Returns (B, t, J, C)."""
        x = x + self.time(time_waves(seconds))[:, :, None] + self.place(moved)
        parts = self.qkv(x).transpose(1, 2).flatten(0, 1).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        query = query[:, :, frames]
        there = present.transpose(1, 2).flatten(0, 1)[:, None, None]
        mask = torch.where(there, 0.0, MASKED).to(x.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.expand(-1, 1, query.shape[2], -1))
        return self.merge(out.transpose(1, 2).flatten(2)).unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def predicted_by_others(points: Tensor, seconds: Tensor, present: Tensor) -> Tensor:
    """Where points (B, T, J, 3) are expected in each frame by the others: on a straight line through those that are
    present (B, T, J), at seconds (B, T), the nearer in time the more they count. With few others, or none before and
    after, the slope is held back (ridge); with none at all, where they are."""
    apart = seconds[:, None] - seconds[:, :, None]
    weights = torch.exp(-apart.abs() / MEMORY_S) * (1 - torch.eye(seconds.shape[1], device=seconds.device))
    weights = weights[..., None] * present[:, None].to(points.dtype)
    sum0 = weights.sum(2)
    apart = apart[..., None] * torch.ones_like(weights)
    sum1, sum2 = (weights * apart).sum(2), (weights * apart.square()).sum(2)
    ridge = RIDGE_S ** 2
    total = torch.einsum('btsj,bsjc->btjc', weights, points)
    moment = torch.einsum('btsj,bsjc->btjc', weights * apart, points)
    # The line's value at the frame itself, whose time is zero.
    determinant = (sum0 * (sum2 + ridge) - sum1.square())[..., None].clamp_min(1e-8)
    value = ((sum2 + ridge)[..., None] * total - sum1[..., None] * moment) / determinant
    alone = (sum0 < LEAST_WEIGHT)[..., None]
    return torch.where(alone, points, value)


def time_waves(seconds: Tensor) -> Tensor:
    """(..., 2 TIME_OCTAVES + 1) of time differences (...): themselves, and their sines and cosines."""
    rates = 2 * math.pi * SLOWEST_HZ * 2.0 ** torch.arange(TIME_OCTAVES, device=seconds.device)
    angles = seconds[..., None] * rates.to(seconds.dtype)
    return torch.cat([seconds[..., None], angles.sin(), angles.cos()], -1)
