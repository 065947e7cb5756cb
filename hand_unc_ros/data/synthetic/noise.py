"""Smooth noise in space, periodic, as the texture of surfaces."""

from __future__ import annotations

import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit

NOISE_CELLS = 32


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def noise_at_point(lattice, x, y, z):
    """Trilinear value noise in [-1, 1], period NOISE_CELLS."""
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    tx, ty, tz = x - fx, y - fy, z - fz
    mask = NOISE_CELLS - 1
    ix, iy, iz = np.int32(fx) & mask, np.int32(fy) & mask, np.int32(fz) & mask
    jx, jy, jz = (ix + 1) & mask, (iy + 1) & mask, (iz + 1) & mask
    a, b = lattice[ix, iy, iz], lattice[ix, jy, iz]
    c, d = lattice[ix, iy, jz], lattice[ix, jy, jz]
    a += tx * (lattice[jx, iy, iz] - a)
    b += tx * (lattice[jx, jy, iz] - b)
    c += tx * (lattice[jx, iy, jz] - c)
    d += tx * (lattice[jx, jy, jz] - d)
    a += ty * (b - a)
    c += ty * (d - c)
    return a + tz * (c - a)


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _noise_at(lattice, places, scale):
    values = np.empty(places.shape[:2], np.float32)
    for v in range(places.shape[0]):
        for u in range(places.shape[1]):
            x, y, z = places[v, u, 0], places[v, u, 1], places[v, u, 2]
            values[v, u] = noise_at_point(lattice, x * scale, y * scale, z * scale)
    return values


def noise(lattice: np.ndarray, places: np.ndarray, scale: float) -> np.ndarray:
    """(T, T) float32 in [-1, 1], smooth noise of `scale` cells per metre at places (T, T, 3)."""
    # Away from the planes of the lattice, which a symmetric hand would show as seams.
    return _noise_at(lattice, np.ascontiguousarray(places + 0.37, np.float32), np.float32(scale))


def noise_lattice(rng: np.random.Generator) -> np.ndarray:
    """(32, 32, 32) values in [-1, 1] for the procedural mottling of surfaces."""
    return rng.uniform(-1, 1, (NOISE_CELLS,) * 3).astype(np.float32)
