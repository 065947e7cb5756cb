"""Cameras and places as the palm's frame sees them: inputs of networks that refine a hand in that frame."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hand_unc_ros.hand.palm_frame import HAND_UNIT, HandFrame
from hand_unc_ros.networks.view_fusion import inverse_2x2

FREQUENCIES = 5
SPREAD_SIZE = 7
# Nearer than this to a camera, metres, a point is treated as if it were this far: its projection stays finite.
NEAREST = 0.05


class ViewGeometry(NamedTuple):
    """The crop cameras as the hand's frame sees them.

    projection: (B, V, 3, 4), homogeneous crop pixels of points in hand units.  cameras: (B, V, CAMERA_SIZE).
    lift: (B, V, 2, 3), the step in hand units of one pixel to the right and down, at unit depth in metres.
    image_size: side of the crops in pixels.
    """

    projection: Tensor
    cameras: Tensor
    lift: Tensor
    image_size: int

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Crop pixels (B, V, N, 2) and depth (B, V, N) in metres, at least NEAREST, of points (B, N, 3)."""
        homogeneous = points[:, None] @ self.projection[..., :3].transpose(-1, -2) + self.projection[:, :, None, :, 3]
        depth = homogeneous[..., 2:].clamp_min(NEAREST)
        return homogeneous[..., :2] / depth, depth[..., 0]


def view_geometry(frame: HandFrame, K: Tensor, camera_from_world: Tensor, image_size: int) -> ViewGeometry:
    """K: (B, V, 3, 3) of the crops.  camera_from_world: (B, V, 3, 4)."""
    turn = camera_from_world[..., :3] @ frame.rotation[:, None]
    shift = (camera_from_world[..., :3] @ frame.origin[:, None, :, None]) + camera_from_world[..., 3:]
    projection = K @ torch.cat([turn * HAND_UNIT, shift], -1)
    towards = F.normalize(shift[..., 0], dim=-1)
    # The crop may be rolled: right and down are those of the crop.
    axes = inverse_2x2(K[..., :2, :2]).transpose(-1, -2)
    unit = F.normalize(axes, dim=-1) @ turn[..., :2, :]
    ray = (towards[..., None, :] @ turn)
    return ViewGeometry(projection, torch.cat([unit, ray], -2).flatten(-2), axes @ turn[..., :2, :] / HAND_UNIT,
                        image_size)


def described_spread(spread: Tensor) -> Tensor:
    """(..., SPREAD_SIZE) numbers of about 1 that tell symmetric matrices (..., 3, 3): the logarithm of their size, and
    their shape."""
    size = (spread[..., 0, 0] + spread[..., 1, 1] + spread[..., 2, 2])[..., None]
    shape = torch.stack([spread[..., i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))], -1)
    return torch.cat([size.clamp_min(1e-6).log(), shape / size], -1)


def place_waves(points: Tensor) -> Tensor:
    """Coordinates (..., 3) with their sines and cosines at FREQUENCIES octaves, (..., 3 + 6 FREQUENCIES)."""
    octaves = 2.0 ** torch.arange(FREQUENCIES, device=points.device) * (math.pi / 2)
    angles = (points[..., None] * octaves).flatten(-2)
    return torch.cat([points, angles.sin(), angles.cos()], -1)
