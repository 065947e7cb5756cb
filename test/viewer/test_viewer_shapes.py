"""What the view draws and says, as numbers and text: no server runs here."""

import numpy as np
import pytest

from hand_unc_ros.hand.joints import BONES
from hand_unc_ros.viewer import colours, framing, shapes
from hand_unc_ros.viewer.arrivals import ArrivalStatistics
from hand_unc_ros.viewer.panel import CameraReadout, HandReadout, SystemReadout, readout_html
from viewer_cases import RADIUS_95, look_at, make_hand, matrix_from


def test_ellipsoid_axes_are_the_95_percent_radii():
    drawn = shapes.ellipsoids(make_hand().joints, make_hand().covariance, np.ones(21, bool), 0.95)
    np.testing.assert_allclose(drawn.scales, np.tile([6.0, 3.0, 1.5], (21, 1)) * 1e-3 * RADIUS_95, rtol=1e-4)


def test_ellipsoids_rebuild_the_covariance_and_are_right_handed():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(21, 3, 3)) * 0.01
    blocks = factor @ factor.swapaxes(-1, -2)
    covariance = np.zeros((21, 3, 21, 3))
    covariance[range(21), :, range(21), :] = blocks
    drawn = shapes.ellipsoids(np.zeros((21, 3)), covariance.reshape(63, 63), np.ones(21, bool), 0.95)
    rotation = matrix_from(drawn.wxyz)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-9)
    rebuilt = rotation @ ((drawn.scales / RADIUS_95)[:, :, None] ** 2 * rotation.swapaxes(-1, -2))
    # RADIUS_95 is given to five digits, which makes 4e-5 in the square.
    np.testing.assert_allclose(rebuilt, blocks, rtol=1e-4, atol=1e-4 * np.abs(blocks).max())
    assert (np.diff(drawn.scales, axis=1) <= 0).all()


def test_points_on_the_drawn_ellipsoid_have_one_mahalanobis_distance():
    rng = np.random.default_rng(2)
    factor = rng.normal(size=(3, 3)) * 0.01
    covariance = np.kron(np.eye(21), factor @ factor.T)
    drawn = shapes.ellipsoids(np.zeros((21, 3)), covariance, np.ones(21, bool), 0.95)
    surface = shapes.unit_sphere(1).vertices * drawn.scales[0] @ matrix_from(drawn.wxyz[0]).T
    distance2 = np.einsum('ni,ij,nj->n', surface, np.linalg.inv(covariance[:3, :3]), surface)
    np.testing.assert_allclose(distance2, RADIUS_95**2, rtol=1e-4)


def test_a_face_becomes_two_right_triangles_that_cover_it():
    rng = np.random.default_rng(3)
    vertices = rng.normal(0, 0.01, (40, 3))
    faces = np.array([rng.permutation(40)[:3] for _ in range(60)])
    drawn = shapes.right_triangles(vertices, faces)
    assert drawn.shown.all() and len(drawn.positions) == 120
    unit = shapes.unit_right_triangle()
    corners = drawn.positions[:, None] + np.einsum('nij,ncj->nci', matrix_from(drawn.wxyz),
                                                   unit.vertices[unit.faces[0]] * drawn.scales[:, None])
    whole = vertices[faces]
    normal = np.cross(whole[:, 1] - whole[:, 0], whole[:, 2] - whole[:, 0])
    halves = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).reshape(2, 60, 3)
    # Both halves together have the face's area, and each looks where the face does.
    np.testing.assert_allclose(halves.sum(0), normal, atol=1e-12)
    assert ((halves * normal).sum(-1) >= 0).all()
    # Each half has two corners of its face, and both have all three.
    near = np.linalg.norm(corners[:, :, None] - np.tile(whole, (2, 1, 1))[:, None], axis=-1) < 1e-9
    assert (near.any(1).sum(1) == 2).all() and (near.any(1)[:60] | near.any(1)[60:]).all()
    # Those without an area are not drawn, and nothing is infinite.
    flat = shapes.right_triangles(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2], [0, 0, 0]]))
    assert not flat.shown.any() and all(np.isfinite(part).all() for part in flat)
    assert (flat.scales == shapes.HIDDEN_SCALE).all()


