"""`hand-unc bag record` as a process of its own, over real DDS: nothing is missing, whatever ends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 here')
pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')

from bag_record_cases import by_topic, contents, write_strings  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from rig_cases import ring  # noqa: E402
from ros_system import Process, System, system, take_down  # noqa: E402
from rosbags.highlevel import AnyReader  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from hand_unc_ros.data.bags.reader import open_bag  # noqa: E402
from hand_unc_ros.data.bags.writer import Topic  # noqa: E402
from hand_unc_ros.data.rigs import load_rig, save_rig  # noqa: E402
from hand_unc_ros.errors import ConfigError, RecordingError  # noqa: E402
from hand_unc_ros.nodes.bag_player import message_class, play  # noqa: E402
from hand_unc_ros.nodes.bag_recorder import _Recorder  # noqa: E402
from hand_unc_ros.settings.recorded_topics import Selection, select  # noqa: E402

RECORD = ('-m', 'hand_unc_ros.cli', 'bag', 'record')
MESSAGES = ('hand_unc_ros/msg/HandJointsWithCovariance', 'hand_unc_ros/msg/ViewEstimate')


def start_recorder(running: System, output: Path, *options: Any) -> Process:
    process = Process([*RECORD, '-o', output, *options], output.with_suffix('.log'))
    running.processes.append(process)
    return process


def in_the_bag(running: System, bag: Path, capsys: pytest.CaptureFixture, *topics: str,
               count: int = 1) -> list[tuple[str, int, bytes]]:
    """Wait until so many messages of each topic can be read from a bag that is being recorded."""
    found: list[tuple[str, int, bytes]] = []

    def there() -> bool:
        try:
            found[:] = contents(bag)
        except RecordingError:
            return False
        held = by_topic(found)
        return all(len(held.get(topic, ())) >= count for topic in topics)

    running.listener.until(there, f'{count} messages of each of {topics} in {bag.name}')
    capsys.readouterr()
    return found


class RawListener:
    """What arrives on some topics, as bytes."""

    def __init__(self, running: System, **topics: str) -> None:
        self.received: dict[str, list[bytes]] = {}
        qos = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
        for topic, kind in topics.items():
            store = self.received[topic] = []
            running.listener.node.create_subscription(message_class(kind), topic, store.append, qos, raw=True)


def lost(log: Path) -> dict[str, int]:
    """What the recorder says that it has lost, by topic."""
    return {topic: int(count) for topic, count in
            re.findall(r'^(/\S+): (\d+) of \d+ messages lost$', log.read_text(), re.MULTILINE)}


def test_everything_between_start_and_stop_is_in_the_bag_byte_by_byte(ros_domain, tmp_path: Path, capsys):
    topics = {'/cam0/image_raw': 'sensor_msgs/msg/Image', '/cam1/image_raw': 'sensor_msgs/msg/Image',
              '/cam0/camera_info': 'sensor_msgs/msg/CameraInfo',
              '/hand/joints_with_covariance': MESSAGES[0], '/hand/view_estimates': MESSAGES[1],
              '/diagnostics': 'diagnostic_msgs/msg/DiagnosticArray'}
    with system(tmp_path, cameras=2) as running:
        heard = RawListener(running, **topics)
        # A best-effort camera beside a reliable one.
        running.start_cameras()
        running.cameras['cam1'].tell(reliable=False)
        running.start_node()
        running.listener.hands_after(3)
        bag = tmp_path / 'bag'
        recorder = start_recorder(running, bag, '--rig', running.rig_file)
        in_the_bag(running, bag, capsys, *topics)
        running.listener.hands_after(30)
        end = {topic: len(messages) for topic, messages in heard.received.items()}
        # Everything that the listener has by then left its publisher a while ago for the recorder, too.
        running.listener.hands_after(5)
        recorder.interrupt()
        assert recorder.wait() == 0
        log = recorder.log.read_text()
        recorded = by_topic(contents(bag))
        for topic, messages in heard.received.items():
            # From the first that both have: the recorder was discovered by then.
            begin = next(index for index, data in enumerate(messages) if data in set(recorded[topic]))
            between = messages[begin:end[topic]]
            missing = Counter(between) - Counter(recorded[topic])
            assert sum(missing.values()) <= lost(recorder.log).get(topic, 0), f'{topic}\n{log}'
            kept = [data for data in between if data not in missing]
            there = [data for data in recorded[topic] if data in set(between)]
            assert len(between) > 5 and kept == there, topic
        assert capsys.readouterr().err == '', 'a recording that was interrupted is whole'
        assert load_rig(bag / 'rig.yaml').names == load_rig(running.rig_file).names
        assert '/hand/mesh: a publisher, but no message came' in log
        assert '/tf_static: nobody publishes it' in log
        # Readers without our messages decode them by the definitions inside.
        with AnyReader([bag]) as reader:
            connections = [connection for connection in reader.connections if connection.msgtype == MESSAGES[0]]
            _, _, data = next(reader.messages(connections))
            assert reader.deserialize(data, MESSAGES[0]).cameras == ['cam0', 'cam1']


@pytest.mark.parametrize('images', [True, False], ids=['images', 'small messages'])
def test_after_a_kill_at_most_the_last_second_is_missing(ros_domain, tmp_path: Path, capsys, images: bool):
    """Small messages fill no chunk of theirs in that time."""
    with system(tmp_path, cameras=2) as running:
        running.start_cameras()
        bag = tmp_path / 'bag'
        recorder = start_recorder(running, bag, '--rig', running.rig_file, *([] if images else ['--no-images']))
        topics = ('/cam0/camera_info', '/cam1/camera_info', *(['/cam0/image_raw', '/cam1/image_raw'] if images else []))
        before = in_the_bag(running, bag, capsys, *topics, count=20)
        killed_ns = time.time_ns()
        recorder.kill()
        after = contents(bag)
        assert 'not ended properly' in capsys.readouterr().err
        assert not (bag / 'metadata.yaml').exists()
        assert after[:len(before)] == before
        # Half a second between two flushes; the rest is for a machine that is busy with other things.
        assert killed_ns - max(stamp for _, stamp, _ in after) < 5_000_000_000
        with open_bag(bag) as opened:
            assert sum(connection.msgcount for connection in opened.connections) == len(after)


def test_split_by_size_each_file_has_the_latched_messages(ros_domain, tmp_path: Path, capsys):
    with system(tmp_path, cameras=2) as running:
        running.start_cameras()
        latched = running.listener.node.create_publisher(
            String, '/poses', QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
        latched.publish(String(data='camera poses'))
        bag = tmp_path / 'bag'
        # An image has 230 kB.
        recorder = start_recorder(running, bag, '--rig', running.rig_file, '--topic', '/poses', '--max-size', '2')
        in_the_bag(running, bag, capsys, '/poses', '/cam0/image_raw')
        begin = len(by_topic(contents(bag))['/cam0/image_raw'])
        in_the_bag(running, bag, capsys, '/cam0/image_raw', '/cam1/image_raw', count=begin + 15)
        capsys.readouterr()
        os.kill(recorder.pid, signal.SIGTERM)
        assert recorder.wait() == 0
        whole = contents(bag)
        files = sorted(bag.glob('*.mcap'), key=lambda file: int(file.stem.rpartition('_')[2]))
        assert len(files) >= 4
        joined = []
        with_poses = []
        for file in files:
            alone = contents(file)
            with_poses.append(any(topic == '/poses' and b'camera poses' in data for topic, _, data in alone))
            joined += alone
        assert joined == whole
        # It came once, when the first files may have been full already, and is in every file since.
        assert all(with_poses[with_poses.index(True):]) and sum(with_poses) >= 2
        images = by_topic(whole)['/cam0/image_raw']
        assert len(images) == len(set(images)) >= begin + 15
        with open_bag(bag) as opened:
            counts = {connection.topic: connection.msgcount for connection in opened.connections}
        assert counts['/poses'] == sum(with_poses)


def test_a_full_disk_ends_it_with_the_reason_and_what_was_written(ros_domain, tmp_path: Path, capsys):
    """A limit on the size of files stands for the disk; above the 16 MiB that Fast DDS's shared memory needs."""
    with system(tmp_path, cameras=2, rate_hz=30.0) as running:
        running.start_cameras()
        bag = tmp_path / 'bag'
        program = ('import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (18_000_000, 18_000_000)); '
                   'from hand_unc_ros.cli import main; raise SystemExit(main())')
        recorder = Process(['-c', program, *RECORD[2:], '-o', bag, '--rig', running.rig_file], tmp_path / 'record.log')
        running.processes.append(recorder)
        assert recorder.wait() == 2
        told = recorder.log.read_text()
        assert 'cannot write the bag' in told and 'File too large' in told and 'Traceback' not in told
        (count,) = re.findall(r'The (\d+) messages that were written before can be read', told)
        assert len(contents(bag)) == int(count) > 60
        assert 'not ended properly' in capsys.readouterr().err


