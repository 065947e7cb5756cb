"""Videos to a bag, and a look into bags: good, damaged and foreign ones."""

import shutil

import cv2
import numpy as np
import pytest
import yaml
from bag_cases import (
    FPS, FRAMES, HEIGHT, STORE, WIDTH, cut, make_bag, make_rig, make_videos, read_all, stamp_of, write_video,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from hand_unc_ros.data.bags import from_videos as bags
from hand_unc_ros.data.bags.reader import describe_bag, format_summary, open_bag
from hand_unc_ros.data.bags.from_videos import from_videos
from hand_unc_ros.data.rigs import load_rig
from hand_unc_ros.data.videos import probe_video, read_frames
from hand_unc_ros.errors import RecordingError


@pytest.fixture
def rig():
    return make_rig()


@pytest.fixture
def videos(tmp_path):
    return make_videos(tmp_path)


@pytest.fixture
def bag(tmp_path):
    return make_bag(tmp_path)


def test_converted_bag_holds_every_frame_with_its_stamp_and_calibration(bag, rig, videos):
    messages = read_all(bag)
    for name, video, base in zip(rig.names, videos, (0, 5)):
        images = [(stamp, m) for topic, stamp, m in messages if topic == f'/{name}/image_raw/compressed']
        infos = [m for topic, _, m in messages if topic == f'/{name}/camera_info']
        assert len(images) == len(infos) == FRAMES
        for index, ((log_stamp, image), info) in enumerate(zip(images, infos)):
            expected = 100 * 10**9 + index * 50_000_000
            assert log_stamp == stamp_of(image) == stamp_of(info) == expected
            assert image.header.frame_id == info.header.frame_id == f'{name}_optical_frame'
            assert 'jpeg' in image.format
            decoded = cv2.imdecode(np.asarray(image.data), cv2.IMREAD_COLOR)
            # mp4v and JPEG each round a uniform frame by a level or two; frames differ by ten.
            assert abs(decoded.mean() - (base + 10 * index)) < 4
        camera = rig[name]
        assert (info.width, info.height) == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), camera.K)
        np.testing.assert_array_equal(np.reshape(info.p, (3, 4))[:, :3], camera.K)
        np.testing.assert_array_equal(np.reshape(info.r, (3, 3)), np.eye(3))
        assert info.distortion_model == 'plumb_bob'
        np.testing.assert_array_equal(info.d, camera.D if name == 'left' else np.zeros(5))


def test_converted_bag_carries_the_extrinsics_twice(bag, rig):
    transforms = next(m for topic, _, m in read_all(bag) if topic == '/tf_static').transforms
    saved = load_rig(bag / 'rig.yaml')
    assert saved.names == rig.names
    for transform, camera in zip(transforms, rig.cameras):
        assert transform.header.frame_id == 'world'
        assert transform.child_frame_id == f'{camera.name}_optical_frame'
        q, t = transform.transform.rotation, transform.transform.translation
        np.testing.assert_array_equal([t.x, t.y, t.z], camera.centre)
        # v ↦ q v q*: the optical axis in the world; rounding of float64 only.
        axis = 2 * np.array([q.x * q.z + q.w * q.y, q.y * q.z - q.w * q.x, 0.5 - q.x**2 - q.y**2])
        np.testing.assert_allclose(axis, camera.world_from_camera[:3, 2], atol=1e-12)
        np.testing.assert_array_equal(saved[camera.name].world_from_camera, camera.world_from_camera)


