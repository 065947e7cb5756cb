"""The `viewer` node: shows cameras, hand and diagnostics in the browser."""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from hand_unc_ros.data.camera_calibrations import CameraCalibrations
from hand_unc_ros.data.image_messages import decode_compressed, decode_image
from hand_unc_ros.data.rigs import load_info_topics, load_rig, load_topics
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.msg import HandJointsWithCovariance, HandMesh
from hand_unc_ros.nodes.inputs import CameraInput
from hand_unc_ros.nodes.messages import hand_from_message, mesh_from_message
from hand_unc_ros.nodes.parameters import declare
from hand_unc_ros.nodes.process import run_node
from hand_unc_ros.nodes.transforms import TransformSource
from hand_unc_ros.settings.parameter_files import names_for_any_node
from hand_unc_ros.settings.parameters import TABLE, Parameter, check_together
from hand_unc_ros.settings.topics import image_topics, info_topic
from hand_unc_ros.viewer.framing import UP_AXES
from hand_unc_ros.viewer.scene import HandViewer

PARAMETERS: tuple[Parameter, ...] = (
    Parameter('host', '127.0.0.1', 'Address to listen on. 0.0.0.0 lets every machine that reaches this one '
              'see the cameras.'),
    Parameter('port', 8080, 'Port of the page; 0 takes a free one.', low=0, high=65535),
    Parameter('up_axis', '+z', "Axis of the world that points up; -y where the world is a camera's frame.",
              choices=tuple(UP_AXES)),
    Parameter('image_rate', 10.0, 'Most images per second and camera in the browser.', 'Hz', 0.1, 60.0),
    Parameter('image_width', 320, 'Largest width of the images in the browser.', 'px', 16, 4096),
    *(TABLE[name] for name in (
        'cameras', 'image_topic', 'camera_info_topic', 'transport', 'reliable', 'rig.file', 'rig.intrinsics',
        'rig.extrinsics', 'world_frame', 'sync.period')),
)
_LEVELS = {DiagnosticStatus.OK: 'ok', DiagnosticStatus.WARN: 'warn', DiagnosticStatus.ERROR: 'error'}
_POSE_PERIOD_S = 0.5
_WATCH_PERIOD_S = 0.3
# Only the newest is drawn.
_NEWEST = QoSProfile(depth=1)
_LOG_EVERY_S = 5.0
# A stamp further away is of another clock: a recording played without use_sim_time, say.
_CREDIBLE_LATENCY_S = 60.0


