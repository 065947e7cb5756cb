"""What pairs of calibrated views say of the errors that are claimed for their landmarks, without any label.

Of two views of one hand, the distance of their landmarks across the epipolar lines is known, and by the two claimed
variances it has a variance of its own. Its likelihood is that of Student's t, since detectors err grossly now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.networks.landmark_errors import Errors
from hand_unc_ros.networks.landmark_evidence import LandmarkEvidence

# Degrees of freedom of the t: the median recording errs like five.
DEGREES = 5.0
# A crop in which the trunk sees no hand teaches nothing about landmarks.
LEAST_PRESENCE = 0.5
# Shift and log σ of the landmarks of crops, by their evidence: a head, or one of its experts.
Says = Callable[[LandmarkEvidence], Errors]


@dataclass(frozen=True)
class Readings:
    """Of N crops: presence and right (N,), and the fields of LandmarkEvidence."""

    features: Tensor
    pooled: Tensor
    landmarks: Tensor
    presence: Tensor
    right: Tensor
    maps: tuple[Tensor, ...] = ()

    def evidence(self, rows: Tensor) -> LandmarkEvidence:
        """Of some of the crops, in single precision."""
        return LandmarkEvidence(self.landmarks[rows], self.features[rows].float(), self.pooled[rows].float(),
                                tuple(level[rows].float() for level in self.maps))


class Claims(NamedTuple):
    """Of P pairs: residual (P, 21) after the shifts, to first order in these, and its variance (P, 21); of either view
    shift and log_sigma (P, 21, 2)."""

    residual: Tensor
    variance: Tensor
    shift: Sequence[Tensor]
    log_sigma: Sequence[Tensor]


@dataclass(frozen=True)
class Pairs:
    """Hands that two views of a recording show at one time, P of them: rows (P, 2) of `readings`; residual (P, 21), the
    epipolar constraint x_bᵀ E x_a; first and second (P, 21, 2), its gradients by the landmarks of either crop."""

    readings: Readings
    rows: Tensor
    residual: Tensor
    first: Tensor
    second: Tensor

    def claims(self, says: Says, chosen: Tensor) -> Claims:
        """What is said of the landmarks of `chosen` pairs, and so of their residuals."""
        shift, log_sigma = zip(*(says(self.readings.evidence(rows)) for rows in self.rows[chosen].T))
        gradients = self.first[chosen], self.second[chosen]
        moved = sum((gradient * part).sum(-1) for gradient, part in zip(gradients, shift))
        variance = sum((gradient.square() * (2 * part).exp()).sum(-1) for gradient, part in zip(gradients, log_sigma))
        return Claims(self.residual[chosen] + moved, variance, shift, log_sigma)

    def nll(self, claims: Claims, chosen: Tensor) -> Tensor:
        """Negative log-likelihood of what is claimed of `chosen` pairs, nats a landmark, up to a constant."""
        return student_nll(claims.residual.square() / claims.variance,
                           (claims.variance / self.scale[chosen].square()).log())

    def halves(self) -> tuple[Pairs, Pairs]:
        """The first and the last of them, in their order."""
        middle = len(self.rows) // 2
        first, last = ({name: getattr(self, name)[part] for name in ('rows', 'residual', 'first', 'second')}
                       for part in (slice(middle), slice(middle, None)))
        return replace(self, **first), replace(self, **last)

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
def scores(says: Says, pairs: Pairs) -> dict[str, float]:
    """How well claimed errors fit a recording: normalised squared residual, share inside 95 % bounds, rank
    correlation of σ and residual over all and within landmarks, median and 90th percentile of the residual in px of the
    crops."""
    from scipy.stats import spearmanr
    everything = torch.arange(len(pairs.rows))
    claims = pairs.claims(says, everything)
    squared = (claims.residual.square() / claims.variance).numpy()
    residual, sigma = ((part / pairs.scale).numpy() for part in (claims.residual.abs(), claims.variance.sqrt()))
    within = [spearmanr(sigma[:, landmark], residual[:, landmark])[0] for landmark in range(sigma.shape[1])]
    return {'pairs': len(pairs.rows), 'nis': float(squared.mean()), 'inside95': float((squared < 3.8415).mean()),
            'spearman': float(spearmanr(sigma.ravel(), residual.ravel())[0]), 'spearman_within': float(np.mean(within)),
            'median_px': float(np.median(residual)), 'p90_px': float(np.quantile(residual, 0.9))}
