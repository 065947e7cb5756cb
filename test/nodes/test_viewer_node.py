"""The viewer node over DDS: what other nodes publish is what the browser shows."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from hand_unc_ros.errors import CalibrationError, ConfigError, MissingDependencyError
from hand_unc_ros.geometry.cameras import CameraRig

pytest.importorskip('viser')

from viewer_cases import make_camera, make_hand, node  # noqa: E402


def wait_for(executor, condition, timeout_s=10.0):
    """Spin until the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        executor.spin_once(timeout_sec=0.05)


@pytest.fixture
def rig_file(tmp_path):
    from hand_unc_ros.data.rigs import save_rig

    path = tmp_path / 'rig.yaml'
    save_rig(CameraRig([make_camera('cam0'), make_camera('cam1', (0.0, 0.6, 0.4))]), path)
    return path


@pytest.fixture
def context(ros_domain):
    import rclpy

    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=ros_domain)
    yield context
    context.try_shutdown()


@pytest.fixture
def make_node(context):
    """Makes viewer nodes with given parameters, and takes them down."""
    from rclpy.parameter import Parameter

    from hand_unc_ros.nodes.viewer import ViewerNode

    nodes = []

    def make(**parameters):
        overrides = [Parameter(name.replace('__', '.'), value=value)
                     for name, value in {'port': 0, **parameters}.items()]
        nodes.append(ViewerNode(context=context, parameter_overrides=overrides, namespace='hand'))
        return nodes[-1]

    yield make
    for made in nodes:
        made.destroy_node()


@pytest.fixture
def executor(context):
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor(context=context)
    yield executor
    executor.shutdown()


def test_messages_reach_the_scene(context, make_node, executor, rig_file, monkeypatch):
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
    from rclpy.node import Node
    from sensor_msgs.msg import Image

    from hand_unc_ros.msg import HandJointsWithCovariance, HandMesh
    from hand_unc_ros.nodes.diagnostics import make_status
    from hand_unc_ros.nodes.inputs import sensor_qos
    from hand_unc_ros.nodes.messages import hand_to_message

    viewer = make_node(rig__file=str(rig_file))
    source = Node('source', context=context)
    for each in (viewer, source):
        executor.add_node(each)
    joints = source.create_publisher(HandJointsWithCovariance, '/hand/joints_with_covariance', 5)
    mesh = source.create_publisher(HandMesh, '/hand/mesh', 1)
    diagnostics = source.create_publisher(DiagnosticArray, '/diagnostics', 10)
    images = source.create_publisher(Image, '/cam0/image_raw', sensor_qos())
    assert images.get_subscription_count() == mesh.get_subscription_count() == 0
    monkeypatch.setattr(type(viewer.view), 'client_count', 1)
    wait_for(executor, lambda: all(p.get_subscription_count() for p in (joints, mesh, diagnostics, images)))

    hand = make_hand(views=('cam0', 'cam1'))
    message = hand_to_message(hand, 'world')
    message.header.stamp = source.get_clock().now().to_msg()
    joints.publish(message)
    surface = HandMesh(vertices=[0.1] * 9, triangles=[0, 1, 2], vertex_colours=[200, 100, 50] * 3)
    mesh.publish(surface)
    pixels = bytes([10, 20, 30]) * (64 * 48)
    images.publish(Image(encoding='rgb8', width=64, height=48, step=192, data=pixels))
    diagnostics.publish(DiagnosticArray(status=[
        make_status('left/multiview: output', DiagnosticStatus.ERROR, 'not ours', {}),
        DiagnosticStatus(name='somebody else', level=DiagnosticStatus.ERROR, message='not ours'),
        make_status('hand/multiview: output', DiagnosticStatus.WARN, '1 of 2 cameras arrive', {}),
        make_status('hand/multiview: camera cam1', DiagnosticStatus.ERROR, 'nobody publishes /cam1/image_raw', {
            'rate_hz': '0.00', 'age_s': '2.500', 'offset_ms': '', 'dropped/late': 3, 'dropped/duplicate': 4}),
    ]))
    view = viewer.view
    wait_for(executor, lambda: view._estimate is not None and view._surface is not None
             and view._slots['cam0'].image is not None and view._system.level == 'warn')
    view.refresh()

    np.testing.assert_allclose(node(view, '/hand/joints').batched_positions, hand.joints, atol=1e-6)
    assert node(view, '/hand/mesh').vertices.shape == (3, 3)
    assert view._surface.colours.tolist() == [[200, 100, 50]] * 3 and view._surface.variance is None
    assert node(view, '/cameras/cam0').image.reshape(-1, 3)[0].tolist() == [10, 20, 30]
    np.testing.assert_allclose(node(view, '/cameras/cam1').position, [0.0, 0.6, 0.4], atol=1e-9)
    text = view._controls._readout.content
    for expected in ('1 of 2 cameras arrive', 'nobody publishes /cam1/image_raw', '>7<', '2 s', 'Live'):
        assert expected in text
    assert 'not ours' not in text
    latency_s = view._arrivals.latency_s(0.5)
    assert 0.0 <= latency_s < 5.0

    monkeypatch.setattr(type(view), 'client_count', 0)
    wait_for(executor, lambda: images.get_subscription_count() == mesh.get_subscription_count() == 0)


