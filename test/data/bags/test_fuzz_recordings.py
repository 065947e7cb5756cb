"""Readers of images, bags, videos and tables of times, with mutants of good inputs: a named error, or an answer."""

from __future__ import annotations

import array
import os
import shutil
import struct
import types
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_cases import STORE, make_bag, make_rig, make_videos
from fuzz_cases import fuzz, mutant
from hypothesis import strategies as st
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from hand_unc_ros.data.bags.frame_stamps import container_stamps, table_stamps
from hand_unc_ros.data.bags.reader import IMAGE_TYPES, describe_bag, open_bag
from hand_unc_ros.data.bags.stored_images import decode_stored_image
from hand_unc_ros.data.image_messages import ENCODINGS, decode_compressed, decode_image
from hand_unc_ros.data.videos import probe_video, read_frames

counts = pytest.mark.parametrize('examples', [150, pytest.param(10_000, marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def quiet(capfd):
    """Decoders in C write about each mutant."""
    yield
    capfd.readouterr()


def picture():
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8), (0, 0), 2)


def checked_png(data):
    """The mutant of a PNG with checksums that hold, as far as its parts can be told apart."""
    fixed, at = bytearray(data), 8
    while at + 12 <= len(fixed):
        length, = struct.unpack_from('>I', fixed, at)
        if at + 12 + length > len(fixed):
            break
        struct.pack_into('>I', fixed, at + 8 + length, zlib.crc32(fixed[at + 4:at + 8 + length]))
        at += 12 + length
    return bytes(fixed)


@counts
@pytest.mark.parametrize('form', ['.jpg', 'progressive .jpg', 'restarts .jpg', '.png', 'checked .png', '.bmp', '.webp',
                                  '.tiff', 'mosaic .png'])
def test_encoded_images(form, examples):
    options = {'progressive': [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], 'restarts': [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]}
    image = picture()[..., 0] if 'mosaic' in form else picture()
    data = cv2.imencode('.' + form.partition('.')[2], image, options.get(form.split()[0], []))[1].tobytes()
    name = 'bayer_rggb8; png compressed ' if 'mosaic' in form else 'jpeg'

    def read(changes):
        changed = mutant(data, changes)
        changed = checked_png(changed) if 'checked' in form else changed
        pixels = decode_compressed(types.SimpleNamespace(format=name, data=np.frombuffer(changed, np.uint8)))
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3

    fuzz(read, examples // 5 if examples > 1000 else examples)


numbers = st.integers(0, 70) | st.sampled_from((0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))


@counts
def test_raw_images(examples):
    def read(drawn):
        encoding, height, width, step, size, big = drawn
        pixels = decode_image(types.SimpleNamespace(encoding=encoding, height=height, width=width, step=step,
                                                    is_bigendian=big, data=array.array('B', bytes(size))))
        assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8

    fuzz(read, examples, st.tuples(st.sampled_from((*ENCODINGS, '16UC1', 'nonsense')), numbers, numbers, numbers,
                                   st.integers(0, 20_000), st.booleans()))


def read_whole(bag):
    """Everything that is done with a bag: a look, all messages, all images."""
    describe_bag(bag)
    with open_bag(bag) as opened:
        wanted = [connection for connection in opened.connections if connection.msgtype in IMAGE_TYPES]
        for connection, _, data in opened.messages(wanted) if wanted else ():
            decode_stored_image(STORE, connection.msgtype, data)


@pytest.fixture(scope='module')
def bags(tmp_path_factory):
    """The same few messages: as MCAP with an index, with compressed chunks, without an index, and as SQLite."""
    folder = tmp_path_factory.mktemp('bags')
    made = {'mcap': make_bag(folder)}
    with open_bag(made['mcap']) as bag:
        messages = [(connection, log, bytes(data)) for connection, log, data in bag.messages()][:9]
    for name, plugin in (('zstd', StoragePlugin.MCAP), ('sqlite', StoragePlugin.SQLITE3)):
        made[name] = folder / name
        writer = Writer(made[name], version=8, storage_plugin=plugin)
        if name == 'zstd':
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer:
            of = {}
            for connection, log, data in messages:
                key = connection.topic
                of[key] = of.get(key) or writer.add_connection(key, connection.msgtype, typestore=STORE)
                writer.write(of[key], log, data)
    made['unfinished'] = folder / 'unfinished'
    made['unfinished'].mkdir()
    content = (made['zstd'] / 'zstd.mcap').read_bytes()
    (made['unfinished'] / 'unfinished_0.mcap').write_bytes(content[:-200])
    return made


@counts
@pytest.mark.parametrize('kind', ['mcap', 'zstd', 'unfinished', 'sqlite'])
def test_storage_files_of_bags(bags, tmp_path, kind, examples):
    folder = tmp_path / 'bag'
    shutil.copytree(bags[kind], folder)
    storage = next(file for file in folder.iterdir() if file.suffix in ('.mcap', '.db3'))
    data = storage.read_bytes()

    def read(changes):
        storage.write_bytes(mutant(data, changes))
        read_whole(folder)

    fuzz(read, examples // 3 if examples > 1000 else examples)


@counts
def test_metadata_of_bags(bags, tmp_path, examples):
    shutil.copytree(bags['mcap'], tmp_path / 'bag')
    text = (tmp_path / 'bag' / 'metadata.yaml').read_bytes()

    def read(changes):
        (tmp_path / 'bag' / 'metadata.yaml').write_bytes(mutant(text, changes))
        with open_bag(tmp_path / 'bag') as bag:
            assert sum(1 for _ in bag.messages()) == 49

    fuzz(read, examples)


@counts
@pytest.mark.parametrize('extension', ['.mp4', '.avi', '.mkv'])
def test_videos(tmp_path, extension, examples):
    path = tmp_path / f'a{extension}'
    codec = cv2.VideoWriter_fourcc(*('MJPG' if extension == '.avi' else 'mp4v'))
    writer = cv2.VideoWriter(str(path), codec, 20.0, (64, 48))
    for index in range(5):
        writer.write(np.full((48, 64, 3), 40 * index, np.uint8))
    writer.release()
    data = path.read_bytes()
    bad = Path(os.devnull).open('w')
    kept = os.dup(2)
    os.dup2(bad.fileno(), 2)

    def read(changes):
        path.write_bytes(mutant(data, changes))
        info = probe_video(path)
        container_stamps({'a': info}, None)
        for number, _ in enumerate(read_frames(path)):
            assert number < 1000

    try:
        fuzz(read, examples // 2)
    finally:
        os.dup2(kept, 2)


@counts
def test_tables_of_times(tmp_path, examples):
    infos = {name: probe_video(path) for name, path in zip(make_rig().names, make_videos(tmp_path))}
    path = tmp_path / 'timestamps.csv'
    data = '\n'.join(['sync_index,cam_id,frame_time', *(
        f'{index},{name},{1 + index / 20}' for index in range(12) for name in infos)]).encode()

    def read(changes):
        path.write_bytes(mutant(data, changes))
        for stamps in table_stamps(path, infos).values():
            assert stamps.dtype == np.int64 and (np.diff(stamps) > 0).all()

    fuzz(read, examples)
