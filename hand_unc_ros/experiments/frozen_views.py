"""The output of a trained per-view stage for many sets of views, kept in memory, to compare fused stages on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.batches import NO_AUGMENTATION, SYNTHETIC_AUGMENTATION, collate, crop_sample
from hand_unc_ros.data.shards import open_shards
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.model import HandModel
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandOutput, ViewStage
from hand_unc_ros.networks.images import image_tensor

VIEWS = 4
# Every choice of at least two of the views, the largest first.
SUBSETS = [chosen for count in range(VIEWS, 1, -1) for chosen in itertools.combinations(range(VIEWS), count)]
CHUNK = 32


@dataclass(frozen=True)
class FrozenViews:
    """N sets of VIEWS views. name: for tables.  description: for the protocol.

    stage: of all of them, `pooled` and `levels` in half precision, `log_heatmap` empty: nothing here needs it.
    peak: (N, V, 21) highest cell of each heatmap, the share of its mass.  truth: a batch as `data.batches.collate`
    makes it, without images.
    """

    name: str
    description: str
    stage: ViewStage
    peak: Tensor
    truth: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.peak)

    def take(self, rows: Tensor, mask: Tensor | None = None) -> tuple[ViewStage, Tensor, dict[str, Tensor]]:
        """Stage, peaks and truth of the sets `rows` (n,), in float32.  mask: (n, V), which of the views there are."""
        batch = {name: value[rows] for name, value in self.truth.items()}
        if mask is not None:
            batch['view_mask'] = batch['view_mask'] & mask
            batch['joint_mask'] = batch['joint_mask'] & mask[..., None]
        stage = ViewStage(*(part[rows].float() for part in self.stage[:5]),
                          [level[rows].float() for level in self.stage.levels])
        return stage, self.peak[rows], batch

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order, CHUNK at a time."""
        return iter(torch.arange(len(self)).split(CHUNK))

    def first(self, count: int) -> Tensor:
        """(N, V) masks of the first `count` views that there are."""
        mask = self.truth['view_mask']
        return mask & (mask.cumsum(1) <= count)


@torch.no_grad()
def encode_sets(network: JumpHand, name: str, description: str, batches: Iterable[dict[str, Tensor]]) -> FrozenViews:
    """Run the per-view stage of a network over batches with images."""
    small: list[tuple[Tensor, ...]] = []
    levels: list[list[Tensor]] = []
    truth: list[dict[str, Tensor]] = []
    network = network.eval()
    for batch in batches:
        stage = network.encode(image_tensor(batch['images']))
        peak = stage.log_heatmap.flatten(3).amax(-1).exp()
        small.append((stage.mean, stage.variance, stage.presence, stage.pooled.half(), peak))
        # The decoder takes the finest of them alone.
        levels.append([level.half().contiguous() for level in stage.levels[:network.config.levels]])
        truth.append({key: value for key, value in batch.items() if key != 'images'})
    mean, variance, presence, pooled, peak = (torch.cat(part) for part in zip(*small))
    features = [torch.cat([part[i] for part in levels]) for i in range(len(levels[0]))]
    stage = ViewStage(mean, variance, mean.new_zeros((*mean.shape[:3], 0, 0)), presence, pooled, features)
    return FrozenViews(name, description, stage, peak,
                       {key: torch.cat([part[key] for part in truth]) for key in truth[0]})


def synthetic_sets(model: HandModel, seed: int, count: int, image_size: int) -> Iterator[dict[str, Tensor]]:
    """Batches of the first `count` training sets of a seed, VIEWS cameras each, augmented as in training."""
    samples = MultiviewSamples(model, seed, MultiviewSettings(image_size))
    for start in range(0, count, CHUNK):
        rows = range(start, min(start + CHUNK, count))
        yield collate([crop_sample(samples.sample(row, VIEWS), image_size, SYNTHETIC_AUGMENTATION, (seed, row))
                       for row in rows], rows)


def held_out_sets(folder: Path, image_size: int, most: int | None) -> tuple[str, str, Iterator[dict[str, Tensor]]]:
    """Name, description and batches of the set that `hand-unc synth` made in `folder`: its first VIEWS cameras.

    most: of its samples, evenly spread; None for all.  Raises DatasetError where it has fewer cameras.
    """
    source = open_shards(folder)
    if source.content.views < VIEWS:
        raise DatasetError(f'{folder} has {source.content.views} views; make a set with at least {VIEWS}')
    count = min(len(source), most or len(source))
    rows = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
    description = f'{source.description}; {count} samples, the first {VIEWS} cameras'
    return source.content.kind, description, _batches(source, rows, image_size)


def _batches(source, rows: Sequence[int], image_size: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(rows), CHUNK):
        part = rows[start:start + CHUNK]
        yield collate([crop_sample(source[row], image_size, NO_AUGMENTATION, views=range(VIEWS)) for row in part], part)


@torch.no_grad()
def fuse_all(network: JumpHand, views: FrozenViews, mask: Tensor) -> Iterator[JumpHandOutput]:
    """The fused stage of a network on all sets, a chunk at a time.  mask: (N, V)."""
    for rows in views.chunks():
        stage, peak, batch = views.take(rows, mask[rows])
        yield network.fuse(stage, batch['K'], batch['camera_from_world'], batch['view_mask'], confidence=peak.log())


def coarse_joints(network: JumpHand, views: FrozenViews, mask: Tensor) -> Tensor:
    """Triangulated joints (N, 21, 3) metres of all sets, NaN where they could not be placed."""
    return torch.cat([torch.where(out.coarse_valid[..., None], out.coarse, torch.nan)
                      for out in fuse_all(network, views, mask)])


def coarse_of_subsets(network: JumpHand, views: FrozenViews) -> Tensor:
    """Those of every one of SUBSETS, (N, len(SUBSETS), 21, 3)."""
    return torch.stack([coarse_joints(network, views, mask.expand(len(views), -1)) for mask in subset_masks()], 1)


def subset_masks() -> Tensor:
    """(len(SUBSETS), VIEWS) bool."""
    return torch.tensor([[place in chosen for place in range(VIEWS)] for chosen in SUBSETS])
