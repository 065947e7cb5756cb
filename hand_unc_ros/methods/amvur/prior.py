"""AMVUR's prior net: features of a crop to a Gaussian of the hand model's pose and shape, and by it of vertices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.hand.blend_skinning import rotation_matrices
from hand_unc_ros.hand.joints import WRIST
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.hand.posed_points import PosedPoints
from hand_unc_ros.networks.mesh_attention import MeshGaussian

POSE, SHAPE = 45, 10
# Small turns of the whole hand, turns of the joints, rad, and shape coefficients.
PARAMETERS = 3 + POSE + SHAPE
LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -9.0, 1.0
START_LOG_VARIANCE = -2.0
# The first two columns of a rotation that shows a right hand's palm to the camera with the fingers up.
UPRIGHT = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
# Added to the variance of samples, units²: what pose and shape cannot say, 3 mm.
FLOOR = (3e-3 / HAND_UNIT) ** 2
# Standard deviations of the joints' turns, rad, and of the shape, among all hands.
SPREAD_POSE, SPREAD_SHAPE = 0.5, 1.0


class PosePrior(NamedTuple):
    """turn: (N, 3, 3) of the whole hand, mean: (N, 55) of the joints' turns about the hand at rest and the shape,
    log_variance: (N, 58), of small turns of the whole hand too."""

    turn: Tensor
    mean: Tensor
    log_variance: Tensor


class PriorHand(NamedTuple):
    """pose: of the hand model.  vertices, joints: Gaussians of the token vertices and the 21 joints, relative to the
    wrist, in units of HAND_UNIT and in the crop's ray frame."""

    pose: PosePrior
    vertices: MeshGaussian
    joints: MeshGaussian


class PriorNet(nn.Module):
    """inputs: numbers of the features.  arrays: of the hand model.  vertices: (M,) indices of those that are tokens.
    samples: as in AmvurConfig."""

    def __init__(self, inputs: int, hidden: int, samples: int, arrays: dict[str, np.ndarray],
                 vertices: np.ndarray) -> None:
        super().__init__()
        self.samples = samples
        self.hand = PosedPoints(arrays, vertices)
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
                                    nn.Linear(hidden, 6 + POSE + SHAPE + PARAMETERS))
        last = self.layers[-1]
        nn.init.normal_(last.weight, std=1e-3)
        with torch.no_grad():
            last.bias.zero_()
            last.bias[:6] = torch.tensor(UPRIGHT)
            last.bias[-PARAMETERS:] = START_LOG_VARIANCE
        self.register_buffer('rest', torch.from_numpy(np.asarray(arrays['hands_mean'], np.float32)), persistent=False)

    def forward(self, features: Tensor) -> PriorHand:
        """features: (N, C)."""
        return self.posed(self.pose(features))

    def pose(self, features: Tensor) -> PosePrior:
        """The hand model's parameters of features (N, C)."""
        out = self.layers(features)
        turn, mean, log_variance = out.split([6, POSE + SHAPE, PARAMETERS], -1)
        return PosePrior(_rotation(turn), mean, log_variance.clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE))

    def posed(self, pose: PosePrior) -> PriorHand:
        """The mesh of the mean, and the variance about it of meshes that are drawn."""
        count = len(pose.mean)
        mean, joints = self.mean_hand(pose)
        if not self.samples:
            return PriorHand(pose, MeshGaussian(mean, torch.zeros_like(mean)),
                             MeshGaussian(joints, torch.zeros_like(joints)))
        noise = torch.randn(self.samples, *pose.log_variance.shape, device=mean.device, generator=self._generator(mean))
        off = (pose.log_variance / 2).exp() * noise
        turns = rotation_matrices(off[..., :3]) @ pose.turn
        drawn = self._hands(turns.flatten(0, 1), (pose.mean + off[..., 3:]).flatten(0, 1))
        variances = [(part.unflatten(0, (self.samples, count)) - centre).square().mean(0) + FLOOR
                     for part, centre in zip(drawn, (mean, joints))]
        return PriorHand(pose, MeshGaussian(mean, variances[0].log()), MeshGaussian(joints, variances[1].log()))

    def mean_hand(self, pose: PosePrior) -> tuple[Tensor, Tensor]:
        """Vertices and joints as in PriorHand, of the mean alone."""
        return self._hands(pose.turn, pose.mean)

    def divergence(self, pose: PosePrior) -> Tensor:
        """KL divergence (N, 55) from all hands, for training without labels of the pose."""
        spread = pose.mean.new_tensor([SPREAD_POSE] * POSE + [SPREAD_SHAPE] * SHAPE)
        variance = pose.log_variance[:, 3:].exp() / spread.square()
        return 0.5 * (variance + (pose.mean / spread).square() - 1 - variance.log())

    def _hands(self, turn: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        pose = torch.cat([parameters.new_zeros(len(parameters), 3), self.rest + parameters[:, :POSE]], -1)
        points, joints = self.hand(pose, parameters[:, POSE:])
        wrist = joints[:, WRIST, None]
        return (points - wrist) @ turn.transpose(1, 2) / HAND_UNIT, (joints - wrist) @ turn.transpose(1, 2) / HAND_UNIT

    def _generator(self, like: Tensor) -> torch.Generator | None:
        """In use, the same image gives the same hand."""
        return None if self.training else torch.Generator(like.device).manual_seed(0)


def _rotation(columns: Tensor) -> Tensor:
    """(N, 3, 3) out of its first two columns (N, 6), of any length and nearly at right angles (Zhou et al. 2019)."""
    first, second = columns.unflatten(-1, (2, 3)).unbind(-2)
    x = F.normalize(first, dim=-1)
    y = F.normalize(second - (x * second).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)
