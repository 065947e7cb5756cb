"""What stands around the hand: light, ground, world axes, and where a browser looks from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hand_unc_ros.viewer import framing

if TYPE_CHECKING:
    import viser

_CELL_M, _SECTION_M, _WIDTH_M = 0.05, 0.25, 3.0
_HAND_DISTANCE_M = 0.45


class Stage:
    """Owns the ground grid and knows where the rig looks at."""

    def __init__(self, server: viser.ViserServer, up: str):
        """up: key of framing.UP_AXES."""
        self._up = np.array(framing.UP_AXES[up])
        self._volume = framing.work_volume([])
        scene = server.scene
        scene.set_up_direction(tuple(self._up))
        scene.configure_default_lights(cast_shadow=False)
        scene.add_light_ambient('/light', intensity=1.5)
        scene.world_axes.visible = False
        scene.add_frame('/world', axes_length=0.06, axes_radius=0.0012)
        self._grid = scene.add_grid(
            '/grid', width=_WIDTH_M, height=_WIDTH_M, plane={'x': 'yz', 'y': 'xz', 'z': 'xy'}[up[1]],
            cell_size=_CELL_M, cell_color=(48, 56, 68), cell_thickness=0.6,
            section_size=_SECTION_M, section_color=(84, 98, 120), section_thickness=1.0,
            fade_distance=2.5, fade_strength=1.5, fade_from='camera', shadow_opacity=0.0,
        )
        self._grid.position = self._ground()

    @property
    def frustum_depth(self) -> float:
        """Depth in metres at which a camera's image is drawn."""
        return framing.frustum_depth(self._volume)

    def surround(self, world_from_cameras: Sequence[np.ndarray]) -> None:
        """Follow a change of the cameras; world_from_cameras: (4, 4) poses."""
        self._volume = framing.work_volume(world_from_cameras)
        self._grid.position = self._ground()

    def _ground(self) -> np.ndarray:
        """Centre (3,) of the grid: under the work volume, its lines at round coordinates of the world."""
        level = np.abs(self._up) < 0.5
        rounded = _SECTION_M * np.round(self._volume.centre / _SECTION_M)
        return np.where(level, rounded, framing.ground_height(self._volume.centre, self._up) * self._up)

    def look(
        self, client: viser.ClientHandle, camera_centres: np.ndarray, hand: np.ndarray | None, on_hand: bool
    ) -> None:
        """Turn one browser to the hand, or to the whole rig.

        camera_centres: (V, 3) metres.  hand: (3,) metres, or None while there is none.
        """
        centre, distance = self._volume.centre, float(np.clip(self._volume.distance, 0.45, 1.3))
        close = on_hand or not len(camera_centres)
        if close:
            centre, distance = (centre if hand is None else hand), _HAND_DISTANCE_M
        view = framing.viewpoint(centre, camera_centres, self._up, distance, cameras_in_sight=not close)
        with client.atomic():
            client.camera.fov = float(framing.FIELD_OF_VIEW)
            client.camera.near = 0.005
            client.camera.up_direction = self._up
            client.camera.position = view.position
            client.camera.look_at = view.target
