"""Training of JUMP-Hand, whole or its 2D stage alone: configuration, start, losses and data of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
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
from hand_unc_ros.methods.jump_hand.recorded import recorded_terms, validate_recorded
from hand_unc_ros.methods.jump_hand.validation import validate, validate_views
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, read_view_state
from hand_unc_ros.networks.label_adaptation import label_bias
from hand_unc_ros.networks.weights import load_into, read_weights, torchvision_state
from hand_unc_ros.training.config import C, SamplesConfig, TrainingConfig, check_surface, parse, sized
from hand_unc_ros.training.feature_stream import FeatureStream, Mixture, held_out_features
from hand_unc_ros.training.recorded_stream import RecordedStream, held_out_recorded
from hand_unc_ros.training.sources import held_out, training_stream
from hand_unc_ros.training.strict import setting
from hand_unc_ros.training.streams import BatchStream, Subsets
from hand_unc_ros.training.task import TrainingSetup, TrainingTask

log = logging.getLogger(__name__)

# Samples by which the bias of landmarks is measured, and how many at once.
BIAS_SAMPLES, BIAS_BATCH = 400, 32
RECORDED_BATCH = 16
PARTS = ('view', 'confidence', 'lift', 'decoder', 'spread')


@dataclass(frozen=True)
class FeatureSource:
    """A further set of kept features. weight: how often a batch is drawn from it, where `data` has weight 1."""

    path: str = ''
    weight: float = setting(1.0, above=0)


@dataclass(frozen=True)
class JumpHandTraining(TrainingConfig):
    """stage: 'views' trains the 2D stage alone.  also: further sets beside `data`, where that is of features.
    recordings: the same, of recorded hands without labels (experiments/recorded_features.py), of which the loss terms
    `hidden`, `bones` and `move` learn; held_out_recordings: folders of those to validate on.
    adapt_labels: there, turn the labels into what the landmark network means by them, see label_adaptation.
    fused_share: see jump_hand_losses.  init_view: weights of the 2D stage (or of a whole network, of which that is
    taken); init_backbone: torchvision's of the ResNet.  freeze: parts that stay as they are, with their statistics."""

    stage: str = setting('all', choices=('all', 'views'))
    network: JumpHandConfig = CONFIGS['lite']
    losses: LossWeights = LossWeights()
    also: tuple[FeatureSource, ...] = ()
    recordings: tuple[FeatureSource, ...] = ()
    held_out_recordings: tuple[str, ...] = ()
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
        further = self.also or self.recordings or self.held_out_recordings
        if 'features' in sources and self.network.landmarks is None or further and self.data.source != 'features':
            raise ConfigError("features are of a frozen landmark network: they go with network.size 'landmarks', and"
                              " `also`, `recordings` and `held_out_recordings` with data.source 'features'")
        if self.recordings and not (self.losses.hidden or self.losses.bones):
            raise ConfigError('recordings have no labels: set losses.hidden or losses.bones, which learn without')
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
    sets |= {path: FeatureShards(Path(path)).content.networks
             for path in (*(part.path for part in (*config.also, *config.recordings)), *config.held_out_recordings)}
    wanted = next(iter(sets.values())) if sets else frozen_landmarks().fingerprints
    for path, found in sets.items():
        if found != wanted:
            raise ConfigError(f'the features in {path} are of other networks than those in {next(iter(sets))}; make them'
                              ' again')
    return replace(network, landmarks=replace(network.landmarks, **wanted))


@torch.no_grad()
def bias_of(data: SamplesConfig, network: JumpHand) -> Tensor:
    """(21, 3) of the landmarks beside the labels of training samples, which are features: see label_bias."""
    labels, coarse, mode = [], [], network.training
    network.eval()
    for batch in held_out_features(FeatureShards(Path(data.path)), BIAS_SAMPLES, 4, BIAS_BATCH):
        stage = network.encode_batch(batch)
        batch = seen_by_live(network, stage, batch)
        out = network.fuse(stage, batch['K'], batch['camera_from_world'], batch['view_mask'])
        labels.append(batch['joints'])
        coarse.append(torch.where(out.coarse_valid[..., None], out.coarse, torch.nan))
    network.train(mode)
    bias = label_bias(torch.cat(labels), torch.cat(coarse))
    log.info('landmarks are off the labels by %s mm (medians, by joint)',
             ', '.join(f'{length:.1f}' for length in 1e3 * bias.norm(dim=-1)))
    return bias


