"""How far points lie outside of a surface near to them, by its vertices and their normals in the cells of a grid."""

from __future__ import annotations

import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.rasteriser import vertex_normals

# Nearest vertices farther than this say nothing of a depth.
NEAR_M = 0.014


class NearSurface:
    """vertices: (V, 3) metres.  faces: (F, 3) of them, outward."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        normals = vertex_normals(vertices.astype(np.float32), faces)
        self._low = vertices.min(axis=0)
        cells = ((vertices - self._low) / NEAR_M).astype(np.int64)
        self._shape = cells.max(axis=0) + 1
        number = (cells[:, 0] * self._shape[1] + cells[:, 1]) * self._shape[2] + cells[:, 2]
        order = np.argsort(number, kind='stable')
        self._starts = np.searchsorted(number[order], np.arange(self._shape.prod() + 1))
        self._points = np.hstack([vertices, normals])[order]

    def away(self, points: np.ndarray) -> np.ndarray:
        """(N,) signed distance in metres along the nearest vertex's normal, inf where none is near."""
        return _away(np.ascontiguousarray(points), self._points, self._starts, self._low, self._shape)


@njit(cache=True, nogil=True, error_model='numpy')
def _away(points, surface, starts, low, shape):
    """surface: (V, 6) vertices and normals by cells of a grid of `shape` (3,) from `low` (3,), `starts` where each
    cell's begin."""
    away = np.full(len(points), np.inf)
    first, last = np.empty(3, np.int64), np.empty(3, np.int64)
    for n in range(len(points)):
        for i in range(3):
            # Before the conversion, since those may be far off.
            place = min(max((points[n, i] - low[i]) / NEAR_M, -2.0), shape[i] + 1.0)
            cell = int(np.floor(place))
            first[i], last[i] = max(cell - 1, 0), min(cell + 1, shape[i] - 1)
        if first[2] > last[2]:
            continue
        x, y, z = points[n]
        least, nearest = NEAR_M * NEAR_M, -1
        for i in range(first[0], last[0] + 1):
            for j in range(first[1], last[1] + 1):
                row = (i * shape[1] + j) * shape[2]
                for at in range(starts[row + first[2]], starts[row + last[2] + 1]):
                    dx, dy, dz = x - surface[at, 0], y - surface[at, 1], z - surface[at, 2]
                    square = dx * dx + dy * dy + dz * dz
                    if square < least:
                        least, nearest = square, at
        if nearest >= 0:
            away[n] = ((x - surface[nearest, 0]) * surface[nearest, 3] + (y - surface[nearest, 1]) * surface[nearest, 4]
                       + (z - surface[nearest, 2]) * surface[nearest, 5])
    return away
