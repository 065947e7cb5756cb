"""The surface of the hand in the scene: plain, or painted by its uncertainty or its texture; updated in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hand_unc_ros.geometry.gaussians import chi2_quantile
from hand_unc_ros.viewer import colours, shapes

if TYPE_CHECKING:
    import viser

# How a mesh may be coloured, as the controls call it.
SKIN, UNCERTAINTY, TEXTURE = 'Skin', 'Uncertainty', 'Texture'
MESH_COLOURS = (SKIN, UNCERTAINTY, TEXTURE)


class Surface(NamedTuple):
    """vertices: (N, 3) metres, world, all finite.  faces: (F, 3).  variance: (N, 3) m² along the axes of the world, or
    None.  colours: (N, 3) uint8 sRGB, or None."""

    vertices: np.ndarray
    faces: np.ndarray
    variance: np.ndarray | None = None
    colours: np.ndarray | None = None


def vertex_colours(surface: Surface, choice: str, probability: float, limit_mm: float) -> np.ndarray | None:
    """(N, 3) uint8 sRGB by one of MESH_COLOURS; None for plain skin, and where what is asked for is not known.

    Uncertainty: half of the longest side of a box about a vertex that holds the ellipsoid of `probability`, where
    limit_mm is the last colour.
    """
    if choice == TEXTURE:
        return surface.colours
    if choice != UNCERTAINTY or surface.variance is None:
        return None
    radius_m = np.sqrt(chi2_quantile(probability, 3) * np.asarray(surface.variance, dtype=float).max(axis=1))
    return colours.uncertainty_colours(1e3 * radius_m, limit_mm)


class MeshLayer:
    """Owns the scene nodes of one surface; each update reuses them while its triangles stay as many.

    A mesh of the viewer has one colour, so that a painted one is drawn as right triangles, two of each face, which are
    instances of a single one with a colour each. The plain mesh, of which the inside is seen, stays behind them.
    """

    def __init__(self, server: viser.ViserServer, probability: float) -> None:
        """probability: of the ellipsoids by which uncertainty is coloured."""
        self._server, self._probability = server, probability
        self._plain: viser.MeshHandle | None = None
        self._paint: viser.BatchedMeshHandle | None = None
        self._painted = False

    def show(self, surface: Surface, choice: str, limit_mm: float) -> None:
        """Draw a surface with the colours of a choice, see vertex_colours."""
        vertices = np.asarray(surface.vertices, dtype=np.float32)
        if self._plain is not None and self._plain.faces.shape == surface.faces.shape:
            self._plain.vertices = vertices
        else:
            self._plain = self._server.scene.add_mesh_simple(
                '/hand/mesh', vertices, np.asarray(surface.faces, dtype=np.uint32), color=colours.SKIN, side='back',
                cast_shadow=False, receive_shadow=False)
        painted = vertex_colours(surface, choice, self._probability, limit_mm)
        self._painted = painted is not None
        if painted is not None:
            self._show_paint(shapes.right_triangles(surface.vertices, surface.faces),
                             np.asarray(painted, dtype=float)[surface.faces].mean(axis=1))

    def _show_paint(self, drawn: shapes.Instances, face_colours: np.ndarray) -> None:
        """face_colours: (F, 3) sRGB, of both halves of each face."""
        hues = colours.linear(np.rint(np.concatenate([face_colours] * 2)).astype(np.uint8))
        places = drawn.positions.astype(np.float32), drawn.wxyz.astype(np.float32), drawn.scales.astype(np.float32)
        if self._paint is not None and len(self._paint.batched_positions) == len(places[0]):
            self._paint.batched_positions, self._paint.batched_wxyzs, self._paint.batched_scales = places
            self._paint.batched_colors = hues
            return
        unit = shapes.unit_right_triangle()
        self._paint = self._server.scene.add_batched_meshes_simple(
            '/hand/painted', unit.vertices, unit.faces, batched_positions=places[0], batched_wxyzs=places[1],
            batched_scales=places[2], batched_colors=hues, lod='off', cast_shadow=False, receive_shadow=False)

    def set_visible(self, visible: bool) -> None:
        """Show what was drawn last, or nothing."""
        if self._plain is not None:
            self._plain.visible = visible
        if self._paint is not None:
            self._paint.visible = visible and self._painted

    def set_opacity(self, opacity: float | None) -> None:
        """Of all that is drawn; None is opaque."""
        for handle in (self._plain, self._paint):
            if handle is not None:
                handle.opacity = opacity
