"""JUMP-Hand's loss terms on one batch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandOutput, ViewStage
from hand_unc_ros.networks.gaussian_2d import pixels_to_cells
from hand_unc_ros.networks.gaussian_2d_losses import gaussian_nll, heatmap_cross_entropy, mean_l1
from hand_unc_ros.networks.label_adaptation import BELIEVABLE, adapted
from hand_unc_ros.networks.landmark_networks import PRESENCE_THRESHOLD

# A coarse joint farther off than this, in hand units, no longer pulls: with two views along one line it may be
# anywhere.
COARSE_LIMIT = 1.0
REPROJECTION_LIMIT_CELLS = 16.0
PRESENCE_LOGIT = math.log(PRESENCE_THRESHOLD / (1 - PRESENCE_THRESHOLD))


@dataclass(frozen=True)
class LossWeights:
    """nll, joints and vertices (the L3D), reprojection (L2D) and coarse (LDLT) are the paper's, 0.1, 1, 1, 10 there,
    with 3D in units of 0.1 m and 2D in heatmap cells.  l1 and heatmap pull the 2D means and heatmaps directly, presence
    teaches whether a crop shows a hand.  move: mean square of the decoder's moves in standard deviations of the coarse
    joints, so that a joint stays where nothing speaks against it.  harm: by how much refined joints are farther off
    than the coarse ones, in units of 0.1 m: an error that was made counts more than one that was left.
    hidden, bones: of recordings without labels, see recorded.recorded_terms."""

    nll: float = 0.1
    joints: float = 1.0
    vertices: float = 1.0
    reprojection: float = 1.0
    coarse: float = 10.0
    l1: float = 0.0
    heatmap: float = 0.0
    presence: float = 0.3
    move: float = 0.0
    harm: float = 0.0
    hidden: float = 0.0
    bones: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Weights by name of the term."""
        return asdict(self)


def jump_hand_losses(network: JumpHand, batch: dict[str, Tensor], weights: LossWeights,
                     fused_share: float = 1.0, bias: Tensor | None = None) -> dict[str, Tensor]:
    """The weighted loss terms of a batch (see data.batches.collate); their sum is what is minimised. Each is a mean
    over the samples that have what it needs, so a dataset without vertices trains as well.

    fused_share: share of the samples, the first ones, that go on to the fused stage. With a small per-view network that
    stage costs as much again, and it learns from fewer samples than the images need.
    bias: (21, 3) of the landmarks beside the labels, see label_adaptation; for a frozen landmark network.
    """
    stage = network.encode_batch(batch)
    count = max(1, round(fused_share * len(batch['joints'])))
    part = {name: value[:count] for name, value in seen_by_live(network, stage, batch, bias).items()}
    out = network.fuse(stage.first(count), part['K'], part['camera_from_world'], part['view_mask'])
    if network.config.landmarks is not None:
        part |= {'joints': believable(part['joints'], out)}
    with torch.autocast(out.joints.device.type, enabled=False):
        terms = view_terms(stage, batch, network.config.image_size) if network.config.landmarks is None else {}
        terms |= fused_terms(out, part, network.config.image_size)
    return {name: weight * terms[name] for name, weight in weights.to_dict().items() if weight and name in terms}


def believable(labels: Tensor, out: JumpHandOutput) -> Tensor:
    """The labels (B, 21, 3), unknown where the triangulated joint is so far off that landmarks were mistaken for others:
    on synthetic images they are far more often than on real ones, and no bounded step could mend it."""
    near = out.coarse_valid & ((out.coarse - labels).norm(dim=-1) < BELIEVABLE)
    return torch.where(near[..., None], labels, torch.nan)


def seen_by_live(network: JumpHand, stage: ViewStage, batch: dict[str, Tensor],
                 bias: Tensor | None = None) -> dict[str, Tensor]:
    """The batch as the live pipeline would fuse it, for a frozen landmark network: without the views in which that sees
    no hand, and without labels of hands that fewer than two views are left of; the others as that network means them,
    by their bias. For other networks the batch as it is."""
    if network.config.landmarks is None:
        return batch
    mask = batch['view_mask'] & (stage.presence > PRESENCE_LOGIT)
    enough = mask.sum(1) >= 2
    if bias is not None:
        batch = batch | {'joints': adapted(batch['joints'], bias)}
    return batch | {'view_mask': mask, 'joint_mask': batch['joint_mask'] & (mask & enough[:, None])[..., None],
                    **{name: batch[name].where(enough[:, None, None], torch.nan) for name in ('joints', 'vertices')}}


