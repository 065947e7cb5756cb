"""JUMP-Hand's errors on held-out batches while it is trained."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.hand.joints import FINGERTIPS
from hand_unc_ros.methods.jump_hand.losses import known_vertices, seen_by_live
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandOutput, ViewStage
from hand_unc_ros.networks.gaussian_2d import pixels_to_cells


def validate(network: JumpHand, batches: Iterable[dict[str, Tensor]], bias: Tensor | None = None) -> dict[str, float]:
    """Mean errors over all samples, unaligned: of the joints, their median, of the fingertips, of the vertices, of the
    triangulated joints, all in mm, and the numbers of `validate_views`. NaN where nothing is known.

    bias: as of jump_hand_losses.  Where the decoder's steps are bounded, there are also: the medians of both errors; the
    share of joints that it brings nearer by 1 mm or more, and the share that it takes farther off by as much; the mean
    length of its moves in standard deviations."""
    moved: list[tuple[Tensor, Tensor, Tensor]] = []
    joints, tips, vertices, coarse, views = [], [], [], [], []
    for batch in batches:
        stage = network.encode_batch(batch)
        batch = seen_by_live(network, stage, batch, bias)
        out = network.fuse(stage, batch['K'], batch['camera_from_world'], batch['view_mask'])
        error = 1e3 * (out.joints[-1] - batch['joints']).norm(dim=-1)
        joints.append(error.flatten())
        tips.append(error[:, FINGERTIPS].flatten())
        vertices.append(1e3 * (out.vertices[-1] - known_vertices(batch, out.vertices.shape[-2])).norm(dim=-1).flatten())
        before = 1e3 * (out.coarse - batch['joints']).norm(dim=-1)
        coarse.append(before[out.coarse_valid])
        if out.moves is not None:
            rows = out.coarse_valid & torch.isfinite(before)
            moved.append((before[rows], error[rows], out.moves[-1].norm(dim=-1)[rows]))
        views.append(_view_errors(out, batch, network.config.image_size))
    return {'mpjpe_mm': _known(joints).mean().item(), 'mpjpe_median_mm': _known(joints).nanmedian().item(),
            'fingertips_mm': _known(tips).mean().item(), 'mpvpe_mm': _known(vertices).mean().item(),
            'coarse_mpjpe_mm': _known(coarse).mean().item(), **_move_scores(moved), **_view_scores(views)}


def validate_views(network: JumpHand, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Mean and median 2D error in cells, Pearson's correlation of σ with it, share of coordinates within 1.96 σ."""
    size = network.config.image_size
    return _view_scores([_view_errors(network.encode_batch(batch), batch, size) for batch in batches])


def _view_errors(stage: ViewStage | JumpHandOutput, batch: dict[str, Tensor], image_size: int) -> tuple[Tensor, Tensor]:
    """Errors and variances (N, 2) of the joints that are annotated, in cells and cells²."""
    mask = batch['joint_mask']
    return (stage.mean - pixels_to_cells(batch['joints_px'], image_size))[mask], stage.variance[mask]


def _move_scores(moved: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    if not moved:
        return {}
    before, after, move = (torch.cat(parts) for parts in zip(*moved))
    return {'coarse_median_mm': before.median().item(), 'refined_median_mm': after.median().item(),
            'nearer': (after < before - 1).float().mean().item(), 'farther': (after > before + 1).float().mean().item(),
            'move_sigmas': move.mean().item()}


def _view_scores(views: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    offset, variance = (torch.cat(parts).double() for parts in zip(*views))
    error, sigma = offset.norm(dim=1), variance.mean(dim=1).sqrt()
    together = np.corrcoef(error.cpu(), sigma.cpu())[0, 1] if len(error) > 1 else np.nan
    within = offset ** 2 < 1.96 ** 2 * variance
    return {'error_cells': error.mean().item(), 'error_median_cells': error.nanmedian().item(),
            'pearson': float(together), 'coverage95': within.double().mean().item()}


def _known(parts: list[Tensor]) -> Tensor:
    values = torch.cat(parts)
    return values[torch.isfinite(values)]
