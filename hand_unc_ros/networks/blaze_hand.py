"""MediaPipe's palm detector and hand landmark network as torch modules.

Bazarevsky and Zhang, "On-device, real-time hand tracking with MediaPipe", 2019; Zhang et al., "MediaPipe Hands:
On-device Real-time Hand Tracking", 2020. The weights are Google's (Apache-2.0); `networks/tflite_import.py` reads them,
`models/` of the user holds them. Batch normalisation is folded into the convolutions, as in the files.

The parameters of both networks are registered in the order in which the files' operators use them, since that order is
how weights find their place.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.weights import read_weights

HAND_SIZE = 224
PALM_SIZE = 192
# Expanded channels, kernel, stride and output channels of the inverted bottlenecks after the first.
BOTTLENECKS = (
    (64, 3, 2, 24), (144, 3, 1, 24), (144, 5, 2, 40), (240, 5, 1, 40), (240, 3, 2, 80), (480, 3, 1, 80),
    (480, 3, 1, 80), (480, 5, 1, 112), (672, 5, 1, 112), (672, 5, 1, 112), (672, 5, 2, 192), (1152, 5, 1, 192),
    (1152, 5, 1, 192), (1152, 5, 1, 192))
# Bottlenecks whose output is the last of its resolution or width: 56²×24, 28²×40, 14²×80, 14²×112, 7²×192.
TAPS = (1, 3, 6, 9, 13)
TAP_CHANNELS = (24, 40, 80, 112, 192)
POOLED_CHANNELS = 1152
# Channels of the palm detector's stages, each after the first begun by a block of stride 2, and its blocks at stride 1.
PALM_STAGES = ((32, 4), (64, 4), (128, 4), (256, 4), (256, 4))
PALM_KEYPOINTS = 7
# Numbers that describe one anchor: centre, size and the keypoints.
PALM_VALUES = 4 + 2 * PALM_KEYPOINTS
# Anchors in each cell of the maps of 24² and 12² cells.
PALM_ANCHORS = ((24, 2), (12, 6))


class HandOutput(NamedTuple):
    """landmarks: (B, 21, 3) x, y in pixels of the crop (pixel centres at integers) and z relative to the wrist in the
    same scale.  world: (B, 21, 3) metres about the hand's centre, in the axes of the crop.  presence: (B,) probability
    of a hand.  handedness: (B,) probability of a right hand, in an image that is not mirrored.
    maps: features (B, C, S, S) after TAPS.  pooled: (B, 1152) features of the whole crop."""

    landmarks: Tensor
    world: Tensor
    presence: Tensor
    handedness: Tensor
    maps: tuple[Tensor, ...]
    pooled: Tensor


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around x as TensorFlow's SAME adds them: with stride 2 on even sides one less before than after."""
    total = kernel - stride
    return F.pad(x, (total // 2, total - total // 2) * 2)


class _Conv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(_padded(x, self.kernel_size[0], self.stride[0]))


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, expanded: int, kernel: int, stride: int, out: int) -> None:
        super().__init__()
        self.expand = _Conv(channels, expanded) if expanded != channels else nn.Identity()
        self.depthwise = _Conv(expanded, expanded, kernel, stride, groups=expanded)
        self.project = _Conv(expanded, out)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self.expand(x))
        out = self.project(F.relu6(self.depthwise(inner)))
        return x + out if self.residual else out


class HandLandmarkNet(nn.Module):
    """`hand_landmark_full`: 2.7 M parameters, 331 M multiplications a crop."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, 24, 3, 2)
        self.first = _Bottleneck(24, 24, 3, 1, 16)
        channels, blocks = 16, []
        for expanded, kernel, stride, out in BOTTLENECKS:
            blocks.append(_Bottleneck(channels, expanded, kernel, stride, out))
            channels = out
        self.blocks = nn.ModuleList(blocks)
        self.expand = _Conv(channels, POOLED_CHANNELS)
        self.depthwise = _Conv(POOLED_CHANNELS, POOLED_CHANNELS, 3, groups=POOLED_CHANNELS)
        self.handedness = nn.Linear(POOLED_CHANNELS, 1)
        self.presence = nn.Linear(POOLED_CHANNELS, 1)
        self.landmarks = nn.Linear(POOLED_CHANNELS, 63)
        self.world = nn.Linear(POOLED_CHANNELS, 63)

    def forward(self, crops: Tensor) -> HandOutput:
        """crops: (B, 3, 224, 224) RGB in [0, 1], the fingers up."""
        return self.heads(*self.trunk(crops))

    def trunk(self, crops: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The convolutions: the last map (B, 1152, 7, 7) and the tapped ones."""
        x = self.first(F.relu6(self.stem(crops)))
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                maps.append(x)
        return F.relu6(self.depthwise(F.relu6(self.expand(x)))), tuple(maps)

    def heads(self, last: Tensor, maps: tuple[Tensor, ...]) -> HandOutput:
        """What is read off the maps of `trunk`, in single precision: half of it leaves 1 px of 224."""
        with torch.autocast(last.device.type, enabled=False):
            pooled = last.float().mean((2, 3))
            landmarks = self.landmarks(pooled).unflatten(1, (21, 3))
            # The files put the origin at the corner of the first pixel.
            landmarks = landmarks - landmarks.new_tensor([0.5, 0.5, 0.0])
            return HandOutput(landmarks, self.world(pooled).unflatten(1, (21, 3)),
                              self.presence(pooled).sigmoid()[:, 0], self.handedness(pooled).sigmoid()[:, 0],
                              maps, pooled)


