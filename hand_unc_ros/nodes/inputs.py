"""Subscriptions to the images and CameraInfo of the cameras, and why nothing comes through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

_IMAGE_TYPES = {'raw': (Image, 'sensor_msgs/msg/Image'),
                'compressed': (CompressedImage, 'sensor_msgs/msg/CompressedImage')}
_DEPTH = 5


def sensor_qos(reliable: bool = False) -> QoSProfile:
    """Best effort, as consumers of sensor data ask for (REP-2003), unless `reliable`."""
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=_DEPTH, reliability=reliability)


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
        if info is not None and on_info is not None:
            self._subscriptions.append(node.create_subscription(
                CameraInfo, info, lambda message: on_info(name, message), sensor_qos()))

    def destroy(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

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
