"""How the cameras of a moving scene make images of it: a plain sensor before painted backgrounds, or webcams in rooms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from hand_unc_ros.data.synthetic import imaging
from hand_unc_ros.data.synthetic.environment import draw_environment
from hand_unc_ros.data.synthetic.lit import Lit, Surface
from hand_unc_ros.data.synthetic.photographs import installed_photographs
from hand_unc_ros.data.synthetic.rasteriser import Light, Mesh, Mottling, Projection, merge, render
from hand_unc_ros.data.synthetic.sensor import Sensor, Webcam, draw_webcam
from hand_unc_ros.data.synthetic.surroundings import Surroundings
from hand_unc_ros.geometry.cameras import CameraRig

# Noisy images of an empty room that a camera takes turns with: rendering them anew would cost more than the hand.
EMPTY_IMAGES = 4
# Points to a side for a pixel of what is filmed; one where it is filmed live, since the lens blurs edges anyway.
FINENESS, LIVE_FINENESS = 1.5, 1.0
# Pixels around what moves that a webcam's filters reach.
REACH_PX = 8


class Exposure(NamedTuple):
    """One image to be made. place: of the camera in the rig.  projection: of the mesh's vertices; px is NaN where the
    lens cannot see.  motion: displacement (2,) in pixels while the shutter is open.  rng: of its noise."""

    place: int
    projection: Projection
    motion: np.ndarray
    rng: np.random.Generator


class PlainCameras:
    """Sharp, evenly lit images before a background (H, W, 3) uint8 of each camera. noise: sigma of 255."""

    def __init__(self, backgrounds: Sequence[np.ndarray], light: Light, mottling: Mottling, grain: imaging.Grain,
                 noise: float) -> None:
        self.backgrounds, self.light, self.mottling, self.grain, self.noise = backgrounds, light, mottling, grain, noise

    def lit(self, meshes: list[Mesh]) -> Mesh:
        """The surfaces as `image` takes them."""
        return merge(meshes)

    def image(self, mesh: Mesh, exposure: Exposure) -> np.ndarray:
        """RGB (H, W, 3) uint8."""
        image = photograph(mesh, exposure.projection, self.light, self.mottling, exposure.motion,
                           self.backgrounds[exposure.place])
        return self.grain.apply(image, self.noise, exposure.rng)


class Webcams:
    """One webcam for each camera of a rig, with its own exposure and colours, before its own part of a room.

    Only what moves goes through the sensor at every moment; the rest of an image is one of a few of the empty room.
    """

    def __init__(self, rig: CameraRig, seed: int, mottling: Mottling, skin: np.ndarray) -> None:
        rng = np.random.default_rng((seed, 7005))
        self.surface = Surface(draw_environment(rng), mottling, skin[None])
        self.sensor = Sensor(rng)
        rooms = Surroundings(seed, installed_photographs(), len(rig.cameras))
        self.rooms = [_filling(rooms.store(place), camera.height, camera.width)
                      for place, camera in enumerate(rig.cameras)]
        # What acts on whole images, from their middle or by their mean, would show where the hand's part was put in.
        self.webcams = [draw_webcam(rng, room)._replace(spectrum=None, quality=None, vignette=(0.5, 0.5, 0.0), skew=0.0,
                                                        motion=(0.0, 0.0), veil=0.0, grey=False) for room in self.rooms]
        self.empty = [[self.sensor.image(room, webcam, rng) for _ in range(EMPTY_IMAGES)]
                      for room, webcam in zip(self.rooms, self.webcams)]

    def lit(self, meshes: list[Mesh]) -> Lit:
        """The surfaces as `image` takes them."""
        return self.surface.lit(meshes)

    def image(self, lit: Lit, exposure: Exposure) -> np.ndarray:
        """RGB (H, W, 3) uint8."""
        room, webcam = self.rooms[exposure.place], self.webcams[exposure.place]
        image = self.empty[exposure.place][exposure.rng.integers(EMPTY_IMAGES)].copy()
        px, depth, eye = exposure.projection
        window = covered(px[depth > 0], np.abs(exposure.motion).max() + 2 * REACH_PX, image.shape[:2])
        if window is not None:
            left, top, right, bottom = window
            light = room[top:bottom, left:right].copy()
            lit.draw(Projection(px - [left, top], depth, eye), light, LIVE_FINENESS)
            shown = self.sensor.image(light, moving(webcam, exposure.motion), exposure.rng)
            inner = [slice(REACH_PX * (low > 0), size - REACH_PX * (high < whole)) for low, high, size, whole in
                     ((top, bottom, bottom - top, image.shape[0]), (left, right, right - left, image.shape[1]))]
            image[top:bottom, left:right][inner[0], inner[1]] = shown[inner[0], inner[1]]
        return image


def _filling(room: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a square image (S, S, 3), resized to fill (height, width)."""
    side = max(height, width)
    image = cv2.resize(room, (side, side), interpolation=cv2.INTER_CUBIC)
    top, left = (side - height) // 2, (side - width) // 2
    return np.ascontiguousarray(np.maximum(image[top:top + height, left:left + width], 0.0))


def moving(webcam: Webcam, motion: np.ndarray) -> Webcam:
    """The webcam at a moment in which what it sees moves."""
    return webcam._replace(motion=(float(motion[0]), float(motion[1])))


def photograph(mesh: Mesh, projection: Projection, light: Light, mottling: Mottling, motion: np.ndarray,
               background: np.ndarray) -> np.ndarray:
    """A mesh before `background` (H, W, 3) uint8, which stays as it is; an image of the same size, without noise.

    projection: px is NaN where the lens cannot see.  motion: displacement (2,) in pixels while the shutter is open.
    """
    image = background.copy()
    window = covered(projection.px[projection.depth > 0], np.abs(motion).max() + 1, image.shape[:2])
    if window is not None:
        left, top, right, bottom = window
        linear, alpha, _ = render(mesh, projection._replace(px=projection.px - [left, top]),
                                  (bottom - top, right - left), light, mottling)
        part = image[top:bottom, left:right]
        part[:] = imaging.quantise(imaging.motion_blur(imaging.composite(linear, alpha, part), motion))
    return image


def covered(px: np.ndarray, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what the points (N, 2) cover of an image of (height, width), or None."""
    px = px[np.isfinite(px).all(axis=1)]
    if len(px) == 0:
        return None
    low = np.maximum(np.floor(px.min(axis=0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(px.max(axis=0) + margin) + 1, size[::-1]).astype(int)
    return (*low, *high) if (high > low).all() else None
