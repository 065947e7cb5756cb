"""UST-Hand trained by the loop, on sequences that are kept, and what its configuration refuses."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip('lightning')

from reader_cases import hand, write_mano  # noqa: E402
from repository import ROOT  # noqa: E402
from sequence_cases import CONFIG, sequence_batch  # noqa: E402
from train_cases import rows  # noqa: E402

from hand_unc_ros.data.feature_shards import FeatureSet, begin_features, write_features  # noqa: E402
from hand_unc_ros.errors import ConfigError, DatasetError  # noqa: E402
from hand_unc_ros.methods.tasks import load_config, training_task  # noqa: E402
from hand_unc_ros.methods.ust_hand.network import load_ust_hand  # noqa: E402
from hand_unc_ros.training import run  # noqa: E402
from hand_unc_ros.training.window_stream import WindowStream  # noqa: E402

FILE = ROOT / 'config' / 'train' / 'ust_hand_lite.yaml'
FINGERPRINTS = {'trunk': 'a', 'variance_head': 'b'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sequences')
    for name, made_of in (('train', {'sequences': {}}), ('held_out', {'sequences': {}}), ('single', {})):
        begin_features(folder / name, FeatureSet(name, 1, FINGERPRINTS, made_of))
        batch = sequence_batch(4, 4, 5, seed=len(name))
        write_features(folder / name, 0, {key: value for key, value in batch.items() if key != 'shown'})
    return folder


def changes(folder, **more) -> list[str]:
    network = {name: value for name, value in asdict(CONFIG).items()
               if name in ('width', 'heads', 'hypotheses', 'neighbours', 'flow_hidden', 'flow_layers', 'frames')}
    values = {'out': folder / 'run', 'data.path': folder / 'train', 'validation.path': folder / 'held_out', 'steps': 2,
              'hand_model': "''", 'network.surface': 'stand-in', 'data.crops': 24, 'data.workers': 0, 'log_every': 1,
              'validation.every': 2, 'checkpoint_every': 2, 'machine.accelerator': 'cpu',
              **{f'network.{name}': value for name, value in network.items()}}
    return [f'{name}={value}' for name, value in (values | more).items()]


def test_it_is_trained_by_the_loop_and_names_its_frozen_networks(folder) -> None:
    config = load_config(FILE, changes(folder))
    path = run.train(training_task(config.task), config)
    log = rows(path.parent / 'train.csv')
    assert [int(row['step']) for row in log] == [1, 2] and float(log[0]['proj2d']) > 0
    scores = rows(path.parent / 'validation.csv')[-1]
    assert float(scores['mpjpe_mm']) < 20 and 'adapted_start_mpjpe_mm' in scores
    network = load_ust_hand(path)
    assert network.config.landmarks.trunk == 'a' and network.config.surface_size == 778
    assert network.surface.map.abs().max() > 0


def test_a_killed_training_goes_on_as_if_it_had_not_been(folder, tmp_path) -> None:
    """SIGKILL a step behind a checkpoint: the same weights to the bit, latents and shown views among the draws."""
    whole, killed = (load_config(FILE, changes(folder, out=tmp_path / name, steps=5)) for name in ('whole', 'killed'))
    wanted = run.train(training_task(whole.task), whole)

    def train_until_killed() -> None:
        torch.set_num_threads(1)
        make = WindowStream.chunk
        WindowStream.chunk = lambda self, index: (
            os.kill(os.getpid(), signal.SIGKILL) if index == 3 else make(self, index))
        run.train(training_task(killed.task), killed)

    process = multiprocessing.get_context('fork').Process(target=train_until_killed)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / 'killed' / 'last.ckpt').exists() and not (tmp_path / 'killed' / wanted.name).exists()
    found = run.train(training_task(killed.task), killed)
    one, other = load_file(wanted), load_file(found)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    for name in ('train.csv', 'validation.csv'):
        logs = [[{key: value for key, value in row.items() if key not in ('seconds', 'data_wait')}
                 for row in rows(path.parent / name)] for path in (wanted, found)]
        assert logs[0] == logs[1]


def test_the_surface_may_be_manos(folder, tmp_path) -> None:
    mano = write_mano(tmp_path / 'mano_right.npz')
    config = load_config(FILE, changes(folder, out=tmp_path / 'run', hand_model=mano, **{'network.surface': 'mano'}))
    path = run.train(training_task(config.task), config)
    network = load_ust_hand(path)
    assert (network.config.surface, network.config.surface_size) == ('mano', 778)
    truth = hand(7)
    found = network.surface(torch.from_numpy(truth.joints).float()[None])[0].numpy()
    # A linear map cannot bend skin: millimetres.
    assert np.linalg.norm(found - truth.vertices, axis=1).mean() < 0.004
    with pytest.raises(ConfigError, match="surface is 'mano' and hand_model is 'anny'"):
        load_config(FILE, changes(folder, hand_model='anny', **{'network.surface': 'mano'}))


def test_what_cannot_be_trained_is_refused(folder) -> None:
    with pytest.raises(ConfigError, match='features of sequences'):
        load_config(FILE, changes(folder, **{'data.source': 'synthetic'}))
    with pytest.raises(ConfigError, match="network.size is 'huge'"):
        load_config(FILE, changes(folder, **{'network.size': 'huge'}))
    with pytest.raises(ConfigError, match='losses must not be negative'):
        load_config(FILE, changes(folder, **{'losses.nll': -1.0}))
    config = load_config(FILE, changes(folder, **{'data.path': folder / 'single'}))
    with pytest.raises(DatasetError, match='sequence_features'):
        training_task(config.task).set_up(config)
