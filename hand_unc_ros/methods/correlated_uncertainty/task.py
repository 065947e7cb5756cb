"""Training of the monocular network: configuration, losses and validation on every crop that shows a whole hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.correlated_uncertainty.losses import likelihood_loss, paper_loss
from hand_unc_ros.methods.correlated_uncertainty.network import MonocularConfig, MonocularHand, wrist_relative
from hand_unc_ros.networks.covariance_heads import JointGaussian
from hand_unc_ros.networks.gaussian_2d import read_view_state
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.weights import load_into, read_weights
from hand_unc_ros.training.config import TrainingConfig, parse
from hand_unc_ros.training.sources import held_out, training_stream
from hand_unc_ros.training.strict import setting
from hand_unc_ros.training.task import TrainingSetup, TrainingTask


@dataclass(frozen=True)
class MonocularLoss:
    """kind: 'paper' is Eq. 7, 'likelihood' that of the whole covariance.  nll, mse: weights.  samples: of the mse."""

    kind: str = setting('paper', choices=('paper', 'likelihood'))
    nll: float = setting(5e-4, least=0)
    mse: float = setting(5e-4, least=0)
    samples: int = setting(25, least=1)

    def of(self, gaussian: JointGaussian, target: Tensor) -> Tensor:
        """(B,) of target (B, 63) in HAND_UNIT."""
        if self.kind == 'likelihood':
            return likelihood_loss(gaussian, target, self.nll)
        return paper_loss(gaussian, target, samples=self.samples, nll_weight=self.nll, mse_weight=self.mse)


@dataclass(frozen=True)
class MonocularTraining(TrainingConfig):
    """init_view: weights of a 2D stage, or of a network that has one, which then stays as it is; without, it is trained
    with the rest."""

    network: MonocularConfig = MonocularConfig()
    loss: MonocularLoss = MonocularLoss()
    init_view: str = ''


def set_up(config: MonocularTraining) -> TrainingSetup:
    """Raises ConfigError and DatasetError for what a run cannot begin with."""
    size = config.network.view.image_size
    network = MonocularHand(config.network)
    if config.init:
        load_into(network, read_weights(Path(config.init), MonocularHand.__name__)[1], config.init)
    if config.init_view:
        load_into(network.view, read_view_state(Path(config.init_view)), config.init_view)
        network.view.requires_grad_(False)
    return TrainingSetup(network, partial(monocular_losses, loss=config.loss), validate, training_stream(config, size),
                         partial(held_out, config, size), 'correlated_uncertainty', network.config.to_dict(),
                         frozen=('view',) if config.init_view else (), unused_parameters=True)


def monocular_losses(network: MonocularHand, batch: dict[str, Tensor], loss: MonocularLoss) -> dict[str, Tensor]:
    """{'joints': …}: the mean over crops that show the whole hand."""
    gaussian, target, whole = _predicted(network, batch)
    with torch.autocast(target.device.type, enabled=False):
        values = loss.of(gaussian, target)
    return {'joints': torch.where(whole, values, 0.0).sum() / whole.sum().clamp_min(1)}


@torch.no_grad()
def validate(network: MonocularHand, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Joint error relative to the wrist in mm; share of joints inside their 95 % ellipsoids and squared whitened error
    per degree of freedom, NaN for a head without a covariance. The wrist is the origin and left out."""
    errors, covariances = [], []
    for batch in batches:
        gaussian, target, whole = _predicted(network, batch)
        errors.append((gaussian.mean - target)[whole].double().cpu())
        covariances.append(gaussian.covariance[whole].double().cpu())
    error = HAND_UNIT * torch.cat(errors).unflatten(1, (JOINT_COUNT, 3)).numpy()[:, 1:]
    numbers = {'mpjpe_mm': 1e3 * float(np.linalg.norm(error, axis=-1).mean()), 'coverage95': np.nan,
               'nees_per_dof': np.nan}
    if network.config.kind == 'deterministic':
        return numbers
    blocks = HAND_UNIT ** 2 * joint_blocks(torch.cat(covariances).numpy())[:, 1:]
    distance2 = mahalanobis_squared(error, blocks)
    return numbers | {'coverage95': float(np.mean(distance2 <= chi2_quantile(0.95, 3))),
                      'nees_per_dof': float(np.mean(distance2) / 3)}


def _predicted(network: MonocularHand, batch: dict[str, Tensor]) -> tuple[JointGaussian, Tensor, Tensor]:
    """Of all B·V crops: the Gaussian, the truth (B·V, 63), and which show the whole hand (B·V,)."""
    gaussian = network(image_tensor(batch['images']).flatten(0, 1))
    target = wrist_relative(batch['joints'], batch['K'], batch['camera_from_world']).flatten(0, 1)
    whole = (batch['view_mask'] & batch['joint_mask'].all(-1)).flatten() & torch.isfinite(target).all(-1)
    return gaussian, torch.where(whole[:, None], target, 0.0), whole


TASK = TrainingTask(partial(parse, MonocularTraining(task='correlated_uncertainty', out='.')), set_up)
