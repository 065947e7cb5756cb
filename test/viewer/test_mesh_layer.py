"""How the mesh is coloured in the browser: which colours, and that they are updated in place."""

from __future__ import annotations

import numpy as np
import pytest
from viewer_cases import RADIUS_95, make_hand, node

from hand_unc_ros.viewer import colours
from hand_unc_ros.viewer.mesh_layer import MESH_COLOURS, Surface, vertex_colours

# A tetrahedron, faces outward.
VERTICES = 0.05 * np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
PAINT = np.array([[250, 10, 30], [20, 240, 60], [5, 90, 255], [128, 128, 128]], np.uint8)


@pytest.fixture
def viewer():
    pytest.importorskip('viser')
    from hand_unc_ros.viewer.scene import HandViewer

    with HandViewer(port=0, clock=lambda: 100.0) as view:
        view.update_hand(make_hand())
        yield view


def choose(viewer, choice: str) -> None:
    viewer._controls._mesh_colours.value = choice
    viewer.refresh()


def test_colours_of_vertices_by_choice():
    variance = np.array([[1e-6, 4e-6, 1e-6], [1e-4] * 3, [np.nan] * 3, [0.0] * 3])
    surface = Surface(VERTICES, FACES, variance, PAINT)
    assert MESH_COLOURS == ('Skin', 'Uncertainty', 'Texture')
    assert vertex_colours(surface, 'Skin', 0.95, 20.0) is None
    np.testing.assert_array_equal(vertex_colours(surface, 'Texture', 0.95, 20.0), PAINT)
    # The ellipsoid of the axis with the largest variance; what is not known has the last colour.
    expected = colours.uncertainty_colours(RADIUS_95 * np.array([2.0, 10.0, np.nan, 0.0]), 20.0)
    np.testing.assert_allclose(vertex_colours(surface, 'Uncertainty', 0.95, 20.0).astype(int), expected, atol=1)
    bare = Surface(VERTICES, FACES)
    assert all(vertex_colours(bare, choice, 0.95, 20.0) is None for choice in MESH_COLOURS)


def test_a_texture_paints_the_faces_in_place(viewer):
    viewer.update_mesh(VERTICES, FACES, None, PAINT)
    viewer.refresh()
    assert node(viewer, '/hand/mesh').visible
    assert '/hand/painted' not in viewer._server.scene._handle_from_node_name
    choose(viewer, 'Texture')
    painted = node(viewer, '/hand/painted')
    assert painted.visible and node(viewer, '/hand/mesh').visible and painted.batched_colors.shape == (8, 3)
    means = np.rint(PAINT[FACES].astype(float).mean(1)).astype(np.uint8)
    np.testing.assert_array_equal(painted.batched_colors, colours.linear(np.concatenate([means, means])))
    before = painted.batched_positions.copy()
    viewer.update_mesh(VERTICES + 0.1, FACES, None, PAINT[::-1])
    viewer.refresh()
    assert node(viewer, '/hand/painted') is painted
    np.testing.assert_allclose(painted.batched_positions, before + 0.1, atol=1e-6)
    assert (painted.batched_colors != colours.linear(np.concatenate([means, means]))).any()
    viewer._controls._mesh.value = False
    viewer.refresh()
    assert not painted.visible and not node(viewer, '/hand/mesh').visible
    viewer._controls._mesh.value = True
    choose(viewer, 'Skin')
    assert not painted.visible and node(viewer, '/hand/mesh').visible
    # Of another hand model.
    choose(viewer, 'Texture')
    viewer.update_mesh(VERTICES, FACES[:3], None, PAINT)
    viewer.refresh()
    assert node(viewer, '/hand/painted').batched_positions.shape == (6, 3) and node(viewer, '/hand/painted').visible


def test_without_what_was_chosen_the_mesh_is_skin(viewer):
    viewer.update_mesh(VERTICES, FACES, np.full((4, 3), 1e-5))
    choose(viewer, 'Texture')
    assert node(viewer, '/hand/mesh').visible
    assert '/hand/painted' not in viewer._server.scene._handle_from_node_name
    choose(viewer, 'Uncertainty')
    painted = node(viewer, '/hand/painted')
    assert painted.visible and len(np.unique(painted.batched_colors, axis=0)) == 1
    # The range of the colours is that of the ellipsoids.
    before = painted.batched_colors.copy()
    viewer._controls._limit.value = 100.0
    viewer.refresh()
    assert (painted.batched_colors != before).any()
    choose(viewer, 'Texture')
    assert not painted.visible and node(viewer, '/hand/mesh').visible
