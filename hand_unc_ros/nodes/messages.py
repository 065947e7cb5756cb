"""Estimates to ROS messages and back; what the fields mean stands in the .msg files."""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Vector3

from hand_unc_ros.estimation.types import HandEstimate, HandReadings
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.methods.contract import ViewReading
from hand_unc_ros.msg import HandJointsWithCovariance, HandMesh, ViewEstimate

_HANDEDNESS = {'unknown': HandJointsWithCovariance.HANDEDNESS_UNKNOWN,
               'left': HandJointsWithCovariance.HANDEDNESS_LEFT,
               'right': HandJointsWithCovariance.HANDEDNESS_RIGHT}
_HANDEDNESS_NAMES = {value: name for name, value in _HANDEDNESS.items()}


def stamp_to_message(stamp_ns: int) -> Time:
    """A ROS Time from nanoseconds."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=seconds, nanosec=nanoseconds)


def stamp_from_message(stamp: Time) -> int:
    """Nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def check_estimate(estimate: HandEstimate) -> None:
    """Raise ValueError when a valid joint is not finite or the covariance of the valid ones is not PSD.

    The estimator promises both; this is the last look before a robot acts on the numbers.
    """
    valid = estimate.valid
    if not np.isfinite(estimate.joints[valid]).all():
        raise ValueError('a joint that is marked valid is not finite')
    rows = np.repeat(valid, 3)
    covariance = estimate.covariance[np.ix_(rows, rows)]
    if covariance.size and not is_psd(covariance):
        raise ValueError('the covariance is not finite, symmetric and positive semi-definite')
    if estimate.velocity is not None and not np.isfinite(estimate.velocity[valid]).all():
        raise ValueError('the velocity of a valid joint is not finite')
    if estimate.vertices is not None and not np.isfinite(estimate.vertices).all():
        raise ValueError('a vertex is not finite')


def hand_to_message(estimate: HandEstimate, frame_id: str,
                    full_covariance: bool = False) -> HandJointsWithCovariance:
    """`frame_id` names the world frame; raises ValueError for what `check_estimate` refuses."""
    check_estimate(estimate)
    valid = estimate.valid
    joints = np.where(valid[:, None], estimate.joints, np.nan)
    blocks = np.where(valid[:, None, None], joint_blocks(estimate.covariance), np.nan)
    message = HandJointsWithCovariance()
    message.header.stamp = stamp_to_message(estimate.stamp_ns)
    message.header.frame_id = frame_id
    message.handedness = _HANDEDNESS[estimate.handedness]
    message.track_id = estimate.track_id
    message.score = float(estimate.score)
    message.joints = [Point(x=x, y=y, z=z) for x, y, z in joints.tolist()]
    message.valid = valid.tolist()
    message.covariance = blocks.reshape(-1).astype(np.float64)
    if full_covariance:
        rows = np.repeat(valid, 3)
        message.full_covariance = _doubles(np.where(rows[:, None] & rows, estimate.covariance, np.nan))
    message.covariance_calibrated = bool(estimate.covariance_calibrated)
    if estimate.velocity is not None:
        velocity = np.where(valid[:, None], estimate.velocity, np.nan)
        message.velocity = [Vector3(x=x, y=y, z=z) for x, y, z in velocity.tolist()]
    message.cameras = list(estimate.cameras)
    message.view_used = estimate.view_used.tolist()
    message.view_weights = _floats(estimate.view_weights)
    message.reprojection_px = _floats(estimate.reprojection_px)
    return message


def hand_from_message(message: HandJointsWithCovariance) -> HandEstimate:
    """The estimate of a message; where it has no full covariance, joints are taken as uncorrelated."""
    valid = np.array(message.valid, dtype=bool)
    if len(message.full_covariance):
        covariance = np.array(message.full_covariance).reshape(3 * JOINT_COUNT, 3 * JOINT_COUNT)
    else:
        covariance, joint = np.zeros((JOINT_COUNT, 3, JOINT_COUNT, 3)), range(JOINT_COUNT)
        covariance[joint, :, joint, :] = message.covariance.reshape(JOINT_COUNT, 3, 3)
        covariance = covariance.reshape(3 * JOINT_COUNT, 3 * JOINT_COUNT)
        rows = np.repeat(valid, 3)
        covariance[~(rows[:, None] & rows)] = np.nan
    views = len(message.cameras)
    return HandEstimate(
        stamp_ns=stamp_from_message(message.header.stamp),
        handedness=_HANDEDNESS_NAMES.get(message.handedness, 'unknown'),
        score=message.score,
        joints=np.array([(p.x, p.y, p.z) for p in message.joints]),
        covariance=covariance,
        valid=valid,
        cameras=tuple(message.cameras),
        view_used=np.array(message.view_used, dtype=bool),
        view_weights=np.array(message.view_weights, dtype=np.float64).reshape(views, JOINT_COUNT),
        reprojection_px=np.array(message.reprojection_px, dtype=np.float64).reshape(views, JOINT_COUNT),
        covariance_calibrated=message.covariance_calibrated,
        velocity=np.array([(v.x, v.y, v.z) for v in message.velocity]) if message.velocity else None,
        track_id=message.track_id)


