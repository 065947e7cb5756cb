"""The learned parts of a live UST-Hand by the faster runtime, with the answer of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.methods.ust_hand.network import Cameras, Stages, UstHand
from hand_unc_ros.methods.ust_hand.views import ViewMaps
from hand_unc_ros.networks.acceleration import Agreement, choose_runner
from hand_unc_ros.networks.landmark_gaussians import random_maps

# By how much the runtimes may differ in standard deviations, of 2D joints and of 3D ones: of a joint that is known to
# 4 mm, 20 micrometres.
SAME_SIGMAS = 5e-3
# Of the cameras that runtimes are compared with, metres, and between frames, seconds.
CAMERA_DISTANCE, PERIOD_S = 0.5, 0.05


def faster_stages(network: UstHand, acceleration: str, views: int) -> Stages:
    """The stages in float32, of the frame that is asked for alone, each by the runtime that `choose_runner` chooses for
    whole windows of so many views.

    Its graphs are of one size: windows of fewer frames or views, as of a hand that has just been found or that not all
    cameras see, are run by torch. Raises as choose_runner."""
    given: dict[str, Sequence[Tensor]] = {}

    def noted(name: str) -> Callable[..., Any]:
        def run(*inputs: Tensor) -> Any:
            given[name] = inputs
            return getattr(network.stages(alone=True), name)(*inputs)
        return run

    with torch.inference_mode():
        network.fuse(*plausible_window(network, views), stages=Stages(*map(noted, Stages._fields)), alone=True)
    answers = {'interact': lambda out: torch.cat([out[1].flatten(), out[2].flatten()]), 'moves': lambda out: out}
    found = []
    for name, plain in network.stages(alone=True)._asdict().items():
        runner = choose_runner(plain, given[name], torch.float32, acceleration, Agreement(answers[name], SAME_SIGMAS),
                               axis=None)
        found.append(plain if runner.runtime == 'torch' else _of_one_size(runner.run, plain, given[name]))
    return Stages(*found)


def _of_one_size(run: Callable[..., Any], other: Callable[..., Any], example: Sequence[Tensor]) -> Callable[..., Any]:
    """`run` for inputs of the sizes of the example, `other` for all others."""
    sizes = [part.shape for part in example]
    return lambda *inputs: (run if [part.shape for part in inputs] == sizes else other)(*inputs)


def plausible_window(network: UstHand, views: int) -> tuple[ViewMaps, Cameras]:
    """21 points of a hand's size, seen by cameras all around half a cell off, with features of random images."""
    frames, size = network.config.frames, network.config.image_size
    device, generator = network.flow.masks.device, torch.Generator().manual_seed(0)
    angles = torch.arange(views) * (2 * math.pi / max(views, 3))
    forward = F.normalize(torch.stack([angles.cos(), angles.sin(), 0.4 * (2 * angles).cos()], -1), dim=-1)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]).expand_as(forward)), dim=-1)
    turn = torch.stack([right, torch.linalg.cross(forward, right), forward], -2)
    away = torch.tensor([0.0, 0.0, CAMERA_DISTANCE])
    local = 0.03 * torch.randn(JOINT_COUNT, 3, generator=generator) @ turn.mT + away
    middle, focal = (size - 1) / 2, 3.5 * size * CAMERA_DISTANCE
    px = (local[..., :2] / local[..., 2:] * focal + middle)[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
    kept = random_maps(views * frames, generator)
    kept = kept._replace(landmarks=px + 4 * torch.randn(px.shape, generator=generator))
    window = (1, views, frames)
    with torch.inference_mode():
        view = network.view
        out = view.described(view.net.stage(type(kept)(*(part.to(device) for part in kept[:5]),
                                                       [level.to(device) for level in kept.levels])))
    K = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]).expand(*window, 3, 3)
    pose = torch.cat([turn, away.expand(views, 3)[..., None]], -1)[None, :, None].expand(*window, 3, 4)
    seconds = PERIOD_S * (torch.arange(frames) - frames + 1.0)[None]
    return ViewMaps(*(part.unflatten(0, window) for part in out[:5])), Cameras(
        K.to(device), pose.to(device), torch.ones(window, dtype=torch.bool, device=device), seconds.to(device))
