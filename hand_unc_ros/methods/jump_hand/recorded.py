"""Training JUMP-Hand's decoder on recordings without labels.

The decoder refines joints by some of the views, and is held to what a view that was hidden from it reads: noise of that
view is none of the input's, so no joint comes nearer to it but by coming nearer to the truth. To sit on the readings
that were shown gains nothing. Of two views none can be hidden; there the readings themselves hold the joints across
their rays, and along them the bones do: a hand has bones of one length throughout a recording.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hand_unc_ros.hand.joints import BONES
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandOutput
from hand_unc_ros.networks.landmark_gaussians import seen_views
from hand_unc_ros.networks.view_consensus import NEAREST, project_into_crops

# Degrees of freedom of Student's t, by which landmarks err (networks/landmark_pairs.py).
DEGREES = 5.0
# A bone that is off by more than this share of its length pulls no harder.
BONE_LIMIT = 0.15
_PARENTS, _CHILDREN = torch.tensor(BONES).T


class Judged(NamedTuple):
    """Joints before a view, px of its crop: distance2 (…, B, V, 21), squared, in units of the variance of the reading
    and of the triangulated joint; off_px (…, B, V, 21); known (B, V, 21), where a view judges."""

    distance2: Tensor
    off_px: Tensor
    known: Tensor


def recorded_terms(network: JumpHand, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """hidden: Student's t of the readings of hidden views about the projected joints, nats above the best, over all
    layers.  bones: how much lengths of bones differ, relative, among the hands of the batch that are one hand.
    move: as of LossWeights."""
    out = refined(network, batch)
    with torch.autocast(out.joints.device.type, enabled=False):
        judged = judge(network, out, out.joints[1:], batch)
        likelihood = (DEGREES + 2) / 2 * torch.log1p(judged.distance2 / DEGREES)
        terms = {'hidden': _mean(likelihood, judged.known),
                 'bones': bone_variation(out.joints[-1], out.coarse_valid, batch['hand'])}
        if out.moves is not None:
            terms['move'] = _mean(out.moves.square().sum(-1), out.coarse_valid)
    return terms


def refined(network: JumpHand, batch: dict[str, Tensor]) -> JumpHandOutput:
    """The joints by the views that are shown."""
    return network.fuse(network.encode_batch(batch), batch['K'], batch['camera_from_world'], batch['shown'])


def judge(network: JumpHand, out: JumpHandOutput, joints: Tensor, batch: dict[str, Tensor]) -> Judged:
    """Joints (…, B, 21, 3) by the readings of the views that were hidden, or of all where none was."""
    seen = seen_views(batch)
    hidden = seen & ~batch['shown']
    judges = torch.where(hidden.any(1, keepdim=True), hidden, seen)
    shown = batch['shown'][..., None].expand(*seen.shape, joints.shape[-2])
    with torch.no_grad():
        spread = network.spread_of(out.coarse, out.mean, out.variance, batch['K'], batch['camera_from_world'], shown)
        _, depth, jacobian = project_into_crops(out.coarse, batch['K'], batch['camera_from_world'])
        root = jacobian @ spread[:, None]
        own = (2 * batch['log_sigma'].float()).exp()
        inverse = torch.linalg.inv(root @ root.mT + torch.diag_embed(own))
    px, _, _ = project_into_crops(joints, batch['K'], batch['camera_from_world'])
    off = px - batch['read_px']
    distance2 = (off[..., None, :] @ inverse @ off[..., None])[..., 0, 0]
    known = judges[..., None] & out.coarse_valid[:, None] & (depth > NEAREST)
    return Judged(distance2, off.norm(dim=-1), known)


def bone_variation(joints: Tensor, valid: Tensor, hands: Tensor) -> Tensor:
    """The mean of how far, relative, the bones of joints (B, 21, 3) are from the mean length of the same bone of the
    same hand; hands (B,) its number. Zero where no hand comes twice."""
    length = (joints[:, _CHILDREN] - joints[:, _PARENTS]).norm(dim=-1).clamp_min(1e-3).log()
    known = (valid[:, _CHILDREN] & valid[:, _PARENTS]).to(length.dtype)
    same = (hands[:, None] == hands).to(length.dtype)
    count = same @ known
    off = length - same @ (known * length) / count.clamp_min(1)
    # The mean is its own too: of few, each looks nearer to it than it is.
    unbiased = (count / (count - 1).clamp_min(1)).sqrt()
    return _mean(F.huber_loss(off * unbiased, torch.zeros_like(off), reduction='none', delta=BONE_LIMIT) / BONE_LIMIT,
                 (known > 0) & (count > 1))


@torch.no_grad()
def validate_recorded(network: JumpHand, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Of held-out recordings, before (`start_`) and after refinement: the median distance of the joints from the
    readings of the views that were hidden, px of the crops; their squared whitened distance, the median; and the median
    over bones of how much their lengths vary, relative, by the median deviation. NaN where no view was hidden."""
    errors: dict[str, list[Tensor]] = {}
    lengths: dict[str, dict[int, list[Tensor]]] = {'start_': {}, '': {}}
    for batch in batches:
        out = refined(network, batch)
        hidden = (seen_views(batch) & ~batch['shown'])[..., None]
        for name, joints in (('start_', out.joints[0]), ('', out.joints[-1])):
            judged = judge(network, out, joints, batch)
            errors.setdefault(f'{name}left_out_px', []).append(judged.off_px[judged.known & hidden])
            errors.setdefault(f'{name}left_out_distance2', []).append(judged.distance2[judged.known & hidden])
            length = (joints[:, _CHILDREN] - joints[:, _PARENTS]).norm(dim=-1)
            known = out.coarse_valid[:, _CHILDREN] & out.coarse_valid[:, _PARENTS]
            for hand in batch['hand'].unique().tolist():
                mine = batch['hand'] == hand
                lengths[name].setdefault(hand, []).append(
                    torch.where(known[mine], length[mine], torch.nan))
    numbers = {name: torch.cat(values).median().item() for name, values in errors.items()}
    for name, hands in lengths.items():
        spread = []
        for parts in hands.values():
            length = torch.cat(parts)
            middle = length.nanmedian(0).values
            spread.append((length - middle).abs().nanmedian(0).values / middle)
        numbers[f'{name}bone_variation'] = torch.cat(spread).nanmedian().item()
    return numbers


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    mask = mask.expand(values.shape)
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
