"""Which camera is calibrated, by what, and why another one is not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hand_unc_ros.data.calibrated_image import camera_doubts, check_rectified, info_doubts, is_rectified, resized_doubt
from hand_unc_ros.data.camera_messages import camera_from_info
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, Camera, CameraRig

log = logging.getLogger(__name__)


class CameraCalibrations:
    """The camera calibration of each camera as far as it is known, from a rig file, CameraInfo and poses. Its
    uncertainty is the rig file's, wherever the rest comes from.

    rig: cameras of a file, or None.  info_used: intrinsics come from `take_info` and not from the file.
    pose_used: poses come from `take_pose` and not from the file.  image_topics: by camera; their names tell rectified
    images from raw ones.  info_topics: by camera, where its CameraInfo is waited for.
    Raises CalibrationError for a camera that the file lacks, and for rectified images to which it gives a distortion.
    """

    def __init__(self, names: Sequence[str], rig: CameraRig | None, *, info_used: bool, pose_used: bool,
                 image_topics: Mapping[str, str] | None = None,
                 info_topics: Mapping[str, str] | None = None) -> None:
        topics = image_topics or {}
        self._info_used = info_used
        self._info_topics = info_topics or {}
        self._rectified = frozenset(name for name, topic in topics.items() if is_rectified(topic))
        if rig is not None and not info_used:
            check_rectified(rig, topics)
        self._resized: dict[str, str] = {}
        self._doubts: dict[str, str] = {}
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
        """The camera, or None while it cannot be used."""
        return self._cameras.get(name)

    def reason(self, name: str) -> str | None:
        """Why the camera cannot be used, or None."""
        return self._reasons.get(name)

    def doubt(self, name: str) -> str | None:
        """Why the intrinsics of a camera that is used may be those of another image, with the remedy, or None."""
        return self._doubts.get(name)

    def awaits_info(self, name: str) -> bool:
        """Whether nothing but its CameraInfo is known to be missing yet."""
        return self._info_used and name not in self._infos

    @property
    def without_pose(self) -> tuple[str, ...]:
        """Names of the cameras whose pose is not known."""
        return tuple(name for name in self._reasons if name not in self._poses)

    def take_info(self, name: str, info: Any) -> None:
        """Take a CameraInfo; costs next to nothing when it says what the last one said."""
        roi = info.roi
        key = (info.width, info.height, info.distortion_model, bytes(info.d), bytes(info.k), info.binning_x,
               info.binning_y, roi.x_offset, roi.y_offset, roi.width, roi.height)
        if name in self._rectified:
            key += (bytes(info.p), bytes(info.r))
        if self._info_used and self._info_keys.get(name) != key:
            self._info_keys[name] = key
            before = self._infos.get(name)
            if before is not None and (resized := resized_doubt(name, before, info)) is not None:
                self._resized[name] = resized
                log.warning('%s', resized)
            elif before is not None and not np.array_equal(before.k, info.k):
                self._resized.pop(name, None)
            self._infos[name] = info
            self._update(name)

    def take_pose(self, name: str, world_from_camera: np.ndarray) -> None:
        """Take a camera's pose, (4, 4)."""
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
                topic = self._info_topics.get(name)
                raise CalibrationError('waiting for its CameraInfo' + (f' on {topic}' if topic else ''))
            if pose is None:
                raise CalibrationError('waiting for its pose')
            if isinstance(info, Camera):
                camera, doubts = info.with_pose(pose), camera_doubts(info)
            else:
                rectified = name in self._rectified
                camera, doubts = camera_from_info(name, info, pose, rectified), info_doubts(name, info, rectified)
        except CalibrationError as error:
            self._cameras.pop(name, None)
            self._reasons[name] = str(error)
            self._doubts.pop(name, None)
        else:
            doubts += [self._resized[name]] if name in self._resized else []
            self._doubts.pop(name, None)
            if doubts:
                self._doubts[name] = '; '.join(doubts)
            self._cameras[name] = replace(camera, uncertainty=self._uncertainty.get(name))
            self._reasons.pop(name, None)
