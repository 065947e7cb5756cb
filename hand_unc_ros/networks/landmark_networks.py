"""The two networks on a device: images to palms, crops to landmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hand_unc_ros.networks.palm_detection import Palm, decode_palms, palm_frame
from hand_unc_ros.networks.acceleration import Agreement, choose_runner
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, PALM_SIZE, HandOutput, load_hand_landmark_net, load_palm_net
from hand_unc_ros.networks.landmark_errors import JudgedLandmarks, load_landmark_errors

# By how much the runtimes of a network may differ: px of the crop, and the logits of palms.
SAME_LANDMARKS_PX, SAME_PALMS = 0.2, 0.2
# Below this presence a crop shows no hand.
PRESENCE_THRESHOLD = 0.3


@dataclass(frozen=True)
class CropLandmarks:
    """Of N crops: landmarks (N, 21, 2) in their pixels; presence (N,) and handedness (N,), the probabilities of a hand
    and of its being a right one as the crop shows it; sigma (N, 21, 2), standard deviations of the landmarks along the
    axes of the crop, in its pixels, None without an error head; features: what else was described of each, or None."""

    landmarks: np.ndarray
    presence: np.ndarray
    handedness: np.ndarray
    sigma: np.ndarray | None = None
    features: Sequence[object] | None = None


class LandmarkNetworks:
    """hand_weights, palm_weights: paths, as `landmark_models()` gives them.  error_weights: of LandmarkErrors; None to
    go without.  Raises ConfigError for other files.

    The runtimes are torch's until `accelerate` has chosen others.  describe: what of the networks' output, and of the
    landmarks as they are judged (None without an error head), each crop's reading keeps as its features; set by a method
    that needs them.
    """

    def __init__(self, hand_weights: Path, palm_weights: Path, device: torch.device = torch.device('cpu'),
                 dtype: torch.dtype = torch.float32, error_weights: Path | None = None) -> None:
        self.device, self.dtype = device, dtype
        self.hand, self.palm = load_hand_landmark_net(hand_weights), load_palm_net(palm_weights)
        for network in (self.hand, self.palm):
            network.to(device, memory_format=torch.channels_last)
        self.accelerate('none', 1)
        self.errors = None if error_weights is None else load_landmark_errors(error_weights).to(device)
        self.describe: Callable[[HandOutput, JudgedLandmarks | None], Sequence[object]] | None = None

    def accelerate(self, acceleration: str, batch: int) -> None:
        """Choose the runtimes of both networks for batches of this size; see choose_runner, which says what it raises."""
        generator = torch.Generator().manual_seed(0)
        for size, choose in ((HAND_SIZE, self._choose_trunk), (PALM_SIZE, self._choose_palm)):
            example = torch.rand((batch, 3, size, size), generator=generator).to(self.device)
            choose(example.contiguous(memory_format=torch.channels_last), acceleration)

    def _choose_trunk(self, example: torch.Tensor, acceleration: str) -> None:
        agreement = Agreement(lambda out: self.hand.heads(*out).landmarks[..., :2], SAME_LANDMARKS_PX)
        self._trunk = choose_runner(self.hand.trunk, example, self.dtype, acceleration, agreement)

    def _choose_palm(self, example: torch.Tensor, acceleration: str) -> None:
        agreement = Agreement(lambda out: out[0].float(), SAME_PALMS)
        self._palm = choose_runner(self.palm.forward, example, self.dtype, acceleration, agreement)

    def find(self, images: Sequence[np.ndarray]) -> list[list[Palm]]:
        """The palms in each of the whole images (H, W, 3) uint8 RGB, best first."""
        if not images:
            return []
        frames, affines = zip(*map(palm_frame, images))
        with torch.inference_mode():
            scores, values = (part.float().cpu().numpy() for part in self._palm.run(self._tensor(np.stack(frames))))
        return [decode_palms(*parts) for parts in zip(scores, values, affines)]

    def read(self, crops: np.ndarray) -> CropLandmarks:
        """crops: (N, 224, 224, 3) uint8 RGB, the fingers up."""
        if not len(crops):
            return CropLandmarks(np.zeros((0, 21, 2)), np.zeros(0), np.zeros(0))
        out = self.output(crops)
        parts = [out.landmarks[..., :2], out.presence, out.handedness]
        judged = None
        if self.errors is not None:
            with torch.inference_mode():
                judged = self.errors.judge(out)
                parts = [judged.landmarks, out.presence, out.handedness, judged.log_sigma.exp()]
        features = None if self.describe is None else self.describe(out, judged)
        return CropLandmarks(*(part.double().cpu().numpy() for part in parts), features=features)

    def output(self, crops: np.ndarray) -> HandOutput:
        """Everything that the landmark network says of crops (N, 224, 224, 3)."""
        assert crops.shape[1:] == (HAND_SIZE, HAND_SIZE, 3), crops.shape
        with torch.inference_mode():
            return self.hand.heads(*self._trunk.run(self._tensor(crops)))

    def _tensor(self, images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2).float() / 255.0
