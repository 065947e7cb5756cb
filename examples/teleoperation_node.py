"""A ROS node that drives a robot hand by a human one and says when it may grasp.

    python examples/teleoperation_node.py --ros-args -r __ns:=/hand -p robot:=allegro -p urdf_dir:=dex-urdf/robots/hands

Subscribes to `joints_with_covariance`. Publishes `robot_joints` (sensor_msgs/JointState, stamp of the capture),
`grasp_probability` (std_msgs/Float32, NaN where unknown) and `grasp_allowed` (std_msgs/Bool, with every estimate and at
least every half of max_age: a consumer should take silence for false).
"""

from __future__ import annotations

import math
import sys
import time

from grasp_gate import GraspGate, probability_aperture_within, probability_within
from hand_unc_ros.msg import HandJointsWithCovariance
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from retargeting import DRIFT, RobotHand, VectorFilter, human_vectors, vector_covariance
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float32

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.nodes.messages import hand_from_message
from hand_unc_ros.nodes.parameters import declare
from hand_unc_ros.nodes.process import run_node
from hand_unc_ros.settings.parameters import Parameter

PARAMETERS = (
    Parameter('robot', 'allegro', "Robot hand, as dex-retargeting calls it. Empty: only the gate."),
    Parameter('urdf_dir', 'dex-urdf/robots/hands', 'Folder robots/hands of a clone of dexsuite/dex-urdf.'),
    Parameter('side', 'right', 'Which hand; estimates of the other are left alone.', choices=('right', 'left')),
    Parameter('weighting', True, 'Smooth the vectors by their covariance before retargeting.'),
    Parameter('drift', DRIFT, 'How fast fingertips wander: larger follows faster and smooths less.', 'm²/s', 1e-6, 1.0),
    Parameter('quantity', 'fingertips', 'What has to be within the tolerance of the estimate: all fingertips of the '
              'human hand, or the distance from thumb tip to index tip.', choices=('fingertips', 'aperture')),
    Parameter('tolerance', 0.03, 'Largest error that the grasp forgives.', 'm', 1e-4, 1.0),
    Parameter('p_open', 0.9, 'Probability from which on a grasp is allowed.', '', 0.0, 1.0),
    Parameter('p_close', 0.75, 'Probability below which it is not any more.', '', 0.0, 1.0),
    Parameter('max_age', 0.25, 'Age of a capture from which on nothing is allowed and nothing moves.', 's', 0.01, 10.0),
    Parameter('require_calibrated', True, 'Refuse a covariance to which no factor from held-out data was applied.'),
)
_LOG_EVERY_S = 5.0


class Teleoperation(Node):
    """Raises MissingDependencyError or ConfigError with the remedy."""

    def __init__(self) -> None:
        super().__init__('teleoperation')
        self.values = values = declare(self, PARAMETERS)
        if values['p_close'] > values['p_open']:
            raise ConfigError('p_close is above p_open; the gate opens at p_open and closes below p_close')
        self.robot = None
        if values['robot']:
            self.robot = RobotHand(values['robot'], values['urdf_dir'], values['side'])
        self.filter = VectorFilter(values['drift'])
        self.gate = GraspGate(values['p_open'], values['p_close'], values['max_age'])
        self.stamp_ns: int | None = None
        self.track_id: int | None = None
        self.arrival_s = -math.inf
        self.joints_publisher = self.create_publisher(JointState, 'robot_joints', 1)
        self.allowed_publisher = self.create_publisher(Bool, 'grasp_allowed', 1)
        self.probability_publisher = self.create_publisher(Float32, 'grasp_probability', 1)
        self.create_subscription(HandJointsWithCovariance, 'joints_with_covariance', self._take, QoSProfile(depth=1))
        self.create_timer(values['max_age'] / 2, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _take(self, message: HandJointsWithCovariance) -> None:
        other = {'right': message.HANDEDNESS_LEFT, 'left': message.HANDEDNESS_RIGHT}[self.values['side']]
        if message.handedness == other:
            self.get_logger().warning(f"an estimate is of the other hand than '{self.values['side']}'; left alone",
                                      throttle_duration_sec=_LOG_EVERY_S)
            return
        try:
            hand = hand_from_message(message)
        except ValueError as error:
            self.get_logger().warning(f'an estimate does not fit together: {error}', throttle_duration_sec=_LOG_EVERY_S)
            return
        within = probability_within if self.values['quantity'] == 'fingertips' else probability_aperture_within
        probability = within(self.values['tolerance'], hand.joints, hand.covariance)
        elapsed_s = (hand.stamp_ns - self.stamp_ns) / 1e9 if self.stamp_ns is not None else math.inf
        if hand.track_id != self.track_id or not 0.0 <= elapsed_s <= 4 * self.values['max_age']:
            # Another hand, a jump in time or a long gap: what was believed before says nothing now.
            self.filter.reset()
        self.stamp_ns, self.track_id, self.arrival_s = hand.stamp_ns, hand.track_id, time.monotonic()
        age_s = (self.get_clock().now().nanoseconds - hand.stamp_ns) / 1e9
        if self.values['require_calibrated'] and not hand.covariance_calibrated:
            self._tell(self.gate.is_open, self.gate.refuse('the covariance is not calibrated'))
        else:
            self._tell(self.gate.is_open, self.gate.judge(probability, age_s))
        self.probability_publisher.publish(Float32(data=probability))
        # An old estimate must not move the robot either.
        if self.robot is not None and abs(age_s) <= self.values['max_age']:
            self._move(message, hand, elapsed_s)

    def _move(self, message: HandJointsWithCovariance, hand, elapsed_s: float) -> None:
        where = self.robot.origins, self.robot.tasks, self.values['side']
        vectors = human_vectors(hand.joints, *where)
        if self.values['weighting']:
            vectors = self.filter.update(elapsed_s, vectors, vector_covariance(hand.joints, hand.covariance, *where))
        # Without all vectors the robot stays where it is.
        if vectors is not None and all(map(math.isfinite, vectors.ravel())):
            command = JointState(name=self.robot.joint_names, position=self.robot.retarget(vectors).tolist())
            command.header.stamp = message.header.stamp
            self.joints_publisher.publish(command)

    def _watch(self) -> None:
        """Close the gate when nothing comes any more; by the steady clock, which nobody sets."""
        silent_s = time.monotonic() - self.arrival_s
        was_open = self.gate.is_open
        if silent_s > self.values['max_age']:
            self.gate.refuse('no estimate has come yet' if self.stamp_ns is None else
                             f"no estimate for more than {self.values['max_age']:g} s")
        self._tell(was_open, self.gate.is_open)

    def _tell(self, was_open: bool, is_open: bool) -> None:
        if was_open != is_open:
            self.get_logger().info(f"grasp {'allowed' if is_open else 'refused'}: {self.gate.reason}")
        self.allowed_publisher.publish(Bool(data=is_open))


if __name__ == '__main__':
    raise SystemExit(run_node('teleoperation', Teleoperation, sys.argv[1:]))
