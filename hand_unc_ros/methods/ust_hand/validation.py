"""UST-Hand's errors on held-out sequences while it is trained. Only here do 3D labels play a part."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from hand_unc_ros.hand.joints import FINGERTIPS
from hand_unc_ros.methods.ust_hand.losses import seen_by_live
from hand_unc_ros.methods.ust_hand.network import Cameras, UstHand

FEWEST_VIEWS = 2


def validate(network: UstHand, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Of batches of whole sequences (B, V, F, …), by windows that slide over them. Mean and median error in mm of the
    refined joints and of those that they start from, unaligned; of fingertips; the same of the first two views alone;
    errors of acceleration in m/s²; the share of joints that come nearer by 1 mm or more, and of those that come farther
    off by as much; the mean length of moves in standard deviations."""
    errors: dict[str, list[Tensor]] = {}
    for batch in batches:
        _collect(errors, network, batch, batch['view_mask'].shape[1], '')
        if batch['view_mask'].shape[1] > FEWEST_VIEWS:
            _collect(errors, network, batch, FEWEST_VIEWS, '_2_views')
    found = {name: torch.cat(parts) for name, parts in errors.items()}
    scores = {f'{name}_mm': value.mean().item() for name, value in found.items() if 'mpjpe' in name}
    scores |= {f'{name}_median_mm': found[name].median().item() for name in ('mpjpe', 'start_mpjpe')}
    before, after = found['start_mpjpe'], found['mpjpe']
    return scores | {'fingertips_mm': found['fingertips'].mean().item(),
                     'start_fingertips_mm': found['start_fingertips'].mean().item(),
                     'acceleration_mps2': found['acceleration'].mean().item(),
                     'start_acceleration_mps2': found['start_acceleration'].mean().item(),
                     'nearer': (after < before - 1).float().mean().item(),
                     'farther': (after > before + 1).float().mean().item(), 'moves': found['moves'].mean().item()}


def _collect(errors: dict[str, list[Tensor]], network: UstHand, batch: dict[str, Tensor], views: int,
             suffix: str) -> None:
    """Append the errors of all windows of a batch, by `views` of its views."""
    refined, start, valid, moves = _slid(network, batch, views)
    length = network.config.frames
    first = network.config.target(length)
    truth = batch['joints'][:, first:first + refined.shape[1]]
    stamps = batch['stamps_s'][:, first:first + refined.shape[1]]

    def add(name: str, values: Tensor) -> None:
        errors.setdefault(name, []).append(values.flatten())

    for name, joints in (('', refined), ('start_', start)):
        error = 1e3 * (joints - truth).norm(dim=-1)
        add(f'{name}mpjpe{suffix}', error[valid])
        if not suffix:
            tips = list(FINGERTIPS)
            add(f'{name}fingertips', error[..., tips][valid[..., tips]])
            if refined.shape[1] > 2:
                steady = valid[:, 2:] & valid[:, 1:-1] & valid[:, :-2]
                add(f'{name}acceleration', (acceleration(joints, stamps) - acceleration(truth, stamps)
                                            ).norm(dim=-1)[steady])
    if not suffix:
        add('moves', moves[valid])


def _slid(network: UstHand, batch: dict[str, Tensor], views: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Refined joints and those they start from (B, W, 21, 3), which are valid (B, W, 21), and lengths of the moves, of
    all W windows of a batch."""
    length = min(network.config.frames, batch['stamps_s'].shape[1])
    maps = network.view.of_batch(batch)
    mask = seen_by_live(batch) & (torch.arange(batch['view_mask'].shape[1]) < views)[:, None].to(maps.mean.device)
    target, found = network.config.target(length), []
    for begin in range(batch['stamps_s'].shape[1] - length + 1):
        part = slice(begin, begin + length)
        out = network.fuse(type(maps)(*(None if value is None else value[:, :, part] for value in maps)),
                           Cameras(batch['K'][:, :, part], batch['camera_from_world'][:, :, part], mask[:, :, part],
                                   batch['stamps_s'][:, part]))
        moves = out.moves[-1].norm(dim=-1) if len(out.moves) else torch.zeros_like(out.coarse[..., 0])
        found.append([value[:, target] for value in (out.joints[-1], out.coarse, out.coarse_valid, moves)])
    return tuple(torch.stack(parts, 1) for parts in zip(*found))


def acceleration(joints: Tensor, stamps: Tensor) -> Tensor:
    """(B, F − 2, …) m/s² of joints (B, F, 21, 3) at stamps (B, F) seconds, by second differences over uneven steps."""
    steps = stamps.diff(dim=1)[..., None, None]
    speeds = joints.diff(dim=1) / steps
    return speeds.diff(dim=1) / (0.5 * (steps[:, 1:] + steps[:, :-1]))
