"""A per-view stage out of MediaPipe's frozen landmark network: Gaussians of the joints, and features for a decoder.

The trunk knows real hands. Its landmarks, less the shifts that the error head knows, are the means and that head's
numbers the variances, neither of them altered; what is learned are 1×1 projections of the trunk's maps, and of its
features at the landmarks, to the channels of a decoder. As everything before them is frozen, it can be computed once
and kept (`LandmarkMaps`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.joints import ORDERS
from hand_unc_ros.networks.acceleration import Agreement, choose_runner
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, POOLED_CHANNELS, TAP_CHANNELS, HandLandmarkNet, HandOutput
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, Gaussian2D, pixels_to_cells
from hand_unc_ros.networks.landmark_networks import PRESENCE_THRESHOLD
from hand_unc_ros.networks.landmark_errors import JudgedLandmarks, LandmarkErrors
from hand_unc_ros.networks.landmark_evidence import FEATURE_CHANNELS
from hand_unc_ros.networks.openvino_runtime import has_openvino
from hand_unc_ros.networks.placement import choose_precision

# The taps that become levels: 28², 14² (the later of two) and 7² cells.
LEVEL_TAPS = (1, 3, 4)
LEVEL_SIDES = (28, 14, 7)
PUBLIC = list(ORDERS['mediapipe'])
# By how much the runtimes of the trunk may differ, px of the crop.
SAME_LANDMARKS_PX = 0.2
# Keeps the logit of a probability finite.
LEAST_PROBABILITY = 1e-4
# Of the trunk's features before they are normalised, so that a dead cell stays at zero.
NORM_EPS = 1e-3


@dataclass(frozen=True)
class LandmarkGaussianConfig:
    """channels: of the levels and of the features of a joint.  level_count: of LEVEL_SIDES, from the fine end.
    dropout: on the trunk's normalised features, in training: what synthetic images show of single channels does not
    hold on real ones.  trunk, variance_head: fingerprints of the weights that the projections were trained with; ''
    before training."""

    channels: int = 64
    level_count: int = 3
    dropout: float = 0.2
    trunk: str = ''
    variance_head: str = ''

    def __post_init__(self) -> None:
        if not 1 <= self.level_count <= len(LEVEL_TAPS):
            raise ConfigError(f'level_count is {self.level_count}; the landmark network has 1 … {len(LEVEL_TAPS)}')
        if self.channels < 1:
            raise ConfigError(f'channels is {self.channels}; it must be at least 1')

    @property
    def image_size(self) -> int:
        """Side of the crops in pixels."""
        return HAND_SIZE

    def to_dict(self) -> dict:
        """The configuration as it is stored with the weights."""
        return asdict(self)


class LandmarkMaps(NamedTuple):
    """What the frozen networks say of N crops, in the public order of joints.

    landmarks: (N, 21, 2) pixels of the crop.  log_sigma: (N, 21, 2) of their standard deviations in pixels.
    presence: (N,) probability of a hand.  local: (N, 21, FEATURE_CHANNELS), the trunk's maps at the landmarks.
    whole: (N, 1152) features of the whole crop.  levels: the maps (N, C, S, S) after LEVEL_TAPS, fine to coarse.
    """

    landmarks: Tensor
    log_sigma: Tensor
    presence: Tensor
    local: Tensor
    whole: Tensor
    levels: list[Tensor]


class FrozenLandmarks:
    """The trunk and its error head, which no optimiser and no stored network sees. The trunk runs by torch until
    `accelerate`."""

    def __init__(self, trunk: HandLandmarkNet, head: LandmarkErrors) -> None:
        self.trunk, self.head = (network.eval().requires_grad_(False) for network in (trunk, head))
        self.trunk.to(memory_format=torch.channels_last)
        self._run: Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]] = self.trunk.trunk

    def accelerate(self, batch: int) -> None:
        """On the CPU, by OpenVINO where it is installed, for batches of up to about this size."""
        if has_openvino():
            example = torch.rand((batch, 3, HAND_SIZE, HAND_SIZE), generator=torch.Generator().manual_seed(0))
            agreement = Agreement(lambda out: self.trunk.heads(*out).landmarks[..., :2], SAME_LANDMARKS_PX)
            self._run = choose_runner(self.trunk.trunk, example, choose_precision('auto', torch.device('cpu')),
                                      'openvino', agreement).run

    @torch.no_grad()
    def __call__(self, crops: Tensor, level_count: int = len(LEVEL_TAPS)) -> LandmarkMaps:
        """crops: (N, 3, 224, 224) RGB in [0, 1]."""
        for network in (self.trunk, self.head):
            network.to(crops.device)
        out = self.trunk.heads(*self._run(crops.contiguous(memory_format=torch.channels_last)))
        with torch.autocast(crops.device.type, enabled=False):
            return landmark_maps(out, self.head.judge(out), level_count)


def landmark_maps(out: HandOutput, judged: JudgedLandmarks, level_count: int = len(LEVEL_TAPS)) -> LandmarkMaps:
    """The first `level_count` levels, and the rest, of the trunk's output and what the error head makes of it."""
    return LandmarkMaps(*(part[:, PUBLIC] for part in judged[:2]), out.presence, judged.features[:, PUBLIC], out.pooled,
                        [out.maps[tap] for tap in LEVEL_TAPS[:level_count]])


