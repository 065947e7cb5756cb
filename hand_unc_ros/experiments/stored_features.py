"""Keeps what the frozen landmark network says of the hands in a stored set of images: `python -m
hand_unc_ros.experiments.stored_features --help`.

The set is one of `hand-unc synth`; what was rendered for one training serves those on features as well. Crops are cut
as by landmark_features, and every sample is cut several times, each time a little differently. The command may be
killed and run again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from hand_unc_ros.data.batches import collate, crop_sample
from hand_unc_ros.data.feature_shards import FeatureSet, write_features
from hand_unc_ros.data.shards import ShardSource, open_shards
from hand_unc_ros.errors import HandUncError
from hand_unc_ros.experiments.landmark_features import (
    FEATURE_AUGMENTATION,
    READ_BATCH,
    SHARD_SAMPLES,
    make_features,
    with_features,
)
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import box_of_hand


@dataclass(frozen=True)
class StoredFeatures:
    """What is made. images: folder of the set.  times: how often each of its samples is cut.  seed: of the crops."""

    folder: Path
    images: Path
    times: int
    seed: int

    @property
    def content(self) -> FeatureSet:
        """What describes the set. Raises DatasetError for a folder without a set."""
        source = open_shards(self.images)
        made_of = {'images': source.content.digest, 'times': self.times, 'seed': self.seed, 'levels': 0,
                   'shard_samples': SHARD_SAMPLES, 'augmentation': asdict(FEATURE_AUGMENTATION)}
        return FeatureSet(f'{source.description}, each cut {self.times} times',
                          -(-len(source) * self.times // SHARD_SAMPLES), frozen_landmarks().fingerprints, made_of)

    def maker(self) -> StoredMaker:
        """What makes its shards."""
        return StoredMaker(self)


class StoredMaker:
    """Makes single shards. State: the set and the networks."""

    def __init__(self, wanted: StoredFeatures) -> None:
        self.wanted = wanted
        self.source: ShardSource = open_shards(wanted.images)
        self.networks = frozen_landmarks().networks
        self.networks.accelerate(READ_BATCH)

    def make(self, number: int) -> tuple[int, int]:
        """Read and write shard `number`; its number of samples and crops."""
        wanted, count = self.wanted, len(self.source)
        numbers = range(number * SHARD_SAMPLES, min((number + 1) * SHARD_SAMPLES, count * wanted.times))
        crops = [crop_sample(self.source[index % count], HAND_SIZE, FEATURE_AUGMENTATION, (wanted.seed, index),
                             rule=box_of_hand) for index in numbers]
        write_features(wanted.folder, number, with_features(collate(crops, numbers), self.networks, 0))
        return len(numbers), sum(len(crop['view_mask']) for crop in crops)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='FOLDER')
    parser.add_argument('--images', type=Path, required=True, help='folder made by `hand-unc synth`')
    parser.add_argument('--times', type=int, default=2, help='crops of each view (default 2)')
    parser.add_argument('--seed', type=int, default=1, help='of the crops')
    parser.add_argument('--processes', type=int, default=2)
    args = parser.parse_args()
    try:
        crops, seconds = make_features(StoredFeatures(args.out, args.images, args.times, args.seed), args.processes)
    except HandUncError as error:
        parser.error(str(error))
    print(f'{crops} crops in {seconds:.0f} s, {crops / max(seconds, 1e-9):.1f} a second')


if __name__ == '__main__':
    main()
