"""The hand in the scene: bones, joints, ellipsoids and mesh, updated in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hand_unc_ros.hand.joints import BONES, FINGERTIPS, JOINT_COUNT, WRIST
from hand_unc_ros.viewer import colours, shapes
from hand_unc_ros.viewer.mesh_layer import SKIN, MeshLayer, Surface

if TYPE_CHECKING:
    import viser

    from hand_unc_ros.estimation.types import HandEstimate

BONE_RADIUS_M = 0.0016
_FADED = 0.25
_ELLIPSOID_OPACITY = 0.55


class HandStyle(NamedTuple):
    """What is drawn and how; ellipsoid_scale multiplies the true semi-axes.  mesh_colours: one of MESH_COLOURS."""

    skeleton: bool = True
    ellipsoids: bool = True
    mesh: bool = True
    ellipsoid_scale: float = 1.0
    limit_mm: float = colours.COLOUR_LIMIT_MM
    mesh_colours: str = SKIN


class HandLayer:
    """Owns the scene nodes of one hand; each update reuses them."""

    def __init__(self, server: viser.ViserServer, probability: float):
        """probability: that an ellipsoid holds its joint."""
        self._server = server
        self._probability = probability
        self._mesh = MeshLayer(server, probability)
        self._joint_radii = np.full(JOINT_COUNT, 0.0026)
        self._joint_radii[list(FINGERTIPS)] = 0.0023
        self._joint_radii[WRIST] = 0.0036
        ball, tube = shapes.unit_sphere(2), shapes.unit_bone()
        self._bones = self._batch('/hand/bones', tube, len(BONES), colours.BONE)
        self._joints = self._batch('/hand/joints', ball, JOINT_COUNT, colours.JOINT)
        fine = shapes.unit_sphere(3)
        self._ellipsoids = self._batch(
            '/hand/ellipsoids', fine, JOINT_COUNT, colours.STALE, _ELLIPSOID_OPACITY
        )

    def _batch(
        self, name: str, mesh: shapes.Mesh, count: int, colour: colours.Rgb, opacity: float | None = None
    ) -> viser.BatchedMeshHandle:
        return self._server.scene.add_batched_meshes_simple(
            name, mesh.vertices, mesh.faces,
            batched_wxyzs=np.tile([1.0, 0.0, 0.0, 0.0], (count, 1)),
            batched_positions=np.zeros((count, 3)),
            batched_scales=np.full((count, 3), shapes.HIDDEN_SCALE),
            batched_colors=np.tile(colours.linear(colour), (count, 1)),
            opacity=opacity, lod='off', cast_shadow=False, receive_shadow=False, visible=False,
        )

    def show(self, estimate: HandEstimate, style: HandStyle) -> None:
        """Draw the skeleton and the ellipsoids of an estimate."""
        joints, valid = np.asarray(estimate.joints, dtype=float), np.asarray(estimate.valid, dtype=bool)
        _place(self._bones, shapes.bones(joints, valid, BONE_RADIUS_M))
        _place(self._joints, shapes.joint_spheres(joints, valid, self._joint_radii))
        drawn = shapes.ellipsoids(joints, estimate.covariance, valid, self._probability)
        _place(self._ellipsoids, drawn, style.ellipsoid_scale)
        hues = colours.uncertainty_colours(1e3 * drawn.scales[:, 0], style.limit_mm)
        self._ellipsoids.batched_colors = colours.linear(hues)

    def show_mesh(self, surface: Surface, style: HandStyle) -> None:
        """Draw the surface."""
        self._mesh.show(surface, style.mesh_colours, style.limit_mm)

    def set_visible(self, style: HandStyle, *, drawn: bool, mesh_drawn: bool) -> None:
        """Apply the toggles; `drawn` and `mesh_drawn` say whether there is anything to see."""
        self._bones.visible = self._joints.visible = drawn and style.skeleton
        self._ellipsoids.visible = drawn and style.ellipsoids
        self._mesh.set_visible(mesh_drawn and style.mesh)

    def set_faded(self, faded: bool) -> None:
        """Grey and faint while the last estimate is stale."""
        self._bones.opacity = self._joints.opacity = _FADED if faded else None
        self._ellipsoids.opacity = 0.25 * _ELLIPSOID_OPACITY if faded else _ELLIPSOID_OPACITY
        if faded:
            self._ellipsoids.batched_colors = np.tile(colours.linear(colours.STALE), (JOINT_COUNT, 1))
        self._mesh.set_opacity(_FADED if faded else None)


def _place(handle: viser.BatchedMeshHandle, instances: shapes.Instances, scale: float = 1.0) -> None:
    handle.batched_positions = instances.positions.astype(np.float32)
    handle.batched_wxyzs = instances.wxyz.astype(np.float32)
    handle.batched_scales = (scale * instances.scales).astype(np.float32)
