"""The spatiotemporal point transformer: a query cloud refined by its neighbours, by time and by the anchor cloud
(Sections 3.4, 3.5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.methods.ust_hand.config import UstHandConfig
from hand_unc_ros.methods.ust_hand.views import sampled
from hand_unc_ros.networks.deformable import CAMERA_SIZE
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, pixels_to_cells
from hand_unc_ros.networks.palm_views import SPREAD_SIZE, ViewGeometry, described_spread
from hand_unc_ros.networks.point_transformer import ALL, TimeAttention, VectorAttention, nearest, predicted_by_others

# Of a point in a view: residual of the joint's 2D mean in standard deviations and lifted to the palm's frame, in cm,
# log variance, confidence.
EVIDENCE_SIZE = 8
RESIDUAL_LIMIT = 6.0
# Anchors are about a tenth of a hand unit apart, and displacements count up to this many standard deviations.
ANCHOR_UNIT, MOST_SIGMAS = 0.1, 6.0
# A view without any confidence still counts a little, so that shares of views stay finite.
LEAST_CONFIDENCE = 1e-3


class Views(NamedTuple):
    """N frames as V views show them. geometry: in the palm's frame.  mean, variance: (N, V, 21, 2) cells, cells².
    maps: (N, V, C, S, S).  fused: (N, V, 21, W) F_fuse.  confidence: (N, V, 21), zero in absent views."""

    geometry: ViewGeometry
    mean: Tensor
    variance: Tensor
    maps: Tensor
    fused: Tensor
    confidence: Tensor


class PointFeatures(nn.Module):
    """Features of 3D points that stand for joints: what every view shows where they project to, fused by a bottleneck.

    Beside F_ms a view tells how far its own 2D joint is from the projection, which directions of the palm's frame are
    the view's, and F_fuse of the joint.
    """

    def __init__(self, config: UstHandConfig) -> None:
        super().__init__()
        self.projection = config.projection
        channels, width = config.view_channels, config.width
        if self.projection:
            self.evidence = nn.Linear(EVIDENCE_SIZE + CAMERA_SIZE, channels)
            self.bottleneck = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, width))
        self.fused = nn.Linear(width, width)

    def forward(self, points: Tensor, views: Views) -> Tensor:
        """(N, G, 21, W) of G sets of joints: points (N, G, 21, 3) in the palm's frame."""
        shares = views.confidence.clamp_min(LEAST_CONFIDENCE) * (views.confidence > 0)
        shares = shares / shares.sum(1, keepdim=True).clamp_min(LEAST_CONFIDENCE)
        features = self.fused((shares[..., None] * views.fused).sum(1))[:, None]
        if not self.projection:
            return features.expand(-1, points.shape[1], -1, -1)
        sets, geometry = points.shape[1], views.geometry
        px, depth = geometry.project(points.flatten(1, 2))
        places = pixels_to_cells(px, geometry.image_size)
        looked = sampled(views.maps.flatten(0, 1), places.flatten(0, 1)).unflatten(0, px.shape[:2])
        sigma = views.variance.sqrt().repeat(1, 1, sets, 1)
        residual = ((views.mean.repeat(1, 1, sets, 1) - places) / sigma).clamp(-RESIDUAL_LIMIT, RESIDUAL_LIMIT)
        cell_cm = 10 * geometry.image_size / HEATMAP_SIZE
        lifted = (residual * sigma) @ geometry.lift * (depth[..., None] * cell_cm)
        known = torch.cat([views.variance.log(), views.confidence[..., None]], -1).repeat(1, 1, sets, 1)
        cameras = geometry.cameras[:, :, None].expand(-1, -1, px.shape[2], -1)
        seen = F.gelu(looked + self.evidence(torch.cat([residual, lifted, known, cameras], -1)))
        shares = shares.repeat(1, 1, sets)[..., None]
        seen = torch.where(shares > 0, shares * seen, 0.0).sum(1)
        return features + self.bottleneck(seen).unflatten(1, (sets, JOINT_COUNT))


