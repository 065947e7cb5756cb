"""JUMP-Hand's 2D stage: a Gaussian per joint and view (supplement, section 1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.networks.backbone import ResNet
from hand_unc_ros.networks.fpn import FeaturePyramid
from hand_unc_ros.networks.weights import read_weights, stored_network

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
HEATMAP_SIZE = 32
VARIANCE_FLOOR_CELLS2 = 1e-3


@dataclass(frozen=True)
class Gaussian2DConfig:
    """Sizes of the network. image_size: side of the square crop in pixels."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    fpn_channels: int = 256
    image_size: int = 256

    @property
    def level_count(self) -> int:
        """How many resolutions its features have, from HEATMAP_SIZE² cells down."""
        coarsest = self.image_size >> len(self.blocks) + 1
        return (HEATMAP_SIZE // max(coarsest, 1)).bit_length()

    def to_dict(self) -> dict:
        """The configuration as it is stored with the weights."""
        return asdict(self)


CONFIGS = {
    'full': Gaussian2DConfig(),
    'lite': Gaussian2DConfig(blocks=(2, 2, 2, 2), width=32, fpn_channels=64, image_size=128),
}


def gaussian_2d_config(name: str) -> Gaussian2DConfig:
    """The named size. Raises ConfigError naming the known ones."""
    if name not in CONFIGS:
        raise ConfigError(f'unknown network size {name!r}; choose one of {", ".join(CONFIGS)}')
    return CONFIGS[name]


class Gaussian2D(NamedTuple):
    """mean: (B, 21, 2) x, y in heatmap cells.  variance: (B, 21, 2) cells².
    log_heatmap: (B, 21, 32, 32), sums to 1 after exp.  presence: (B,) logit that the crop shows a hand.
    pooled: (B, 21, C) features under each joint's heatmap.  levels: fused features (B, C, s, s), fine to coarse."""

    mean: Tensor
    variance: Tensor
    log_heatmap: Tensor
    presence: Tensor
    pooled: Tensor
    levels: tuple[Tensor, ...]


class Gaussian2DNet(nn.Module):
    """Image crops to joint means and variances in units of cells of the 32×32 heatmap.

    The cell is the unit in which the gate's softmax of −σ² neither collapses to one view (as it does in
    pixel²) nor stays uniform (as it does in [0, 1] units).
    """

    def __init__(self, config: Gaussian2DConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(config.blocks, config.width)
        self.fpn = FeaturePyramid(self.backbone.channels, config.fpn_channels, HEATMAP_SIZE)
        self.heatmap = nn.Conv2d(config.fpn_channels, JOINT_COUNT, 1)
        self.variance = nn.Linear(config.fpn_channels, 2)
        self.presence = nn.Linear(self.backbone.channels[-1], 1)
        nn.init.kaiming_normal_(self.variance.weight, a=0.01)
        nn.init.constant_(self.variance.bias, 1.0)
        # A sigmoid's mass over 1024 cells must start small enough for the peak to show.
        nn.init.constant_(self.heatmap.bias, -4.0)
        self.register_buffer('cells', torch.arange(HEATMAP_SIZE, dtype=torch.float32), persistent=False)

    def forward(self, images: Tensor) -> Gaussian2D:
        """images: (B, 3, S, S) in [0, 1], RGB, S = config.image_size."""
        mean = images.new_tensor(IMAGE_MEAN)[:, None, None]
        std = images.new_tensor(IMAGE_STD)[:, None, None]
        maps = self.backbone((images - mean) / std)
        levels = self.fpn(maps)
        features = levels[0]
        presence = self.presence(maps[-1].mean(dim=(2, 3))).squeeze(1)

        logits = self.heatmap(features).flatten(2).float()
        # The logarithm of the sigmoid, in a form that exported graphs do not compute as log(0).
        log_p = -F.softplus(-logits)
        log_p = log_p - log_p.logsumexp(dim=2, keepdim=True)
        p = log_p.exp()
        mu = self._soft_argmax(p)
        pooled = torch.bmm(p.to(features.dtype), features.flatten(2).transpose(1, 2))
        variance = F.softplus(self.variance(pooled).float()) + VARIANCE_FLOOR_CELLS2
        return Gaussian2D(mu, variance, log_p.unflatten(2, (HEATMAP_SIZE, HEATMAP_SIZE)),
                          presence.float(), pooled, tuple(levels))

    def _soft_argmax(self, p: Tensor) -> Tensor:
        """Mean (B, 21, 2) x, y of p (B, 21, 1024), in float32 under any autocast: a matrix product would run
        in half precision, whose steps are an eighth of a cell."""
        square = p.unflatten(2, (HEATMAP_SIZE, HEATMAP_SIZE))
        return torch.stack([(square.sum(dim=2) * self.cells).sum(dim=2),
                            (square.sum(dim=3) * self.cells).sum(dim=2)], dim=2)


def read_view_state(path: Path) -> dict[str, Tensor]:
    """The state of a Gaussian2DNet that is stored alone, or as the part `view` of a whole network. Raises ConfigError
    for a file without one."""
    name = stored_network(path)
    if name and name != Gaussian2DNet.__name__:
        state = read_weights(path, name)[1]
        view = {key.removeprefix('view.'): value for key, value in state.items() if key.startswith('view.')}
        if view:
            return view
    return read_weights(path, Gaussian2DNet.__name__)[1]


def cells_to_pixels(cells: Tensor, image_size: int) -> Tensor:
    """Heatmap cell coordinates (..., 2) to pixel coordinates of the crop, centres at integers."""
    stride = image_size / HEATMAP_SIZE
    return (cells + 0.5) * stride - 0.5


def pixels_to_cells(pixels: Tensor, image_size: int) -> Tensor:
    """Inverse of `cells_to_pixels`."""
    stride = image_size / HEATMAP_SIZE
    return (pixels + 0.5) / stride - 0.5
