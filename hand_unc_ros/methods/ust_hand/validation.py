"""UST-Hand's errors on held-out sequences while it is trained. Only here do 3D labels play a part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from hand_unc_ros.geometry.weighted_triangulation import Observations, triangulate
from hand_unc_ros.hand.joints import FINGERTIPS
from hand_unc_ros.methods.ust_hand.losses import seen_by_live
from hand_unc_ros.methods.ust_hand.network import Cameras, UstHand
from hand_unc_ros.methods.ust_hand.views import ViewMaps
from hand_unc_ros.networks.label_adaptation import adapted, label_bias
from hand_unc_ros.networks.view_fusion import ITERATIONS, normalised

FEWEST_VIEWS = 2


class Slid(NamedTuple):
    """Of windows that slide over B sequences, W each: refined and start (B, W, 21, 3), the joints that they give and
    the triangulated landmarks; valid (B, W, 21), where both and the truth are known; moves (B, W, 21), lengths in
    standard deviations.  truth: (B, W, 21, 3) and stamps: (B, W) of the frames that are asked for."""

    refined: Tensor
    start: Tensor
    valid: Tensor
    moves: Tensor
    truth: Tensor
    stamps: Tensor


def validate(network: UstHand, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Of batches of whole sequences (B, V, F, …), by windows that slide over them; beside each number that of the
    triangulated landmarks, `start_`, in which nothing is learned.

    mpjpe: mean error in mm, unaligned, median and that of fingertips; the same of the first two views alone.  adapted:
    against labels with the bias of the landmarks put onto them (networks.label_adaptation, measured on these
    very sequences), of which a method without 3D labels cannot know.  acceleration: mean error, m/s².  nearer, farther:
    shares of the joints that come nearer or farther off by 1 mm or more.  moves: mean length in standard deviations.
    """
    many, two = [], []
    for batch in batches:
        many.append(slid(network, batch, batch['view_mask'].shape[1]))
        two.append(slid(network, batch, FEWEST_VIEWS))
    whole, few = (Slid(*(torch.cat(parts) for parts in zip(*each))) for each in (many, two))
    start = torch.where(whole.valid[..., None], whole.start, torch.nan)
    bias = label_bias(whole.truth.flatten(0, 1), start.flatten(0, 1))
    scores = {}
    for name, part in (('mpjpe', whole), ('mpjpe_2_views', few)):
        after, before = errors_mm(part, part.truth)
        scores |= {f'{name}_mm': after.mean(), f'start_{name}_mm': before.mean(), f'{name}_median_mm': after.median(),
                   f'start_{name}_median_mm': before.median()}
        truth = adapted(part.truth.flatten(0, 1), bias).unflatten(0, part.truth.shape[:2])
        after, before = errors_mm(part, truth)
        scores |= {f'adapted_{name}_mm': after.mean(), f'adapted_start_{name}_mm': before.mean(),
                   f'adapted_{name}_median_mm': after.median(), f'adapted_start_{name}_median_mm': before.median()}
    after, before = errors_mm(whole, whole.truth, FINGERTIPS)
    scores |= {'fingertips_mm': after.mean(), 'start_fingertips_mm': before.mean()}
    after, before = errors_mm(whole, whole.truth)
    scores |= {'nearer': (after < before - 1).float().mean(), 'farther': (after > before + 1).float().mean(),
               'moves': whole.moves[whole.valid].mean()}
    for name, joints in (('', whole.refined), ('start_', whole.start)):
        scores[f'{name}acceleration_mps2'] = acceleration_error(joints, whole).mean()
    return {name: value.item() for name, value in scores.items()}


def errors_mm(part: Slid, truth: Tensor, joints: tuple[int, ...] = tuple(range(21))) -> tuple[Tensor, Tensor]:
    """Errors in mm of the valid ones of some joints: of the refined ones, and of those that they start from."""
    rows, valid = list(joints), part.valid[..., list(joints)]
    return tuple(1e3 * (found - truth)[..., rows, :].norm(dim=-1)[valid] for found in (part.refined, part.start))


def acceleration_error(joints: Tensor, part: Slid) -> Tensor:
    """Errors (N,) in m/s² where a joint (B, W, 21, 3) is valid in three windows on end; empty for fewer windows."""
    valid = part.valid[:, 2:] & part.valid[:, 1:-1] & part.valid[:, :-2]
    return (acceleration(joints, part.stamps) - acceleration(part.truth, part.stamps)).norm(dim=-1)[valid]


def slid(network: UstHand, batch: dict[str, Tensor], views: int) -> Slid:
    """All windows of a batch of sequences, by the first `views` of the views."""
    count = batch['stamps_s'].shape[1]
    length = min(network.config.frames, count)
    maps, target = network.view.of_batch(batch), network.config.target(length)
    mask = seen_by_live(batch) & (torch.arange(batch['view_mask'].shape[1]) < views)[:, None].to(maps.mean.device)
    plain = triangulated(batch, mask)
    found = []
    for begin in range(count - length + 1):
        part = slice(begin, begin + length)
        window = ViewMaps(*(None if value is None else value[:, :, part] for value in maps))
        out = network.fuse(window, Cameras(batch['K'][:, :, part], batch['camera_from_world'][:, :, part],
                                           mask[:, :, part], batch['stamps_s'][:, part]))
        moves = out.moves[-1].norm(dim=-1) if len(out.moves) else torch.zeros_like(out.coarse[..., 0])
        start = plain[:, begin + target]
        valid = out.coarse_valid[:, target] & torch.isfinite(start).all(-1)
        valid &= torch.isfinite(batch['joints'][:, begin + target]).all(-1)
        found.append([out.joints[-1][:, target], start, valid, moves[:, target]])
    asked = slice(target, target + count - length + 1)
    return Slid(*(torch.stack(parts, 1) for parts in zip(*found)), batch['joints'][:, asked],
                batch['stamps_s'][:, asked])


def triangulated(batch: dict[str, Tensor], mask: Tensor) -> Tensor:
    """(B, F, 21, 3) metres, world, NaN where unknown: the landmarks of the views in mask (B, V, F), by robust least
    squares and nothing that is learned."""
    px, log_sigma, K, pose, seen = (part.transpose(1, 2).flatten(0, 1) for part in (
        batch['landmarks'].float(), batch['log_sigma'].float(), batch['K'], batch['camera_from_world'], mask))
    xy, covariance = normalised(px, (2 * log_sigma).exp(), K)
    observed = Observations(xy, covariance, pose, seen[..., None].expand(xy.shape[:-1]))
    found = triangulate('refined', observed, iterations=ITERATIONS, unweighted_spare=False)
    return found.points.unflatten(0, (len(mask), -1))


def acceleration(joints: Tensor, stamps: Tensor) -> Tensor:
    """(B, F − 2, …) m/s² of joints (B, F, 21, 3) at stamps (B, F) seconds, by second differences over uneven steps."""
    steps = stamps.diff(dim=1)[..., None, None]
    speeds = joints.diff(dim=1) / steps
    return speeds.diff(dim=1) / (0.5 * (steps[:, 1:] + steps[:, :-1]))