def test_duration_ends_it_and_a_topic_that_nobody_publishes_is_named(ros_domain, tmp_path: Path):
    with system(tmp_path, cameras=2) as running:
        running.start_cameras('cam0')
        bag = tmp_path / 'bag'
        recorder = start_recorder(running, bag, '--rig', running.rig_file, '--no-images', '--duration', '1')
        assert recorder.wait() == 0
        told = recorder.log.read_text()
        assert '/cam1/camera_info: nobody publishes it' in told
        topics = by_topic(contents(bag))
        assert set(topics) == {'/cam0/camera_info'}
        # Fifteen in a second; a busy machine may send fewer.
        assert 5 <= len(topics['/cam0/camera_info']) <= 25


def test_nothing_at_all_is_an_error(ros_domain, tmp_path: Path):
    done = hand_unc_record(tmp_path / 'bag', '--no-images', '--duration', '0.1')
    assert done.returncode == 1
    assert '/hand/joints_with_covariance: nobody publishes it' in done.stderr


def test_an_existing_folder_is_refused(ros_domain, tmp_path: Path):
    done = hand_unc_record(tmp_path, '--no-images')
    assert done.returncode == 2 and 'exists already' in done.stderr and 'Traceback' not in done.stderr


def test_simulated_time_that_nobody_gives_is_named(ros_domain, tmp_path: Path):
    with system(tmp_path, cameras=2) as running:
        running.start_cameras('cam0')
        done = hand_unc_record(tmp_path / 'bag', '--rig', running.rig_file, '--use-sim-time', '--duration', '0.3')
    assert done.returncode == 2 and 'nobody published /clock' in done.stderr


