"""Training of JUMP-Hand, whole or its 2D stage alone: configuration, start, losses and data of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hand_unc_ros.data.datasets import DATASETS
from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.model import hand_arrays
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.methods.jump_hand.frozen import attach_frozen
from hand_unc_ros.methods.jump_hand.losses import LossWeights, jump_hand_losses, seen_by_live, view_losses
from hand_unc_ros.methods.jump_hand.network import CONFIGS, JumpHand, JumpHandConfig
from hand_unc_ros.methods.jump_hand.validation import validate, validate_views
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, read_view_state
from hand_unc_ros.networks.label_adaptation import label_bias
from hand_unc_ros.networks.weights import load_into, read_weights, torchvision_state
from hand_unc_ros.training.config import C, TrainingConfig, check_surface, parse, sized
from hand_unc_ros.training.feature_stream import FeatureStream, Mixture, held_out_features
from hand_unc_ros.training.sources import held_out, training_stream
from hand_unc_ros.training.strict import setting
from hand_unc_ros.training.streams import BatchStream, Subsets
from hand_unc_ros.training.task import TrainingSetup, TrainingTask

log = logging.getLogger(__name__)

# Samples by which the bias of landmarks is measured, and how many at once.
BIAS_SAMPLES, BIAS_BATCH = 400, 32
PARTS = ('view', 'confidence', 'lift', 'decoder', 'spread')


@dataclass(frozen=True)
class FeatureSource:
    """A further set of kept features. weight: how often a batch is drawn from it, where `data` has weight 1."""

    path: str = ''
    weight: float = setting(1.0, above=0)


@dataclass(frozen=True)
class JumpHandTraining(TrainingConfig):
    """stage: 'views' trains the 2D stage alone.  also: further sets beside `data`, where that is of features.
    adapt_labels: there, turn the labels into what the landmark network means by them, see label_adaptation.
    fused_share: see jump_hand_losses.  init_view: weights of the 2D stage (or of a whole network, of which that is
    taken); init_backbone: torchvision's of the ResNet.  freeze: parts that stay as they are, with their statistics."""

    stage: str = setting('all', choices=('all', 'views'))
    network: JumpHandConfig = CONFIGS['lite']
    losses: LossWeights = LossWeights()
    also: tuple[FeatureSource, ...] = ()
    adapt_labels: bool = True
    fused_share: float = setting(1.0, above=0, most=1)
    init_view: str = ''
    init_backbone: str = ''
    freeze: tuple[str, ...] = setting((), choices=PARTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_network(self.network, self.hand_model)
        if self.data.source in DATASETS and self.losses.vertices and self.network.surface != 'mano':
            raise ConfigError(f"{self.data.source}'s vertices are MANO's; set network.surface to mano and hand_model to"
                              ' your converted MANO, or losses.vertices to 0')
        if self.network.gate == 'confidence':
            raise ConfigError("the gate 'confidence' weighs views by another detector's scores, which no dataset"
                              ' brings; train with another gate and choose this one when the network is used')
        if self.init and (self.init_view or self.init_backbone) or self.init_view and self.init_backbone:
            raise ConfigError('give only one of init, init_view and init_backbone; each replaces what the next loads')
        if self.network.landmarks is not None and (self.stage == 'views' or self.init_view or self.init_backbone):
            raise ConfigError('network.landmarks reads images by a frozen network; stage views, init_view and'
                              ' init_backbone are for a 2D stage that is trained')
        sources = {self.data.source, self.validation.source}
        if 'features' in sources and self.network.landmarks is None or self.also and self.data.source != 'features':
            raise ConfigError("features are of a frozen landmark network: they go with network.size 'landmarks', and"
                              " `also` with data.source 'features'")
        if any(weight < 0 for weight in self.losses.to_dict().values()) or not any(self.losses.to_dict().values()):
            raise ConfigError('losses must not be negative, and one at least must be above 0')


def check_network(network: JumpHandConfig, hand_model: str) -> None:
    """Raises ConfigError for a network that cannot be trained as it is configured."""
    size = network.image_size
    if size < 4 * HEATMAP_SIZE or size % HEATMAP_SIZE:
        raise ConfigError(f'network.view.image_size is {size}; it must be {4 * HEATMAP_SIZE} or a larger multiple'
                          f' of {HEATMAP_SIZE}')
    check_surface(network.surface, hand_model)


def parse_sized(defaults: C, values: Mapping[str, Any]) -> C:
    """As `training.config.parse`, for a configuration whose `network` starts from one of the sizes, `network.size`."""
    network, values = sized(values, CONFIGS)
    return parse(replace(defaults, network=network), values)


def build_network(config: JumpHandTraining) -> JumpHand:
    """JUMP-Hand as a run begins with it: loaded, and only what moves left free. Raises ConfigError naming the weights
    that do not fit."""
    arrays = hand_arrays(config.hand_model, 'right')[0] if config.hand_model else None
    network = JumpHand(with_fingerprints(config), arrays)
    if config.init:
        load_into(network, read_weights(Path(config.init), 'JumpHand')[1], config.init)
    if config.init_view:
        load_into(network.view, read_view_state(Path(config.init_view)), config.init_view)
    if config.init_backbone:
        state = torchvision_state(Path(config.init_backbone))
        load_into(network.view.backbone, {name: value for name, value in state.items() if not name.startswith('fc.')},
                  config.init_backbone)
    if any(source != 'features' for source in (config.data.source, config.validation.source)):
        attach_frozen(network, config.init or 'the configured network')
    for name, parameter in network.named_parameters():
        if not _moves(name, config):
            parameter.requires_grad_(False)
    return network


def with_fingerprints(config: JumpHandTraining) -> JumpHandConfig:
    """The network that is configured; of the frozen networks that it reads images by it names those that the features
    were made with. Raises ConfigError where sets of features were made with others."""
    network = config.network
    if network.landmarks is None:
        return network
    sets = {part.path: FeatureShards(Path(part.path)).content.networks
            for part in (config.data, config.validation) if part.source == 'features'}
    sets |= {part.path: FeatureShards(Path(part.path)).content.networks for part in config.also}
    wanted = next(iter(sets.values())) if sets else frozen_landmarks().fingerprints
    for path, found in sets.items():
        if found != wanted:
            raise ConfigError(f'the features in {path} are of other networks than those in {next(iter(sets))}; make them'
                              ' again')
    return replace(network, landmarks=replace(network.landmarks, **wanted))


@torch.no_grad()
def bias_of(config: JumpHandTraining, network: JumpHand) -> Tensor | None:
    """The bias of landmarks beside the labels on the training samples, where these are features and are adapted."""
    if not config.adapt_labels or config.data.source != 'features':
        return None
    labels, coarse = [], []
    network.eval()
    for batch in held_out_features(FeatureShards(Path(config.data.path)), BIAS_SAMPLES, 4, BIAS_BATCH):
        stage = network.encode_batch(batch)
        batch = seen_by_live(network, stage, batch)
        out = network.fuse(stage, batch['K'], batch['camera_from_world'], batch['view_mask'])
        labels.append(batch['joints'])
        coarse.append(torch.where(out.coarse_valid[..., None], out.coarse, torch.nan))
    network.train()
    bias = label_bias(torch.cat(labels), torch.cat(coarse))
    log.info('landmarks are off the labels by %s mm (medians, by joint)',
             ', '.join(f'{length:.1f}' for length in 1e3 * bias.norm(dim=-1)))
    return bias


def stream_of(config: JumpHandTraining) -> BatchStream:
    """The training batches: of `data`, mixed with the sets in `also`."""
    stream = training_stream(config, config.network.image_size)
    if not config.also:
        return stream
    subsets = Subsets(config.data.fewest_views)
    others = [FeatureStream(FeatureShards(Path(part.path)), config.seed, config.data.crops, subsets)
              for part in config.also]
    return Mixture([stream, *others], [1.0, *(part.weight for part in config.also)], config.seed)


def set_up(config: JumpHandTraining) -> TrainingSetup:
    """Raises ConfigError and DatasetError for what a run cannot begin with."""
    stream, held = stream_of(config), partial(held_out, config, config.network.image_size)
    network = build_network(config)
    losses = config.losses
    # Without one of these a part of the network has no gradient.
    least = min(losses.nll, losses.joints, losses.vertices, losses.reprojection)
    unused = network.config.landmarks is not None or least <= 0
    if config.stage == 'views':
        rest = tuple(name for name, _ in network.named_children() if name != 'view')
        return TrainingSetup(network, partial(view_losses, weights=losses), validate_views, stream, held, 'gaussian_2d',
                             network.view.config.to_dict(), part='view', frozen=rest, unused_parameters=unused)
    bias = bias_of(config, network)
    return TrainingSetup(network, partial(jump_hand_losses, weights=losses, fused_share=config.fused_share, bias=bias),
                         partial(validate, bias=bias), stream, held, 'jump_hand', network.config.to_dict(),
                         frozen=config.freeze, unused_parameters=unused)


def _moves(name: str, config: JumpHandTraining) -> bool:
    """Whether a parameter of JumpHand can get a gradient and is not frozen."""
    part = name.partition('.')[0]
    learned = 'learnable' in (config.network.gate, config.network.triangulation)
    if part in config.freeze or config.stage == 'views' and part != 'view' or part == 'confidence' and not learned:
        return False
    return not (name.startswith('view.presence.') and not config.losses.presence)


TASK = TrainingTask(partial(parse_sized, JumpHandTraining(task='jump_hand', out='.')), set_up)
