"""A landmark network, palm detector and error head with random weights, on disk, and a small JUMP-Hand on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hand_unc_ros.data.batches import collate
from hand_unc_ros.methods import frozen_landmarks
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandConfig
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, HandLandmarkNet, PalmNet
from hand_unc_ros.networks.landmark_gaussians import LandmarkGaussianConfig, random_maps
from hand_unc_ros.networks.landmark_errors import LandmarkErrors
from hand_unc_ros.networks.weights import save_network

torch.set_num_threads(1)

CONFIG = JumpHandConfig(width=16, heads=2, points=2, ffn=32, layers=2, vertex_queries=16, triangulation='refined',
                        landmarks=LandmarkGaussianConfig(channels=16), step_sigmas=2.0)


def save_landmark_networks(folder: Path) -> tuple[Path, Path, Path]:
    """Paths of a trunk that sees a right hand in everything, with its landmarks all over the crop, of a palm detector
    and of an error head."""
    torch.manual_seed(0)
    trunk, head = HandLandmarkNet(), LandmarkErrors()
    with torch.no_grad():
        trunk.landmarks.bias.view(21, 3).uniform_(40, 180)
        trunk.presence.bias.fill_(8.0)
        trunk.handedness.bias.fill_(4.0)
        head.out.weight.normal_(0, 0.1)
    paths = tuple(folder / f'{name}.safetensors' for name in ('trunk', 'palm', 'variance'))
    for path, network, config in zip(paths, (trunk, PalmNet(), head), ({}, {}, head.config.to_dict())):
        save_network(path, network, config)
    return paths


@pytest.fixture(scope='session')
def landmark_paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """As of save_landmark_networks."""
    return save_landmark_networks(tmp_path_factory.mktemp('landmark_networks'))


def take(monkeypatch: pytest.MonkeyPatch, paths: tuple[Path, Path, Path]) -> None:
    """Let these be the networks that the user has fetched."""
    monkeypatch.setattr(frozen_landmarks, 'landmark_models', lambda: paths[:2])
    monkeypatch.setattr(frozen_landmarks, 'shipped_heads', lambda: [paths[2]])


def network_on(fingerprints: dict[str, str], seed: int = 0, config: JumpHandConfig = CONFIG) -> JumpHand:
    """One that was trained with these frozen networks; it moves nothing yet."""
    torch.manual_seed(seed)
    values = config.to_dict()
    return JumpHand(JumpHandConfig.from_dict(values | {'landmarks': values['landmarks'] | fingerprints})).eval()


def unsettle(network: JumpHand, size: float = 0.3) -> JumpHand:
    """Give its decoder steps of some standard deviations."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.startswith('decoder') and 'update.2' in name:
                value.normal_(0.0, size)
    return network


def feature_batch(samples: int, views: int, seed: int = 0, noise_px: float = 2.0) -> dict[str, Tensor]:
    """Hands of one shape, turned at random, before cameras all around, as a shard of features holds them: landmarks
    with errors of `noise_px`, of which the variances tell, and features of which nothing can be learned."""
    from view_cases import hand
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(samples):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        joints = hand() @ turn.T
        K = np.diag([900.0, 900.0, 1.0])
        K[:2, 2] = (HAND_SIZE - 1) / 2
        poses, px = [], []
        for _ in range(views):
            rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
            rotation *= np.sign(np.linalg.det(rotation))
            pose = np.column_stack([rotation, [0, 0, 0.7] - rotation @ joints.mean(0)])
            local = joints @ rotation.T + pose[:, 3]
            poses.append(pose)
            px.append(local[:, :2] / local[:, 2:] * 900.0 + K[:2, 2])
        made.append({'K': np.stack([K] * views), 'camera_from_world': np.stack(poses), 'view_mask': np.ones(views, bool),
                     'joints_px': np.stack(px), 'joint_mask': np.ones((views, 21), bool),
                     'present': np.ones(views, bool), 'joints': joints, 'vertices': np.full((778, 3), np.nan)})
    batch = collate(made)
    generator = torch.Generator().manual_seed(seed)
    maps = random_maps(samples * views, generator)
    noise = noise_px * torch.randn(batch['joints_px'].shape, generator=generator)
    kept = {'log_sigma': torch.full_like(maps.log_sigma, float(np.log(noise_px))), 'local': maps.local,
            'whole': maps.whole, **{f'level_{index}': level for index, level in enumerate(maps.levels)}}
    return batch | {'landmarks': batch['joints_px'] + noise,
                    'presence': maps.presence.unflatten(0, (samples, views)),
                    **{name: value.half().unflatten(0, (samples, views)) for name, value in kept.items()}}
