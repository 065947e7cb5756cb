"""JUMP-Hand on batches of samples, for `hand-unc evaluate`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.methods.contract import CropBox
from hand_unc_ros.methods.jump_hand.frozen import attach_frozen
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandOutput, load_jump_hand
from hand_unc_ros.methods.predictions import Predictions, PredictorOptions
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, cells_to_pixels
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.joint_covariance import (
    CropGaussians,
    JointCovariance,
    load_joint_covariance,
    propagated_covariance,
)
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.placement import choose_device, choose_precision


def build_predictor(options: PredictorOptions) -> JumpHandPredictor:
    """Raises ConfigError for files and choices that do not fit."""
    network = attach_frozen(load_jump_hand(options.weights), options.weights)
    choices = {'gate': options.gate, 'triangulation': options.triangulation}
    network.with_choices(**{name: value for name, value in choices.items() if value})
    head = None
    if options.covariance_head is not None:
        head = load_joint_covariance(options.covariance_head, options.weights).double()
    return JumpHandPredictor(network, head, options.device, options.precision)


class JumpHandPredictor:
    """A JumpHand on a device, and its covariance head where it has one."""

    def __init__(self, network: JumpHand, head: JointCovariance | None = None, device: str = 'auto',
                 precision: str = 'auto') -> None:
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.network, self.head = network.to(self.device).eval(), head

    @property
    def crop_box(self) -> CropBox:
        """How crops are drawn around hands, as in training."""
        return reach_box if self.network.config.landmarks is None else box_of_hand

    @property
    def image_size(self) -> int:
        """Side of the crops in pixels."""
        return self.network.config.image_size

    @property
    def surface(self) -> str:
        """Name of the hand model whose vertices are predicted."""
        return self.network.config.surface

    @property
    def description(self) -> str:
        """The choices of the network, in words."""
        config = self.network.config
        return f'gate {config.gate}, triangulation {config.triangulation}, {config.layers} decoder layers'

    def predict(self, batch: dict[str, Tensor]) -> Predictions:
        """See Predictor."""
        network, size = self.network, self.image_size
        batch = {name: value.to(self.device) for name, value in batch.items()}
        cameras = batch['K'], batch['camera_from_world'], batch['view_mask']
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=self.dtype,
                                                    enabled=self.dtype != torch.float32):
            stage = network.encode(image_tensor(batch['images']))
            # An outside detector's score, for the gate that asks for it: here the peak of the heatmap.
            peak = None if stage.log_heatmap is None else stage.log_heatmap.flatten(3).amax(-1)
            out = network.fuse(stage, *cameras, confidence=peak)
        coarse = torch.where(out.coarse_valid[..., None], out.coarse, torch.nan)
        # A batch's origin is the true hand: the network's output where nothing is triangulated must not count.
        placed = out.coarse_valid.any(1)[:, None, None]
        joints = coarse if network.decoder is None else out.joints[-1].where(placed, torch.nan)
        propagated = propagated_covariance(CropGaussians(out.mean, out.variance, size), coarse, *cameras)
        return Predictions(joints, coarse, out.vertices[-1].where(placed, torch.nan), out.gate,
                           cells_to_pixels(out.mean, size), out.variance.mean(-1).sqrt() * (size / HEATMAP_SIZE),
                           self._covariance(out, propagated.double().cpu()))

    def _covariance(self, out: JumpHandOutput, propagated: Tensor) -> np.ndarray:
        """(B, 63, 63), NaN where a joint was not triangulated."""
        blocks = propagated.numpy()
        if self.head is None:
            return np.stack([block_diagonal(one) for one in blocks])
        with torch.inference_mode():
            covariance = self.head(out.features.double().cpu(), propagated, out.joints[-1].double().cpu())
        covariance = covariance.numpy().copy()
        lost = np.repeat(~np.isfinite(blocks).all((2, 3)), 3, axis=1)
        covariance[lost] = np.nan
        covariance.swapaxes(1, 2)[lost] = np.nan
        return covariance
