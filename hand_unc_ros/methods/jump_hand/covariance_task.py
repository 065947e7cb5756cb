"""Training of the covariance head on a trained JumpHand: configuration, likelihood loss and validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.jump_hand.frozen import attach_frozen
from hand_unc_ros.methods.jump_hand.losses import PRESENCE_LOGIT
from hand_unc_ros.methods.jump_hand.network import (
    CONFIGS,
    JumpHand,
    JumpHandConfig,
    JumpHandOutput,
    ViewStage,
    load_jump_hand,
)
from hand_unc_ros.methods.jump_hand.task import bias_of, check_network, parse_sized
from hand_unc_ros.networks.covariance_heads import COORDINATES, full_nll
from hand_unc_ros.networks.joint_covariance import (
    WHITENED_FLOOR,
    CropGaussians,
    JointCovariance,
    JointCovarianceConfig,
    propagated_covariance,
)
from hand_unc_ros.networks.label_adaptation import adapted
from hand_unc_ros.networks.weights import fingerprint
from hand_unc_ros.training.config import TrainingConfig
from hand_unc_ros.training.sources import held_out, training_stream
from hand_unc_ros.training.task import TrainingSetup, TrainingTask

# Choices of views that one look at the images is used for: all of them, and so many drawn at random.
DRAWN_SUBSETS = 3
FEWEST_VIEWS = 2


@dataclass(frozen=True)
class CovarianceTraining(TrainingConfig):
    """init: weights of the JumpHand whose errors the head learns.  network: of these weights.  adapt_labels: as of
    JumpHandTraining; an error is what the network's joints are off from what its landmarks mean."""

    network: JumpHandConfig = CONFIGS['lite']
    adapt_labels: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.network, self.hand_model)
        if not self.init:
            raise ConfigError('the task covariance needs init, the weights of the JumpHand whose errors it is about')
        if 'features' in (self.data.source, self.validation.source) and self.network.landmarks is None:
            raise ConfigError("features are of a frozen landmark network: they go with network.size 'landmarks'")


class JumpHandWithCovariance(nn.Module):
    """A JumpHand that stays as it is, and the head that learns how wrong it is."""

    def __init__(self, jump_hand: JumpHand, head: JointCovariance) -> None:
        super().__init__()
        self.jump_hand = jump_hand.requires_grad_(False)
        self.head = head

    @torch.no_grad()
    def encode(self, batch: dict[str, Tensor]) -> tuple[ViewStage, Tensor]:
        """The per-view stage, and the views (B, V) that the live pipeline would fuse: those that show a hand."""
        stage = self.jump_hand.encode_batch(batch)
        least = 0.0 if self.jump_hand.config.landmarks is None else PRESENCE_LOGIT
        return stage, batch['view_mask'] & (stage.presence > least)

    @torch.no_grad()
    def fuse(self, stage: ViewStage, batch: dict[str, Tensor], mask: Tensor) -> tuple[JumpHandOutput, Tensor, Tensor]:
        """The fused stage of the views in mask (B, V), the propagated covariance (B, 21, 3, 3), and which samples (B,)
        can be learned from: every joint is triangulated and its truth known."""
        cameras = batch['K'], batch['camera_from_world'], mask
        out = self.jump_hand.fuse(stage, *cameras)
        coarse = torch.where(out.coarse_valid[..., None], out.coarse, torch.nan)
        gaussians = CropGaussians(stage.mean, stage.variance, self.jump_hand.config.image_size)
        propagated = propagated_covariance(gaussians, coarse, *cameras)
        whole = torch.isfinite(propagated).flatten(1).all(1) & torch.isfinite(batch['joints']).flatten(1).all(1)
        return out, propagated, whole


def losses(network: JumpHandWithCovariance, batch: dict[str, Tensor], bias: Tensor | None = None) -> dict[str, Tensor]:
    """{'nll': …}: the mean over samples, and over several choices of their views, of the negative log-likelihood of the
    whitened errors under N(0, C + floor·I), per coordinate. bias: as of jump_hand_losses."""
    batch = _as_meant(batch, bias)
    stage, present = network.encode(batch)
    values, weights = [], []
    for mask in (present, *(present & _drawn(present) for _ in range(DRAWN_SUBSETS))):
        out, propagated, whole = network.fuse(stage, batch, mask)
        with torch.autocast(propagated.device.type, enabled=False):
            factor, gaussian = network.head.whitened(out.features.float(), propagated, out.joints[-1])
            error = torch.where(whole[:, None, None], batch['joints'] - out.joints[-1], 0.0)
            white = torch.linalg.solve(factor, error[..., None]).flatten(1)
            values.append(full_nll(gaussian, white, WHITENED_FLOOR) / COORDINATES)
        weights.append(whole)
    whole = torch.cat(weights)
    return {'nll': torch.where(whole, torch.cat(values), 0.0).sum() / whole.sum().clamp_min(1)}