def hand_unc_record(output: Path, *options: Any) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *RECORD, '-o', str(output), *map(str, options)], text=True,
                          capture_output=True, timeout=60)


def test_a_bag_played_again_is_recorded_as_it_was(ros_domain, tmp_path: Path, capsys):
    """Twice the same messages in the same order on every topic, at the bag's own times."""
    source = tmp_path / 'source'
    write_strings(source, 100, size=50).close()
    original = by_topic(contents(source))
    for name in ('first', 'second'):
        copy = tmp_path / name
        recorder = Process([*RECORD, '-o', copy, '--no-images', '--topic', '/numbers', '--topic', '/latched',
                            '--use-sim-time'], tmp_path / f'{name}.log')
        try:
            # One every 20 ms, so that a busy machine keeps up.
            play(source, rate=0.05, clock=True, wait_for_subscribers_s=30.0, progress=False)
        finally:
            recorder.interrupt()
        assert recorder.wait() == 0, recorder.log.read_text()
        assert by_topic(contents(copy)) == original
        assert contents(copy) == contents(copy)
        times = [stamp for _, stamp, _ in contents(copy)]
        # Played from 1 ms to 101 ms; the clock stands still from the last message on.
        assert times == sorted(times) and 1_000_000 <= times[0] and times[-1] <= 101_000_000
    assert capsys.readouterr().err == ''


class FakeWriting:
    """Takes so many bytes of messages, and no more."""

    def __init__(self, room: int = 10 ** 9) -> None:
        self.room, self.messages = room, []

    def put(self, item: Any) -> bool:
        if isinstance(item, Topic):
            return True
        if len(item.data) > self.room:
            return False
        self.room -= len(item.data)
        self.messages.append(item)
        return True


