"""UST-Hand's loss terms (Section 3.6): 2D pseudo-labels teach, and no 3D label does.

A network is shown some of the views and held to what the hidden ones say. That is what teaches the refinement: noise of
a hidden view is none of the input's, so that no joint comes nearer to it but by coming nearer to the truth, whereas the
consensus of views that were shown only repeats the input, noise of this frame and all.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hand_unc_ros.methods.ust_hand.network import Cameras, UstHand, UstHandOutput
from hand_unc_ros.methods.ust_hand.views import ViewMaps
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, pixels_to_cells
from hand_unc_ros.networks.landmark_networks import PRESENCE_THRESHOLD
from hand_unc_ros.networks.view_consensus import consensus_labels

# Cells: of the label's Gaussian in the heatmap (Eq. 13).
LABEL_SIGMA_CELLS = 2.0
# Residuals are whitened by the label's standard deviation; beyond this they pull no harder, as does the latent of the
# flow beyond its own limit.
HUBER, LATENT_HUBER = 2.0, 3.0
NEAREST = 0.05
# Entries of a batch that have no axis of views.
OF_SAMPLES = ('joints', 'vertices', 'index', 'stamps_s', 'hand')


@dataclass(frozen=True)
class LossWeights:
    """hmap, hm2d, nll and proj2d are the paper's λ0 … λ3 (0.001, 10, 0.1 and 10 there, with 2D in units that it does
    not give; here residuals are in standard deviations of the labels).  move: mean square of the moves from the query
    cloud in its standard deviations, so that a joint stays where nothing speaks against it.  steady: of how residuals in
    hidden views change from frame to frame; what lasts in a label, as its bias does, is not in it."""

    hmap: float = 0.001
    hm2d: float = 0.1
    nll: float = 0.1
    proj2d: float = 1.0
    move: float = 0.002
    steady: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Weights by name of the term."""
        return asdict(self)


