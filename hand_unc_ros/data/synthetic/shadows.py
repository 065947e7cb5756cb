"""What a distant light meets first: shadow maps, and the light that comes from all around."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.geometry.vectors import cross, unit


# Where a light meets nothing.
NOTHING = np.float32(-1e9)


class Shadows(NamedTuple):
    """A map from the light. px: (N, 2) metres, vertices across the light.  depth: (N,) metres, towards the light.
    nearest: (S, S) depth of what the light meets first.  origin: (2,) metres of cell 0, 0.  cell: metres."""

    px: np.ndarray
    depth: np.ndarray
    nearest: np.ndarray
    origin: np.ndarray
    cell: np.float32


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _in_shadow(nearest, lu, lv, depth):
    """Share of the four cells about (lu, lv) whose nearest surface is nearer to the light than `depth`."""
    size = nearest.shape[0]
    shadow = 0.0
    for dv in range(2):
        for du in range(2):
            iu, iv = int(lu) + du, int(lv) + dv
            if 0 <= iu < size and 0 <= iv < size and nearest[iv, iu] > depth:
                weight = ((lu - int(lu)) if du else 1 - (lu - int(lu))) * \
                    ((lv - int(lv)) if dv else 1 - (lv - int(lv)))
                shadow += weight
    return shadow


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _shadow_map(light_px, light_depth, faces, origin, cell, buffer):
    size = buffer.shape[0]
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        x0, y0 = (light_px[a, 0] - origin[0]) / cell, (light_px[a, 1] - origin[1]) / cell
        x1, y1 = (light_px[b, 0] - origin[0]) / cell, (light_px[b, 1] - origin[1]) / cell
        x2, y2 = (light_px[c, 0] - origin[0]) / cell, (light_px[c, 1] - origin[1]) / cell
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-9:
            continue
        inverse = 1.0 / area
        u0, u1 = max(0, int(np.ceil(min(x0, x1, x2)))), min(size - 1, int(max(x0, x1, x2)))
        v0, v1 = max(0, int(np.ceil(min(y0, y1, y2)))), min(size - 1, int(max(y0, y1, y2)))
        for v in range(v0, v1 + 1):
            for u in range(u0, u1 + 1):
                w0 = ((x1 - u) * (y2 - v) - (x2 - u) * (y1 - v)) * inverse
                w1 = ((x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)) * inverse
                w2 = 1.0 - w0 - w1
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                towards = w0 * light_depth[a] + w1 * light_depth[b] + w2 * light_depth[c]
                if towards > buffer[v, u]:
                    buffer[v, u] = towards


@lru_cache(maxsize=64)
def _basis(direction: tuple[float, float, float]) -> np.ndarray:
    """(3, 3) float32 with two axes across a light and the direction towards it as columns."""
    forward = np.array(direction)
    side = unit(cross(forward, np.array([0.0, 0.0, 1.0] if abs(forward[2]) < 0.9 else [1.0, 0.0, 0.0])))
    return np.stack([side, cross(forward, side), forward], axis=1).astype(np.float32)


def cast_shadows(vertices: np.ndarray, faces: np.ndarray, direction: np.ndarray, size: int) -> Shadows:
    """What a distant light in `direction` meets first."""
    return _cast(vertices, faces, _basis(tuple(map(float, direction))), np.empty((size, size), np.float32))


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _cast(vertices, faces, basis, nearest):
    count = vertices.shape[0]
    light_px, light_depth = np.empty((count, 2), np.float32), np.empty(count, np.float32)
    low, high = np.full(2, np.inf, np.float32), np.full(2, -np.inf, np.float32)
    for n in range(count):
        x, y, z = vertices[n, 0], vertices[n, 1], vertices[n, 2]
        for k in range(2):
            light_px[n, k] = x * basis[0, k] + y * basis[1, k] + z * basis[2, k]
            low[k], high[k] = min(low[k], light_px[n, k]), max(high[k], light_px[n, k])
        light_depth[n] = x * basis[0, 2] + y * basis[1, 2] + z * basis[2, 2]
    cell = max(high[0] - low[0], high[1] - low[1]) / np.float32(nearest.shape[0] - 1) + np.float32(1e-9)
    nearest[:] = NOTHING
    _shadow_map(light_px, light_depth, faces, low, cell, nearest)
    return Shadows(light_px, light_depth, nearest, low, cell)


def irradiance(surface: tuple[np.ndarray, np.ndarray, np.ndarray], directions: np.ndarray, radiance: np.ndarray,
               size: int = 64) -> np.ndarray:
    """(N, 3) float32 irradiance of vertices over π, by distant lights all around, with the shadows of the surface.

    surface: vertices (N, 3), normals (N, 3) and faces (F, 3) of a mesh, as its first fields.
    directions: (D, 3) unit, spread evenly over the sphere.  radiance: (D, 3) linear RGB.  size: cells along a side of
    the shadow maps.
    """
    vertices, normals, faces = surface
    total = np.zeros((len(vertices), 3), np.float32)
    _add_lights(vertices, normals, faces, np.stack([_basis(tuple(direction)) for direction in directions.tolist()]),
                (4 / len(directions) * radiance).astype(np.float32), np.empty((size, size), np.float32), total)
    return total


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _add_lights(vertices, normals, faces, bases, colours, nearest, total):
    for light in range(bases.shape[0]):
        basis = bases[light]
        shadows = _cast(vertices, faces, basis, nearest)
        bias = np.float32(0.004) + np.float32(1.5) * shadows.cell
        for n in range(total.shape[0]):
            facing = normals[n, 0] * basis[0, 2] + normals[n, 1] * basis[1, 2] + normals[n, 2] * basis[2, 2]
            if facing > 0:
                lit = np.float32(1) - _in_shadow(nearest, (shadows.px[n, 0] - shadows.origin[0]) / shadows.cell,
                                                 (shadows.px[n, 1] - shadows.origin[1]) / shadows.cell,
                                                 shadows.depth[n] + bias)
                for k in range(3):
                    total[n, k] += facing * lit * colours[light, k]
