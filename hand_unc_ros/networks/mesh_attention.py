"""AMVUR's attention-based vertex regression: tokens of joints and vertices to a Gaussian of each vertex coordinate.

Jiang et al., "A Probabilistic Attention Model with Occlusion-aware Texture Regression for 3D Hand Reconstruction from
a Single RGB Image", 2023. In every block the vertices look at the joints, then at each other; the blocks narrow the
tokens from 2051 numbers (a place and 2048 features) over 512 and 128 to 3, and the last one gives a mean and a log
variance.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.networks.vertex_queries import nearest_mean, spread_out

# Log variances of vertices in units² of the mean: with HAND_UNIT these are standard deviations of 0.1 mm and 0.4 m.
LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE = -13.8, 2.8
# At the start of a training: a third of a unit, as large as errors are then.
START_LOG_VARIANCE = -2.4


class MeshGaussian(NamedTuple):
    """mean and log_variance: (B, M, 3) of independent vertex coordinates."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """noise: (..., B, M, 3), standard normal; to vertices of the same shape, differentiable."""
        return self.mean + (self.log_variance / 2).exp() * noise


class Attention(nn.Module):
    """Multi-head attention with its residual, normalised before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.other_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.merge = nn.Linear(width, width)

    def forward(self, x: Tensor, others: Tensor | None = None) -> Tensor:
        """x: (B, Q, C) looks at others (B, K, C), at itself without any."""
        normed = self.norm(x)
        seen = normed if others is None else self.other_norm(others)
        key, value = self.key_value(seen).chunk(2, -1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                             for part in (self.query(normed), key, value))
        return x + self.merge(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class MeshBlock(nn.Module):
    """`layers` of cross-attention of vertices (queries) to joints, self-attention over vertices and a linear update,
    each with its residual, between two linear maps: inputs → hidden → outputs."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed_joints, self.embed_vertices = nn.Linear(inputs, hidden), nn.Linear(inputs, hidden)
        self.cross = nn.ModuleList(Attention(hidden, heads) for _ in range(layers))
        self.own = nn.ModuleList(Attention(hidden, heads) for _ in range(layers))
        self.update = nn.ModuleList(nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(),
                                                  nn.Linear(hidden, hidden)) for _ in range(layers))
        self.joints_out, self.vertices_out = nn.Linear(hidden, outputs), nn.Linear(hidden, outputs)

    def attend(self, joints: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, J, inputs) and (B, M, inputs) to hidden ones."""
        joints, vertices = self.embed_joints(joints), self.embed_vertices(vertices)
        for cross, own, update in zip(self.cross, self.own, self.update):
            vertices = own(cross(vertices, joints))
            vertices = vertices + update(vertices)
        return joints, vertices

    def forward(self, joints: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, J, inputs) and (B, M, inputs) to (B, J, outputs) and (B, M, outputs)."""
        joints, vertices = self.attend(joints, vertices)
        return self.joints_out(joints), self.vertices_out(vertices)


class MeshAttention(nn.Module):
    """inputs: numbers in a token.  outputs: of every block but the last, whose are 3.  hidden: widths within the
    blocks, one more.  The paper: 2051, (512, 128), (1024, 256, 64), 4 layers of 4 heads."""

    def __init__(self, inputs: int, outputs: tuple[int, ...], hidden: tuple[int, ...], layers: int, heads: int) -> None:
        super().__init__()
        assert len(hidden) == len(outputs) + 1, (outputs, hidden)
        sizes = (inputs, *outputs, 3)
        self.blocks = nn.ModuleList(MeshBlock(before, width, after, layers, heads)
                                    for (before, after), width in zip(pairwise(sizes), hidden))
        # Nobody reads joints behind the last block.
        self.blocks[-1].joints_out = nn.Identity()
        self.log_variance = nn.Linear(hidden[-1], 3)
        nn.init.zeros_(self.blocks[-1].vertices_out.weight)
        nn.init.zeros_(self.blocks[-1].vertices_out.bias)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, START_LOG_VARIANCE)

    def forward(self, joints: Tensor, vertices: Tensor) -> MeshGaussian:
        """Tokens (B, J, inputs) and (B, M, inputs) to M vertices; the mean starts a training at zero."""
        for block in self.blocks[:-1]:
            joints, vertices = block(joints, vertices)
        last = self.blocks[-1]
        _, vertices = last.attend(joints, vertices)
        return MeshGaussian(last.vertices_out(vertices),
                            self.log_variance(vertices).clamp(LEAST_LOG_VARIANCE, MOST_LOG_VARIANCE))


class VertexUpsampling(nn.Module):
    """Coarse vertices to all of a surface by linear layers, which begin as the mean of the nearest on the same bones.

    counts: vertices of the coarse surfaces, coarsest first, such as (195, 389); none where every vertex is a token.
    template: (N, 3) metres.  skinning: (N, 21), see hand.skinning.  picked: (M,) which vertices are the coarsest.
    """

    def __init__(self, counts: tuple[int, ...], template: np.ndarray, skinning: np.ndarray) -> None:
        super().__init__()
        levels = [np.arange(len(template))]
        for count in reversed(counts):
            levels.append(levels[-1][spread_out(template[levels[-1]], count)])
        means = []
        for coarse, fine in zip(levels[:0:-1], levels[-2::-1]):
            means.append(nearest_mean(template[fine], np.searchsorted(fine, coarse), skinning[fine]))
        self.maps = nn.ParameterList(means)
        self.register_buffer('picked', torch.from_numpy(levels[-1].astype(np.int64)))
        # How variances follow is not learned: weights that are no longer a mean would make them negative.
        self.register_buffer('spread', torch.eye(len(levels[-1])))
        for mean in means:
            self.spread = mean @ self.spread

    def forward(self, coarse: MeshGaussian) -> MeshGaussian:
        """(B, M, 3) to (B, N, 3). A vertex's standard deviation is the mean of its neighbours', who err alike."""
        mean = coarse.mean
        for weights in self.maps:
            mean = weights @ mean
        if not len(self.maps):
            return coarse
        return MeshGaussian(mean, 2 * (self.spread @ (coarse.log_variance / 2).exp()).log())
