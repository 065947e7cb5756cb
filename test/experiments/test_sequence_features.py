"""The command that keeps what the landmark network says of sequences."""

from __future__ import annotations

import numpy as np
import torch
from landmark_cases import landmark_paths, take  # noqa: F401

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.data.synthetic.multiview import MultiviewSettings
from hand_unc_ros.data.synthetic.sequences import SequenceSettings
from hand_unc_ros.experiments import sequence_features as command
from hand_unc_ros.experiments.landmark_features import make_features
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks


def test_a_kept_sequence_projects_onto_its_images(monkeypatch, tmp_path, landmark_paths) -> None:  # noqa: F811
    take(monkeypatch, landmark_paths)
    monkeypatch.setattr(command, 'SHARD_SEQUENCES', 1)
    monkeypatch.setattr(command, 'RIG_SIZES', {2: 1.0})
    monkeypatch.setattr(FrozenLandmarks, 'accelerate', lambda self, batch: None)
    settings = MultiviewSettings(image_size=224, absent=0.0, objects=(1.0,), photographs=False)
    wanted = command.SequenceFeatures(tmp_path / 'set', 2, 7, levels=1, settings=settings, motion=SequenceSettings(3))
    assert make_features(wanted, 1)[0] == 12
    shards = FeatureShards(tmp_path / 'set')
    batch = shards.batch([(1, 0)], [[1, 0]])
    assert batch['level_0'].shape == (1, 2, 3, 40, 28, 28) and batch['landmarks'].shape == (1, 2, 3, 21, 2)
    assert batch['joints'].shape == (1, 3, 21, 3) and batch['vertices'].dtype == torch.float16
    pose = batch['camera_from_world']
    local = torch.einsum('bvfij,bfnj->bvfni', pose[..., :3], batch['joints']) + pose[..., None, :, 3]
    px = torch.einsum('bvfij,bvfnj->bvfni', batch['K'], local / local[..., 2:])[..., :2]
    # float32 of coordinates in a few hundred pixels.
    np.testing.assert_allclose(px, batch['joints_px'], atol=2e-3)
    assert batch['joint_mask'].float().mean() > 0.9, 'the crops hold the hand'
    assert make_features(wanted, 1)[0] == 0, 'nothing is missing'
