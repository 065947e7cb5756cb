"""The node's states and parameters, in this process with an estimator of its own."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 here')
pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')

from dots import DotEstimator, dot_rig  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from hand_unc_ros.data.rigs import save_rig  # noqa: E402
from hand_unc_ros.errors import ConfigError  # noqa: E402
from hand_unc_ros.nodes.multiview import MultiviewNode  # noqa: E402

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture
def context(ros_domain):
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=ros_domain)
    yield context
    context.try_shutdown()


@pytest.fixture
def make(context, tmp_path: Path):
    save_rig(dot_rig(4), tmp_path / 'rig.yaml')
    nodes = []

    def build(build_estimator=lambda values, cameras: DotEstimator(), **parameters):
        given = {'rig.file': str(tmp_path / 'rig.yaml')}
        given.update({name.replace('__', '.'): value for name, value in parameters.items()})
        node = MultiviewNode(build_estimator, context=context, namespace='/hand', parameter_overrides=[
            Parameter(name, value=value) for name, value in given.items()])
        nodes.append(node)
        return node

    yield build
    for node in nodes:
        node.destroy_node()


def resources() -> tuple[int, int]:
    """Threads and open files of this process."""
    gc.collect()
    return len(os.listdir('/proc/self/task')), len(os.listdir('/proc/self/fd'))


def resident_mb() -> float:
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2 ** 20


def test_twenty_cycles_leave_no_thread_no_handle_and_no_memory_behind(make):
    node = make()

    def cycle() -> None:
        for transition in (node.trigger_configure, node.trigger_activate, node.trigger_deactivate,
                           node.trigger_cleanup):
            assert transition() == SUCCESS

    for _ in range(3):
        cycle()
    before, memory_mb = resources(), resident_mb()
    for _ in range(20):
        cycle()
    assert resources() == before
    # The allocator may round up; 20 leaks of one estimator's images alone would be 20 MB.
    assert resident_mb() - memory_mb < 10


def test_the_interface_is_there_when_active_and_gone_after_cleanup(make):
    node = make()
    assert node.trigger_configure() == SUCCESS
    assert not [s for s in node.subscriptions if s.topic_name == '/cam0/image_raw']
    assert node.trigger_activate() == SUCCESS
    topics = {s.topic_name for s in node.subscriptions}
    assert {f'/cam{i}/image_raw' for i in range(4)} <= topics
    published = {p.topic_name for p in node.publishers}
    assert {'/hand/joints_with_covariance', '/hand/markers', '/hand/view_estimates',
            '/diagnostics'} <= published
    assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
    assert not [s for s in node.subscriptions if 'image' in s.topic_name]


@pytest.mark.parametrize('parameters, word', [
    (dict(rig__file='/nowhere/rig.yaml'), '/nowhere/rig.yaml'), (dict(cameras=['cam0', 'cam9']), 'cam9'),
    (dict(min_views=5), 'min_views'), (dict(rig__extrinsics='tf'), 'tf2_ros')])
def test_what_cannot_be_configured_says_why_and_can_be_tried_again(make, parameters, word):
    if word == 'tf2_ros':
        try:
            import tf2_ros  # noqa: F401
            pytest.skip('tf2_ros is installed')
        except ImportError:
            pass
    node = make(**parameters)
    for _ in range(2):
        assert node.trigger_configure() == FAILURE
        assert word in node._statuses()[0].message


def test_an_estimator_that_cannot_be_built_is_a_failed_transition(make):
    attempts = []

    def build(values, cameras):
        attempts.append(cameras)
        if len(attempts) == 1:
            raise RuntimeError('no weights today')
        return DotEstimator()

    node = make(build)
    assert node.trigger_configure() == FAILURE
    assert node.trigger_configure() == SUCCESS
    assert attempts[1] == ('cam0', 'cam1', 'cam2', 'cam3')


@pytest.mark.parametrize('parameters, word', [
    (dict(sync__period=-1.0), 'sync.period'), (dict(sync__period=1), 'write 1.0'),
    (dict(transport='theora'), 'theora'), (dict(min_views=0), 'min_views'), (dict(cameras='cam0'), 'cameras'),
    (dict(rig__file=''), 'rig.file'), (dict(front_end='mediapipe'), 'give method: jump_hand')])
def test_a_bad_parameter_is_refused_at_start_with_the_reason(make, parameters, word):
    with pytest.raises(ConfigError, match=word):
        make(**parameters)


def test_parameters_while_the_node_runs(make):
    node = make()
    descriptor = node.describe_parameter('sync.period')
    assert descriptor.read_only and descriptor.description
    assert descriptor.floating_point_range[0].to_value == 10.0

    def set_one(name, value):
        return node.set_parameters([Parameter(name, value=value)])[0]

    assert set_one('publish.full_covariance', True).successful
    assert not set_one('publish.full_covariance', 1).successful
    assert not set_one('sync.period', 0.5).successful
    assert node._values['publish.full_covariance'] is True
