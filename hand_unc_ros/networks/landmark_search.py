"""Looks for landmarks in the maps of the network that gave them, around the places where it puts them.

The network reads its landmarks off features that are averaged over the whole crop. Here every landmark is a heatmap: how
well each cell of the maps answers to what is asked for it, times a Gaussian about the network's own landmark.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hand_unc_ros.networks.blaze_hand import HAND_SIZE, POOLED_CHANNELS, TAP_CHANNELS
from hand_unc_ros.networks.landmark_evidence import FEATURE_CHANNELS, LANDMARKS, MAP_SIDES, MAP_TAPS, LandmarkEvidence

HIDDEN = 128
# In training: of features, and of whole channels of the coarsest map.
DROPOUT, CHANNEL_DROPOUT = 0.2, 0.1
CELL_PX = HAND_SIZE / MAP_SIDES[0]
# Standard deviation of the Gaussian before training, in cells, and what one unit of the last layer shifts by, in pixels.
START_REACH, SHIFT_PX = 1.5, 8.0
START_SIGMA_PX = 4.0


class LandmarkSearch(nn.Module):
    """width: channels of the maps that are searched. The trunk's maps come in without the mean and the scale that each
    channel has over the crop, which are of the image's look more than of the hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.levels = nn.ModuleList(nn.Conv2d(TAP_CHANNELS[tap], width, 1) for tap in MAP_TAPS)
        self.mixed = nn.ModuleList([nn.Sequential(_Mix(width), _Mix(width)), _Mix(width), nn.Identity()])
        self.norm = nn.GroupNorm(1, width)
        self.key = nn.Conv2d(width, width, 1)
        self.dropout, self.of_coarsest = nn.Dropout(DROPOUT), nn.Dropout2d(CHANNEL_DROPOUT)
        self.asked = nn.Sequential(nn.Linear(POOLED_CHANNELS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, LANDMARKS * width))
        self.log_reach = nn.Parameter(torch.full((LANDMARKS,), math.log(START_REACH)))
        self.log_gain = nn.Parameter(torch.zeros(LANDMARKS))
        self.trust = nn.Parameter(torch.zeros(LANDMARKS))
        self.landmark = nn.Parameter(0.1 * torch.randn(LANDMARKS, HIDDEN))
        self.local, self.pooled = nn.Linear(FEATURE_CHANNELS, HIDDEN), nn.Linear(POOLED_CHANNELS, HIDDEN)
        self.found, self.moved = nn.Linear(width, HIDDEN), nn.Linear(2, HIDDEN)
        self.hidden, self.out = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 4)
        self.start = nn.Parameter(torch.full((LANDMARKS, 2), math.log(START_SIGMA_PX)))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        cells = torch.arange(float(MAP_SIDES[0]))
        self.register_buffer('cells', torch.cartesian_prod(cells, cells).flip(1), persistent=False)

    def forward(self, evidence: LandmarkEvidence) -> tuple[Tensor, Tensor]:
        """Shift and log σ of the landmarks, both (N, 21, 2) px."""
        seen = self._searched(evidence.maps)
        pooled = self.dropout(_normed(evidence.pooled))
        asked = self.asked(pooled).unflatten(1, (LANDMARKS, self.width))
        scores = torch.bmm(asked, self.key(seen).flatten(2)) / math.sqrt(self.width) * self.log_gain.exp()[:, None]
        places = (evidence.landmarks + 0.5) / CELL_PX - 0.5
        squared = (self.cells - places[:, :, None]).square().sum(-1)
        weights = torch.softmax(scores - squared / 2 * torch.exp(-2 * self.log_reach)[:, None], -1)
        moved = weights @ self.cells - places
        found = torch.bmm(weights, seen.flatten(2).transpose(1, 2).to(weights.dtype))
        hidden = (self.local(self.dropout(_normed(evidence.features))) + self.pooled(pooled)[:, None] + self.landmark
                  + self.found(found) + self.moved(moved))
        hidden = F.gelu(hidden)
        hidden = F.gelu(hidden + self.hidden(self.dropout(hidden)))
        rest, log_sigma = self.out(self.dropout(hidden)).float().split(2, -1)
        return CELL_PX * moved * self.trust.sigmoid()[:, None] + SHIFT_PX * rest, self.start + log_sigma

    def _searched(self, maps: tuple[Tensor, ...]) -> Tensor:
        """(N, width, 28, 28): the maps of all levels, from the coarse end."""
        seen = None
        for level, mixed, part in reversed(list(zip(self.levels, self.mixed, maps))):
            part = F.instance_norm(part.float())
            if seen is None:
                seen = mixed(level(self.of_coarsest(part)))
            else:
                seen = mixed(level(part) + F.interpolate(seen, scale_factor=2, mode='bilinear', align_corners=False))
        return self.norm(seen)


class _Mix(nn.Module):
    """A residual block: a depthwise 5×5 convolution, then two of 1×1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.GroupNorm(1, width)
        self.wider, self.back = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(F.gelu(self.wider(self.norm(self.depthwise(x)))))


def _normed(features: Tensor) -> Tensor:
    return F.layer_norm(features.float(), features.shape[-1:])
