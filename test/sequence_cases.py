"""Moving hands as a shard of sequence features holds them, and small UST-Hands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from landmark_cases import feature_batch
from torch import Tensor

from hand_unc_ros.methods.ust_hand.config import UstHandConfig
from hand_unc_ros.methods.ust_hand.network import UstHand
from hand_unc_ros.networks.landmark_gaussians import LandmarkGaussianConfig

torch.set_num_threads(1)

CONFIG = UstHandConfig(landmarks=LandmarkGaussianConfig(channels=16, dropout=0.0), hypotheses=4, width=16, heads=2,
                       neighbours=5, blocks=2, graph_layers=1, flow_layers=2, flow_hidden=8, frames=3, start='refined')


def sequence_batch(samples: int, views: int, frames: int, seed: int = 0, noise_px: float = 2.0) -> dict[str, Tensor]:
    """Hands that move at 0.3 m/s, seen by cameras that follow them, at uneven intervals: as `feature_batch`, whose
    hands the frames are, with an axis of frames."""
    still = [feature_batch(samples, views, seed)] * frames
    rng = np.random.default_rng((seed, 1))
    steps = torch.from_numpy(rng.uniform(0.03, 0.09, (samples, frames))).float()
    stamps = torch.cumsum(steps, 1) - steps[:, :1]
    heading = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(samples, 3))).float(), dim=-1)
    batch = {name: torch.stack([frame[name] for frame in still], 1 if name in ('joints', 'vertices') else 2)
             for name in still[0] if name != 'index'}
    shift = 0.3 * stamps[..., None] * heading[:, None]
    batch['joints'] = batch['joints'] + shift[:, :, None]
    pose = batch['camera_from_world']
    # Cameras move along, so that pixels stay what they are.
    batch['camera_from_world'] = torch.cat([pose[..., :3], pose[..., 3:] - pose[..., :3] @ shift[:, None, ..., None]],
                                           -1)
    noise = noise_px * torch.from_numpy(rng.normal(size=batch['joints_px'].shape)).float()
    batch['landmarks'] = batch['joints_px'] + noise
    batch['log_sigma'] = torch.full_like(batch['landmarks'], float(np.log(max(noise_px, 1.0))))
    shown = torch.ones(samples, views, dtype=torch.bool)
    shown[:, -1] = False
    return batch | {'stamps_s': stamps, 'index': torch.arange(samples), 'shown': shown}


def ust_hand(seed: int = 0, restless: float = 0.0, **choices) -> UstHand:
    """One with random weights. restless: size of the weights that begin at zero, so that everything takes part."""
    torch.manual_seed(seed)
    network = UstHand(replace(CONFIG, **choices)).eval()
    if restless:
        with torch.no_grad():
            for name, value in network.named_parameters():
                if 'update.2' in name or 'flow.change' in name or 'view.offset' in name:
                    value.normal_(0.0, restless)
    return network
