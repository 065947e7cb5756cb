"""What surfaces, lights and backgrounds look like; all drawn from a generator, none from photographs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hand_unc_ros.data.synthetic.rasteriser import Light
from hand_unc_ros.data.synthetic.worn import Worn
from hand_unc_ros.geometry.vectors import unit

# Linear-light skin reflectances between which a tone is interpolated (light to dark).
SKIN_TONES = np.array([[0.82, 0.56, 0.44], [0.70, 0.44, 0.31], [0.52, 0.30, 0.19], [0.32, 0.17, 0.10],
                       [0.15, 0.08, 0.05]])
PALM_TINT = np.array([0.62, 0.36, 0.29])
NAIL_TINT = np.array([0.78, 0.50, 0.44])


@dataclass(frozen=True)
class SkinMap:
    """Where a hand mesh is palm and where nail, per vertex in [0, 1]; made once from the rest mesh."""

    palm: np.ndarray
    nail: np.ndarray


@dataclass(frozen=True)
class Appearance:
    """albedo: (N, 3) linear RGB.  gloss: scalar.  sleeve: forearm colour (3,), or None for bare skin.  mottle: gain of
    the noise on surfaces without a skin.  skin: (T, T, SKIN_CHANNELS), see `skin.py`, or None.  worn: over all that."""

    albedo: np.ndarray
    gloss: float
    sleeve: np.ndarray | None
    mottle: float
    skin: np.ndarray | None = None
    worn: Worn = Worn()


def draw_appearance(rng: np.random.Generator, skin: SkinMap) -> Appearance:
    """A skin tone from light to dark, a lighter palm, nails; now and then a coloured glove."""
    if rng.random() < 0.04:
        glove = rng.uniform(0.02, 0.7, 3)
        albedo = np.broadcast_to(glove, (len(skin.palm), 3)).copy()
        return Appearance(albedo.astype(np.float32), rng.uniform(0, 0.6), None, rng.uniform(0.02, 0.1))
    position = rng.uniform(0, len(SKIN_TONES) - 1)
    low = int(min(position, len(SKIN_TONES) - 2))
    tone = SKIN_TONES[low] + (position - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])
    tone = tone * np.exp(rng.normal(0, [0.08, 0.10, 0.14]))
    # The palm carries less pigment than the back, and darker hands show it more.
    palm = tone + rng.uniform(0.15, 0.6) * (PALM_TINT * (0.5 + 0.6 * tone[0]) - tone)
    albedo = tone + skin.palm[:, None] * (palm - tone)
    nail = 0.5 * tone + 0.5 * NAIL_TINT * rng.uniform(0.8, 1.2) * (0.4 + 0.8 * tone[0])
    albedo = albedo + 0.8 * skin.nail[:, None] * (nail - albedo)
    sleeve = rng.uniform(0.01, 0.7, 3) if rng.random() < 0.6 else None
    return Appearance(np.clip(albedo, 0.01, 0.95).astype(np.float32), rng.uniform(0.0, 0.7), sleeve,
                      rng.uniform(0.05, 0.22))


def draw_light(rng: np.random.Generator) -> Light:
    """A key light from anywhere above the horizon of a random up direction, and an ambient."""
    up = unit(rng.normal(size=3))
    direction = unit(rng.normal(size=3) + up)
    warmth = rng.normal(0, 0.12)
    white = np.array([1 + warmth, 1.0, 1 - warmth])
    key = rng.uniform(0.35, 1.5) * white
    ambient = rng.uniform(0.15, 0.7)
    sky = ambient * np.array([1 - 0.5 * warmth, 1.0, 1 + 0.5 * warmth])
    ground = ambient * rng.uniform(0.2, 0.9) * (1 + rng.normal(0, 0.1, 3))
    return Light(direction, key, sky, np.clip(ground, 0.02, None), up)


def draw_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 sRGB: gradients, cloudy noise, a clutter of shapes and lines, defocus."""
    corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32)
    corners = corners.mean(axis=2, keepdims=True) + rng.uniform(0.1, 1.0) * (
        corners - corners.mean(axis=2, keepdims=True))
    image = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    strength = rng.uniform(5, 60)
    cells = 3
    while cells < min(height, width) // 2:
        colour = rng.uniform(0, 1)
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        noise = colour * noise + (1 - colour) * noise[..., :1]
        image += strength * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        strength *= rng.uniform(0.4, 0.9)
        cells *= 3
    for _ in range(rng.integers(0, 28)):
        _draw_shape(rng, image)
    blur = rng.choice([0.0, 1.0, 2.5, 6.0])
    if blur:
        image = cv2.GaussianBlur(image, (0, 0), blur * min(height, width) / 480)
    return np.clip(image, 0, 255).astype(np.uint8)


def _draw_shape(rng: np.random.Generator, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    centre = rng.uniform(0, [width, height])
    reach = min(height, width) * rng.uniform(0.02, 0.35)
    if rng.random() < 0.3:  # the colour of skin, so that colour alone does not make a hand
        tone = SKIN_TONES[rng.integers(len(SKIN_TONES))] * rng.uniform(0.4, 1.2)
        colour = tuple(float(c) for c in 255 * np.sqrt(np.clip(tone, 0, 1)))
    else:
        colour = tuple(float(c) for c in rng.uniform(0, 255, 3))
    kind = rng.integers(4)
    if kind == 0:
        end = centre + rng.normal(0, 2 * reach, 2)
        cv2.line(image, _pixel(centre), _pixel(end), colour, int(rng.integers(1, max(2, int(reach / 5) + 2))),
                 cv2.LINE_AA)
    elif kind == 1:
        axes = (int(reach * rng.uniform(0.2, 1)) + 1, int(reach * rng.uniform(0.2, 1)) + 1)
        cv2.ellipse(image, _pixel(centre), axes, float(rng.uniform(0, 360)), 0, 360, colour, -1, cv2.LINE_AA)
    else:
        count = 4 if kind == 2 else int(rng.integers(3, 8))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        corners = centre + reach * rng.uniform(0.4, 1.0, (count, 1)) * np.stack(
            [np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def background_patch(rng: np.random.Generator, stores: list[np.ndarray], size: int) -> np.ndarray:
    """(size, size, 3) float32, out of one of the square `stores`: any part of it, mirrored, turned, recoloured,
    brighter or darker, so that a few stores give many backgrounds."""
    store = stores[rng.integers(len(stores))]
    side = int(rng.uniform(0.15, 1.0) * len(store))
    top, left = rng.integers(0, len(store) - side + 1, 2)
    patch = store[top:top + side, left:left + side]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    if rng.random() < 0.5:
        patch = patch.transpose(1, 0, 2)
    image = cv2.resize(patch[..., rng.permutation(3)], (size, size), interpolation=cv2.INTER_LINEAR)
    return image.astype(np.float32) * rng.uniform(0.4, 1.3)
