"""Batches of recorded hands: which views are shown, and a run of JUMP-Hand that learns from what the others read."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from landmark_cases import CONFIG, feature_batch

from hand_unc_ros.data.feature_shards import FeatureSet, FeatureShards, begin_features, write_features
from hand_unc_ros.errors import ConfigError, DatasetError
from hand_unc_ros.methods.jump_hand.network import load_jump_hand
from hand_unc_ros.methods.tasks import parse_config, training_task
from hand_unc_ros.networks.landmark_gaussians import seen_views
from hand_unc_ros.training import run
from hand_unc_ros.training.recorded_stream import MOST_JITTER, RecordedStream, held_out_recorded

PRINTS = {'trunk': 'a', 'variance_head': 'b'}
NOISE_PX = 6.0


def recorded(path: Path, views: int, samples: int = 12, seed: int = 0) -> Path:
    """A shard as hands of recordings have it: moments of one frame, two hands in turn, no vertices, no labels."""
    begin_features(path, FeatureSet('made for a test', 1, PRINTS, {'sequences': {}, 'hands': 'numbered'}))
    batch = feature_batch(samples, views, seed, NOISE_PX)
    batch['presence'][0, 0] = 0.1
    moments = {name: value if name == 'index' else value[:, :, None] for name, value in batch.items()
               if name not in ('joints', 'vertices', 'joints_px', 'joint_mask')}
    unknown = torch.full((samples, 1, 21, 3), torch.nan)
    write_features(path, 0, moments | {'joints': unknown, 'stamps_s': torch.zeros(samples, 1), 'hand': torch.arange(samples) % 2})
    return path


def test_one_view_at_least_that_sees_the_hand_is_hidden(tmp_path: Path) -> None:
    stream, again = (RecordedStream(FeatureShards(recorded(tmp_path, 4)), 3, 24) for _ in range(2))
    shown, jitter = set(), []
    for index in range(20):
        batch, = stream.chunk(index)
        assert torch.equal(batch['landmarks'], again.chunk(index)[0]['landmarks'])
        assert batch['shown'].shape == (6, 4) and batch['hand'].shape == (6,)
        assert batch['landmarks'].shape == (6, 4, 21, 2)
        seen = seen_views(batch)
        assert not (batch['shown'] & ~seen).any() and (batch['shown'].sum(1) >= 2).all()
        assert (batch['shown'].sum(1) < seen.sum(1)).all()
        shown.update(batch['shown'].sum(1).tolist())
        jitter.append((batch['landmarks'] - batch['read_px']) / batch['log_sigma'].float().exp())
    assert shown == {2, 3}
    # Uniform between nothing and the most, of every hand: the mean square is a third of the largest.
    assert torch.cat(jitter).square().mean().sqrt().item() == pytest.approx(MOST_JITTER / 3 ** 0.5, rel=0.1)


def test_of_two_views_both_are_shown(tmp_path: Path) -> None:
    shards = FeatureShards(recorded(tmp_path, 2))
    for index in range(4):
        batch, = RecordedStream(shards, 3, 24).chunk(index)
        # Of the hand that one of them does not see, the other.
        assert torch.equal(batch['shown'], seen_views(batch))
    first, *rest = held_out_recorded(shards, 16)
    assert not rest and torch.equal(first['shown'], seen_views(first)) and len(first['index']) == 12


def test_held_out_hands_are_judged_by_each_view_in_turn(tmp_path: Path) -> None:
    batches = held_out_recorded(FeatureShards(recorded(tmp_path, 3)), 8)
    assert [len(batch['index']) for batch in batches] == [8, 8, 8, 4, 4, 4]
    for batch, hidden in zip(batches, (0, 1, 2, 0, 1, 2)):
        assert torch.equal(batch['landmarks'], batch['read_px'])
        others = seen_views(batch)
        # Two views alone see the first hand: neither can be hidden.
        two = others.sum(1) == 2
        others[~two, hidden] = False
        assert torch.equal(batch['shown'], others)


def test_sets_of_something_else_are_refused(tmp_path: Path) -> None:
    begin_features(tmp_path, FeatureSet('synthetic', 1, PRINTS, {}))
    write_features(tmp_path, 0, feature_batch(4, 4))
    for use in (lambda shards: RecordedStream(shards, 1, 16), lambda shards: held_out_recorded(shards, 4)):
        with pytest.raises(DatasetError, match='recorded_features'):
            use(FeatureShards(tmp_path))


def values(tmp_path: Path, **changes) -> dict:
    """A run on labelled features and on recorded hands."""
    labelled = tmp_path / 'labelled'
    if not labelled.exists():
        begin_features(labelled, FeatureSet('made for a test', 1, PRINTS, {}))
        write_features(labelled, 0, feature_batch(8, 4, noise_px=NOISE_PX))
        recorded(tmp_path / 'recorded', 4, 12)
        recorded(tmp_path / 'held_out', 4, 8, seed=1)
    network = {'size': 'landmarks', 'width': CONFIG.width, 'heads': CONFIG.heads, 'ffn': CONFIG.ffn, 'layers': 2,
               'vertex_queries': 16, 'landmarks': {'channels': 16, 'dropout': 0.0}, 'appearance_dropout': 0.0}
    losses = {'nll': 0, 'joints': 1.0, 'vertices': 0, 'reprojection': 0, 'coarse': 0, 'presence': 0, 'move': 0.01,
              'hidden': 1.0, 'bones': 1.0}
    return {'out': str(tmp_path / 'run'), 'steps': 12, 'network': network, 'adapt_labels': False,
            'data': {'source': 'features', 'path': str(labelled), 'crops': 16, 'workers': 0},
            'validation': {'source': 'features', 'path': str(labelled), 'samples': 8, 'views': 3, 'every': 6},
            'recordings': [{'path': str(tmp_path / 'recorded'), 'weight': 2.0}],
            'held_out_recordings': [str(tmp_path / 'held_out')],
            'losses': losses, 'optimiser': {'warmup': 0, 'lr': 3e-3}, 'average': 0.9, 'log_every': 12,
            'checkpoint_every': 12, 'machine': {'accelerator': 'cpu', 'precision': 'float32'}} | changes


def test_a_run_learns_from_recordings_and_is_validated_on_others(tmp_path: Path) -> None:
    config = parse_config(values(tmp_path))
    path = run.train(training_task(config.task), config)
    with (tmp_path / 'run' / 'train.csv').open() as file:
        train = list(csv.DictReader(file))
    assert all(float(row['hidden']) > 0 and float(row['bones']) > 0 and 'joints' in row for row in train)
    with (tmp_path / 'run' / 'validation.csv').open() as file:
        last = {name: float(value) for name, value in list(csv.DictReader(file))[-1].items() if value}
    # Both kinds: the labelled batches, and eight hands, each with four views hidden in turn.
    assert last['mpjpe_mm'] > 0 and last['left_out_px'] > 0 and last['bone_variation'] > 0
    setup = training_task(config.task).set_up(config)
    batches = setup.held_out()
    assert [('shown' in batch) for batch in batches] == [False] + [True] * 4
    # The untrained network moves nothing; the trained one does, and what is stored is it.
    before = setup.validate(setup.network.eval(), batches)
    assert before['left_out_px'] == before['start_left_out_px'] == pytest.approx(last['start_left_out_px'], rel=1e-4)
    after = setup.validate(load_jump_hand(path), batches)
    assert after['left_out_px'] == pytest.approx(last['left_out_px'], rel=1e-2) and after['move_sigmas'] > 0


def test_what_could_not_learn_from_recordings_is_refused(tmp_path: Path) -> None:
    losses = values(tmp_path)['losses'] | {'hidden': 0.0, 'bones': 0.0}
    with pytest.raises(ConfigError, match='recordings have no labels'):
        parse_config(values(tmp_path, losses=losses))
    with pytest.raises(ConfigError, match='held_out_recordings'):
        parse_config(values(tmp_path, data={'source': 'synthetic'}, seed=3))
    config = parse_config(values(tmp_path, recordings=[{'path': str(tmp_path / 'labelled')}]))
    with pytest.raises(DatasetError, match='recorded_features'):
        training_task(config.task).set_up(config)
