"""What triangulation needs of the poses of a rig's cameras."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


# Numbers of the poses beyond which their terms are not kept.
MOST_KEPT = 1024


class PoseTerms(NamedTuple):
    """What depends on the poses of V cameras alone.

    cameras: (..., V, 3, 4), camera_from_world.  axes: (..., 3V, 4), its rows, all x axes first, for one product with
    points.  scatter: (..., 9, 6V), see `_row_pairs`; planes: (..., 12, 4V) and origin: (..., 1, 3), see `_plane_terms`;
    world: (..., 12, 9V), see `_world_terms`.
    """

    cameras: Tensor
    axes: Tensor
    scatter: Tensor
    planes: Tensor
    origin: Tensor
    world: Tensor


def pose_terms(camera_from_world: Tensor) -> PoseTerms:
    """The terms of camera_from_world (..., V, 3, 4). Those of few cameras are kept, since the poses of a rig come again
    with every set of images, and those of a window of sets with every triangulation of it."""
    # A graph under export has to compute them, and asking it for numbers of views would fix these.
    if (torch.compiler.is_compiling() or camera_from_world.requires_grad or camera_from_world.device.type != 'cpu'
            or camera_from_world.dim() > 3 and camera_from_world.numel() > MOST_KEPT):
        return _new_pose_terms(camera_from_world.double())
    return _kept_pose_terms(camera_from_world.detach().double().numpy().tobytes(), tuple(camera_from_world.shape))


def _new_pose_terms(cameras: Tensor) -> PoseTerms:
    pairs = _row_pairs(cameras[..., :3])
    return PoseTerms(cameras, cameras.transpose(-3, -2).flatten(-3, -2), _view_last(pairs),
                     *_plane_terms(pairs, cameras), _world_terms(pairs, cameras[..., :3]))


@lru_cache(maxsize=64)
def _kept_pose_terms(cameras: bytes, shape: tuple[int, ...]) -> PoseTerms:
    # Outside of inference mode, so that autograd can use them too.
    with torch.inference_mode(False), torch.no_grad():
        return _new_pose_terms(torch.frombuffer(bytearray(cameras), dtype=torch.float64).reshape(shape))


def _view_last(terms: Tensor) -> Tensor:
    """Constants (..., V, F, C) -> (..., C, F V), as one product over views takes them."""
    return terms.transpose(-3, -2).flatten(-3, -2).mT


def _row_pairs(rotation: Tensor) -> Tensor:
    """For symmetric camera-frame K with entries 11, 12, 13, 22, 23, 33, the matrices whose combination is
    Rᵀ K R: r₁r₁ᵀ, r₁r₂ᵀ + r₂r₁ᵀ …, flattened.  rotation: (..., V, 3, 3).  Returns (..., V, 6, 9)."""
    outer = rotation[..., :, None, :, None] * rotation[..., None, :, None, :]
    outer = (outer + outer.transpose(-4, -3)).flatten(-4, -3).flatten(-2)
    half = outer.new_tensor((0.5, 1.0, 1.0, 0.5, 1.0, 0.5))
    return outer[..., (0, 1, 2, 4, 5, 8), :] * half[:, None]


def _plane_terms(pairs: Tensor, cameras: Tensor) -> tuple[Tensor, Tensor]:
    """What the two planes of a view contribute to the linear system, as (..., 12, 4V).

    Columns belong to x² + y², x, y and 1 of every view; rows are the 3×3 normal matrix and the right-hand
    side about the origin (..., 1, 3), the mean camera centre, which is returned as well.
    """
    centre = -(cameras[..., :3] * cameras[..., 3:]).sum(-2)
    origin = centre.mean(-2, keepdim=True)
    matrices = torch.stack((pairs[..., 5, :], -pairs[..., 2, :], -pairs[..., 4, :],
                            pairs[..., 0, :] + pairs[..., 3, :]), -2)
    right = (matrices.unflatten(-1, (3, 3)) * (centre - origin)[..., None, None, :]).sum(-1)
    return _view_last(torch.cat((matrices, right), -1)), origin


def _world_terms(pairs: Tensor, rotation: Tensor) -> Tensor:
    """Constants (..., 12, 9V) that turn every view's symmetric camera-frame matrix (6 entries) and vector
    (3) into the sums of Rᵀ K R (9 rows) and Rᵀ g (3 rows)."""
    pad = torch.nn.functional.pad
    return _view_last(torch.cat((pad(pairs, (0, 3)), pad(rotation, (9, 0))), -2))
