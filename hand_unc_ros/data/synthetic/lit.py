"""Surfaces in the light of their surroundings: what all cameras of a lifelike scene share."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from hand_unc_ros.data.synthetic.environment import Environment
from hand_unc_ros.data.synthetic.rasteriser import Mesh, Mottling, Projection, merge, render

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
        return Lit(mesh, self, None if self.skins is None else self.environment.ambient(mesh))


class Lit(NamedTuple):
    """A mesh, and the light that comes to its vertices from all around, as for `render`."""

    mesh: Mesh
    surface: Surface
    ambient: np.ndarray | None

    def photograph(self, projection: Projection, size: tuple[int, int],
                   fineness: float) -> tuple[np.ndarray, np.ndarray]:
        """Linear RGB (H, W, 3) and coverage (H, W) of an image of (height, width), which `fineness` points for each of
        its pixels' sides are rendered for."""
        height, width = size
        fine = round(fineness * height), round(fineness * width)
        # Pixel centres are at integers, so that the first of a finer grid lies before that of the coarser one.
        px = (projection.px + 0.5) * [fine[1] / width, fine[0] / height] - 0.5
        linear, alpha, _ = render(self.mesh, projection._replace(px=px), fine, self.surface.environment.light(),
                                  self.surface.mottling, SHADOW_SIZE, self.surface.skins, self.ambient)
        alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA)
        # The mean of what is covered, for it is not mixed with the background's black.
        linear = cv2.resize(linear, (width, height), interpolation=cv2.INTER_AREA) / np.maximum(alpha, 1e-3)[..., None]
        return linear, alpha
