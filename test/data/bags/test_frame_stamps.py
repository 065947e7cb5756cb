"""Frames that a camera dropped: each frame of a bag has the time at which it was taken, or the videos are refused."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from bag_cases import FPS, FRAMES, make_rig, make_videos, read_all, stamp_of, write_video
from repository import RECORDINGS

from hand_unc_ros.data.bags.from_videos import from_videos
from hand_unc_ros.data.bags.frame_stamps import table_stamps
from hand_unc_ros.data.videos import VideoInfo, frame_times
from hand_unc_ros.errors import RecordingError

START_NS = 100 * 10**9
LEFT, RIGHT = '/left/image_raw/compressed', '/right/image_raw/compressed'


def boxes(data, start, end):
    """(start, end, type) of the boxes of an MP4 file."""
    while start < end:
        size, kind = struct.unpack_from('>I4s', data, start)
        yield start, start + size, kind
        start += size


def stamp_frames(path, times_s):
    """Give the frames of an MP4 file, as OpenCV writes it (its index at the end), these times."""
    data = bytearray(path.read_bytes())
    holders, start, end = [], 0, len(data)
    for wanted in (b'moov', b'trak', b'mdia', b'minf', b'stbl', b'stts'):
        inside = {kind: (first, last) for first, last, kind in boxes(data, start, end)}
        if b'edts' in inside:
            data[inside[b'edts'][0] + 4:inside[b'edts'][0] + 8] = b'free'
        if b'mdhd' in inside:
            scale, = struct.unpack_from('>I', data, inside[b'mdhd'][0] + 20)
        holders.append(inside[wanted][0])
        start, end = inside[wanted][0] + 8, inside[wanted][1]
    steps = np.diff(np.round(np.array(times_s) * scale).astype(int), append=round((times_s[-1] + 1 / FPS) * scale))
    table = struct.pack('>II', 0, len(steps)) + b''.join(struct.pack('>II', 1, step) for step in steps)
    grown = len(table) - (end - start)
    data[start:end] = table
    for holder in holders:
        struct.pack_into('>I', data, holder, struct.unpack_from('>I', data, holder)[0] + grown)
    path.write_bytes(data)


def dropping_video(path, dropped, base=0, frames=FRAMES):
    """A video of a camera that dropped some frames; frame i is uniformly base + 10 i bright, and taken at i / FPS."""
    kept = [index for index in range(frames) if index not in dropped]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), FPS, (64, 48))
    for index in kept:
        writer.write(np.full((48, 64, 3), base + 10 * index, np.uint8))
    writer.release()
    stamp_frames(path, [index / FPS for index in kept])
    return path


def stamps(bag, topic):
    return [stamp_of(message) for name, _, message in read_all(bag) if name == topic]


def shown(bag, topic):
    """Which frame each image of a bag is, by its brightness."""
    base = 0 if topic == LEFT else 5
    return [round((cv2.imdecode(np.asarray(message.data), cv2.IMREAD_GRAYSCALE).mean() - base) / 10)
            for name, _, message in read_all(bag) if name == topic]


def test_the_container_tells_when_a_frame_was_taken(tmp_path):
    np.testing.assert_allclose(frame_times(write_video(tmp_path / 'even.mp4')), np.arange(FRAMES) / FPS, atol=1e-6)
    video = dropping_video(tmp_path / 'a.mp4', {3, 4, 8})
    kept = [index for index in range(FRAMES) if index not in (3, 4, 8)]
    np.testing.assert_allclose(frame_times(video), np.array(kept) / FPS, atol=1e-4)


def test_frames_that_cameras_dropped_at_different_times_keep_their_own(tmp_path, capsys):
    """Number and mean rate of the frames are the same: by these alone, frames 2 to 8 would be paired 0.1 s apart."""
    videos = [dropping_video(tmp_path / 'a.mp4', {2, 3}), dropping_video(tmp_path / 'b.mp4', {8, 9}, base=5)]
    bag = from_videos(videos, make_rig(), tmp_path / 'bag', start_time_s=100.0, progress=False)
    for topic, dropped in ((LEFT, {2, 3}), (RIGHT, {8, 9})):
        kept = [index for index in range(FRAMES) if index not in dropped]
        assert shown(bag, topic) == kept
        np.testing.assert_allclose(stamps(bag, topic), [START_NS + index * 1e9 / FPS for index in kept], atol=1e5)
    times = [log for _, log, _ in read_all(bag)]
    assert times == sorted(times)
    said = capsys.readouterr().err
    for part in ('a.mp4 has uneven frames: 50 ms', '150 ms before frame 2', 'b.mp4', 'by their containers'):
        assert part in said


def test_one_even_video_goes_with_one_that_dropped_frames(tmp_path):
    videos = [write_video(tmp_path / 'a.mp4'), dropping_video(tmp_path / 'b.mp4', {5, 6}, base=5)]
    bag = from_videos(videos, make_rig(), tmp_path / 'bag', start_time_s=100.0, shift={'right': 2}, progress=False)
    assert shown(bag, LEFT) == list(range(FRAMES))
    kept = [index for index in range(FRAMES) if index not in (5, 6)]
    np.testing.assert_allclose(stamps(bag, RIGHT), [START_NS + (index + 2) * 1e9 / FPS for index in kept], atol=1e5)
    with pytest.raises(RecordingError, match=r'b\.mp4 has uneven frames.*leave --fps out'):
        from_videos(videos, make_rig(), tmp_path / 'other', fps=FPS, progress=False)


def test_uneven_videos_of_different_length_are_refused_or_trimmed(tmp_path):
    videos = [dropping_video(tmp_path / 'a.mp4', {2, 3}), dropping_video(tmp_path / 'b.mp4', {4}, 5, frames=8)]
    with pytest.raises(RecordingError, match=r'differ in length.*--trim'):
        from_videos(videos, make_rig(), tmp_path / 'bag', progress=False)
    bag = from_videos(videos, make_rig(), tmp_path / 'bag', trim=True, progress=False)
    assert shown(bag, LEFT) == [0, 1, 4, 5, 6, 7]
    assert shown(bag, RIGHT) == [0, 1, 2, 3, 5, 6, 7]


def table(path, times, ids=('left', 'right'), head='sync_index,cam_id,frame_time'):
    """times: for each camera, seconds of each frame. Rows are mixed, as caliscope leaves them."""
    rows = [f'{index},{name},{time!r}' for name, of_camera in zip(ids, times)
            for index, time in enumerate(of_camera)]
    path.write_text('\n'.join([head, *sorted(rows, key=lambda row: int(row.partition(',')[0]))]) + '\n')
    return path


@pytest.mark.parametrize('head', ['sync_index,cam_id,frame_time', 'sync_index,port,frame_time'])
def test_a_table_of_times_stamps_every_frame(tmp_path, head):
    left = [48033.0 + index / FPS for index in range(FRAMES)]
    right = [time + 0.004 for time in left]
    right[7:] = [time + 0.1 for time in right[7:]]
    path = table(tmp_path / 'timestamps.csv', (left, right, [1.0]), ('left', 'right', 'another'), head)
    bag = from_videos(make_videos(tmp_path), make_rig(), tmp_path / 'bag', start_time_s=100.0, timestamps=path,
                      progress=False)
    for topic, times in ((LEFT, left), (RIGHT, right)):
        np.testing.assert_allclose(stamps(bag, topic), START_NS + (np.array(times) - 48033.0) * 1e9, atol=2)
        assert shown(bag, topic) == list(range(FRAMES))


@pytest.mark.parametrize('session', ['4_cam_recording', 'charuco_calibration'])
def test_the_times_of_a_real_recording_pair_its_frames(session):
    """Four free-running USB cameras: the nearest frames by time are those that the recorder put into one set."""
    folder = RECORDINGS / 'caliscope' / session
    if not folder.is_dir():
        pytest.skip(f'no recordings in {RECORDINGS}')
    infos = {f'cam_{number}': VideoInfo(folder / f'cam_{number}.mp4', 1280, 720, 6.0, 0) for number in range(4)}
    stamps = table_stamps(folder / 'timestamps.csv', infos)
    assert len({len(of_camera) for of_camera in stamps.values()}) == 1
    first = stamps['cam_0']
    for of_camera in stamps.values():
        nearest = np.abs(of_camera[None] - first[:, None]).argmin(1)
        assert (nearest == np.arange(len(first))).mean() > 0.98


GOOD = [1.0 + index / FPS for index in range(FRAMES)]


@pytest.mark.parametrize('times, head, words', [
    ((GOOD, GOOD[:-1]), None, ['more frames than the 11']),
    ((GOOD[:-1], GOOD), None, ['more frames than the 11', 'a.mp4']),
    ((GOOD + [9.0], GOOD), None, ['a.mp4 ends after 12 frames', '13 times']),
    ((GOOD, GOOD[:5] + GOOD[4:-1]), None, ["camera 'right' do not increase at its row 6"]),
    ((GOOD, []), None, ["no row of camera 'right'"]),
    ((GOOD, GOOD[:-1] + [float('nan')]), None, ["'nan' is not a time"]),
    ((GOOD, GOOD[:-1] + [1e300]), None, ["'1e+300' is not a time"]),
    ((GOOD, GOOD), 'a,b,c', ['cam_id', 'frame_time']),
])
def test_a_table_that_does_not_fit_is_refused_by_name(tmp_path, times, head, words):
    path = table(tmp_path / 'timestamps.csv', times, ('left', 'right'), head or 'sync_index,cam_id,frame_time')
    with pytest.raises(RecordingError) as caught:
        from_videos(make_videos(tmp_path), make_rig(), tmp_path / 'out' / 'bag', timestamps=path, progress=False)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / 'out' / 'bag').exists()


def test_rate_and_table_contradict_each_other(tmp_path):
    with pytest.raises(RecordingError, match='--fps and --timestamps'):
        from_videos(make_videos(tmp_path), make_rig(), tmp_path / 'bag', fps=20.0,
                    timestamps=table(tmp_path / 't.csv', (GOOD, GOOD)), progress=False)


def test_what_is_no_video_is_named(tmp_path):
    first, second = make_videos(tmp_path)
    for extension in ('.png', '.jpg', '.bmp', '.webp', '.tiff'):
        assert cv2.imwrite(str(tmp_path / f'picture{extension}'), np.zeros((48, 64, 3), np.uint8))
        with pytest.raises(RecordingError, match=f'picture{extension}: this is a single image'):
            from_videos([first, tmp_path / f'picture{extension}'], make_rig(), tmp_path / 'bag', progress=False)
    with pytest.raises(RecordingError, match='this is a folder'):
        from_videos([first, tmp_path], make_rig(), tmp_path / 'bag', progress=False)
    (tmp_path / 'link.mp4').symlink_to(first)
    for again in (first, tmp_path / 'link.mp4'):
        with pytest.raises(RecordingError, match="given for cameras 'left' and 'right'"):
            from_videos([first, again], make_rig(), tmp_path / 'bag', progress=False)
