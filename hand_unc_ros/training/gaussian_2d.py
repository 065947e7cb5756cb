"""Train the 2D stage on synthetic crops: `python -m hand_unc_ros.training.gaussian_2d --help`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hand_unc_ros.data.synthetic.crops import CropSettings, HandPhotographer, batches
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.networks.gaussian_2d import CONFIGS, Gaussian2DNet, pixels_to_cells
from hand_unc_ros.networks.weights import save_network
from hand_unc_ros.training.loop import BatchStream, train
from hand_unc_ros.training.losses import gaussian_nll, heatmap_cross_entropy, mean_l1

NLL_WEIGHT = 0.5
L1_WEIGHT = 1.0
HEATMAP_WEIGHT = 0.5
PRESENCE_WEIGHT = 0.3
HELD_OUT_SEED = 90_001
HELD_OUT_CROPS = 512


def image_tensor(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [0, 1], channels last in memory."""
    return images.permute(0, 3, 1, 2).float().div_(255.0)


def gaussian_2d_losses(network: Gaussian2DNet, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weighted loss terms of one batch of crops."""
    out = network(image_tensor(batch['image']))
    target = pixels_to_cells(batch['joints_px'].float(), network.config.image_size)
    presence = F.binary_cross_entropy_with_logits(out.presence, batch['present'].float())
    return {'nll': NLL_WEIGHT * gaussian_nll(out.mean, out.variance, target, batch['inside']),
            'l1': L1_WEIGHT * mean_l1(out.mean, target, batch['inside']),
            'heatmap': HEATMAP_WEIGHT * heatmap_cross_entropy(out.log_heatmap, target, batch['inside']),
            'presence': PRESENCE_WEIGHT * presence}


@torch.no_grad()
def evaluate_2d(network: nn.Module, held_out: list[dict[str, Tensor]]) -> dict[str, float]:
    """Error in cells, Pearson(σ, error) and 1-D 95 % coverage over held-out crops."""
    errors, sigmas, coverage = [], [], []
    for batch in held_out:
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = network(image_tensor(batch['image']))
        target = pixels_to_cells(batch['joints_px'].float(), network.config.image_size)
        inside = batch['inside']
        error = (out.mean - target)[inside]
        variance = out.variance[inside]
        errors.append(error.norm(dim=1))
        sigmas.append(variance.mean(dim=1).sqrt())
        coverage.append((error ** 2 < 1.96 ** 2 * variance).float())
    error, sigma = torch.cat(errors), torch.cat(sigmas)
    return {'error_cells': error.mean().item(), 'median_cells': error.median().item(),
            'pearson': float(np.corrcoef(error, sigma)[0, 1]), 'coverage95': torch.cat(coverage).mean().item()}


def _stream(seed: int, settings: CropSettings, size: int, worker: int):
    return batches(HandPhotographer(load_hand_model(None), seed, worker, settings), size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', choices=CONFIGS, default='lite')
    parser.add_argument('--steps', type=int, default=20_000)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--lr', type=float, default=1e-3, help='peak learning rate')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--workers', type=int, default=1, help='processes that render')
    parser.add_argument('--out', type=Path, required=True, help='folder for log, state and weights')
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    config = CONFIGS[arguments.size]
    settings = CropSettings(image_size=config.image_size)
    network = Gaussian2DNet(config)
    stream = BatchStream(partial(_stream, arguments.seed, settings, arguments.batch))
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=arguments.workers,
                                         prefetch_factor=8)
    held = _stream(HELD_OUT_SEED, settings, 128, 0)
    held_out = [{name: torch.from_numpy(value) for name, value in next(held).items()}
                for _ in range(HELD_OUT_CROPS // 128)]
    average = train(network, loader, gaussian_2d_losses, steps=arguments.steps, peak_lr=arguments.lr,
                    out=arguments.out, evaluate=partial(evaluate_2d, held_out=held_out))
    save_network(arguments.out / f'gaussian_2d_{arguments.size}.safetensors', average, config.to_dict())


if __name__ == '__main__':
    main()
