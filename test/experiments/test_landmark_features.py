"""The command that keeps what the landmark network says of synthetic hands."""

from __future__ import annotations

import numpy as np
import torch
from landmark_cases import landmark_paths, take  # noqa: F401

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.data.batches import crop_sample
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples
from hand_unc_ros.experiments import landmark_features as command
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.methods.jump_hand.network import maps_in
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_boxes import box_of_hand


def test_what_is_kept_is_what_the_networks_say(monkeypatch, tmp_path, landmark_paths) -> None:  # noqa: F811
    take(monkeypatch, landmark_paths)
    monkeypatch.setattr(command, 'SHARD_SAMPLES', 2)
    monkeypatch.setattr(command, 'RIG_SIZES', {2: 1.0})
    monkeypatch.setattr(command.FrozenLandmarks, 'accelerate', lambda self, batch: None)
    monkeypatch.setattr(command, 'choose_precision', lambda *args: torch.float32)
    wanted = command.SyntheticFeatures(tmp_path / 'set', 3, 7)
    crops, _ = command.make_features(wanted, 1)
    assert crops == 6
    shards = FeatureShards(tmp_path / 'set')
    assert len(shards) == 3 and shards.content.networks == frozen_landmarks().fingerprints
    batch = shards.batch([(1, 0)], [[0, 1]])
    maps = maps_in(batch)
    assert 'images' not in batch and batch['index'].tolist() == [2] and len(maps.levels) == 3
    sample = MultiviewSamples(load_hand_model('anny'), 7, wanted.settings).sample(2, 2)
    crop = crop_sample(sample, HAND_SIZE, command.FEATURE_AUGMENTATION, (7, 2), rule=box_of_hand)
    out = frozen_landmarks().networks(image_tensor(torch.from_numpy(crop['images'])))
    np.testing.assert_allclose(maps.landmarks[0], out.landmarks, atol=1e-3)
    # Half precision has three digits.
    for kept, said in zip((maps.log_sigma, maps.local, maps.whole, *maps.levels), (*out[1:2], *out[3:5], *out.levels)):
        np.testing.assert_allclose(kept[0].float(), said, rtol=2e-3, atol=2e-3)
    inside = batch['joint_mask'][0]
    assert inside.float().mean() > 0.8, 'the crops hold the hand'
    assert command.make_features(wanted, 1)[0] == 0, 'nothing is missing'