def test_metadata_is_of_a_version_that_every_supported_distribution_reads(bag):
    """Field by field what rosbag2's yaml.hpp reads of version 8; Humble takes QoS as a string only."""
    info = yaml.safe_load((bag / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert info['version'] == 8
    assert info['storage_identifier'] == 'mcap'
    assert info['relative_file_paths'] == [file.name for file in bag.glob('*.mcap')]
    assert info['message_count'] == 4 * FRAMES + 1
    assert info['starting_time']['nanoseconds_since_epoch'] == 100 * 10**9
    assert info['duration']['nanoseconds'] == round((FRAMES - 1) / FPS * 1e9)
    assert info['files'][0]['message_count'] == info['message_count']
    assert info['compression_format'] == info['compression_mode'] == ''
    assert all(isinstance(value, str) for value in info['custom_data'].values())
    for entry in info['topics_with_message_count']:
        topic = entry['topic_metadata']
        assert topic['serialization_format'] == 'cdr'
        assert topic['type_description_hash'].startswith('RIHS01_')
        assert isinstance(topic['offered_qos_profiles'], str)
        (qos,) = yaml.safe_load(topic['offered_qos_profiles'])
        latched = topic['name'] == '/tf_static'
        # rmw's enums: keep last, reliable, transient local or volatile, automatic.
        assert (qos['history'], qos['reliability'], qos['liveliness']) == (1, 1, 1)
        assert qos['durability'] == (1 if latched else 2)
        assert qos['depth'] > 0


def test_conversion_is_reproducible(tmp_path, videos, rig):
    contents = []
    for name in ('one', 'two'):
        path = from_videos(videos, rig, tmp_path / name / 'bag', progress=False)
        contents.append((path / 'bag.mcap').read_bytes())
    assert contents[0] == contents[1]


def test_shift_moves_the_stamps_of_one_camera(tmp_path, videos, rig):
    path = from_videos(videos, rig, tmp_path / 'bag', start_time_s=100.0, shift={'right': -2}, progress=False)
    first = {}
    for topic, _, message in read_all(path):
        if topic.endswith('compressed'):
            first.setdefault(topic, stamp_of(message))
    assert first == {'/left/image_raw/compressed': 100 * 10**9,
                     '/right/image_raw/compressed': 100 * 10**9 - 100_000_000}
    assert describe_bag(path).custom_data['shift_right'] == '-2 frames'


def test_videos_can_be_named_in_any_order(tmp_path, videos, rig):
    path = from_videos({'right': videos[1]}, rig, tmp_path / 'bag', progress=False)
    assert [camera.name for camera in describe_bag(path).cameras] == ['right']


def test_summary(bag):
    summary = describe_bag(bag)
    assert summary.message_count == 4 * FRAMES + 1
    topics = {topic.name: topic for topic in summary.topics}
    assert topics['/left/camera_info'].count == FRAMES
    assert topics['/left/camera_info'].rate_hz == pytest.approx(FPS, rel=1e-9)
    assert [camera.name for camera in summary.cameras] == ['left', 'right']
    text = format_summary(summary)
    for word in ('64x48', '/left/image_raw/compressed', 'sensor_msgs/msg/CameraInfo', '20.00 Hz', '0.550 s'):
        assert word in text


def test_video_reader_tells_size_rate_and_every_frame(videos):
    info = probe_video(videos[0])
    assert (info.width, info.height, info.fps, info.frame_count) == (WIDTH, HEIGHT, FPS, FRAMES)
    assert len(list(read_frames(videos[0]))) == FRAMES


@pytest.mark.parametrize('spoil, words', [
    (lambda v, t: [v[0], write_video(t / 'c.mp4', frames=9)], ('c.mp4', '--trim')),
    (lambda v, t: [v[0], write_video(t / 'c.mp4', size=(48, 64))], ('c.mp4', '48x64', "'right'")),
    (lambda v, t: [v[0], write_video(t / 'c.mp4', fps=25.0)], ('c.mp4', '--fps')),
    (lambda v, t: [v[0]], ('1 videos', 'left, right')),
    (lambda v, t: [v[0], t / 'none.mp4'], ('none.mp4', 'no such file')),
    (lambda v, t: {'left': v[0], 'top': v[1]}, ('b.mp4', "'top'", 'left, right')),
    (lambda v, t: {}, ('no videos',)),
])
def test_videos_that_do_not_fit_are_refused_by_name(tmp_path, videos, rig, spoil, words):
    with pytest.raises(RecordingError) as caught:
        from_videos(spoil(videos, tmp_path), rig, tmp_path / 'out' / 'bag', progress=False)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / 'out' / 'bag').exists()
    assert not list(tmp_path.glob('**/.bag.partial-*'))


@pytest.mark.parametrize('content', [b'', b'not a video at all' * 100])
def test_an_unreadable_video_is_refused_by_name(tmp_path, videos, rig, content):
    (tmp_path / 'bad.mp4').write_bytes(content)
    with pytest.raises(RecordingError, match=r'bad\.mp4'):
        from_videos([videos[0], tmp_path / 'bad.mp4'], rig, tmp_path / 'bag', progress=False)


def test_a_video_cut_short_is_refused_and_leaves_nothing(tmp_path, rig):
    """AVI keeps its length in the header and its frames readable up to the cut."""
    paths = []
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in ('a.avi', 'b.avi'):
        writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter_fourcc(*'MJPG'), FPS, (WIDTH, HEIGHT))
        for frame in noise:
            writer.write(frame)
        writer.release()
        paths.append(tmp_path / name)
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:len(content) // 2])
    with pytest.raises(RecordingError, match=r'b\.avi'):
        from_videos(paths, rig, tmp_path / 'out' / 'bag', progress=False)
    assert list((tmp_path / 'out').iterdir()) == []


