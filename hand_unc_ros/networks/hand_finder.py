"""The coarse pass over a whole frame: where the hand is, how large, and which way it points."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

FRAME_WIDTH, FRAME_HEIGHT = 160, 128
STRIDE = 4
# Side of the box, as a power of e, is regressed relative to this many frame pixels.
REFERENCE_SIDE = 40.0


class Finder(NamedTuple):
    """heatmap: (B, H/4, W/4) logits of the hand's centre.  log_side: (B, H/4, W/4) log of the box side
    over REFERENCE_SIDE.  direction: (B, 2, H/4, W/4) wrist → middle knuckle, unit length in the image."""

    heatmap: Tensor
    log_side: Tensor
    direction: Tensor


def _block(channels_in: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
                         nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class HandFinder(nn.Module):
    """A small encoder-decoder in the manner of CenterNet (objects as points)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.down1 = nn.Sequential(_block(3, w, 2), _block(w, w, 1))
        self.down2 = nn.Sequential(_block(w, 2 * w, 2), _block(2 * w, 2 * w, 1))
        self.down3 = nn.Sequential(_block(2 * w, 4 * w, 2), _block(4 * w, 4 * w, 1))
        self.down4 = nn.Sequential(_block(4 * w, 8 * w, 2), _block(8 * w, 8 * w, 1), _block(8 * w, 8 * w, 1))
        self.lateral3 = nn.Conv2d(4 * w, 4 * w, 1)
        self.top4 = nn.Conv2d(8 * w, 4 * w, 1)
        self.lateral2 = nn.Conv2d(2 * w, 4 * w, 1)
        self.smooth = _block(4 * w, 4 * w, 1)
        self.out = nn.Conv2d(4 * w, 4, 1)
        nn.init.constant_(self.out.bias, 0.0)
        nn.init.constant_(self.out.bias[:1], -4.0)
        self.up = nn.Upsample(scale_factor=2.0, mode='bilinear', align_corners=False)

    def forward(self, frames: Tensor) -> Finder:
        """frames: (B, 3, 128, 160) in [0, 1], RGB."""
        level2 = self.down2(self.down1(frames - 0.5))
        level3 = self.down3(level2)
        level4 = self.down4(level3)
        x = self.lateral3(level3) + self.up(self.top4(level4))
        x = self.smooth(self.lateral2(level2) + self.up(x))
        out = self.out(x).float()
        direction = out[:, 2:4]
        direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-3)
        return Finder(out[:, 0], out[:, 1], direction)


class Found(NamedTuple):
    """score: (B,) in [0, 1].  box: (B, 4) centre x, y, side in frame pixels, and roll in radians:
    the angle by which the crop is turned so that wrist → middle knuckle points up in it."""

    score: Tensor
    box: Tensor


def decode(finder: Finder) -> Found:
    """The best box per frame, its centre refined by the heatmap's mass in a 3×3 window."""
    batch, height, width = finder.heatmap.shape
    probability = finder.heatmap.sigmoid()
    score, index = probability.flatten(1).max(dim=1)
    row, column = index // width, index % width
    rows = torch.arange(batch, device=index.device)
    padded = nn.functional.pad(probability, (1, 1, 1, 1))
    offsets = torch.tensor([-1, 0, 1], device=index.device)
    window = padded[rows[:, None, None], (row[:, None] + 1 + offsets)[:, :, None],
                    (column[:, None] + 1 + offsets)[:, None, :]]
    mass = window.sum(dim=(1, 2)).clamp_min(1e-6)
    y = row + (window.sum(dim=2) * offsets).sum(dim=1) / mass
    x = column + (window.sum(dim=1) * offsets).sum(dim=1) / mass
    side = REFERENCE_SIDE * finder.log_side[rows, row, column].clamp(-3, 3).exp()
    direction = finder.direction[rows, :, row, column]
    roll = torch.atan2(direction[:, 0], -direction[:, 1])
    centre = torch.stack([x, y], dim=1)
    centre = (centre + 0.5) * STRIDE - 0.5
    return Found(score, torch.cat([centre, side[:, None], roll[:, None]], dim=1))
