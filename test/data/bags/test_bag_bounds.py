"""Bags that declare more than they hold are refused before anything is allocated."""

from __future__ import annotations

import struct
import time
import tracemalloc

import lz4.frame
import pytest
import zstandard
from bag_cases import FRAMES, make_bag

from hand_unc_ros.data.bags.files import BagFiles
from hand_unc_ros.data.bags.mcap_files import LARGEST_CHUNK, decompress
from hand_unc_ros.data.bags.metadata import load_plain_yaml
from hand_unc_ros.data.bags.reader import describe_bag, open_bag
from hand_unc_ros.errors import RecordingError

MEGABYTES = 1 << 20


@pytest.fixture
def bag(tmp_path):
    return make_bag(tmp_path)


def peak(call):
    """Largest amount of Python memory during a call that is refused, bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(RecordingError) as caught:
            call()
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('compression, compress', [('zstd', zstandard.ZstdCompressor(level=3).compress),
                                                   ('lz4', lz4.frame.compress)])
def test_a_chunk_that_grows_beyond_its_declaration_is_refused(compression, compress):
    good = bytes(range(256)) * 1000
    assert decompress(compress(good), compression, len(good)) == good
    bomb = compress(bytes(200 * MEGABYTES))
    assert len(bomb) < MEGABYTES
    most, text = peak(lambda: decompress(bomb, compression, 1000))
    assert most < 20 * MEGABYTES and 'declares 1000 bytes and holds more' in text
    most, text = peak(lambda: decompress(bomb, compression, 1 << 32))
    assert most < 20 * MEGABYTES and f'declares {1 << 32} bytes; at most {LARGEST_CHUNK}' in text
    # Two frames, of which the first is harmless.
    if compression == 'zstd':
        most, text = peak(lambda: decompress(compress(good) + bomb, compression, len(good)))
        assert most < 20 * MEGABYTES and 'holds more' in text


@pytest.mark.parametrize('indexed', [True, False])
def test_a_chunk_of_four_gigabytes_costs_nothing(bag, indexed):
    (storage,) = bag.glob('*.mcap')
    content = bytearray(storage.read_bytes())
    chunk = next(at for at in range(len(content)) if content[at] == 6 and content[at + 9:at + 17] == struct.pack(
        '<Q', 100 * 10**9))
    size = content[chunk + 25:chunk + 33]
    for place in (chunk + 25, content.rindex(size)) if indexed else (chunk + 25,):
        content[place:place + 8] = struct.pack('<Q', 1 << 32)
    storage.write_bytes(content if indexed else content[:-100])
    if not indexed:
        (bag / 'metadata.yaml').unlink()
    began = time.process_time()
    most, text = peak(lambda: describe_bag(bag))
    assert most < 20 * MEGABYTES and time.process_time() - began < 2.0
    assert str(bag) in text and (str(LARGEST_CHUNK) in text or 'holds no messages' in text)


def test_yaml_that_multiplies_itself_is_not_expanded(bag):
    bomb = 'a0: &a0 {x: 1}\n' + ''.join(f'a{i + 1}: &a{i + 1} {{<<: [{", ".join([f"*a{i}"] * 10)}]}}\n'
                                        for i in range(12))
    began = time.process_time()
    with pytest.raises(ValueError, match='aliases'):
        load_plain_yaml(bomb)
    (bag / 'metadata.yaml').write_text(bomb)
    assert describe_bag(bag).message_count == 4 * FRAMES + 1
    assert time.process_time() - began < 2.0


def test_qos_that_multiplies_itself_is_not_expanded(bag):
    """QoS profiles lie in the file as YAML texts, of which a reader that merges aliases never returns."""
    (storage,) = bag.glob('*.mcap')
    content, key = bytearray(storage.read_bytes()), b'\x14\0\0\0offered_qos_profiles'
    bomb = '\n'.join(['- &a0 {x: 1}', *(f'- &a{i + 1} {{<<: [{", ".join([f"*a{i}"] * 7)}]}}' for i in range(7))])
    start = content.find(key)
    while start >= 0:
        start += len(key)
        room, = struct.unpack_from('<I', content, start)
        if room:
            content[start + 4:start + 4 + room] = bomb.encode()[:room].ljust(room)
        start = content.find(key, start)
    storage.write_bytes(content)
    began = time.process_time()
    with open_bag(bag) as opened:
        assert sum(1 for _ in opened.messages()) == 4 * FRAMES + 1
    assert time.process_time() - began < 2.0


def test_files_are_closed_where_one_of_them_is_none(bag, tmp_path):
    (tmp_path / 'other.mcap').write_bytes(b'nothing of the kind')
    with pytest.raises(RecordingError, match='foreign format'):
        BagFiles([bag / 'bag.mcap', tmp_path / 'other.mcap'])
