"""Batches of kept features: by number, of some of the views, mixed; and a run of JUMP-Hand on them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from landmark_cases import CONFIG, feature_batch
from sequence_cases import sequence_batch

from hand_unc_ros.data.feature_shards import (
    OF_SAMPLES,
    FeatureSet,
    FeatureShards,
    begin_features,
    write_features,
)
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods.jump_hand.network import load_jump_hand
from hand_unc_ros.methods.tasks import parse_config, training_task
from hand_unc_ros.training import run
from hand_unc_ros.training.feature_stream import FeatureStream, Mixture, held_out_features
from hand_unc_ros.training.streams import Subsets

PRINTS = {'trunk': 'a', 'variance_head': 'b'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of hands whose landmarks of four views are off by several pixels."""
    path = tmp_path_factory.mktemp('features')
    content = FeatureSet('made for a test', 2, PRINTS, {})
    for number in begin_features(path, content):
        batch = feature_batch(12, 4, seed=number, noise_px=6.0)
        batch['index'] = torch.arange(12) + 12 * number
        write_features(path, number, batch)
    return path


def test_a_batch_depends_on_seed_and_number_alone(folder: Path) -> None:
    streams = [FeatureStream(FeatureShards(folder), seed, 16) for seed in (1, 1, 2)]
    first, again, other = ([stream.chunk(index)[0] for index in (5, 3)] for stream in streams)
    assert all(torch.equal(one[name], two[name]) for one, two in zip(first, again) for name in one if name != 'vertices')
    assert not torch.equal(first[0]['index'], other[0]['index']) or first[0]['K'].shape != other[0]['K'].shape
    for index in range(6):
        batch, = streams[0].chunk(index)
        samples, views = batch['view_mask'].shape
        assert 2 <= views <= 4 and samples == 16 // views and len(set(batch['index'].tolist())) == samples
    three, = FeatureStream(FeatureShards(folder), 1, 16, Subsets(4)).chunk(0)
    assert three['view_mask'].shape == (4, 4) and streams[0].name(3).startswith('sample 3 of')


def test_held_out_samples_are_the_first(folder: Path) -> None:
    batches = held_out_features(FeatureShards(folder), 14, 3, 8)
    assert [len(batch['index']) for batch in batches] == [8, 6] and batches[0]['view_mask'].shape == (8, 3)
    assert torch.cat([batch['index'] for batch in batches]).tolist() == list(range(14))
    assert held_out_features(FeatureShards(folder), 14, 5, 8) == []


class Numbered:
    """A stream whose batches tell where they come from."""

    chunk_batches = 1

    def __init__(self, number: int) -> None:
        self.number = number

    def chunk(self, index: int) -> list[dict[str, torch.Tensor]]:
        return [{'index': torch.tensor([self.number, index])}]

    def name(self, index: int) -> str:
        return f'stream {self.number}'


def test_a_mixture_draws_by_weights() -> None:
    mixture = Mixture([Numbered(0), Numbered(1)], [3.0, 1.0], 5)
    drawn = [mixture.chunk(index)[0]['index'].tolist() for index in range(400)]
    assert [index for _, index in drawn] == list(range(400))
    # 100 ± 3.5 standard deviations of a binomial.
    assert 70 < sum(number for number, _ in drawn) < 130
    assert mixture.name(0) == 'stream 0 or stream 1'


def values(folder: Path, out: Path, **changes) -> dict:
    """A short run on the set."""
    network = {'size': 'landmarks', 'width': CONFIG.width, 'heads': CONFIG.heads, 'ffn': CONFIG.ffn, 'layers': 2,
               'vertex_queries': 16, 'landmarks': {'channels': 16, 'dropout': 0.0}, 'appearance_dropout': 0.0}
    return {'out': str(out), 'steps': 60, 'network': network, 'adapt_labels': False,
            'data': {'source': 'features', 'path': str(folder), 'crops': 24, 'workers': 0},
            'validation': {'source': 'features', 'path': str(folder), 'samples': 16, 'views': 3, 'every': 60},
            'losses': {'nll': 0, 'joints': 5.0, 'vertices': 0, 'reprojection': 0, 'coarse': 0, 'presence': 0,
                       'move': 0.01, 'harm': 1.0},
            'optimiser': {'warmup': 0, 'lr': 3e-3}, 'average': 0.9, 'log_every': 20, 'checkpoint_every': 60,
            'machine': {'accelerator': 'cpu', 'precision': 'float32'}} | changes


def test_a_short_run_brings_joints_nearer(folder: Path, tmp_path: Path) -> None:
    """All hands are of one shape, which the decoder learns within some steps."""
    config = parse_config(values(folder, tmp_path / 'run', also=[{'path': str(folder), 'weight': 0.5}]))
    path = run.train(training_task(config.task), config)
    with (tmp_path / 'run' / 'train.csv').open() as file:
        losses = [float(row['joints']) for row in csv.DictReader(file)]
    assert losses[-1] < 0.9 * losses[0]
    with (tmp_path / 'run' / 'validation.csv').open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last['mpjpe_mm']) < 0.95 * float(last['coarse_mpjpe_mm'])
    assert float(last['nearer']) > float(last['farther'])
    network = load_jump_hand(path)
    assert (network.config.landmarks.trunk, network.config.landmarks.variance_head) == ('a', 'b')
    assert not any('trunk' in name for name in network.state_dict())


def test_configurations_that_make_no_sense_are_refused(folder: Path, tmp_path: Path) -> None:
    for changes, words in ((dict(stage='views'), 'frozen network'), (dict(network={'size': 'lite'}), 'landmark network'),
                           (dict(network={'size': 'landmarks', 'step_sigmas': -1.0}), 'step_sigmas'),
                           (dict(network={'size': 'landmarks', 'levels': 4}), 'levels'),
                           (dict(data={'source': 'synthetic'}, also=[{'path': 'a'}], seed=3), 'also')):
        with pytest.raises(ConfigError, match=words):
            parse_config(values(folder, tmp_path, **changes))
    other = tmp_path / 'other'
    begin_features(other, FeatureSet('of another network', 1, {'trunk': 'x', 'variance_head': 'b'}, {}))
    write_features(other, 0, feature_batch(2, 4))
    config = parse_config(values(folder, tmp_path / 'run', also=[{'path': str(other)}]))
    with pytest.raises(ConfigError, match='of other networks'):
        training_task(config.task).set_up(config)
    assert replace(CONFIG, levels=2).per_view.level_count == 3


def test_a_set_of_sequences_gives_moments_of_them(tmp_path: Path) -> None:
    begin_features(tmp_path, FeatureSet('made for a test', 1, PRINTS, {'sequences': {}}))
    whole = {name: value for name, value in sequence_batch(4, 4, 5).items() if name != 'shown'}
    write_features(tmp_path, 0, whole)
    stream, moment = FeatureStream(FeatureShards(tmp_path), 1, 16), feature_batch(4, 4)
    frames = set()
    for batch in [stream.chunk(index)[0] for index in range(12)]:
        assert set(batch) == set(moment)
        # Number of samples, and of their views, are the batch's; the rest is as of a moment.
        assert all(value.shape[1 if name in OF_SAMPLES else 2:] == moment[name].shape[1 if name in OF_SAMPLES else 2:]
                   and value.ndim == moment[name].ndim for name, value in batch.items())
        for row, number in enumerate(batch['index'].tolist()):
            same = [frame for frame in range(5) if torch.equal(whole['joints'][number, frame], batch['joints'][row])]
            frames.update(same)
            assert len(same) == 1
    assert len(frames) > 2
