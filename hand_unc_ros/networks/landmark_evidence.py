"""What of the landmark network's output tells how its landmarks err."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hand_unc_ros.networks.blaze_hand import HAND_SIZE, TAP_CHANNELS, HandOutput

LANDMARKS = 21
FEATURE_CHANNELS = sum(TAP_CHANNELS)
# The taps whose whole maps are evidence, fine to coarse: 28², 14² (the later of two) and 7² cells. What the finest tap
# shows of an image differs most between renderings and photographs.
MAP_TAPS = (1, 3, 4)
MAP_SIDES = (28, 14, 7)


class LandmarkEvidence(NamedTuple):
    """Of N crops: landmarks (N, 21, 2) px of the crop, as the network gives them; features (N, 21, FEATURE_CHANNELS), its
    maps at these; pooled (N, 1152), its features of the whole crop; maps (N, C, S, S) after MAP_TAPS, () where nothing
    needs them."""

    landmarks: Tensor
    features: Tensor
    pooled: Tensor
    maps: tuple[Tensor, ...] = ()


def evidence_of(out: HandOutput) -> LandmarkEvidence:
    """The evidence in what the network says of crops."""
    return LandmarkEvidence(out.landmarks[..., :2].float(), landmark_features(out), out.pooled,
                            tuple(out.maps[tap] for tap in MAP_TAPS))


def landmark_features(out: HandOutput) -> Tensor:
    """(N, 21, FEATURE_CHANNELS): the maps of the network, each sampled bilinearly at the landmarks, one after the other."""
    grid = ((out.landmarks[..., :2] + 0.5) / HAND_SIZE * 2 - 1).float()[:, :, None]
    sampled = [F.grid_sample(level.float(), grid, align_corners=False, padding_mode='border') for level in out.maps]
    return torch.cat(sampled, 1)[..., 0].transpose(1, 2)
