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
from hand_unc_ros.networks.point_transformer import ALL
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
    vertices: (B, N, 3) of the frame that is asked for, None without a surface.

    Of the frame that is asked for alone, `joints`, `moves` and `anchors` have that frame, and the first two what the last
    block says."""

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
    """What runs UstHand.interact, and UstHand.moves or last_moves: themselves, or another runtime."""

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

    def stages(self, alone: bool = False) -> Stages:
        """The learned parts by torch. alone: for the frame that is asked for, as of `fuse`."""
        return Stages(self.interact, self.last_moves if alone else self.moves)

    def fuse(self, maps: ViewMaps, cameras: Cameras, start: Tensor | None = None, latents: Tensor | None = None,
             stages: Stages | None = None, alone: bool = False) -> UstHandOutput:
        """maps: parts (B, V, T, …).  start: (B, 21, 3) metres, world, NaN where unknown: joints of the frame that is
        asked for, which stand for the triangulation of the views' means there.  latents: (M, B, V, T, 21, 2), drawn by
        default.  stages: how the learned parts are run, by torch by default.  alone: give the frame that is asked for
        alone, at less cost."""
        config, stages = self.config, stages or self.stages(alone)
        with torch.autocast(cameras.K.device.type, enabled=False):
            size, frames = cameras.K.shape[:3], cameras.K.shape[2]
            target, wanted = config.target(frames), config.asked(frames) if alone else ALL
            # Other frames' anchors are looked at by blocks before the last.
            anchored = wanted if len(self.transformer.blocks) < 2 else ALL
            # Frames by themselves, N = B·T, each with its V views.
            mean, variance, nodes, features = (part.transpose(1, 2).flatten(0, 1) for part in maps[:4])
            K, pose, mask = (part.transpose(1, 2).flatten(0, 1) for part in cameras[:3])
            confidence = confidence_of(variance) if config.heatmap_confidence else torch.ones_like(variance[..., 0])
            confidence = torch.where(mask[..., None], confidence, 0.0)
            if latents is None:
                generator = None if self.training else torch.Generator(K.device).manual_seed(SEED)
                latents = torch.randn((config.hypotheses, *size, JOINT_COUNT, 2), generator=generator, device=K.device)
            latents = latents.transpose(2, 3)[:, :, anchored].flatten(1, 2).to(mean.dtype)
            fused, mode, drawn = stages.interact(nodes, confidence, mask, latents)
            mode = mode * variance.sqrt() + mean
            sight = _Sight(K, pose, mask, variance, confidence, config.image_size)
            coarse, valid = self._query(sight, mean, mode, frames, start)
            near = sight.of(frames, anchored)
            anchors = near.lifted(drawn * near.variance.sqrt() + of_frames(mean, frames, anchored))
            query = _filled(coarse, valid, target)
            frame = palm_frame(query[:, target].detach())
            steps, given = self._clouds(frame, query, valid, anchors, sight, (mean, features, fused), cameras.seconds)
            moves = stages.moves(*given)
            # Added in the world, so that a network that moves nothing gives the query cloud to the bit.
            joints = torch.cat([query[None, :, wanted],
                                query[:, wanted] + (steps[:, wanted] @ moves[..., None])[..., 0]])
        by_view = [part.unflatten(0, (-1, frames)).transpose(1, 2) for part in (fused, confidence, mode)]
        vertices = None if self.surface is None else self.surface(joints[-1][:, 0 if alone else target])
        anchors = anchors.unflatten(0, (size[0], -1))[:, wanted if anchored == ALL else ALL]
        return UstHandOutput(*by_view, query, valid, anchors, joints, moves, vertices)

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

    def interact(self, nodes: Tensor, confidence: Tensor, mask: Tensor,
                 latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F_fuse (N, V, 21, W) of N frames, the flow's mode (N, V, 21, 2), and what it makes of latents (M, n, V, 21,
        2), of all frames or of those that are asked for. Others as of Interaction."""
        fused = self.interaction(nodes, confidence, mask)
        frames = len(fused) // latents.shape[1]
        asked = of_frames(fused, frames, self.config.asked(frames))
        return fused, self.flow(torch.zeros_like(fused[..., :2]), fused), self.flow(latents, asked)

    def moves(self, query: Tensor, anchors: Tensor, known: Tensor, there: Tensor, spread: Tensor, whitening: Tensor,
              seconds: Tensor, mean: Tensor, variance: Tensor, maps: Tensor, fused: Tensor, confidence: Tensor,
              projection: Tensor, cameras: Tensor, lift: Tensor, alone: bool = False) -> Tensor:
        """Moves (L, B, T, 21, 3) of the query cloud, after every block, in its standard deviations; alone: (1, B, 1, 21,
        3), after the last one of the frame that is asked for.

        query: (B, T, 21, 3) and anchors: (B, t, M, 21, 3), in the palm's frame, t as of Clouds.  Others as of Clouds,
        Views and ViewGeometry."""
        frames = known.shape[1]
        anchored = ALL if anchors.shape[1] == frames else self.config.asked(frames)

        def views(part: slice) -> Views:
            geometry, rest = (projection, cameras, lift), (mean, variance, maps, fused, confidence)
            return Views(ViewGeometry(*(of_frames(one, frames, part) for one in geometry), self.config.image_size),
                         *(of_frames(one, frames, part) for one in rest))

        query_features = self.points(query.flatten(0, 1)[:, None], views(ALL))[:, 0].unflatten(0, (-1, frames))
        anchor_features = self.points(anchors.flatten(0, 1), views(anchored)).unflatten(0, anchors.shape[:2])
        moves = self.transformer(Clouds(query, known, anchors.flatten(2, 3), there, query_features,
                                        anchor_features.flatten(2, 3), spread, whitening, seconds,
                                        self.config.target(frames)), alone)
        if not moves:
            return torch.zeros_like(query[None, :, :1] if alone else query[None])[:0]
        return torch.stack(moves[-1:] if alone else moves)

    def last_moves(self, *inputs: Tensor) -> Tensor:
        """As `moves`, of the frame that is asked for alone."""
        return self.moves(*inputs, alone=True)

    def _clouds(self, frame: HandFrame, query: Tensor, valid: Tensor, anchors: Tensor, sight: _Sight,
                parts: tuple[Tensor, ...], seconds: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """What takes moves to steps in the world (B, T, 21, 3, 3), metres: square roots of the covariances of the query
        cloud; and the arguments of `moves`. parts: mean, maps and F_fuse of the views."""
        size, frames = query.shape[:2]
        target = self.config.target(frames)
        mean, features, fused = parts
        spread = sight.spread(torch.where(valid[..., None], query, torch.nan).flatten(0, 1), mean)
        turn = frame.rotation[:, None, None]
        spread = spread.unflatten(0, (-1, frames)).to(query.dtype)
        each = HandFrame(frame.rotation.repeat_interleave(frames, 0), frame.origin.repeat_interleave(frames, 0))
        geometry = view_geometry(each, sight.K, sight.pose, self.config.image_size)
        anchors = anchors.unflatten(0, (size, -1))
        there = torch.isfinite(anchors).all(-1)
        beside = query if anchors.shape[1] == frames else query[:, self.config.asked(frames)]
        anchors = torch.where(there[..., None], anchors, beside[:, :, None])
        own = [frame.from_world(points.flatten(1, -2)).unflatten(1, points.shape[1:-1]) for points in (query, anchors)]
        local = turn.mT @ spread @ turn / HAND_UNIT
        return spread @ turn, (
            *own, valid, there.flatten(2), local, inverse_symmetric_3x3(local),
            seconds - seconds[:, target, None], mean, sight.variance, features, fused, sight.confidence,
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

    def of(self, frames: int, wanted: slice) -> _Sight:
        """What the wanted ones of so many frames of each window are seen by."""
        return _Sight(*(of_frames(part, frames, wanted) for part in self[:5]), self.image_size)

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


def of_frames(part: Tensor, frames: int, wanted: slice) -> Tensor:
    """(B·t, …), the wanted ones of the frames (B·T, …) of windows of so many."""
    return part if wanted == ALL or frames == 1 else part.unflatten(0, (-1, frames))[:, wanted].flatten(0, 1)


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
