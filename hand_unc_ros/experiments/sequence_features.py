"""Keeps what the frozen landmark network says of synthetic sequences: `python -m
hand_unc_ros.experiments.sequence_features --help`.

UST-Hand (config/train/ust_hand_lite.yaml) trains on windows of these. The command may be killed and run again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from hand_unc_ros.data.feature_shards import FeatureSet, write_features
from hand_unc_ros.data.sequence_batches import SequenceAugmentation, collate_sequences, crop_sequence
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.data.synthetic.sequences import HandSequences, SequenceSettings
from hand_unc_ros.experiments.landmark_features import FEATURE_AUGMENTATION, READ_BATCH, run_command, with_features
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.landmark_gaussians import LEVEL_TAPS, FrozenLandmarks

# Crops follow a prediction: most of its error lasts for longer than a few frames. Sensors blur and compress already.
AUGMENTATION = SequenceAugmentation(
    lasting=replace(FEATURE_AUGMENTATION, scale=0.09, roll=0.1, centre=0.033),
    passing=replace(FEATURE_AUGMENTATION, scale=0.04, roll=0.06, centre=0.02, colour=0.0, blur=0.0, compress=0.0))
# Shares of the shards by the number of cameras of their sequences.
RIG_SIZES = {4: 0.85, 8: 0.15}
SHARD_SEQUENCES = 4


@dataclass(frozen=True)
class SequenceFeatures:
    """What is made. sequences: how many.  Others as of landmark_features.SyntheticFeatures."""

    folder: Path
    sequences: int
    seed: int
    levels: int = len(LEVEL_TAPS)
    hand_model: str = ANNY
    settings: MultiviewSettings = MultiviewSettings(image_size=HAND_SIZE, absent=0.02)
    motion: SequenceSettings = SequenceSettings()

    @property
    def content(self) -> FeatureSet:
        """What describes the set."""
        made_of = {'seed': self.seed, 'levels': self.levels, 'shard_sequences': SHARD_SEQUENCES,
                   'multiview': asdict(self.settings), 'sequences': asdict(self.motion),
                   'augmentation': asdict(AUGMENTATION), 'hand_model': self.hand_model,
                   'rigs': {str(views): share for views, share in RIG_SIZES.items()}}
        # As it comes back from JSON.
        made_of = json.loads(json.dumps(made_of))
        return FeatureSet(f'synthetic sequences, seed {self.seed}: {self.sequences} of {self.motion.frames} frames',
                          -(-self.sequences // SHARD_SEQUENCES), frozen_landmarks().fingerprints, made_of)

    def maker(self) -> SequenceMaker:
        """What makes its shards."""
        return SequenceMaker(self)


class SequenceMaker:
    """Makes single shards. State: scenes and networks."""

    def __init__(self, wanted: SequenceFeatures) -> None:
        self.wanted = wanted
        self.scenes = HandSequences(MultiviewSamples(load_hand_model(wanted.hand_model or None), wanted.seed,
                                                     wanted.settings), wanted.motion)
        self.networks: FrozenLandmarks = frozen_landmarks().networks
        self.networks.accelerate(READ_BATCH)

    def make(self, number: int) -> tuple[int, int]:
        """Render, read and write shard `number`; its number of sequences and crops."""
        wanted = self.wanted
        rng = np.random.default_rng((wanted.seed, number, 7051))
        views = int(rng.choice(list(RIG_SIZES), p=list(RIG_SIZES.values())))
        numbers = range(number * SHARD_SEQUENCES, min((number + 1) * SHARD_SEQUENCES, wanted.sequences))
        crops = [crop_sequence(self.scenes.sequence(index, views), HAND_SIZE, AUGMENTATION, (wanted.seed, index),
                               box_of_hand) for index in numbers]
        batch = with_features(collate_sequences(crops, numbers), self.networks, wanted.levels)
        write_features(wanted.folder, number, batch)
        return len(numbers), len(numbers) * views * wanted.motion.frames


def main() -> None:
    """The command."""
    run_command(__doc__, 'sequences', 1500, SequenceFeatures)


if __name__ == '__main__':
    main()
