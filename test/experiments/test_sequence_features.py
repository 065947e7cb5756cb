"""The command that keeps what the landmark network says of sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from landmark_cases import landmark_paths, take  # noqa: F401

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.data.synthetic.multiview import MultiviewSettings
from hand_unc_ros.data.synthetic.sequences import SequenceSettings
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.experiments import sequence_features as command
from hand_unc_ros.experiments.landmark_features import make_features
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks


def test_a_kept_sequence_projects_onto_its_images(monkeypatch, tmp_path, landmark_paths) -> None:  # noqa: F811
    take(monkeypatch, landmark_paths)
    monkeypatch.setattr(command, 'SHARD_SEQUENCES', 1)
    monkeypatch.setattr(command, 'RIG_SIZES', {2: 1.0})
    monkeypatch.setattr(FrozenLandmarks, 'accelerate', lambda self, batch: None)
    settings = MultiviewSettings(image_size=224, absent=0.0, objects=(1.0,), without=('photographs',))
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


def test_readings_of_the_other_hand_are_told_from_its_own() -> None:
    rng = np.random.default_rng(0)
    pose = np.tile(np.eye(4)[:3], (2, 3, 1, 1))
    pose[..., 2, 3] = 0.5
    crop = {'K': np.tile(np.array([[400.0, 0, 112], [0, 400, 112], [0, 0, 1]]), (2, 3, 1, 1)),
            'camera_from_world': pose, 'joints': rng.normal(0, 0.03, (3, 21, 3)),
            'view_mask': np.array([[True] * 3, [True, True, False]])}
    other = crop['joints'] + [0.06, 0.0, -0.04]

    def seen(joints: np.ndarray) -> np.ndarray:
        return 400 * joints[..., :2] / (joints[..., 2:] + 0.5) + 112 + rng.normal(0, 3, (*joints.shape[:2], 2))

    landmarks = np.stack([seen(crop['joints']), seen(other)])
    landmarks[0, 2, :15] = seen(other)[2, :15]
    assert command.of_other_hand(landmarks, crop, other).tolist() == [[False, False, True], [True, True, False]]
    with pytest.raises(ConfigError, match='from 0 to 1'):
        command.SequenceFeatures(Path('set'), 2, 7, second_hand=1.5)
