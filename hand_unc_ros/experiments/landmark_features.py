"""Keeps what the frozen landmark network says of synthetic hands: `python -m hand_unc_ros.experiments.landmark_features
--help`.

JUMP-Hand on that network (config/train/jump_hand_landmarks.yaml) trains its projections and its decoder from these
sets: rendering and the trunk, which stays as it is, are paid for once. Crops are cut as the live pipeline cuts them,
around where a followed hand is expected. The command may be killed and run again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hand_unc_ros.data.batches import SYNTHETIC_AUGMENTATION, collate, crop_sample
from hand_unc_ros.data.feature_shards import FeatureSet, begin_features, write_features
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.landmark_gaussians import LEVEL_TAPS, FrozenLandmarks, LandmarkMaps
from hand_unc_ros.networks.placement import choose_precision

# How far the crop of a followed hand is off: prediction and calibration move it, landmarks turn and scale it.
FEATURE_AUGMENTATION = replace(SYNTHETIC_AUGMENTATION, scale=0.1, roll=0.12, centre=0.04)
# Shares of the shards by the number of cameras of their samples.
RIG_SIZES = {4: 0.8, 8: 0.2}
SHARD_SAMPLES = 32
READ_BATCH = 32
# Numbers that half a cell of half precision would spoil.
EXACT = ('landmarks', 'presence')


@dataclass(frozen=True)
class SyntheticFeatures:
    """What is made. samples: how many.  levels: of the trunk's maps that are kept, fine to coarse.  hand_model: as
    `load_hand_model` names it, '' for the stand-in."""

    folder: Path
    samples: int
    seed: int
    levels: int = len(LEVEL_TAPS)
    hand_model: str = ANNY
    settings: MultiviewSettings = MultiviewSettings(image_size=HAND_SIZE, absent=0.02)

    @property
    def content(self) -> FeatureSet:
        """What describes the set."""
        made_of = {'seed': self.seed, 'levels': self.levels, 'shard_samples': SHARD_SAMPLES,
                   'multiview': asdict(self.settings), 'augmentation': asdict(FEATURE_AUGMENTATION),
                   'hand_model': self.hand_model, 'rigs': {str(views): share for views, share in RIG_SIZES.items()}}
        # As it comes back from JSON.
        made_of = json.loads(json.dumps(made_of))
        return FeatureSet(f'synthetic images, seed {self.seed}: {self.samples} samples',
                          -(-self.samples // SHARD_SAMPLES), frozen_landmarks().fingerprints, made_of)

    def maker(self) -> ShardMaker:
        """What makes its shards."""
        return ShardMaker(self)


class ShardMaker:
    """Makes single shards. State: scenes and networks, loaded when the first one is made, in the process that does."""

    def __init__(self, wanted: SyntheticFeatures) -> None:
        self.wanted = wanted
        self._ready: tuple[MultiviewSamples, FrozenLandmarks] | None = None

    def make(self, number: int) -> tuple[int, int]:
        """Render, read and write shard `number`; its number of samples and crops."""
        wanted = self.wanted
        if self._ready is None:
            scenes = MultiviewSamples(load_hand_model(wanted.hand_model or None), wanted.seed, wanted.settings)
            self._ready = scenes, frozen_landmarks().networks
            self._ready[1].accelerate(READ_BATCH)
        scenes, networks = self._ready
        rng = np.random.default_rng((wanted.seed, number, 7050))
        views = int(rng.choice(list(RIG_SIZES), p=list(RIG_SIZES.values())))
        numbers = range(number * SHARD_SAMPLES, min((number + 1) * SHARD_SAMPLES, wanted.samples))
        crops = [crop_sample(scenes.sample(index, views), HAND_SIZE, FEATURE_AUGMENTATION, (wanted.seed, index),
                             rule=box_of_hand) for index in numbers]
        batch = collate(crops, numbers)
        write_features(wanted.folder, number, with_features(batch, networks, wanted.levels))
        return len(numbers), len(numbers) * views


def with_features(batch: dict[str, Tensor], networks: FrozenLandmarks, levels: int) -> dict[str, Tensor]:
    """The batch with LandmarkMaps, as `maps_in` finds them, in place of its images (…, S, S, 3)."""
    images = batch.pop('images')
    flat, views = images.flatten(0, -4), images.shape[:-3]
    dtype = choose_precision('auto', torch.device('cpu'))
    parts = []
    for part in flat.split(READ_BATCH):
        with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
            parts.append(networks(image_tensor(part), levels))
    kept = {name: torch.cat([vars_of[index] for vars_of in parts])
            for index, name in enumerate(LandmarkMaps._fields[:5])}
    kept |= {f'level_{index}': torch.cat([part.levels[index] for part in parts]) for index in range(levels)}
    return batch | {name: (value.float() if name in EXACT else value.half()).unflatten(0, views)
                    for name, value in kept.items()}


class Maker(Protocol):
    """Makes single shards."""

    def make(self, number: int) -> tuple[int, int]:
        """Write shard `number`; its number of samples and crops."""
        ...


class Features(Protocol):
    """A set that can be made."""

    folder: Path

    @property
    def content(self) -> FeatureSet:
        """What describes the set."""
        ...

    def maker(self) -> Maker:
        """What makes its shards, built in the process that does."""
        ...


_maker: Maker | None = None


def _start(wanted: Features) -> None:
    global _maker
    torch.set_num_threads(1)
    _maker = wanted.maker()


def _make(number: int) -> tuple[int, int]:
    return _maker.make(number)


def make_features(wanted: Features, processes: int) -> tuple[int, float]:
    """Make what the set still lacks; how many crops that were, and in how many seconds. Raises ConfigError without the
    landmark network and DatasetError for a folder that holds something else."""
    missing = begin_features(wanted.folder, wanted.content)
    started, crops = time.monotonic(), 0
    with tqdm(total=len(missing), desc='shards', disable=None) as bar:
        if processes == 1:
            _start(wanted)
            made = map(_make, missing)
        else:
            pool = multiprocessing.get_context('spawn').Pool(processes, _start, (wanted,))
            made = pool.imap_unordered(_make, missing)
        for _, views in made:
            crops += views
            bar.update(1)
            bar.set_postfix(crops_per_s=f'{crops / (time.monotonic() - started):.1f}')
        if processes > 1:
            pool.close()
            pool.join()
    return crops, time.monotonic() - started


def run_command(about: str | None, counted: str, usual: int, wanted: Callable[..., Features],
                more: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> None:
    """The command line that makes a set of features, or goes on with it. counted: what the set is made of, and `usual`
    how many.  wanted: the set in a folder, of that many, a seed, levels and a hand model, and what else it takes by
    name: the arguments `more`, as argparse takes them."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, metavar='FOLDER')
    parser.add_argument(f'--{counted}', type=int, default=usual, help=f'of 4 to 8 views each (default {usual})')
    parser.add_argument('--seed', type=int, default=1, help='not that of the set to validate on')
    parser.add_argument('--levels', type=int, default=len(LEVEL_TAPS), choices=range(1, len(LEVEL_TAPS) + 1),
                        help="of the trunk's maps that are kept")
    parser.add_argument('--hand-model', default=ANNY, metavar='NAME',
                        help=f"{ANNY}, a converted MANO or '' for the stand-in (default {ANNY})")
    parser.add_argument('--processes', type=int, default=2)
    for name, details in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **details)
    args = parser.parse_args()
    try:
        crops, seconds = make_features(wanted(args.out, getattr(args, counted), args.seed, args.levels, args.hand_model,
                                              **{name: getattr(args, name) for name in more}), args.processes)
    except ConfigError as error:
        parser.error(str(error))
    print(f'{crops} crops in {seconds:.0f} s, {crops / max(seconds, 1e-9):.1f} a second')


def main() -> None:
    """The command."""
    run_command(__doc__, 'samples', 8000, SyntheticFeatures)


if __name__ == '__main__':
    main()
