"""Estimates through ROS messages and back, and the markers drawn from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hand_cases import skin
from view_cases import hand

pytest.importorskip('rclpy', reason='needs ROS 2 (rclpy)')
pytest.importorskip('hand_unc_ros.msg', reason='needs the built messages')

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from visualization_msgs.msg import Marker  # noqa: E402

from hand_unc_ros.estimation.types import HandEstimate, HandReadings  # noqa: E402
from hand_unc_ros.geometry.gaussians import chi2_quantile  # noqa: E402
from hand_unc_ros.hand.covariance_blocks import joint_blocks  # noqa: E402
from hand_unc_ros.hand.anny import build_anny  # noqa: E402
from hand_unc_ros.hand.fitting import load_hand_fitter  # noqa: E402
from hand_unc_ros.hand.standin import build_standin  # noqa: E402
from hand_unc_ros.methods.contract import ViewReading  # noqa: E402
from hand_unc_ros.nodes import markers, messages  # noqa: E402

STAMP = 1_700_000_000_123_456_789


def estimate(**changes) -> HandEstimate:
    rng = np.random.default_rng(3)
    root = rng.normal(size=(63, 63)) * 1e-3
    values = dict(
        stamp_ns=STAMP, handedness='left', score=0.75, joints=rng.normal(size=(21, 3)),
        covariance=root @ root.T, valid=np.ones(21, bool), cameras=('cam0', 'cam1'),
        view_used=np.array([True, False]),
        view_weights=rng.random((2, 21)), reprojection_px=rng.random((2, 21)), covariance_calibrated=True,
        velocity=rng.normal(size=(21, 3)), track_id=7)
    values.update(changes)
    if not values['valid'].all():
        invalid = ~values['valid']
        rows = np.repeat(invalid, 3)
        for name in ('joints', 'velocity'):
            values[name][invalid] = np.nan
        values['covariance'][rows] = np.nan
        values['covariance'][:, rows] = np.nan
        values['reprojection_px'][:, invalid] = np.nan
        values['view_weights'][:, invalid] = 0
    return HandEstimate(**values)


def through_the_wire(message):
    return deserialize_message(serialize_message(message), type(message))


@pytest.mark.parametrize('full', [True, False])
@pytest.mark.parametrize('invalid', [(), (4, 20)])
def test_a_hand_survives_the_round_trip(full, invalid):
    valid = np.ones(21, bool)
    valid[list(invalid)] = False
    sent = estimate(valid=valid)
    message = through_the_wire(messages.hand_to_message(sent, 'world', full_covariance=full))
    assert message.header.frame_id == 'world'
    assert len(message.full_covariance) == (3969 if full else 0)
    back = messages.hand_from_message(message)
    for name in ('stamp_ns', 'handedness', 'score', 'cameras', 'covariance_calibrated', 'track_id'):
        assert getattr(back, name) == getattr(sent, name), name
    for name in ('joints', 'valid', 'view_used', 'velocity'):
        np.testing.assert_array_equal(getattr(back, name), getattr(sent, name), name)
    for name in ('view_weights', 'reprojection_px'):
        np.testing.assert_allclose(getattr(back, name), getattr(sent, name), rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(joint_blocks(back.covariance),
                                  joint_blocks(sent.covariance))
    if full:
        np.testing.assert_array_equal(back.covariance, sent.covariance)
    np.testing.assert_array_equal(np.array(message.covariance).reshape(21, 3, 3)[5],
                                  sent.covariance[15:18, 15:18])


def test_blocks_are_row_major():
    covariance = np.arange(63 * 63, dtype=float).reshape(63, 63)
    blocks = joint_blocks(covariance)
    assert all(np.array_equal(blocks[j], covariance[3 * j:3 * j + 3, 3 * j:3 * j + 3]) for j in range(21))


def damaged(name):
    sent = estimate()
    if name == 'joint':
        sent.joints[3, 1] = np.inf
    elif name == 'negative variance':
        sent.covariance[10, 10] = -1e-6
    elif name == 'asymmetric':
        sent.covariance[0, 5] += 1e-3
    elif name == 'covariance':
        sent.covariance[2, 2] = np.nan
    elif name == 'velocity':
        sent.velocity[0, 0] = np.nan
    return sent


@pytest.mark.parametrize('name', ['joint', 'negative variance', 'asymmetric', 'covariance', 'velocity'])
def test_nothing_that_breaks_the_promise_becomes_a_message(name):
    with pytest.raises(ValueError):
        messages.hand_to_message(damaged(name), 'world')


def test_mesh_and_views_survive_the_round_trip():
    rng = np.random.default_rng(4)
    vertices = rng.random((778, 3)).astype(np.float32)
    triangles = rng.integers(0, 778, (1538, 3))
    sent = estimate(vertices=vertices, vertex_variance=rng.random((778, 3)).astype(np.float32),
                    vertex_colours=rng.integers(0, 256, (778, 3), dtype=np.uint8))
    message = through_the_wire(messages.mesh_to_message(sent, 'world', triangles, 'stand-in'))
    back = messages.mesh_from_message(message)
    for value, expected in zip(back, (vertices, triangles, sent.vertex_variance, sent.vertex_colours)):
        np.testing.assert_array_equal(value, expected)
    assert back.colours.dtype == np.uint8
    bare = messages.mesh_from_message(through_the_wire(messages.mesh_to_message(
        estimate(vertices=vertices), 'world', triangles, 'stand-in')))
    assert bare.variance is None and bare.colours is None
    message.vertex_colours = message.vertex_colours[:-3]
    with pytest.raises(ValueError, match='778 vertices have 777 colours'):
        messages.mesh_from_message(message)
    message.vertex_colours, message.triangles = [], [0, 1, 778]
    with pytest.raises(ValueError, match='vertex 778 of 778'):
        messages.mesh_from_message(message)

    valid = rng.random((2, 21)) < 0.7
    px, variance = np.where(valid[None, ..., None], rng.random((2, 2, 21, 2)), np.nan)
    boxes = np.array([[1.0, 2, 3, 4], [np.nan] * 4])
    seen = {name: ViewReading(
        name, STAMP + 5 * row, px[row], variance[row], valid[row], 0.5 * (1 + row), 'left', boxes[row])
        for row, name in enumerate(('cam0', 'cam1'))}
    moved = {name: replace(reading, joints_px=reading.joints_px + 1) for name, reading in seen.items()}
    readings = HandReadings(7, 'left', moved, seen, rng.random((2, 21)))
    frames = {'cam0': 'cam0_optical', 'cam1': 'cam1_optical'}
    sent_views = [through_the_wire(m) for m in messages.readings_to_messages(readings, frames)]
    assert [messages.stamp_from_message(m.header.stamp) for m in sent_views] == [STAMP, STAMP + 5]
    assert sent_views[1].header.frame_id == 'cam1_optical'
    assert [(m.handedness, m.track_id) for m in sent_views] == [('left', 7)] * 2
    back = messages.readings_from_messages(sent_views)
    assert (back.track_id, back.handedness, tuple(back.views)) == (7, 'left', ('cam0', 'cam1'))
    np.testing.assert_allclose(back.gate, readings.gate, rtol=1e-6)
    for name, reading in seen.items():
        assert (back.views[name].stamp_ns, back.views[name].handedness) == (reading.stamp_ns, 'left')
        for field in ('joints_px', 'variance_px2', 'valid', 'score', 'box_px'):
            np.testing.assert_allclose(vars(back.views[name])[field], vars(reading)[field], rtol=1e-6, err_msg=field)
    unfused = messages.readings_to_messages(replace(readings, track_id=0, gate=None), frames)
    assert all(not np.any(through_the_wire(message).gate) and message.track_id == 0 for message in unfused)


@pytest.mark.parametrize('model, build', (('stand-in', build_standin), ('anny', build_anny)))
def test_the_parameters_of_a_fit_arrive_and_reproduce_the_mesh(model, build):
    fitter = load_hand_fitter(model, 'left')
    fit = fitter.fit(hand(side='left', curl=0.4), np.tile(4e-6 * np.eye(3), (21, 1, 1)))
    sent = estimate(vertices=fit.vertices, fit=fit)
    message = through_the_wire(messages.mesh_to_message(sent, 'world', fitter.faces, fitter.name))
    assert message.model == model and 0 < message.fit_residual == pytest.approx(fit.residual_m)
    assert (len(message.pose), len(message.shape), len(message.translation)) == (48, 10, 3)
    vertices, _ = skin(build('left'), *(np.array(values, float) for values in (
        message.pose, message.shape, message.translation)))
    # Parameters and vertices travel as float32.
    np.testing.assert_allclose(np.reshape(message.vertices, (-1, 3)), vertices, atol=1e-5)
    assert len(message.vertex_variance) == 0

    without = through_the_wire(
        messages.mesh_to_message(estimate(vertices=fit.vertices), 'world', fitter.faces, model))
    assert len(without.pose) == len(without.shape) == len(without.translation) == without.fit_residual == 0


def test_markers_show_the_95_percent_ellipsoids_and_expire():
    valid = np.ones(21, bool)
    valid[8] = False
    sent = estimate(valid=valid, vertices=np.random.default_rng(0).random((778, 3)))
    triangles = np.array([[0, 1, 2], [2, 3, 4]])
    drawn = through_the_wire(markers.hand_markers(sent, 'world', 0.2, triangles)).markers
    assert all(m.header.frame_id == 'world' and (m.lifetime.sec, m.lifetime.nanosec) == (0, 200_000_000)
               for m in drawn)
    assert len({(m.ns, m.id) for m in drawn}) == len(drawn)
    spheres = {m.id: m for m in drawn if m.type == Marker.SPHERE}
    assert set(spheres) == set(range(21)) - {8}
    skeleton = next(m for m in drawn if m.type == Marker.LINE_LIST)
    assert len(skeleton.points) == 2 * 19  # the index tip's bone is left out
    mesh = next(m for m in drawn if m.type == Marker.TRIANGLE_LIST)
    assert len(mesh.points) == 6
    for joint, marker in spheres.items():
        q = marker.pose.orientation
        x, y, z, w = q.x, q.y, q.z, q.w
        rotation = np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                             [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                             [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])
        # Diameters back to a covariance through the drawn orientation: sizes and axes belong together.
        radii = np.array([marker.scale.x, marker.scale.y, marker.scale.z]) / 2
        variance = radii ** 2 / chi2_quantile(0.95, 3)
        np.testing.assert_allclose(rotation @ np.diag(variance) @ rotation.T,
                                   joint_blocks(sent.covariance)[joint], atol=1e-9, rtol=1e-6)
