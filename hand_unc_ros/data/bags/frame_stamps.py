"""When each frame of several videos was taken: by their common rate, by their containers, or by a table of times.

Frames of one number in two videos belong together only while no camera drops any. A container that is written frame by
frame has the time of each, and so has the table that a recorder leaves beside its videos.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hand_unc_ros.data.videos import VideoInfo, frame_times
from hand_unc_ros.errors import RecordingError

# Some containers count in milliseconds.
_EVEN_S = 2e-3
_CAMERA_COLUMNS = ('cam_id', 'port', 'camera')
_TIME_COLUMNS = ('frame_time', 'time')
LARGEST_TABLE = 1 << 28
"""Bytes of a table of times."""


def common_rate(infos: Mapping[str, VideoInfo], fps: float | None) -> float:
    """Frames per second of videos whose frames are even: fps, or what all containers say.

    Raises RecordingError where they differ by enough to pair wrong frames.
    """
    if fps is not None:
        if not 0 < fps < 10_000:
            raise RecordingError(f'frame rate {fps} is not a positive number of frames per second')
        return float(fps)
    rates = {name: info.fps for name, info in infos.items()}
    listed = ', '.join(f'{infos[name].path} {rate:.6g}' for name, rate in rates.items())
    if min(rates.values()) <= 0:
        raise RecordingError(f'a video does not say its frame rate ({listed}); give it with --fps')
    # Half a frame over the whole length is the drift that would pair wrong frames.
    longest = max(max(info.frame_count for info in infos.values()), 1)
    if (max(rates.values()) - min(rates.values())) / min(rates.values()) * longest > 0.5:
        raise RecordingError(
            f'the videos differ in frame rate ({listed} frames/s); convert them to one rate, or give '
            'the common one with --fps')
    return next(iter(rates.values()))


def container_stamps(infos: Mapping[str, VideoInfo], fps: float | None) -> dict[str, np.ndarray] | None:
    """Camera → time of each frame (N,), ns since the first of that video, by the containers.

    None where every video is even, so that rate and number of a frame say as much. Which ones are not is said on
    stderr. fps: a rate that the user gives for all. Raises RecordingError where that contradicts a container, or where
    the times of a container do not increase.
    """
    times = {name: _increasing_times(info, fps is not None) for name, info in infos.items()}
    uneven = {name: fault for name, info in infos.items()
              if times[name] is not None and (fault := _unevenness(times[name], info))}
    if not uneven:
        return None
    listed = '; '.join(uneven.values())
    if fps is not None:
        raise RecordingError(f'{listed}: one rate for all frames would pair wrong ones; leave --fps out, and the '
                             "frames are stamped by their containers, or give each frame's time with --timestamps")
    unknown = [str(infos[name].path) for name, of_video in times.items() if of_video is None]
    if unknown:
        raise RecordingError(f'{listed}; {", ".join(unknown)} has no time stamps to go with it: give the time of each '
                             'frame with --timestamps, or convert it to MP4')
    print(f'{listed}; all frames are stamped by their containers', file=sys.stderr)
    return {name: np.round(of_video * 1e9).astype(np.int64) for name, of_video in times.items()}


def _increasing_times(info: VideoInfo, rate_given: bool) -> np.ndarray | None:
    """The times of a container, None where it gives none, or where they are nonsense and a rate is given instead."""
    times = frame_times(info.path)
    if times is None or (np.diff(times) > 0).all():
        return times
    if rate_given:
        return None
    raise RecordingError(f'video {info.path}: the time stamps of its container do not increase at frame '
                         f'{int(np.argmax(np.diff(times) <= 0)) + 1}; give the time of each frame with --timestamps, '
                         'or --fps if no frame was dropped')


def _unevenness(times_s: np.ndarray, info: VideoInfo) -> str:
    """What is uneven about the frames of a video, '' where nothing is."""
    steps = np.diff(times_s)
    if len(steps) == 0:
        return ''
    number = np.arange(len(times_s))
    mean = times_s[-1] / (len(times_s) - 1)
    drift = abs(mean - 1 / info.fps) * len(steps) if info.fps else 0.0
    if np.abs(times_s - mean * number).max() <= _EVEN_S and drift <= 0.5 * mean:
        return ''
    longest = int(np.argmax(steps))
    return (f'video {info.path} has uneven frames: {1e3 * np.median(steps):.0f} ms from one to the next, and '
            f'{1e3 * steps[longest]:.0f} ms before frame {longest + 1}')


def table_stamps(path: Path, infos: Mapping[str, VideoInfo]) -> dict[str, np.ndarray]:
    """Camera → time of each frame (N,), ns since the first frame of all, by a table of times.

    The table is a CSV file with a row for each frame and camera, as caliscope writes it: `cam_id` (or `port`,
    `camera`: the camera's name, or the number in `cam_0`) and `frame_time` (or `time`), seconds by one clock.  Rows of
    other cameras are passed over.  Raises RecordingError, naming file, line and remedy.
    """
    seconds = _read_table(path, infos)
    for name, info in infos.items():
        times = seconds[name]
        if len(times) == 0:
            raise RecordingError(f'{path} has no row of camera {name!r}')
        steps = np.diff(times)
        if (steps <= 0).any():
            raise RecordingError(f'{path}: the times of camera {name!r} do not increase at its row '
                                 f'{int(np.argmax(steps <= 0)) + 2}; each frame has one time')
    first = min(times[0] for times in seconds.values())
    return {name: np.round((times - first) * 1e9).astype(np.int64) for name, times in seconds.items()}


def _read_table(path: Path, infos: Mapping[str, VideoInfo]) -> dict[str, np.ndarray]:
    of_id = {key: name for name in infos for key in (name, name.removeprefix('cam_'))}
    seconds: dict[str, list[float]] = {name: [] for name in infos}
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise RecordingError(f'{path} is larger than {LARGEST_TABLE} bytes; a table of times is not')
        with path.open(encoding='utf-8-sig', newline='') as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            camera = next((name for name in _CAMERA_COLUMNS if name in names), None)
            time = next((name for name in _TIME_COLUMNS if name in names), None)
            if camera is None or time is None:
                raise RecordingError(f'{path} has no columns {" or ".join(_CAMERA_COLUMNS)} and '
                                     f'{" or ".join(_TIME_COLUMNS)} in its first line; a row for each frame and camera '
                                     'is needed')
            for row in rows:
                name = of_id.get((row[camera] or '').strip())
                if name is not None:
                    seconds[name].append(_seconds(row[time], path, rows.line_num))
    except OSError as error:
        raise RecordingError(f'{path} cannot be read: {error.strerror or error}') from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(f'{path} is not a CSV file: {error}') from error
    return {name: np.array(times) for name, times in seconds.items()}


def _seconds(text: str | None, path: Path, line: int) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    # int64 nanoseconds end in the year 2262.
    if not abs(value) < 9e9:
        raise RecordingError(f'{path}, line {line}: {str(text)[:40]!r} is not a time in seconds')
    return value
