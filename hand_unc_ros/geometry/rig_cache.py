"""Rigs of the cameras that come in a set."""

from __future__ import annotations

from collections.abc import Sequence

from hand_unc_ros.geometry.cameras import Camera, CameraRig

_LIMIT = 64


class RigCache:
    """The cameras of a set as stacked tensors; kept, because the same ones come again and again."""

    def __init__(self) -> None:
        self._rigs: dict[tuple[int, ...], CameraRig] = {}

    def of(self, cameras: Sequence[Camera]) -> CameraRig:
        """The rig of these cameras, in their order. Raises CalibrationError for none, or a name that comes twice."""
        # A rig holds its cameras, so that no other object gets their ids while it is kept.
        key = tuple(id(camera) for camera in cameras)
        if key not in self._rigs:
            if len(self._rigs) > _LIMIT:
                self._rigs.clear()
            self._rigs[key] = CameraRig(cameras)
        return self._rigs[key]
