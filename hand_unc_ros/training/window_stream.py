"""Batches of windows out of kept features of sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.feature_shards import OF_SAMPLES, WITHOUT_FRAMES, FeatureShards
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.training.streams import Subsets

# Share of the batches whose windows are shorter, as those of a hand that has just been found, and of those that take
# every other frame of a sequence.
SHORT, WIDE = 0.15, 0.2


class WindowStream:
    """Endless batches of about `crops` crops: windows of consecutive frames (B, V, T, …) with all views of theirs, and
    `shown` (B, V) bool, the random subset of the views that a network is to see; at least one other only teaches.

    labelled: adds what is made of a batch, as pseudo-labels.  Raises DatasetError for sequences with too few views to
    hide one.
    """

    chunk_batches = 1

    def __init__(self, shards: FeatureShards, seed: int, crops: int, frames: int, subsets: Subsets,
                 labelled: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
        if min(shards.rows) <= subsets.fewest:
            raise DatasetError(f'{shards.folder} holds sequences of {min(shards.rows)} views; {subsets.fewest} are shown'
                               ' at least and one is hidden to teach, so make a set with more')
        self.shards, self.seed, self.crops, self.frames = shards, seed, crops, frames
        self.subsets, self.labelled = subsets, labelled

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        """The batch number `index`, alone."""
        rng = np.random.default_rng((self.seed, index, 7042))
        rows_of = self.shards.rows
        shares = np.array([len(rows) for rows in rows_of.values()]) / len(self.shards)
        views = int(rng.choice(list(rows_of), p=shares))
        rows = rows_of[views]
        count = max(1, self.crops // (views * self.frames))
        chosen = rows[rng.choice(len(rows), min(len(rows), count), replace=False)]
        whole = self.shards.batch(chosen, [rng.permutation(views) for _ in chosen])
        available = whole['stamps_s'].shape[1]
        length = min(int(rng.integers(1, self.frames + 1)) if rng.random() < SHORT else self.frames, available)
        step = 2 if rng.random() < WIDE and 2 * length - 1 <= available else 1
        first = int(rng.integers(available - step * (length - 1)))
        batch = self.labelled(of_frames(whole, slice(first, first + step * (length - 1) + 1, step)))
        seen = self.subsets.draw(rng, views - 1)
        order = torch.from_numpy(np.stack([rng.permutation(views) for _ in chosen]))
        return [batch | {'shown': order < seen}]

    def name(self, index: int) -> str:
        """Number and set of a sequence, for messages."""
        return f'sequence {index} of {self.shards.folder}'


def of_frames(batch: dict[str, Tensor], frames: slice) -> dict[str, Tensor]:
    """Some frames of a batch of sequences."""
    return {name: value if name in WITHOUT_FRAMES else value[:, frames] if name in OF_SAMPLES else value[:, :, frames]
            for name, value in batch.items()}
