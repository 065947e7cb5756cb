"""Mesh attention: the paper's sizes, what looks at what, and the way from coarse vertices to all."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hand_unc_ros.hand.anny import build_anny
from hand_unc_ros.hand.skinning import skinning_to_joints
from hand_unc_ros.networks.mesh_attention import MeshAttention, MeshGaussian, VertexUpsampling


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """With random numbers in place of the zeros that a training starts from."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def test_sizes_of_the_paper_narrow_the_tokens_to_gaussians() -> None:
    network = MeshAttention(2051, (512, 128), (1024, 256, 64), 1, 4)
    assert [(block.embed_vertices.in_features, block.embed_vertices.out_features, block.vertices_out.out_features)
            for block in network.blocks] == [(2051, 1024, 512), (512, 256, 128), (128, 64, 3)]
    out = network(torch.randn(1, 21, 2051), torch.randn(1, 30, 2051))
    assert out.mean.shape == out.log_variance.shape == (1, 30, 3) and not out.mean.any()


def test_vertices_are_alike_to_it_but_for_their_tokens() -> None:
    """Permuted vertices give permuted answers; joints, in any order, matter; a vertex sees the others."""
    network = awake(MeshAttention(8, (6,), (12, 8), 2, 2)).eval()
    generator = torch.Generator().manual_seed(2)
    joints, vertices = torch.randn(2, 5, 8, generator=generator), torch.randn(2, 7, 8, generator=generator)
    order = torch.randperm(7, generator=generator)
    out = network(joints, vertices)
    turned = network(joints.flip(1), vertices[:, order])
    for part, other in zip(out, turned):
        torch.testing.assert_close(part[:, order], other, atol=1e-5, rtol=1e-5)
    assert (network(joints + 1, vertices).mean - out.mean).abs().max() > 1e-3
    moved = vertices.clone()
    moved[:, 3] += 1
    assert (network(joints, moved).mean - out.mean)[:, 0].abs().max() > 1e-4


def test_gradients_are_those_of_finite_differences() -> None:
    network = awake(MeshAttention(5, (4,), (4, 4), 1, 2)).double()
    joints = torch.randn(1, 3, 5, dtype=torch.float64, requires_grad=True)
    vertices = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)

    def attended(joints: torch.Tensor, vertices: torch.Tensor) -> torch.Tensor:
        return network.blocks[1].attend(*network.blocks[0](joints, vertices))[1]

    assert torch.autograd.gradcheck(attended, (joints, vertices))


@pytest.mark.parametrize('counts', [(40,), (30, 120), ()])
def test_all_vertices_follow_the_coarse_ones(counts: tuple[int, ...]) -> None:
    """A moved and turned rest hand comes back to within the mesh's own spacing; variances lie between the coarse
    ones."""
    arrays = build_anny('right')
    template = arrays['v_template']
    upsampling = VertexUpsampling(counts, template, skinning_to_joints(arrays['weights']))
    picked = upsampling.picked.numpy()
    assert len(picked) == (counts[0] if counts else len(template))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    coarse = torch.from_numpy(template[picked] @ turn + 0.5).float()[None]
    log_variance = torch.linspace(-9, -4, coarse.numel()).reshape(coarse.shape)
    full = upsampling(MeshGaussian(coarse, log_variance))
    error = np.linalg.norm(full.mean[0].detach().numpy() - (template @ turn + 0.5), axis=1)
    spacing = np.linalg.norm(template[:, None] - template[None, picked], axis=-1).min(axis=1)
    assert np.median(error) <= 1.5 * max(np.median(spacing), 1e-6) and error.max() < 0.03
    least, most = full.log_variance.min(), full.log_variance.max()
    assert log_variance.min() - 1e-4 <= least and most <= log_variance.max() + 1e-4
