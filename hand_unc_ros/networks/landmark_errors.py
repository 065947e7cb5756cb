"""How the landmarks of a frozen `HandLandmarkNet` err: a standard deviation for each along both axes of the crop and,
in a head that was trained for it, where they are off on average.

The heads read the trunk's maps at the landmarks and its features of the whole crop. What they learn of shifts from
renderings holds on photographs only where rendered hands look and move as real ones do: by those of coloured blobs it
made real landmarks worse.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

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
# What one unit of a head's layers shifts by, pixels.
SHIFT_PX = 8.0


@dataclass(frozen=True)
class LandmarkErrorsConfig:
    """width: of the only hidden layer; with few real recordings to learn from, a small one holds on others.
    dropout: on the features, in training.  shift_width: of the layers that tell shifts; 0 for a head without them."""

    width: int = 32
    dropout: float = 0.3
    shift_width: int = 0

    def to_dict(self) -> dict:
        """The fields, as weights on disk carry them."""
        return asdict(self)


class JudgedLandmarks(NamedTuple):
    """Of N crops: landmarks (N, 21, 2) px, less where they are off on average; log_sigma (N, 21, 2) of their standard
    deviations in pixels; features (N, 21, C), the trunk's maps at the landmarks that it gave."""

    landmarks: Tensor
    log_sigma: Tensor
    features: Tensor


class LandmarkErrors(nn.Module):
    """The head. Features are normalised without learned scales, so that no channel can be singled out."""

    def __init__(self, config: LandmarkErrorsConfig = LandmarkErrorsConfig()) -> None:
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
        self.shifting = _Shift(config.shift_width, config.dropout) if config.shift_width else None

    def forward(self, features: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and log σ, both (B, 21, 2), pixels of the crop. features: (B, 21, C) as `landmark_features` gives them.
        pooled: (B, 1152)."""
        features, pooled = self.local_norm(features), self.pooled_norm(pooled)
        hidden = self.local(self.dropout(features)) + self.landmark + self.pooled(self.dropout(pooled))[:, None]
        log_sigma = self.out(self.dropout(F.gelu(hidden))) + self.start
        least, most = (torch.tensor(sigma).log().item() for sigma in (LEAST_SIGMA_PX, MOST_SIGMA_PX))
        shift = torch.zeros_like(log_sigma) if self.shifting is None else self.shifting(features, pooled)
        return shift, log_sigma.clamp(least, most)

    def sigma_parameters(self) -> list[nn.Parameter]:
        """Those that decide σ, and no shift."""
        return [value for name, value in self.named_parameters() if not name.startswith('shifting.')]

    def judge(self, out: HandOutput) -> JudgedLandmarks:
        """What the trunk says of N crops, with what is known of its errors."""
        features = landmark_features(out)
        shift, log_sigma = self(features, out.pooled)
        return JudgedLandmarks(out.landmarks[..., :2].float() + shift, log_sigma, features)


class _Shift(nn.Module):
    """Normalised features and pooled features to shifts (B, 21, 2) px."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.local = nn.Linear(FEATURE_CHANNELS, width)
        self.pooled = nn.Linear(POOLED_CHANNELS, width)
        self.landmark = nn.Parameter(0.1 * torch.randn(LANDMARKS, width))
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, 2)
        self.start = nn.Parameter(torch.zeros(LANDMARKS, 2))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, pooled: Tensor) -> Tensor:
        hidden = self.local(self.dropout(features)) + self.landmark + self.pooled(self.dropout(pooled))[:, None]
        hidden = F.gelu(hidden)
        hidden = hidden + self.hidden(self.dropout(hidden))
        return SHIFT_PX * (self.out(self.dropout(F.gelu(hidden))) + self.start)


def landmark_features(out: HandOutput) -> Tensor:
    """(B, 21, C): the maps of the trunk, each sampled bilinearly at the landmarks, one after the other."""
    grid = ((out.landmarks[..., :2] + 0.5) / HAND_SIZE * 2 - 1).float()[:, :, None]
    sampled = [F.grid_sample(level.float(), grid, align_corners=False, padding_mode='border') for level in out.maps]
    return torch.cat(sampled, 1)[..., 0].transpose(1, 2)


def load_landmark_errors(path: Path) -> LandmarkErrors:
    """The head stored at `path`, in evaluation mode. Raises ConfigError naming the file and what is wrong with it."""
    values, state = read_weights(path, 'LandmarkErrors')
    try:
        head = LandmarkErrors(LandmarkErrorsConfig(**values))
        head.load_state_dict(state)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(f'{path} does not fit the LandmarkErrors of this version ({str(error).splitlines()[0]});'
                          ' train it anew or take the shipped one') from error
    return head.eval()
