"""The stages of a live JUMP-Hand by OpenVINO, with the answer of torch."""

from __future__ import annotations

import torch
from torch import Tensor

from hand_unc_ros.methods.jump_hand.export import fused_inputs
from hand_unc_ros.methods.jump_hand.network import JumpHand, Refined, ViewStage
from hand_unc_ros.networks.acceleration import Agreement, Runner, choose_runner

# By how much the runtimes may differ: cells of the heatmap and logarithms of variances, and metres.
SAME_CELLS, SAME_METRES = 0.05, 2e-5


def encode_runner(network: JumpHand, device: torch.device, dtype: torch.dtype, views: int) -> Runner:
    """The per-view stage, as JumpHand.encode of one sample. views: for how many it is compared with torch; any number
    can be run. Raises as choose_runner."""
    size = network.config.image_size
    images = torch.rand((1, views, 3, size, size), generator=torch.Generator().manual_seed(0)).to(device)
    return choose_runner(network.encode, images, dtype, 'openvino', Agreement(_gaussians, SAME_CELLS), axis=1)


def refine_runner(network: JumpHand, device: torch.device, views: int) -> Runner:
    """The fused stage, as JumpHand.refine of one sample, in float32: bfloat16 costs 0.85 mm. See encode_runner."""
    example = [tensor.to(device) for tensor in refine_inputs(network, views)]
    return choose_runner(network.refine, example, torch.float32, 'openvino', Agreement(_metres, SAME_METRES), axis=1)


def refine_inputs(network: JumpHand, views: int, seed: int = 0) -> list[Tensor]:
    """Plausible inputs of `refine`, one sample."""
    with torch.inference_mode():
        named = fused_inputs(network, 1, views, seed)
    start = 0.03 * torch.randn((1, 21, 3), generator=torch.Generator().manual_seed(seed))
    names = ('mean_cells', 'variance_cells2', 'pooled', 'K', 'camera_from_world', 'view_mask')
    # Joints that are known to 3 mm.
    spread = [3e-3 * torch.eye(3).expand(1, 21, 3, 3)] if network.config.step_sigmas else []
    levels = (named[f'level_{row}'] for row in range(network.config.levels))
    return [*(named[name] for name in names), start, *spread, *levels]


def _gaussians(out: ViewStage) -> Tensor:
    return torch.cat([out.mean.float(), out.variance.float().log()])


def _metres(out: Refined) -> Tensor:
    return torch.cat([out.joints, out.vertices], 1)
