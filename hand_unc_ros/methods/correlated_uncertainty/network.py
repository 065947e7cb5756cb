"""One crop to 21 joints relative to the wrist and their 63×63 covariance, in the frame of the crop's camera.

A 2D stage, a trunk of two layers on its features, and a covariance head (networks/covariance_heads.py) on that.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.joints import JOINT_COUNT, WRIST
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.networks import gaussian_2d
from hand_unc_ros.networks.covariance_heads import KINDS, CovarianceHead, JointGaussian
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, Gaussian2DConfig, Gaussian2DNet
from hand_unc_ros.networks.weights import load_into, read_weights


@dataclass(frozen=True)
class MonocularConfig:
    """view: the 2D stage.  width: of the trunk.  kind: of the covariance head."""

    view: Gaussian2DConfig = gaussian_2d.CONFIGS['lite']
    width: int = 256
    kind: str = 'correlated'

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f'kind {self.kind!r} is unknown; choose one of {", ".join(KINDS)}')

    def to_dict(self) -> dict:
        """Plain values that JSON can hold."""
        return asdict(self)


class Trunk(nn.Module):
    """A backbone of two layers on features (N, F), and a covariance head on it."""

    def __init__(self, kind: str, inputs: int, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.head = CovarianceHead(kind, width)

    def forward(self, features: Tensor) -> JointGaussian:
        """features (B, F) to a Gaussian of B hands."""
        return self.head(self.trunk(features))


class MonocularHand(nn.Module):
    """The whole network; its Gaussian is in units of HAND_UNIT, see `wrist_relative`."""

    def __init__(self, config: MonocularConfig) -> None:
        super().__init__()
        self.config = config
        self.view = Gaussian2DNet(config.view)
        self.trunk = Trunk(config.kind, JOINT_COUNT * (config.view.fpn_channels + 4), config.width)

    def forward(self, images: Tensor) -> JointGaussian:
        """images: (N, 3, S, S) RGB in [0, 1]."""
        out = self.view(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.trunk(view_features(out.mean, out.variance, out.pooled))


def view_features(mean: Tensor, variance: Tensor, pooled: Tensor) -> Tensor:
    """(..., 21·(C + 4)) of a 2D stage's mean and variance (..., 21, 2), cells and cells², and pooled features
    (..., 21, C): numbers of about 1."""
    pooled = nn.functional.layer_norm(pooled.float(), pooled.shape[-1:])
    # Cells about the middle of the crop, in halves of the crop.
    place = mean.float() / (HEATMAP_SIZE / 2) - 1
    return torch.cat([pooled, place, variance.float().log() / 4], -1).flatten(-2)


def wrist_relative(joints: Tensor, K: Tensor, camera_from_world: Tensor) -> Tensor:
    """(B, V, 63) in HAND_UNIT of joints (B, 21, 3) metres, world: relative to the wrist, in the axes of each crop's
    camera turned by the crop's roll.  K: (B, V, 3, 3).  camera_from_world: (B, V, 3, 4)."""
    relative = (joints - joints[:, WRIST, None])[:, None] @ camera_from_world[..., :3].mT
    roll = torch.atan2(K[..., 1, 0], K[..., 0, 0])
    cos, sin, zero, one = roll.cos(), roll.sin(), torch.zeros_like(roll), torch.ones_like(roll)
    turn = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).unflatten(-1, (3, 3))
    return (relative @ turn.mT).flatten(2) / HAND_UNIT


def load_monocular_hand(path: Path) -> MonocularHand:
    """The network stored at `path`, in eval mode. Raises ConfigError naming the file and what is wrong with it."""
    values, state = read_weights(path, MonocularHand.__name__)
    view = values['view'] | {'blocks': tuple(values['view']['blocks'])}
    network = MonocularHand(MonocularConfig(**values | {'view': Gaussian2DConfig(**view)}))
    load_into(network, state, str(path))
    return network.eval()
