"""Light from everywhere: a drawn environment of walls, windows and lamps, as irradiance in spherical harmonics.

Irradiance is kept to order 2, nine coefficients per colour, which is within 1 % of the truth for any distant light
(Ramamoorthi and Hanrahan 2001, An Efficient Representation for Irradiance Environment Maps). What is brightest is a key
light of its own, since harmonics of order 2 cast no shadow.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from hand_unc_ros.data.synthetic.rasteriser import Light, Mesh
from hand_unc_ros.data.synthetic.shadows import irradiance
from hand_unc_ros.geometry.vectors import cross, unit

_ROWS, _COLUMNS = 16, 32
# Lights that stand for all surroundings where a mesh hides some of them.
_DIRECTIONS = 14
_SHADOW_REACH = 0.04
# Convolution of radiance with the cosine lobe, by order.
_COSINE = np.array([np.pi] + [2 * np.pi / 3] * 3 + [np.pi / 4] * 5)


class Environment(NamedTuple):
    """irradiance: (9, 3) float32, of surfaces of albedo 1 divided by π, linear RGB; order Y00, Y1-1 (y), Y10 (z), Y11
    (x), Y2-2 (xy), Y2-1 (yz), Y20, Y21 (xz), Y22.  direction: (3,) unit, towards the key light.  colour: (3,) its
    irradiance divided by π.  size: half the angle that it spans, rad.  up: (3,) unit. All in the world frame."""

    irradiance: np.ndarray
    direction: np.ndarray
    colour: np.ndarray
    size: float
    up: np.ndarray

    def light(self) -> Light:
        """The key light with the irradiance from above and below alone, as a hemisphere ambient."""
        sky, ground = np.clip(shade(self.irradiance, np.stack([self.up, -self.up])), 0.0, None)
        # A shadow is cast over a hand's breadth.
        return Light(self.direction, self.colour, sky, np.clip(ground, 0.01, None), self.up,
                     float(_SHADOW_REACH * np.tan(self.size)))

    def ambient(self, mesh: Mesh) -> np.ndarray:
        """(N, 3) float32 of the vertices of a mesh, for `render`: less where the mesh hides its surroundings, but for
        the light that skin casts on skin (Jimenez et al., Practical Realtime Strategies for Accurate Indirect
        Occlusion, 2016)."""
        directions = _sphere(_DIRECTIONS)
        seen = irradiance(mesh[:3], directions, np.ones_like(directions))[:, :1]
        around = np.clip(shade(self.irradiance, mesh.normals), 0.01, None)
        return (around * seen / (1 - np.clip(mesh.albedo, 0, 0.9) * (1 - np.clip(seen, 0, 1)))).astype(np.float32)


def draw_environment(rng: np.random.Generator) -> Environment:
    """A room about a hand: ceiling, floor and four walls of different brightness, one to three windows or lamps of
    different size and colour. The strongest is the key light; the others join the irradiance."""
    up = unit(rng.normal(size=3))
    axes = _axes(rng, up)
    directions, weights = _grid()
    radiance = _room_radiance(rng, directions)
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.45, 0.2]))
    lights = [_draw_source(rng) for _ in range(count)]
    key = max(range(count), key=lambda k: lights[k][2].sum())
    for place, (direction, size, colour) in enumerate(lights):
        if place != key:
            inside = np.maximum(directions @ direction - np.cos(size), 0) > 0
            inside = inside if inside.any() else directions @ direction >= (directions @ direction).max()
            radiance = radiance + inside[:, None] * np.pi * colour / weights[inside].sum()
    direction, size, colour = lights[key]
    return Environment(_project(directions @ axes.T, weights, radiance), axes @ direction, colour, size, up)


def environment_of_panorama(rng: np.random.Generator, panorama: np.ndarray) -> Environment:
    """The light of an equirectangular linear image (H, 2H, 3), turned about the vertical of a random up direction. The
    key light is what surpasses eight times the mean."""
    up = unit(rng.normal(size=3))
    axes = _axes(rng, up)
    directions, weights = _grid()
    radiance = cv2.resize(np.asarray(panorama, np.float32), (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)
    radiance = radiance.reshape(-1, 3) * (np.exp(rng.normal(np.log(0.45), 0.35)) / max(float(radiance.mean()), 1e-6))
    luma = radiance.mean(axis=1)
    limit = 8 * (luma @ weights) / weights.sum()
    over = np.maximum(luma - limit, 0) / np.maximum(luma, 1e-9)
    taken = radiance * over[:, None]
    colour = weights @ taken / np.pi
    brightest = directions[(luma * weights).argmax()]
    direction = unit((weights * taken.sum(axis=1)) @ directions) if colour.sum() > 1e-3 else brightest
    return Environment(_project(directions @ axes.T, weights, radiance - taken), axes @ direction,
                       np.clip(colour, 0, 2.0), float(rng.uniform(0.03, 0.25)), up)


def shade(irradiance: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(N, 3) light that a white surface gives off, by coefficients (9, 3) and unit normals (N, 3)."""
    return _harmonics(normals) @ irradiance


