"""Training of UST-Hand on windows of kept features, by pseudo-labels of its views alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.errors import ConfigError, DatasetError
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.ust_hand.config import CONFIGS, UstHandConfig
from hand_unc_ros.methods.ust_hand.losses import LossWeights, ust_hand_losses, with_labels
from hand_unc_ros.methods.ust_hand.network import UstHand
from hand_unc_ros.methods.ust_hand.validation import validate
from hand_unc_ros.networks.weights import load_into, read_weights
from hand_unc_ros.training.config import DataConfig, TrainingConfig, ValidationConfig, check_surface, parse, sized
from hand_unc_ros.training.feature_stream import held_out_features
from hand_unc_ros.training.streams import Subsets
from hand_unc_ros.training.task import TrainingSetup, TrainingTask
from hand_unc_ros.training.window_stream import WindowStream

log = logging.getLogger(__name__)

HELD_OUT_BATCH = 8


@dataclass(frozen=True)
class UstHandTraining(TrainingConfig):
    """network: starts from one of the sizes, `network.size`.  data and validation: kept features of sequences, see
    experiments/sequence_features.py; data.fewest_views: that the network is shown, of those that teach."""

    network: UstHandConfig = CONFIGS['lite']
    losses: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        super().__post_init__()
        if {self.data.source, self.validation.source} != {'features'} or self.network.landmarks is None:
            raise ConfigError('ust_hand trains on kept features of sequences, which are of a frozen landmark network:'
                              ' set data.source and validation.source to features, and network.landmarks')
        if self.network.surface:
            check_surface(self.network.surface, self.hand_model)
        weights = self.losses.to_dict().values()
        if min(weights) < 0 or not any(weights):
            raise ConfigError('losses must not be negative, and one at least must be above 0')


def parse_sized(values: Mapping[str, Any]) -> UstHandTraining:
    """As `training.config.parse`, for a configuration whose `network` starts from one of the sizes, `network.size`."""
    config, values = sized(values, CONFIGS)
    if config.landmarks is None:
        config = replace(config, landmarks=CONFIGS['lite'].landmarks)
    return parse(UstHandTraining(task='ust_hand', out='.', data=DataConfig(source='features', path='.'),
                                 validation=ValidationConfig(source='features', path='.'), network=config),
                 values)


def set_up(config: UstHandTraining) -> TrainingSetup:
    """Raises ConfigError and DatasetError for what a run cannot begin with."""
    shards, held = _sequences(config.data.path), _sequences(config.validation.path)
    if shards.content.networks != held.content.networks:
        raise ConfigError(f'the features in {held.folder} are of other networks than those in {shards.folder}; make'
                          ' them again')
    network = build_network(config, shards.content.networks)
    stream = WindowStream(shards, config.seed, config.data.crops, config.network.frames,
                          Subsets(config.data.fewest_views), with_labels)
    return TrainingSetup(network, partial(ust_hand_losses, weights=config.losses), validate, stream,
                         partial(_held_out, config, held), 'ust_hand', network.config.to_dict(),
                         unused_parameters=True)


def build_network(config: UstHandTraining, fingerprints: Mapping[str, str]) -> UstHand:
    """UST-Hand as a run begins with it, with its surface fitted. Raises ConfigError naming weights that do not fit."""
    settings = replace(config.network, landmarks=replace(config.network.landmarks, **fingerprints))
    if settings.surface:
        model = load_hand_model(config.hand_model or None)
        settings = replace(settings, surface_size=len(model.weights))
    network = UstHand(settings)
    if network.surface is not None:
        log.info('the surface follows the joints of %s within %.1f mm (root mean square)', settings.surface,
                 1e3 * network.surface.fit(model))
    if config.init:
        load_into(network, read_weights(Path(config.init), 'UstHand')[1], config.init)
    return network


def _sequences(path: str) -> FeatureShards:
    shards = FeatureShards(Path(path))
    if 'sequences' not in shards.content.settings:
        raise DatasetError(f'{path} holds features of single samples; make sequences with `python -m'
                           ' hand_unc_ros.experiments.sequence_features`')
    return shards


def _held_out(config: UstHandTraining, shards: FeatureShards) -> list[dict[str, Tensor]]:
    chosen = config.validation
    batches = held_out_features(shards, chosen.samples, chosen.views, HELD_OUT_BATCH)
    if not batches:
        raise DatasetError(f'{chosen.path} has no sequences of {chosen.views} views to validate on')
    return batches


TASK = TrainingTask(parse_sized, set_up)
