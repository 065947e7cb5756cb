"""Sequences to network inputs: the crops of `data.batches`, with an axis of frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.batches import Augmentation, BoxRule, crop_sample, jitter
from hand_unc_ros.data.samples import Sample
from hand_unc_ros.hand.crops import reach_box

OF_FRAMES = ('joints', 'vertices')


@dataclass(frozen=True)
class SequenceAugmentation:
    """How far crops are off. lasting: alike in all frames of a camera, as an offset of the calibration or of the track
    makes it.  passing: of every frame anew, and how images are developed; None where nothing differs from frame to
    frame (UST-Hand, Section 4.2) and images are developed alike, by `lasting`."""

    lasting: Augmentation
    passing: Augmentation | None = None


def crop_sequence(samples: Sequence[Sample], size: int, augmentation: SequenceAugmentation, seed: Sequence[int],
                  rule: BoxRule = reach_box) -> dict[str, np.ndarray]:
    """The frames of one sequence as arrays; see `collate_sequences` for the names. Arguments as of `crop_sample`; the
    samples have the same cameras in the same order."""
    frames = []
    lasting, passing = augmentation.lasting, augmentation.passing
    for at, sample in enumerate(samples):
        if passing is None:
            parts = [crop_sample(sample, size, lasting, (*seed, view), [view], rule)
                     for view in range(len(sample.views))]
        else:
            parts = [crop_sample(sample, size, passing, (*seed, at, view), [view],
                                 partial(_offset_box, rule, lasting, (*seed, view)))
                     for view in range(len(sample.views))]
        frames.append({name: parts[0][name] if name in OF_FRAMES else np.concatenate([part[name] for part in parts])
                       for name in parts[0]})
    arrays = {name: np.stack([frame[name] for frame in frames], axis=0 if name in OF_FRAMES else 1)
              for name in frames[0]}
    return arrays | {'stamps_s': np.array([sample.time_ns - samples[0].time_ns for sample in samples]) * 1e-9}


def collate_sequences(sequences: Sequence[dict[str, np.ndarray]], indices: Sequence[int]) -> dict[str, Tensor]:
    """A batch of N sequences with as many views and frames each: images (N, V, F, S, S, 3) uint8; K (N, V, F, 3, 3),
    camera_from_world (N, V, F, 3, 4), joints_px (N, V, F, 21, 2), joints (N, F, 21, 3), stamps_s (N, F) float32;
    vertices (N, F, M, 3) float16; view_mask, present (N, V, F), joint_mask (N, V, F, 21) bool; index (N,).

    The world of every sequence is shifted to the middle of its known joints, so that float32 keeps its digits.
    """
    batch = {name: np.stack([sequence[name] for sequence in sequences]) for name in sequences[0]}
    origin = np.nanmean(batch['joints'], axis=(1, 2))
    for name in OF_FRAMES:
        batch[name] = batch[name] - origin[:, None, None]
    pose = batch['camera_from_world']
    shift = pose[..., :3] @ origin[:, None, None, :, None]
    batch['camera_from_world'] = np.concatenate([pose[..., :3], pose[..., 3:] + shift], axis=-1)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(
        value.astype(np.float32) if value.dtype == np.float64 else value)) for name, value in batch.items()}
    return tensors | {'vertices': tensors['vertices'].half(), 'index': torch.tensor(list(indices))}


def _offset_box(rule: BoxRule, augmentation: Augmentation, seed: Sequence[int], joints: np.ndarray, px: np.ndarray,
                px_per_metre: float) -> np.ndarray:
    return jitter(rule(joints, px, px_per_metre), augmentation, np.random.default_rng(seed))