class ViewerNode(Node):
    """Hands messages on to a `HandViewer`, which draws the newest of them while a browser looks.

    Raises ConfigError, CalibrationError or MissingDependencyError with the remedy.
    """

    def __init__(self, names_for_any: Collection[str] = (), **node_options: Any) -> None:
        super().__init__('viewer', **node_options)
        values = declare(self, PARAMETERS, names_for_any)
        self._calibrations: CameraCalibrations | None = None
        self._transforms: TransformSource | None = None
        self._frames: dict[str, str] = {}
        self._values = values
        self._topics: dict[str, str] = {}
        self._inputs: list[CameraInput] = []
        self._mesh_subscription: Any = None
        self._decode = decode_image if values['transport'] == 'raw' else decode_compressed
        cameras = [name for name in values['cameras'] if name]
        if cameras or values['rig.file']:
            self._calibrate(values, tuple(cameras))
        self.view = HandViewer(
            values['host'], values['port'], up=values['up_axis'], period_s=values['sync.period'],
            image_rate_hz=values['image_rate'], image_width=values['image_width'])
        self._subscribe(values)
        self.get_logger().info(f'the hand is shown at {self.view.url}')

    def destroy_node(self) -> None:
        """Close the browser view and end the node."""
        view = getattr(self, 'view', None)
        if view is not None:
            view.close()
        super().destroy_node()

    def _calibrate(self, values: Mapping[str, Any], cameras: tuple[str, ...]) -> None:
        check_together(values)
        rig = load_rig(values['rig.file']) if values['rig.file'] else None
        self._frames = {name: name for name in cameras or rig.names}
        named = load_topics(values['rig.file']) if rig is not None else {}
        self._topics = image_topics(tuple(self._frames), values['image_topic'], values['transport'], named)
        pose_used = values['rig.extrinsics'] == 'tf'
        file_used = 'file' in (values['rig.intrinsics'], values['rig.extrinsics'])
        self._calibrations = CameraCalibrations(
            tuple(self._frames), rig if file_used else None,
            info_used=values['rig.intrinsics'] == 'camera_info', pose_used=pose_used, image_topics=self._topics)
        if pose_used:
            self._transforms = TransformSource(self, values['world_frame'])

    def _subscribe(self, values: Mapping[str, Any]) -> None:
        self.create_subscription(HandJointsWithCovariance, 'joints_with_covariance', self._take_hand, _NEWEST)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._take_diagnostics, 10)
        for name in self._topics:
            self.view.update_camera(name, self._calibrations.camera(name))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_WATCH_PERIOD_S, self._follow_browsers, clock=steady)
        if self._transforms is not None:
            self.create_timer(_POSE_PERIOD_S, self._look_up_poses, clock=steady)

    def _follow_browsers(self) -> None:
        """Images and meshes, which cost most, are subscribed to only while a browser shows them."""
        if self.view.images_wanted and not self._inputs:
            values = self._values
            info_used = values['rig.intrinsics'] == 'camera_info' or self._transforms is not None
            named = load_info_topics(values['rig.file']) if values['rig.file'] else {}
            self._inputs = [
                CameraInput(self, name, topic, values['transport'], values['reliable'], self._take_image,
                            info_topic(topic, values['camera_info_topic'], name, named) if info_used else None,
                            self._take_info)
                for name, topic in self._topics.items()]
        elif not self.view.images_wanted and self._inputs:
            for camera_input in self._inputs:
                camera_input.destroy()
            self._inputs = []
        if self.view.watched and self._mesh_subscription is None:
            self._mesh_subscription = self.create_subscription(HandMesh, 'mesh', self._take_mesh, _NEWEST)
        elif not self.view.watched and self._mesh_subscription is not None:
            self.destroy_subscription(self._mesh_subscription)
            self._mesh_subscription = None

    def _take_image(self, name: str, message: Any) -> None:
        image = functools.partial(self._decode, message)
        self.view.update_camera(name, self._calibrations.camera(name), image)

    def _take_info(self, name: str, message: Any) -> None:
        self._frames[name] = message.header.frame_id or name
        self._calibrations.take_info(name, message)

    def _look_up_poses(self) -> None:
        for name in self._calibrations.without_pose:
            try:
                self._calibrations.take_pose(name, self._transforms.lookup(self._frames[name]))
            except CalibrationError as error:
                self._calibrations.refuse_pose(name, str(error))

    def _take_hand(self, message: HandJointsWithCovariance) -> None:
        try:
            estimate = hand_from_message(message)
        except ValueError as error:
            self.get_logger().warning(
                f'an estimate does not fit together: {error}', throttle_duration_sec=_LOG_EVERY_S)
            return
        latency_s = (self.get_clock().now().nanoseconds - estimate.stamp_ns) / 1e9
        self.view.update_hand(estimate, latency_s if 0.0 <= latency_s < _CREDIBLE_LATENCY_S else None)

    def _take_mesh(self, message: HandMesh) -> None:
        try:
            mesh = mesh_from_message(message)
        except ValueError as error:
            self.get_logger().warning(
                f'a mesh does not fit together: {error}', throttle_duration_sec=_LOG_EVERY_S)
            return
        self.view.update_mesh(*mesh)

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        status = view_status(message.status, self.get_namespace())
        if status is not None:
            self.view.update_status(status)


def view_status(statuses: Sequence[DiagnosticStatus], namespace: str) -> dict[str, Any] | None:
    """Diagnostics of the namespace's estimator as `HandViewer.update_status` takes them; None when there are none."""
    prefix = f'{namespace.strip("/")}/multiview: '.lstrip('/')
    result: dict[str, Any] = {}
    cameras: dict[str, dict[str, Any]] = {}
    for status in statuses:
        if not status.name.startswith(prefix):
            continue
        level = _LEVELS.get(status.level, 'error')
        what, _, camera = status.name.removeprefix(prefix).partition(' ')
        if what == 'output':
            result.update(level=level, message=status.message)
        elif what == 'camera':
            values = {item.key: item.value for item in status.values}
            age_s = _float(values.get('age_s'))
            drops = (_float(value) or 0.0 for key, value in values.items() if key.startswith('dropped/'))
            cameras[camera] = {
                'level': level, 'message': status.message, 'rate_hz': _float(values.get('rate_hz')),
                'age_ms': None if age_s is None else 1e3 * age_s,
                'offset_ms': _float(values.get('offset_ms')), 'drops': int(sum(drops)),
            }
    return {**result, 'cameras': cameras} if result or cameras else None


def _float(text: str | None) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def run(argv: Sequence[str]) -> int:
    """Show the hand until interrupted; `argv` without the program's name. Returns the exit status."""
    return run_node('viewer', lambda: ViewerNode(names_for_any_node(argv, 'viewer')), argv)


def main() -> int:
    """The executable `viewer`."""
    return run(sys.argv[1:])


if __name__ == '__main__':
    raise SystemExit(main())
