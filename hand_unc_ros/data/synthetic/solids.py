"""Everyday things in a hand: their mesh, and how far points are from their surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic import shapes
from hand_unc_ros.data.synthetic.rasteriser import Mesh, merge


class Solid(NamedTuple):
    """A thing about its own origin; z is its long axis.

    kind: 'bottle', 'box', 'ball', 'mug', 'pen', 'card'.  half: (3,) half-axes in metres (of a mug without its handle).
    distance: of points (..., 3) in its frame to its surface, metres, negative inside.
    """

    kind: str
    half: np.ndarray
    distance: Callable[[np.ndarray], np.ndarray]
    mesh: Mesh


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
    return Solid(kind, np.array([radius, radius, half_length]), lambda p: _to_cylinder(p, radius, half_length), mesh)


def _mug(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    """A closed cylinder with a ring for a handle, at +x."""
    radius, half_length = rng.uniform(0.032, 0.04), rng.uniform(0.042, 0.052)
    loop, tube = rng.uniform(0.019, 0.026), rng.uniform(0.0035, 0.005)
    vertices, faces = shapes.ring(loop, tube)
    body = shapes.surface(*shapes.cylinder(radius, half_length, 32), albedo, gloss)
    handle = shapes.surface(vertices + [radius, 0, 0], faces, albedo, gloss)

    def distance(points: np.ndarray) -> np.ndarray:
        out = points - [radius, 0, 0]
        around = np.hypot(np.hypot(out[..., 0], out[..., 2]) - loop, out[..., 1]) - tube
        return np.minimum(_to_cylinder(points, radius, half_length), around)

    return Solid('mug', np.array([radius, radius, half_length]), distance, merge([body, handle]))


def _ball(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    radius = rng.uniform(0.012, 0.038)
    mesh = shapes.surface(*shapes.superellipsoid(np.full(3, radius), 1.0, 17, 28), albedo, gloss)
    return Solid('ball', np.full(3, radius), lambda p: np.sqrt((p * p).sum(axis=-1)) - radius, mesh)


def _box(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    half = np.sort(rng.uniform([0.008, 0.015, 0.03], [0.022, 0.035, 0.09]))
    return _cuboid('box', half, albedo, gloss)


def _card(rng: np.random.Generator, albedo: np.ndarray, gloss: float) -> Solid:
    """Cards, books, phones, boards, plates."""
    half = np.array([rng.uniform(0.0006, 0.006), *np.sort(rng.uniform(0.025, 0.12, 2))])
    return _cuboid('card', half, albedo, gloss)


def _cuboid(kind: str, half: np.ndarray, albedo: np.ndarray, gloss: float) -> Solid:
    def distance(points: np.ndarray) -> np.ndarray:
        out = np.abs(points) - half
        outside = np.maximum(out, 0)
        return np.minimum(out.max(axis=-1), 0) + np.sqrt((outside * outside).sum(axis=-1))

    return Solid(kind, half, distance, shapes.surface(*shapes.box(half), albedo, gloss))


def _to_cylinder(points: np.ndarray, radius: float, half_length: float) -> np.ndarray:
    side = np.hypot(points[..., 0], points[..., 1]) - radius
    cap = np.abs(points[..., 2]) - half_length
    return np.minimum(np.maximum(side, cap), 0) + np.hypot(np.maximum(side, 0), np.maximum(cap, 0))


_KINDS = {'bottle': _bottle, 'box': _box, 'ball': _ball, 'mug': _mug, 'pen': _pen, 'card': _card}
KINDS = tuple(_KINDS)
