"""What pairs of calibrated views say of the variances that are claimed for their landmarks, without any label.

Of two views of one hand, the distance of their landmarks across the epipolar lines is known, and by the two claimed
variances it has a variance of its own. Its likelihood is that of Student's t, since detectors err grossly now and then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.networks.landmark_variance import LandmarkVariance

# Degrees of freedom of the t: the median recording errs like five.
DEGREES = 5.0
# A crop in which the trunk sees no hand teaches nothing about landmarks.
LEAST_PRESENCE = 0.5


@dataclass(frozen=True)
class Readings:
    """Of N crops: features (N, 21, C), pooled (N, 1152), landmarks (N, 21, 2) px of the crop, presence and right (N,).
    """

    features: Tensor
    pooled: Tensor
    landmarks: Tensor
    presence: Tensor
    right: Tensor


@dataclass(frozen=True)
class Pairs:
    """Hands that two views of a recording show at one time, P of them: rows (P, 2) of `readings`; residual (P, 21), the
    epipolar constraint x_bᵀ E x_a; first and second (P, 21, 2), its gradients by the landmarks of either crop."""

    readings: Readings
    rows: Tensor
    residual: Tensor
    first: Tensor
    second: Tensor

    def variance(self, log_sigma: Sequence[Tensor], chosen: Tensor) -> Tensor:
        """Of the residuals, by log σ (P, 21, 2) of both views."""
        return sum((gradient[chosen].square() * (2 * part).exp()).sum(-1)
                   for gradient, part in zip((self.first, self.second), log_sigma))

    @property
    def scale(self) -> Tensor:
        """(P, 21), what turns a residual into pixels of the crops."""
        return (self.first.square().sum(-1) + self.second.square().sum(-1)).sqrt()


def same_hands(readings: Readings, owners: Sequence[tuple[int, int]],
               wanted: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rows of readings that show the same hand in two views of a set. owners: set and track of each."""
    of_hands: dict[tuple[int, int], list[int]] = {}
    for row in wanted:
        if readings.presence[row] >= LEAST_PRESENCE:
            of_hands.setdefault(owners[row], []).append(row)
    for rows in of_hands.values():
        yield from combinations(rows, 2)


def epipolar(landmarks: Tensor, K: Tensor, camera_from_world: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The epipolar constraints (P, 21) of pairs of crops, in millimetres at unit depth, and their gradients (P, 21, 2)
    by the landmarks of either. K: (N, 3, 3) and camera_from_world: (N, 3, 4) of the crops."""
    inverse = torch.linalg.inv(K)
    rays = torch.cat([landmarks.double(), torch.ones_like(landmarks[..., :1]).double()], -1) @ inverse.mT
    a, b = rows.T
    rotation = camera_from_world[b, :, :3] @ camera_from_world[a, :, :3].mT
    step = camera_from_world[b, :, 3] - (rotation @ camera_from_world[a, :, 3:])[..., 0]
    axes = torch.eye(3, dtype=step.dtype).expand(len(step), 3, 3)
    cross = torch.linalg.cross(step[:, None].expand(-1, 3, -1), axes).mT
    essential = cross @ rotation
    of_a, of_b = rays[b] @ essential, rays[a] @ essential.mT
    residual = (rays[b] * of_b).sum(-1)
    first, second = of_a[..., :2] @ inverse[a][:, :2, :2], of_b[..., :2] @ inverse[b][:, :2, :2]
    return tuple(1e3 * part.float() for part in (residual, first, second))


def student_nll(squared: Tensor, log_variance: Tensor) -> Tensor:
    """Negative log-likelihood of a number with that square, divided by its variance, under Student's t."""
    return (log_variance + (DEGREES + 1) * torch.log1p(squared / DEGREES)).mean() / 2


@torch.no_grad()
def scores(head: LandmarkVariance, pairs: Pairs) -> dict[str, float]:
    """How well claimed variances fit a recording: normalised squared residual, share inside 95 % bounds, rank
    correlation of σ and residual over all and within landmarks, median residual in px of the crops."""
    from scipy.stats import spearmanr
    everything = torch.arange(len(pairs.rows))
    log_sigma = [head(pairs.readings.features[rows], pairs.readings.pooled[rows]) for rows in pairs.rows.T]
    variance = pairs.variance(log_sigma, everything)
    squared = (pairs.residual.square() / variance).numpy()
    residual, sigma = (pairs.residual.abs() / pairs.scale).numpy(), (variance.sqrt() / pairs.scale).numpy()
    within = [spearmanr(sigma[:, landmark], residual[:, landmark])[0] for landmark in range(sigma.shape[1])]
    return {'pairs': len(pairs.rows), 'nis': float(squared.mean()), 'inside95': float((squared < 3.8415).mean()),
            'spearman': float(spearmanr(sigma.ravel(), residual.ravel())[0]), 'spearman_within': float(np.mean(within)),
            'median_px': float(np.median(residual))}