def test_invalid_joints_are_not_drawn_and_nothing_is_infinite():
    valid = np.ones(21, bool)
    valid[[0, 7, 20]] = False
    hand = make_hand(valid=valid)
    placed = [
        shapes.ellipsoids(hand.joints, hand.covariance, valid, 0.95),
        shapes.joint_spheres(hand.joints, valid, np.full(21, 0.004)),
        shapes.bones(hand.joints, valid, 0.002),
    ]
    for instances in placed:
        for values in instances:
            assert np.isfinite(values).all()
        assert (instances.scales[~instances.shown] == shapes.HIDDEN_SCALE).all()
    assert (placed[0].shown == valid).all()
    # Without the wrist go five bones, without joint 7 two, without joint 20 one.
    assert placed[2].shown.sum() == 20 - 8


def test_no_valid_joint_gives_finite_instances():
    hand = make_hand(valid=np.zeros(21, bool))
    drawn = shapes.bones(hand.joints, hand.valid, 0.002)
    assert not drawn.shown.any() and np.isfinite(drawn.positions).all()


def test_bones_reach_from_parent_to_child():
    joints = make_hand().joints
    drawn = shapes.bones(joints, np.ones(21, bool), 0.002)
    tips = drawn.positions + (matrix_from(drawn.wxyz) @ (drawn.scales * [0, 0, 1])[..., None])[..., 0]
    parent, child = np.array(BONES).T
    np.testing.assert_allclose(drawn.positions, joints[parent], atol=1e-12)
    np.testing.assert_allclose(tips, joints[child], atol=1e-9)


def test_bone_that_points_straight_down_is_turned_around():
    joints = np.zeros((21, 3))
    joints[1] = [0.0, 0.0, -0.03]
    drawn = shapes.bones(joints, np.ones(21, bool), 0.002)
    np.testing.assert_allclose(matrix_from(drawn.wxyz[0]) @ [0, 0, 1], [0, 0, -1], atol=1e-9)
    # Bones between joints in one place have no direction and are not drawn.
    assert drawn.shown.sum() == 2


def test_unit_meshes_are_closed_and_wound_outwards():
    sphere = shapes.unit_sphere(2)
    assert sphere.faces.shape == (320, 3)
    np.testing.assert_allclose(np.linalg.norm(sphere.vertices, axis=1), 1.0, atol=1e-6)
    corners = sphere.vertices[sphere.faces].astype(float)
    volume = np.einsum('fi,fi->f', corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6.0
    # An inscribed polyhedron of 320 faces has 96.7 % of the ball; a wrong winding would lose more.
    assert 0.95 < volume / (4.0 / 3.0 * np.pi) < 1.0
    bone = shapes.unit_bone()
    corners = bone.vertices[bone.faces].astype(float)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum('fi,fi->f', normals[:, :2], corners.mean(axis=1)[:, :2]) > 0).all()


