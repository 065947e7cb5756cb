"""The 63×63 covariance of refined joints: the propagated block of each, times what a head has learned of all."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.triangulation import propagate_covariance
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.palm_frame import palm_frame
from hand_unc_ros.networks.covariance_heads import CovarianceHead, JointGaussian
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, cells_to_pixels
from hand_unc_ros.networks.view_fusion import normalised
from hand_unc_ros.networks.weights import fingerprint, read_weights

# Stands in for the propagated σ of a joint that was not triangulated, metres.
UNKNOWN_SIGMA = 0.05
# The unit of propagated σ as the head gets them, metres.
SIGMA_UNIT = 0.01
# Smallest variance of a whitened error that the head can claim; keeps Σ of full rank.
WHITENED_FLOOR = 1e-3


@dataclass(frozen=True)
class JointCovarianceConfig:
    """kind: of the head.  channels: of the features of a joint.  network: fingerprint of the weights of the network
    whose errors it knows, and of no other."""

    kind: str
    channels: int
    network: str

    def to_dict(self) -> dict:
        """The configuration as it is stored with the weights."""
        return asdict(self)


class CropGaussians(NamedTuple):
    """2D Gaussians of joints in crops of image_size px: mean (B, V, 21, 2) heatmap cells, variance (B, V, 21, 2)
    cells²."""

    mean: Tensor
    variance: Tensor
    image_size: int


class JointCovariance(nn.Module):
    """Σ = S C Sᵀ. S: block diagonal, the Cholesky factors of the covariances that the views' variances give each
    joint, propagated through the geometry, in the palm's frame.  C: 63×63, the head's covariance of errors that S has
    whitened, W diag(σ²) Wᵀ + floor·I for the kind 'correlated'.

    So the geometry, whatever rig it is, sets scale and direction, and the head learns how far the propagated
    covariance is off for a hand like this, and which joints are wrong together.
    """

    def __init__(self, config: JointCovarianceConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(config.channels, elementwise_affine=False)
        self.head = CovarianceHead(config.kind, JOINT_COUNT * (config.channels + 4), mean=False)

    def forward(self, features: Tensor, propagated: Tensor, joints: Tensor) -> Tensor:
        """The covariance (B, 63, 63) m², world, of refined joints.

        features: (B, 21, C) of the network that made them.  propagated: (B, 21, 3, 3) m², world, NaN where a joint was
        not triangulated; its rows and columns are then those of a joint known to UNKNOWN_SIGMA.  joints: (B, 21, 3)
        metres, world, the refined ones.
        """
        factor, gaussian = self.whitened(features, propagated, joints)
        covariance = gaussian.covariance
        covariance = covariance + WHITENED_FLOOR * torch.eye(covariance.shape[1]).to(covariance)
        blocks = covariance.unflatten(1, (JOINT_COUNT, 3)).unflatten(3, (JOINT_COUNT, 3))
        # Two products of small matrices; an einsum of three would choose a dearer order.
        half = torch.einsum('bjxp,bjpkq->bjxkq', factor, blocks)
        return torch.einsum('bjxkq,bkyq->bjxky', half, factor).flatten(3).flatten(1, 2)

    def whitened(self, features: Tensor, propagated: Tensor, joints: Tensor) -> tuple[Tensor, JointGaussian]:
        """S as (B, 21, 3, 3), metres, from whitened errors to the world, and the Gaussian of the whitened errors."""
        rotation = palm_frame(joints).rotation
        known = torch.isfinite(propagated).all(-1).all(-1)
        eye = torch.eye(3).to(propagated)
        spread = torch.where(known[..., None, None], propagated, UNKNOWN_SIGMA ** 2 * eye)
        local = rotation.mT[:, None] @ spread @ rotation[:, None]
        # Propagated covariances of a narrow baseline are nearly singular beside their largest axis.
        ridge = 1e-6 * local.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        factor, _ = torch.linalg.cholesky_ex(local + ridge * eye)
        sigma = factor.diagonal(dim1=-2, dim2=-1)
        inputs = torch.cat([self.norm(features), (sigma / SIGMA_UNIT).log(), known[..., None].to(sigma)], -1)
        return rotation[:, None] @ factor, self.head(inputs.flatten(1) / math.sqrt(JOINT_COUNT))


def propagated_covariance(gaussians: CropGaussians, joints: Tensor, K: Tensor, camera_from_world: Tensor,
                          view_mask: Tensor) -> Tensor:
    """Covariance of triangulated joints that the variances of the views amount to: (B, 21, 3, 3) m², world, NaN where
    a joint is not determined.

    joints: (B, 21, 3) metres, world, NaN where unknown.  K: (B, V, 3, 3) of the crops.
    camera_from_world: (B, V, 3, 4) metres.  view_mask: (B, V) bool.
    """
    mean, size = gaussians.mean, gaussians.image_size
    _, covariance = normalised(cells_to_pixels(mean, size), gaussians.variance * (size / HEATMAP_SIZE) ** 2, K)
    return propagate_covariance(joints, covariance, camera_from_world, view_mask[..., None].expand(mean.shape[:3]))


def load_joint_covariance(path: Path, network: Path) -> JointCovariance:
    """The head stored at `path`, in eval mode, for the network whose weights are at `network`.

    Raises ConfigError naming the file and what is wrong with it.
    """
    values, state = read_weights(path, 'JointCovariance')
    try:
        config = JointCovarianceConfig(**values)
        head = JointCovariance(config)
        head.load_state_dict(state)
    except (TypeError, RuntimeError) as error:
        raise ConfigError(f'{path} does not fit the JointCovariance of this version ({str(error).splitlines()[0]});'
                          ' train it anew or take the shipped one') from error
    if config.network != fingerprint(network):
        raise ConfigError(f"{path} was trained on the errors of other weights than {network}; train a head for these"
                          " (config/train/covariance.yaml), or go without by covariance_head: none")
    return head.eval()
