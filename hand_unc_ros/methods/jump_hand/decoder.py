"""JUMP-Hand's refinement decoder: joints and vertices as queries that look into every view."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.networks.deformable import GatedViewAttention
from hand_unc_ros.networks.palm_views import FREQUENCIES, SPREAD_SIZE, ViewGeometry, described_spread, place_waves

RESIDUAL_LIMIT_CELLS = 8.0


class DecoderSizes(NamedTuple):
    """width, heads, points, levels, ffn, layers, step_sigmas: as in JumpHandConfig.  feature_channels: of the per-view
    stage."""

    width: int
    feature_channels: int
    heads: int
    levels: int
    points: int
    ffn: int
    layers: int
    step_sigmas: float = 0.0


class ViewQueries(NamedTuple):
    """The inputs of the cross-attention beside the queries, see GatedViewAttention."""

    references: Tensor
    evidence: Tensor
    cameras: Tensor
    levels: list[Tensor]
    gates: Tensor


class Layer(nn.Module):
    """Self-attention, uncertainty-gated cross-attention, feed-forward and a coordinate update, each with pre-norm."""

    def __init__(self, sizes: DecoderSizes) -> None:
        super().__init__()
        width, feature_channels, heads, levels, points, ffn, *_ = sizes
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.qkv = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.views = GatedViewAttention(width, feature_channels, heads, levels, points)
        self.ffn = nn.Sequential(nn.Linear(width, ffn), nn.GELU(), nn.Linear(ffn, width))
        self.update = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))
        nn.init.zeros_(self.update[-1].weight)
        nn.init.zeros_(self.update[-1].bias)

    def forward(self, x: Tensor, position: Tensor, views: ViewQueries) -> tuple[Tensor, Tensor]:
        """x, position: (B, Q, C), the queries and where they are. Returns the queries, and their steps (B, Q, 3)."""
        normed = self.norms[0](x)
        query, key, _ = self.qkv(normed + position).chunk(3, -1)
        value = self.qkv(normed).chunk(3, -1)[2]
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        x = x + self.merge(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        x = x + self.views(self.norms[1](x) + position, *views)
        x = x + self.ffn(self.norms[2](x))
        return x, self.update(self.norms[3](x)).float()


class CoarseHand(NamedTuple):
    """joints: (B, 21, 3), valid: (B, 21) and vertices: (B, M, 3), the coarse stage in hand units.  spread: (B, 21, 3, 3)
    symmetric square roots of the covariances of the joints, hand units; None for a decoder whose steps are not bounded.
    """

    joints: Tensor
    valid: Tensor
    vertices: Tensor
    spread: Tensor | None = None


class ViewEvidence(NamedTuple):
    """mean_px, variance_cells2: (B, V, 21, 2) in the crops.  pooled: (B, V, 21, C).  levels: (B, V, C, s, s) each."""

    mean_px: Tensor
    variance_cells2: Tensor
    pooled: Tensor
    levels: list[Tensor]


class Gates(NamedTuple):
    """Weights of the views: joints (B, V, 21), vertices (B, V, M)."""

    joints: Tensor
    vertices: Tensor


class Decoded(NamedTuple):
    """joints: (L, B, 21, 3) and vertices: (L, B, M, 3) after each layer, hand units.  features: (B, 21, C).
    moves: (L, B, 21, 3) of the joints from the coarse ones, in standard deviations; empty where these are not known."""

    joints: list[Tensor]
    vertices: list[Tensor]
    features: Tensor
    moves: list[Tensor]


class Decoder(nn.Module):
    """`layers` refinements of 21 joints and `vertex_count` vertices.

    With `step_sigmas` a joint's steps are in units of its coarse position's standard deviations, d = S m with S Sᵀ its
    covariance, and their sum is bounded: m = t / √(1 + |t|² / step_sigmas²) of the summed steps t. What views know to
    2 mm cannot be moved by a centimetre, whatever their images look like.

    to_vertices: (vertex_count, 21), skinning weights that carry what is known of joints to vertices.
    """

    def __init__(self, sizes: DecoderSizes, to_vertices: Tensor) -> None:
        super().__init__()
        self.levels, width, self.step_sigmas = sizes.levels, sizes.width, sizes.step_sigmas
        self.register_buffer('to_queries', torch.cat([torch.eye(JOINT_COUNT), to_vertices]))
        self.token = nn.Parameter(0.02 * torch.randn(len(self.to_queries), width))
        self.pooled = nn.Linear(sizes.feature_channels, width)
        # Of each joint: log of the information that all views give, and whether it could be triangulated.
        self.known = nn.Linear(2, width)
        if self.step_sigmas:
            # Of each joint: size and shape of its uncertainty.
            self.spread = nn.Linear(SPREAD_SIZE, width)
        self.place = nn.Linear(3 + 6 * FREQUENCIES, width)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))

    def forward(self, start: CoarseHand, geometry: ViewGeometry, views: ViewEvidence, all_gates: Gates) -> Decoded:
        """Refine a coarse hand by what the views hold."""
        mean_px, variance_cells2, pooled, levels = views
        gates, query_gates = all_gates.joints, torch.cat(all_gates, 2)
        seen = gates[..., None] > 0
        information = torch.where(seen, 1 / variance_cells2, 0.0).sum(1).mean(-1).clamp_min(1e-4).log()
        state = torch.stack([information, start.valid.to(information.dtype)], -1)
        tokens = torch.where(seen, gates[..., None] * self.pooled(pooled), 0.0).sum(1) + self.known(state)
        if self.step_sigmas:
            tokens = tokens + self.spread(described_spread(start.spread))
        x = self.token + self.to_queries @ tokens
        points = torch.cat([start.joints, start.vertices], 1)
        per_joint, per_vertex, moves, levels = [], [], [], levels[:self.levels]
        travelled = torch.zeros_like(start.joints)
        for layer in self.layers:
            points = points.detach()
            references, evidence = self._evidence(points, geometry, mean_px, variance_cells2)
            queries = ViewQueries(references, evidence, geometry.cameras, levels, query_gates)
            x, step = layer(x, self.place(place_waves(points)), queries)
            if self.step_sigmas:
                travelled = travelled.detach() + step[:, :JOINT_COUNT]
                size2 = travelled.square().sum(-1, keepdim=True)
                moves.append(travelled * (1 + size2 / self.step_sigmas ** 2).rsqrt())
                joints = start.joints + (start.spread @ moves[-1][..., None])[..., 0]
                points = torch.cat([joints, points[:, JOINT_COUNT:] + step[:, JOINT_COUNT:]], 1)
            else:
                points = points + step
            per_joint.append(points[:, :JOINT_COUNT])
            per_vertex.append(points[:, JOINT_COUNT:])
        return Decoded(per_joint, per_vertex, x[:, :JOINT_COUNT], moves)

    def _evidence(self, points: Tensor, geometry: ViewGeometry, mean_px: Tensor,
                  variance_cells2: Tensor) -> tuple[Tensor, Tensor]:
        """References (B, V, Q, 2) of all queries, and how far each view's 2D joints are from them."""
        with torch.autocast(points.device.type, enabled=False):
            px, depth = geometry.project(points)
            cell = geometry.image_size / 32
            limit = RESIDUAL_LIMIT_CELLS * cell
            residual = (mean_px - px[:, :, :JOINT_COUNT]).clamp(-limit, limit)
            lifted = residual @ geometry.lift * depth[:, :, :JOINT_COUNT, None]
            evidence = torch.cat([residual / cell, lifted, variance_cells2.log()], -1)
            return (2 * px + 1) / geometry.image_size - 1, self.to_queries @ evidence