def mesh_to_message(estimate: HandEstimate, frame_id: str, triangles: np.ndarray, model: str) -> HandMesh:
    """triangles: (F, 3) vertex indices.  model: 'mano', 'anny' or 'stand-in'.  `estimate.vertices` must be there."""
    message = HandMesh()
    message.header.stamp = stamp_to_message(estimate.stamp_ns)
    message.header.frame_id = frame_id
    message.handedness = _HANDEDNESS[estimate.handedness]
    message.track_id = estimate.track_id
    message.model = model
    message.vertices = _floats(estimate.vertices)
    message.triangles = array.array('I', np.ascontiguousarray(triangles, dtype=np.uint32).tobytes())
    if estimate.vertex_variance is not None:
        message.vertex_variance = _floats(estimate.vertex_variance)
    if estimate.vertex_colours is not None:
        message.vertex_colours = array.array('B', np.ascontiguousarray(estimate.vertex_colours, np.uint8).tobytes())
    if estimate.fit is not None:
        message.pose, message.shape, message.translation = (
            _floats(values) for values in (estimate.fit.pose, estimate.fit.shape, estimate.fit.translation))
        message.fit_residual = float(estimate.fit.residual_m)
    return message


class Mesh(NamedTuple):
    """vertices: (N, 3) metres.  triangles: (F, 3) vertex indices.  variance: (N, 3) m² or None.  colours: (N, 3) uint8
    sRGB or None."""

    vertices: np.ndarray
    triangles: np.ndarray
    variance: np.ndarray | None
    colours: np.ndarray | None


def mesh_from_message(message: HandMesh) -> Mesh:
    """The mesh of a message. Raises ValueError where its parts do not fit together."""
    def rows(values: Sequence[float]) -> np.ndarray | None:
        return np.array(values).reshape(-1, 3) if len(values) else None

    vertices = np.array(message.vertices).reshape(-1, 3)
    mesh = Mesh(vertices, np.array(message.triangles).reshape(-1, 3), rows(message.vertex_variance),
                rows(message.vertex_colours))
    for name, part in (('variances', mesh.variance), ('colours', mesh.colours)):
        if part is not None and len(part) != len(vertices):
            raise ValueError(f'{len(vertices)} vertices have {len(part)} {name}')
    if mesh.triangles.size and mesh.triangles.max() >= len(vertices):
        raise ValueError(f'a triangle has vertex {mesh.triangles.max()} of {len(vertices)}')
    return mesh


def readings_to_messages(readings: HandReadings, frame_ids: Mapping[str, str]) -> list[ViewEstimate]:
    """One message for each view of a hand, as its image shows it; optical frames by camera name."""
    messages = []
    for row, (camera, reading) in enumerate(readings.seen.items()):
        message = ViewEstimate()
        message.header.stamp = stamp_to_message(reading.stamp_ns)
        message.header.frame_id = frame_ids[camera]
        message.camera = camera
        message.handedness = readings.handedness
        message.track_id = readings.track_id
        message.score = float(reading.score)
        valid = reading.valid[:, None]
        message.joints_px = np.where(valid, reading.joints_px, np.nan).astype(np.float32).reshape(-1)
        message.variance_px2 = np.where(valid, reading.variance_px2, np.nan).astype(np.float32).reshape(-1)
        message.valid = reading.valid.tolist()
        message.box_px = np.asarray(reading.box_px, dtype=np.float32)
        if readings.gate is not None:
            message.gate = np.asarray(readings.gate[row], dtype=np.float32)
        messages.append(message)
    return messages


def readings_from_messages(messages: Sequence[ViewEstimate]) -> HandReadings:
    """The readings of one hand by the views of one set, in the order of the messages; there must be one."""
    def array_of(values: Sequence[float], *shape: int) -> np.ndarray:
        return np.array(values, float).reshape(shape)

    views = {message.camera: ViewReading(
        message.camera, stamp_from_message(message.header.stamp), array_of(message.joints_px, JOINT_COUNT, 2),
        array_of(message.variance_px2, JOINT_COUNT, 2), np.array(message.valid, bool), message.score,
        message.handedness, array_of(message.box_px, 4))
        for message in messages}
    gate = np.array([array_of(message.gate, JOINT_COUNT) for message in messages])
    return HandReadings(messages[0].track_id, messages[0].handedness, views, views, gate)


# rclpy takes an array.array as it is; from an ndarray or a list it would copy item by item.
def _floats(values: np.ndarray) -> array.array:
    return array.array('f', np.ascontiguousarray(values, dtype=np.float32).tobytes())


def _doubles(values: np.ndarray) -> array.array:
    return array.array('d', np.ascontiguousarray(values, dtype=np.float64).tobytes())
