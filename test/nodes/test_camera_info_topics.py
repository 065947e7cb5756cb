"""CameraInfo over real DDS: sent once and kept, named in the rig file, or missing with the topic in the reason."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 here')
pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')

from dots import DotEstimator, dot_rig  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from hand_unc_ros.data.rigs import save_rig  # noqa: E402
from hand_unc_ros.nodes.inputs import CameraInput  # noqa: E402
from hand_unc_ros.nodes.multiview import MultiviewNode  # noqa: E402
from hand_unc_ros.settings.topics import info_topic  # noqa: E402

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
VOLATILE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@pytest.fixture
def context(ros_domain):
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=ros_domain)
    yield context
    context.try_shutdown()


@pytest.fixture
def spin(context):
    executor = SingleThreadedExecutor(context=context)

    def until(nodes, condition, patience_s=20.0):
        for node in nodes:
            if node not in executor.get_nodes():
                executor.add_node(node)
        ends = time.monotonic() + patience_s
        while not condition() and time.monotonic() < ends:
            executor.spin_once(timeout_sec=0.05)
        assert condition()

    yield until
    executor.shutdown()


@pytest.mark.parametrize('qos', [LATCHED, VOLATILE], ids=['latched', 'volatile'])
def test_camera_info_that_was_sent_before_and_that_goes_on(context, spin, qos):
    driver, estimator = (rclpy.create_node(name, context=context) for name in ('driver', 'estimator'))
    publisher = driver.create_publisher(CameraInfo, '/left/camera_info', qos)
    publisher.publish(CameraInfo(width=640, height=480))
    got = []
    camera = CameraInput(estimator, 'left', '/left/image_raw', 'raw', False, lambda name, message: None,
                         '/left/camera_info', lambda name, message: got.append(message.width))
    if qos is LATCHED:
        spin((driver, estimator), lambda: got)
        assert got == [640]
    else:
        spin((driver, estimator), lambda: publisher.get_subscription_count() == 1)
        assert 'has a publisher, but no message came' in camera.info_fault()

    def sent_again():
        publisher.publish(CameraInfo(width=320, height=240))
        return 320 in got

    spin((driver, estimator), sent_again)
    camera.destroy()
    driver.destroy_node()
    estimator.destroy_node()


def test_why_no_camera_info_comes(context, spin, ros_domain):
    # One participant does not take two types for a topic.
    other = rclpy.Context()
    rclpy.init(args=[], context=other, domain_id=ros_domain)
    driver, estimator = rclpy.create_node('driver', context=other), rclpy.create_node('estimator', context=context)
    camera = CameraInput(estimator, 'left', '/left/image_raw', 'raw', False, lambda name, message: None,
                         'info', lambda name, message: None)
    assert 'nobody publishes /info' in camera.info_fault() and 'camera_info_topic' in camera.info_fault()
    driver.create_publisher(Image, '/info', 1)
    spin((estimator,), lambda: 'carries sensor_msgs/msg/Image' in camera.info_fault())
    camera.destroy()
    driver.destroy_node()
    estimator.destroy_node()
    other.try_shutdown()


def test_where_camera_info_is_looked_for():
    assert info_topic('/left/image_raw/compressed', '', 'left', {}) == '/left/camera_info'
    assert info_topic('/left/image_raw', '/{camera}/info', 'left', {}) == '/left/info'
    assert info_topic('/left/image_raw', '/{camera}/info', 'left', {'left': '/other'}) == '/other'


def test_the_node_takes_the_topic_of_the_rig_file_and_names_what_it_waits_for(context, spin, tmp_path: Path):
    save_rig(dot_rig(2), tmp_path / 'rig.yaml')
    content = yaml.safe_load((tmp_path / 'rig.yaml').read_text())
    first, second = content['cameras']
    content['cameras'][first]['camera_info'] = '/elsewhere/info'
    (tmp_path / 'rig.yaml').write_text(yaml.safe_dump(content, sort_keys=False))
    given = {'rig.file': str(tmp_path / 'rig.yaml'), 'rig.intrinsics': 'camera_info'}
    node = MultiviewNode(lambda values, cameras: DotEstimator(), context=context, namespace='/hand',
                         parameter_overrides=[Parameter(name, value=value) for name, value in given.items()])
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    driver = rclpy.create_node('driver', context=context)
    camera = dot_rig(2)[first]
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model='plumb_bob', d=[0.0] * 5,
                         k=camera.K.ravel().tolist())
    driver.create_publisher(CameraInfo, '/elsewhere/info', LATCHED).publish(message)
    health = {status.name.split()[-1]: {value.key: value.value for value in status.values}
              for status in node._statuses()}
    assert 'waiting for its CameraInfo: nobody publishes' in health[second]['calibration']

    def calibrated():
        values = {status.name.split()[-1]: {value.key: value.value for value in status.values}
                  for status in node._statuses()}
        return values[first]['calibration'] == 'ok' and f'/{second}/camera_info' in values[second]['calibration']

    spin((driver, node), calibrated)
    node.destroy_node()
    driver.destroy_node()
