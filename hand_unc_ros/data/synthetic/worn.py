"""What hands wear: sleeves, watches and bracelets, rings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic import shapes
from hand_unc_ros.data.synthetic.rasteriser import Mesh
from hand_unc_ros.geometry.vectors import cross
from hand_unc_ros.hand.joints import FINGERS

# Rings are worn on these, one joint past the knuckle.
RING_FINGERS = tuple(1 + 4 * FINGERS.index(name) for name in ('index', 'middle', 'ring', 'little'))


class Sleeve(NamedTuple):
    """begin: share of the forearm's length where it begins.  loose: its radius over the arm's.  folds: depth of folds,
    share of the radius.  phase: (3,) of the folds, rad.  albedo: (3,)."""

    begin: float
    loose: float
    folds: float
    phase: np.ndarray
    albedo: np.ndarray


class Band(NamedTuple):
    """A watch or a bracelet. begin: metres past the wrist.  width: metres.  albedo: (3,).  gloss: in [0, 1].
    dial: radius of the watch, metres, 0 for none.  dial_albedo: (3,)."""

    begin: float
    width: float
    albedo: np.ndarray
    gloss: float
    dial: float
    dial_albedo: np.ndarray


class Ring(NamedTuple):
    """joint: public index of the knuckle of its finger.  share: where along the phalanx.  thickness: metres."""

    joint: int
    share: float
    thickness: float
    albedo: np.ndarray


class Worn(NamedTuple):
    """What one hand wears; None or nothing for what it does not."""

    sleeve: Sleeve | None = None
    band: Band | None = None
    rings: tuple[Ring, ...] = ()


def draw_worn(rng: np.random.Generator) -> Worn:
    """Half of the hands in sleeves, a sixth with something about the wrist, a fifth with rings."""
    def colour() -> np.ndarray:
        grey = rng.uniform(0.01, 0.75)
        return np.clip(grey * np.exp(rng.normal(0, 0.5 * (rng.random() < 0.6), 3)), 0.01, 0.85)

    sleeve = band = None
    if rng.random() < 0.5:
        sleeve = Sleeve(rng.uniform(0.0, 0.7), rng.uniform(1.06, 1.4), rng.uniform(0.0, 0.09),
                        rng.uniform(0, 2 * np.pi, 3), colour())
    if rng.random() < 1 / 6:
        metal = rng.random() < 0.4
        band = Band(rng.uniform(0.004, 0.03), rng.uniform(0.004, 0.022), _metal(rng) if metal else colour(),
                    rng.uniform(0.5, 1.0) if metal else rng.uniform(0.0, 0.5),
                    rng.uniform(0.013, 0.02) if rng.random() < 0.6 else 0.0, colour())
    rings = tuple(Ring(int(joint), rng.uniform(0.25, 0.6), rng.uniform(0.0007, 0.0016), _metal(rng))
                  for joint in rng.choice(RING_FINGERS, rng.integers(1, 3), replace=False)) if rng.random() < 0.2 else ()
    return Worn(sleeve, band, rings)


def _metal(rng: np.random.Generator) -> np.ndarray:
    return np.array([[0.75, 0.72, 0.68], [0.72, 0.50, 0.18], [0.70, 0.42, 0.32]])[rng.integers(3)]


def sleeve(worn: Sleeve, tube: np.ndarray, columns: int) -> Mesh:
    """tube: (R · columns, 3) metres, the rings of vertices of a forearm from the wrist on."""
    rings = tube.reshape(-1, columns, 3)
    places = np.linspace(worn.begin * (len(rings) - 1), len(rings) - 1, 12)
    low = np.minimum(places.astype(int), len(rings) - 2)
    share = (places - low)[:, None, None]
    cloth = rings[low] * (1 - share) + rings[low + 1] * share
    centre = cloth.mean(axis=1, keepdims=True)
    along, around = np.meshgrid(places, 2 * np.pi * np.arange(columns) / columns, indexing='ij')
    waves = np.sin(2.6 * along + worn.phase[0] + np.sin(around + worn.phase[1])) + np.sin(
        1.1 * along - 2 * around + worn.phase[2])
    cloth = centre + (cloth - centre) * (worn.loose * (1 + worn.folds * waves))[..., None]
    return shapes.surface(cloth.reshape(-1, 3), shapes.grid_faces(len(places), columns), worn.albedo, 0.0)


def band(worn: Band, tube: np.ndarray, columns: int, back: int) -> list[Mesh]:
    """tube: as for `sleeve`.  back: column on the back of the hand."""
    first, second = tube.reshape(-1, columns, 3)[:2]
    length = np.linalg.norm(second.mean(axis=0) - first.mean(axis=0))
    section = []
    for metres, grown in ((worn.begin, 1.0), (worn.begin, 1.045), (worn.begin + worn.width, 1.045),
                          (worn.begin + worn.width, 1.0)):
        loop = first + metres / length * (second - first)
        section.append(loop.mean(axis=0) + grown * (loop - loop.mean(axis=0)))
    strap = shapes.surface(np.concatenate(section), shapes.grid_faces(4, columns), worn.albedo, worn.gloss)
    if not worn.dial:
        return [strap]
    middle = (section[1] + section[2]) / 2
    up = middle[back] - middle.mean(axis=0)
    up = up / np.linalg.norm(up)
    side = cross(up, second.mean(axis=0) - first.mean(axis=0))
    side = side / np.linalg.norm(side)
    case, faces = shapes.cylinder(worn.dial, 0.004)
    turned = case @ np.stack([side, cross(up, side), up])
    return [strap, shapes.surface(turned + middle[back], faces, worn.dial_albedo, 0.9)]


def ring(worn: Ring, joints: np.ndarray, vertices: np.ndarray, finger: np.ndarray) -> Mesh:
    """joints: (21, 3), vertices: (N, 3) metres.  finger: (N,) bool, the vertices of its finger."""
    begin, end = joints[worn.joint], joints[worn.joint + 1]
    axis = (end - begin) / np.linalg.norm(end - begin)
    middle = begin + worn.share * (end - begin)
    offset = vertices[finger] - middle
    along = offset @ axis
    radial = (offset - along[:, None] * axis)[np.abs(along) < 0.005]
    centre = middle + (radial.mean(axis=0) if len(radial) else 0)
    radius = np.linalg.norm(radial - radial.mean(axis=0), axis=1).mean() if len(radial) else 0.009
    side = cross(axis, [1.0, 0.0, 0.0] if abs(axis[0]) < 0.9 else [0.0, 1.0, 0.0])
    side = side / np.linalg.norm(side)
    other = cross(axis, side)
    around, section = np.meshgrid(2 * np.pi * np.arange(20) / 20, np.linspace(0, 2 * np.pi, 9), indexing='xy')
    reach = radius + worn.thickness * (0.6 + np.cos(section))
    places = (centre + reach[..., None] * (np.cos(around)[..., None] * side + np.sin(around)[..., None] * other)
              + 1.6 * worn.thickness * np.sin(section)[..., None] * axis)
    return shapes.surface(places.reshape(-1, 3), shapes.grid_faces(9, 20), worn.albedo, 0.95)