@pytest.mark.parametrize('seed', range(3))
def test_quaternions_of_rotations(seed):
    factor = np.stack([np.linalg.qr(one)[0] for one in np.random.default_rng(seed).normal(size=(50, 3, 3))])
    rotation = factor * np.sign(np.linalg.det(factor))[:, None, None]
    half_turns = np.array([np.diag([1, -1, -1]), np.diag([-1, 1, -1]), np.diag([-1, -1, 1])], float)
    rotation = np.concatenate([rotation, half_turns, np.eye(3)[None]])
    wxyz = shapes.quaternions(rotation)
    np.testing.assert_allclose(np.linalg.norm(wxyz, axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix_from(wxyz), rotation, atol=1e-9)


def test_colours_run_from_blue_to_red_and_saturate():
    colour = colours.uncertainty_colours(np.array([0.0, 10.0, 20.0, 500.0, np.nan]), 20.0)
    assert colour[0, 2] > colour[0, 0] and colour[2, 0] > colour[2, 2]
    assert (colour[2:] == colour[2]).all()
    # IEC 61966-2-1: middle grey 188 is half the light.
    assert (colours.linear(np.array([0, 188, 255])) == [0, 128, 255]).all()
    assert '≥ 20 mm' in colours.legend_html(20.0, 0.95)


def test_work_volume_is_where_the_optical_axes_meet():
    target = np.array([0.1, -0.2, 0.3])
    poses = [look_at(np.array(at), target) for at in ((0.6, 0.0, 0.5), (-0.3, 0.5, 0.4), (0.0, -0.7, 0.2))]
    volume = framing.work_volume(poses)
    np.testing.assert_allclose(volume.centre, target, atol=1e-9)
    distances = [np.linalg.norm(pose[:3, 3] - target) for pose in poses]
    assert volume.distance == pytest.approx(np.median(distances))


def test_work_volume_of_parallel_cameras_is_in_front_of_them():
    poses = [look_at(np.array([0.0, y, 0.3]), [1.0, y, 0.3]) for y in (-0.1, 0.1)]
    expected = [framing.DEFAULT_DISTANCE_M, 0.0, 0.3]
    np.testing.assert_allclose(framing.work_volume(poses).centre, expected, atol=1e-9)


@pytest.mark.parametrize('up', sorted(framing.UP_AXES))
def test_viewpoint_is_above_and_sees_the_cameras(up):
    axis = np.array(framing.UP_AXES[up])
    level = np.roll(axis, 1)
    side = np.cross(axis, level)
    centre = np.array([0.2, 0.1, 0.3])
    cameras = centre + np.array([0.5 * (np.cos(a) * level + np.sin(a) * side) for a in (0.0, 1.0, 2.0)])
    view = framing.viewpoint(centre, cameras, axis, 0.6, cameras_in_sight=True)
    assert np.dot(view.position - centre, axis) > 0.1
    forward = (centre - view.position) / np.linalg.norm(centre - view.position)
    assert ((cameras - view.position) @ forward > 0).all()


def test_ground_is_the_world_s_zero_below_a_table_top_volume():
    up = np.array([0.0, 0.0, 1.0])
    assert framing.ground_height(np.array([0.0, 0.0, 0.25]), up) == 0.0
    assert framing.ground_height(np.array([0.0, 0.0, 1.4]), up) == pytest.approx(1.2)


def test_panel_shows_figures_and_escapes_what_came_over_the_wire():
    hand = HandReadout('live', 0.0, 14.98, 41.2, 63.7, 8.04, 3, 4, True, 'right', 20)
    cameras = {'<b>cam': CameraReadout('error', 0.0, 2500.0, -12.0, 7, False, '<script>')}
    text = readout_html(hand, SystemReadout('warn', '3 of 4 cameras', cameras))
    for expected in ('Live', '15.0 Hz', '41 / 64 ms', '20 of 21', '8.0 mm', '3 of 4 cameras', '2 s', '-12'):
        assert expected in text
    assert '<script>' not in text and '<b>cam' not in text
    assert '>calibrated<' in text
    assert 'No hand for 2.5 s' in readout_html(HandReadout('gone', 2.5), SystemReadout())


def test_hand_is_stale_after_three_periods_and_gone_later():
    arrivals = ArrivalStatistics(1.0 / 15.0)
    assert arrivals.state(0.0) == 'waiting'
    for k in range(20):
        arrivals.add(0.1 * k, 0.02 + 0.001 * k)
    last = 1.9
    assert arrivals.period_s == pytest.approx(0.1)
    assert arrivals.rate_hz(last) == pytest.approx(10.0)
    assert [arrivals.state(last + dt) for dt in (0.0, 0.29, 0.31, 1.7, 1.9)] == [
        'live', 'live', 'stale', 'stale', 'gone'
    ]
    assert arrivals.latency_s(0.5) == pytest.approx(0.030)
    assert arrivals.latency_s(0.95) == pytest.approx(0.039)
