"""The landmarks on samples: turned crops are cameras, and the numbers of `hand-unc evaluate` come from the live fusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from landmark_cases import save_landmark_networks
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, hand_box
from hand_unc_ros.methods.landmarks import evaluation
from hand_unc_ros.methods.predictions import PredictorOptions
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import box_of_hand


def crop_cameras(joints: np.ndarray, views: int) -> tuple[np.ndarray, np.ndarray]:
    """K (V, 3, 3), turned as crops are, and camera_from_world (V, 3, 4)."""
    rig = ring_of_cameras(views, seed=5, distortion=(0.0,) * 5)
    K = np.stack([crop_intrinsics(camera, hand_box(joints, camera, rule=box_of_hand), HAND_SIZE) for camera in rig])
    return K, np.stack([camera.camera_from_world[:3] for camera in rig])


def test_true_landmarks_of_turned_crops_give_the_true_joints():
    rng = np.random.default_rng(3)
    joints = 0.05 * rng.normal(size=(21, 3)) @ Rotation.random(random_state=3).as_matrix()
    K, pose = crop_cameras(joints, 4)
    assert np.abs(K[:, 1, 0]).max() > 1
    local = joints @ pose[:, :, :3].swapaxes(1, 2) + pose[:, None, :, 3]
    px = local @ K.swapaxes(1, 2)
    px = torch.from_numpy(px[..., :2] / px[..., 2:])
    valid = torch.tensor([True, True, True, False])[:, None].expand(-1, 21)
    found = evaluation.fused_crops(px, torch.full_like(px, 2.0), valid, torch.from_numpy(K), torch.from_numpy(pose),
                                   'refined')
    np.testing.assert_allclose(found.joints, joints, atol=1e-6)
    assert found.used.tolist() == [True, True, True, False]


def test_what_it_cannot_do_is_refused(tmp_path: Path):
    trunk, _, head = save_landmark_networks(tmp_path)
    for wrong, words in ((dict(gate='average'), 'gate'), (dict(triangulation='magic'), 'magic'),
                         (dict(covariance_head=None), 'error head')):
        with pytest.raises(ConfigError, match=words):
            evaluation.build_predictor(PredictorOptions(**dict(weights=trunk, covariance_head=head) | wrong))
    assert evaluation.build_predictor(PredictorOptions(trunk, head)).image_size == HAND_SIZE
