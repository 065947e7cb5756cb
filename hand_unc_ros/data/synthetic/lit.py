"""Surfaces in the light of their surroundings: what all cameras of a lifelike scene share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic import imaging
from hand_unc_ros.data.synthetic.environment import Environment
from hand_unc_ros.data.synthetic.rasteriser import Mesh, Mottling, Projection, draw, merge
from hand_unc_ros.data.synthetic.shading import Prepared, prepare

SHADOW_SIZE = 96


class Surface(NamedTuple):
    """How surfaces are shaded. skins: as for `render`; None for plain surfaces in a hemisphere's light."""

    environment: Environment
    mottling: Mottling
    skins: np.ndarray | None

    def lit(self, meshes: list[Mesh]) -> Lit | None:
        """The surfaces together in their light; None without any."""
        if not meshes:
            return None
        mesh = merge(meshes)
        ambient = None if self.skins is None else self.environment.ambient(mesh)
        return Lit(mesh.vertices,
                   prepare(mesh, self.environment.light(), self.mottling, SHADOW_SIZE, self.skins, ambient))


class Lit(NamedTuple):
    """Surfaces in their light. vertices: (N, 3) metres, world."""

    vertices: np.ndarray
    prepared: Prepared

    def draw(self, projection: Projection, image: np.ndarray, fineness: float) -> None:
        """Draws the surfaces over an image (H, W, 3), linear light, in place. fineness: points to a side of a pixel,
        1 or more."""
        drawn = draw(self.prepared, projection, image.shape[:2], fineness)
        if drawn is not None:
            imaging.lay_over(image[drawn[1]], drawn[0])
