"""The landmarks on batches of samples, for `hand-unc evaluate`: read from crops of true hands, fused as live."""

from __future__ import annotations

import numpy as np
import torch
from scipy.linalg import rq
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.methods.contract import Triangulation
from hand_unc_ros.methods.geometric_fusion import TRIANGULATIONS, fuse
from hand_unc_ros.methods.predictions import Predictions, PredictorOptions
from hand_unc_ros.methods.view_gaussians import ViewGaussians
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, load_hand_landmark_net
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks
from hand_unc_ros.networks.landmark_networks import PRESENCE_THRESHOLD
from hand_unc_ros.networks.landmark_errors import load_landmark_errors
from hand_unc_ros.networks.placement import choose_device, choose_precision


def build_predictor(options: PredictorOptions) -> LandmarksPredictor:
    """Raises ConfigError for files and choices that do not fit."""
    if options.gate:
        raise ConfigError('the method landmarks has no gate; leave it out')
    triangulation = options.triangulation or TRIANGULATIONS[0]
    if triangulation not in TRIANGULATIONS:
        raise ConfigError(f'triangulation {triangulation!r} is unknown; choose one of {", ".join(TRIANGULATIONS)}')
    if options.covariance_head is None:
        raise ConfigError('the variances of landmarks come from an error head; give one, or leave --covariance-head out')
    return LandmarksPredictor(FrozenLandmarks(load_hand_landmark_net(options.weights),
                                              load_landmark_errors(options.covariance_head)),
                              triangulation, options.device, options.precision)


class LandmarksPredictor:
    """The landmark network with its error head on a device, and the triangulation of what it reads."""

    image_size = HAND_SIZE
    crop_box = staticmethod(box_of_hand)
    surface = ''

    def __init__(self, networks: FrozenLandmarks, triangulation: str, device: str = 'auto',
                 precision: str = 'auto') -> None:
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.networks, self.triangulation = networks, triangulation

    @property
    def description(self) -> str:
        """How views become joints, in words."""
        return f'landmarks of single views, triangulation {self.triangulation}'

    def predict(self, batch: dict[str, Tensor]) -> Predictions:
        """See Predictor. No mesh is made."""
        count, views = batch['view_mask'].shape
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            maps = self.networks(image_tensor(batch['images'].flatten(0, 1).to(self.device)), 1)
        mean, sigma, presence = (part.double().cpu().unflatten(0, (count, views)) for part in (
            maps.landmarks, maps.log_sigma.exp(), maps.presence))
        seen = batch['view_mask'] & (presence >= PRESENCE_THRESHOLD)
        valid = seen[..., None].expand(mean.shape[:-1])
        found = [fused_crops(*parts, self.triangulation) for parts in zip(mean, sigma, valid, batch['K'],
                                                                          batch['camera_from_world'])]
        joints = torch.from_numpy(np.stack([one.joints for one in found]))
        return Predictions(joints, joints, joints.new_zeros(count, 0, 3),
                           torch.from_numpy(np.stack([one.weights for one in found])), mean,
                           sigma.square().mean(-1).sqrt(),
                           np.stack([block_diagonal(one.covariance) for one in found]))


def fused_crops(mean: Tensor, sigma: Tensor, valid: Tensor, K: Tensor, camera_from_world: Tensor,
                triangulation: str) -> Triangulation:
    """One hand in V crops, which are its cameras, fused as live. mean, sigma: (V, 21, 2) pixels of the crops.
    valid: (V, 21) bool.  K: (V, 3, 3).  camera_from_world: (V, 3, 4)."""
    given = valid.numpy()
    px, variance = (np.where(given[..., None], part.numpy(), np.nan) for part in (mean, sigma.square()))
    rig = rig_of_crops(K, camera_from_world)
    boxes = np.tile([(HAND_SIZE - 1) / 2, (HAND_SIZE - 1) / 2, HAND_SIZE, 0.0], (len(rig), 1))
    return fuse(ViewGaussians(rig.names, px, variance, given, given.any(1).astype(float), boxes), rig, triangulation)


def rig_of_crops(K: Tensor, camera_from_world: Tensor) -> CameraRig:
    """V crops of HAND_SIZE px as the cameras of a rig. K: (V, 3, 3).  camera_from_world: (V, 3, 4)."""
    cameras = []
    for place, (turned, pose) in enumerate(zip(K.double().numpy(), camera_from_world.double().numpy())):
        # Crops are turned about the optical axis; the turn of a camera belongs to its pose.
        intrinsics, turn = rq(turned)
        signs = np.diag(np.sign(np.diag(intrinsics)))
        intrinsics, turn = intrinsics @ signs, signs @ turn
        world_from_camera = np.linalg.inv(np.vstack([turn @ pose, [0, 0, 0, 1]]))
        cameras.append(Camera(f'view{place}', HAND_SIZE, HAND_SIZE, intrinsics, 'none', np.zeros(0), world_from_camera))
    return CameraRig(cameras)
