"""Batches of kept features, and of several sources mixed. Of a set of sequences, single moments of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from hand_unc_ros.data.feature_shards import OF_SAMPLES, WITHOUT_FRAMES, FeatureShards
from hand_unc_ros.training.streams import BatchStream, Subsets


class FeatureStream:
    """Endless batches of about `crops` crops out of a set of features: samples at random, of each some of its views."""

    chunk_batches = 1

    def __init__(self, shards: FeatureShards, seed: int, crops: int, subsets: Subsets = Subsets()) -> None:
        self.shards, self.seed, self.crops, self.subsets = shards, seed, crops, subsets

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        """The batch number `index`, alone."""
        rng = np.random.default_rng((self.seed, index, 7040))
        rows_of = self.shards.rows
        shares = np.array([len(rows) for rows in rows_of.values()]) / len(self.shards)
        available = int(rng.choice(list(rows_of), p=shares))
        views = self.subsets.draw(rng, available)
        rows = rows_of[available]
        chosen = rows[rng.choice(len(rows), min(len(rows), max(1, self.crops // views)), replace=False)]
        batch = self.shards.batch(chosen, [rng.permutation(available)[:views] for _ in chosen])
        return [moment(batch, rng)]

    def name(self, index: int) -> str:
        """Number and set of a sample, for messages."""
        return f'sample {index} of {self.shards.folder}'


class Mixture:
    """Each batch out of one of several streams, drawn with the given weights."""

    chunk_batches = 1

    def __init__(self, streams: Sequence[BatchStream], weights: Sequence[float], seed: int) -> None:
        assert all(stream.chunk_batches == 1 for stream in streams), 'batches are drawn one by one'
        self.streams, self.seed = list(streams), seed
        self.shares = np.array(weights, float) / sum(weights)

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        """The batch number `index` of the stream that is drawn for it."""
        drawn = np.random.default_rng((self.seed, index, 7041)).choice(len(self.streams), p=self.shares)
        return self.streams[drawn].chunk(index)

    def name(self, index: int) -> str:
        """Of a sample of one of the streams, for messages."""
        return ' or '.join(dict.fromkeys(stream.name(index) for stream in self.streams))


def held_out_features(shards: FeatureShards, samples: int, views: int, size: int) -> list[dict[str, Tensor]]:
    """Batches of `size` of the first samples of a set, with the first `views` views of each that has as many."""
    batches: list[dict[str, Tensor]] = []
    left = samples
    for available, rows in shards.rows.items():
        chosen = rows[:left] if available >= views else rows[:0]
        left -= len(chosen)
        batches += [shards.batch(part, [range(views)] * len(part))
                    for part in (chosen[start:start + size] for start in range(0, len(chosen), size))]
    return batches


def moment(batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """One frame, the same of all, of a batch of sequences, as of a set of moments; any other batch as it is."""
    if 'stamps_s' not in batch:
        return batch
    return at_frame(batch, int(rng.integers(batch['stamps_s'].shape[1])))


def at_frame(batch: dict[str, Tensor], frame: int) -> dict[str, Tensor]:
    """One frame of a batch of sequences, as of a set of moments."""
    chosen = {name: value if name in WITHOUT_FRAMES else value[:, frame] if name in OF_SAMPLES else value[:, :, frame]
              for name, value in batch.items() if name != 'stamps_s'}
    return chosen | ({'vertices': chosen['vertices'].float()} if 'vertices' in chosen else {})
