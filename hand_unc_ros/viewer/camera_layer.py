"""The cameras in the scene: frusta with their latest images and their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from hand_unc_ros.viewer import colours
from hand_unc_ros.viewer.shapes import quaternions

if TYPE_CHECKING:
    import viser

    from hand_unc_ros.geometry.cameras import Camera


class CameraLayer:
    """Owns one frustum and one label per camera; images are scaled down before they are sent."""

    def __init__(self, server: viser.ViserServer, image_width: int):
        """image_width: in pixels, of the images in the browser."""
        self._server = server
        self._image_width = image_width
        self._frusta: dict[str, viser.CameraFrustumHandle] = {}
        self._labels: dict[str, viser.LabelHandle] = {}

    def place(self, camera: Camera, depth: float) -> None:
        """Add or move a camera's frustum, as a pinhole with its vertical field of view.

        depth: metres from the camera's centre at which its image is drawn.
        """
        fov = 2.0 * np.arctan2(camera.height / 2.0, camera.K[1, 1])
        aspect = (camera.width / camera.K[0, 0]) / (camera.height / camera.K[1, 1])
        wxyz = quaternions(camera.world_from_camera[:3, :3])
        frustum = self._frusta.get(camera.name)
        if frustum is None:
            node = f'/cameras/{camera.name.strip("/").replace("/", "_")}'
            frustum = self._server.scene.add_camera_frustum(
                node, float(fov), float(aspect), scale=1.0, thickness=1.5, thickness_units='screen',
                color=colours.CAMERA_USED, format='jpeg', jpeg_quality=75, cast_shadow=False,
                receive_shadow=False,
            )
            self._frusta[camera.name] = frustum
            self._labels[camera.name] = self._server.scene.add_label(
                f'{node}/name', camera.name, font_screen_scale=0.8, anchor='bottom-center',
            )
        frustum.fov, frustum.aspect = float(fov), float(aspect)
        frustum.scale = float(depth / frustum.compute_canonical_frustum_size()[2])
        frustum.wxyz, frustum.position = wxyz, camera.world_from_camera[:3, 3]
        # Above the upper edge of the image (y is down).
        self._labels[camera.name].position = (0.0, -depth * np.tan(fov / 2.0) * 1.04, depth)

    def show_image(self, name: str, image: np.ndarray | None) -> None:
        """Draw an image (H, W, 3) uint8 RGB in the frustum, or nothing."""
        frustum = self._frusta[name]
        if image is not None and image.shape[1] > self._image_width:
            height = max(1, round(image.shape[0] * self._image_width / image.shape[1]))
            image = cv2.resize(image, (self._image_width, height), interpolation=cv2.INTER_AREA)
        frustum.image = image

    def show_state(self, name: str, colour: colours.Rgb, text: str) -> None:
        """Colour of the frustum and text of the label."""
        self._frusta[name].color = colour
        self._labels[name].text = text

    def __contains__(self, name: str) -> bool:
        return name in self._frusta

    @property
    def names(self) -> tuple[str, ...]:
        """Cameras that are in the scene."""
        return tuple(self._frusta)

    @property
    def centres(self) -> np.ndarray:
        """Positions (V, 3) of the cameras, metres, world."""
        return np.array([frustum.position for frustum in self._frusta.values()]).reshape(-1, 3)

    def remove(self, name: str) -> None:
        """Take a camera out of the scene; its label goes with it."""
        self._frusta.pop(name).remove()
        self._labels.pop(name)
