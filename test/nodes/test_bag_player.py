"""Bags on ROS topics, and the commands `hand-unc bag …`."""

import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml
from bag_cases import FPS, FRAMES, cut, make_bag, make_rig, make_videos, read_all, stamp_of
from bag_record_cases import contents, write_strings

from hand_unc_ros.data.bags.writer import Topic
from hand_unc_ros.data.bags.message_definitions import message_definition
from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.errors import ConfigError, RecordingError


@pytest.fixture
def bag(tmp_path):
    return make_bag(tmp_path)


class Listener:
    """Collects what is played, reliably; `until` waits on arrivals, never on time alone."""

    def __init__(self, topics):
        rclpy = pytest.importorskip('rclpy', reason='ROS is not installed')
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo, CompressedImage

        types = {'compressed': CompressedImage, 'camera_info': CameraInfo, 'clock': Clock}
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context)
        self.node = rclpy.create_node('listener', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.received = {topic: [] for topic in topics}
        self.arrivals = {topic: [] for topic in topics}
        for topic in topics:
            self.node.create_subscription(
                types[topic.rsplit('/', 1)[1]], topic,
                lambda message, topic=topic: self._store(topic, message), QoSProfile(depth=500))

    def _store(self, topic, message):
        self.received[topic].append(message)
        self.arrivals[topic].append(time.monotonic())

    def until(self, condition, timeout_s=20.0):
        end = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)
        return condition()

    def close(self):
        from ros_system import take_down

        self.executor.shutdown()
        take_down(self.context, self.node)


@pytest.fixture
def listen(ros_domain):
    listeners = []

    def start(*topics):
        listeners.append(Listener(topics))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.close()


def play_in_thread(path, **options):
    from hand_unc_ros.nodes.bag_player import play

    outcome = {}

    def run():
        try:
            outcome['playback'] = play(path, wait_for_subscribers_s=15.0, progress=False, **options)
        except Exception as error:  # noqa: BLE001 - handed to the test
            outcome['error'] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


CAMERA_TOPICS = ('/left/image_raw/compressed', '/left/camera_info', '/right/image_raw/compressed',
                 '/right/camera_info')


def test_played_messages_are_those_recorded_at_their_recorded_pace(bag, listen):
    listener = listen(*CAMERA_TOPICS)
    began = time.monotonic()
    thread, outcome = play_in_thread(bag, rate=2.0)
    assert listener.until(lambda: all(len(m) == FRAMES for m in listener.received.values())), outcome
    thread.join(timeout=10.0)
    playback = outcome['playback']
    assert playback.passes == 1
    assert playback.published['/left/image_raw/compressed'] == FRAMES
    recorded = {}
    for topic, _, message in read_all(bag):
        recorded.setdefault(topic, []).append(message)
    for topic, messages in listener.received.items():
        assert [stamp_of(m) for m in messages] == [stamp_of(m) for m in recorded[topic]]
        for message, original in zip(messages, recorded[topic]):
            assert message.header.frame_id == original.header.frame_id
            if topic.endswith('compressed'):
                assert bytes(message.data) == bytes(original.data)
            else:
                np.testing.assert_array_equal(message.k, original.k)
                np.testing.assert_array_equal(message.d, original.d)
    # Never faster than 11 periods of 25 ms. Counted from the start of playing: a busy machine may take the first
    # messages late, but none early.
    assert listener.arrivals['/left/image_raw/compressed'][-1] - began > (FRAMES - 1) / FPS / 2


def test_play_part_of_a_bag_under_another_name(bag, listen):
    listener = listen('/robot/left/image_raw/compressed')
    thread, outcome = play_in_thread(
        bag, rate=4.0, start_s=0.2, duration_s=0.25,
        remap={'/left/image_raw/compressed': '/robot/left/image_raw/compressed',
               '/right/image_raw/compressed': '/robot/left/image_raw/compressed'})
    images = listener.received['/robot/left/image_raw/compressed']
    assert listener.until(lambda: len(images) == 12), outcome
    thread.join(timeout=10.0)
    # From 0.2 s to 0.45 s, both included: frames 4 to 9 of two cameras, and nothing after them.
    assert outcome['playback'].published['/robot/left/image_raw/compressed'] == 12
    assert sorted({stamp_of(m) for m in images}) == [100 * 10**9 + i * 50_000_000 for i in range(4, 10)]


