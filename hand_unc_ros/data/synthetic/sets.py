"""Sets of synthetic samples, rendered by several processes and stored as shards; a set that was begun is continued."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import cv2
import torch
from tqdm import tqdm

from hand_unc_ros import __version__
from hand_unc_ros.data.samples import Sample
from hand_unc_ros.data.shards import ShardedSet, ShardSource, open_shards, unfinished, write_shard
from hand_unc_ros.data.synthetic.held_out import HELD_OUT, RATE_HZ, WINDOW, WINDOW_PX, HeldOutSequences
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.data.synthetic.photographs import installed
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.standin import STANDIN

TRAINING = 'training'
KINDS = (TRAINING, *HELD_OUT)
# Images of a shard: enough to make few files, few enough to lose little when a run is killed.
SHARD_IMAGES = 512
CROP_PX = MultiviewSettings.image_size
HANDS = (STANDIN, ANNY)


def describe_set(kind: str, seed: int, samples: int, views: int, frames: int,
                 shard_images: int = SHARD_IMAGES, hand_model: str = STANDIN, image_size: int = CROP_PX,
                 without: Sequence[str] = ()) -> ShardedSet:
    """The set of these numbers, of one of HANDS. image_size: side in pixels of the crops that will be cut of training
    samples.  without: which of INGREDIENTS these lack.  Raises ConfigError for numbers of which there is no such set."""
    for name, value, least in (('samples', samples, 1), ('views', views, 1), ('frames', frames, 1), ('seed', seed, 0),
                               ('image_size', image_size, 32)):
        if value < least:
            raise ConfigError(f'{name} is {value}; give at least {least}')
    if hand_model not in HANDS:
        raise ConfigError(f'hand model {hand_model!r} is not drawn; choose one of {", ".join(HANDS)}')
    if kind == TRAINING:
        if frames != 1:
            raise ConfigError(f'training samples are single moments; give 1 frame per sequence, not {frames}')
        # Backgrounds depend on the photographs that this machine has.
        settings = MultiviewSettings(image_size=image_size, without=tuple(without))
        names = [] if 'photographs' in without else [path.name for path in installed()]
        generator = asdict(settings) | {'photographs': names}
        distortion_model = 'none'
    elif kind in HELD_OUT:
        if image_size != CROP_PX:
            raise ConfigError(f"scenes '{kind}' are filmed by whole cameras; only those of training have an image size")
        if without:
            raise ConfigError(f"scenes '{kind}' are whole; only those of training can be without something")
        if HELD_OUT[kind].missing and views % 2:
            raise ConfigError(f"scenes '{kind}' lose one camera of each pair; give an even number of views, "
                              f'not {views}')
        generator = asdict(HELD_OUT[kind]) | {'rate_hz': RATE_HZ, 'window': WINDOW, 'window_px': WINDOW_PX}
        if hand_model == ANNY:
            generator['photographs'] = [path.name for path in installed()]
        distortion_model = 'plumb_bob'
    else:
        raise ConfigError(f"unknown kind of scene '{kind}'; known: {', '.join(KINDS)}")
    per_shard = max(1, shard_images // (views * frames)) * frames
    generator = {'version': __version__} | {name: list(value) if isinstance(value, tuple) else value
                                            for name, value in generator.items()}
    return ShardedSet(kind, seed, samples, views, frames, per_shard, distortion_model, hand_model, generator)


def make_set(folder: Path, content: ShardedSet, workers: int = 1) -> ShardSource:
    """Render what `folder` lacks of a set, in `workers` processes; the result does not depend on their number.

    Raises DatasetError where the folder holds anything else, ConfigError for less than one worker.
    """
    folder = Path(folder)
    if workers < 1:
        raise ConfigError(f'workers is {workers}; give at least 1')
    with unfinished(folder, content) as numbers:
        done = content.samples - sum(len(content.range_of(number)) for number in numbers)
        with tqdm(total=content.samples, initial=done, unit='samples', desc=str(folder)) as bar:
            # Workers are started afresh: threads of torch and OpenCV do not survive a fork.
            with ProcessPoolExecutor(min(workers, max(1, len(numbers))), multiprocessing.get_context('spawn'),
                                     _start_worker, (content,)) as pool:
                futures = [pool.submit(_make_shard, folder, content, number) for number in numbers]
                try:
                    for future in as_completed(futures):
                        bar.update(future.result())
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return open_shards(folder)


def sequence_maker(content: ShardedSet) -> Callable[[int], list[Sample]]:
    """What gives the sequences of a set by number, each of them whatever was asked for before."""
    model = load_hand_model(content.hand_model)
    if content.kind == TRAINING:
        settings = MultiviewSettings(image_size=content.generator['image_size'],
                                     without=tuple(content.generator['without']))
        training = MultiviewSamples(model, content.seed, settings)
        return lambda number: [training.sample(number, content.views)]
    return HeldOutSequences(model, content.kind, content.seed, content.views, content.frames).sequence


def _start_worker(content: ShardedSet) -> None:
    global _make_sequence
    # Ctrl-C is the parent's to answer; without a parent there is nobody to work for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _make_sequence = sequence_maker(content)


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _make_shard(folder: Path, content: ShardedSet, number: int) -> int:
    """Make and write one shard; the number of its samples."""
    rows = content.range_of(number)
    sequences = range(rows.start // content.frames, -(-rows.stop // content.frames))
    samples = [sample for sequence in sequences for sample in _make_sequence(sequence)][:len(rows)]
    write_shard(folder, content, number, samples)
    return len(samples)
