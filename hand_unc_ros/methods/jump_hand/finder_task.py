"""Training of the coarse finder: configuration, loss terms, validation, and its stream of synthetic frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.data.synthetic.frames import FrameSamples
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.networks.hand_finder import REFERENCE_SIDE, STRIDE, HandFinder, decode
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.weights import load_into, read_weights
from hand_unc_ros.training.config import TrainingConfig, parse
from hand_unc_ros.training.task import TrainingSetup, TrainingTask

CENTRE_SIGMA_CELLS = 1.2
SIDE_WEIGHT, DIRECTION_WEIGHT = 0.3, 0.3
CHUNK_BATCHES = 8


@dataclass(frozen=True)
class FinderTraining(TrainingConfig):
    """A run on frames of the stand-in hand."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if {self.data.source, self.validation.source} != {'synthetic'} or self.hand_model:
            raise ConfigError('the finder is trained on synthetic frames of the stand-in hand alone; leave the sources'
                              ' and hand_model out')


def finder_losses(network: HandFinder, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Penalty-reduced focal loss on the centre (CornerNet, eq. 1); L1 on size and direction at the centre."""
    out = network(image_tensor(batch['image']))
    box = batch['box'].float()
    present = box.isfinite().all(dim=1)
    cells = ((box[:, :2] + 0.5) / STRIDE - 0.5).nan_to_num(-1e3)
    height, width = out.heatmap.shape[1:]
    rows = torch.arange(height, dtype=torch.float32, device=box.device)[:, None]
    columns = torch.arange(width, dtype=torch.float32, device=box.device)[None]
    distance2 = (columns - cells[:, :1, None]) ** 2 + (rows - cells[:, 1:, None]) ** 2
    target = torch.exp(-0.5 * distance2 / CENTRE_SIGMA_CELLS ** 2)
    nearest = distance2 <= distance2.flatten(1).min(dim=1).values[:, None, None]
    peak = nearest & present[:, None, None]
    log_p, log_q = F.logsigmoid(out.heatmap), F.logsigmoid(-out.heatmap)
    p = out.heatmap.sigmoid()
    focal = torch.where(peak, -((1 - p) ** 2) * log_p, -((1 - target) ** 4) * p ** 2 * log_q)
    centre = focal.sum() / present.sum().clamp_min(1)

    index = torch.where(peak)
    side = (box[index[0], 2] / REFERENCE_SIDE).log()
    roll = box[index[0], 3]
    direction = torch.stack([roll.sin(), -roll.cos()], dim=1)
    found = out.direction[index[0], :, index[1], index[2]]
    count = max(1, len(side))
    return {'centre': centre, 'side': SIDE_WEIGHT * (out.log_side[index] - side).abs().sum() / count,
            'direction': DIRECTION_WEIGHT * (found - direction).abs().mean(1).sum() / count}


def evaluate_finder(network: nn.Module, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Over held-out frames: recall (score > 0.3 and centre within a quarter of the side), share of empty frames
    with a false alarm, median centre error in sides, share of rolls within 45°."""
    hits, alarms, offsets, turned = [], [], [], []
    for batch in batches:
        found = decode(network(image_tensor(batch['image'])))
        box = batch['box'].float()
        present = box.isfinite().all(dim=1)
        offset = (found.box[:, :2] - box[:, :2]).norm(dim=1) / box[:, 2]
        hit = (found.score > 0.3) & (offset < 0.25)
        hits.append(hit[present].float())
        alarms.append((found.score > 0.3)[~present].float())
        offsets.append(offset[present & hit])
        turn = torch.cos(found.box[:, 3] - box[:, 3])
        turned.append((turn > 0.7071)[present & hit].float())
    return {'recall': torch.cat(hits).mean().item(), 'false_alarms': torch.cat(alarms).mean().item(),
            'median_offset': torch.cat(offsets).median().item() if sum(map(len, offsets)) else float('nan'),
            'roll_within_45': torch.cat(turned).mean().item()}


class FrameStream:
    """Endless batches of `size` frames by number, as training.streams.BatchStream."""

    chunk_batches = CHUNK_BATCHES

    def __init__(self, seed: int, size: int) -> None:
        self.seed, self.size = seed, size
        self._samples: FrameSamples | None = None

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        """The batches of chunk number `index`, rendered."""
        if self._samples is None:
            # Not before the first use, so that it is made in the worker.
            self._samples = FrameSamples(load_hand_model(None), self.seed)
        count = self.size * self.chunk_batches
        frames = _tensors(self._samples.block(index, count))
        frames['index'] = torch.arange(count) + index * count
        return [{name: value[place:place + self.size] for name, value in frames.items()}
                for place in range(0, count, self.size)]

    def name(self, index: int) -> str:
        """Number and seed of a frame, for messages."""
        return f'synthetic frame {index} of seed {self.seed}'


def set_up(config: FinderTraining) -> TrainingSetup:
    """Raises ConfigError for weights that do not fit."""
    network = HandFinder()
    if config.init:
        load_into(network, read_weights(Path(config.init), 'HandFinder')[1], config.init)
    return TrainingSetup(network, finder_losses, evaluate_finder, FrameStream(config.seed, config.data.crops),
                         partial(held_out, config), 'hand_finder')


def held_out(config: FinderTraining) -> list[dict[str, Tensor]]:
    """The frames that a run is validated on, in one batch."""
    return [_tensors(FrameSamples(load_hand_model(None), config.validation.seed).block(0, config.validation.samples))]


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


TASK = TrainingTask(partial(parse, FinderTraining(task='finder', out='.')), set_up)
