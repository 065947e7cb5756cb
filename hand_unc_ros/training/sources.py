"""The batches that a configuration asks for: an endless stream to train on, and a fixed set to validate on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from hand_unc_ros.data.batches import collate, crop_sample
from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.data.samples import Sample, SampleSource
from hand_unc_ros.data.shards import open_shards
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.training.config import SamplesConfig, TrainingConfig
from hand_unc_ros.training.streams import BatchStream, SourceStream, Subsets, SyntheticStream

HELD_OUT_BATCH = 16


def training_stream(config: TrainingConfig, image_size: int) -> BatchStream:
    """Batches of crops of image_size px of several views, without end. Raises DatasetError or ConfigError for a source
    that cannot be opened."""
    data = config.data
    subsets = Subsets(data.fewest_views)
    if data.source == 'synthetic':
        return SyntheticStream(load_hand_model(config.hand_model or None), config.seed, data.crops,
                               _settings(data, image_size), data.varied, subsets)
    return SourceStream(_opened(data), config.seed, data.samples, image_size, data.varied, subsets)


def held_out(config: TrainingConfig, image_size: int) -> list[dict[str, Tensor]]:
    """The batches of crops that a run is validated on, the same in every run that is configured alike."""
    chosen = config.validation
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
    crops = ((int(number), crop_sample(sample, image_size, chosen.varied, (seed, int(number)),
                                       _first(sample, chosen.views)))
             for number, sample in ((number, get(int(number))) for number in numbers))
    batches = []
    while part := list(islice(crops, HELD_OUT_BATCH)):
        batches.append(collate([crop for _, crop in part], [number for number, _ in part]))
    return batches


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
