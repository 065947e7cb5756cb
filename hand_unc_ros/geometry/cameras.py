"""Calibrated cameras: one camera, and a rig of them.

Camera frames are optical (z forward, x right, y down).  Pixels are those of the full, distorted image,
with the centre of the top-left pixel at (0, 0) as in OpenCV and ROS.  `world_from_camera` maps camera
coordinates to world coordinates, metres.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NoReturn

import numpy as np

from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.lens_names import DISTORTION_MODELS, LARGEST_COEFFICIENT

if TYPE_CHECKING:
    from torch import Tensor

    from hand_unc_ros.geometry.projection import CameraProjection, RigProjection

_ROTATION_TOLERANCE = 1e-5
# No camera has more pixels along a side, or a focal length outside of these.
LARGEST_SIDE_PX = 65_535
_FOCAL_RANGE_PX = (0.1, 1e7)
# Farther from the origin of the world, metres, float64 no longer resolves a micrometre.
_FARTHEST_M = 1e9


@dataclass(frozen=True, eq=False)
class CalibrationUncertainty:
    """Standard deviations of one camera calibration; a number for all axes or one number for each.

    rotation_rad: (3,) about the x, y and z axes of the camera, with its centre where it is.  translation_m: (3,) of
    its centre, along the same axes.  focal_px: (2,) of fx and fy.  centre_px: (2,) of cx and cy.  The ten errors count
    as independent of each other and of those of other cameras.  Arrays are read-only float64.
    Raises CalibrationError for numbers that are no standard deviations or too large for first-order propagation.
    """

    rotation_rad: np.ndarray | float = 0.0
    translation_m: np.ndarray | float = 0.0
    focal_px: np.ndarray | float = 0.0
    centre_px: np.ndarray | float = 0.0

    # Axes and largest value of each; more is another unit (degrees, millimetres) or not a calibration.
    FIELDS: ClassVar = {'rotation_rad': (3, 0.1), 'translation_m': (3, 0.1),
                        'focal_px': (2, math.inf), 'centre_px': (2, math.inf)}

    def __post_init__(self) -> None:
        for field, (axes, largest) in self.FIELDS.items():
            given = getattr(self, field)
            try:
                array = np.array(given, dtype=np.float64)
            except (TypeError, ValueError):
                array = np.full(0, math.nan)
            said = f'{field} is {array.tolist() if array.size else given!r}'
            if array.shape not in ((), (axes,)) or not np.isfinite(array).all() or (array < 0).any():
                raise CalibrationError(f'{said}; give one standard deviation, 0 or above, or {axes} of them')
            if (array > largest).any():
                raise CalibrationError(f'{said}; above {largest:g} it is no standard deviation of a camera calibration '
                                       '(is it in radians and metres?)')
            array = np.broadcast_to(array, axes).copy()
            array.setflags(write=False)
            object.__setattr__(self, field, array)


@dataclass(frozen=True, eq=False)
class Camera:
    """One calibrated camera.

    name: unique in its rig.  width, height: pixels.  K: (3, 3) intrinsic matrix, pixels.
    distortion_model: a key of DISTORTION_MODELS.  D: (n,) its coefficients.
    world_from_camera: (4, 4) rigid transform, metres.  uncertainty: how well all this is known, None where the
    calibration does not say.  Arrays are copied to read-only float64.
    Raises CalibrationError, naming the camera and the remedy, for anything that is not a camera.
    """

    name: str
    width: int
    height: int
    K: np.ndarray
    distortion_model: str
    D: np.ndarray
    world_from_camera: np.ndarray
    uncertainty: CalibrationUncertainty | None = None

    def __post_init__(self) -> None:
        for field in ('K', 'D', 'world_from_camera'):
            object.__setattr__(self, field, self._as_array(field))
        self._check_size()
        self._check_intrinsics()
        self._check_distortion()
        self._check_pose()
        if not isinstance(self.uncertainty, (CalibrationUncertainty, type(None))):
            self._fail(f'uncertainty is {self.uncertainty!r}; give a CalibrationUncertainty, or None')

    def _fail(self, message: str) -> NoReturn:
        raise CalibrationError(f"camera '{self.name}': {message}")

    def _as_array(self, field: str) -> np.ndarray:
        given = getattr(self, field)
        try:
            array = np.array(given, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            self._fail(f'{field} is not an array of numbers; give it as numbers only')
        if np.asarray(given).dtype == bool:
            self._fail(f'{field} holds true and false; give it as numbers')
        if not np.isfinite(array).all():
            self._fail(f'{field} has NaN or infinite entries; calibrate the camera again')
        array.setflags(write=False)
        return array

    def _check_size(self) -> None:
        for field in ('width', 'height'):
            value = getattr(self, field)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value <= 0:
                self._fail(f'{field} is {value!r}; give the image size in whole pixels above 0')
            if value > LARGEST_SIDE_PX:
                self._fail(f'{field} is {value}; no image has more than {LARGEST_SIDE_PX} pixels along a side')
            object.__setattr__(self, field, int(value))

    def _check_intrinsics(self) -> None:
        if self.K.shape != (3, 3):
            self._fail(f'K has shape {self.K.shape}; give the 3×3 intrinsic matrix')
        if self.K[0, 0] <= 0 or self.K[1, 1] <= 0:
            self._fail(f'K has focal lengths fx={self.K[0, 0]:g}, fy={self.K[1, 1]:g}; both must be above 0 '
                       '(an uncalibrated camera publishes zeros: calibrate it)')
        low, high = _FOCAL_RANGE_PX
        if not (low <= self.K[0, 0] <= high and low <= self.K[1, 1] <= high):
            self._fail(f'K has focal lengths fx={self.K[0, 0]:g}, fy={self.K[1, 1]:g}, outside of {low:g} … {high:g}; '
                       'give them in pixels')
        if np.abs(self.K[:2, 1:]).max() > high:
            self._fail(f'K has a skew or principal point beyond {high:g}; give them in pixels')
        if self.K[1, 0] != 0 or not np.array_equal(self.K[2], (0.0, 0.0, 1.0)):
            self._fail('K must be [[fx, s, cx], [0, fy, cy], [0, 0, 1]] (row-major, not transposed)')

    def _check_distortion(self) -> None:
        model = self.distortion_model
        if not isinstance(model, str) or model not in DISTORTION_MODELS:
            self._fail(f"unknown distortion_model '{model}'; use one of {', '.join(DISTORTION_MODELS)}")
        if self.D.ndim != 1:
            self._fail(f'D has shape {self.D.shape}; give a flat list of coefficients')
        if model == 'none':
            if self.D.any():
                self._fail("distortion_model 'none' with non-zero D; name the model or leave D empty")
        elif self.D.size != DISTORTION_MODELS[model]:
            self._fail(f"distortion_model '{model}' takes {DISTORTION_MODELS[model]} coefficients in D, "
                       f"got {self.D.size}; for images without distortion use 'none'")
        if (np.abs(self.D) > LARGEST_COEFFICIENT).any():
            self._fail(f'D has the coefficient {self.D[np.abs(self.D).argmax()]:g}, which no lens has; calibrate the '
                       'camera again')

    def _check_pose(self) -> None:
        if self.world_from_camera.shape != (4, 4):
            self._fail(f'world_from_camera has shape {self.world_from_camera.shape}; give a 4×4 matrix')
        rotation = self.world_from_camera[:3, :3]
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > _ROTATION_TOLERANCE:
            self._fail('the rotation of world_from_camera is not orthonormal; check the extrinsics '
                       '(scaled or transposed blocks, too few digits)')
        if np.linalg.det(rotation) < 0:
            self._fail('the rotation of world_from_camera is a reflection (determinant −1); '
                       'check the axis convention, camera frames are x right, y down, z forward')
        if np.abs(self.world_from_camera[:3, 3]).max() > _FARTHEST_M:
            self._fail(f'world_from_camera is {np.abs(self.world_from_camera[:3, 3]).max():.2g} m from the origin; '
                       'give positions in metres')
        if not np.array_equal(self.world_from_camera[3], (0.0, 0.0, 0.0, 1.0)):
            self._fail('the last row of world_from_camera must be 0 0 0 1 (is the matrix transposed?)')

    @cached_property
    def camera_from_world(self) -> np.ndarray:
        """(4, 4) rigid transform from world to camera coordinates."""
        inverse = np.eye(4)
        inverse[:3, :3] = self.world_from_camera[:3, :3].T
        inverse[:3, 3] = -inverse[:3, :3] @ self.world_from_camera[:3, 3]
        inverse.setflags(write=False)
        return inverse

    @property
    def centre(self) -> np.ndarray:
        """(3,) centre of projection in the world, metres."""
        return self.world_from_camera[:3, 3]

    @cached_property
    def _projection(self) -> CameraProjection:
        from hand_unc_ros.geometry.projection import CameraProjection
        return CameraProjection(self)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points (N, 3), metres, world.  Returns px (N, 2) and depth (N,); see CameraRig.project."""
        return self._projection.project(points)

    def normalise(self, px: np.ndarray) -> np.ndarray:
        """px (N, 2) -> undistorted normalised image coordinates (N, 2); see CameraRig.normalise."""
        if self.distortion_model == 'none':
            # Crops are pinhole cameras, and each is asked once: what a lens needs would cost more than the rest of it.
            return (np.asarray(px, np.float64) - self.K[:2, 2]) @ np.linalg.inv(self.K[:2, :2]).T
        return self._projection.normalise(px)

    def denormalise(self, xy: np.ndarray) -> np.ndarray:
        """Inverse of `normalise`: xy (N, 2) -> px (N, 2), NaN where the lens model does not hold; see
        CameraRig.denormalise_with_jacobian."""
        return self._projection.denormalise(xy)

    def with_pose(self, world_from_camera: np.ndarray) -> Camera:
        """The same camera at another (4, 4) pose."""
        return replace(self, world_from_camera=world_from_camera)