@torch.no_grad()
def validate(network: JumpHandWithCovariance, batches: Iterable[dict[str, Tensor]],
             bias: Tensor | None = None) -> dict[str, float]:
    """With all views, and with the first two: the unaligned joint error in mm, the share of joints inside their 95 %
    ellipsoids, the squared whitened error per degree of freedom of single joints (1 where Σ is right) and of all 63
    coordinates together. bias: as of jump_hand_losses."""
    batches = [(_as_meant(batch, bias), *network.encode(batch)) for batch in batches]
    numbers = {}
    for name, count in (('', None), ('_2_views', 2)):
        joints, hands, lengths = [], [], []
        for batch, stage, present in batches:
            mask = present if count is None else present & (present.cumsum(1) <= count)
            out, propagated, whole = network.fuse(stage, batch, mask)
            with torch.autocast(propagated.device.type, enabled=False):
                covariance = network.head(out.features.float(), propagated, out.joints[-1])
            covariance = covariance[whole].double().cpu().numpy()
            error = (out.joints[-1] - batch['joints'])[whole].double().cpu().numpy()
            blocks = joint_blocks(covariance)
            joints.append(mahalanobis_squared(error, blocks).ravel())
            hands.append(mahalanobis_squared(error.reshape(len(error), COORDINATES), covariance))
            lengths.append(np.linalg.norm(error, axis=-1).ravel())
        distance2 = np.concatenate(joints)
        numbers |= {f'mpjpe{name}_mm': 1e3 * float(np.mean(np.concatenate(lengths))),
                    f'coverage95{name}': float(np.mean(distance2 <= chi2_quantile(0.95, 3))),
                    f'nees_per_dof{name}': float(np.mean(distance2) / 3),
                    f'nees_63_per_dof{name}': float(np.mean(np.concatenate(hands)) / COORDINATES)}
    return numbers


def _as_meant(batch: dict[str, Tensor], bias: Tensor | None) -> dict[str, Tensor]:
    """The batch with its labels as the landmark network means them."""
    return batch if bias is None else batch | {'joints': adapted(batch['joints'], bias)}


def _drawn(present: Tensor) -> Tensor:
    """A random choice (B, V) of FEWEST_VIEWS to V views for each sample, every number alike."""
    count, views = present.shape
    sizes = torch.randint(min(FEWEST_VIEWS, views), views + 1, (count, 1), device=present.device)
    return torch.rand(count, views, device=present.device).argsort(1).argsort(1) < sizes


def set_up(config: CovarianceTraining) -> TrainingSetup:
    """Raises ConfigError where the weights of `init` are those of another network than the configured one."""
    size = config.network.image_size
    stream, held = training_stream(config, size), partial(held_out, config, size)
    network = load_jump_hand(Path(config.init))
    configured = config.network
    if network.config.landmarks is not None and configured.landmarks is not None:
        # Which frozen networks these are is no choice of the configuration.
        configured = replace(configured, landmarks=replace(configured.landmarks, trunk=network.config.landmarks.trunk,
                                                           variance_head=network.config.landmarks.variance_head))
    if network.config != configured:
        raise ConfigError(f'{config.init} holds another network than `network` describes; give its size and choices')
    for part in (config.data, config.validation):
        if part.source != 'features':
            attach_frozen(network, config.init)
        elif any(getattr(network.config.landmarks, name) != found
                 for name, found in FeatureShards(Path(part.path)).content.networks.items()):
            raise ConfigError(f'the features in {part.path} are of other frozen networks than those that {config.init}'
                              ' was trained with; make them again')
    adapts = config.adapt_labels and config.data.source == 'features'
    bias = bias_of(config.data, network) if adapts else None
    head = JointCovariance(JointCovarianceConfig('correlated', network.feature_channels,
                                                 fingerprint(Path(config.init))))
    return TrainingSetup(JumpHandWithCovariance(network, head), partial(losses, bias=bias),
                         partial(validate, bias=bias), stream, held, 'covariance', head.config.to_dict(), part='head',
                         frozen=('jump_hand',))


def _parse(values: Mapping[str, Any]) -> CovarianceTraining:
    # A base has to exist before its weights are known.
    return parse_sized(CovarianceTraining(task='covariance', out='.', init='.'), {'init': '', **values})


TASK = TrainingTask(_parse, set_up)
