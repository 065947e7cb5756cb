"""How the landmarks of a frozen `HandLandmarkNet` err: a standard deviation for each along both axes of the crop and,
in a head that was trained for it, where they are off on average.

What is learned of shifts from renderings holds on photographs only where rendered hands look and move as real ones do:
by those of coloured blobs it made real landmarks worse. Two experts tell them, one by the trunk's maps at the landmarks and
its features of the whole crop, the other by a search in the maps. The second errs less on renderings and more on
photographs; on photographs the mean of both errs less than either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.blaze_hand import POOLED_CHANNELS, HandOutput
from hand_unc_ros.networks.landmark_evidence import FEATURE_CHANNELS, LANDMARKS, LandmarkEvidence, evidence_of
from hand_unc_ros.networks.landmark_search import LandmarkSearch
from hand_unc_ros.networks.weights import read_weights

# Standard deviations in pixels of the crop of 224 px: the first is below what a landmark means, the other the palm.
LEAST_SIGMA_PX, MOST_SIGMA_PX = 0.25, 60.0
START_SIGMA_PX = 2.5
# What one unit of a head's layers shifts by, pixels.
SHIFT_PX = 8.0


@dataclass(frozen=True)
class LandmarkErrorsConfig:
    """width: of the only hidden layer; with few real recordings to learn from, a small one holds on others.
    dropout: on the features, in training.  shift_width: of the layers that tell shifts by features; 0 for a head without
    them.  search_width: of the maps that are searched for shifts; 0 for a head that searches none."""

    width: int = 32
    dropout: float = 0.3
    shift_width: int = 0
    search_width: int = 0

    def to_dict(self) -> dict:
        """The fields, as weights on disk carry them."""
        return asdict(self)


class JudgedLandmarks(NamedTuple):
    """Of N crops: landmarks (N, 21, 2) px, less where they are off on average; log_sigma (N, 21, 2) of their standard
    deviations in pixels; features (N, 21, C), the trunk's maps at the landmarks that it gave."""

    landmarks: Tensor
    log_sigma: Tensor
    features: Tensor


# Shift and log σ of landmarks, both (N, 21, 2) px of the crop.
Errors = tuple[Tensor, Tensor]


class Expert(NamedTuple):
    """One way to tell errors, which is taught by itself: what it says, what of the head it learns, and whether it learns
    from recordings: a search that did was no nearer to the views of others."""

    says: Callable[[LandmarkEvidence], Errors]
    learned: list[nn.Parameter]
    by_recordings: bool


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
        self.search = LandmarkSearch(config.search_width) if config.search_width else None

    def forward(self, evidence: LandmarkEvidence) -> Errors:
        """What the head says: the mean shift of its experts, and log σ."""
        return self.shift(evidence), self.log_sigma(evidence)

    def log_sigma(self, evidence: LandmarkEvidence) -> Tensor:
        """(N, 21, 2) of the landmarks less their shifts; by features alone."""
        features, pooled = self._normed(evidence)
        hidden = self.local(self.dropout(features)) + self.landmark + self.pooled(self.dropout(pooled))[:, None]
        log_sigma = self.out(self.dropout(F.gelu(hidden))) + self.start
        least, most = (torch.tensor(sigma).log().item() for sigma in (LEAST_SIGMA_PX, MOST_SIGMA_PX))
        return log_sigma.clamp(least, most)

    def shift(self, evidence: LandmarkEvidence) -> Tensor:
        """(N, 21, 2), the mean of what the experts say; zeros without any."""
        shifts = []
        if self.shifting is not None:
            shifts.append(self.shifting(*self._normed(evidence)))
        if self.search is not None:
            shifts.append(self.search(evidence)[0])
        return torch.stack(shifts).mean(0) if shifts else torch.zeros_like(evidence.landmarks)

    def sigma_alone(self, evidence: LandmarkEvidence) -> Errors:
        """What the head says of landmarks whose shifts are out already."""
        return torch.zeros_like(evidence.landmarks), self.log_sigma(evidence)

    def experts(self) -> list[Expert]:
        """Those that tell shifts, each with a σ; of a head without shifts, the one that tells σ."""
        found = []
        if self.shifting is not None or self.search is None:
            found.append(Expert(self._by_features, [value for name, value in self.named_parameters()
                                                    if not name.startswith('search.')], by_recordings=True))
        if self.search is not None:
            found.append(Expert(self.search, list(self.search.parameters()), by_recordings=False))
        return found

    def sigma_parameters(self) -> list[nn.Parameter]:
        """Those that decide σ, and no shift."""
        return [value for name, value in self.named_parameters() if not name.startswith(('shifting.', 'search.'))]

    def judge(self, out: HandOutput) -> JudgedLandmarks:
        """What the trunk says of N crops, with what is known of its errors."""
        evidence = evidence_of(out)
        shift, log_sigma = self(evidence)
        return JudgedLandmarks(evidence.landmarks + shift, log_sigma, evidence.features)

    def _by_features(self, evidence: LandmarkEvidence) -> Errors:
        if self.shifting is None:
            return self.sigma_alone(evidence)
        return self.shifting(*self._normed(evidence)), self.log_sigma(evidence)

    def _normed(self, evidence: LandmarkEvidence) -> tuple[Tensor, Tensor]:
        return self.local_norm(evidence.features), self.pooled_norm(evidence.pooled)


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
