"""One camera's table in a rig file: its keys, checked, and messages that name file, camera and key."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.data.rigs.text import short
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import LARGEST_SIDE_PX, CalibrationUncertainty, Camera
from hand_unc_ros.geometry.lens_names import lens_model

# Text files carry rotations with few digits; within this they are moved to the nearest rotation.
ROUNDING = 1e-3
_EXACT = 1e-9
_LONGEST_NAME = 100


class CameraTable:
    """One camera's table in a file: reads keys, and names file, camera and key when it cannot."""

    def __init__(self, path: Path, camera: str, content: Any) -> None:
        self.path, self.camera = path, camera
        if not camera.isprintable() or not camera.strip() or len(camera) > _LONGEST_NAME:
            raise CalibrationError(f'{path}: {short(camera)} is no name for a camera; give it a short one in letters '
                                   'and digits')
        if not isinstance(content, Mapping):
            raise CalibrationError(f"{path}: camera '{camera}' is {short(content)}; give its keys below it")
        self.content = content

    def __contains__(self, key: str) -> bool:
        value = self.content.get(key)
        return value is not None and not (isinstance(value, str) and value == 'null')

    def fail(self, key: str, message: str) -> CalibrationError:
        """The error to raise for a key."""
        return CalibrationError(f"{self.path}: camera '{self.camera}', key {short(key)}: {message}")

    def get(self, key: str, remedy: str) -> Any:
        """The value of a key that must be there."""
        if key not in self:
            raise self.fail(key, f'missing; {remedy}')
        return self.content[key]

    def one_of(self, key: str, options: Collection[str]) -> str:
        """A text that is one of `options`."""
        names = f"give one of {', '.join(options)}"
        value = self.get(key, names)
        if not isinstance(value, str) or value not in options:
            raise self.fail(key, f'is {short(value)}; {names}')
        return value

    def flag(self, key: str) -> bool:
        """true or false, false where the key is not given."""
        value = self.content.get(key, False)
        if not isinstance(value, bool):
            raise self.fail(key, f'is {short(value)}; give true or false')
        return value

    def numbers(self, key: str, remedy: str, *shapes: tuple[int, ...]) -> np.ndarray:
        """Finite float64 array in one of `shapes` (an extent of −1 matches any)."""
        value = self.get(key, remedy)
        if _has_bool(value):
            raise self.fail(key, f'{short(value)} holds true or false; {remedy}')
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise self.fail(key, f'{short(value)} is not an array of numbers; {remedy}') from None
        if not np.isfinite(array).all():
            raise self.fail(key, f'has NaN or infinite entries; {remedy}')
        if not any(len(shape) == array.ndim
                   and all(want in (-1, have) for want, have in zip(shape, array.shape)) for shape in shapes):
            raise self.fail(key, f'has shape {array.shape}; {remedy}')
        return array

    def size(self, key: str) -> tuple[int, int]:
        """(width, height) in whole pixels."""
        remedy = 'give [width, height] in whole pixels'
        value = self.numbers(key, remedy, (2,))
        if (value < 1).any() or (value > LARGEST_SIDE_PX).any() or (value != np.round(value)).any():
            raise self.fail(key, f'is {value.tolist()}; {remedy}')
        return int(value[0]), int(value[1])

    def side(self, key: str) -> int:
        """The extent of an image in whole pixels."""
        remedy = 'give the extent of the image in whole pixels'
        value = float(self.numbers(key, remedy, (), (1,), (1, 1)).ravel()[0])
        if not 1 <= value <= LARGEST_SIDE_PX or value != round(value):
            raise self.fail(key, f'is {value:g}; {remedy}')
        return int(value)

    def lens(self, key: str, name: str, D: np.ndarray) -> tuple[str, np.ndarray]:
        """Model and coefficients of the lens that a file calls `name`; errors name the key."""
        try:
            return lens_model(name, D)
        except CalibrationError as error:
            raise self.fail(key, str(error)) from None

    def transform(self, key: str, remedy: str) -> np.ndarray:
        """(4, 4) rigid transform, its rotation moved to the nearest one."""
        matrix = self.numbers(key, remedy, (4, 4)).copy()
        if not np.array_equal(matrix[3], (0.0, 0.0, 0.0, 1.0)):
            raise self.fail(key, 'has a last row other than 0 0 0 1; is the matrix transposed?')
        matrix[:3, :3] = self.rotation(key, matrix[:3, :3])
        return matrix

    def rotation(self, key: str, matrix: np.ndarray) -> np.ndarray:
        """The nearest rotation where `matrix` is one up to rounding; CalibrationError where it is not."""
        if np.abs(matrix).max() > 1 + ROUNDING:
            raise self.fail(key, 'the rotation is not orthonormal (it has entries above 1); check for scaled or '
                                 'swapped rows')
        error = np.abs(matrix @ matrix.T - np.eye(3)).max()
        if error > ROUNDING:
            raise self.fail(key, f'the rotation is not orthonormal (off by {error:.2g}); check for scaled or '
                                 'swapped rows and give at least 4 decimals')
        if np.linalg.det(matrix) < 0:
            raise self.fail(key, 'the rotation is a reflection (determinant −1); camera frames are right-'
                                 'handed, x right, y down, z forward')
        if error <= _EXACT:
            return matrix
        u, _, vt = np.linalg.svd(matrix)
        return u @ vt

    def camera_at(self, size: tuple[int, int], K: np.ndarray, lens: tuple[str, np.ndarray],
                  world_from_camera: np.ndarray, uncertainty: CalibrationUncertainty | None = None) -> Camera:
        """The camera. size: (width, height) pixels.  K: (3, 3).  lens: model and coefficients.
        world_from_camera: (4, 4)."""
        try:
            return Camera(self.camera, *size, K, *lens, world_from_camera, uncertainty)
        except CalibrationError as error:
            raise CalibrationError(f'{self.path}: {error}') from None


def inverse(transform: np.ndarray) -> np.ndarray:
    """(4, 4) inverse of a rigid transform."""
    inverted = np.eye(4)
    inverted[:3, :3] = transform[:3, :3].T
    inverted[:3, 3] = -inverted[:3, :3] @ transform[:3, 3]
    return inverted


def _has_bool(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_bool(item) for item in value)
    return isinstance(value, bool)
