"""How far the landmarks of a frozen `HandLandmarkNet` err: a standard deviation for each, along both axes of the crop.

The trunk was trained on real hands, and its means are left alone: what is learned on synthetic images about them makes
real ones worse. The head reads the trunk's maps at the landmarks and its features of the whole crop.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, POOLED_CHANNELS, TAP_CHANNELS, HandOutput
from hand_unc_ros.networks.weights import read_weights

LANDMARKS = 21
FEATURE_CHANNELS = sum(TAP_CHANNELS)
# Standard deviations in pixels of the crop of 224 px: the first is below what a landmark means, the other the palm.
LEAST_SIGMA_PX, MOST_SIGMA_PX = 0.25, 60.0
START_SIGMA_PX = 2.5


@dataclass(frozen=True)
class LandmarkVarianceConfig:
    """width: of the only hidden layer; with few real recordings to learn from, a small one holds on others.
    dropout: on the features, in training."""

    width: int = 32
    dropout: float = 0.3

    def to_dict(self) -> dict:
        """The fields, as weights on disk carry them."""
        return asdict(self)


class LandmarkVariance(nn.Module):
    """The head. Features are normalised without learned scales, so that no channel can be singled out."""

    def __init__(self, config: LandmarkVarianceConfig = LandmarkVarianceConfig()) -> None:
        super().__init__()
        self.config = config
        self.local_norm = nn.LayerNorm(FEATURE_CHANNELS, elementwise_affine=False)
        self.pooled_norm = nn.LayerNorm(POOLED_CHANNELS, elementwise_affine=False)
        self.dropout = nn.Dropout(config.dropout)
        self.local = nn.Linear(FEATURE_CHANNELS, config.width)
        self.pooled = nn.Linear(POOLED_CHANNELS, config.width)
        self.landmark = nn.Parameter(0.1 * torch.randn(LANDMARKS, config.width))
        self.out = nn.Linear(config.width, 2)
        self.start = nn.Parameter(torch.full((LANDMARKS, 2), float(torch.tensor(START_SIGMA_PX).log())))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, pooled: Tensor) -> Tensor:
        """log σ (B, 21, 2), pixels of the crop. features: (B, 21, C) as `landmark_features` gives them.
        pooled: (B, 1152)."""
        hidden = self.local(self.dropout(self.local_norm(features))) + self.landmark
        hidden = hidden + self.pooled(self.dropout(self.pooled_norm(pooled)))[:, None]
        log_sigma = self.out(self.dropout(F.gelu(hidden))) + self.start
        least, most = (torch.tensor(sigma).log().item() for sigma in (LEAST_SIGMA_PX, MOST_SIGMA_PX))
        return log_sigma.clamp(least, most)


def landmark_features(out: HandOutput) -> Tensor:
    """(B, 21, C): the maps of the trunk, each sampled bilinearly at the landmarks, one after the other."""
    grid = ((out.landmarks[..., :2] + 0.5) / HAND_SIZE * 2 - 1).float()[:, :, None]
    sampled = [F.grid_sample(level.float(), grid, align_corners=False, padding_mode='border') for level in out.maps]
    return torch.cat(sampled, 1)[..., 0].transpose(1, 2)


def load_landmark_variance(path: Path) -> LandmarkVariance:
    """The head stored at `path`, in evaluation mode. Raises ConfigError naming the file and what is wrong with it."""
    values, state = read_weights(path, 'LandmarkVariance')
    try:
        head = LandmarkVariance(LandmarkVarianceConfig(**values))
        head.load_state_dict(state)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(f'{path} does not fit the LandmarkVariance of this version ({str(error).splitlines()[0]});'
                          ' train it anew or take the shipped one') from error
    return head.eval()
