"""The error head of the landmark networks, and those that come with the package."""

from __future__ import annotations

import pytest
import torch

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.landmark_models import shipped_heads
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, POOLED_CHANNELS, TAP_CHANNELS, HandOutput
from hand_unc_ros.networks.landmark_errors import (
    LEAST_SIGMA_PX,
    MOST_SIGMA_PX,
    SHIFT_PX,
    START_SIGMA_PX,
    LandmarkErrors,
    LandmarkErrorsConfig,
    load_landmark_errors,
)
from hand_unc_ros.networks.landmark_evidence import (
    FEATURE_CHANNELS,
    MAP_SIDES,
    MAP_TAPS,
    LandmarkEvidence,
    evidence_of,
    landmark_features,
)
from hand_unc_ros.networks.weights import save_network

torch.set_num_threads(1)


def inputs(count: int, scale: float = 1.0) -> LandmarkEvidence:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return scale * torch.randn(count, *shape, generator=generator)

    return LandmarkEvidence(HAND_SIZE * torch.rand(count, 21, 2, generator=generator), normal(21, FEATURE_CHANNELS),
                            normal(POOLED_CHANNELS),
                            tuple(normal(TAP_CHANNELS[tap], side, side) for tap, side in zip(MAP_TAPS, MAP_SIDES)))


def test_an_untrained_head_claims_the_same_for_every_landmark() -> None:
    for shift_width in (0, 8):
        shift, log_sigma = LandmarkErrors(LandmarkErrorsConfig(shift_width=shift_width)).eval()(inputs(3))
        torch.testing.assert_close(log_sigma.exp(), torch.full((3, 21, 2), START_SIGMA_PX))
        assert not shift.any()


@pytest.mark.parametrize('which, most_bytes', [(0, 600_000), (1, 200_000)])
def test_the_shipped_heads_keep_to_possible_deviations(which: int, most_bytes: int) -> None:
    path = shipped_heads()[which]
    head = load_landmark_errors(path)
    for scale in (0.0, 1.0, 1e4):
        with torch.inference_mode():
            shift, log_sigma = head(inputs(20, scale))
        sigma = log_sigma.exp()
        assert torch.isfinite(sigma).all()
        assert (sigma >= 0.999 * LEAST_SIGMA_PX).all() and (sigma <= 1.001 * MOST_SIGMA_PX).all()
        # Features that no image has may say anything of a shift, but nothing that takes a landmark out of the crop.
        assert (shift.abs() < HAND_SIZE / 2).all() and bool(shift.any()) == (which == 0)
    assert path.stat().st_size < most_bytes


def test_landmarks_are_moved_by_what_is_known_of_them_and_described_where_they_were() -> None:
    head = LandmarkErrors(LandmarkErrorsConfig(shift_width=8)).eval()
    with torch.no_grad():
        head.shifting.start[:, 0] = 3.0 / SHIFT_PX
    generator = torch.Generator().manual_seed(1)
    landmarks = 200 * torch.rand(2, 21, 3, generator=generator)
    maps = tuple(torch.randn(2, channels, 7, 7, generator=generator) for channels in TAP_CHANNELS)
    out = HandOutput(landmarks=landmarks, world=landmarks, presence=torch.ones(2), handedness=torch.ones(2), maps=maps,
                     pooled=torch.randn(2, POOLED_CHANNELS, generator=generator))
    judged = head.judge(out)
    torch.testing.assert_close(judged.landmarks, landmarks[..., :2] + torch.tensor([3.0, 0.0]))
    assert torch.equal(judged.features, landmark_features(out))


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
    head = LandmarkErrors()
    save_network(tmp_path / 'head.safetensors', head, {'width': 16, 'dropout': 0.3})
    with pytest.raises(ConfigError, match='does not fit'):
        load_landmark_errors(tmp_path / 'head.safetensors')
    save_network(tmp_path / 'head.safetensors', head, head.config.to_dict())
    loaded = load_landmark_errors(tmp_path / 'head.safetensors')
    torch.testing.assert_close(loaded.start, head.start, atol=1e-3, rtol=0.0, msg='stored in half precision')
