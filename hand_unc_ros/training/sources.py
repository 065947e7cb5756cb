"""The batches that a configuration asks for: an endless stream to train on, and a fixed set to validate on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from hand_unc_ros.data.batches import BoxRule, collate, crop_sample
from hand_unc_ros.data.coverage import coverage_of
from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.data.samples import Sample, SampleSource
from hand_unc_ros.data.shards import open_shards
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.training.config import SamplesConfig, TrainingConfig, ValidationConfig
from hand_unc_ros.training.feature_stream import FeatureStream, held_out_features, moment
from hand_unc_ros.training.streams import BatchStream, SourceStream, Subsets, SyntheticStream

log = logging.getLogger(__name__)

HELD_OUT_BATCH = 16
# Samples whose masked joints and missing views are counted before a run.
LOOKED_AT = 100


def training_stream(config: TrainingConfig, image_size: int, rule: BoxRule = reach_box) -> BatchStream:
    """Batches of crops of image_size px of several views, without end. rule: of the crops' boxes.  Raises DatasetError
    or ConfigError for a source that cannot be opened."""
    data = config.data
    subsets = Subsets(data.fewest_views)
    if data.source == 'synthetic':
        return SyntheticStream(load_hand_model(config.hand_model or None), config.seed, data.crops,
                               _settings(data, image_size), data.varied, subsets, rule)
    if data.source == 'features':
        return FeatureStream(FeatureShards(Path(data.path)), config.seed, data.crops, subsets)
    source = _opened(data)
    looked_at = np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).round().astype(int))
    log.info('%s: of %d of %d samples: %s', data.path, len(looked_at), len(source),
             coverage_of(source, looked_at.tolist()))
    return SourceStream(source, config.seed, data.samples, image_size, data.varied, subsets, rule)


def held_out(config: TrainingConfig, image_size: int, rule: BoxRule = reach_box) -> list[dict[str, Tensor]]:
    """The batches of crops that a run is validated on, the same in every run that is configured alike. rule: of the
    crops' boxes."""
    chosen = config.validation
    if chosen.source == 'features':
        return _held_out_features(chosen)
    seed = chosen.seed
    get: Callable[[int], Sample]
    if chosen.source == 'synthetic':
        samples = MultiviewSamples(load_hand_model(config.hand_model or None), seed, _settings(chosen, image_size))
        numbers = np.arange(chosen.samples)

        def get(number: int) -> Sample:
            return samples.sample(number, chosen.views)
    else:
        source = _opened(chosen)
        numbers = np.unique(np.linspace(0, len(source) - 1, chosen.samples).round().astype(int))
        get = source.__getitem__
    # Synthetic cameras stand upright and centred on the hand, which those of a live system do not.
    def crops() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for number in numbers.tolist():
            try:
                sample = get(number)
                yield number, crop_sample(sample, image_size, chosen.varied, (seed, number),
                                          _first(sample, chosen.views), rule)
            except DatasetError as error:
                log.warning('a validation sample cannot be read and is left out: %s', error)

    batches, cut = [], crops()
    while part := list(islice(cut, HELD_OUT_BATCH)):
        batches.append(collate([crop for _, crop in part], [number for number, _ in part]))
    if not batches:
        raise DatasetError(f'{chosen.path}: none of {len(numbers)} samples to validate on can be read')
    return batches


def _held_out_features(chosen: ValidationConfig) -> list[dict[str, Tensor]]:
    shards = FeatureShards(Path(chosen.path))
    batches = held_out_features(shards, chosen.samples, chosen.views, HELD_OUT_BATCH)
    if not batches:
        raise DatasetError(f'{chosen.path} has no samples of {chosen.views} views to validate on')
    rng = np.random.default_rng((chosen.seed, 7043))
    return [moment(batch, rng) for batch in batches]


def _first(sample: Sample, views: int) -> range:
    return range(min(views, len(sample.views)))


def _settings(data: SamplesConfig, image_size: int) -> MultiviewSettings:
    return replace(MultiviewSettings(), image_size=image_size, objects=data.objects, absent=data.absent)


def _opened(data: SamplesConfig) -> SampleSource:
    if data.source == 'shards':
        source = open_shards(Path(data.path))
    else:
        source = open_dataset(data.source, data.path, data.split, **data.options)
    if not len(source):
        raise DatasetError(f"{data.path} holds no samples of {data.source}'s split '{data.split}'")
    return source