def _draw_source(rng: np.random.Generator) -> tuple[np.ndarray, float, np.ndarray]:
    """Direction (3,), half angle (rad) and irradiance / π (3,) of a window, a lamp or a ceiling light; z is up."""
    kind = rng.choice(3, p=[0.45, 0.25, 0.3])
    azimuth = rng.uniform(0, 2 * np.pi)
    rise = [rng.uniform(-0.1, 0.7), rng.uniform(-0.2, 1.0), rng.uniform(0.7, 1.5)][kind]
    size = [rng.uniform(0.15, 0.5), rng.uniform(0.03, 0.15), rng.uniform(0.08, 0.3)][kind]
    tint = [np.array([0.88, 0.97, 1.12]), np.array([1.25, 0.97, 0.68]), np.array([1.05, 1.0, 0.92])][kind]
    direction = np.array([np.cos(rise) * np.cos(azimuth), np.cos(rise) * np.sin(azimuth), np.sin(rise)])
    return direction, float(size), np.exp(rng.normal(np.log(0.55), 0.5)) * tint * np.exp(rng.normal(0, 0.05, 3))


def _room_radiance(rng: np.random.Generator, directions: np.ndarray) -> np.ndarray:
    """(N, 3) of the six sides of a room and of a body, by direction."""
    level = np.exp(rng.normal(np.log(0.32), 0.45))
    paint = np.exp(rng.normal(0, [0.06, 0.04, 0.08], (6, 3)) + rng.normal(0, 0.35, (6, 1)))
    paint[4] *= rng.uniform(1.0, 1.8)  # the ceiling
    paint[5] *= rng.uniform(0.25, 0.9) * np.array([1.08, 1.0, 0.88])  # floor or desk
    sides = np.concatenate([np.eye(3), -np.eye(3)])[[0, 1, 3, 4, 2, 5]]
    # Soft corners: radiance changes along a wall as well.
    share = np.exp(4 * directions @ sides.T)
    radiance = level * (share / share.sum(axis=1, keepdims=True)) @ paint
    # The person whose hand it is covers a side, dark or bright with clothes.
    towards = unit(np.append(rng.normal(size=2), -0.3))
    body = np.clip((directions @ towards - 0.5) / 0.2, 0, 1)[:, None]
    clothes = level * np.exp(rng.normal(np.log(0.35), 0.7)) * np.exp(rng.normal(0, 0.15, 3))
    return radiance + body * (clothes - radiance)


@lru_cache(maxsize=1)
def _sphere(count: int) -> np.ndarray:
    """(count, 3) directions spread evenly, by Fibonacci's spiral."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    return np.column_stack([np.sqrt(1 - z * z) * np.cos(angle), np.sqrt(1 - z * z) * np.sin(angle), z])


@lru_cache(maxsize=1)
def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Directions (N, 3), row by row from the zenith, and solid angles (N,) of an equirectangular grid; z is up."""
    edges = np.linspace(np.pi / 2, -np.pi / 2, _ROWS + 1)
    latitude = np.repeat((edges[1:] + edges[:-1]) / 2, _COLUMNS)
    longitude = np.tile((np.arange(_COLUMNS) + 0.5) / _COLUMNS * 2 * np.pi, _ROWS)
    directions = np.column_stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude),
                                  np.sin(latitude)])
    return directions, np.repeat(np.sin(edges[:-1]) - np.sin(edges[1:]), _COLUMNS) * 2 * np.pi / _COLUMNS


def _project(directions: np.ndarray, weights: np.ndarray, radiance: np.ndarray) -> np.ndarray:
    """Irradiance / π (9, 3) of radiance (N, 3)."""
    coefficients = (_harmonics(directions) * weights[:, None]).T @ radiance
    return (coefficients * _COSINE[:, None] / np.pi).astype(np.float32)


def _harmonics(directions: np.ndarray) -> np.ndarray:
    x, y, z = np.asarray(directions, np.float64).T
    return np.column_stack([np.full_like(x, 0.282095), 0.488603 * y, 0.488603 * z, 0.488603 * x, 1.092548 * x * y,
                            1.092548 * y * z, 0.315392 * (3 * z * z - 1), 1.092548 * x * z,
                            0.546274 * (x * x - y * y)])


def _axes(rng: np.random.Generator, up: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) that takes z to `up`, turned about it at random."""
    side = unit(cross(up, unit(rng.normal(size=3))))
    return np.stack([side, cross(up, side), up], axis=1)
