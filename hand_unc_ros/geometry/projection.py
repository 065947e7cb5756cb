"""Projection by a rig of cameras, and its inverse, as stacked float64 tensors on the CPU.

Apart from `geometry.cameras`, since PyTorch takes seconds to load and programs that only hold a camera calibration (the
recorder, the viewer) need none of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.geometry.distortion import coefficients, distort_components, folding_radius, undistort_components

if TYPE_CHECKING:
    from hand_unc_ros.geometry.cameras import Camera


class _Group(NamedTuple):
    """Cameras of a rig that share a distortion model; rows is None where that is the whole rig."""

    rows: Tensor | None
    model: str
    k: tuple[Tensor, ...]
    limit: Tensor


class RigProjection:
    """What `CameraRig` computes, of its cameras in their order; see there."""

    # Constants outlive the inference mode in which they may be made, and serve autograd after it.
    @torch.inference_mode(False)
    def __init__(self, cameras: Sequence[Camera]) -> None:
        poses = np.stack([camera.camera_from_world[:3] for camera in cameras])
        self.camera_from_world: Tensor = torch.from_numpy(poses)
        self._rotation = self.camera_from_world[:, :, :3]
        self._translation = self.camera_from_world[:, None, :, 3]
        K = torch.from_numpy(np.stack([camera.K for camera in cameras]))
        self._affine, self._offset = K[:, :2, :2], K[:, None, :2, 2]
        self._affine_inverse = torch.linalg.inv(self._affine)
        self._groups = _by_model(cameras)
        order = [row for group in self._groups if group.rows is not None for row in group.rows.tolist()]
        self._order = torch.tensor(np.argsort(order), dtype=torch.long)
        limits = torch.cat([group.limit for group in self._groups])
        self._limit2 = (limits if len(self._groups) == 1 else limits[self._order]) ** 2

    def _by_group(
        self, function: Callable[..., tuple[Tensor, ...]], *components: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run function(group, *components) on each group's rows and put the rows back in order."""
        if len(self._groups) == 1:
            return function(self._groups[0], *components)
        parts = [function(group, *(component[group.rows] for component in components))
                 for group in self._groups]
        return tuple(torch.cat(pieces)[self._order] for pieces in zip(*parts))

    def _to_cameras(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """points (N, 3) -> xy normalised (V, N, 2), depth (V, N), visible (V, N); xy = 0 where not."""
        local = torch.matmul(points.double(), self._rotation.mT) + self._translation
        depth = local[..., 2]
        xy = local[..., :2] / torch.where(depth > 0, depth, 1.0)[..., None]
        visible = (depth > 0) & (xy.square().sum(-1) < self._limit2)
        return torch.where(visible[..., None], xy, 0.0), depth, visible

    def _distort(self, xy: Tensor) -> tuple[Tensor, ...]:
        return self._by_group(lambda group, x, y: distort_components(x, y, group.model, group.k), *xy.unbind(-1))

    def _to_pixels(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(torch.stack((x, y), -1), self._affine.mT) + self._offset

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points (N, 3) -> px (V, N, 2), depth (V, N)."""
        xy, depth, visible = self._to_cameras(points)
        px = self._to_pixels(*self._distort(xy)[:2])
        return torch.where(visible[..., None], px, math.nan), depth

    def project_with_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points (N, 3) -> px (V, N, 2), d px / d world (V, N, 2, 3)."""
        xy, depth, visible = self._to_cameras(points)
        x, y, *lens = self._distort(xy)
        pinhole = _pinhole_jacobian(xy, torch.where(visible, depth, 1.0), self._rotation[:, None])
        jacobian = self._affine[:, None] @ (_symmetric(*lens) @ pinhole)
        return (torch.where(visible[..., None], self._to_pixels(x, y), math.nan),
                torch.where(visible[..., None, None], jacobian, math.nan))

    def normalise(self, px: Tensor) -> Tensor:
        """px (V, N, 2) -> xy (V, N, 2)."""
        x, y, *_ = self._undistort(px)
        return torch.stack((x, y), -1)

    def normalise_with_jacobian(self, px: Tensor) -> tuple[Tensor, Tensor]:
        """px (V, N, 2) -> xy (V, N, 2), d xy / d px (V, N, 2, 2)."""
        x, y, *lens = self._undistort(px)
        return torch.stack((x, y), -1), _symmetric(*lens) @ self._affine_inverse[:, None]

    def denormalise_with_jacobian(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """xy (V, N, 2) -> px (V, N, 2), d px / d xy (V, N, 2, 2)."""
        known = torch.isfinite(xy).all(-1) & (xy.square().sum(-1) < self._limit2)
        x, y, *lens = self._distort(torch.where(known[..., None], xy, 0.0).double())
        jacobian = self._affine[:, None] @ _symmetric(*lens)
        return (torch.where(known[..., None], self._to_pixels(x, y), math.nan),
                torch.where(known[..., None, None], jacobian, math.nan))

    def _undistort(self, px: Tensor) -> tuple[Tensor, ...]:
        distorted = torch.matmul(px.double() - self._offset, self._affine_inverse.mT)

        def invert(group: _Group, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
            x, y, jacobian = undistort_components(x, y, group.model, group.k, group.limit)
            return x, y, *jacobian

        return self._by_group(invert, *distorted.unbind(-1))


class CameraProjection:
    """What `Camera` computes, in NumPy; see there."""

    def __init__(self, camera: Camera) -> None:
        self._rig = RigProjection((camera,))

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """points (N, 3) -> px (N, 2), depth (N,)."""
        with torch.inference_mode():
            px, depth = self._rig.project(_tensor(points))
        return px[0].numpy(), depth[0].numpy()

    def normalise(self, px: np.ndarray) -> np.ndarray:
        """px (N, 2) -> xy (N, 2)."""
        with torch.inference_mode():
            return self._rig.normalise(_tensor(px)[None])[0].numpy()

    def denormalise(self, xy: np.ndarray) -> np.ndarray:
        """xy (N, 2) -> px (N, 2)."""
        with torch.inference_mode():
            return self._rig.denormalise_with_jacobian(_tensor(xy)[None])[0][0].numpy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float64))


def _symmetric(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    """Matrices (..., 2, 2) of their entries (...)."""
    return torch.stack((xx, xy, xy, yy), -1).unflatten(-1, (2, 2))


def _pinhole_jacobian(xy: Tensor, depth: Tensor, rotation: Tensor) -> Tensor:
    """d (normalised coordinates) / d (world point): (R[:2] − xy R[2]) / depth.

    xy: (..., 2).  depth: (...), above 0.  rotation: (..., 3, 3) camera from world.  Returns (..., 2, 3).
    """
    return (rotation[..., :2, :] - xy[..., None] * rotation[..., 2:, :]) / depth[..., None, None]


def _by_model(cameras: Sequence[Camera]) -> tuple[_Group, ...]:
    # An equidistant lens without coefficients is still r = f θ and no pinhole.
    models = [camera.distortion_model if camera.D.any() or camera.distortion_model == 'equidistant' else 'none'
              for camera in cameras]
    groups = []
    for model in dict.fromkeys(models):
        rows = [row for row, other in enumerate(models) if other == model]
        if model == 'none':
            D = torch.zeros(len(rows), 1, 0, dtype=torch.float64)
        else:
            D = torch.from_numpy(np.stack([cameras[row].D for row in rows]))[:, None]
        groups.append(_Group(None if len(rows) == len(models) else torch.tensor(rows), model,
                             coefficients(model, D), folding_radius(model, D)))
    return tuple(groups)
