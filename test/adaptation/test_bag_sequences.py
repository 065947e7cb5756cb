"""Windows of a recording, and crops whose labels are where their cameras see the joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from landmark_cases import landmark_paths  # noqa: F401
from rig_cases import mixed_rig
from view_cases import hand, project

from hand_unc_ros.adaptation.plan import Part, Source
from hand_unc_ros.adaptation import sequences
from hand_unc_ros.adaptation.sequences import (
    LEAST_OF_PART,
    MIRROR,
    SequenceOptions,
    Window,
    choose_windows,
    cut_view,
)
from hand_unc_ros.data.pseudo_labels import PseudoLabels
from hand_unc_ros.networks.blaze_hand import load_hand_landmark_net
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks
from hand_unc_ros.networks.landmark_errors import load_landmark_errors
from hand_unc_ros.settings.recordings import BagSettings

RIG = mixed_rig()
PERIOD_S = 0.1
SOURCE = Source(Path('bag'), BagSettings(), 'f' * 64, 60.0, RIG)
PART = Part(SOURCE, 0, (0.0, 60.0), False)


def labels(count: int, left: np.ndarray, track: np.ndarray, missing: np.ndarray) -> PseudoLabels:
    stamps = (np.arange(count) * PERIOD_S * 1e9).astype(np.int64)
    joints = np.broadcast_to(hand(), (count, 21, 3)).copy()
    px = np.broadcast_to(project(RIG, hand()), (count, 4, 21, 2)).copy()
    sigma = np.broadcast_to(np.array([1.0, 2.0]), px.shape).copy()
    sigma[missing], px[missing] = np.inf, np.nan
    return PseudoLabels(RIG.names, stamps, np.repeat(stamps[:, None], 4, 1), left, track, px, sigma, joints)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 90), st.integers(0, 2**31), st.integers(1, 9), st.floats(0.5, 20))
def test_windows_follow_one_hand_and_do_not_overlap(count: int, seed: int, frames: int, per_minute: float) -> None:
    rng = np.random.default_rng(seed)
    found = labels(count, rng.random(count) < 0.3, np.cumsum(rng.random(count) < 0.05), rng.random(count) < 0.05)
    windows = choose_windows(PART, found, PERIOD_S, SequenceOptions(frames, per_minute))
    rows = [row for window in windows for row in window.rows.tolist()]
    assert len(rows) == len(set(rows)) == frames * len(windows)
    for side in (False, True):
        assert sum(bool(found.left[window.rows[0]]) == side for window in windows) <= max(LEAST_OF_PART, round(per_minute))
    for window in windows:
        assert len({(found.left[row], found.track[row]) for row in window.rows}) == 1
        assert (np.diff(found.stamp_ns[window.rows]) * 1e-9 <= 2.5 * PERIOD_S).all()
        assert found.trusted[window.rows].any((1, 2)).all()


@pytest.mark.parametrize('left', [False, True])
@pytest.mark.parametrize('view', range(4))
def test_labels_are_where_the_crop_s_camera_sees_the_joints(left: bool, view: int) -> None:
    """With each lens, and of the mirrored world for a left hand; σ by differences of the way from image to crop."""
    found = labels(9, np.full(9, left), np.ones(9, int), np.zeros(9, bool))
    window = Window(PART, found, np.arange(9))
    name = RIG.names[view]
    image = np.zeros((480, 640, 3), np.uint8)
    cut = cut_view(image, RIG.subset([name]), window, 3, view, (1, 2, view))
    joints = hand() * (MIRROR if left else 1)
    local = joints @ cut['camera_from_world'][:, :3].T + cut['camera_from_world'][:, 3]
    px = local @ cut['K'].T
    np.testing.assert_allclose(cut['labels_px'], px[:, :2] / px[:, 2:], atol=1e-4)
    assert cut['images'].shape == (224, 224, 3) and cut['present'] and ((cut['labels_px'] > -40) & (
        cut['labels_px'] < 264)).mean() > 0.9

    def in_crop(image_px: np.ndarray) -> np.ndarray:
        ideal = RIG[name].normalise(image_px) * ([-1, 1] if left else 1)
        return ideal @ cut['K'][:2, :2].T + cut['K'][:2, 2]

    at, step = found.labels_px[3, view], 1e-3
    columns = [(in_crop(at + step * axis) - in_crop(at - step * axis)) / (2 * step) for axis in np.eye(2)]
    variance = np.square(columns[0]) * 1.0 + np.square(columns[1]) * 4.0
    np.testing.assert_allclose(cut['labels_sigma_px'], np.sqrt(variance), rtol=1e-4)


def test_what_is_kept_is_what_the_networks_say(monkeypatch, landmark_paths) -> None:  # noqa: F811
    """In the place of the crop that they were shown, and zeros in a view without an image."""
    monkeypatch.setattr(sequences, 'choose_precision', lambda *args: torch.float32)
    networks = FrozenLandmarks(load_hand_landmark_net(landmark_paths[0]), load_landmark_errors(landmark_paths[2]))
    images = torch.randint(0, 255, (1, 2, 2, 224, 224, 3), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[[True, True], [False, True]]])
    batch = sequences._with_features({'images': images, 'view_mask': mask}, networks)
    assert 'images' not in batch and batch['local'].shape[:4] == (1, 2, 2, 21)
    maps = networks(images[0, 1, 1][None].movedim(-1, 1).float() / 255)
    np.testing.assert_allclose(batch['landmarks'][0, 1, 1], maps.landmarks[0], atol=1e-3)
    for name, said in {'log_sigma': maps.log_sigma, 'whole': maps.whole, 'level_2': maps.levels[2]}.items():
        # Half precision has three digits.
        np.testing.assert_allclose(batch[name][0, 1, 1].float(), said[0], rtol=2e-3, atol=2e-3)
        assert not batch[name][0, 1, 0].any()
