"""UST-Hand's per-view stage: 2D joints with confidence, and the features of joints and of places (Sections 3.1, 3.2).

The paper's is a ResNet with heatmaps. A frozen landmark network may stand in its place: its landmarks are the joints,
moved by a learned, bounded offset, and the confidence of a heatmap is then the peak of its Gaussian on that grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.methods.ust_hand.config import UstHandConfig
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, Gaussian2D, Gaussian2DNet
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_gaussians import LEVEL_SIDES, LandmarkGaussianNet, LandmarkMaps, maps_in

# Maps that the spatial-aware block makes of the coarsest level for each joint.
GROUPS = 8
# Beside its features a node of the graph has its place in the crop and the logarithm of its standard deviations.
PLACE_SIZE = 4


class ViewMaps(NamedTuple):
    """What is known of crops (…), of each by itself.

    mean, variance: (…, 21, 2) cells and cells².  nodes: (…, 21, D), the graph's.  maps: (…, C, S, S), F_ms with its
    positional encoding.  presence: (…) logits that a crop shows a hand.  log_heatmap: (…, 21, 32, 32), None from a
    landmark network.
    """

    mean: Tensor
    variance: Tensor
    nodes: Tensor
    maps: Tensor
    presence: Tensor
    log_heatmap: Tensor | None = None


class ViewNet(nn.Module):
    """Crops, or what a frozen landmark network says of them, to ViewMaps."""

    def __init__(self, config: UstHandConfig) -> None:
        super().__init__()
        self.config, channels = config, config.view_channels
        self.net = Gaussian2DNet(config.view) if config.landmarks is None else LandmarkGaussianNet(config.landmarks)
        if config.landmarks is None:
            side = config.view.image_size >> len(config.view.blocks) + 1
        else:
            side = LEVEL_SIDES[config.landmarks.level_count - 1]
        self.offset = nn.Linear(channels, 2)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        # SAIGB: the coarsest level becomes GROUPS maps for each joint, and these the joint's pose features.
        self.groups = nn.Conv2d(channels, JOINT_COUNT * GROUPS, 1)
        self.pose = nn.Linear(GROUPS * side ** 2, config.width)

    @property
    def node_size(self) -> int:
        """D of ViewMaps."""
        return self.config.width + 2 * self.config.view_channels + PLACE_SIZE

    def forward(self, images: Tensor) -> ViewMaps:
        """images: (N, 3, S, S) in [0, 1], RGB."""
        return self.described(self.net(images))

    def of_batch(self, batch: Mapping[str, Tensor]) -> ViewMaps:
        """Those of the images of a batch (B, V, T), or of what was kept of them; see `maps_in`."""
        if 'images' in batch:
            images = batch['images']
            found = self(image_tensor(images.flatten(0, 2)[None])[0])
            shape = images.shape[:3]
        else:
            kept = maps_in(batch)
            shape = kept.landmarks.shape[:3]
            found = self.described(self.net.stage(LandmarkMaps(*(part.flatten(0, 2) for part in kept[:5]),
                                                               [level.flatten(0, 2) for level in kept.levels])))
        return ViewMaps(*(None if part is None else part.unflatten(0, shape) for part in found))

    def described(self, out: Gaussian2D) -> ViewMaps:
        """Of N crops, whose Gaussians and levels these are."""
        maps = multi_scale(out.levels)
        with torch.autocast(maps.device.type, enabled=False):
            maps, pooled = maps.float(), out.pooled.float()
            sigma = out.variance.sqrt()
            mean = out.mean + self.config.offset_sigmas * sigma * torch.tanh(self.offset(pooled))
            local = sampled(maps, mean)
            pose = self.groups(out.levels[-1].float()).unflatten(1, (JOINT_COUNT, GROUPS)).flatten(2)
            pose = self.pose(F.leaky_relu(pose, 0.1))
            place = torch.cat([mean / HEATMAP_SIZE - 0.5, 0.5 * out.variance.log()], -1)
            nodes = torch.cat([pose, local, pooled, place], -1)
            return ViewMaps(mean, out.variance, nodes, maps + sine_encoding(maps), out.presence, out.log_heatmap)


def confidence_of(variance: Tensor) -> Tensor:
    """(…) peaks of Gaussians of variance (…, 2) cells² on the heatmap's grid: the mass in the cell of the mean, in
    (0, 1) (Eq. 2)."""
    reach = 0.5 / (2 * variance).sqrt()
    return torch.erf(reach).prod(-1)


def multi_scale(levels: tuple[Tensor, ...]) -> Tensor:
    """F_ms (N, C, S, S) out of levels fine to coarse (N, C, s, s), by cascaded upsampling."""
    maps = levels[-1]
    for finer in reversed(levels[:-1]):
        maps = finer + F.interpolate(maps, size=finer.shape[-2:], mode='bilinear', align_corners=False)
    return maps


def sampled(maps: Tensor, cells: Tensor) -> Tensor:
    """(N, P, C) of maps (N, C, S, S) at places (N, P, 2) in cells of the heatmap, bilinear; zero outside."""
    grid = (2 * cells + 1) / HEATMAP_SIZE - 1
    return F.grid_sample(maps, grid[:, :, None].clamp(-2, 2), align_corners=False)[..., 0].transpose(1, 2)


def sine_encoding(maps: Tensor) -> Tensor:
    """(C, S, S) 2D sine positional encoding of maps (…, C, S, S): sines and cosines of rows and columns, C / 4
    frequencies of each."""
    channels, side = maps.shape[-3], maps.shape[-1]
    count = -(-channels // 4)
    rates = math.pi * torch.exp2(torch.linspace(0, math.log2(side / 2), count, device=maps.device))
    angles = rates[:, None] * ((torch.arange(side, device=maps.device) + 0.5) / side)
    waves = torch.cat([angles.sin(), angles.cos()])
    rows, columns = (part.expand(-1, side, side) for part in (waves[:, :, None], waves[:, None, :]))
    return torch.cat([rows, columns])[:channels].to(maps.dtype)
