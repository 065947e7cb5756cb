"""Offsets between videos: known shifts on synthetic scenes, real recordings, and what is refused."""

import os
import stat
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from bag_cases import make_rig, read_all, stamp_of
from repository import RECORDINGS

from hand_unc_ros.data.bags.from_videos import from_videos
from hand_unc_ros.data.bags.video_sync import (
    Curve,
    Lag,
    loudness_curve,
    match,
    motion_curve,
    offsets,
    sound_curves,
    synchronise,
)
from hand_unc_ros.errors import RecordingError

WIDTH, HEIGHT = 160, 120


def path_of(seed, seconds=40.0):
    """A hand that moves, rests and moves again: (t) → place (2,) in units of the image."""
    rng = np.random.default_rng(seed)
    knots = np.arange(0, seconds, 0.25)
    speed = rng.uniform(0, 1, len(knots)) ** 3
    steps = speed[:, None] * rng.normal(0, 0.16, (len(knots), 2))
    places = np.cumsum(steps, 0)
    smooth = np.abs((places + 0.5) % 2 - 1) * 0.7 + 0.15
    fine = np.linspace(0, seconds, 4000)
    curve = np.stack([np.convolve(np.interp(fine, knots, smooth[:, k]), np.hanning(31) / np.hanning(31).sum(), 'same')
                      for k in range(2)])
    return lambda t: np.array([np.interp(t, fine, axis) for axis in curve])


def film(file, place, start, seconds, fps, view=0, noise=2.0):
    """Write what a camera sees of `place` from `start` on; view: 0 from the front, 1 turned and foreshortened."""
    rng = np.random.default_rng(view)
    background = cv2.GaussianBlur(rng.uniform(40, 200, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 4)
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'mp4v'), fps, (WIDTH, HEIGHT))
    size = np.array([WIDTH, HEIGHT])
    for index in range(round(seconds * fps)):
        x, y = place(start + index / fps)
        at = np.array([x, y] if view == 0 else [0.2 + 0.6 * y, 0.3 + 0.3 * x + 0.2 * y]) * size
        image = background.copy()
        centre = tuple(int(round(16 * value)) for value in at)
        cv2.circle(image, centre, 16 * 14, 235.0 if view == 0 else 20.0, -1, cv2.LINE_AA, 4)
        cv2.circle(image, tuple(c + 16 * 5 for c in centre), 16 * 4, 90.0, -1, cv2.LINE_AA, 4)
        image = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
        writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    writer.release()
    return file


@pytest.mark.parametrize(('rates', 'delay_s'), [((30, 30), 0.4 / 30), ((30, 30), -3.25 / 30), ((30, 60), 1.61 / 30),
                                                ((24, 30), 0.5), ((29.97, 25), -2.013), ((15, 60), 0.02)])
def test_known_shifts_are_recovered(tmp_path, rates, delay_s):
    """Other viewpoint, other rate, a shift that is no number of frames: within half a frame and three sigma."""
    place = path_of(3)
    first = motion_curve(film(tmp_path / 'a.mp4', place, 5.0, 12.0, rates[0]))
    second = motion_curve(film(tmp_path / 'b.mp4', place, 5.0 + delay_s, 12.0, rates[1], view=1))
    found = match(first, second)
    assert isinstance(found, Lag), found
    error = found.lag_s + delay_s
    assert abs(error) < 0.5 / min(rates) and abs(error) < 3 * found.sigma_s, (error, found)
    assert found.sigma_s < 0.75 / min(rates)


def test_the_deviation_holds_over_many_scenes():
    """Curves with shared and own parts: the normalised error has a mean square near 1, and wrong peaks are refused."""
    errors, refused = [], 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        rate, count, lag = 30.0, 360, int(rng.integers(-60, 60))
        shared = np.convolve(rng.standard_normal(count + 400), np.hanning(9), 'same')
        parts = [np.convolve(rng.standard_normal(count), np.hanning(9), 'same') * rng.uniform(0.3, 1.5) for _ in 'ab']
        first = Curve(0.0, rate, shared[200:200 + count] + parts[0])
        second = Curve(0.0, rate, shared[200 - lag:200 - lag + count] + parts[1])
        found = match(first, second)
        if isinstance(found, Lag):
            errors.append((found.lag_s - lag / rate) / found.sigma_s)
        else:
            refused += 1
    assert refused < 40
    rms = np.sqrt(np.mean(np.square(errors)))
    assert np.abs(errors).max() < 5 and 0.4 < rms < 1.5, rms


