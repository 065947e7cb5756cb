"""Loss terms of the 2D stage, each in units of heatmap cells."""

from __future__ import annotations

import torch
from torch import Tensor

from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE

TARGET_SIGMA_CELLS = 1.0


def gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """JUMP-Hand's NLL: the mean over masked joints of Σ_xy [log σ + (t − μ)² / 2σ²].

    mean, variance, target: (B, 21, 2).  mask: (B, 21) bool.
    """
    terms = 0.5 * (variance.log() + (target - mean) ** 2 / variance)
    return _masked_mean(terms.sum(dim=2), mask)


def mean_l1(mean: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The mean over masked joints of |t − μ| summed over x and y, JUMP-Hand's L2D within one view.

    Where σ is large the NLL hardly pulls at the mean; this term does.
    """
    return _masked_mean((target - mean).abs().sum(dim=2), mask)


def heatmap_cross_entropy(log_heatmap: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the heatmap against a Gaussian of TARGET_SIGMA_CELLS around the target, mean over
    masked joints.

    The NLL alone sees the heatmap through its mean and sits long on a plateau; this term gives it a shape.
    log_heatmap: (B, 21, 32, 32).  target: (B, 21, 2) x, y in cells.
    """
    grid = torch.arange(HEATMAP_SIZE, device=target.device, dtype=log_heatmap.dtype)
    axes = (-0.5 * ((grid - target[..., None]) / TARGET_SIGMA_CELLS) ** 2).softmax(dim=-1)
    # No matrix product: under autocast it would run in half precision.
    rows = (log_heatmap * axes[:, :, 0, None]).sum(dim=-1)
    return _masked_mean(-(rows * axes[:, :, 1]).sum(dim=-1), mask)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, values.new_zeros(())).sum() / mask.sum().clamp_min(1)