def test_camera_info_places_a_camera(context, make_node, executor, rig_file, monkeypatch):
    from rclpy.node import Node
    from sensor_msgs.msg import CameraInfo

    from hand_unc_ros.nodes.inputs import sensor_qos

    viewer = make_node(rig__file=str(rig_file), cameras=['cam1'], rig__intrinsics='camera_info')
    source = Node('source', context=context)
    monkeypatch.setattr(type(viewer.view), 'client_count', 1)
    for each in (viewer, source):
        executor.add_node(each)
    infos = source.create_publisher(CameraInfo, '/cam1/camera_info', sensor_qos())
    wait_for(executor, lambda: infos.get_subscription_count() > 0)
    assert viewer._calibrations.camera('cam1') is None
    infos.publish(CameraInfo(width=320, height=240, distortion_model='plumb_bob', d=[0.0] * 5,
                             k=[250.0, 0.0, 160.0, 0.0, 250.0, 120.0, 0.0, 0.0, 1.0]))
    wait_for(executor, lambda: viewer._calibrations.camera('cam1') is not None)
    assert viewer._calibrations.camera('cam1').width == 320


def test_without_a_rig_the_hand_alone_is_shown(make_node):
    assert make_node().view.url.startswith('http://127.0.0.1:')


@pytest.mark.parametrize('parameters, error, message', [
    ({'up_axis': 'up'}, ConfigError, 'up_axis'),
    ({'port': 70000}, ConfigError, 'parameter port is 70000'),
    ({'cameras': ['a', 'b']}, ConfigError, 'rig.file'),
    ({'rig__file': '/nowhere/rig.yaml'}, CalibrationError, '/nowhere/rig.yaml'),
])
def test_bad_parameters_are_refused(make_node, parameters, error, message):
    with pytest.raises(error, match=message):
        make_node(**parameters)


def test_a_malformed_estimate_does_not_end_the_view(make_node):
    from hand_unc_ros.msg import HandJointsWithCovariance

    viewer = make_node()
    viewer._take_hand(HandJointsWithCovariance(cameras=['a', 'b'], view_weights=[0.5]))
    assert viewer.view._estimate is None


def test_program_says_where_it_is_and_ends_on_ctrl_c(ros_domain):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    program = subprocess.Popen(
        [sys.executable, '-m', 'hand_unc_ros.nodes.viewer', '--ros-args', '-p', f'port:={port}'],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for line in program.stdout:
            if f'http://127.0.0.1:{port}' in line:
                break
        else:
            pytest.fail('the address was not printed')
        with urllib.request.urlopen(f'http://127.0.0.1:{port}', timeout=5) as answer:
            assert answer.status == 200
        # A second view on the port is refused with the remedy.
        second = subprocess.run(program.args, capture_output=True, text=True, timeout=30)
        assert second.returncode == 2
        assert f'port {port} on 127.0.0.1 is taken' in second.stderr and 'Traceback' not in second.stderr
        program.send_signal(signal.SIGINT)
        rest, _ = program.communicate(timeout=15)
        assert program.returncode == 0 and 'Traceback' not in rest
    finally:
        program.kill()
        program.wait()


def test_missing_viser_is_named(make_node, monkeypatch):
    monkeypatch.setitem(sys.modules, 'viser', None)
    with pytest.raises(MissingDependencyError, match=r'hand_unc_ros\[viewer\]'):
        make_node()
