"""UST-Hand: hypotheses of 2D joints in every view, lifted to clouds of points, refined over space and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hand_unc_ros.geometry.triangulation import triangulate_dlt
from hand_unc_ros.geometry.weighted_triangulation import Observations, triangulate
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.palm_frame import HAND_UNIT, HandFrame, palm_frame
from hand_unc_ros.methods.ust_hand.config import UstHandConfig
from hand_unc_ros.methods.ust_hand.interaction import Interaction
from hand_unc_ros.methods.ust_hand.refinement import Clouds, PointFeatures, PointTransformer, Views
from hand_unc_ros.methods.ust_hand.surface import LinearSurface
from hand_unc_ros.methods.ust_hand.views import ViewMaps, ViewNet, confidence_of
from hand_unc_ros.networks.coupling_flow import CouplingFlow
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, cells_to_pixels
from hand_unc_ros.networks.palm_views import ViewGeometry, view_geometry
from hand_unc_ros.networks.stored import load_stored
from hand_unc_ros.networks.view_fusion import ITERATIONS, coarse_spread, inverse_symmetric_3x3, normalised
from hand_unc_ros.networks.weights import save_network

# Of the hypotheses where none are given: outside of training the same noise every time.
SEED = 7060


class Cameras(NamedTuple):
    """Of B windows: K (B, V, T, 3, 3) of the crops, camera_from_world (B, V, T, 3, 4), mask (B, V, T) bool, views that
    are there, and seconds (B, T), when the frames were."""

    K: Tensor
    camera_from_world: Tensor
    mask: Tensor
    seconds: Tensor


class UstHandOutput(NamedTuple):
    """fused: (B, V, T, 21, W) F_fuse.  confidence: (B, V, T, 21).
    mode: (B, V, T, 21, 2) cells, of the flow.
    coarse: (B, T, 21, 3) metres, world, the query cloud, of which coarse_valid: (B, T, 21) were triangulated; others
    stand where the known ones are.
    anchors: (B, T, M, 21, 3) metres, world, NaN where not triangulated.
    joints: (L + 1, B, T, 21, 3) the query cloud, then after every block; the last is the result.
    moves: (L, B, T, 21, 3) of the joints from the query cloud, in standard deviations.
    vertices: (B, N, 3) of the frame that is asked for, None without a surface."""

    fused: Tensor
    confidence: Tensor
    mode: Tensor
    coarse: Tensor
    coarse_valid: Tensor
    anchors: Tensor
    joints: Tensor
    moves: Tensor
    vertices: Tensor | None


class Stages(NamedTuple):
    """What runs UstHand.interact and UstHand.moves: themselves, or another runtime."""

    interact: Callable[..., tuple[Tensor, Tensor]]
    moves: Callable[..., Tensor]


class UstHand(nn.Module):
    """The whole network. Views may come in any order and number, frames at any time; a masked view is as if it had
    never been there, and what it gives turns and moves with the world."""

    def __init__(self, config: UstHandConfig) -> None:
        super().__init__()
        self.config = config
        self.view = ViewNet(config)
        self.interaction = Interaction(self.view.node_size, config.width, config.heads, config.graph_layers,
                                       config.gcn, config.casa)
        self.flow = CouplingFlow(2, config.width, config.flow_hidden, config.flow_layers)
        self.points = PointFeatures(config)
        self.transformer = PointTransformer(config)
        self.surface = LinearSurface(config.surface_size) if config.surface else None

    def forward(self, batch: Mapping[str, Tensor]) -> UstHandOutput:
        """Of a batch of windows, (B, V, T, …) as data.sequence_batches gives sequences."""
        return self.fuse(self.view.of_batch(batch), Cameras(batch['K'], batch['camera_from_world'], batch['view_mask'],
                                                            batch['stamps_s']))

    def fuse(self, maps: ViewMaps, cameras: Cameras, start: Tensor | None = None, latents: Tensor | None = None,
             stages: Stages | None = None) -> UstHandOutput:
        """maps: parts (B, V, T, …).  start: (B, 21, 3) metres, world, NaN where unknown: joints of the frame that is
        asked for, which stand for the triangulation of the views' means there.  latents: (M, B, V, T, 21, 2), drawn by
        default.  stages: how the learned parts are run, by torch by default."""
        config, stages = self.config, stages or Stages(self.interact, self.moves)
        with torch.autocast(cameras.K.device.type, enabled=False):
            size, frames = cameras.K.shape[:3], cameras.K.shape[2]
            # Frames by themselves, N = B·T, each with its V views.
            mean, variance, nodes, features = (part.transpose(1, 2).flatten(0, 1) for part in maps[:4])
            K, pose, mask = (part.transpose(1, 2).flatten(0, 1) for part in cameras[:3])
            confidence = confidence_of(variance) if config.heatmap_confidence else torch.ones_like(variance[..., 0])
            confidence = torch.where(mask[..., None], confidence, 0.0)
            if latents is None:
                generator = None if self.training else torch.Generator(K.device).manual_seed(SEED)
                latents = torch.randn((config.hypotheses, *size, JOINT_COUNT, 2), generator=generator, device=K.device)
            latents = latents.transpose(2, 3).flatten(1, 2).to(mean.dtype)
            fused, drawn = stages.interact(nodes, confidence, mask,
                                           torch.cat([torch.zeros_like(latents[:1]), latents]))
            drawn = drawn * variance.sqrt() + mean
            sight = _Sight(K, pose, mask, variance, confidence, config.image_size)
            coarse, valid = self._query(sight, mean, drawn[0], frames, start)
            anchors = sight.lifted(drawn[1:])
            query = _filled(coarse, valid, config.target(frames))
            frame = palm_frame(query[:, config.target(frames)].detach())
            steps, given = self._clouds(frame, query, valid, anchors, sight, (mean, features, fused), cameras.seconds)
            moves = stages.moves(*given)
            # Added in the world, so that a network that moves nothing gives the query cloud to the bit.
            joints = torch.cat([query[None], query + (steps @ moves[..., None])[..., 0]])
        by_view = [part.unflatten(0, (-1, frames)).transpose(1, 2) for part in (fused, confidence, drawn[0])]
        vertices = None if self.surface is None else self.surface(joints[-1][:, config.target(frames)])
        return UstHandOutput(*by_view, query, valid, anchors.unflatten(0, (-1, frames)), joints, moves, vertices)

    def _query(self, sight: _Sight, mean: Tensor, mode: Tensor, frames: int,
               start: Tensor | None) -> tuple[Tensor, Tensor]:
        """The query cloud (B, T, 21, 3), world, meaningless where it is not valid (B, T, 21)."""
        target = self.config.target(frames)
        if start is None:
            points, valid = sight.triangulated(mode, self.config.start)
            return (part.unflatten(0, (-1, frames)) for part in (points, valid))
        both, valid = sight.triangulated(torch.cat([mean, mode], 2), self.config.start)
        plain, points = both.unflatten(0, (-1, frames)).split(JOINT_COUNT, 2)
        plain_valid, valid = valid.unflatten(0, (-1, frames)).split(JOINT_COUNT, 2)
        # What the flow's mode changes is added to the given joints.
        shift = torch.where((plain_valid & valid)[..., None], points - plain, 0.0)[:, target]
        given = torch.isfinite(start).all(-1)
        points, valid = points.clone(), valid.clone()
        points[:, target] = torch.where(given[..., None], start + shift, points[:, target])
        valid[:, target] = given
        return points, valid

    def interact(self, nodes: Tensor, confidence: Tensor, mask: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """F_fuse (N, V, 21, W) of N frames, and what the flow makes of latents (M, N, V, 21, 2). Others as of
        Interaction."""
        fused = self.interaction(nodes, confidence, mask)
        return fused, self.flow(latents, fused)

    def moves(self, own: Tensor, known: Tensor, there: Tensor, spread: Tensor, whitening: Tensor, seconds: Tensor,
              mean: Tensor, variance: Tensor, maps: Tensor, fused: Tensor, confidence: Tensor, projection: Tensor,
              cameras: Tensor, lift: Tensor) -> Tensor:
        """Moves (L, B, T, 21, 3) of the query cloud, after every block, in its standard deviations.

        own: (B·T, M + 1, 21, 3) the query cloud and the anchors, in the palm's frame.  Others as of Clouds, Views and
        ViewGeometry."""
        frames = known.shape[1]
        described = self.points(own, Views(ViewGeometry(projection, cameras, lift, self.config.image_size), mean,
                                           variance, maps, fused, confidence))
        query, anchors, query_features, anchor_features = (
            part.unflatten(0, (-1, frames)) for part in (own[:, 0], own[:, 1:].flatten(1, 2), described[:, 0],
                                                         described[:, 1:].flatten(1, 2)))
        moves = self.transformer(Clouds(query, known, anchors, there, query_features, anchor_features, spread,
                                        whitening, seconds, self.config.target(frames)))
        return torch.stack(moves) if moves else query.new_zeros((0, *query.shape))

    def _clouds(self, frame: HandFrame, query: Tensor, valid: Tensor, anchors: Tensor, sight: _Sight,
                parts: tuple[Tensor, ...], seconds: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What takes moves to steps in the world (B, T, 21, 3, 3), metres: square roots of the covariances of the query
        cloud; and the arguments of `moves`. parts: mean, maps and F_fuse of the views."""
        frames, config = query.shape[1], self.config
        mean, features, fused = parts
        spread = sight.spread(torch.where(valid[..., None], query, torch.nan).flatten(0, 1), mean)
        turn = frame.rotation[:, None, None]
        spread = spread.unflatten(0, (-1, frames)).to(query.dtype)
        each = HandFrame(frame.rotation.repeat_interleave(frames, 0), frame.origin.repeat_interleave(frames, 0))
        geometry = view_geometry(each, sight.K, sight.pose, config.image_size)
        there = torch.isfinite(anchors).all(-1)
        near = torch.where(there[..., None], anchors, query.flatten(0, 1)[:, None])
        clouds = torch.cat([query.flatten(0, 1)[:, None], near], 1)
        own = each.from_world(clouds.flatten(1, 2)).unflatten(1, clouds.shape[1:3])
        local = turn.mT @ spread @ turn / HAND_UNIT
        return spread @ turn, (
            own, valid, there.flatten(1).unflatten(0, (-1, frames)), local, inverse_symmetric_3x3(local),
            seconds - seconds[:, config.target(frames), None], mean, sight.variance, features, fused, sight.confidence,
            geometry.projection, geometry.cameras, geometry.lift)


