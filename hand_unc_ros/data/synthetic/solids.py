"""Everyday things in a hand: their mesh, and how far points are from their surface."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic import shapes
from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.rasteriser import HONEST_MATH, Mesh, merge

_CYLINDER, _MUG, _BALL, _CUBOID = range(4)


class Solid(NamedTuple):
    """A thing about its own origin; z is its long axis.

    kind: 'bottle', 'box', 'ball', 'mug', 'pen', 'card'.  half: (3,) half-axes in metres (of a mug without its handle).
    form: cylinder, mug, ball or cuboid.  handle: (2,) radii of a mug's ring and of its tube, metres.
    """

    kind: str
    half: np.ndarray
    mesh: Mesh
    form: int
    handle: np.ndarray = np.zeros(2)

    def distance(self, points: np.ndarray, rotation: np.ndarray = np.eye(3),
                 translation: np.ndarray = np.zeros(3)) -> np.ndarray:
        """Of points (..., 3) to the surface of the thing turned and moved so, metres, negative inside."""
        flat = np.ascontiguousarray(points, float).reshape(-1, 3)
        away = _distances(self.form, self.half, self.handle, flat, np.ascontiguousarray(rotation), translation)
        return away.reshape(points.shape[:-1])


def draw_solid(rng: np.random.Generator, kind: str) -> Solid:
    """A thing of a kind, of a size that a hand can hold, in any colour. Raises KeyError for an unknown kind."""
    albedo = rng.uniform(0.02, 0.8, 3) if rng.random() < 0.75 else np.full(3, rng.uniform(0.02, 0.8))
    return _KINDS[kind](rng, albedo, rng.uniform(0, 0.9))


def _bottle(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    """Bottles, cans, and handles and tubes as well."""
    return _cylinder('bottle', rng.uniform(0.013, 0.037), rng.uniform(0.05, 0.11), albedo, gloss)


def _pen(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    return _cylinder('pen', rng.uniform(0.004, 0.007), rng.uniform(0.06, 0.08), albedo, gloss)


def _cylinder(kind: str, radius: float, half_length: float, albedo: np.ndarray, gloss: float) -> Solid:
    mesh = shapes.surface(*shapes.cylinder(radius, half_length, 32), albedo, gloss)
    return Solid(kind, np.array([radius, radius, half_length]), mesh, _CYLINDER)


def _mug(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    """A closed cylinder with a ring for a handle, at +x."""
    radius, half_length = rng.uniform(0.032, 0.04), rng.uniform(0.042, 0.052)
    loop, tube = rng.uniform(0.019, 0.026), rng.uniform(0.0035, 0.005)
    vertices, faces = shapes.ring(loop, tube)
    body = shapes.surface(*shapes.cylinder(radius, half_length, 32), albedo, gloss)
    handle = shapes.surface(vertices + [radius, 0, 0], faces, albedo, gloss)
    return Solid('mug', np.array([radius, radius, half_length]), merge([body, handle]), _MUG, np.array([loop, tube]))


def _ball(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    radius = rng.uniform(0.012, 0.038)
    mesh = shapes.surface(*shapes.superellipsoid(np.full(3, radius), 1.0, 17, 28), albedo, gloss)
    return Solid('ball', np.full(3, radius), mesh, _BALL)


def _box(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    half = np.sort(rng.uniform([0.008, 0.015, 0.03], [0.022, 0.035, 0.09]))
    return _cuboid('box', half, albedo, gloss)


def _card(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    """Cards, books, phones, boards, plates."""
    half = np.array([rng.uniform(0.0006, 0.006), *np.sort(rng.uniform(0.025, 0.12, 2))])
    return _cuboid('card', half, albedo, gloss)


def _cuboid(kind: str, half: np.ndarray, albedo: np.ndarray, gloss: float) -> Solid:
    return Solid(kind, half, shapes.surface(*shapes.box(half), albedo, gloss), _CUBOID)


@njit(cache=True, nogil=True, error_model='numpy', fastmath=HONEST_MATH)
def _distances(form, half, handle, points, rotation, translation):
    away = np.empty(len(points))
    for n in range(len(points)):
        a, b, c = (points[n, 0] - translation[0], points[n, 1] - translation[1], points[n, 2] - translation[2])
        x = a * rotation[0, 0] + b * rotation[1, 0] + c * rotation[2, 0]
        y = a * rotation[0, 1] + b * rotation[1, 1] + c * rotation[2, 1]
        z = a * rotation[0, 2] + b * rotation[1, 2] + c * rotation[2, 2]
        if form == _BALL:
            away[n] = np.sqrt(x * x + y * y + z * z) - half[0]
        elif form == _CUBOID:
            u, v, w = abs(x) - half[0], abs(y) - half[1], abs(z) - half[2]
            s, t, r = max(u, 0.0), max(v, 0.0), max(w, 0.0)
            away[n] = min(max(u, v, w), 0.0) + np.sqrt(s * s + t * t + r * r)
        else:
            side, cap = np.sqrt(x * x + y * y) - half[0], abs(z) - half[2]
            s, t = max(side, 0.0), max(cap, 0.0)
            away[n] = min(max(side, cap), 0.0) + np.sqrt(s * s + t * t)
            if form == _MUG:
                out = np.sqrt((x - half[0]) * (x - half[0]) + z * z) - handle[0]
                away[n] = min(away[n], np.sqrt(out * out + y * y) - handle[1])
    return away


_KINDS = {'bottle': _bottle, 'box': _box, 'ball': _ball, 'mug': _mug, 'pen': _pen, 'card': _card}
KINDS = tuple(_KINDS)