class LandmarkGaussianNet(nn.Module):
    """Crops of 224 px, or what was kept of them, to joint means and variances in cells of a grid of 32², and features.

    State beside the parameters: the frozen networks, where `attach` gave them.
    """

    def __init__(self, config: LandmarkGaussianConfig) -> None:
        super().__init__()
        self.config = config
        self.projections = nn.ModuleList(nn.Conv2d(TAP_CHANNELS[tap], config.channels, 1)
                                         for tap in LEVEL_TAPS[:config.level_count])
        self.local = nn.Linear(FEATURE_CHANNELS, config.channels)
        self.whole = nn.Linear(POOLED_CHANNELS, config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self._frozen: tuple[FrozenLandmarks, ...] = ()

    def attach(self, frozen: FrozenLandmarks) -> None:
        """Give it the networks by which it reads images; they become no part of its state."""
        self._frozen = (frozen,)

    def forward(self, images: Tensor) -> Gaussian2D:
        """images: (N, 3, 224, 224) in [0, 1], RGB. Raises ConfigError without the frozen networks."""
        if not self._frozen:
            raise ConfigError('this network reads images by the landmark network, which was not loaded; fetch it with'
                              ' `hand-unc models get landmarks`')
        return self.stage(self._frozen[0](images, self.config.level_count))

    def stage(self, maps: LandmarkMaps) -> Gaussian2D:
        """The same, from what the frozen networks say; no heatmap is made."""
        device = maps.landmarks.device.type
        with torch.autocast(device, enabled=False):
            mean = pixels_to_cells(maps.landmarks.float(), HAND_SIZE)
            variance = (2 * maps.log_sigma.float()).exp() / (HAND_SIZE / HEATMAP_SIZE) ** 2
            presence = torch.logit(maps.presence.float(), LEAST_PROBABILITY)
            local, whole = (self.dropout(F.layer_norm(part.float(), part.shape[-1:])) for part in maps[3:5])
            levels = [self._normed(level) for level in maps.levels[:self.config.level_count]]
        pooled = self.local(local) + self.whole(whole)[:, None]
        return Gaussian2D(mean, variance, None, presence, pooled,
                          tuple(project(level) for project, level in zip(self.projections, levels)))

    def _normed(self, level: Tensor) -> Tensor:
        """Every cell's channels with mean 0 and variance 1; dropped out channel by channel for the whole map."""
        level = level.float()
        level = level - level.mean(1, keepdim=True)
        level = level * (level.square().mean(1, keepdim=True) + NORM_EPS).rsqrt()
        return F.dropout2d(level, self.config.dropout, self.training)


def maps_in(batch: Mapping[str, Tensor]) -> LandmarkMaps:
    """The LandmarkMaps in a batch: entries by their names, and the levels as level_0, level_1, …."""
    levels = sorted(name for name in batch if name.startswith('level_'))
    return LandmarkMaps(*(batch[name] for name in LandmarkMaps._fields[:5]), [batch[name] for name in levels])


def seen_views(batch: Mapping[str, Tensor]) -> Tensor:
    """(B, V) bool, the views of a batch that the live pipeline would fuse: those that are there and show a hand."""
    return batch['view_mask'] & (batch['presence'].float() > PRESENCE_THRESHOLD)


def random_maps(count: int, generator: torch.Generator) -> LandmarkMaps:
    """Those of `count` crops, plausible in size, for comparisons of runtimes and for tests."""
    def normal(*shape: int) -> Tensor:
        return torch.randn((count, *shape), generator=generator)

    return LandmarkMaps(HAND_SIZE / 2 + 30 * normal(21, 2), 1 + 0.3 * normal(21, 2), torch.full((count,), 0.99),
                        normal(21, FEATURE_CHANNELS), normal(POOLED_CHANNELS).relu(),
                        [normal(TAP_CHANNELS[tap], side, side) for tap, side in zip(LEVEL_TAPS, LEVEL_SIDES)])
