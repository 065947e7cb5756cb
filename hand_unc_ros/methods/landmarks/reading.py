"""The two networks on a device: images to palms, crops to landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hand_unc_ros.methods.landmarks.palm_detection import Palm, decode_palms, palm_frame
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, HandOutput, load_hand_landmark_net, load_palm_net
from hand_unc_ros.networks.landmark_variance import landmark_features, load_landmark_variance

# Below this presence a crop shows no hand.
PRESENCE_THRESHOLD = 0.3


@dataclass(frozen=True)
class CropLandmarks:
    """Of N crops: landmarks (N, 21, 2) in their pixels; presence (N,) and handedness (N,), the probabilities of a hand
    and of its being a right one as the crop shows it; sigma (N, 21, 2), standard deviations of the landmarks along the
    axes of the crop, in its pixels, None without a variance head."""

    landmarks: np.ndarray
    presence: np.ndarray
    handedness: np.ndarray
    sigma: np.ndarray | None = None


class LandmarkNetworks:
    """hand_weights, palm_weights: paths, as `landmark_models()` gives them.  variance_weights: of LandmarkVariance; None
    to go without.  Raises ConfigError for other files."""

    def __init__(self, hand_weights: Path, palm_weights: Path, device: torch.device = torch.device('cpu'),
                 dtype: torch.dtype = torch.float32, variance_weights: Path | None = None) -> None:
        self.device, self.dtype = device, dtype
        self.hand, self.palm = load_hand_landmark_net(hand_weights), load_palm_net(palm_weights)
        for network in (self.hand, self.palm):
            network.to(device, memory_format=torch.channels_last)
        self.variance = None if variance_weights is None else load_landmark_variance(variance_weights).to(device)

    def find(self, images: Sequence[np.ndarray]) -> list[list[Palm]]:
        """The palms in each of the whole images (H, W, 3) uint8 RGB, best first."""
        if not images:
            return []
        frames, affines = zip(*map(palm_frame, images))
        with torch.inference_mode(), self._autocast():
            scores, values = (part.float().cpu().numpy() for part in self.palm(self._tensor(np.stack(frames))))
        return [decode_palms(*parts) for parts in zip(scores, values, affines)]

    def read(self, crops: np.ndarray) -> CropLandmarks:
        """crops: (N, 224, 224, 3) uint8 RGB, the fingers up."""
        if not len(crops):
            return CropLandmarks(np.zeros((0, 21, 2)), np.zeros(0), np.zeros(0))
        out = self.output(crops)
        parts = [out.landmarks[..., :2], out.presence, out.handedness]
        if self.variance is not None:
            with torch.inference_mode():
                parts.append(self.variance(landmark_features(out), out.pooled).exp())
        return CropLandmarks(*(part.double().cpu().numpy() for part in parts))

    def output(self, crops: np.ndarray) -> HandOutput:
        """Everything that the landmark network says of crops (N, 224, 224, 3)."""
        assert crops.shape[1:] == (HAND_SIZE, HAND_SIZE, 3), crops.shape
        with torch.inference_mode(), self._autocast():
            return self.hand(self._tensor(crops))

    def _tensor(self, images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2).float() / 255.0

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)
