"""Gated deformable attention against one written out sample by sample."""

import math

import pytest
import torch

from hand_unc_ros.networks.deformable import CAMERA_SIZE, EVIDENCE_SIZE, GatedViewAttention

torch.set_num_threads(1)

BATCH, VIEWS, QUERIES, WIDTH, CHANNELS, HEADS, LEVELS, POINTS = 2, 3, 5, 6, 4, 2, 2, 3


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    module = GatedViewAttention(WIDTH, CHANNELS, HEADS, LEVELS, POINTS).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=torch.float64))
    return module


@pytest.fixture
def inputs():
    gates = drawn(BATCH, VIEWS, QUERIES, seed=6).softmax(1)
    return {'queries': drawn(BATCH, QUERIES, WIDTH, seed=1),
            'references': 0.6 * drawn(BATCH, VIEWS, QUERIES, 2, seed=2),
            'evidence': drawn(BATCH, VIEWS, QUERIES, EVIDENCE_SIZE, seed=3),
            'cameras': drawn(BATCH, VIEWS, CAMERA_SIZE, seed=4),
            'levels': [drawn(BATCH, VIEWS, CHANNELS, side, side, seed=5 + side) for side in (8, 4)], 'gates': gates}


def bilinear(image, x, y):
    """image (C, s, s) at pixel coordinates, zero outside."""
    side = image.shape[-1]
    total = torch.zeros(len(image), dtype=image.dtype)
    for column in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            if 0 <= column < side and 0 <= row < side:
                total = total + (1 - abs(x - column)) * (1 - abs(y - row)) * image[:, row, column]
    return total


def one_query(module, inputs, b, v, q):
    """What view v tells query q, before the gate."""
    camera = inputs['cameras'][b, v]
    gain, shift = module.query_camera(camera).chunk(2)
    asked = inputs['queries'][b, q] * (1 + gain) + shift
    offsets = module.offsets(asked).reshape(HEADS, LEVELS, POINTS, 2)
    weights = module.attention(asked).reshape(HEADS, -1).softmax(-1).reshape(HEADS, LEVELS, POINTS)
    sampled = torch.zeros(HEADS, WIDTH // HEADS, dtype=torch.float64)
    for level, features in enumerate(inputs['levels']):
        side = features.shape[-1]
        value = module.value(features[b, v].permute(1, 2, 0)).permute(2, 0, 1).reshape(HEADS, -1, side, side)
        x, y = (((inputs['references'][b, v, q] + 1) * side - 1) / 2).tolist()
        for head in range(HEADS):
            for point in range(POINTS):
                dx, dy = offsets[head, level, point].tolist()
                sampled[head] += weights[head, level, point] * bilinear(value[head], x + dx, y + dy)
    gain, shift = module.value_camera(camera).chunk(2)
    return module.output(sampled.flatten() * (1 + gain) + shift + module.residual(inputs['evidence'][b, v, q]))


def single(inputs):
    return {name: [level.float() for level in value] if name == 'levels' else value.float()
            for name, value in inputs.items()}


@torch.no_grad()
def test_it_is_the_sum_over_samples_written_out(attention, inputs):
    expected = torch.stack([torch.stack([sum(inputs['gates'][b, v, q] * one_query(attention, inputs, b, v, q)
                                             for v in range(VIEWS)) for q in range(QUERIES)]) for b in range(BATCH)])
    # The module samples in single precision: numbers of order 1, sums of 12 samples.
    torch.testing.assert_close(attention.float()(**single(inputs)).double(), expected, rtol=0, atol=2e-5)


@torch.no_grad()
def test_a_view_without_weight_may_hold_anything(attention, inputs):
    attention, inputs = attention.float(), single(inputs)
    inputs['gates'][0, 1] = 0.0
    expected = attention(**inputs)
    for part in (inputs['references'], inputs['evidence'], *inputs['levels']):
        part[0, 1] = torch.nan
    torch.testing.assert_close(attention(**inputs), expected, rtol=0, atol=0)
