"""Starts a synthetic rig, the estimator and the browser view at http://127.0.0.1:8080.

ros2 launch hand_unc_ros synthetic.launch.py
"""

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

from hand_unc_ros.processes.shared_memory import PROFILE_VARIABLE, shipped_profile
from hand_unc_ros.resources import resource
from launch import LaunchDescription

ARGUMENTS = {
    'namespace': ('hand', 'Namespace of the nodes and of what they publish'),
    'params_file': (str(resource('config/synthetic.yaml')), 'ROS parameter file for all nodes'),
    'autostart': ('true', 'Configure and activate the estimator; false leaves that to `ros2 lifecycle set`'),
    'use_respawn': ('false', 'Start a node again when it dies'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'viewer': ('true', 'Serve the browser view'),
}


def generate_launch_description() -> LaunchDescription:
    common = {
        'package': 'hand_unc_ros',
        'namespace': LaunchConfiguration('namespace'),
        'parameters': [LaunchConfiguration('params_file')],
        'arguments': ['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        'respawn': LaunchConfiguration('use_respawn'),
        'respawn_delay': 2.0,
        'sigterm_timeout': '15',  # unloading PyTorch takes its time on a busy machine
        'output': 'screen',
    }
    shared = {name: LaunchConfiguration(name) for name in ARGUMENTS if name != 'viewer'}
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, (default, description) in ARGUMENTS.items()),
        SetEnvironmentVariable(
            PROFILE_VARIABLE, EnvironmentVariable(PROFILE_VARIABLE, default_value=str(shipped_profile()))),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(resource('launch/multiview.launch.py'))),
            # The rig stamps its images with the system's clock.
            launch_arguments=[('use_sim_time', 'false'), *shared.items()]),
        Node(executable='synthetic_rig', name='synthetic_rig', **common),
        Node(executable='viewer', name='viewer', condition=IfCondition(LaunchConfiguration('viewer')),
             **common),
    ])
