"""The variance head of the landmark networks, and the one that comes with the package."""

from __future__ import annotations

import pytest
import torch

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.landmark_models import shipped_head
from hand_unc_ros.networks.blaze_hand import POOLED_CHANNELS, HandOutput
from hand_unc_ros.networks.landmark_variance import (
    FEATURE_CHANNELS,
    LEAST_SIGMA_PX,
    MOST_SIGMA_PX,
    START_SIGMA_PX,
    LandmarkVariance,
    landmark_features,
    load_landmark_variance,
)
from hand_unc_ros.networks.weights import save_network

torch.set_num_threads(1)


def inputs(count: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (scale * torch.randn(count, 21, FEATURE_CHANNELS, generator=generator),
            scale * torch.randn(count, POOLED_CHANNELS, generator=generator))


def test_an_untrained_head_claims_the_same_for_every_landmark() -> None:
    sigma = LandmarkVariance().eval()(*inputs(3)).exp()
    torch.testing.assert_close(sigma, torch.full((3, 21, 2), START_SIGMA_PX))


def test_the_shipped_head_keeps_to_possible_deviations() -> None:
    head = load_landmark_variance(shipped_head())
    for scale in (0.0, 1.0, 1e4):
        with torch.inference_mode():
            sigma = head(*inputs(20, scale)).exp()
        assert torch.isfinite(sigma).all()
        assert (sigma >= 0.999 * LEAST_SIGMA_PX).all() and (sigma <= 1.001 * MOST_SIGMA_PX).all()
    # 105 kB: what is learned of few recordings is small.
    assert shipped_head().stat().st_size < 200_000


def test_features_are_those_at_the_landmarks() -> None:
    column = torch.arange(7.0).expand(1, 1, 7, 7).contiguous()
    landmarks = torch.zeros(1, 21, 3)
    landmarks[0, :, 0] = torch.linspace(0, 223, 21)
    landmarks[0, :, 1] = 100.0
    out = HandOutput(landmarks=landmarks, world=landmarks, presence=torch.ones(1), handedness=torch.ones(1),
                     maps=(column,), pooled=torch.zeros(1, POOLED_CHANNELS))
    expected = ((landmarks[..., 0] + 0.5) / 32 - 0.5).clamp(0, 6)
    torch.testing.assert_close(landmark_features(out)[..., 0], expected)


def test_other_weights_are_refused(tmp_path) -> None:
    head = LandmarkVariance()
    save_network(tmp_path / 'head.safetensors', head, {'width': 16, 'dropout': 0.3})
    with pytest.raises(ConfigError, match='does not fit'):
        load_landmark_variance(tmp_path / 'head.safetensors')
    save_network(tmp_path / 'head.safetensors', head, head.config.to_dict())
    loaded = load_landmark_variance(tmp_path / 'head.safetensors')
    torch.testing.assert_close(loaded.start, head.start, atol=1e-3, rtol=0.0, msg='stored in half precision')
