"""The feature pyramid of JUMP-Hand's 2D stage (supplement, section 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 8


class FeaturePyramid(nn.Module):
    """Laterals by 1×1 convolution and GroupNorm; top-down by bilinear ×2, concatenation, 3×3 conv.

    The output has `size`² cells. Levels finer than that are averaged down to it before they are
    concatenated: with 256 px images the text's three steps pass from 8 to 32 cells that way.
    """

    def __init__(self, channels_in: tuple[int, ...], channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), nn.GroupNorm(GROUPS, channels))
            for c in channels_in)
        self.fuse = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False),
                          nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
            for _ in channels_in[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """maps: fine to coarse, (B, C_i, S_i, S_i). Returns the fused levels, each (B, channels, s, s), one per
        resolution and fine to coarse; the first has `size`² cells."""
        laterals = [conv(level) for conv, level in zip(self.lateral, maps)]
        x = laterals[-1]
        levels = {x.shape[-1]: x}
        for lateral, fuse in zip(reversed(laterals[:-1]), reversed(self.fuse)):
            if lateral.shape[-1] > self.size:
                lateral = F.avg_pool2d(lateral, lateral.shape[-1] // self.size)
            if x.shape[-1] != lateral.shape[-1]:
                x = F.interpolate(x, scale_factor=2.0, mode='bilinear', align_corners=False)
            x = fuse(torch.cat([x, lateral], dim=1))
            levels[x.shape[-1]] = x
        return list(levels.values())[::-1]
