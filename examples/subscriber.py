"""Prints each fingertip with the radius that holds it with 95 %; needs ROS 2 and this package's messages."""

import numpy as np
import rclpy
from hand_unc_ros.msg import HandJointsWithCovariance

TIPS = {'thumb': 4, 'index': 8, 'middle': 12, 'ring': 16, 'little': 20}


def on_hand(hand):
    covariance = np.reshape(hand.covariance, (21, 3, 3))  # m², world frame
    for name, tip in TIPS.items():
        if hand.valid[tip]:
            radius_mm = 1e3 * np.sqrt(7.81 * np.linalg.eigvalsh(covariance[tip])[-1])  # 7.81: χ² of 3 dof, 95 %
            position = hand.joints[tip]
            print(f'{name} ({position.x:.3f}, {position.y:.3f}, {position.z:.3f}) m, within {radius_mm:.1f} mm')


rclpy.init()
node = rclpy.create_node('fingertips')
node.create_subscription(HandJointsWithCovariance, '/hand/joints_with_covariance', on_hand, 5)
rclpy.spin(node)