class CameraRig:
    """An ordered set of cameras with distinct names.

    What it computes is float64 on the CPU and keeps the order of `names` in its first dimension, V.
    """

    def __init__(self, cameras: Sequence[Camera]) -> None:
        self.cameras: tuple[Camera, ...] = tuple(cameras)
        self.names: tuple[str, ...] = tuple(camera.name for camera in self.cameras)
        if not self.cameras:
            raise CalibrationError('a rig needs at least one camera; this one is empty')
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise CalibrationError(f"camera name '{twice[0]}' is used twice; give every camera its own name")

    def __len__(self) -> int:
        return len(self.cameras)

    def __iter__(self) -> Iterator[Camera]:
        return iter(self.cameras)

    def __getitem__(self, name: str) -> Camera:
        if name not in self.names:
            raise CalibrationError(f"no camera '{name}' in the rig; it has {', '.join(self.names)}")
        return self.cameras[self.names.index(name)]

    def subset(self, names: Sequence[str]) -> CameraRig:
        """The named cameras, in the order of `names`."""
        return CameraRig([self[name] for name in names])

    @cached_property
    def _projection(self) -> RigProjection:
        from hand_unc_ros.geometry.projection import RigProjection
        return RigProjection(self.cameras)

    @property
    def camera_from_world(self) -> Tensor:
        """(V, 3, 4) rigid transforms from world to camera coordinates."""
        return self._projection.camera_from_world

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project points (N, 3), metres, world, into every camera.

        Returns px (V, N, 2) and depth (V, N), metres along the optical axis.  px is NaN where the depth
        is not above 0 and where the point lies beyond the radius at which the lens model folds back on
        itself; it may lie outside the image.  Differentiable.
        """
        return self._projection.project(points)

    def project_with_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """As the px of `project`, with J (V, N, 2, 3) = d px / d world, pixels per metre, distortion included; NaN
        where px is."""
        return self._projection.project_with_jacobian(points)

    def projection_jacobian(self, points: Tensor) -> Tensor:
        """The J of `project_with_jacobian` alone."""
        return self.project_with_jacobian(points)[1]

    def normalise(self, px: Tensor) -> Tensor:
        """px (V, N, 2) -> undistorted normalised image coordinates (V, N, 2).

        NaN where px is not finite or has no preimage under the lens model.  Differentiable.
        """
        return self._projection.normalise(px)

    def normalise_with_jacobian(self, px: Tensor) -> tuple[Tensor, Tensor]:
        """As `normalise`, with J (V, N, 2, 2) = d xy / d px, NaN where xy is NaN."""
        return self._projection.normalise_with_jacobian(px)

    def denormalise_with_jacobian(self, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Inverse of `normalise_with_jacobian`: xy (V, N, 2) to px and J (V, N, 2, 2) = d px / d xy, NaN where xy is
        not finite or lies beyond the radius at which the lens model folds back on itself.  Differentiable."""
        return self._projection.denormalise_with_jacobian(xy)
