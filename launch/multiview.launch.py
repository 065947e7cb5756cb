"""Starts the estimator: cameras in, hand joints with covariance out.

ros2 launch hand_unc_ros multiview.launch.py params_file:=my_rig.yaml
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from hand_unc_ros.processes.shared_memory import PROFILE_VARIABLE, shipped_profile
from hand_unc_ros.resources import resource
from launch import Action, LaunchContext, LaunchDescription

ARGUMENTS = {
    'namespace': ('hand', 'Namespace of the node and of what it publishes'),
    'params_file': (str(resource('config/multiview.yaml')), 'ROS parameters: cameras, rig file, options'),
    'rig': ('', 'Rig file, in place of the one that params_file names'),
    'transport': ('', 'raw or compressed images, in place of what params_file says'),
    'use_sim_time': ('false', 'Take the time from /clock, as for a bag played with --clock'),
    'autostart': ('true', 'Configure and activate the node; false leaves that to `ros2 lifecycle set`'),
    'use_respawn': ('false', 'Start the node again when it dies'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
}


def start_node(context: LaunchContext) -> list[Action]:
    given = {parameter: LaunchConfiguration(argument).perform(context)
             for argument, parameter in (('rig', 'rig.file'), ('transport', 'transport'))}
    # The process activates itself at its start, so that one that is started again after a crash comes back active: a
    # request to its services from here might go to the participant that has died. What somebody deactivates later on
    # stays as they left it.
    autostart = ['--autostart'] if IfCondition(LaunchConfiguration('autostart')).evaluate(context) else []
    return [LifecycleNode(
        package='hand_unc_ros',
        executable='multiview',
        name='multiview',
        namespace=LaunchConfiguration('namespace'),
        parameters=[
            LaunchConfiguration('params_file'),
            {'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool),
             **{name: ParameterValue(value, value_type=str) for name, value in given.items() if value}},
        ],
        arguments=[*autostart, '--ros-args', '--log-level', LaunchConfiguration('log_level')],
        respawn=LaunchConfiguration('use_respawn'),
        respawn_delay=1.0,
        sigterm_timeout='15',  # unloading PyTorch takes its time on a busy machine
        output='screen',
    )]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, (default, description) in ARGUMENTS.items()),
        SetEnvironmentVariable(
            PROFILE_VARIABLE, EnvironmentVariable(PROFILE_VARIABLE, default_value=str(shipped_profile()))),
        OpaqueFunction(function=start_node),
    ])