def test_still_scenes_are_refused(tmp_path):
    files = {name: film(tmp_path / f'{name}.mp4', lambda t: (0.4, 0.5), 0.0, 5.0, 30, view)
             for view, name in enumerate(('left', 'right'))}
    with pytest.raises(RecordingError, match=r'the offset of right cannot be found.*left and right: nothing moves'):
        synchronise(files)


def test_periodic_motion_is_refused(tmp_path):
    def waving(t):
        return 0.5 + 0.3 * np.sin(2 * np.pi * t / 0.8), 0.5
    curves = {name: motion_curve(film(tmp_path / f'{name}.mp4', waving, 0.1 * view, 8.0, 30, view))
              for view, name in enumerate(('left', 'right'))}
    with pytest.raises(RecordingError, match='the motion repeats itself'):
        offsets(curves, 'motion')


def test_different_scenes_and_short_videos_are_refused(tmp_path):
    first = motion_curve(film(tmp_path / 'a.mp4', path_of(1), 0.0, 8.0, 30))
    second = motion_curve(film(tmp_path / 'b.mp4', path_of(2), 0.0, 8.0, 30))
    assert match(first, second).startswith('no offset stands out')
    brief = replace(first, values=first.values[:40])
    assert 'shorter than 2 s' in match(first, brief) or 'nothing moves' in match(first, brief)
    assert isinstance(match(replace(first, values=first.values[:0]), second), str)


def test_several_cameras_reach_each_other_and_contradictions_are_refused():
    rng = np.random.default_rng(4)
    shared = np.convolve(rng.standard_normal(900), np.hanning(7), 'same')
    own = {name: 0.4 * np.convolve(rng.standard_normal(500), np.hanning(7), 'same') for name in 'abc'}
    starts = {'a': 100, 'b': 112, 'c': 70}
    curves = {name: Curve(0.0, 30.0, shared[start:start + 500] + own[name]) for name, start in starts.items()}
    found = offsets(curves, 'motion')
    assert found.offset_s['a'] == found.sigma_s['a'] == 0.0
    for name, start in starts.items():
        assert abs(found.offset_s[name] - (start - 100) / 30) < max(4 * found.sigma_s[name], 1e-9)


def test_lags_that_contradict_each_other_are_refused():
    """The third camera shows one motion in time with the first, and another, a second later, than the second."""
    rng = np.random.default_rng(4)
    one, two = (np.convolve(rng.standard_normal(900), np.hanning(7), 'same') for _ in 'ab')
    curves = {'a': Curve(0.0, 30.0, one[100:700] + 0.4 * two[100:700]),
              'b': Curve(0.0, 30.0, two[100:700] + 0.4 * one[100:700]),
              'c': Curve(0.0, 30.0, one[100:700] + two[70:670])}
    with pytest.raises(RecordingError, match='contradict each other.*a to c .*b to c '):
        offsets(curves, 'motion')


def test_uneven_stamps_of_frames_are_followed(tmp_path):
    """Frames that were dropped or late count at their own times."""
    place = path_of(7)
    film(tmp_path / 'a.mp4', place, 2.0, 12.0, 30)
    rng = np.random.default_rng(0)
    stamps = np.cumsum(np.where(rng.random(300) < 0.1, 2, 1)) / 30.0
    uneven = tmp_path / 'b.mp4'
    film(uneven, lambda t: place(2.7 + stamps[int(round(t * 30))] - stamps[0]), 0.0, 10.0, 30)
    found = match(motion_curve(tmp_path / 'a.mp4'), motion_curve(uneven, stamps_s=stamps))
    assert abs(found.lag_s + 0.7) < 0.5 / 30
    ignoring = match(motion_curve(tmp_path / 'a.mp4'), motion_curve(uneven))
    assert isinstance(ignoring, str) or abs(ignoring.lag_s + 0.7) > 0.5 / 30


def clap(rng, start_s, seconds=8.0, rate=16_000):
    """Sound with two claps at 3 s and 4.3 s of the scene, room noise and hum."""
    time = start_s + np.arange(round(seconds * rate)) / rate
    sound = rng.normal(0, 40, len(time)) + 400 * np.sin(2 * np.pi * 50 * time)
    for at, loud in ((3.0, 9000), (4.3, 7000)):
        sound += loud * rng.standard_normal(len(time)) * np.exp(-np.maximum(time - at, 0) / 0.05) * (time >= at)
    return sound.clip(-32768, 32767).astype('<i2')


def test_claps_are_found_to_milliseconds():
    rng = np.random.default_rng(2)
    first, second = (loudness_curve(clap(rng, start), 16_000) for start in (0.0, 1.2345))
    found = match(first, second)
    assert isinstance(found, Lag), found
    assert abs(found.lag_s + 1.2345) < 0.004 and found.sigma_s < 0.01