class Clouds(NamedTuple):
    """B windows of T frames in the palm's frame of each window.

    query: (B, T, 21, 3), of which there are known (B, T, 21).  anchors: (B, t, M·21, 3) and there: (B, t, M·21) bool, of
    all frames or of the one that is asked for.
    query_features: (B, T, 21, W).  anchor_features: (B, t, M·21, W).  spread: (B, T, 21, 3, 3) symmetric square roots
    of the covariances of the query cloud, and whitening their inverses.  seconds: (B, T) since the frame that is asked
    for, whose number is target.
    """

    query: Tensor
    known: Tensor
    anchors: Tensor
    there: Tensor
    query_features: Tensor
    anchor_features: Tensor
    spread: Tensor
    whitening: Tensor
    seconds: Tensor
    target: int

    def with_anchors_of(self, frames: slice) -> Clouds:
        """With the anchors of these frames alone, if there are others."""
        if self.anchors.shape[1] < self.query.shape[1]:
            return self
        return self._replace(**{name: getattr(self, name)[:, frames] for name in ('anchors', 'there', 'anchor_features')})

    def in_sigmas(self, steps: Tensor) -> Tensor:
        """Displacements (B, T, 21, 3) in standard deviations of the query cloud, as moves are, of MOST_SIGMAS at most."""
        whitened = (self.whitening @ steps[..., None])[..., 0]
        length = (whitened.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        return whitened * (MOST_SIGMAS / length).clamp_max(1.0)


class Block(nn.Module):
    """Attention in space, in time and to the anchors, feed-forward and a step, each with pre-norm.

    The step is in standard deviations of the query cloud, and so are the displacements over time that the block looks
    at. A part of it is a learned share of the way to where the other frames expect the joint, as a filter's gain.
    """

    def __init__(self, config: UstHandConfig) -> None:
        super().__init__()
        width = config.width
        self.neighbours = config.neighbours
        self.spatial = VectorAttention(width) if config.spatial else None
        self.temporal = TimeAttention(width, config.heads) if config.temporal else None
        self.cross = VectorAttention(width, ANCHOR_UNIT) if config.cross else None
        self.expected = nn.Linear(3, width) if config.temporal else None
        parts = [name for name in ('spatial', 'temporal', 'cross') if getattr(config, name)]
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in (*parts, 'ffn', 'step')})
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.update = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))
        nn.init.zeros_(self.update[-1].weight)
        nn.init.zeros_(self.update[-1].bias)

    def forward(self, x: Tensor, points: Tensor, clouds: Clouds, frames: slice = ALL) -> tuple[Tensor, Tensor]:
        """x: (B, T, 21, W) at points (B, T, 21, 3).  frames: those that are wanted, t of T; clouds: with the anchors of
        these. Returns their x (B, t, 21, W) and steps (B, t, 21, 3)."""
        if self.spatial is not None:
            flat, known = points.flatten(0, 1), clouds.known.flatten(0, 1)
            index = nearest(flat, flat, known, self.neighbours)
            normed = self.norms['spatial'](x).flatten(0, 1)
            x = x + self.spatial(normed, flat, normed, flat, known, index).unflatten(0, points.shape[:2])
        if self.temporal is None:
            x = x[:, frames]
        else:
            moved, expected = clouds.in_sigmas(points - points[:, clouds.target, None]), clouds.in_sigmas(
                predicted_by_others(points, clouds.seconds, clouds.known) - points)
            x = x + self.expected(expected)
            x = x[:, frames] + self.temporal(self.norms['temporal'](x), moved, clouds.seconds, clouds.known, frames)
        if self.cross is not None:
            flat = points[:, frames].flatten(0, 1)
            anchors, there = clouds.anchors.flatten(0, 1), clouds.there.flatten(0, 1)
            index = nearest(flat, anchors, there, self.neighbours)
            features = clouds.anchor_features.flatten(0, 1)
            x = x + self.cross(self.norms['cross'](x).flatten(0, 1), flat, features, anchors, there,
                               index).unflatten(0, x.shape[:2])
        x = x + self.ffn(self.norms['ffn'](x))
        step, gain = self.update(self.norms['step'](x)).split([3, 1], -1)
        return x, step if self.temporal is None else step + gain * expected[:, frames]


class PointTransformer(nn.Module):
    """`blocks` refinements. A joint's moves from the query cloud are bounded: in units of its standard deviations, see
    `step_sigmas` of UstHandConfig, they are m = t / √(1 + |t|² / step_sigmas²) of the summed steps t."""

    def __init__(self, config: UstHandConfig) -> None:
        super().__init__()
        self.limit = config.step_sigmas
        self.joint = nn.Parameter(0.02 * torch.randn(JOINT_COUNT, config.width))
        self.spread = nn.Linear(SPREAD_SIZE + 1, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks if config.stpt else 0))

    def forward(self, clouds: Clouds, alone: bool = False) -> list[Tensor]:
        """The moves (B, T, 21, 3) from the query cloud after each block, in standard deviations. alone: after the last
        block of the frame that is asked for, (B, 1, 21, 3), at less cost."""
        known = clouds.known[..., None].to(clouds.query.dtype)
        x = clouds.query_features + self.joint + self.spread(torch.cat([described_spread(clouds.spread), known], -1))
        points, travelled, moves = clouds.query, torch.zeros_like(clouds.query), []
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            frames = slice(clouds.target, clouds.target + 1) if alone and last else ALL
            x, step = block(x, points.detach(), clouds.with_anchors_of(frames), frames)
            travelled = travelled[:, frames].detach() + step
            moves.append(travelled * (1 + travelled.square().sum(-1, keepdim=True) / self.limit ** 2).rsqrt())
            if not last:
                points = clouds.query + (clouds.spread @ moves[-1][..., None])[..., 0]
        return moves