def view_losses(network: JumpHand, batch: dict[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """The weighted terms of the per-view stage alone."""
    stage = network.encode_batch(batch)
    with torch.autocast(stage.mean.device.type, enabled=False):
        terms = view_terms(stage, batch, network.config.image_size)
    return {name: getattr(weights, name) * term for name, term in terms.items() if getattr(weights, name)}


def view_terms(stage: ViewStage, batch: dict[str, Tensor], image_size: int) -> dict[str, Tensor]:
    """The terms of the per-view stage."""
    mask = batch['joint_mask'].flatten(0, 1)
    target = pixels_to_cells(batch['joints_px'], image_size).flatten(0, 1)
    mean, variance = stage.mean.flatten(0, 1), stage.variance.flatten(0, 1)
    presence = F.binary_cross_entropy_with_logits(stage.presence, batch['present'].float(), reduction='none')
    return {'nll': gaussian_nll(mean, variance, target, mask), 'l1': mean_l1(mean, target, mask),
            'heatmap': heatmap_cross_entropy(stage.log_heatmap.flatten(0, 1), target, mask),
            'presence': _mean(presence, batch['view_mask'])}


def fused_terms(out: JumpHandOutput, batch: dict[str, Tensor], image_size: int) -> dict[str, Tensor]:
    """The terms of the fused stage."""
    known = torch.isfinite(batch['joints']).all(-1)
    joints = torch.where(known[..., None], batch['joints'], 0.0)
    target = known_vertices(batch, out.vertices.shape[-2])
    surface = torch.isfinite(target).all(-1)
    vertices = torch.where(surface[..., None], target, 0.0)
    coarse = ((out.coarse - joints).abs() / HAND_UNIT).clamp_max(COARSE_LIMIT).mean(-1)
    projected = pixels_to_cells(_project(out.joints[-1], batch['K'], batch['camera_from_world']), image_size)
    reprojection = (projected - pixels_to_cells(batch['joints_px'], image_size)).abs()
    reprojection = reprojection.clamp_max(REPROJECTION_LIMIT_CELLS)
    # Every layer's, without the coarse stage's; that one's where there is no other.
    refined = slice(min(1, len(out.joints) - 1), None)
    mesh = (out.vertices - vertices).abs() / HAND_UNIT
    # The coarse mesh is learned as well, from joints that were all triangulated.
    mesh = torch.cat([mesh[:1].clamp_max(COARSE_LIMIT), mesh[1:]]).mean(-1)
    lifted = out.coarse_valid.all(-1, keepdim=True) & surface
    terms = {'joints': _mean((out.joints[refined] - joints).abs().mean(-1) / HAND_UNIT, known),
             'vertices': _mean(mesh, torch.stack([lifted, *[surface] * (len(mesh) - 1)])),
             'reprojection': _mean(reprojection.sum(-1), batch['joint_mask']),
             'coarse': _mean(coarse, known & out.coarse_valid)}
    if len(out.joints) > 1:
        before, after = ((part - joints).norm(dim=-1) / HAND_UNIT for part in (out.coarse, out.joints[1:]))
        terms['harm'] = _mean((after - before).clamp_min(0), known & out.coarse_valid)
    if out.moves is not None:
        terms['move'] = _mean(out.moves.square().sum(-1), known & out.coarse_valid)
    return terms


def known_vertices(batch: dict[str, Tensor], count: int) -> Tensor:
    """Those of a batch, (B, count, 3) metres, world, NaN where it has none. Raises ValueError for another hand model's.
    """
    vertices = batch['vertices']
    if vertices.shape[1] == 0:
        return vertices.new_full((len(vertices), count, 3), torch.nan)
    if vertices.shape[1] != count:
        raise ValueError(f'the samples have {vertices.shape[1]} vertices, the network {count}: their hand models'
                         ' differ')
    return vertices


def _project(points: Tensor, K: Tensor, camera_from_world: Tensor) -> Tensor:
    """Crop pixels (B, V, N, 2) of points (B, N, 3); finite wherever they are."""
    local = points[:, None] @ camera_from_world[..., :3].mT + camera_from_world[:, :, None, :, 3]
    local = torch.cat([local[..., :2] / local[..., 2:].clamp_min(0.05), torch.ones_like(local[..., :1])], -1)
    return (local @ K.mT)[..., :2]


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    mask = mask.expand(values.shape)
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)
