"""The command that keeps what the landmark network says of sequences of public datasets."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hanco_cases import write_hanco
from landmark_cases import landmark_paths, take  # noqa: F401
from sequence_cases import CONFIG

from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.data.sequence_batches import crop_sequence
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.experiments import dataset_sequences as command
from hand_unc_ros.experiments.landmark_features import make_features
from hand_unc_ros.methods.ust_hand.losses import LossWeights, ust_hand_losses, with_labels
from hand_unc_ros.methods.ust_hand.network import UstHand
from hand_unc_ros.methods.ust_hand.validation import validate
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks, LandmarkGaussianConfig
from hand_unc_ros.training.streams import Subsets
from hand_unc_ros.training.window_stream import WindowStream

# Frame 1 of sequence 0 has no fit, so its windows bridge 400 ms; sequence 1 has a gap of 800 ms.
META = {'is_train': [[True] * 7, [True] * 7], 'is_valid': [[True] * 7] * 2,
        'has_fit': [[True, False, *[True] * 5], [True, True, False, False, False, True, True]]}


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('datasets') / 'HanCo'
    write_hanco(root, META, still=True)
    return root


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch, landmark_paths: tuple[Path, Path, Path]) -> None:  # noqa: F811
    take(monkeypatch, landmark_paths)
    monkeypatch.setattr(FrozenLandmarks, 'accelerate', lambda self, batch: None)


def made(root: Path, folder: Path, **choices) -> FeatureShards:
    make_features(command.DatasetSequences(folder, f'hanco:{root}:train', frames=3, **choices), 1)
    return FeatureShards(folder)


def test_windows_of_eight_views_become_batches_of_a_training(root, networks, tmp_path) -> None:
    shards = made(root, tmp_path / 'set')
    assert {views: len(rows) for views, rows in shards.rows.items()} == {8: 2}
    batch = shards.batch(shards.rows[8], [range(8)] * 2)
    np.testing.assert_allclose(batch['stamps_s'], [[0, 0.4, 0.6], [0, 0.2, 0.4]], atol=1e-6)
    assert batch['vertices'].shape == (2, 3, 778, 3) and batch['vertices'].isnan().all()
    pose = batch['camera_from_world']
    local = torch.einsum('bvfij,bfnj->bvfni', pose[..., :3], batch['joints']) + pose[..., None, :, 3]
    px = torch.einsum('bvfij,bvfnj->bvfni', batch['K'], local / local[..., 2:])[..., :2]
    # float32 of coordinates in a few hundred pixels; the calibration has 7 digits.
    np.testing.assert_allclose(px, batch['joints_px'], atol=5e-3)
    assert make_features(command.DatasetSequences(tmp_path / 'set', f'hanco:{root}:train', frames=3), 1)[0] == 0
    network = UstHand(replace(CONFIG, landmarks=LandmarkGaussianConfig(channels=16, dropout=0.0)))
    stream = WindowStream(shards, 1, 48, 3, Subsets(2), with_labels)
    losses = ust_hand_losses(network, stream.chunk(0)[0], LossWeights())
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(value.grad).all() for value in network.parameters() if value.grad is not None)


def test_all_frames_of_a_window_are_varied_alike(root) -> None:
    source = open_dataset('hanco', root, 'train')
    samples = command.same_cameras([source[index] for index in range(3)])
    first, again, other = (crop_sequence(samples, 64, command.AUGMENTATION, (seed,), box_of_hand) for seed in (1, 1, 2))
    for name in ('K', 'images'):
        np.testing.assert_array_equal(first[name], again[name])
        # Hand and cameras stand still.
        np.testing.assert_array_equal(first[name], np.repeat(first[name][:, :1], 3, 1))
        assert not np.array_equal(first[name], other[name])
    assert len(np.unique(first['K'][:, 0, 0, 0])) == 8, 'each camera is varied by itself'


def test_a_camera_that_delivered_nothing_is_masked(root, networks, tmp_path, caplog) -> None:
    damaged = tmp_path / 'HanCo'
    write_hanco(damaged, META, still=True)
    (damaged / 'rgb/0000/cam3/00000002.jpg').write_bytes(b'no jpeg')
    (damaged / 'xyz/0000/00000005.json').write_text('[]')
    shards = made(damaged, tmp_path / 'set')
    assert len(shards) == 1, 'a window that cannot be read is left out'
    assert 'cam3/00000002.jpg' in caplog.text and '00000005.json' in caplog.text
    mask = shards.batch(shards.rows[8], [range(8)])['view_mask'][0]
    assert mask.sum() == 23 and not mask[3, 1]


def test_samples_with_fewer_cameras_are_filled_up(root) -> None:
    source = open_dataset('hanco', root, 'train')
    whole, part = source[0], source[1]
    part = replace(part, views=part.views[5:1:-1])
    found = command.same_cameras([part, whole])
    names = [[view.camera.name for view in sample.views] for sample in found]
    assert names == [[f'cam{place}' for place in range(8)]] * 2
    assert [view.image is None for view in found[0].views] == [True, True, False, False, False, False, True, True]
    crop = crop_sequence([command.filled(sample, 9) for sample in found], 64, command.AUGMENTATION, (1,), box_of_hand)
    assert crop['view_mask'].sum(1).tolist() == [1, 1, 2, 2, 2, 2, 1, 1, 0]


def test_unknown_joints_do_not_enter_the_validation(root, networks, tmp_path) -> None:
    shards = made(root, tmp_path / 'set')
    network = UstHand(replace(CONFIG, landmarks=LandmarkGaussianConfig(channels=16))).eval()
    batch = shards.batch(shards.rows[8], [range(8)] * 2)
    scores = validate(network, [batch])
    batch['joints'][:, :, 4] = torch.nan
    fewer = validate(network, [batch])
    assert np.isfinite([scores['mpjpe_mm'], fewer['mpjpe_mm']]).all() and scores['mpjpe_mm'] != fewer['mpjpe_mm']


def test_what_gives_no_sequences_is_refused(root, networks, tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(DatasetError, match='no 7 samples that follow each other'):
        command.DatasetSequences(tmp_path / 'set', f'hanco:{root}:train', frames=7).maker()
    for options, message in (('[', 'no valid YAML'), ('hamuco', 'not a mapping'), ('{sides: 1}', "no option 'sides'")):
        monkeypatch.setattr(sys, 'argv', ['dataset_sequences', str(tmp_path / 'set'), '--data', f'hanco:{root}:train',
                                          '--options', options])
        with pytest.raises(SystemExit):
            command.main()
        assert message in capsys.readouterr().err
