"""The covariance head on a trained JumpHand: its likelihood loss and its validation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.networks.covariance_heads import COORDINATES, full_nll
from hand_unc_ros.networks.joint_covariance import WHITENED_FLOOR, JointCovariance, propagated_covariance
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandOutput, ViewStage
from hand_unc_ros.methods.jump_hand.losses import image_tensor

# Choices of views that one look at the images is used for: all of them, and so many drawn at random.
DRAWN_SUBSETS = 3
FEWEST_VIEWS = 2


class JumpHandWithCovariance(nn.Module):
    """A JumpHand that stays as it is, and the head that learns how wrong it is."""

    def __init__(self, jump_hand: JumpHand, head: JointCovariance) -> None:
        super().__init__()
        self.jump_hand = jump_hand.requires_grad_(False)
        self.head = head

    @torch.no_grad()
    def see(self, batch: dict[str, Tensor]) -> tuple[ViewStage, Tensor]:
        """The per-view stage, and the views (B, V) that the live pipeline would fuse: those that show a hand."""
        seen = self.jump_hand.see(image_tensor(batch['images']))
        return seen, batch['view_mask'] & (seen.presence > 0)

    @torch.no_grad()
    def join(self, seen: ViewStage, batch: dict[str, Tensor], mask: Tensor) -> tuple[JumpHandOutput, Tensor, Tensor]:
        """The fused stage of the views in mask (B, V), the propagated covariance (B, 21, 3, 3), and which samples (B,)
        can be learned from: every joint is triangulated and its truth known."""
        cameras = batch['K'], batch['camera_from_world'], mask
        out = self.jump_hand.join(seen, *cameras)
        coarse = torch.where(out.coarse_valid[..., None], out.coarse, torch.nan)
        propagated = propagated_covariance(self.jump_hand, seen, coarse, *cameras)
        whole = torch.isfinite(propagated).flatten(1).all(1) & torch.isfinite(batch['joints']).flatten(1).all(1)
        return out, propagated, whole


def losses(network: JumpHandWithCovariance, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """{'nll': …}: the mean over samples, and over several choices of their views, of the negative log-likelihood of the
    whitened errors under N(0, C + floor·I), per coordinate."""
    seen, present = network.see(batch)
    values, weights = [], []
    for mask in (present, *(present & _drawn(present) for _ in range(DRAWN_SUBSETS))):
        out, propagated, whole = network.join(seen, batch, mask)
        with torch.autocast(propagated.device.type, enabled=False):
            factor, gaussian = network.head.whitened(out.features.float(), propagated, out.joints[-1])
            error = torch.where(whole[:, None, None], batch['joints'] - out.joints[-1], 0.0)
            white = torch.linalg.solve(factor, error[..., None]).flatten(1)
            values.append(full_nll(gaussian, white, WHITENED_FLOOR) / COORDINATES)
        weights.append(whole)
    whole = torch.cat(weights)
    return {'nll': torch.where(whole, torch.cat(values), 0.0).sum() / whole.sum().clamp_min(1)}


@torch.no_grad()
def validate(network: JumpHandWithCovariance, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """With all views, and with the first two: the unaligned joint error in mm, the share of joints inside their 95 %
    ellipsoids, the squared whitened error per degree of freedom of single joints (1 where Σ is right) and of all 63
    coordinates together."""
    batches = [(batch, *network.see(batch)) for batch in batches]
    numbers = {}
    for name, count in (('', None), ('_2_views', 2)):
        joints, hands, lengths = [], [], []
        for batch, seen, present in batches:
            mask = present if count is None else present & (present.cumsum(1) <= count)
            out, propagated, whole = network.join(seen, batch, mask)
            with torch.autocast(propagated.device.type, enabled=False):
                covariance = network.head(out.features.float(), propagated, out.joints[-1])
            covariance = covariance[whole].double().cpu().numpy()
            error = (out.joints[-1] - batch['joints'])[whole].double().cpu().numpy()
            blocks = joint_blocks(covariance)
            joints.append(mahalanobis_squared(error, blocks).ravel())
            hands.append(mahalanobis_squared(error.reshape(len(error), COORDINATES), covariance))
            lengths.append(np.linalg.norm(error, axis=-1).ravel())
        distance2 = np.concatenate(joints)
        numbers |= {f'mpjpe{name}_mm': 1e3 * float(np.mean(np.concatenate(lengths))),
                    f'coverage95{name}': float(np.mean(distance2 <= chi2_quantile(0.95, 3))),
                    f'nees_per_dof{name}': float(np.mean(distance2) / 3),
                    f'nees_63_per_dof{name}': float(np.mean(np.concatenate(hands)) / COORDINATES)}
    return numbers


def _drawn(present: Tensor) -> Tensor:
    """A random choice (B, V) of FEWEST_VIEWS to V views for each sample, every number alike."""
    count, views = present.shape
    sizes = torch.randint(min(FEWEST_VIEWS, views), views + 1, (count, 1), device=present.device)
    return torch.rand(count, views, device=present.device).argsort(1).argsort(1) < sizes
