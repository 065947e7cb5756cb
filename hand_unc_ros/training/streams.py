"""Training batches by number: batch k depends on the seed and on k alone, so a run can go on anywhere.

A stream is a dataset of chunks of consecutive batches: rendering is dear, so the scenes of a chunk are used several
times.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.batches import SYNTHETIC_AUGMENTATION, Augmentation, BoxRule, collate, crop_sample
from hand_unc_ros.data.samples import Sample, SampleSource
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.hand.model import HandModel

log = logging.getLogger(__name__)

# Shares of batches by the number of cameras of their rigs, and crops rendered for a chunk of CHUNK_BATCHES.
RIG_SIZES = {4: 0.8, 8: 0.2}
CHUNK_BATCHES = 8
RENDERED_CROPS = 192
# Failures to read a sample that are named one by one; then every doubling of their number is.
MOST_NAMED = 4


class BatchStream(Protocol):
    """chunk(i): batches i × chunk_batches and the following, in order."""

    chunk_batches: int

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        """The batches of chunk number `index`."""

    def name(self, index: int) -> str:
        """The sample whose number is batch['index'], for messages."""
        ...


@dataclass(frozen=True)
class Subsets:
    """How many views a batch takes of each sample: any number from `fewest` to all, the larger ones more often."""

    fewest: int = 2

    def draw(self, rng: np.random.Generator, available: int) -> int:
        """A number of views, of `available` ones."""
        counts = np.arange(min(self.fewest, available), available + 1)
        return int(rng.choice(counts, p=counts / counts.sum()))


class SyntheticStream:
    """Endless batches of about `crops` crops, rendered as they are needed."""

    chunk_batches = CHUNK_BATCHES

    def __init__(self, model: HandModel, seed: int, crops: int, settings: MultiviewSettings = MultiviewSettings(),
                 augmentation: Augmentation = SYNTHETIC_AUGMENTATION, subsets: Subsets = Subsets(),
                 rule: BoxRule = reach_box) -> None:
        self.model, self.seed, self.crops = model, seed, crops
        self.settings, self.augmentation, self.subsets, self.rule = settings, augmentation, subsets, rule
        self._samples: MultiviewSamples | None = None

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        """The batches of chunk number `index`, rendered."""
        if self._samples is None:
            # Not before the first use, so that it is made in the worker.
            self._samples = MultiviewSamples(self.model, self.seed, self.settings)
        rng = np.random.default_rng((self.seed, index, 7030))
        cameras = int(rng.choice(list(RIG_SIZES), p=list(RIG_SIZES.values())))
        count = RENDERED_CROPS // cameras
        numbers = np.arange(count) + index * RENDERED_CROPS
        drawn = [self._samples.sample(int(number), cameras) for number in numbers]
        batches = []
        for place in range(self.chunk_batches):
            views = self.subsets.draw(rng, cameras)
            # Each of the scenes before any of them a second time.
            order = np.concatenate([rng.permutation(count) for _ in range(-(-self.crops // views // count))])
            rows = order[:max(1, self.crops // views)]
            batches.append(collate([crop_sample(drawn[row], self.settings.image_size, self.augmentation,
                                                (self.seed, index, place, i), rng.permutation(cameras)[:views],
                                                self.rule)
                                    for i, row in enumerate(rows)], numbers[rows]))
        return batches

    def name(self, index: int) -> str:
        """Number and seed of a sample, for messages."""
        return f'synthetic sample {index} of seed {self.seed}'


class SourceStream:
    """Batches of `size` samples of a dataset, in another order in every epoch.

    Damaged samples do not end a run of days: they are named, counted and replaced.  State: which ones.
    """

    chunk_batches = 1

    def __init__(self, source: SampleSource, seed: int, size: int, image_size: int, augmentation: Augmentation,
                 subsets: Subsets = Subsets(), rule: BoxRule = reach_box) -> None:
        self.source, self.seed, self.size = source, seed, min(size, len(source))
        self.image_size, self.augmentation, self.subsets, self.rule = image_size, augmentation, subsets, rule
        self._unreadable: set[int] = set()
        self._failures, self._last_error = 0, ''

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        """The batch number `index`, alone. Raises DatasetError where no sample at all can be read."""
        per_epoch = len(self.source) // self.size
        epoch, place = divmod(index, per_epoch)
        order = np.random.default_rng((self.seed, epoch, 7031)).permutation(len(self.source))
        # A sample that cannot be read is replaced by the one after the batch: a function of the number as well.
        rows = [int(row) for row in np.roll(order, -place * self.size)]
        while True:
            rows = [row for row in rows if row not in self._unreadable]
            if not rows:
                raise DatasetError(f'none of {len(self.source)} samples can be read, the last because '
                                   f'{self._last_error}')
            samples = self._samples(rows[:self.size])
            if samples is None:
                continue
            rng = np.random.default_rng((self.seed, index, 7032))
            views = self.subsets.draw(rng, min(len(sample.views) for sample in samples))
            crops = []
            for i, (row, sample) in enumerate(zip(rows, samples)):
                try:
                    crops.append(crop_sample(sample, self.image_size, self.augmentation, (self.seed, index, i),
                                             rng.permutation(len(sample.views))[:views], self.rule))
                except DatasetError as error:
                    # With other views it may be readable, so it is left out of this batch alone.
                    self._name_unreadable(error)
                    rows.remove(row)
                    break
            if len(crops) == len(samples):
                return [collate(crops, rows[:self.size])]

    def _samples(self, rows: Sequence[int]) -> list[Sample] | None:
        """The samples of these numbers; None where one of them cannot be read, which is then known."""
        samples = []
        for row in rows:
            try:
                samples.append(self.source[row])
            except DatasetError as error:
                self._unreadable.add(row)
                self._name_unreadable(error)
                return None
        return samples

    def _name_unreadable(self, error: DatasetError) -> None:
        self._last_error = str(error)
        self._failures += 1
        if self._failures <= MOST_NAMED or self._failures & (self._failures - 1) == 0:
            log.warning('a training sample cannot be read, another takes its place (%d times so far): %s',
                        self._failures, error)

    def name(self, index: int) -> str:
        """Name of a sample, for messages."""
        return self.source[index].name


class Chunks(torch.utils.data.Dataset):
    """The chunks of a stream for steps `first` to `last`, as a dataset for a DataLoader with batch_size=None. Of
    several processes that train together, number `rank` of `ranks` gets every ranks-th chunk."""

    def __init__(self, stream: BatchStream, first: int, last: int, rank: int = 0, ranks: int = 1) -> None:
        self.stream = stream
        rounds = range(first // stream.chunk_batches, -(-last // stream.chunk_batches))
        self.numbers = [number * ranks + rank for number in rounds]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> list[dict[str, Tensor]]:
        return self.stream.chunk(self.numbers[place])


def batches(stream: BatchStream, first: int, last: int, workers: int, rank: int = 0,
            ranks: int = 1) -> Iterator[dict[str, Tensor]]:
    """The batches of steps `first` to `last` − 1, made by `workers` processes ahead of time; see Chunks."""
    loader = torch.utils.data.DataLoader(Chunks(stream, first, last, rank, ranks), batch_size=None, num_workers=workers,
                                         prefetch_factor=2 if workers else None, worker_init_fn=_one_thread,
                                         pin_memory=torch.cuda.is_available())
    skip = first % stream.chunk_batches
    left = last - first
    for chunk in loader:
        for batch in chunk[skip:][:left]:
            yield batch
        left -= len(chunk) - skip
        skip = 0


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
