"""Bags written piece by piece: whole ones, split ones, and what is left when the writing stops anywhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from bag_record_cases import STRING, STRING_DEFINITION, by_topic, cdr, contents, offered, write_strings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from repository import TESTS
from rosbags.highlevel import AnyReader

from hand_unc_ros.data.bags.reader import describe_bag, open_bag
from hand_unc_ros.data.bags.writer import BagWriter, Topic
from hand_unc_ros.data.bags.message_definitions import message_definition
from hand_unc_ros.errors import RecordingError


def numbers(messages: list[tuple[str, int, bytes]]) -> list[int]:
    """The index that each message of /numbers carries."""
    return [int(data[8:].split()[0]) for topic, _, data in messages if topic == '/numbers']


def test_a_whole_bag_gives_back_every_byte_and_time(tmp_path: Path):
    writer = write_strings(tmp_path / 'bag', 300)
    writer.close()
    messages = contents(tmp_path / 'bag')
    assert numbers(messages) == list(range(300))
    assert messages[0] == ('/latched', 1_000_000, cdr('the pose'))
    assert [stamp for _, stamp, _ in messages[1:]] == [(index + 2) * 1_000_000 for index in range(300)]
    assert writer.message_count == 301
    summary = describe_bag(tmp_path / 'bag')
    assert (summary.start_ns, summary.duration_ns, summary.custom_data) == (1_000_000, 300_000_000, {'kind': 'test'})


def test_other_readers_decode_it_by_the_definitions_inside(tmp_path: Path):
    """rosbags with no types of its own knows what the bag tells it."""
    write_strings(tmp_path / 'bag', 3, size=10).close()
    with AnyReader([tmp_path / 'bag']) as reader:
        decoded = [reader.deserialize(data, connection.msgtype).data for connection, _, data in reader.messages()]
    assert decoded[0] == 'the pose'
    assert [text.split()[0] for text in decoded[1:]] == ['0', '1', '2']
    for qos in (connection.ext.offered_qos_profiles for connection in reader.connections):
        assert qos[0].depth == 1000


def test_metadata_is_as_every_supported_distribution_reads_it(tmp_path: Path):
    write_strings(tmp_path / 'bag', 100, max_bytes=200_000).close()
    info = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    assert (info['version'], info['storage_identifier']) == (8, 'mcap')
    assert info['relative_file_paths'] == [f'bag_{index}.mcap' for index in range(len(info['files']))]
    assert sum(file['message_count'] for file in info['files']) == info['message_count']
    assert sum(topic['message_count'] for topic in info['topics_with_message_count']) == info['message_count']
    for topic in info['topics_with_message_count']:
        profiles = topic['topic_metadata']['offered_qos_profiles']
        # A string of YAML with numbers: Humble parses nothing else.
        assert isinstance(profiles, str) and isinstance(yaml.safe_load(profiles)[0]['reliability'], int)


def test_a_split_bag_holds_everything_and_each_file_stands_alone(tmp_path: Path):
    write_strings(tmp_path / 'bag', 200, max_bytes=150_000).close()
    files = sorted((tmp_path / 'bag').glob('*.mcap'), key=lambda file: int(file.stem.rpartition('_')[2]))
    # 200 messages of 5 kB are 1 MB.
    assert len(files) == 7
    assert numbers(contents(tmp_path / 'bag')) == list(range(200))
    joined = []
    for file in files:
        # Index and definitions come on top of the messages.
        assert file.stat().st_size < 160_000
        alone = contents(file)
        assert alone[0][0] == '/latched' and alone[0][2] == cdr('the pose')
        joined += numbers(alone)
    assert joined == list(range(200))


def test_a_message_larger_than_a_file_has_one_of_its_own(tmp_path: Path):
    write_strings(tmp_path / 'bag', 3, max_bytes=1000).close()
    assert len(list((tmp_path / 'bag').glob('*.mcap'))) == 4
    assert numbers(contents(tmp_path / 'bag')) == [0, 1, 2]


@pytest.fixture(scope='module')
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int]]]:
    """A file as a kill leaves it, and (bytes, messages of /numbers) after each flush."""
    path = tmp_path_factory.mktemp('killed') / 'bag'
    writer = write_strings(path, 0)
    flushed = []
    for index in range(60):
        writer.write('/numbers', cdr(f'{index} '.ljust(500, 'x')), index + 2_000_000, 0)
        if index % 7 == 6:
            writer.flush()
            flushed.append((writer.written_bytes, index + 1))
    return path / 'bag_0.mcap', flushed


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_anywhere_it_gives_all_that_was_flushed_before(killed, tmp_path: Path, capsys, data):
    file, flushed = killed
    content = file.read_bytes()
    # Before the end of the first flush there may be nothing at all.
    keep = data.draw(st.integers(flushed[0][0], len(content)))
    folder = tmp_path / f'cut{keep}'
    folder.mkdir(exist_ok=True)
    (folder / 'bag_0.mcap').write_bytes(content[:keep])
    found = numbers(contents(folder))
    assert found == list(range(len(found)))
    # A chunk is whole before the index that follows it.
    least = max(count for size, count in flushed if size <= keep)
    assert least <= len(found) <= least + 7 and len(found) in [count for _, count in flushed]
    told = capsys.readouterr().err
    assert str(folder) in told and f'{len(found) + 1} messages recovered' in told


def test_a_damaged_byte_ends_what_is_recovered(killed, tmp_path: Path, capsys):
    file, flushed = killed
    content = file.read_bytes()
    place = flushed[3][0] + 300  # inside the fifth chunk
    (tmp_path / 'bag_0.mcap').write_bytes(content[:place] + bytes([content[place] ^ 0xff]) + content[place + 1:])
    assert len(numbers(contents(tmp_path))) == flushed[3][1]
    assert 'damaged' in capsys.readouterr().err


def test_finished_files_of_a_killed_recording_are_read_with_the_last(tmp_path: Path, capsys):
    writer = write_strings(tmp_path / 'bag', 500, max_bytes=200_000)
    writer.flush()
    assert not (tmp_path / 'bag' / 'metadata.yaml').exists()
    # Thirteen files: the eleventh comes after the third by number, not by name.
    assert len(list((tmp_path / 'bag').glob('*.mcap'))) == 13
    assert numbers(contents(tmp_path / 'bag')) == list(range(500))
    summary = describe_bag(tmp_path / 'bag')
    assert {topic.name: topic.count for topic in summary.topics} == {'/latched': 13, '/numbers': 500}
    assert 'bag_12.mcap' in capsys.readouterr().err
    with open_bag(tmp_path / 'bag') as bag:
        assert not bag.finished
        (chosen,) = [connection for connection in bag.connections if connection.topic == '/numbers']
        assert chosen.msgcount == 500 and chosen.ext.offered_qos_profiles == [offered()]
        part = [int(data[8:].split()[0]) for _, _, data in bag.messages([chosen], 100_000_000, 103_000_000)]
    assert part == [98, 99, 100]


def test_equal_times_keep_the_order_in_which_they_were_written(tmp_path: Path):
    """Over the borders of chunks as well: whoever plays or evaluates a bag twice sees the same."""
    for name, ending in (('whole', BagWriter.close), ('killed', BagWriter.flush)):
        writer = BagWriter(tmp_path / name)
        for topic in ('/b', '/a'):
            writer.add_topic(Topic(topic, STRING, STRING_DEFINITION))
        for index in range(40):
            writer.write('/b' if index % 3 else '/a', cdr(str(index)), 5_000_000, 0)
            if index % 5 == 0:
                writer.flush()
        ending(writer)
        read = contents(tmp_path / name)
        assert [data for _, _, data in read] == [cdr(str(index)) for index in range(40)]
        assert read == contents(tmp_path / name)


def test_a_recording_killed_before_its_first_message_is_empty_not_broken(tmp_path: Path):
    BagWriter(tmp_path / 'bag')
    with pytest.raises(RecordingError, match='holds no messages'):
        describe_bag(tmp_path / 'bag')


def test_an_existing_folder_is_refused(tmp_path: Path):
    with pytest.raises(RecordingError, match='exists already'):
        BagWriter(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(RecordingError, match='cannot write the bag'):
        BagWriter(tmp_path / 'file' / 'bag')


def test_a_full_disk_is_told_and_leaves_what_was_written(tmp_path: Path):
    """A limit on the size of files stands for the disk: the kernel answers in the middle of a write, too."""
    program = (f'import resource, sys; sys.path.insert(0, {str(TESTS)!r})\n'
               'from pathlib import Path; from bag_record_cases import write_strings\n'
               'resource.setrlimit(resource.RLIMIT_FSIZE, (3_500_000, 3_500_000))\n'
               f'write_strings(Path({str(tmp_path / "bag")!r}), 2000)\n')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=60)
    assert 'RecordingError: cannot write the bag' in done.stderr and 'File too large' in done.stderr
    found = numbers(contents(tmp_path / 'bag'))
    # Chunks of 1 MB: three of them fit, with 200 messages each and some more.
    assert found == list(range(len(found))) and 550 <= len(found) <= 700
    # The chunk that did not fit has been cut off again.
    assert (tmp_path / 'bag' / 'bag_0.mcap').stat().st_size < 3_200_000


def test_definitions_hold_everything_that_a_message_is_made_of():
    pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')
    text = message_definition('hand_unc_ros/msg/HandJointsWithCovariance')
    parts = [line.removeprefix('MSG: ') for line in text.splitlines() if line.startswith('MSG: ')]
    assert {'std_msgs/Header', 'builtin_interfaces/Time', 'geometry_msgs/Point'} <= set(parts)
    assert len(parts) == len(set(parts))


def test_a_type_that_is_not_installed_is_named():
    with pytest.raises(RecordingError, match='no_such_msgs/msg/Thing is not installed'):
        message_definition('no_such_msgs/msg/Thing')


def test_kinds_of_topics_stay_apart(tmp_path: Path):
    write_strings(tmp_path / 'bag', 5).close()
    assert {topic: len(held) for topic, held in by_topic(contents(tmp_path / 'bag')).items()} == {
        '/latched': 1, '/numbers': 5}