class _PalmBlock(nn.Module):
    """A residual block of a depthwise 5×5 and a pointwise convolution; the shortcut is pooled and widened by zeros."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = _Conv(channels, channels, 5, stride, groups=channels)
        self.pointwise = _Conv(channels, out)
        self.prelu = nn.PReLU(out)
        self.stride = stride
        self.widened = out - channels

    def forward(self, x: Tensor) -> Tensor:
        inner = self.pointwise(self.depthwise(x))
        if self.stride == 2:
            x = F.max_pool2d(x, 2)
        if self.widened:
            x = F.pad(x, (0, 0, 0, 0, 0, self.widened))
        return self.prelu(x + inner)


class _PalmLevel(nn.Module):
    """One level of the pyramid: the coarser map brought up, added to the finer one, and its anchors read."""

    def __init__(self, coarse: int, channels: int, anchors: int) -> None:
        super().__init__()
        self.lateral = _Conv(coarse, channels)
        self.prelu = nn.PReLU(channels)
        self.blocks = nn.Sequential(_PalmBlock(channels, channels), _PalmBlock(channels, channels))
        self.scores = _Conv(channels, anchors)
        self.values = _Conv(channels, PALM_VALUES * anchors)

    def forward(self, coarse: Tensor, fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        up = F.interpolate(coarse, scale_factor=2, mode='bilinear', align_corners=False)
        x = self.blocks(fine + self.prelu(self.lateral(up)))
        with torch.autocast(x.device.type, enabled=False):
            scores, values = self.scores(x.float()), self.values(x.float())
        batch = x.shape[0]
        return (x, scores.permute(0, 2, 3, 1).reshape(batch, -1),
                values.permute(0, 2, 3, 1).reshape(batch, -1, PALM_VALUES))


class PalmNet(nn.Module):
    """`palm_detection_full`: 1.1 M parameters, 337 M multiplications an image."""

    def __init__(self) -> None:
        super().__init__()
        channels = PALM_STAGES[0][0]
        self.stem = _Conv(3, channels, 5, 2)
        self.prelu = nn.PReLU(channels)
        stages = []
        for index, (out, count) in enumerate(PALM_STAGES):
            blocks = [_PalmBlock(channels, out, 2)] if index else []
            stages.append(nn.Sequential(*blocks, *[_PalmBlock(out, out) for _ in range(count)]))
            channels = out
        self.stages = nn.ModuleList(stages)
        self.middle = _PalmLevel(256, 256, PALM_ANCHORS[1][1])
        self.fine = _PalmLevel(256, 128, PALM_ANCHORS[0][1])

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames: (B, 3, 192, 192) RGB in [0, 1]. Returns the anchors' scores (B, 2016), logits, and values
        (B, 2016, 18), pixels of the frame relative to the anchors' centres, those of the fine map first."""
        x = self.prelu(self.stem(frames))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x, scores_12, values_12 = self.middle(x, maps[3])
        _, scores_24, values_24 = self.fine(x, maps[2])
        return torch.cat([scores_24, scores_12], 1), torch.cat([values_24, values_12], 1)


def load_hand_landmark_net(path: Path) -> HandLandmarkNet:
    """The landmark network stored at `path`, in evaluation mode. Raises ConfigError naming the file."""
    return _loaded(HandLandmarkNet(), path)


def load_palm_net(path: Path) -> PalmNet:
    """The palm detector stored at `path`, in evaluation mode. Raises ConfigError naming the file."""
    return _loaded(PalmNet(), path)


def _loaded(network: nn.Module, path: Path) -> nn.Module:
    _, state = read_weights(path, type(network).__name__)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f'{path} does not fit the {type(network).__name__} of this version'
                          f' ({str(error).splitlines()[0]}); make it again: hand-unc models get landmarks') from error
    return network.eval()
