"""Plays a bag into the estimator, and ends with it.

ros2 launch hand_unc_ros replay.launch.py bag:=DIR params_file:=my_rig.yaml record:=OUT
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage

from hand_unc_ros.data.bags.reader import INPUT_TYPES, open_bag
from hand_unc_ros.processes.shared_memory import PROFILE_VARIABLE, shipped_profile
from hand_unc_ros.resources import resource
from launch import Action, Event, EventHandler, LaunchContext, LaunchDescription

ARGUMENTS = {
    'bag': (None, 'Bag to play; what an estimator published when it was recorded is left out'),
    'rate': ('1.0', 'Speed'),
    'loop': ('false', 'Start again at the end, until Ctrl-C'),
    'clock': ('true', "Publish /clock with the bag's time"),
    'namespace': ('hand', 'Namespace of the nodes and of what they publish'),
    'params_file': (str(resource('config/multiview.yaml')), 'ROS parameters: cameras, rig file, options'),
    'rig': ('', 'Rig file (default: rig.yaml of the bag, else the one that params_file names)'),
    'transport': ('', 'raw or compressed images (default: what the bag holds)'),
    'use_sim_time': ('true', 'Take the time from /clock'),
    'log_level': ('info', 'debug, info, warn, error or fatal'),
    'viewer': ('false', 'Serve the browser view at http://127.0.0.1:8080'),
    'record': ('', "Bag to write: the bag's images and the new estimates"),
}
# The player waits that long for the other nodes to subscribe; the estimator does when it is active, after its start and
# the loading of its networks.
WAIT_S = 180
# For the last estimates to come out, before everything is shut down.
DRAIN_S = 2.0


def start(context: LaunchContext) -> list[Action]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}

    def asked(name: str) -> bool:
        return given[name].lower() in ('true', '1')

    bag = Path(given['bag'])
    with open_bag(bag) as content:
        types = {connection.topic: connection.msgtype for connection in content.connections}
    recorded_rig = bag / 'rig.yaml'
    rig = given['rig'] or (str(recorded_rig) if recorded_rig.is_file() else '')
    raw = any(kind == 'sensor_msgs/msg/Image' for kind in types.values())
    transport = given['transport'] or ('raw' if raw else 'compressed')

    multiview = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(resource('launch/multiview.launch.py'))),
        launch_arguments=[('rig', rig), ('transport', transport), ('autostart', 'true'), ('use_respawn', 'false'),
                          *((name, given[name]) for name in ('namespace', 'params_file', 'use_sim_time', 'log_level'))])
    options = ['--inputs', '--rate', given['rate'], '--wait', str(WAIT_S),
               '--subscribers', '2' if given['record'] else '1',
               *(f'--{name}' for name in ('loop', 'clock') if asked(name))]
    player = _tool('bag', 'play', str(bag), *options)

    def failed(event: Event) -> bool:
        """The estimator died, or could not be configured."""
        return (isinstance(event, ProcessExited) and not context.is_shutdown
                and getattr(event.action, 'node_name', None) == f'/{given["namespace"].strip("/")}/multiview')

    give_up = EmitEvent(event=Shutdown(reason='there is no estimator'))
    end = OnProcessExit(target_action=player, on_exit=[
        TimerAction(period=DRAIN_S, actions=[EmitEvent(event=Shutdown(reason='the bag has been played'))])])
    actions = [
        RegisterEventHandler(end),
        RegisterEventHandler(EventHandler(matcher=failed, entities=[give_up], handle_once=True)),
        multiview,
        player,
    ]
    overrides = {name: ParameterValue(value, value_type=str)
                 for name, value in (('rig.file', rig), ('transport', transport)) if value}
    if asked('viewer'):
        actions.append(Node(
            package='hand_unc_ros', executable='viewer', name='viewer', namespace=given['namespace'],
            parameters=[given['params_file'], {'use_sim_time': asked('use_sim_time'), **overrides}],
            arguments=['--ros-args', '--log-level', given['log_level']], output='screen'))
    if given['record']:
        inputs = [topic for topic, kind in types.items() if kind in INPUT_TYPES]
        actions.append(_tool(
            'bag', 'record', '-o', given['record'], '--namespace', given['namespace'], '--no-images',
            *(word for topic in inputs for word in ('--topic', topic)), *(['--rig', rig] if rig else []),
            *(['--use-sim-time'] if asked('use_sim_time') else [])))
    return actions


def _tool(*words: str) -> ExecuteProcess:
    return ExecuteProcess(cmd=[ExecutableInPackage('hand-unc', 'hand_unc_ros'), *words], output='screen',
                          sigterm_timeout='15')


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=description)
          for name, (default, description) in ARGUMENTS.items()),
        SetEnvironmentVariable(
            PROFILE_VARIABLE, EnvironmentVariable(PROFILE_VARIABLE, default_value=str(shipped_profile()))),
        OpaqueFunction(function=start),
    ])
