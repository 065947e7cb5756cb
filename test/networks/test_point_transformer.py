"""Attention among points and over time: what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hand_unc_ros.networks.point_transformer import (
    TimeAttention,
    VectorAttention,
    nearest,
    predicted_by_others,
    time_waves,
)

torch.set_num_threads(1)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 1000))
def test_neighbours_are_the_nearest_that_are_there(others: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, cloud = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, others, 3))
    present = rng.random((2, others)) < 0.7
    index = nearest(torch.from_numpy(points), torch.from_numpy(cloud), torch.from_numpy(present), count).numpy()
    assert index.shape == (2, 4, min(count, others))
    for row in range(2):
        distance = np.linalg.norm(points[row][:, None] - cloud[row], axis=-1)
        order = np.argsort(np.where(present[row], distance, np.inf), axis=1)
        for query in range(4):
            wanted = min(count, present[row].sum())
            assert set(index[row, query][:wanted]) == set(order[query][:wanted])


def attention() -> tuple[VectorAttention, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return VectorAttention(16).double(), torch.randn(2, 10, 16).double(), torch.randn(2, 10, 3).double()


def attended(layer: VectorAttention, x: torch.Tensor, points: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    return layer(x, points, x, points, present, nearest(points, points, present, 4))


def test_vector_attention_follows_permutations_and_ignores_translations() -> None:
    layer, x, points = attention()
    present = torch.ones(2, 10, dtype=torch.bool)
    out, order = attended(layer, x, points, present), torch.randperm(10)
    torch.testing.assert_close(attended(layer, x[:, order], points[:, order], present), out[:, order])
    torch.testing.assert_close(attended(layer, x, points + 0.7, present), out)
    assert (attended(layer, x, 1.3 * points, present) - out).abs().max() > 1e-3


def test_absent_points_are_as_if_they_had_never_been_there() -> None:
    layer, x, points = attention()
    present = torch.tensor([True] * 7 + [False] * 3).expand(2, 10)
    few = attended(layer, x[:, :7], points[:, :7], present[:, :7])
    torch.testing.assert_close(attended(layer, x, points, present)[:, :7], few)
    # Fewer than are asked for: the rest of the neighbours weigh nothing.
    present = torch.tensor([True] * 3 + [False] * 7).expand(2, 10)
    few = attended(layer, x[:, :3], points[:, :3], present[:, :3])
    torch.testing.assert_close(attended(layer, x, points, present)[:, :3], few, atol=1e-9, rtol=0)


def test_time_attention_knows_when_frames_were_and_not_which_number_they_have() -> None:
    torch.manual_seed(1)
    layer = TimeAttention(16, 4).double()
    x, moved = torch.randn(2, 5, 3, 16).double(), torch.randn(2, 5, 3, 3).double()
    seconds = torch.tensor([[-0.3, -0.2, -0.15, -0.05, 0.0]]).double().repeat(2, 1)
    present = torch.ones(2, 5, 3, dtype=torch.bool)
    out, order = layer(x, moved, seconds, present), torch.randperm(5)
    torch.testing.assert_close(layer(x[:, order], moved[:, order], seconds[:, order], present[:, order]), out[:, order])
    assert (layer(x, moved, 2 * seconds, present) - out).abs().max() > 1e-3
    lost = present.clone()
    lost[:, 1] = False
    kept = [0, 2, 3, 4]
    without = layer(x[:, kept], moved[:, kept], seconds[:, kept], present[:, kept])
    torch.testing.assert_close(layer(x, moved, seconds, lost)[:, kept], without)
    # A joint by itself.
    torch.testing.assert_close(layer(x[:, :, :1], moved[:, :, :1], seconds, present[..., :1]), out[:, :, :1])


@pytest.mark.parametrize('seconds', [0.0, -0.05, 2.0])
def test_waves_of_time_are_bounded(seconds: float) -> None:
    waves = time_waves(torch.tensor([seconds]))
    assert waves.shape == (1, 13) and waves[0, 0] == seconds and (waves[0, 1:].abs() <= 1).all()


def test_gradients_in_double() -> None:
    layer, x, points = attention()
    present = torch.ones(1, 5, dtype=torch.bool)
    x, points = (part[:1, :5].clone().requires_grad_() for part in (x, points))
    index = nearest(points.detach(), points.detach(), present, 3)
    assert torch.autograd.gradcheck(lambda a, b: layer(a, b, a, b, present, index), (x, points), fast_mode=True)


def test_frames_expect_a_joint_where_the_others_line_up() -> None:
    seconds = torch.tensor([[-0.2, -0.13, -0.05, 0.0]]).double()
    velocity, place = torch.randn(6, 3).double(), torch.randn(6, 3).double()
    points = place + seconds[..., None, None] * velocity
    present = torch.ones(1, 4, 6, dtype=torch.bool)
    expected = predicted_by_others(points, seconds, present)
    # But for the ridge, which holds back a slope over 0.2 s by a few per cent.
    torch.testing.assert_close(expected, points, atol=0.03 * velocity.abs().max().item(), rtol=0)
    spoilt, there = points.clone(), present.clone()
    spoilt[:, 1, 2] += 5
    there[:, 1, 2] = False
    torch.testing.assert_close(predicted_by_others(spoilt, seconds, there)[:, [0, 2, 3]],
                               predicted_by_others(points, seconds, there)[:, [0, 2, 3]])
    one = torch.zeros_like(present)
    one[:, 2] = True
    alone = predicted_by_others(points, seconds, one)
    torch.testing.assert_close(alone[:, 3], points[:, 2])
    assert torch.equal(alone[:, 2], points[:, 2]), 'a frame says nothing of itself'