def test_loop_starts_over_and_the_clock_follows(bag, listen):
    listener = listen('/left/image_raw/compressed', '/right/image_raw/compressed', '/clock')
    from hand_unc_ros.nodes import bag_player

    stop = threading.Event()
    original = bag_player._Player.play_once

    def play_once(self, *args):
        if stop.is_set():
            raise KeyboardInterrupt
        original(self, *args)

    bag_player._Player.play_once = play_once
    try:
        def run():
            with pytest.raises(KeyboardInterrupt):
                bag_player.play(bag, rate=4.0, loop=True, clock=True, wait_for_subscribers_s=15.0,
                                progress=False)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        images = listener.received['/left/image_raw/compressed']
        assert listener.until(lambda: len(images) > 2 * FRAMES)
        stop.set()
        assert listener.until(lambda: not thread.is_alive())
    finally:
        bag_player._Player.play_once = original
    stamps = [stamp_of(m) for m in images]
    assert stamps[:2 * FRAMES] == [100 * 10**9 + index * 50_000_000 for index in range(FRAMES)] * 2
    clock = [m.clock.sec * 10**9 + m.clock.nanosec for m in listener.received['/clock']]
    assert min(clock) >= 100 * 10**9 - 60_000_000 and max(clock) <= 100 * 10**9 + 550_000_000
    assert np.sum(np.diff(clock) < 0) >= 1, 'the clock must jump back with the loop'


def test_nobody_listening_is_an_error_when_asked_to_wait(bag, ros_domain):
    pytest.importorskip('rclpy', reason='ROS is not installed')
    from hand_unc_ros.nodes.bag_player import play

    with pytest.raises(RecordingError, match='nobody subscribed'):
        play(bag, wait_for_subscribers_s=0.2, progress=False)


def test_bad_play_arguments_are_refused(bag, ros_domain):
    pytest.importorskip('rclpy', reason='ROS is not installed')
    from hand_unc_ros.nodes.bag_player import play

    for options in ({'rate': 0.0}, {'start_s': -1.0}, {'start_s': 99.0}, {'duration_s': 0.0},
                    {'remap': {'/nowhere': '/x'}}):
        with pytest.raises(ConfigError):
            play(bag, progress=False, **options)


def test_a_bag_truncated_inside_is_an_error_of_the_player(bag, ros_domain):
    pytest.importorskip('rclpy', reason='ROS is not installed')
    from hand_unc_ros.nodes.bag_player import play

    cut(bag, lambda n: n // 2)
    with pytest.raises(RecordingError, match='copy it again'):
        play(bag, progress=False)


def test_a_killed_recording_is_played_as_far_as_it_goes(bag, listen, capsys):
    listener = listen('/left/image_raw/compressed', '/right/image_raw/compressed')
    (bag / 'metadata.yaml').unlink()
    thread, outcome = play_in_thread(bag, rate=4.0)
    images = listener.received['/left/image_raw/compressed']
    assert listener.until(lambda: len(images) == FRAMES), outcome
    thread.join(timeout=10.0)
    assert outcome['playback'].published['/right/camera_info'] == FRAMES
    assert '49 messages recovered' in capsys.readouterr().err


def test_everything_is_played_whatever_duration_the_metadata_names(bag, listen, capsys):
    """Humble writes that of one part of a split bag."""
    content = yaml.safe_load((bag / 'metadata.yaml').read_text())
    content['rosbag2_bagfile_information']['duration']['nanoseconds'] = 100_000_000
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(content))
    listener = listen(*CAMERA_TOPICS)
    thread, outcome = play_in_thread(bag, rate=4.0)
    assert listener.until(lambda: all(len(m) == FRAMES for m in listener.received.values())), outcome
    thread.join(timeout=10.0)
    assert outcome['playback'].lost == []


def test_messages_that_the_index_promises_and_the_file_lacks_are_said(bag, ros_domain, capsys):
    pytest.importorskip('rclpy', reason='ROS is not installed')
    from hand_unc_ros.nodes.bag_player import play

    (storage,) = bag.glob('*.mcap')
    content = storage.read_bytes()
    counts = struct.pack('<HQHQHQ', *(part for channel in (2, 3, 4) for part in (channel, FRAMES)))
    place = content.rindex(counts)
    storage.write_bytes(content[:place + 2] + struct.pack('<Q', FRAMES + 3) + content[place + 10:])
    playback = play(bag, rate=50.0, progress=False)
    (sentence,) = playback.lost
    assert f'/left/camera_info: {FRAMES} of {FRAMES + 3} messages played' in sentence
    assert sentence in capsys.readouterr().err
    assert hand_unc('bag', 'play', bag, '--rate', '50').returncode == 1


@pytest.mark.parametrize('name', ['evil/msg/Thing', 'evil.msg/msg/Thing', '../evil/msg/Thing', 'os/msg/path', '',
                                  '/msg/Thing', 'sensor_msgs/msg/Image/../Image', 'std_msgs/msg/__doc__'])
def test_a_bag_cannot_name_a_module_to_import(tmp_path, monkeypatch, name):
    pytest.importorskip('rclpy', reason='ROS is not installed')
    from hand_unc_ros.nodes.bag_player import message_class

    (tmp_path / 'evil').mkdir()
    for file in ('__init__.py', 'msg.py'):
        (tmp_path / 'evil' / file).write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    assert message_class(name) is None
    assert message_class('std_msgs/msg/String').__name__ == 'String'