class _Sight(NamedTuple):
    """What N frames are seen by: K (N, V, 3, 3), pose (N, V, 3, 4), mask (N, V), and their Gaussians' variance
    (N, V, 21, 2) cells² and confidence (N, V, 21)."""

    K: Tensor
    pose: Tensor
    mask: Tensor
    variance: Tensor
    confidence: Tensor
    image_size: int

    def observed(self, cells: Tensor) -> Observations:
        """As seen at cells (N, V, P, 2), P a multiple of 21."""
        times = cells.shape[2] // JOINT_COUNT
        cell = self.image_size / HEATMAP_SIZE
        xy, covariance = normalised(cells_to_pixels(cells, self.image_size),
                                    self.variance.repeat(1, 1, times, 1) * cell ** 2, self.K)
        return Observations(xy, covariance, self.pose, self.mask[..., None].expand(xy.shape[:-1]))

    def triangulated(self, cells: Tensor, method: str) -> tuple[Tensor, Tensor]:
        """Points (N, P, 3), world, of cells (N, V, P, 2), and which are valid (N, P)."""
        weights = self.confidence.repeat(1, 1, cells.shape[2] // JOINT_COUNT)
        if method == 'confidence':
            found = triangulate('ug_dlt', self.observed(cells), weights)
        else:
            with torch.no_grad():
                found = triangulate('refined', self.observed(cells), iterations=ITERATIONS, unweighted_spare=False)
        return torch.where(found.valid[..., None], found.points, 0.0), found.valid

    @torch.no_grad()
    def lifted(self, drawn: Tensor) -> Tensor:
        """Anchors (N, M, 21, 3), world, NaN where not triangulated, of hypotheses (M, N, V, 21, 2): every one by
        confidence-weighted DLT."""
        count = len(drawn)
        cells = drawn.permute(1, 2, 0, 3, 4).flatten(2, 3)
        observed = self.observed(cells)
        points, _ = triangulate_dlt(observed.xy, self.pose, self.confidence.repeat(1, 1, count), observed.valid)
        return points.unflatten(1, (count, JOINT_COUNT))

    def spread(self, points: Tensor, mean: Tensor) -> Tensor:
        """See coarse_spread; of points (N, 21, 3), NaN where unknown."""
        return coarse_spread(points.detach(), self.observed(mean.detach()))


def _filled(points: Tensor, valid: Tensor, target: int) -> Tensor:
    """Points (B, T, 21, 3) with the invalid ones in the middle of the valid ones of their frame; a frame without any is
    that of the target."""
    count = valid.sum(2)[..., None, None]
    middle = torch.where(valid[..., None], points, 0.0).sum(2, keepdim=True) / count.clamp_min(1)
    filled = torch.where(valid[..., None], points, middle)
    return torch.where(count > 0, filled, filled[:, target, None])


def save_ust_hand(path: Path, network: UstHand) -> None:
    """Store weights and configuration as safetensors."""
    save_network(path, network, network.config.to_dict())


def load_ust_hand(path: Path) -> UstHand:
    """The network stored at `path`, in eval mode. Raises ConfigError naming the file and what is wrong with it."""
    return load_stored(path, 'UstHand', lambda config: UstHand(UstHandConfig.from_dict(config)))