def test_sound_is_read_where_ffmpeg_is(tmp_path, monkeypatch):
    """A stand-in for the program that prints the samples beside the video."""
    rng = np.random.default_rng(2)
    for name, start in (('a', 0.0), ('b', 0.5)):
        (tmp_path / f'{name}.mp4').write_bytes(b'')
        (tmp_path / f'{name}.mp4.raw').write_bytes(clap(rng, start).tobytes())
    program = tmp_path / 'ffmpeg'
    program.write_text(f'#!{sys.executable}\nimport sys\nfrom pathlib import Path\n'
                       "sys.stdout.buffer.write(Path(sys.argv[sys.argv.index('-i') + 1] + '.raw').read_bytes())\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    videos = {name: tmp_path / f'{name}.mp4' for name in 'ab'}
    monkeypatch.setenv('PATH', str(tmp_path / 'nowhere'))
    assert sound_curves(videos) is None
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    found = synchronise(videos)
    assert found.source == 'sound' and abs(found.offset_s['b'] - 0.5) < 0.004
    # Silence in one of them: motion has to do.
    (tmp_path / 'b.mp4.raw').write_bytes(bytes(2 * 16_000 * 8))
    assert sound_curves(videos) is None


def test_from_videos_stamps_by_the_offsets(tmp_path):
    """Other start, other length, other rate: the stamps follow the scene."""
    place, rig = path_of(5), make_rig()
    names = rig.names
    size = rig.cameras[0].width, rig.cameras[0].height
    files = {}
    for view, (name, start, seconds, fps) in enumerate(((names[0], 3.0, 9.0, 30), (names[1], 3.417, 8.0, 25))):
        small = film(tmp_path / 'small.mp4', place, start, seconds, fps, view)
        files[name] = tmp_path / f'{name}.mp4'
        resize(small, files[name], fps, size)
    found = synchronise(files)
    bag = from_videos(files, rig, tmp_path / 'bag', start_time_s=100.0, sync=True, progress=False)
    stamps = {name: stamps_of(bag, f'/{name}/image_raw/compressed') for name in files}
    assert len(stamps[names[0]]) == 270 and len(stamps[names[1]]) == 200
    assert stamps[names[0]][0] == 100.0
    assert abs(stamps[names[1]][0] - 100.417) < 0.02
    assert stamps[names[1]][0] - 100.0 == pytest.approx(found.offset_s[names[1]], abs=1e-6)
    np.testing.assert_allclose(np.diff(stamps[names[1]]), 1 / 25, atol=1e-6)


def resize(source, target, fps, size):
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter_fourcc(*'mp4v'), fps, size)
    capture = cv2.VideoCapture(str(source))
    while True:
        good, frame = capture.read()
        if not good:
            break
        writer.write(cv2.resize(frame, size))
    writer.release()


def stamps_of(bag, topic):
    """Seconds of the stamps of a bag's images."""
    return np.array([stamp_of(message) * 1e-9 for name, _, message in read_all(bag) if name == topic])


@pytest.mark.slow
@pytest.mark.skipif(not (RECORDINGS / 'handpose3d').is_dir(), reason='the recording is not here')
def test_a_real_hand_in_two_cameras():
    """Frames cut off either video come back within half a frame."""
    first, second = (motion_curve(RECORDINGS / 'handpose3d' / f'cam{view}_test.mp4') for view in (0, 1))
    for cut in (-45, -7, -1, 0, 1, 3, 20, 100):
        a = replace(first, values=first.values[max(0, -cut):])
        b = replace(second, values=second.values[max(0, cut):])
        found = match(a, b)
        assert isinstance(found, Lag), (cut, found)
        assert abs(30 * found.lag_s + cut) < 0.5, (cut, found)


@pytest.mark.slow
@pytest.mark.skipif(not (RECORDINGS / 'caliscope').is_dir(), reason='the recording is not here')
def test_four_real_cameras_at_six_frames_per_second():
    """Against timestamps.csv (within 10 ms of each other): what is found is right, the rest is refused."""
    folder = RECORDINGS / 'caliscope' / 'charuco_calibration'
    curves = {name: motion_curve(folder / f'cam_{name}.mp4') for name in '0123'}
    with pytest.raises(RecordingError, match='the offset of 1 cannot be found from motion'):
        offsets(curves, 'motion')
    del curves['1']
    found = offsets(curves, 'motion')
    assert all(abs(6 * offset) < 0.5 for offset in found.offset_s.values()), found
