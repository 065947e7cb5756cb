"""The command that keeps what the landmark network says of a stored set of images."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from landmark_cases import landmark_paths, take  # noqa: F401
from train_cases import SAMPLES, VIEWS, shared_set

from hand_unc_ros.data.batches import crop_sample
from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.data.shards import open_shards
from hand_unc_ros.experiments import landmark_features
from hand_unc_ros.experiments import stored_features as command
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.methods.jump_hand.network import maps_in
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_boxes import box_of_hand


def test_every_sample_is_cut_several_times(monkeypatch, tmp_path, tmp_path_factory,
                                           landmark_paths) -> None:  # noqa: F811
    take(monkeypatch, landmark_paths)
    monkeypatch.setattr(command, 'SHARD_SAMPLES', 8)
    monkeypatch.setattr(landmark_features.FrozenLandmarks, 'accelerate', lambda self, batch: None)
    monkeypatch.setattr(landmark_features, 'choose_precision', lambda *args: torch.float32)
    images = shared_set(tmp_path_factory)
    words = ['stored_features', str(tmp_path / 'set'), '--images', str(images), '--processes', '1', '--seed', '4']
    monkeypatch.setattr(sys, 'argv', words)
    command.main()
    shards = FeatureShards(tmp_path / 'set')
    assert len(shards) == 2 * SAMPLES and shards.crops == 2 * SAMPLES * VIEWS
    batch = shards.batch([(0, 3), (1, 7)], [range(VIEWS)] * 2)
    assert batch['index'].tolist() == [3, 15] and 'images' not in batch
    # The same hand, in two crops.
    assert torch.equal(batch['joints'][0], batch['joints'][1]) and not torch.equal(batch['K'][0], batch['K'][1])
    crop = crop_sample(open_shards(images)[3], HAND_SIZE, command.FEATURE_AUGMENTATION, (4, 15), rule=box_of_hand)
    out = frozen_landmarks().networks(image_tensor(torch.from_numpy(crop['images'])), 0)
    np.testing.assert_allclose(maps_in(batch).landmarks[1], out.landmarks, atol=1e-3)


def test_a_folder_without_a_set_is_refused(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(sys, 'argv', ['stored_features', str(tmp_path / 'set'), '--images', str(tmp_path)])
    with pytest.raises(SystemExit):
        command.main()
    assert 'hand-unc synth' in capsys.readouterr().err
