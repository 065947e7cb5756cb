"""Subscriptions to the images and calibrations of the cameras, and why nothing comes through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

_IMAGE_TYPES = {'raw': (Image, 'sensor_msgs/msg/Image'),
                'compressed': (CompressedImage, 'sensor_msgs/msg/CompressedImage')}
_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
_DEPTH = 5
_LATCHED_PERIOD_S = 0.3


def sensor_qos(reliable: bool = False) -> QoSProfile:
    """Best effort, as consumers of sensor data ask for (REP-2003), unless `reliable`."""
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=_DEPTH, reliability=reliability)


def latched_qos() -> QoSProfile:
    """For what a publisher has sent once, before this subscription was there."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
                      durability=DurabilityPolicy.TRANSIENT_LOCAL)


class CameraInput:
    """One camera's subscriptions; `on_image(name, message)` and `on_info(name, message)` must be quick."""

    def __init__(self, node: Node, name: str, topic: str, transport: str, reliable: bool,
                 on_image: Callable[[str, Any], None], info: str | None = None,
                 on_info: Callable[[str, Any], None] | None = None) -> None:
        self._node = node
        self._qos = sensor_qos(reliable)
        message_type, self._type_name = _IMAGE_TYPES[transport]
        self._subscriptions = [node.create_subscription(
            message_type, topic, lambda message: on_image(name, message), self._qos)]
        self.topic = self._subscriptions[0].topic_name
        self.info_topic: str | None = None
        self._latched_timer: Any = None
        if info is not None and on_info is not None:
            self._subscribe_to_info(info, lambda message: on_info(name, message))

    def _subscribe_to_info(self, topic: str, take: Callable[[Any], None]) -> None:
        """Take CameraInfo as it comes, and the one that a driver sent once, before this subscription was there.

        To a publisher that keeps no message the second subscription would be a fault, which it warns of; so it is made
        when there is one that does.
        """
        received = False

        def take_live(message: Any) -> None:
            nonlocal received
            received = True
            take(message)

        def look_for_latched() -> None:
            publishers = self._node.get_publishers_info_by_topic(self.info_topic)
            latched = any(publisher.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
                          for publisher in publishers)
            if latched and not received:
                self._subscriptions.append(self._node.create_subscription(CameraInfo, topic, take, latched_qos()))
            if latched or received:
                self._stop_looking()

        live = self._node.create_subscription(CameraInfo, topic, take_live, sensor_qos())
        self._subscriptions.append(live)
        self.info_topic = live.topic_name
        self._latched_timer = self._node.create_timer(_LATCHED_PERIOD_S, look_for_latched,
                                                      clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _stop_looking(self) -> None:
        if self._latched_timer is not None:
            self._node.destroy_timer(self._latched_timer)
            self._latched_timer = None

    def destroy(self) -> None:
        """End the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._stop_looking()

    def info_fault(self) -> str:
        """Why no CameraInfo has come, read from the ROS graph."""
        publishers = self._node.get_publishers_info_by_topic(self.info_topic)
        if not publishers:
            return (f'nobody publishes {self.info_topic}; start the driver, or name the topic in the rig file '
                    '(camera_info:) or by the parameter camera_info_topic')
        types = {publisher.topic_type for publisher in publishers}
        if _INFO_TYPE not in types:
            return f'{self.info_topic} carries {min(types)}, and {_INFO_TYPE} is expected'
        return f'{self.info_topic} has a publisher, but no message came'

    def fault(self) -> str | None:
        """Why no image can come, read from the ROS graph; None when a publisher fits."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return f'nobody publishes {self.topic}'
        of_type = [publisher for publisher in publishers if publisher.topic_type == self._type_name]
        if not of_type:
            return (f'{self.topic} carries {publishers[0].topic_type}, and {self._type_name} is expected: '
                    'set the parameter transport or image_topic')
        reasons = []
        for publisher in of_type:
            compatibility, reason = qos_check_compatible(publisher.qos_profile, self._qos)
            if compatibility != QoSCompatibility.ERROR:
                return None
            reasons.append(reason.strip().rstrip(';'))
        return (f'incompatible QoS on {self.topic}: {reasons[0]} '
                '(parameter reliable: false takes every publisher)')
