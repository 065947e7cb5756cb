"""Batches of recorded hands without labels: a network is shown some of the views, and the others teach."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.feature_shards import FeatureShards
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.networks.landmark_gaussians import seen_views
from hand_unc_ros.training.feature_stream import moment
from hand_unc_ros.training.streams import Subsets

# Landmarks that are shown are moved by a Gaussian of up to this share of their σ.
MOST_JITTER = 0.5


class RecordedStream:
    """Endless batches of about `crops` crops: hands at random with all their views.

    Beside the entries of a set, `shown` (B, V) bool, the views that a network is to see, which leaves out one at least
    of those that see the hand where more than two do; and `read_px` (B, V, 21, 2), the landmarks as they were read,
    while `landmarks` are moved a little. Raises DatasetError for a set of something else.
    """

    chunk_batches = 1

    def __init__(self, shards: FeatureShards, seed: int, crops: int, subsets: Subsets = Subsets()) -> None:
        _check(shards)
        self.shards, self.seed, self.crops, self.subsets = shards, seed, crops, subsets

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        """The batch number `index`, alone."""
        rng = np.random.default_rng((self.seed, index, 7044))
        rows_of = self.shards.rows
        shares = np.array([len(rows) for rows in rows_of.values()]) / len(self.shards)
        views = int(rng.choice(list(rows_of), p=shares))
        rows = rows_of[views]
        # Two hands at least: what the bones of one differ by, another tells.
        count = min(len(rows), max(2, self.crops // views))
        chosen = rows[rng.choice(len(rows), count, replace=False)]
        batch = moment(self.shards.batch(chosen, [rng.permutation(views) for _ in chosen]), rng)
        shown = np.zeros((count, views), bool)
        for row, seeing in enumerate(seen_views(batch).numpy()):
            places = rng.permutation(np.flatnonzero(seeing))
            shown[row, places[:self.subsets.draw(rng, len(places) - 1) if len(places) > 2 else None]] = True
        sigma = batch['log_sigma'].float().exp()
        jitter = torch.from_numpy(rng.normal(size=sigma.shape) * rng.uniform(0, MOST_JITTER, (count, 1, 1, 1))).float()
        return [batch | {'shown': torch.from_numpy(shown), 'read_px': batch['landmarks'],
                         'landmarks': batch['landmarks'] + jitter * sigma}]

    def name(self, index: int) -> str:
        """Number and set of a hand, for messages."""
        return f'hand {index} of {self.shards.folder}'


def held_out_recorded(shards: FeatureShards, size: int) -> list[dict[str, Tensor]]:
    """All hands of a set of recordings in batches of `size`, each time with another of their views hidden, where more
    than two see the hand; landmarks as they were read. Raises DatasetError for a set of something else."""
    _check(shards)
    batches = []
    rng = np.random.default_rng(7045)
    for views, rows in shards.rows.items():
        for start in range(0, len(rows), size):
            part = rows[start:start + size]
            batch = moment(shards.batch(part, [range(views)] * len(part)), rng)
            seen = seen_views(batch)
            several = seen.sum(1, keepdim=True) > 2
            for hidden in range(views):
                others = torch.arange(views) != hidden
                batches.append(batch | {'read_px': batch['landmarks'], 'shown': seen & (others | ~several)})
                if not several.any():
                    break
    return batches


def _check(shards: FeatureShards) -> None:
    if 'hands' not in shards.content.settings:
        raise DatasetError(f'{shards.folder} holds no recorded hands; make a set of them with `python -m'
                           ' hand_unc_ros.experiments.recorded_features`')
