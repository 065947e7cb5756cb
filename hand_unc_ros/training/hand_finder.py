"""Train the coarse finder on synthetic frames: `python -m hand_unc_ros.training.hand_finder --help`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.data.synthetic.crops import HandPhotographer, frame_batches
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.networks.hand_finder import REFERENCE_SIDE, STRIDE, HandFinder, decode
from hand_unc_ros.networks.weights import save_network
from hand_unc_ros.training.gaussian_2d import HELD_OUT_SEED, image_tensor
from hand_unc_ros.training.loop import BatchStream, train

CENTRE_SIGMA_CELLS = 1.2
SIDE_WEIGHT, DIRECTION_WEIGHT = 0.3, 0.3
HELD_OUT_FRAMES = 512


def finder_losses(network: HandFinder, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Penalty-reduced focal loss on the centre (CornerNet, eq. 1); L1 on size and direction at the centre."""
    out = network(image_tensor(batch['image']))
    box = batch['box'].float()
    present = box.isfinite().all(dim=1)
    cells = ((box[:, :2] + 0.5) / STRIDE - 0.5).nan_to_num(-1e3)
    height, width = out.heatmap.shape[1:]
    rows = torch.arange(height, dtype=torch.float32)[:, None]
    columns = torch.arange(width, dtype=torch.float32)[None]
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
    return {'centre': centre, 'side': SIDE_WEIGHT * F.l1_loss(out.log_side[index], side),
            'direction': DIRECTION_WEIGHT * F.l1_loss(found, direction)}


@torch.no_grad()
def evaluate_finder(network: nn.Module, held_out: list[dict[str, Tensor]]) -> dict[str, float]:
    """Over held-out frames: recall (score > 0.3 and centre within a quarter of the side), share of empty frames
    with a false alarm, median centre error in sides, share of rolls within 45°."""
    hits, alarms, offsets, turned = [], [], [], []
    for batch in held_out:
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


def _stream(seed: int, size: int, worker: int):
    return frame_batches(HandPhotographer(load_hand_model(None), seed, worker), size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=6_000)
    parser.add_argument('--batch', type=int, default=48)
    parser.add_argument('--lr', type=float, default=2e-3, help='peak learning rate')
    parser.add_argument('--seed', type=int, default=2)
    parser.add_argument('--workers', type=int, default=1, help='processes that render')
    parser.add_argument('--out', type=Path, required=True, help='folder for log, state and weights')
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    network = HandFinder()
    loader = torch.utils.data.DataLoader(BatchStream(partial(_stream, arguments.seed, arguments.batch)),
                                         batch_size=None, num_workers=arguments.workers, prefetch_factor=8)
    held = _stream(HELD_OUT_SEED, 128, 0)
    held_out = [{name: torch.from_numpy(value) for name, value in next(held).items()}
                for _ in range(HELD_OUT_FRAMES // 128)]
    average = train(network, loader, finder_losses, steps=arguments.steps, peak_lr=arguments.lr,
                    out=arguments.out, evaluate=partial(evaluate_finder, held_out=held_out),
                    evaluate_every=500)
    save_network(arguments.out / 'hand_finder.safetensors', average, {})


if __name__ == '__main__':
    main()
