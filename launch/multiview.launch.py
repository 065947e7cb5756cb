"""Starts the estimator: cameras in, hand joints with covariance out.

ros2 launch hand_unc_ros multiview.launch.py params_file:=my_rig.yaml
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

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
PROFILE = 'FASTDDS_DEFAULT_PROFILES_FILE'


def start_node(context: LaunchContext) -> list[Action]:
    given = {parameter: LaunchConfiguration(argument).perform(context)
             for argument, parameter in (('rig', 'rig.file'), ('transport', 'transport'))}
    node = LifecycleNode(
        package='hand_unc_ros',
        executable='multiview',
        name='multiview',
        namespace=LaunchConfiguration('namespace'),
        parameters=[
            LaunchConfiguration('params_file'),
            {'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool),
             **{name: ParameterValue(value, value_type=str) for name, value in given.items() if value}},
        ],
        arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        respawn=LaunchConfiguration('use_respawn'),
        respawn_delay=2.0,
        sigterm_timeout='15',  # unloading PyTorch takes its time on a busy machine
        output='screen',
    )

    def request(transition: int) -> EmitEvent:
        event = ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
        return EmitEvent(event=event)

    # Activated once for each start of the process, and only coming from `configuring`: what somebody
    # deactivates or cleans up by hand later on stays as they left it.
    activate = RegisterEventHandler(
        OnStateTransition(target_lifecycle_node=node, start_state='configuring', goal_state='inactive',
                          entities=[request(Transition.TRANSITION_ACTIVATE)], handle_once=True))
    bring_up = RegisterEventHandler(
        OnProcessStart(target_action=node, on_start=[activate, request(Transition.TRANSITION_CONFIGURE)]),
        condition=IfCondition(LaunchConfiguration('autostart')))
    # bring_up comes before the node, so that its start is not missed.
    return [bring_up, node]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, (default, description) in ARGUMENTS.items()),
        SetEnvironmentVariable(
            PROFILE, EnvironmentVariable(PROFILE, default_value=str(resource('config/fastdds.xml')))),
        OpaqueFunction(function=start_node),
    ])
