"""Keeps what the frozen landmark network says of synthetic sequences: `python -m
hand_unc_ros.experiments.sequence_features --help`.

UST-Hand (config/train/ust_hand_lite.yaml) trains on windows of these. The command may be killed and run again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hand_unc_ros.data.feature_shards import FeatureSet, write_features
from hand_unc_ros.data.sequence_batches import SequenceAugmentation, collate_sequences, crop_sequence
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.data.synthetic.sequences import HandSequences, SequenceSettings
from hand_unc_ros.errors import ConfigError
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
# Of a joint to its camera, metres, at least.
NEAREST = 0.05


@dataclass(frozen=True)
class SequenceFeatures:
    """What is made. sequences: how many.  second_hand: share of them in which the other hand of the person is near; the
    features are of the right one.  Others as of landmark_features.SyntheticFeatures."""

    folder: Path
    sequences: int
    seed: int
    levels: int = len(LEVEL_TAPS)
    hand_model: str = ANNY
    settings: MultiviewSettings = MultiviewSettings(image_size=HAND_SIZE, absent=0.02)
    motion: SequenceSettings = SequenceSettings()
    second_hand: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.second_hand <= 1:
            raise ConfigError(f'second_hand is {self.second_hand}; it is a share, from 0 to 1')

    @property
    def content(self) -> FeatureSet:
        """What describes the set."""
        made_of = {'seed': self.seed, 'levels': self.levels, 'shard_sequences': SHARD_SEQUENCES,
                   'multiview': asdict(self.settings), 'sequences': asdict(self.motion),
                   'augmentation': asdict(AUGMENTATION), 'hand_model': self.hand_model,
                   'rigs': {str(views): share for views, share in RIG_SIZES.items()}}
        if self.second_hand:
            made_of['second_hand'] = self.second_hand
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
                                                     wanted.settings), wanted.motion, wanted.second_hand)
        self.networks: FrozenLandmarks = frozen_landmarks().networks
        self.networks.accelerate(READ_BATCH)

    def make(self, number: int) -> tuple[int, int]:
        """Render, read and write shard `number`; its number of sequences and crops."""
        wanted = self.wanted
        rng = np.random.default_rng((wanted.seed, number, 7051))
        views = int(rng.choice(list(RIG_SIZES), p=list(RIG_SIZES.values())))
        numbers = range(number * SHARD_SEQUENCES, min((number + 1) * SHARD_SEQUENCES, wanted.sequences))
        filmed = [self.scenes.sequence(index, views) for index in numbers]
        crops = [crop_sequence(one.samples, HAND_SIZE, AUGMENTATION, (wanted.seed, index), box_of_hand)
                 for one, index in zip(filmed, numbers)]
        batch = with_features(collate_sequences(crops, numbers), self.networks, wanted.levels)
        for row, (one, crop) in enumerate(zip(filmed, crops)):
            if one.other is not None:
                others = of_other_hand(batch['landmarks'][row].numpy(), crop, one.other)
                batch['presence'][row][torch.from_numpy(others)] = 0.0
        write_features(wanted.folder, number, batch)
        return len(numbers), len(numbers) * views * wanted.motion.frames


def of_other_hand(landmarks: np.ndarray, crop: dict[str, np.ndarray], other: np.ndarray) -> np.ndarray:
    """(V, F) bool, whether landmarks (V, F, 21, 2), px of the crops of one sequence, are the person's other hand's,
    joints (F, 21, 3) metres, world: nearer to these than to the own ones in the median over the joints. Live, such a
    reading is none of the hand's (estimation.hand_assignment)."""
    apart = []
    for joints in (crop['joints'], other):
        homogeneous = np.concatenate([joints, np.ones((*joints.shape[:2], 1))], -1)
        local = np.einsum('vfij,fnj->vfni', crop['K'] @ crop['camera_from_world'], homogeneous)
        px = local[..., :2] / np.maximum(local[..., 2:], NEAREST)
        apart.append(np.median(np.linalg.norm(landmarks - px, axis=-1), axis=-1))
    return crop['view_mask'] & (apart[1] < apart[0])


def main() -> None:
    """The command."""
    run_command(__doc__, 'sequences', 1500, SequenceFeatures, {'second_hand': {
        'type': float, 'default': 0.0, 'metavar': 'SHARE',
        'help': 'of the sequences, in which the other hand of the person passes by or goes along (default 0)'}})


if __name__ == '__main__':
    main()
