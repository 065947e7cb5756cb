"""Which vertices of a surface a network asks for, and how the others follow them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def spread_out(template: np.ndarray, count: int) -> np.ndarray:
    """Indices (count,) of vertices far from each other, by farthest-point sampling of (N, 3) from the first."""
    template = np.asarray(template, np.float64)
    if count == len(template):
        return np.arange(count)
    picked = [0]
    distance = np.full(len(template), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.linalg.norm(template - template[picked[-1]], axis=1))
        picked.append(int(distance.argmax()))
    return np.sort(np.array(picked))


def nearest_mean(template: np.ndarray, picked: np.ndarray, skinning: np.ndarray, neighbours: int = 3) -> Tensor:
    """Weights (N, M) that make each vertex the inverse-distance mean of its nearest picked ones on the same bones."""
    template = np.asarray(template, np.float64)
    if len(picked) == len(template):
        return torch.eye(len(template))
    # A decimetre for vertices that share no bone keeps neighbouring fingers apart.
    apart = 0.1 * np.abs(skinning[:, None] - skinning[None, picked]).sum(-1) / 2
    distance = np.linalg.norm(template[:, None] - template[None, picked], axis=-1) + apart
    weights = 1 / (distance + 1e-6) ** 2
    kept = np.sort(weights, axis=1)[:, -min(neighbours, len(picked))][:, None]
    weights = np.where(weights >= kept, weights, 0.0)
    return torch.from_numpy(weights / weights.sum(1, keepdims=True)).float()
