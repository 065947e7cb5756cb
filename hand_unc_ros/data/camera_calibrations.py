"""Which camera is calibrated, by what, and why another one is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hand_unc_ros.data.camera_messages import camera_from_info
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, Camera, CameraRig


class CameraCalibrations:
    """The calibration of each camera as far as it is known, from a rig file, CameraInfo and poses. Its
    uncertainty is the rig file's, wherever the rest comes from.

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
        self._uncertainty: dict[str, CalibrationUncertainty | None] = {}
        for name in names:
            if rig is not None:
                camera = rig[name]
                self._uncertainty[name] = camera.uncertainty
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
            self._cameras[name] = replace(camera, uncertainty=self._uncertainty.get(name))
            self._reasons.pop(name, None)