def stream_of(config: JumpHandTraining) -> BatchStream:
    """The training batches: of `data`, mixed with the sets in `also` and with `recordings`."""
    stream = training_stream(config, config.network.image_size)
    if not config.also and not config.recordings:
        return stream
    subsets = Subsets(config.data.fewest_views)
    others: list[BatchStream] = [
        kind(FeatureShards(Path(part.path)), config.seed, config.data.crops, subsets)
        for kind, parts in ((FeatureStream, config.also), (RecordedStream, config.recordings)) for part in parts]
    return Mixture([stream, *others], [1.0, *(part.weight for part in (*config.also, *config.recordings))], config.seed)


def held_out_of(config: JumpHandTraining) -> list[dict[str, Tensor]]:
    """The batches to validate on: labelled ones, then those of held-out recordings."""
    batches = held_out(config, config.network.image_size)
    first = 0
    for path in config.held_out_recordings:
        recorded = held_out_recorded(FeatureShards(Path(path)), RECORDED_BATCH)
        batches += [batch | {'hand': batch['hand'] + first} for batch in recorded]
        first += 1 + max(int(batch['hand'].max()) for batch in recorded)
    return batches


def losses_of(network: JumpHand, batch: dict[str, Tensor], weights: LossWeights, fused_share: float = 1.0,
              bias: Tensor | None = None) -> dict[str, Tensor]:
    """The weighted terms of a batch with labels, see jump_hand_losses, or without; zero where a batch has not what a
    term needs, so that all batches of a run have the same."""
    if 'shown' in batch:
        found = recorded_terms(network, batch)
        found = {name: weight * found[name] for name, weight in weights.to_dict().items() if name in found}
    else:
        found = jump_hand_losses(network, batch, weights, fused_share, bias)
    zero = batch['K'].new_zeros(())
    return {name: found.get(name, zero) for name, weight in weights.to_dict().items() if weight}


def validate_all(network: JumpHand, batches: Iterable[dict[str, Tensor]],
                 bias: Tensor | None = None) -> dict[str, float]:
    """Of batches with labels, see validate, and of recordings, see validate_recorded."""
    batches = list(batches)
    recorded = [batch for batch in batches if 'shown' in batch]
    numbers = validate(network, [batch for batch in batches if 'shown' not in batch], bias)
    return numbers | validate_recorded(network, recorded) if recorded else numbers


def set_up(config: JumpHandTraining) -> TrainingSetup:
    """Raises ConfigError and DatasetError for what a run cannot begin with."""
    stream, held = stream_of(config), partial(held_out_of, config)
    network = build_network(config)
    losses = config.losses
    # Without one of these a part of the network has no gradient.
    least = min(losses.nll, losses.joints, losses.vertices, losses.reprojection)
    unused = network.config.landmarks is not None or least <= 0
    if config.stage == 'views':
        rest = tuple(name for name, _ in network.named_children() if name != 'view')
        return TrainingSetup(network, partial(view_losses, weights=losses), validate_views, stream, held, 'gaussian_2d',
                             network.view.config.to_dict(), part='view', frozen=rest, unused_parameters=unused)
    adapts = config.adapt_labels and config.data.source == 'features'
    bias = bias_of(config.data, network) if adapts else None
    return TrainingSetup(network, partial(losses_of, weights=losses, fused_share=config.fused_share, bias=bias),
                         partial(validate_all, bias=bias), stream, held, 'jump_hand', network.config.to_dict(),
                         frozen=config.freeze, unused_parameters=unused)


def _moves(name: str, config: JumpHandTraining) -> bool:
    """Whether a parameter of JumpHand can get a gradient and is not frozen."""
    part = name.partition('.')[0]
    learned = 'learnable' in (config.network.gate, config.network.triangulation)
    if part in config.freeze or config.stage == 'views' and part != 'view' or part == 'confidence' and not learned:
        return False
    return not (name.startswith('view.presence.') and not config.losses.presence)


TASK = TrainingTask(partial(parse_sized, JumpHandTraining(task='jump_hand', out='.')), set_up)
