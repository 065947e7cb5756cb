"""Which camera is calibrated, by what, and why another one is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hand_unc_ros.errors import CalibrationError, ImageFormatError
from hand_unc_ros.geometry.cameras import Camera, CameraRig


def camera_from_info(name: str, info: Any, world_from_camera: np.ndarray) -> Camera:
    """The camera of a sensor_msgs/CameraInfo at a (4, 4) pose, for the image as it is published.

    K and D are used (those of the raw image); binning and the region of interest are taken into account. An
    empty D means no distortion.  Raises CalibrationError, naming the camera and the remedy.
    """
    K = np.array(info.k, dtype=np.float64).reshape(3, 3)
    D = np.array(info.d, dtype=np.float64)
    model = info.distortion_model if D.size else 'none'
    roi = info.roi
    width, height = (roi.width or info.width), (roi.height or info.height)
    bin_x, bin_y = info.binning_x or 1, info.binning_y or 1
    for axis, offset, binning in ((0, roi.x_offset, bin_x), (1, roi.y_offset, bin_y)):
        # Centres of pixels are at whole numbers, so that an edge lies half a pixel before its centre.
        K[axis, 2] = (K[axis, 2] - offset + 0.5) / binning - 0.5
        K[axis, :2] /= binning
    return Camera(name, int(width // bin_x), int(height // bin_y), K, model, D, world_from_camera)


def pose_matrix(translation: Any, rotation: Any) -> np.ndarray:
    """(4, 4) of a geometry_msgs translation and quaternion; raises CalibrationError when that is none."""
    x, y, z, w = rotation.x, rotation.y, rotation.z, rotation.w
    norm = float(np.sqrt(x * x + y * y + z * z + w * w))
    if not abs(norm - 1) < 1e-2:
        raise CalibrationError(f'the quaternion ({x:g}, {y:g}, {z:g}, {w:g}) of the transform has '
                               f'norm {norm:g}; it must be 1')
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), translation.x],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), translation.y],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), translation.z],
        [0, 0, 0, 1]])


def check_size(camera: Camera, image: np.ndarray) -> None:
    """Raise ImageFormatError when the image is not of the size that the camera was calibrated for."""
    height, width = image.shape[:2]
    if (width, height) != (camera.width, camera.height):
        raise ImageFormatError(f'the image is {width}×{height} and the calibration of {camera.name} is for '
                               f'{camera.width}×{camera.height}; calibrate at the size that is streamed')


class Calibrations:
    """The calibration of each camera as far as it is known, from a rig file, CameraInfo and poses.

    rig: cameras of a file, or None.  info_used: intrinsics come from `take_info` and not from the file.
    pose_used: poses come from `take_pose` and not from the file.
    Raises CalibrationError for a camera that the file lacks.
    """

    def __init__(self, names: Sequence[str], rig: CameraRig | None, *,
                 info_used: bool, pose_used: bool) -> None:
        self._info_used = info_used
        self._infos: dict[str, Any] = {}
        self._info_keys: dict[str, tuple] = {}
        self._cameras: dict[str, Camera] = {}
        self._reasons: dict[str, str] = {}
        self._poses: dict[str, np.ndarray] = {}
        for name in names:
            if rig is not None:
                camera = rig[name]
                if not pose_used:
                    self._poses[name] = camera.world_from_camera
                if not info_used:
                    self._infos[name] = camera
            self._update(name)

    def camera(self, name: str) -> Camera | None:
        return self._cameras.get(name)

    def reason(self, name: str) -> str | None:
        """Why the camera cannot be used, or None."""
        return self._reasons.get(name)

    @property
    def without_pose(self) -> tuple[str, ...]:
        return tuple(name for name in self._reasons if name not in self._poses)

    def take_info(self, name: str, info: Any) -> None:
        """Take a CameraInfo; costs next to nothing when it says what the last one said."""
        roi = info.roi
        key = (info.width, info.height, info.distortion_model, bytes(info.d), bytes(info.k), info.binning_x,
               info.binning_y, roi.x_offset, roi.y_offset, roi.width, roi.height)
        if self._info_used and self._info_keys.get(name) != key:
            self._info_keys[name] = key
            self._infos[name] = info
            self._update(name)

    def take_pose(self, name: str, world_from_camera: np.ndarray) -> None:
        self._poses[name] = world_from_camera
        self._update(name)

    def refuse_pose(self, name: str, reason: str) -> None:
        """Say why there is no pose yet."""
        if name not in self._poses:
            self._reasons[name] = reason

    def _update(self, name: str) -> None:
        info, pose = self._infos.get(name), self._poses.get(name)
        try:
            if info is None:
                raise CalibrationError('waiting for its CameraInfo')
            if pose is None:
                raise CalibrationError('waiting for its pose')
            camera = info.with_pose(pose) if isinstance(info, Camera) else camera_from_info(name, info, pose)
        except CalibrationError as error:
            self._cameras.pop(name, None)
            self._reasons[name] = str(error)
        else:
            self._cameras[name] = camera
            self._reasons.pop(name, None)
