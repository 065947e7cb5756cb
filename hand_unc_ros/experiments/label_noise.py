"""Kept features of sequences whose 2D landmarks are worse than the network's: noise, gross outliers, missing joints.

UST-Hand learns from these landmarks alone (Section 3.6): they are its pseudo-labels and a part of its input. What the
trunk's maps show of the images stays as it is.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.feature_shards import FeatureShards, begin_features, write_features
from hand_unc_ros.networks.blaze_hand import HAND_SIZE

# Of an outlier, pixels of the crop along each axis: about a third of a hand.
OUTLIER_PX = 30.0
# Of a joint that a detector does not give: somewhere in the crop.
MISSING_SIGMA_PX = float(HAND_SIZE)
# So many frames an outlier lasts, as does a joint that is missing.
EVENT_FRAMES = 3


@dataclass(frozen=True)
class LabelNoise:
    """times: how large the standard deviations become; the noise that makes them so is added, and they say it.
    outliers: share of the joints of a view that are off by OUTLIER_PX, of which the standard deviations know nothing.
    missing: share of the joints that a view does not give: in the middle of the crop, MISSING_SIGMA_PX uncertain."""

    times: float = 1.0
    outliers: float = 0.0
    missing: float = 0.0


LEVELS = {'as they are': LabelNoise(), 'twice the noise': LabelNoise(2.0),
          'twice the noise, outliers, missing joints': LabelNoise(2.0, 0.1, 0.1)}


def noisy(batch: dict[str, Tensor], noise: LabelNoise, seed: int) -> dict[str, Tensor]:
    """A batch of sequences with worse `landmarks` and `log_sigma` (N, V, F, 21, 2), pixels; decided by the seed and the
    sequences' numbers.

    Half of the added variance is of the whole sequence, as occlusions and the bias of a detector are, half of every
    frame by itself. Outliers and missing joints last for EVENT_FRAMES.
    """
    landmarks, log_sigma = batch['landmarks'].clone(), batch['log_sigma'].clone()
    views, frames, joints = landmarks.shape[1:4]
    events = (views, -(-frames // EVENT_FRAMES), joints)
    for row, index in enumerate(batch['index'].tolist()):
        rng = np.random.default_rng((seed, index, 7080))
        lasting, passing = rng.normal(size=(views, 1, joints, 2)), rng.normal(size=(views, frames, joints, 2))
        added = math.sqrt(noise.times ** 2 - 1) * math.sqrt(0.5) * (lasting + passing)
        drawn, thrown = rng.random(events), OUTLIER_PX * rng.normal(size=(*events, 2))
        drawn, thrown = (np.repeat(part, EVENT_FRAMES, 1)[:, :frames] for part in (drawn, thrown))
        out, gone = drawn < noise.outliers, drawn >= 1 - noise.missing
        px = landmarks[row].numpy() + log_sigma[row].double().exp().numpy() * added + out[..., None] * thrown
        landmarks[row] = torch.from_numpy(np.where(gone[..., None], 0.5 * (HAND_SIZE - 1), px))
        log_sigma[row] += math.log(noise.times)
        log_sigma[row][torch.from_numpy(gone)] = math.log(MISSING_SIGMA_PX)
    return batch | {'landmarks': landmarks, 'log_sigma': log_sigma}


def write_noisy_set(source: Path, folder: Path, noise: LabelNoise, seed: int) -> Path:
    """The set of sequences in `source` with worse landmarks, in `folder`, which may hold a part of it. Raises
    DatasetError for a folder that holds anything else."""
    shards = FeatureShards(source)
    there = sorted({int(number) for rows in shards.rows.values() for number in rows[:, 0]})
    settings = json.loads(json.dumps(shards.content.settings | {'label_noise': asdict(noise) | {'seed': seed}}))
    wanted = set(begin_features(folder, replace(shards.content, settings=settings)))
    for views, rows in shards.rows.items():
        for number in sorted(wanted.intersection(there, rows[:, 0].tolist())):
            chosen = rows[rows[:, 0] == number]
            write_features(folder, number, noisy(shards.batch(chosen, [range(views)] * len(chosen)), noise, seed))
    return folder
