"""Where a hand of known shape is, by one view of it: in closed form, differentiable, with the covariance of its joints.

A crop's ray frame has its z axis through the middle of the crop and its x axis to the crop's right, so that a hand
looks the same in it wherever it is in the image. A joint at p has the tangents u = (p_x / p_z, p_y / p_z), and

    p_x − u_x p_z = 0,  p_y − u_y p_z = 0      H_u p = 0

are linear in p: so is the translation that brings a shape X nearest to measured tangents. With X Gaussian, the
translation unknown and u measured with the error σ, the joints are those of an iterated Kalman update about this start:
they project to u and have the depths that the shape demands. It is linearised at its own joints, H_π(p) / p_z, and not
at what was measured: H_u p = 0 alone could be met the better the nearer and the smaller the hand is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Standard deviation of the translation before the update, of its depth: ten times what a view leaves open.
FREE = 1.0
# Nearer to the camera than this, metres, a joint is treated as if it were this far.
NEAREST = 0.05
# Of the depth: how far the update moves joints at most.
FARTHEST = 0.5
ITERATIONS = 3


class RayFrame(NamedTuple):
    """turn: (N, 3, 3), its rows are the frame's axes in the crop's camera.  reach: (N,) tangent from the middle of the
    crop to its side.  step: (N,) tangent of one pixel."""

    turn: Tensor
    reach: Tensor
    step: Tensor

    def from_camera(self, points: Tensor) -> Tensor:
        """(N, M, 3) in the frame of points in the camera."""
        return points @ self.turn.mT

    def to_camera(self, points: Tensor) -> Tensor:
        """(N, M, 3) in the camera of points in the frame."""
        return points @ self.turn

    def tangents(self, K: Tensor, px: Tensor) -> Tensor:
        """(N, M, 2) of pixels (N, M, 2) of the crops with intrinsics K (N, 3, 3)."""
        rays = F.pad(px, (0, 1), value=1.0) @ torch.linalg.inv(K).mT @ self.turn.mT
        return rays[..., :2] / rays[..., 2:]


def ray_frame(K: Tensor, size: int) -> RayFrame:
    """Of crops of `size` px with intrinsics K (N, 3, 3), whose roll is in K."""
    inverse = torch.linalg.inv(K)
    middle = K.new_tensor([(size - 1) / 2, (size - 1) / 2, 1.0])
    ray = inverse @ middle
    z = F.normalize(ray, dim=-1)
    right = inverse[..., 0]
    x = F.normalize(right - (right * z).sum(-1, keepdim=True) * z, dim=-1)
    step = (x * right).sum(-1) / ray.norm(dim=-1)
    return RayFrame(torch.stack([x, torch.linalg.cross(z, x), z], -2), step * size / 2, step)


def translation(shape: Tensor, tangents: Tensor, sigma: Tensor, least: Tensor | float = NEAREST) -> Tensor:
    """(N, 3) metres, the t for which shape + t is nearest to the rays of its joints, by weighted linear least squares.

    shape: (N, J, 3) metres, ray frame.  tangents, sigma: (N, J, 2) and their standard deviations.  least: (N,) metres,
    the smallest depth of t; a shape that is turned the wrong way would come to lie behind the camera.
    """
    weights = 1 / sigma.square()
    weights = weights / weights.sum(1, keepdim=True)
    across = tangents * shape[..., 2:] - shape[..., :2]
    middle, slope = (weights * across).sum(1, keepdim=True), (weights * tangents).sum(1, keepdim=True)
    share = (1 / sigma.square()) * (tangents - slope)
    depth = -(share * (across - middle)).sum((1, 2)) / (share * (tangents - slope)).sum((1, 2))
    depth = depth.clamp_min(least)[:, None]
    return torch.cat([middle[:, 0] + depth * slope[:, 0], depth], -1)


class PlacedJoints(NamedTuple):
    """joints: (N, J, 3) metres, ray frame, and covariance: (N, 3J, 3J) m², joint-major, in double precision."""

    joints: Tensor
    covariance: Tensor


def place(shape: Tensor, covariance: Tensor, tangents: Tensor, sigma: Tensor,
          least: Tensor | float = NEAREST) -> PlacedJoints:
    """The joints of a shape N(shape, covariance) that is seen at tangents N(·, sigma²).

    shape: (N, J, 3) metres, ray frame, up to a translation.  covariance: (N, 3J, 3J) m².  tangents, sigma: (N, J, 2).
    least: as of `translation`.
    """
    shape, covariance, tangents, sigma = (part.double() for part in (shape, covariance, tangents, sigma))
    least = least.double() if isinstance(least, Tensor) else least
    count = shape.shape[1]
    root = translation(shape, tangents, sigma, least)
    start = shape + root[:, None]
    free = torch.eye(3, dtype=shape.dtype, device=shape.device).repeat(count, count)
    before = covariance + (FREE * root[:, 2, None, None]) ** 2 * free
    noise, joint = sigma.square().flatten(1), torch.arange(count, device=shape.device)
    joints = start
    for _ in range(ITERATIONS):
        depth = joints[..., 2:].clamp_min(NEAREST)
        seen = joints[..., :2] / depth
        H = shape.new_zeros(*tangents.shape, count, 3)
        # Where it indexes both dimensions, the joint comes first.
        H[:, joint, :, joint] = (_constraints(seen) / depth[..., None]).transpose(0, 1)
        H = H.flatten(3).flatten(1, 2)
        reached = H @ before
        gain = torch.linalg.solve(reached @ H.mT + torch.diag_embed(noise), reached).mT
        off = (tangents - seen).flatten(1) - (H @ (start - joints).flatten(1)[..., None])[..., 0]
        step = (gain @ off[..., None])[..., 0].unflatten(1, (count, 3))
        # A shape that does not fit its tangents would go anywhere.
        limit = FARTHEST * root[:, 2] / step.detach().norm(dim=-1).amax(1).clamp_min(1e-9)
        joints = start + limit.clamp_max(1.0)[:, None, None] * step
    keep = torch.eye(3 * count, dtype=shape.dtype, device=shape.device) - gain @ H
    # Joseph's form stays positive semi-definite.
    after = keep @ before @ keep.mT + (gain * noise[:, None]) @ gain.mT
    return PlacedJoints(joints, (after + after.mT) / 2)


def shape_covariance(shape: Tensor, variance: Tensor, shared: Tensor) -> Tensor:
    """(N, 3J, 3J) m², joint-major, of joints that err by themselves and together.

    shape: (N, J, 3) metres.  variance: (N, J, 3) m², of each joint's own error.  shared: (N, 4) standard deviations of
    the relative error of the hand's size, and of the turns about the axes x, y and z, rad; where the hand turns about
    does not matter, since its translation is free.
    """
    axes = torch.eye(3, dtype=shape.dtype, device=shape.device)
    turned = [torch.linalg.cross(axis.expand_as(shape), shape) for axis in axes]
    together = torch.stack([shape, *turned], -1).flatten(1, 2) * shared[:, None]
    return torch.diag_embed(variance.flatten(1)) + together @ together.mT


def _constraints(tangents: Tensor) -> Tensor:
    """H_u (..., 2, 3) of tangents (..., 2)."""
    zero, one = torch.zeros_like(tangents[..., 0]), torch.ones_like(tangents[..., 0])
    return torch.stack([torch.stack([one, zero, -tangents[..., 0]], -1),
                        torch.stack([zero, one, -tangents[..., 1]], -1)], -2)
