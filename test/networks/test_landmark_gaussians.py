"""The per-view stage on a frozen landmark network: the readings of that network, features beside them, its own state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from landmark_cases import landmark_paths  # noqa: F401

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.joints import to_public
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, load_hand_landmark_net
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, cells_to_pixels
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_gaussians import (
    LEVEL_SIDES,
    FrozenLandmarks,
    LandmarkGaussianConfig,
    LandmarkGaussianNet,
    random_maps,
)
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
from hand_unc_ros.networks.landmark_errors import load_landmark_errors
from hand_unc_ros.networks.weights import state_fingerprint

SMALL = LandmarkGaussianConfig(channels=16)


def test_means_and_variances_are_those_that_the_method_landmarks_reads(landmark_paths) -> None:  # noqa: F811
    hand, palm, head = landmark_paths
    crops = np.random.default_rng(0).integers(0, 255, (3, HAND_SIZE, HAND_SIZE, 3), dtype=np.uint8)
    read = LandmarkNetworks(hand, palm, error_weights=head).read(crops)
    network = LandmarkGaussianNet(SMALL).eval()
    with pytest.raises(ConfigError, match='hand-unc models get landmarks'):
        network(torch.zeros(1, 3, HAND_SIZE, HAND_SIZE))
    network.attach(FrozenLandmarks(load_hand_landmark_net(hand), load_landmark_errors(head)))
    with torch.no_grad():
        out = network(image_tensor(torch.from_numpy(crops)))
    # A thousandth of a pixel: both are single precision, in batches of other memory formats.
    np.testing.assert_allclose(cells_to_pixels(out.mean, HAND_SIZE), to_public(read.landmarks, 'mediapipe'), atol=1e-3)
    cell = HAND_SIZE / HEATMAP_SIZE
    np.testing.assert_allclose(out.variance.sqrt() * cell, to_public(read.sigma, 'mediapipe'), rtol=1e-4)
    np.testing.assert_allclose(out.presence.sigmoid(), read.presence, atol=1e-5)
    assert out.log_heatmap is None and out.pooled.shape == (3, 21, 16)
    assert [level.shape for level in out.levels] == [(3, 16, side, side) for side in LEVEL_SIDES]


def test_the_frozen_networks_are_no_part_of_its_state(landmark_paths) -> None:  # noqa: F811
    hand, _, head = landmark_paths
    network = LandmarkGaussianNet(SMALL)
    before = list(network.state_dict())
    trunk = load_hand_landmark_net(hand)
    network.attach(FrozenLandmarks(trunk, load_landmark_errors(head)))
    assert list(network.state_dict()) == before and not any(part is trunk for part in network.modules())
    assert not any(value.requires_grad for value in trunk.parameters())


def test_fewer_levels_and_refusals() -> None:
    maps = random_maps(2, torch.Generator().manual_seed(0))
    out = LandmarkGaussianNet(replace(SMALL, level_count=1)).eval().stage(maps)
    assert [level.shape[-1] for level in out.levels] == [28]
    for wrong in ({'level_count': 0}, {'level_count': 4}, {'channels': 0}):
        with pytest.raises(ConfigError):
            replace(SMALL, **wrong)


def test_gaussians_are_never_dropped_out_but_features_are() -> None:
    maps = random_maps(2, torch.Generator().manual_seed(0))
    network = LandmarkGaussianNet(SMALL).train()
    torch.manual_seed(0)
    first, second = network.stage(maps), network.stage(maps)
    for one, other in zip(first[:2], second[:2]):
        assert torch.equal(one, other)
    assert not torch.equal(first.pooled, second.pooled) and not torch.equal(first.levels[1], second.levels[1])
    calm = network.eval()
    assert torch.equal(calm.stage(maps).pooled, calm.stage(maps).pooled)


def test_a_fingerprint_is_of_numbers(landmark_paths) -> None:  # noqa: F811
    first, second = (load_hand_landmark_net(landmark_paths[0]) for _ in range(2))
    assert state_fingerprint(first) == state_fingerprint(second)
    with torch.no_grad():
        second.landmarks.bias[3] += 0.1
    assert state_fingerprint(first) != state_fingerprint(second)
