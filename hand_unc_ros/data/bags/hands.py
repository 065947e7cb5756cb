"""The messages of this package in a bag, read without ROS; what the fields mean stands in the .msg files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from hand_unc_ros.data.bags.message_definitions import message_definition
from hand_unc_ros.data.bags.reader import Bag
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.hand.joints import JOINT_COUNT

HAND_TYPE = 'hand_unc_ros/msg/HandJointsWithCovariance'
VIEW_TYPE = 'hand_unc_ros/msg/ViewEstimate'
POSES_TYPE = 'geometry_msgs/msg/PoseArray'


class RecordedHand(NamedTuple):
    """A HandJointsWithCovariance as it was recorded.

    log_ns, stamp_ns: times of logging and of capture.  frame_id: world frame.  track_id: constant while the hand was
    followed.  joints: (21, 3) metres, NaN where not valid.  covariance: (63, 63) m², block diagonal where `full` is
    False, NaN for joints that were not valid.  full: whether the covariance between joints was recorded.
    calibrated: whether a covariance map was applied.  cameras: those of the rig.
    """

    log_ns: int
    stamp_ns: int
    frame_id: str
    track_id: int
    joints: np.ndarray
    covariance: np.ndarray
    full: bool
    calibrated: bool
    cameras: tuple[str, ...]


class RecordedView(NamedTuple):
    """A ViewEstimate. joints_px, variance_px2: (21, 2), NaN where a joint was not found.  box_px: (4,)."""

    log_ns: int
    stamp_ns: int
    camera: str
    joints_px: np.ndarray
    variance_px2: np.ndarray
    box_px: np.ndarray


def topics_of_type(bag: Bag, kind: str) -> tuple[str, ...]:
    """The topics of a type that have messages in the bag, in alphabetical order."""
    return tuple(sorted({connection.topic for connection in bag.connections
                         if connection.msgtype == kind and connection.msgcount}))


def read_messages(bag: Bag, topics: Sequence[str]) -> Iterator[tuple[str, int, Any]]:
    """(topic, log time ns, message) of topics whose types may be this package's own.

    Raises RecordingError for a message that does not fit the definition in the bag.
    """
    connections = [connection for connection in bag.connections if connection.topic in topics]
    store = get_typestore(Stores.ROS2_HUMBLE)
    for connection in connections:
        _learn(store, connection)
    for connection, log_ns, message in bag.decoded(connections, store):
        yield connection.topic, log_ns, message


def _learn(store: Typestore, connection: Connection) -> None:
    """Add a connection's type to the store, as the bag defines it, or else as it is installed here."""
    if connection.msgtype in store.fielddefs:
        return
    form, text = connection.msgdef
    try:
        if form == MessageDefinitionFormat.IDL:
            types = get_types_from_idl(text)
        else:
            types = get_types_from_msg(text or message_definition(connection.msgtype), connection.msgtype)
    except TypesysError as error:
        raise RecordingError(f'the definition of {connection.msgtype} in the bag cannot be read: {error}') from error
    store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})


def hand_of(log_ns: int, message: Any) -> RecordedHand:
    """What a HandJointsWithCovariance says."""
    valid = np.asarray(message.valid, bool)
    joints = np.where(valid[:, None], [(point.x, point.y, point.z) for point in message.joints], np.nan)
    full = len(message.full_covariance) == (3 * JOINT_COUNT) ** 2
    if full:
        covariance = np.array(message.full_covariance, np.float64).reshape(3 * JOINT_COUNT, 3 * JOINT_COUNT)
    else:
        blocks, joint = np.zeros((JOINT_COUNT, 3, JOINT_COUNT, 3)), np.arange(JOINT_COUNT)
        blocks[joint, :, joint, :] = np.reshape(message.covariance, (JOINT_COUNT, 3, 3))
        covariance = blocks.reshape(3 * JOINT_COUNT, 3 * JOINT_COUNT)
    known = np.repeat(valid, 3)
    covariance = np.where(known[:, None] & known, covariance, np.nan)
    return RecordedHand(log_ns, stamp_ns(message), message.header.frame_id, int(message.track_id), joints, covariance,
                        full, bool(message.covariance_calibrated), tuple(message.cameras))


def view_of(log_ns: int, message: Any) -> RecordedView:
    """What a ViewEstimate says."""
    valid = np.asarray(message.valid, bool)[:, None]
    px, variance = (np.where(valid, np.reshape(values, (JOINT_COUNT, 2)).astype(np.float64), np.nan)
                    for values in (message.joints_px, message.variance_px2))
    return RecordedView(log_ns, stamp_ns(message), message.camera, px, variance,
                        np.asarray(message.box_px, np.float64))


def poses_of(topic: str, message: Any) -> np.ndarray:
    """Joints (21, 3) of a PoseArray in the public order. Raises RecordingError for another number of poses."""
    if len(message.poses) != JOINT_COUNT:
        raise RecordingError(f'{topic} holds a PoseArray of {len(message.poses)} poses; {JOINT_COUNT} are needed, the '
                             'joints in the order of HandJointsWithCovariance')
    return np.array([(pose.position.x, pose.position.y, pose.position.z) for pose in message.poses])


def stamp_ns(message: Any) -> int:
    """Nanoseconds."""
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