def with_labels(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch (B, V, T, …) with `labels_px` and `labels_sigma_px` (B, V, T, 21, 2), and `own_px` and `own_sigma_px`
    of each view by itself: the labels of the batch for both where it has them, else the consensus of its views' landmarks
    and these landmarks, see `consensus_labels`."""
    if 'labels_px' in batch:
        return batch | {'own_px': batch['labels_px'], 'own_sigma_px': batch['labels_sigma_px']}
    shape = batch['landmarks'].shape[:3]
    frames = [batch[name].transpose(1, 2).flatten(0, 1)
              for name in ('landmarks', 'log_sigma', 'K', 'camera_from_world')]
    mask = seen_by_live(batch).transpose(1, 2).flatten(0, 1)
    labels = consensus_labels(frames[0].float(), frames[1].float().exp(), *frames[2:], mask)
    px, sigma, own_sigma = (part.unflatten(0, (shape[0], shape[2])).transpose(1, 2) for part in labels)
    return batch | {'labels_px': px, 'labels_sigma_px': sigma, 'own_px': batch['landmarks'], 'own_sigma_px': own_sigma}


def seen_by_live(batch: dict[str, Tensor]) -> Tensor:
    """(B, V, T) the views that the live pipeline would fuse: those that are there and show a hand."""
    if 'presence' not in batch:
        return batch['view_mask']
    return batch['view_mask'] & (batch['presence'] > PRESENCE_THRESHOLD)


def shown_views(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with the views that are shown alone, of which every sample has as many."""
    count = int(batch['shown'].sum(1).amax())
    chosen = batch['shown'].int().argsort(dim=1, descending=True)[:, :count]
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    return {name: value if name in OF_SAMPLES else value[rows, chosen] for name, value in batch.items()}


def ust_hand_losses(network: UstHand, batch: dict[str, Tensor], weights: LossWeights) -> dict[str, Tensor]:
    """The weighted loss terms of a batch of training.window_stream; their sum is what is minimised."""
    part = shown_views(batch)
    maps, mask = network.view.of_batch(part), seen_by_live(part)
    out = network.fuse(maps, Cameras(part['K'], part['camera_from_world'], mask, part['stamps_s']))
    hidden = seen_by_live(batch) & ~batch['shown'][..., None]
    with torch.autocast(mask.device.type, enabled=False):
        terms = view_terms(network, maps, out, part, mask) | point_terms(out, batch, hidden)
    return {name: weight * terms[name] for name, weight in weights.to_dict().items() if weight}


def view_terms(network: UstHand, maps: ViewMaps, out: UstHandOutput, batch: dict[str, Tensor],
               mask: Tensor) -> dict[str, Tensor]:
    """hmap, hm2d and nll (Eqs. 13–15), means over the joints of the views that were shown, mask (B, V, T)."""
    size = network.config.image_size
    cell = size / HEATMAP_SIZE
    label, sigma = pixels_to_cells(batch['labels_px'], size), batch['labels_sigma_px'] / cell
    there = mask[..., None].expand(label.shape[:-1])
    # Of a label that is as uncertain as the crop is wide nothing is learned.
    trust = torch.where(there, 1 / (1 + (sigma / LABEL_SIGMA_CELLS).square().mean(-1)), 0.0)
    spread = maps.variance.sqrt()
    density = network.flow.log_density((label - maps.mean) / spread, out.fused, LATENT_HUBER) - spread.log().sum(-1)
    off = (maps.mean - label) / (sigma.square() + maps.variance).sqrt()
    wanted = gaussian_heatmap(label, torch.full_like(label, LABEL_SIGMA_CELLS ** 2))
    shown = gaussian_heatmap(maps.mean, maps.variance) if maps.log_heatmap is None else maps.log_heatmap.exp()
    return {'hmap': weighted_mean((shown - wanted).square().sum((-1, -2)), trust) * HEATMAP_SIZE,
            'hm2d': weighted_mean(huber(off), trust), 'nll': weighted_mean(-density, trust)}


def point_terms(out: UstHandOutput, batch: dict[str, Tensor], hidden: Tensor) -> dict[str, Tensor]:
    """proj2d (Eq. 16) of the query cloud after every block, in the views that see the hand and were hidden, (B, V, T),
    steady of the same, and move."""
    known = out.coarse_valid[:, None] & hidden[..., None]
    joints = out.joints[1:] if len(out.joints) > 1 else out.joints
    px, depth = project(joints, batch['K'], batch['camera_from_world'])
    off = (px - batch['own_px']) / batch['own_sigma_px']
    there = known & (depth > NEAREST)
    proj2d = weighted_mean(huber(off), there.to(off.dtype))
    valid = out.coarse_valid.to(off.dtype)
    move = weighted_mean(out.moves.square().sum(-1), valid) if len(out.moves) else valid.new_zeros(())
    return {'proj2d': proj2d, 'move': move, 'steady': unsteadiness(off, there, batch['stamps_s'])}


def unsteadiness(off: Tensor, there: Tensor, seconds: Tensor) -> Tensor:
    """How residuals (…, B, V, T, 21, 2) in standard deviations deviate from a straight line through three frames on end,
    in standard deviations of what independent residuals would. there: (…, B, V, T, 21).  seconds: (B, T)."""
    before, after = (step[:, None, :, None, None] for step in (seconds[:, 1:-1] - seconds[:, :-2],
                                                               seconds[:, 2:] - seconds[:, 1:-1]))
    share = before / (before + after).clamp_min(1e-6)
    first, middle, last = off[..., :-2, :, :], off[..., 1:-1, :, :], off[..., 2:, :, :]
    apart = (1 - share) * first + share * last - middle
    apart = apart / (1 + share.square() + (1 - share).square()).sqrt()
    known = there[..., :-2, :] & there[..., 1:-1, :] & there[..., 2:, :]
    return weighted_mean(huber(apart), known.to(off.dtype))


def project(points: Tensor, K: Tensor, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
    """Crop pixels (…, B, V, T, N, 2) and depths (…, B, V, T, N) of points (…, B, T, N, 3); finite wherever they are."""
    pose = camera_from_world
    local = points.unsqueeze(-4) @ pose[..., :3].mT + pose[..., None, :, 3]
    depth = local[..., 2]
    along = local[..., :2] / depth[..., None].clamp_min(NEAREST)
    return along @ K[..., :2, :2].mT + K[..., None, :2, 2], depth


def gaussian_heatmap(mean: Tensor, variance: Tensor) -> Tensor:
    """(…, 32, 32) Gaussians of mean and variance (…, 2) in cells on the heatmap's grid, of sum 1."""
    cells = torch.arange(HEATMAP_SIZE, device=mean.device, dtype=mean.dtype)
    logits = -0.5 * (cells - mean[..., None]).square() / variance[..., None]
    columns, rows = logits.softmax(-1).unbind(-2)
    return rows[..., :, None] * columns[..., None, :]


def huber(off: Tensor) -> Tensor:
    """Of vectors (…, 2): half the square of their length up to HUBER, linear beyond."""
    length = (off.square().sum(-1) + 1e-12).sqrt()
    return torch.where(length < HUBER, 0.5 * length.square(), HUBER * (length - 0.5 * HUBER))


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Of values (…), with weights that broadcast to them; zero where all weights are."""
    weights = weights.expand(values.shape)
    return torch.where(weights > 0, weights * values, 0.0).sum() / weights.sum().clamp_min(1e-6)
