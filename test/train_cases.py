"""A tiny network, a tiny set on disk and short runs, for the tests of training."""

from __future__ import annotations

import csv
import fcntl
import os
from pathlib import Path

import pytest

from hand_unc_ros.data.shards import unfinished, write_shard
from hand_unc_ros.data.synthetic import multiview
from hand_unc_ros.data.synthetic.sets import describe_set
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.tasks import parse_config, training_task
from hand_unc_ros.training import run

SAMPLES, VIEWS, SIZE = 12, 3, 128
NETWORK = {'view': {'blocks': [1, 1, 1, 1], 'width': 8, 'fpn_channels': 16, 'image_size': SIZE}, 'width': 16,
           'heads': 2, 'points': 2, 'ffn': 16, 'layers': 1, 'vertex_queries': 16}


def write_set(folder: Path) -> Path:
    """SAMPLES synthetic samples of VIEWS small images as a set of shards, before few backgrounds."""
    settings = multiview.MultiviewSettings(image_size=SIZE, absent=0.0)
    content = describe_set('training', 5, SAMPLES, VIEWS, 1, shard_images=4 * VIEWS)
    with pytest.MonkeyPatch.context() as patch, unfinished(folder, content) as numbers:
        patch.setattr(multiview, 'BACKGROUND_COUNT', 3)
        samples = multiview.MultiviewSamples(load_hand_model(None), 5, settings) if numbers else None
        for number in numbers:
            write_shard(folder, content, number, [samples.sample(i, VIEWS) for i in content.range_of(number)])
    return folder


def shared_set(factory: pytest.TempPathFactory) -> Path:
    """As write_set, to read: rendered once in a run of tests, whose processes wait for the one that does it."""
    base = factory.getbasetemp()
    # Each process of a run has a folder of its own in the one of the run.
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'tiny_set'
    with folder.with_suffix('.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return write_set(folder)


def tiny(out: Path, folder: Path, **changes):
    """A configuration that trains the tiny network on the tiny set: 3 batches of 4 samples an epoch."""
    source = {'source': 'shards', 'path': str(folder), 'augmentation': {}}
    values = {'out': str(out), 'steps': 6, 'network': NETWORK, 'data': source | {'samples': 4, 'workers': 0},
              'validation': source | {'samples': 4, 'views': 2, 'every': 3}, 'optimiser': {'warmup': 0},
              'log_every': 2, 'checkpoint_every': 3, 'machine': {'accelerator': 'cpu', 'precision': 'float32'}}
    for name, value in changes.items():
        values[name] = values[name] | value if isinstance(values.get(name), dict) and isinstance(value, dict) else value
    return parse_config(values)


def train(config) -> Path:
    """Train what the configuration describes."""
    return run.train(training_task(config.task), config)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))
