"""Keeps what the frozen landmark network says of sequences of a public multi-view dataset: `python -m
hand_unc_ros.experiments.dataset_sequences --help`.

UST-Hand (config/train/ust_hand_lite.yaml) trains on windows of these, as on those of sequence_features. Labels of the
dataset say where crops are cut, and validation compares with them; the training takes none. The command may be killed
and run again.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.bounded import MalformedError, parse_yaml
from hand_unc_ros.data.batches import Augmentation
from hand_unc_ros.data.feature_shards import FeatureSet, write_features
from hand_unc_ros.data.samples import Sample, SampleView, windows
from hand_unc_ros.data.sequence_batches import SequenceAugmentation, collate_sequences, crop_sequence
from hand_unc_ros.errors import DatasetError, HandUncError
from hand_unc_ros.evaluation.benchmark import open_source
from hand_unc_ros.experiments.landmark_features import READ_BATCH, make_features, with_features
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.topology import VERTEX_COUNT
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.landmark_gaussians import LEVEL_TAPS

log = logging.getLogger(__name__)

# Alike in all frames of a window, with the standard deviations of the uniform distributions of Section 4.2: boxes moved
# by up to 5 % and scaled by 6 %, rolled by 10°, colours by 30 %.
AUGMENTATION = SequenceAugmentation(Augmentation(scale=0.035, roll=0.1, centre=0.029, colour=0.17))
FRAMES, SHARD_WINDOWS = 9, 4
# A frame is of use where so many cameras show the hand.
LEAST_VIEWS = 2


@dataclass(frozen=True)
class DatasetSequences:
    """What is made. data: a set of samples and options of its reader, as of `hand-unc evaluate`.  most: windows, spread
    evenly; 0 for all.  frames: of a window, every `step`-th of the set.  seed: of the crops."""

    folder: Path
    data: str
    options: dict[str, Any] = field(default_factory=dict)
    most: int = 0
    frames: int = FRAMES
    step: int = 1
    seed: int = 1

    @property
    def content(self) -> FeatureSet:
        """What describes the set. Raises ConfigError and DatasetError for what cannot be opened."""
        maker = self.maker()
        # As it comes back from JSON.
        made_of = json.loads(json.dumps({
            'seed': self.seed, 'samples': maker.description, 'sequences': {'frames': self.frames, 'step': self.step},
            'windows': [part.start for part in maker.windows], 'augmentation': asdict(AUGMENTATION),
            'shard_sequences': SHARD_WINDOWS}))
        return FeatureSet(f'{maker.description}: {len(maker.windows)} sequences of {self.frames} frames',
                          -(-len(maker.windows) // SHARD_WINDOWS), frozen_landmarks().fingerprints, made_of)

    def maker(self) -> WindowMaker:
        """What makes its shards."""
        return WindowMaker(self)


class WindowMaker:
    """Makes single shards. State: the set and, from the first shard on, the networks."""

    def __init__(self, wanted: DatasetSequences) -> None:
        self.wanted = wanted
        self.source, self.description = open_source(wanted.data, wanted.options)
        if not hasattr(self.source, 'times_ns'):
            raise DatasetError(f'{wanted.data} holds single images; choose a set whose samples follow each other')
        found = windows(self.source, wanted.frames, wanted.step)
        if not found:
            raise DatasetError(f'{wanted.data} has no {wanted.frames} samples that follow each other; choose fewer'
                               ' frames, a smaller step or another set')
        if 0 < wanted.most < len(found):
            found = [found[place] for place in np.linspace(0, len(found) - 1, wanted.most).round().astype(int)]
        self.windows = found
        self._networks = None

    def make(self, number: int) -> tuple[int, int]:
        """Read and write shard `number`; its number of sequences and crops. Windows that cannot be read, or in which
        too few cameras show the hand, are left out; a shard without any is not written."""
        if self._networks is None:
            self._networks = frozen_landmarks().networks
            self._networks.accelerate(READ_BATCH)
        numbers = range(number * SHARD_WINDOWS, min((number + 1) * SHARD_WINDOWS, len(self.windows)))
        found = {index: samples for index in numbers if (samples := self._samples(self.windows[index])) is not None}
        views = max((len(samples[0].views) for samples in found.values()), default=0)
        crops = {index: crop_sequence([filled(sample, views) for sample in samples], HAND_SIZE, AUGMENTATION,
                                      (self.wanted.seed, index), box_of_hand) for index, samples in found.items()}
        usable = {index: crop for index, crop in crops.items() if crop['view_mask'].sum(0).min() >= LEAST_VIEWS}
        for index in crops.keys() - usable.keys():
            log.warning('%s: fewer than %d cameras show the hand in a frame; the window is left out',
                        found[index][0].name, LEAST_VIEWS)
        if not usable:
            return 0, 0
        batch = collate_sequences(list(usable.values()), list(usable))
        write_features(self.wanted.folder, number, with_features(batch, self._networks, len(LEVEL_TAPS)))
        return len(usable), sum(int(crop['view_mask'].sum()) for crop in usable.values())

    def _samples(self, indices: Sequence[int]) -> list[Sample] | None:
        """The samples of a window, each with all of its cameras; None where one cannot be read."""
        try:
            return same_cameras([self.source[index] for index in indices])
        except DatasetError as error:
            log.warning('a window is left out: %s', error)
            return None


def same_cameras(samples: Sequence[Sample]) -> list[Sample]:
    """The samples with the same cameras in the same order, by name, and their images read. A camera that a sample
    lacks, or whose image cannot be read, has delivered nothing there."""
    cameras = {view.camera.name: view.camera for sample in samples for view in sample.views}
    found = []
    for sample in samples:
        views = {view.camera.name: _read(view) for view in sample.views}
        found.append(replace(sample, views=tuple(views[name] if name in views else nothing(cameras[name])
                                                 for name in sorted(cameras))))
    return found


def filled(sample: Sample, views: int) -> Sample:
    """The sample with so many views, the added ones of cameras that delivered nothing, and with a surface, unknown
    where it has none."""
    added = (nothing(sample.views[0].camera),) * (views - len(sample.views))
    vertices = np.full((VERTEX_COUNT, 3), np.nan) if sample.vertices is None else sample.vertices
    return replace(sample, views=sample.views + added, vertices=vertices)


def nothing(camera: Camera) -> SampleView:
    """The view of a camera that has delivered nothing."""
    return SampleView(camera, None, np.full((JOINT_COUNT, 2), np.nan), np.zeros(JOINT_COUNT, bool))


def _read(view: SampleView) -> SampleView:
    if view.image is None:
        return view
    try:
        return replace(view, image=view.read())
    except DatasetError as error:
        log.warning('an image is left out: %s', error)
        return nothing(view.camera)


def _options(text: str) -> dict[str, Any]:
    try:
        values = parse_yaml(text)
    except MalformedError as error:
        raise argparse.ArgumentTypeError(f'{text!r} is no valid YAML') from error
    if not isinstance(values, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a mapping such as {{protocol: hamuco}}')
    return values


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='FOLDER')
    parser.add_argument('--data', required=True, metavar='D',
                        help='dataset:root[:split], e.g. hanco:/data/HanCo:train, or a folder made by `hand-unc synth`')
    parser.add_argument('--options', type=_options, default={}, metavar='YAML',
                        help="of the dataset's reader, e.g. '{protocol: hamuco}'")
    parser.add_argument('--sequences', type=int, default=0, help='at most, spread evenly (default: all)')
    parser.add_argument('--frames', type=int, default=FRAMES, help=f'of a sequence (default {FRAMES})')
    parser.add_argument('--step', type=int, default=1, help='takes every so manieth frame (default 1)')
    parser.add_argument('--seed', type=int, default=1, help='of the crops')
    parser.add_argument('--processes', type=int, default=2)
    args = parser.parse_args()
    try:
        crops, seconds = make_features(DatasetSequences(args.out, args.data, args.options, args.sequences,
                                                        args.frames, args.step, args.seed), args.processes)
    except HandUncError as error:
        parser.error(str(error))
    print(f'{crops} crops in {seconds:.0f} s, {crops / max(seconds, 1e-9):.1f} a second')


if __name__ == '__main__':
    main()
