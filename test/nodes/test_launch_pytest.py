"""The launch files, with the `launch` of a ROS 2 installation: lifecycle, arguments, a message, exit codes.

Runs where launch_pytest is and the package has been installed by colcon: `colcon test`, or pytest in a shell
that has sourced install/setup.bash.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

launch_pytest = pytest.importorskip('launch_pytest', reason='no launch_pytest; it comes with ROS 2')
rclpy = pytest.importorskip('rclpy', reason='no ROS 2 here')

import yaml  # noqa: E402
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory  # noqa: E402
from bag_cases import write_video  # noqa: E402
from bag_record_cases import by_topic, contents  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from launch import LaunchDescription  # noqa: E402
from launch.actions import IncludeLaunchDescription, RegisterEventHandler  # noqa: E402
from launch.event_handlers import OnProcessExit, OnProcessStart  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from launch_pytest.actions import ReadyToTest  # noqa: E402
from lifecycle_msgs.msg import State, Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from network_cases import save_tiny  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rig_cases import ring  # noqa: E402
from ros_system import take_down  # noqa: E402

from hand_unc_ros.data.bags.reader import describe_bag  # noqa: E402
from hand_unc_ros.data.bags.from_videos import DEFAULT_START_TIME_S, from_videos  # noqa: E402
from hand_unc_ros.data.rigs import load_rig, save_rig  # noqa: E402

try:
    SHARE = Path(get_package_share_directory('hand_unc_ros'))
except PackageNotFoundError:
    pytest.skip('hand_unc_ros is not installed in an ament prefix', allow_module_level=True)

# Processes start in seconds, on a busy machine in tens of them.
PATIENCE_S = 60.0
# From SIGKILL to active: one second of them launch waits, and most are imports.
RESPAWN_S = 10.0


class Client:
    """A node of the test's own that calls and listens; everything waits for a condition."""

    def __init__(self, domain: int) -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self.node = Node('client', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def close(self) -> None:
        self._executor.shutdown()
        take_down(self._context, self.node)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f'{what}: not within {PATIENCE_S:g} s'
            self._executor.spin_once(timeout_sec=0.05)

    def call(self, kind: type, name: str, request: object) -> object:
        client = self.node.create_client(kind, name)
        try:
            self.until(client.service_is_ready, f'service {name}')
            future = client.call_async(request)
            self.until(future.done, f'answer of {name}')
            return future.result()
        finally:
            self.node.destroy_client(client)

    def state(self, node: str) -> int:
        return self.call(GetState, f'{node}/get_state', GetState.Request()).current_state.id

    def change(self, node: str, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, f'{node}/change_state', request).success


@pytest.fixture
def client(ros_domain: int) -> Iterator[Client]:
    client = Client(ros_domain)
    yield client
    client.close()


@pytest.fixture
def exit_statuses() -> list[int]:
    """Filled in as launched processes end."""
    return []


@pytest.fixture
def pids() -> list[int]:
    """Filled in as processes start."""
    return []


def include(name: str, exit_statuses: list[int], pids: list[int] | None = None, **arguments: str) -> LaunchDescription:
    source = PythonLaunchDescriptionSource(str(SHARE / 'launch' / name))
    record = OnProcessExit(on_exit=lambda event, context: exit_statuses.append(event.returncode))
    started = OnProcessStart(on_start=lambda event, context: None if pids is None else pids.append(event.pid))
    return LaunchDescription([
        RegisterEventHandler(record), RegisterEventHandler(started),
        IncludeLaunchDescription(source, launch_arguments=list(arguments.items())), ReadyToTest()])


def write_params(folder: Path) -> Path:
    """Parameters of an estimator with tiny, untrained networks: enough to configure and to activate."""
    weights, finder_weights = save_tiny(folder)
    save_rig(ring((0, 90)), folder / 'rig.yaml')
    params = folder / 'params.yaml'
    params.write_text(yaml.safe_dump({'/**/multiview': {'ros__parameters': {
        'rig.file': str(folder / 'rig.yaml'), 'weights': str(weights),
        'finder_weights': str(finder_weights), 'device': 'cpu', 'threads': 1}}}))
    return params


@launch_pytest.fixture
def multiview(ros_domain: int, tmp_path: Path, exit_statuses: list[int]) -> LaunchDescription:
    return include('multiview.launch.py', exit_statuses, namespace='left_hand',
                   params_file=str(write_params(tmp_path)))


@pytest.mark.launch(fixture=multiview)
def test_multiview_comes_up_and_obeys(client: Client, exit_statuses: list[int]) -> Iterator[None]:
    node = '/left_hand/multiview'
    client.until(lambda: client.state(node) == State.PRIMARY_STATE_ACTIVE, 'autostart to active')
    topics = {'/left_hand/joints_with_covariance', '/left_hand/view_estimates', '/left_hand/markers'}
    client.until(lambda: topics <= {name for name, _ in client.node.get_topic_names_and_types()}, str(topics))
    # One that was deactivated, or configured anew, by hand stays inactive: launch must not activate it again.
    assert client.change(node, Transition.TRANSITION_DEACTIVATE)
    assert client.change(node, Transition.TRANSITION_CLEANUP)
    assert client.change(node, Transition.TRANSITION_CONFIGURE)
    heard: list[object] = []
    client.node.create_subscription(DiagnosticArray, '/diagnostics', heard.append, 10)
    client.until(lambda: len(heard) >= 2, 'two diagnostics, a second apart')
    assert client.state(node) == State.PRIMARY_STATE_INACTIVE
    assert client.change(node, Transition.TRANSITION_ACTIVATE)
    assert client.state(node) == State.PRIMARY_STATE_ACTIVE
    assert exit_statuses == []
    yield
    # Here launch has shut everything down, as Ctrl-C does.
    assert exit_statuses == [0]


@launch_pytest.fixture
def multiview_with_respawn(ros_domain: int, tmp_path: Path, exit_statuses: list[int],
                           pids: list[int]) -> LaunchDescription:
    return include('multiview.launch.py', exit_statuses, pids, use_respawn='true',
                   params_file=str(write_params(tmp_path)))


@pytest.mark.launch(fixture=multiview_with_respawn)
def test_a_killed_node_comes_back_active(client: Client, exit_statuses: list[int], pids: list[int]) -> None:
    """Its diagnostics are asked and not its services: those of the dead participant are still in the graph."""
    heard: list[DiagnosticStatus] = []
    client.node.create_subscription(
        DiagnosticArray, '/diagnostics', lambda message: heard.append(message.status[0]), 10)

    def active(pid: int) -> bool:
        return any(status.message != 'not active'
                   and any(pair.key == 'process' and pair.value.endswith(f':{pid}') for pair in status.values)
                   for status in heard)

    begin = time.monotonic()
    client.until(lambda: bool(pids) and active(pids[0]), 'active')
    killed = time.monotonic()
    os.kill(pids[0], signal.SIGKILL)
    client.until(lambda: len(pids) == 2 and active(pids[1]), 'active again')
    # A machine that takes longer for a start takes longer for the second one, too.
    assert time.monotonic() - killed < max(RESPAWN_S, 2 * (killed - begin))
    assert exit_statuses == [-signal.SIGKILL]


@launch_pytest.fixture
def multiview_by_hand(ros_domain: int, tmp_path: Path, exit_statuses: list[int]) -> LaunchDescription:
    return include('multiview.launch.py', exit_statuses, autostart='false',
                   params_file=str(write_params(tmp_path)))


@pytest.mark.launch(fixture=multiview_by_hand)
def test_without_autostart_the_node_waits(client: Client) -> None:
    node = '/hand/multiview'
    assert client.state(node) == State.PRIMARY_STATE_UNCONFIGURED
    assert client.change(node, Transition.TRANSITION_CONFIGURE)
    # Configured by hand means activated by hand: nobody else may do it meanwhile.
    assert client.state(node) == State.PRIMARY_STATE_INACTIVE
    assert client.change(node, Transition.TRANSITION_ACTIVATE)
    assert client.change(node, Transition.TRANSITION_DEACTIVATE)
    assert client.change(node, Transition.TRANSITION_CLEANUP)
    assert client.state(node) == State.PRIMARY_STATE_UNCONFIGURED


@launch_pytest.fixture
def synthetic(ros_domain: int, exit_statuses: list[int]) -> LaunchDescription:
    return include('synthetic.launch.py', exit_statuses, viewer='false')


@pytest.mark.launch(fixture=synthetic)
@pytest.mark.skipif(not list((SHARE / 'models').glob('*.safetensors')), reason='no weights in models/')
def test_synthetic_rig_gives_hands_over_tf(client: Client, exit_statuses: list[int]) -> Iterator[None]:
    pytest.importorskip('tf2_ros')
    from hand_unc_ros.msg import HandJointsWithCovariance
    hands: list[HandJointsWithCovariance] = []
    client.node.create_subscription(HandJointsWithCovariance, '/hand/joints_with_covariance', hands.append, 5)
    client.until(lambda: len(hands) >= 10, 'ten hands')
    assert all(any(hand.valid) and hand.header.frame_id == 'world' for hand in hands)
    assert hands[-1].cameras == ['cam0', 'cam1', 'cam2', 'cam3']
    assert exit_statuses == []
    yield
    assert exit_statuses == [0, 0]


@launch_pytest.fixture(auto_shutdown=False)
def replay(ros_domain: int, tmp_path: Path, exit_statuses: list[int]) -> LaunchDescription:
    """A bag of compressed images, which the parameters know nothing of, at twice its speed."""
    params = write_params(tmp_path)
    rig = load_rig(tmp_path / 'rig.yaml')
    size = (rig.cameras[0].width, rig.cameras[0].height)
    videos = [write_video(tmp_path / f'{name}.mp4', size=size) for name in rig.names]
    bag = from_videos(videos, rig, tmp_path / 'bag', progress=False)
    (tmp_path / 'rig.yaml').unlink()
    return include('replay.launch.py', exit_statuses, bag=str(bag), params_file=str(params), rate='2.0',
                   record=str(tmp_path / 'recorded'))


@pytest.mark.launch(fixture=replay, shutdown=True)
def test_a_replay_ends_with_its_bag_and_is_recorded(tmp_path: Path, exit_statuses: list[int]) -> None:
    assert exit_statuses == [0, 0, 0]
    played, recorded = (by_topic(contents(tmp_path / name)) for name in ('bag', 'recorded'))
    images = [topic for topic in played if topic.endswith('compressed')]
    assert len(images) == 2
    for topic in images:
        # The wire pads messages to words of four bytes.
        assert [data[:len(own)] for own, data in zip(played[topic], recorded[topic], strict=True)] == played[topic]
    assert recorded['/diagnostics']
    # At the bag's own times, not at those of the replay.
    assert describe_bag(tmp_path / 'recorded').start_ns // 10 ** 9 == int(DEFAULT_START_TIME_S)
    assert load_rig(tmp_path / 'recorded' / 'rig.yaml').names == load_rig(tmp_path / 'bag' / 'rig.yaml').names
