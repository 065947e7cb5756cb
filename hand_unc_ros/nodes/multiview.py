"""The `multiview` node: images of several calibrated cameras in, hand joints with covariance out."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from visualization_msgs.msg import MarkerArray

from hand_unc_ros.data.camera_calibrations import CameraCalibrations
from hand_unc_ros.data.image_messages import decode_compressed, decode_image
from hand_unc_ros.data.rigs import load_info_topics, load_rig, load_topics
from hand_unc_ros.errors import CalibrationError, ConfigError, HandUncError
from hand_unc_ros.estimation.ahead import ahead
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.health import CameraHealth, StandingClock
from hand_unc_ros.estimation.settings import require_cameras
from hand_unc_ros.estimation.stream import Estimator, Stream
from hand_unc_ros.estimation.synchroniser import MatchedSet, Statistics
from hand_unc_ros.estimation.types import FrameResult, HandEstimate
from hand_unc_ros.estimation.worker import LiveClock, Worker
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.msg import HandJointsWithCovariance, HandMesh, ViewEstimate
from hand_unc_ros.nodes.diagnostics import (
    CameraState,
    OutputState,
    camera_status,
    make_status,
    output_status,
    silence_s,
)
from hand_unc_ros.nodes.filter_synchroniser import build_synchroniser
from hand_unc_ros.nodes.inputs import CameraInput
from hand_unc_ros.nodes.markers import hand_markers
from hand_unc_ros.nodes.messages import (
    hand_to_message,
    mesh_to_message,
    readings_to_messages,
    stamp_from_message,
)
from hand_unc_ros.nodes.parameters import declare
from hand_unc_ros.nodes.process import run_node
from hand_unc_ros.nodes.rivals import PROCESS, Rivals
from hand_unc_ros.nodes.transforms import TransformSource
from hand_unc_ros.settings.estimator import estimator_settings
from hand_unc_ros.settings.parameter_files import names_for_any_node
from hand_unc_ros.settings.parameters import refusal
from hand_unc_ros.settings.topics import image_topics, info_topic

_TRANSFORM_PERIOD_S = 0.5
_LOG_EVERY_S = 5.0
# An array of markers lives for this many periods, and never longer than the second number of seconds.
_MARKER_PERIODS, _MARKER_LIMIT_S = 3.0, 1.5


def build_from_parameters(values: Mapping[str, Any], cameras: tuple[str, ...]) -> Estimator:
    """The estimator that the parameters ask for; raises HandUncError with the remedy."""
    return build_estimator(estimator_settings(values), cameras)


BuildEstimator = Callable[[Mapping[str, Any], tuple[str, ...]], Estimator]


class MultiviewNode(LifecycleNode):
    """Lifecycle node; configure loads and checks, activate subscribes and publishes.

    build_estimator: from the parameters' values and the cameras to an estimator; tests bring their own.
    names_for_any: parameters that are given to every node, and may be unknown here.
    Raises ConfigError for a parameter that is out of range or unknown.
    """

    def __init__(self, build_estimator: BuildEstimator = build_from_parameters, names_for_any: Collection[str] = (),
                 **node_options: Any) -> None:
        self._build_estimator = build_estimator
        self._cameras: tuple[str, ...] = ()
        self._topics: dict[str, str] = {}
        self._info_topics: dict[str, str] = {}
        self._frames: dict[str, str] = {}
        self._health: dict[str, CameraHealth] = {}
        self._inputs: dict[str, CameraInput] = {}
        self._estimator: Estimator | None = None
        self._calibrations: CameraCalibrations | None = None
        self._transforms: TransformSource | None = None
        self._transform_timer: Any = None
        self._worker: Worker | None = None
        self._outputs: list[Any] = []
        self._failure: str | None = None
        super().__init__('multiview', **node_options)
        try:
            self._values = declare(self, names_for_any=names_for_any)
        except ConfigError:
            self.destroy_node()
            raise
        self.add_on_set_parameters_callback(self._set_parameters)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._standing = StandingClock()
        self._rivals = Rivals(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(self._values['diagnostics.period'], self._publish_diagnostics, clock=self._steady)

    # --- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Build the estimator from the parameters; a failure names its reason."""
        try:
            self._configure()
        except Exception as error:
            self._failure = f'cannot be configured: {error}'
            self.get_logger().error(self._failure)
            if not isinstance(error, HandUncError):
                self.get_logger().error(traceback.format_exc())
            self._release()
            return TransitionCallbackReturn.FAILURE
        self._failure = None
        self.get_logger().info(f'configured for {len(self._cameras)} cameras: {", ".join(self._cameras)}')
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras and publish hands."""
        result = super().on_activate(state)
        self._start()
        # Whoever waits for this node learns now that it is there.
        self._publish_diagnostics()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the subscriptions and publish no more; the estimator stays."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the estimator."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the estimator."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the estimator, so that the node can be configured again."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """Release the estimator and end the node."""
        self._release()
        super().destroy_node()

    def _configure(self) -> None:
        values = self._values
        rig: CameraRig | None = None
        named: dict[str, str] = {}
        named_infos: dict[str, str] = {}
        if values['rig.file']:
            rig = load_rig(values['rig.file'])
            named, named_infos = load_topics(values['rig.file']), load_info_topics(values['rig.file'])
        self._cameras = tuple(name for name in values['cameras'] if name) or rig.names
        require_cameras(values['min_views'], len(self._cameras), 'the rig')
        self._topics = image_topics(self._cameras, values['image_topic'], values['transport'], named)
        self._info_topics = {name: info_topic(topic, values['camera_info_topic'], name, named_infos)
                             for name, topic in self._topics.items()}
        pose_used = values['rig.extrinsics'] == 'tf'
        self._calibrations = CameraCalibrations(
            self._cameras, rig if 'file' in (values['rig.intrinsics'], values['rig.extrinsics']) else None,
            info_used=values['rig.intrinsics'] == 'camera_info', pose_used=pose_used,
            image_topics=self._topics, info_topics=self._info_topics)
        self._transforms = TransformSource(self, values['world_frame']) if pose_used else None
        self._frames = {name: name for name in self._cameras}
        # What cannot be had is found here, and not when the node is activated.
        build_synchroniser(values, self._cameras)
        self._estimator = self._build_estimator(values, self._cameras)
        self._create_publishers()

    def _create_publishers(self) -> None:
        reliable, best_effort = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT

        def publisher(message_type: type, topic: str, depth: int, reliability: ReliabilityPolicy) -> Any:
            qos = QoSProfile(depth=depth, reliability=reliability)
            return self.create_lifecycle_publisher(message_type, topic, qos)

        self._joints = publisher(HandJointsWithCovariance, 'joints_with_covariance', 5, reliable)
        self._mesh = publisher(HandMesh, 'mesh', 1, reliable)
        self._markers = publisher(MarkerArray, 'markers', 1, reliable)
        self._views = publisher(ViewEstimate, 'view_estimates', 2 * len(self._cameras), best_effort)
        self._outputs = [self._joints, self._mesh, self._markers, self._views]

    def _start(self) -> None:
        values = self._values
        transport = values['transport']
        self._health = {name: CameraHealth(self.resolve_topic_name(topic), transport)
                        for name, topic in self._topics.items()}
        stream = Stream(build_synchroniser(values, self._cameras), self._estimator, self._calibrations.camera,
                        decode_image if transport == 'raw' else decode_compressed)
        clock = LiveClock(now_ns=lambda: self.get_clock().now().nanoseconds,
                          simulated=lambda: self.get_clock().ros_time_is_active)
        self._worker = Worker(stream, self._health, clock, publish=self._publish, fail=self._log_failure,
                              max_age_s=lambda: values['publish.max_age'])
        self._estimator.reset()
        self._worker.start()
        for name, topic in self._topics.items():
            self._inputs[name] = CameraInput(
                self, name, topic, transport, values['reliable'], self._take_image,
                self._info_topics[name], self._take_info)
        if self._transforms is not None:
            self._transform_timer = self.create_timer(
                _TRANSFORM_PERIOD_S, self._look_up_poses, clock=self._steady)

    def _stop(self) -> None:
        for camera_input in self._inputs.values():
            camera_input.destroy()
        self._inputs.clear()
        if self._transform_timer is not None:
            self.destroy_timer(self._transform_timer)
            self._transform_timer = None
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _release(self) -> None:
        self._stop()
        for publisher in self._outputs:
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = []
        if self._transforms is not None:
            self._transforms.close()
        if self._estimator is not None:
            self._estimator.close()
        self._transforms = self._calibrations = self._estimator = None

    # --- input: these run in the executor's thread and only put down what came

    def _take_image(self, name: str, message: Any) -> None:
        if self._worker is not None:
            self._worker.add(name, stamp_from_message(message.header.stamp), message)

    def _take_info(self, name: str, message: Any) -> None:
        if self._calibrations is not None:
            self._frames[name] = message.header.frame_id or name
            self._calibrations.take_info(name, message)

    def _look_up_poses(self) -> None:
        for name in self._calibrations.without_pose:
            try:
                self._calibrations.take_pose(name, self._transforms.lookup(self._frames[name]))
            except CalibrationError as error:
                self._calibrations.refuse_pose(name, str(error))

    def _set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        reasons = [reason for p in parameters if (reason := refusal(p.name, p.value)) is not None]
        if reasons:
            return SetParametersResult(successful=False, reason='; '.join(reasons))
        self._values.update({p.name: p.value for p in parameters if p.name in self._values})
        return SetParametersResult(successful=True)

    # --- output: these run in the worker's thread

    def _publish(self, result: FrameResult, matched: MatchedSet) -> None:
        for hand in result.hands:
            self._publish_hand(hand)
        if not (self._values['publish.view_estimates'] and self._views.get_subscription_count()):
            return
        frames = {name: message.header.frame_id or name for name, (_, message) in matched.items.items()}
        for readings in result.readings:
            for message in readings_to_messages(readings, frames):
                self._views.publish(message)

    def _publish_hand(self, estimate: HandEstimate) -> None:
        values = self._values
        frame_id = values['world_frame']
        timely = ahead(estimate, self.get_clock().now().nanoseconds) if values['publish.predict_to_now'] else estimate
        self._joints.publish(hand_to_message(timely, frame_id, values['publish.full_covariance']))
        triangles = None
        if estimate.vertices is not None:
            surface = self._estimator.surfaces[estimate.handedness]
            triangles = surface.faces
            if self._mesh.get_subscription_count():
                self._mesh.publish(mesh_to_message(estimate, frame_id, triangles, surface.name))
        if values['publish.markers'] and self._markers.get_subscription_count():
            interval_s = max(values['sync.period'], self._interval_s())
            lifetime_s = min(_MARKER_PERIODS * interval_s, _MARKER_LIMIT_S)
            self._markers.publish(hand_markers(estimate, frame_id, lifetime_s, triangles))

    def _interval_s(self) -> float:
        worker = self._worker
        return worker.output.interval_s if worker is not None else 0.0

    def _log_failure(self, what: str, error: Exception) -> None:
        self.get_logger().error(f'a set of images was lost: {what}', throttle_duration_sec=_LOG_EVERY_S)
        self.get_logger().debug(''.join(traceback.format_exception(error)))

    # --- diagnostics

    def _publish_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = self._statuses()
        prefix = self.get_fully_qualified_name().lstrip('/')
        message.status[0].values.append(KeyValue(key='process', value=PROCESS))
        for status in message.status:
            status.name = f'{prefix}: {status.name}'
        self._diagnostics.publish(message)

    def _statuses(self) -> list[DiagnosticStatus]:
        """The output's, then the cameras'."""
        worker = self._worker
        if worker is None:
            if self._failure is not None:
                return [make_status('output', DiagnosticStatus.ERROR, self._failure, {})]
            return [make_status('output', DiagnosticStatus.OK, 'not active', {})]
        now_s = worker.seconds()
        clock = self.get_clock()
        clock_fault = self._standing.fault(now_s, time.monotonic()) if clock.ros_time_is_active else None
        period_s = self._values['sync.period']
        arriving = 0
        for name, health in self._health.items():
            silent = health.age_s(now_s) > silence_s(period_s)
            health.subscription_fault = self._inputs[name].fault() if silent else None
            arriving += not silent

        def read(statistics: Statistics) -> list[DiagnosticStatus]:
            output = OutputState(arriving, len(self._cameras), statistics, clock_fault, self._rivals.fault(),
                                 self._values['publish.max_age'])
            of_cameras = {name: CameraState(statistics.cameras[name], self._calibration_fault(name),
                                            self._calibrations.doubt(name))
                          for name in self._health}
            return [output_status(worker.output, output, now_s, period_s),
                    *(camera_status(name, health, of_cameras[name], now_s, period_s)
                      for name, health in self._health.items())]

        return worker.read_statistics(read)

    def _calibration_fault(self, name: str) -> str | None:
        if self._calibrations.awaits_info(name):
            return f'waiting for its CameraInfo: {self._inputs[name].info_fault()}'
        return self._calibrations.reason(name)


def run(argv: Sequence[str], build_estimator: BuildEstimator = build_from_parameters) -> int:
    """Run the node until it is interrupted; `argv` without the program's name. Returns the exit status."""
    parser = argparse.ArgumentParser(prog='multiview', description=__doc__)
    parser.add_argument('--autostart', action='store_true',
                        help='configure and activate without a lifecycle manager')
    options = parser.parse_args(remove_ros_args(list(argv)))

    def make() -> MultiviewNode | None:
        node = MultiviewNode(build_estimator, names_for_any_node(argv, 'multiview'))
        if options.autostart:
            for transition in (node.trigger_configure, node.trigger_activate):
                if transition() != TransitionCallbackReturn.SUCCESS:
                    node.destroy_node()
                    return None
        return node

    return run_node('multiview', make, argv)


def main() -> int:
    """The executable `multiview`."""
    return run(sys.argv[1:])


if __name__ == '__main__':
    raise SystemExit(main())
