"""The command that keeps what the landmark network says of recorded hands, from a bag to batches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptation_cases import RIG, estimators, filmed, small, turning
from landmark_cases import landmark_paths, take  # noqa: F401

from hand_unc_ros.adaptation import labelling, sequences
from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.experiments import recorded_features as command
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks, random_maps
from hand_unc_ros.training.recorded_stream import RecordedStream, held_out_recorded

THREE = small(RIG.subset(['cam0', 'cam1', 'cam2']))
SETS = 16


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filmed(tmp_path_factory.mktemp('recording') / 'bag', SETS, THREE)


def run(monkeypatch: pytest.MonkeyPatch, paths, *words: str) -> None:
    """The command, with random networks and a pipeline that knows the hand to 0.3 px."""
    take(monkeypatch, paths)
    monkeypatch.setattr(labelling, 'build_estimator', estimators(motion=turning, sigma_px=0.3))
    monkeypatch.setattr(FrozenLandmarks, 'accelerate', lambda self, batch: None)
    monkeypatch.setattr(FrozenLandmarks, '__call__', lambda self, crops: random_maps(
        len(crops), torch.Generator().manual_seed(len(crops))))
    monkeypatch.setattr(sequences, 'SHARD_WINDOWS', 8)
    monkeypatch.setattr(sys, 'argv', ['recorded_features', *words])
    command.main()


def test_every_hand_is_cut_several_times(monkeypatch, tmp_path, landmark_paths, bag, capsys) -> None:  # noqa: F811
    run(monkeypatch, landmark_paths, str(tmp_path / 'set'), '--bag', str(bag), '--handedness', 'right', '--times', '2')
    shards = FeatureShards(tmp_path / 'set')
    hands = len(shards) // 2
    # The first sets are those in which the hand is found.
    assert SETS - 4 <= hands <= SETS and f'{hands} hands, {6 * hands} crops' in capsys.readouterr().out
    batch, = RecordedStream(shards, 1, 24).chunk(0)
    assert batch['landmarks'].shape == (8, 3, 21, 2) and (batch['hand'] == 0).all()
    assert (batch['shown'].sum(1) == 2).all()
    # The same hand in another crop: the same consensus, about which the world is shifted.
    rows = [tuple(shards.rows[3][index]) for index in (0, hands)]
    first, second = (shards.batch([row], [range(3)]) for row in rows)
    assert torch.equal(first['joints'], second['joints']) and torch.isfinite(first['joints']).all()
    assert not torch.equal(first['K'], second['K'])
    # Projected, it lies in the crops as far as their errors allow.
    held, *_ = held_out_recorded(shards, 4)
    local = torch.einsum('bvij,bkj->bvki', held['camera_from_world'][..., :3], held['joints'])
    local = local + held['camera_from_world'][:, :, None, :, 3]
    px = torch.einsum('bvij,bvkj->bvki', held['K'], local / local[..., 2:])[..., :2]
    np.testing.assert_allclose(px.numpy(), held['labels_px'].numpy(), atol=0.05)
    assert ((px > 0) & (px < 224)).float().mean() > 0.9


def test_parts_of_a_recording_share_no_image(monkeypatch, tmp_path, landmark_paths, bag) -> None:  # noqa: F811
    stamps = {}
    for name, share in (('first', '0:0.5'), ('second', '0.5:1')):
        run(monkeypatch, landmark_paths, str(tmp_path / name), '--bag', f'{bag}:{share}', '--handedness', 'right',
            '--times', '1')
        labels, = (tmp_path / f'{name}.labels').rglob('*.npz')
        stamps[name] = set(np.load(labels)['stamp_ns'].tolist())
    assert stamps['first'] and stamps['second'] and max(stamps['first']) < min(stamps['second'])


@pytest.mark.parametrize('words, message', (
    (('a:0.5', ), 'DIR:FROM:TO'), (('a:0.6:0.5', ), 'DIR:FROM:TO'), (('nowhere', ), 'nowhere')))
def test_what_is_no_part_of_a_recording_is_refused(monkeypatch, tmp_path, landmark_paths, capsys, words,  # noqa: F811
                                                   message) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, landmark_paths, str(tmp_path / 'set'), '--bag', *words)
    assert message in capsys.readouterr().err
