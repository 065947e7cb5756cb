"""Checkpoints: kills at any moment, damaged files, full disks."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading

import numpy as np
import pytest
import torch

pytest.importorskip('lightning')
pytest.importorskip('numba')

# data and finished are fixtures.
from test_train import assert_equal, data, finished, in_process, state, without_times  # noqa: E402, F401
from train_cases import tiny, train  # noqa: E402

from hand_unc_ros.errors import TrainingError  # noqa: E402
from hand_unc_ros.training import keeper  # noqa: E402
from hand_unc_ros.training.checkpoints import WholeCheckpoints  # noqa: E402

torch.set_num_threads(1)


def train_until_killed_after(config, seconds):
    """Train, and be killed without warning that long after the first checkpoint is there."""
    store = keeper.Keeper._store

    def then_wait(self, trainer):
        if trainer.global_step == 1:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
        store(self, trainer)

    keeper.Keeper._store = then_wait
    train(config)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(data, tmp_path):
    """A checkpoint every step, so that many kills hit the writing of one."""
    whole = tiny(tmp_path / 'whole', data, steps=8, checkpoint_every=1)
    train(whole)
    random = np.random.default_rng(0)
    for trial in range(6):
        config = tiny(tmp_path / f'killed{trial}', data, steps=8, checkpoint_every=1)
        process = in_process(train_until_killed_after, config, random.uniform(0, 1.5))
        process.join(120)
        train(config)
        for name in ('train.csv', 'validation.csv'):
            assert without_times(config.folder / name) == without_times(whole.folder / name), (trial, name)
        for one, other in zip(state(config.folder), state(whole.folder)):
            assert_equal(one, other)
        assert not [path for path in config.folder.iterdir() if path.suffix == '.part'] or process.exitcode == -9


@pytest.mark.parametrize('damage', ('cut', 'flipped', 'empty', 'missing'))
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(finished, data, tmp_path, capfd, damage):
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    config = tiny(tmp_path, data, steps=8)
    last = tmp_path / 'last.ckpt'
    content = last.read_bytes()
    middle = len(content) // 2
    for path in tmp_path.glob('jump_hand.*'):
        path.unlink()
    if damage == 'missing':
        last.unlink()
    else:
        last.write_bytes({'cut': content[:middle], 'empty': b'',
                          'flipped': content[:middle] + bytes(byte ^ 255 for byte in content[middle:middle + 64])
                          + content[middle + 64:]}[damage])
    train(config)
    said = capfd.readouterr().err
    assert damage == 'missing' or 'last.ckpt is damaged' in said and 'before.ckpt' in said
    assert without_times(tmp_path / 'train.csv') == without_times(finished.folder / 'train.csv')
    for one, other in zip(state(tmp_path), state(finished.folder)):
        assert_equal(one, other)


def test_checkpoints_that_are_all_damaged_are_refused(data, tmp_path):
    for name in ('last.ckpt', 'before.ckpt'):
        (tmp_path / name).write_bytes(b'PK')
    with pytest.raises(TrainingError, match='last.ckpt is damaged.*before.ckpt is damaged.*delete them to begin anew'):
        train(tiny(tmp_path, data))


def save_more_than_fits(path):
    """A limit on the size of files stands for the end of the disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = WholeCheckpoints()
    writer.save_checkpoint({'x': torch.zeros(10)}, path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(TrainingError, match='make room'):
        writer.save_checkpoint({'x': torch.zeros(10 ** 6)}, path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    process = in_process(save_more_than_fits, str(tmp_path / 'last.ckpt'))
    process.join(120)
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ['last.ckpt']
    assert torch.load(tmp_path / 'last.ckpt', weights_only=True)['x'].shape == (10,)