@pytest.fixture
def node(ros_domain):
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=ros_domain)
    node = Node('recorder', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    yield node
    executor.shutdown()
    take_down(context, node)


def test_what_is_lost_is_counted_by_publisher(node):
    """By the publishers' own numbers, which begin anew with a publisher that is started again."""
    writing = FakeWriting(room=10)
    recorder = _Recorder(node, Selection((), None, {}), writing)
    for publisher, number in ((b'a', 7), (b'b', 1), (b'a', 8), (b'a', 11), (b'b', 2), (b'a', 1), (b'a', 2), (b'b', 4)):
        recorder._take('/topic', b'x', {'publication_sequence_number': number, 'publisher_gid': {'data': publisher}})
    assert recorder.lost == {'/topic': 3}
    assert recorder.counts == {'/topic': 8}
    # Two more fit; of a queue that is full the rest is lost, and counted as well.
    for number in (5, 6, 7, 8):
        recorder._take('/topic', b'x', {'publication_sequence_number': number, 'publisher_gid': {'data': b'b'}})
    assert recorder.lost == {'/topic': 5} and len(writing.messages) == 10


def test_times_do_not_run_backwards(node, monkeypatch):
    writing = FakeWriting()
    recorder = _Recorder(node, Selection((), None, {}), writing)
    times = iter([0, 0, 100, 90, 110, 3 * 10 ** 9, 50])
    clock = type('Clock', (), {'now': lambda self: type('Time', (), {'nanoseconds': next(times)})})()
    monkeypatch.setattr(node, 'get_clock', lambda: clock)
    for index in range(7):
        recorder._take('/topic', bytes([index]), {})
    # The first two came before the clock; the last is of a recording that began again.
    assert [item.data[0] for item in writing.messages] == list(range(7))
    assert [item.log_ns for item in writing.messages] == [100, 100, 100, 100, 110, 3 * 10 ** 9, 50]


def test_a_weaker_publisher_that_comes_later_is_recorded_too(node):
    writing = FakeWriting()
    recorder = _Recorder(node, Selection((('/mixed',),), None, {}), writing)
    first = node.create_publisher(String, '/mixed', 10)

    def until(condition) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            recorder.discover()
            node.executor.spin_once(timeout_sec=0.02)

    def arrived(publisher, text: str) -> bool:
        publisher.publish(String(data=text))
        return any(text.encode() in item.data for item in writing.messages)

    until(lambda: arrived(first, 'reliable'))
    second = node.create_publisher(String, '/mixed', QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    until(lambda: arrived(second, 'best effort'))
    until(lambda: arrived(first, 'still there'))


@pytest.fixture
def rig_file(tmp_path: Path) -> Path:
    save_rig(ring((0, 90)), tmp_path / 'rig.yaml', {'cam1': '/other/image'})
    return tmp_path / 'rig.yaml'


def test_a_rig_names_its_images_raw_or_compressed(rig_file: Path):
    topics = select(None, rig_file, None).topics
    first, second = load_rig(rig_file).names
    assert topics[0] == ('/tf_static',)
    assert topics[1:5] == ((f'/{first}/image_raw/compressed', f'/{first}/image_raw'), (f'/{first}/camera_info',),
                          ('/other/image/compressed', '/other/image'), ('/other/camera_info',))
    assert ('/hand/joints_with_covariance',) in topics and ('/diagnostics',) in topics
    without = select(None, rig_file, 'left', ['extra'], images=False).topics
    assert not any('image' in topic for names in without for topic in names if 'other' not in topic)
    assert ('/left/mesh',) in without and ('/left/extra',) in without


def test_parameters_say_exactly_which_topics(rig_file: Path, tmp_path: Path):
    params = tmp_path / 'params.yaml'
    params.write_text(f'/left/multiview: {{ros__parameters: {{rig: {{file: {rig_file}}}, transport: compressed, '
                      'image_topic: "{camera}/rgb", camera_info_topic: "/info/{camera}"}}\n')
    selection = select(params, None, None)
    first, second = load_rig(rig_file).names
    assert selection.topics[1:4] == ((f'/left/{first}/rgb/compressed',), (f'/info/{first}',),
                                    ('/other/image/compressed',))
    assert ('/left/view_estimates',) in selection.topics
    # For a replay the rig file beside the bag names the topics by itself.
    assert selection.image_topics == {first: f'/left/{first}/rgb', second: '/other/image'}


@pytest.mark.parametrize('content, word', [
    ('/a/multiview: {ros__parameters: {}}\n/b/multiview: {ros__parameters: {}}', '2 nodes'),
    ('/a/multiview: {ros__parameters: {transport: smoke}}', 'transport')])
def test_parameters_that_leave_it_open_are_refused(tmp_path: Path, content: str, word: str):
    params = tmp_path / 'params.yaml'
    params.write_text(content)
    with pytest.raises(ConfigError, match=word):
        select(params, None, None)


def test_images_of_nobody_are_refused():
    with pytest.raises(ConfigError, match='--rig'):
        select(None, None, None)
    assert select(None, None, None, images=False).topics[1] == ('/hand/joints_with_covariance',)
