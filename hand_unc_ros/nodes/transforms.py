"""Poses of the cameras from TF, where tf2_ros is installed."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from rclpy.time import Time

from hand_unc_ros.data.camera_messages import pose_matrix
from hand_unc_ros.errors import CalibrationError, ConfigError


class TransformSource:
    """Listens to TF and answers at once with what it has; raises ConfigError where tf2_ros is missing."""

    def __init__(self, node: Node, world_frame: str) -> None:
        try:
            from tf2_ros import Buffer, TransformException, TransformListener
        except ImportError:
            raise ConfigError("parameter rig.extrinsics is 'tf', and tf2_ros is not installed here: "
                              'install it, or give the poses in rig.file and set rig.extrinsics: file') from None
        self._error = TransformException
        self._world_frame = world_frame
        self._buffer = Buffer()
        self._listener = TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, frame: str) -> np.ndarray:
        """world_from_camera (4, 4) of an optical frame; raises CalibrationError when TF does not have it."""
        try:
            transform = self._buffer.lookup_transform(self._world_frame, frame, Time()).transform
        except self._error as error:
            raise CalibrationError(
                f'no transform from {frame} to {self._world_frame} in TF: {error}') from error
        return pose_matrix(transform.translation, transform.rotation)

    def close(self) -> None:
        """End the subscriptions to TF."""
        self._listener.unregister()