def test_the_same_bag_twice_gives_the_same_messages_in_the_same_order(bag, listen):
    topics = [topic for topic in CAMERA_TOPICS if 'image' in topic]
    passes = []
    for _ in range(2):
        listener = listen(*topics)
        thread, outcome = play_in_thread(bag, rate=4.0)
        assert listener.until(lambda: all(len(listener.received[topic]) == FRAMES for topic in topics)), outcome
        thread.join(timeout=10.0)
        passes.append({topic: [(stamp_of(m), bytes(m.data)) for m in listener.received[topic]] for topic in topics})
        listener.close()
    assert passes[0] == passes[1]


@pytest.fixture
def with_output(tmp_path, bag):
    """A bag of an estimator's input and of what somebody said of it."""
    kind = 'sensor_msgs/msg/CameraInfo'
    info = next(data for topic, _, data in contents(bag) if topic == '/left/camera_info')
    writer = write_strings(tmp_path / 'mixed', 3, size=10)
    writer.add_topic(Topic('/cam/camera_info', kind, message_definition(kind)))
    writer.write('/cam/camera_info', info, 4_000_000, 4_000_000)
    writer.close()
    return tmp_path / 'mixed'


def test_for_an_estimator_only_its_inputs_are_played(ros_domain, with_output):
    pytest.importorskip('rclpy', reason='ROS is not installed')
    from hand_unc_ros.nodes.bag_player import play

    assert play(with_output, inputs=True, progress=False).published == {'/cam/camera_info': 1}
    assert set(play(with_output, progress=False).published) == {'/cam/camera_info', '/numbers', '/latched'}


def test_a_bag_without_inputs_is_refused_for_an_estimator(tmp_path, ros_domain):
    pytest.importorskip('rclpy', reason='ROS is not installed')
    from hand_unc_ros.nodes.bag_player import play

    write_strings(tmp_path / 'strings', 3).close()
    with pytest.raises(RecordingError, match='no images, CameraInfo or TF'):
        play(tmp_path / 'strings', inputs=True, progress=False)


def test_the_player_waits_for_as_many_subscribers_as_asked(bag, listen):
    listen('/left/image_raw/compressed', '/right/image_raw/compressed')
    from hand_unc_ros.nodes.bag_player import play

    with pytest.raises(RecordingError, match='only 1 of 2 nodes subscribed'):
        play(bag, wait_for_subscribers_s=5.0, subscribers=2, progress=False)


def hand_unc(*arguments, **options):
    return subprocess.run([sys.executable, '-m', 'hand_unc_ros.cli', *map(str, arguments)], text=True,
                          capture_output=True, timeout=60, **options)


@pytest.fixture
def rig_file(tmp_path):
    save_rig(make_rig(), tmp_path / 'rig.yaml')
    return tmp_path / 'rig.yaml'


def test_command_line_converts_and_describes(tmp_path, rig_file):
    videos = make_videos(tmp_path)
    done = hand_unc('bag', 'from-videos', f'right={videos[1]}', f'left={videos[0]}', '--rig', rig_file,
                    '-o', tmp_path / 'out', '--shift', 'right=1', '--start-time', '100')
    assert done.returncode == 0, done.stderr
    done = hand_unc('bag', 'info', tmp_path / 'out')
    assert done.returncode == 0, done.stderr
    for word in ('/right/image_raw/compressed', 'shift_right', '1970-01-01 00:01:40'):
        assert word in done.stdout


def test_command_line_fails_in_one_line_without_a_traceback(tmp_path, rig_file, bag):
    videos = make_videos(tmp_path)
    (tmp_path / 'empty').mkdir()
    cut(bag, lambda n: n // 2)
    for arguments in (('from-videos', videos[0], '--rig', rig_file, '-o', tmp_path / 'out'),
                      ('from-videos', *videos, '--rig', tmp_path / 'none.yaml', '-o', tmp_path / 'out'),
                      ('info', tmp_path / 'empty'), ('info', bag), ('play', bag)):
        done = hand_unc('bag', *arguments)
        assert done.returncode != 0
        assert 'Traceback' not in done.stderr and done.stderr.strip()


def test_ctrl_c_ends_the_player_cleanly(bag, listen):
    listener = listen('/left/image_raw/compressed', '/right/image_raw/compressed')
    player = subprocess.Popen(
        [sys.executable, '-m', 'hand_unc_ros.cli', 'bag', 'play', str(bag), '--loop', '--wait', '15'],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert listener.until(lambda: listener.received['/left/image_raw/compressed'])
        player.send_signal(signal.SIGINT)
        _, errors = player.communicate(timeout=15)
    finally:
        if player.poll() is None:
            player.kill()
    assert player.returncode == 130
    assert 'Traceback' not in errors