def test_trim_ends_with_the_shortest(tmp_path, videos, rig):
    short = write_video(tmp_path / 'c.mp4', frames=9)
    path = from_videos([videos[0], short], rig, tmp_path / 'bag', trim=True, progress=False)
    assert {topic.count for topic in describe_bag(path).topics if topic.name != '/tf_static'} == {9}


def test_an_existing_output_is_not_overwritten(tmp_path, videos, rig):
    (tmp_path / 'bag').mkdir()
    with pytest.raises(RecordingError, match='exists already'):
        from_videos(videos, rig, tmp_path / 'bag', progress=False)
    assert list((tmp_path / 'bag').iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, videos, rig, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(bags, '_write_view', full)
    with pytest.raises(RecordingError, match='No space left'):
        from_videos(videos, rig, tmp_path / 'out' / 'bag', progress=False)
    assert list((tmp_path / 'out').iterdir()) == []


def test_bad_arguments_are_refused(tmp_path, videos, rig):
    with pytest.raises(RecordingError, match="'top'"):
        from_videos(videos, rig, tmp_path / 'bag', shift={'top': 1}, progress=False)
    with pytest.raises(RecordingError, match='quality'):
        from_videos(videos, rig, tmp_path / 'bag', jpeg_quality=0, progress=False)
    with pytest.raises(RecordingError, match='frame rate'):
        from_videos(videos, rig, tmp_path / 'bag', fps=-1.0, progress=False)


@pytest.mark.parametrize('keep', [lambda n: n // 2, lambda n: n - 20, lambda n: 0, lambda n: 5])
def test_a_truncated_bag_is_refused_by_name(bag, keep):
    cut(bag, keep)
    with pytest.raises(RecordingError) as caught:
        describe_bag(bag)
    assert str(bag) in str(caught.value) and 'copy it again' in str(caught.value)


def test_a_bag_without_metadata_is_read_and_that_is_told(bag, capsys):
    whole = describe_bag(bag)
    (bag / 'metadata.yaml').unlink()
    summary = describe_bag(bag)
    assert summary.topics == whole.topics and summary.cameras == whole.cameras
    told = capsys.readouterr().err
    assert str(bag) in told and f'{4 * FRAMES + 1} messages recovered' in told


def test_a_single_file_that_is_cut_is_read_as_far_as_it_goes(bag, capsys):
    """One chunk holds this bag up to its last kilobytes, so a cut in the index loses nothing, one before everything."""
    (storage,) = bag.glob('*.mcap')
    whole = describe_bag(storage)
    cut(bag, lambda n: n - 20)
    assert describe_bag(storage).topics == whole.topics
    assert '49 messages recovered' in capsys.readouterr().err
    cut(bag, lambda n: n // 4)
    with pytest.raises(RecordingError, match='holds no messages'):
        describe_bag(storage)


def edited(bag, change):
    """The bag, with change(information) applied to its metadata.yaml."""
    content = yaml.safe_load((bag / 'metadata.yaml').read_text())
    change(content['rosbag2_bagfile_information'])
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(content))
    return bag


@pytest.mark.parametrize('text', [
    '', 'a: [', 'just words', 'rosbag2_bagfile_information: {version: 99}', 'rosbag2_bagfile_information: {version: 5}',
    '[' * 5000, 'a: &a [1]\nb: *a', 'rosbag2_bagfile_information: {relative_file_paths: [1]}', b'\xff\xfe\0'])
def test_whole_files_are_read_whatever_is_wrong_with_their_metadata(bag, capsys, text):
    whole = describe_bag(bag)
    (bag / 'metadata.yaml').write_bytes(text if isinstance(text, bytes) else text.encode())
    summary = describe_bag(bag)
    assert (summary.topics, summary.cameras) == (whole.topics, whole.cameras)
    told = capsys.readouterr().err
    assert str(bag) in told and 'metadata.yaml cannot be used' in told and 'reindex' in told


def test_a_storage_identifier_that_reindexing_left_empty_does_no_harm(bag, capsys):
    whole = describe_bag(bag)
    assert describe_bag(edited(bag, lambda of: of.update(storage_identifier=''))).topics == whole.topics
    assert capsys.readouterr().err == ''


def test_a_renamed_file_is_read_and_that_is_told(bag, capsys):
    whole = describe_bag(bag)
    next(bag.glob('*.mcap')).rename(bag / 'renamed.mcap')
    assert describe_bag(bag) == whole
    told = capsys.readouterr().err
    assert 'names bag.mcap, which is not there' in told and 'renamed.mcap' in told


def test_a_file_that_metadata_does_not_name_is_left_out_and_that_is_told(bag, capsys):
    whole = describe_bag(bag)
    shutil.copy(bag / 'bag.mcap', bag / 'backup.mcap')
    assert describe_bag(bag).topics == whole.topics
    assert 'backup.mcap is left out' in capsys.readouterr().err


@pytest.mark.parametrize('plugin', list(StoragePlugin))
def test_span_counts_and_topics_are_those_of_the_files(tmp_path, capsys, plugin):
    """As Humble writes it for a split bag: duration, start and counts of one part; and QoS in another text."""
    info = make_infos(40)
    with Writer(tmp_path / 'bag', version=8, storage_plugin=plugin) as writer:
        connection = writer.add_connection('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', typestore=STORE)
        for index, data in enumerate(info):
            writer.write(connection, 10**9 + index * 10**8, data)

    def change(of):
        of['duration']['nanoseconds'] //= 4
        of['starting_time']['nanoseconds_since_epoch'] += 10**8
        of['message_count'] = 10
        topic = of['topics_with_message_count'][0]
        topic['message_count'] = 10
        topic['topic_metadata']['offered_qos_profiles'] = yaml.safe_dump([{
            'history': 3, 'depth': 0, 'reliability': 1, 'durability': 2, 'liveliness': 1,
            **{name: {'sec': 9223372036, 'nsec': 854775807} for name in ('deadline', 'lifespan',
                                                                        'liveliness_lease_duration')},
            'avoid_ros_namespace_conventions': False}])

    summary = describe_bag(edited(tmp_path / 'bag', change))
    assert (summary.start_ns, summary.duration_ns, summary.message_count) == (10**9, 39 * 10**8, 40)
    assert summary.topics[0].rate_hz == pytest.approx(10.0)
    assert 'speaks of 10 messages, the files hold 40' in capsys.readouterr().err


def make_infos(count):
    types = STORE.types
    message = bags.camera_info(make_rig()['left'], bags._header(types, 10**9, 'left'), types)
    return [STORE.serialize_cdr(message, 'sensor_msgs/msg/CameraInfo')] * count


def split_bag(folder, spans):
    """A bag in as many files as there are spans; messages at those whole milliseconds."""
    info, names = make_infos(1)[0], []
    for number, span in enumerate(spans):
        with Writer(folder / f'part{number}', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            connection = writer.add_connection('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', typestore=STORE,
                                               offered_qos_profiles=[bags.CAMERA_QOS] if number else [])
            for time in span:
                writer.write(connection, time * 10**6, info)
    bag = folder / 'bag'
    bag.mkdir()
    for number in range(len(spans)):
        names.append(f'bag_{number}.mcap')
        shutil.move(folder / f'part{number}' / f'part{number}.mcap', bag / names[-1])
    shutil.move(folder / 'part0' / 'metadata.yaml', bag)
    return edited(bag, lambda of: of.update(relative_file_paths=names))


@pytest.mark.parametrize('spans', [(range(10, 20), range(20, 30)), (range(10, 30, 2), range(11, 31, 2))])
def test_a_split_bag_is_one_recording_in_order_of_time(tmp_path, spans):
    """Publishers of one topic with different QoS make different connections in the files."""
    summary = describe_bag(split_bag(tmp_path, spans))
    assert (summary.start_ns, summary.duration_ns, summary.message_count) == (10**7, 19 * 10**6, 20)
    with open_bag(tmp_path / 'bag') as bag:
        (connection,) = bag.connections
        assert connection.ext.offered_qos_profiles == [bags.CAMERA_QOS]
        times = [log_ns for _, log_ns, _ in bag.messages()]
        assert times == [time * 10**6 for time in range(10, 30)]
        assert [log for _, log, _ in bag.messages([connection], 15 * 10**6, 25 * 10**6)] == times[5:15]


def test_a_part_of_a_split_bag_that_is_missing_is_named(tmp_path):
    bag = split_bag(tmp_path, (range(10), range(10, 20)))
    (bag / 'bag_1.mcap').unlink()
    with pytest.raises(RecordingError, match=r'names bag_1\.mcap, which is not there; .*delete metadata.yaml'):
        describe_bag(bag)


@pytest.mark.parametrize('mode', [CompressionMode.MESSAGE, CompressionMode.FILE, CompressionMode.STORAGE])
@pytest.mark.parametrize('plugin', list(StoragePlugin))
def test_compressed_bags_are_read(tmp_path, mode, plugin):
    info = make_infos(30)
    if mode == CompressionMode.STORAGE and plugin == StoragePlugin.SQLITE3:
        pytest.skip('SQLite files have no compression of their own')
    writer = Writer(tmp_path / 'bag', version=8, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', typestore=STORE)
        for index, data in enumerate(info):
            writer.write(connection, 10**9 + index * 10**6, data)
    with open_bag(tmp_path / 'bag') as bag:
        assert [(log, bytes(data)) for _, log, data in bag.messages()] == [
            (10**9 + index * 10**6, bytes(data)) for index, data in enumerate(info)]


def test_missing_storage_is_refused(bag):
    next(bag.glob('*.mcap')).unlink()
    with pytest.raises(RecordingError, match=r'bag\.mcap'):
        describe_bag(bag)


def test_foreign_paths_are_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'old.bag').write_bytes(b'#ROSBAG V2.0\n')
    (tmp_path / 'notes.txt').write_text('hello')
    (tmp_path / 'foreign.mcap').write_bytes(b'\x89PNG' * 50)
    for name, word in (('empty', 'metadata.yaml'), ('old.bag', 'rosbags-convert'),
                       ('notes.txt', 'not a ROS 2 bag'), ('foreign.mcap', 'foreign format'),
                       ('absent', 'no such file')):
        with pytest.raises(RecordingError, match=word) as caught:
            describe_bag(tmp_path / name)
        assert name in str(caught.value)


def test_an_empty_bag_is_refused(tmp_path):
    with Writer(tmp_path / 'bag', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection('/left/camera_info', 'sensor_msgs/msg/CameraInfo', typestore=STORE)
    with pytest.raises(RecordingError, match='holds no messages'):
        describe_bag(tmp_path / 'bag')


def test_a_part_of_a_bag_has_its_images_and_every_calibration(bag):
    """Frames of 20 Hz: from 0.1 s to 0.25 s lie three of each camera."""
    with open_bag(bag, (0.1, 0.25)) as opened:
        read = [(connection.topic, log_ns) for connection, log_ns, _ in opened.messages()]
    images = [log_ns for topic, log_ns in read if topic == '/left/image_raw/compressed']
    assert images == [100 * 10**9 + index * 50_000_000 for index in (2, 3, 4)]
    assert sum(topic == '/left/camera_info' for topic, _ in read) == FRAMES
    assert sum(topic == '/tf_static' for topic, _ in read) == 1
    with pytest.raises(RecordingError, match=r'is [0-9.]+ s long; nothing of it is left from 60 s on'):
        with open_bag(bag, (60.0, 90.0)):
            pass


def test_bag_can_be_moved(bag, tmp_path):
    shutil.move(bag, tmp_path / 'elsewhere')
    assert describe_bag(tmp_path / 'elsewhere').message_count == 4 * FRAMES + 1
