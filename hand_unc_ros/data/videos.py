"""Video files as streams of frames, with errors that name the file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hand_unc_ros.errors import RecordingError

# Some containers (AVI, Matroska) only estimate their length from duration × rate.
_LENGTH_TOLERANCE = 0.01
_IMAGE_MAGICS = (b'\x89PNG', b'II*\0', b'MM\0*', b'GIF8')


@dataclass(frozen=True)
class VideoInfo:
    """What a video's container says. frame_count: 0 where the container doesn't say."""

    path: Path
    width: int
    height: int
    fps: float
    frame_count: int


def _open(path: Path) -> cv2.VideoCapture:
    if path.is_dir():
        raise RecordingError(f'video {path}: this is a folder; give the video file in it')
    if not path.is_file():
        raise RecordingError(f'video {path}: no such file; check the path')
    if path.stat().st_size == 0:
        raise RecordingError(f'video {path}: the file is empty; copy or record it again')
    if _is_image(path):
        raise RecordingError(f'video {path}: this is a single image, not a video; give the video of that camera')
    try:
        capture = cv2.VideoCapture(str(path))
    except cv2.error as error:
        raise RecordingError(f'video {path}: cannot be opened: {error}; convert it, e.g. `ffmpeg -i IN OUT.mp4`'
                             ) from error
    if not capture.isOpened():
        raise RecordingError(
            f'video {path}: cannot be decoded (truncated, or not a video that OpenCV knows); '
            'copy it again, or convert it, e.g. `ffmpeg -i IN -c:v libx264 OUT.mp4`')
    return capture


def _is_image(path: Path) -> bool:
    """By its first bytes; the frames of a raw MJPEG stream are images too."""
    with path.open('rb') as file:
        head = file.read(12)
    if head[:2] == b'\xff\xd8':
        return path.suffix.lower() not in ('.mjpg', '.mjpeg')
    return head[:4] in _IMAGE_MAGICS or head[:2] == b'BM' or (head[:4] == b'RIFF' and head[8:] == b'WEBP')


def probe_video(path: str | Path) -> VideoInfo:
    """Size, rate and length of a video, with its first frame decoded as proof that it can be.

    Raises RecordingError when the file is missing, empty, or cannot be decoded.
    """
    path = Path(path)
    capture = _open(path)
    try:
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        decoded, frame = capture.read()
    finally:
        capture.release()
    if not decoded:
        raise RecordingError(f'video {path}: holds no frame that can be decoded; copy or record it again')
    # Size from the frame: OpenCV applies the container's rotation to frames, not to its size fields.
    height, width = frame.shape[:2]
    return VideoInfo(path, width, height, fps if math.isfinite(fps) and fps > 0 else 0.0,
                     int(count) if math.isfinite(count) and count > 0 else 0)


def frame_times(path: str | Path) -> np.ndarray | None:
    """When each frame is shown, (N,) seconds since the first, by the container; None where it gives no times.

    Decodes the whole video.  Raises RecordingError when the file cannot be opened.
    """
    capture = _open(Path(path))
    times = []
    try:
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
    finally:
        capture.release()
    seconds = np.array(times)
    if len(seconds) < 2 or not np.isfinite(seconds).all() or not seconds.any():
        return None
    return seconds - seconds[0]


def read_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Yield every frame as (H, W, 3) uint8 **BGR**, as OpenCV decodes it.

    Raises RecordingError when the file cannot be opened, or when decoding stops before the
    length that the container promises (a truncated file), within 1 % for containers that estimate it.
    """
    path = Path(path)
    info = probe_video(path)
    capture = _open(path)
    try:
        decoded = 0
        while True:
            good, frame = capture.read()
            if not good:
                break
            decoded += 1
            yield frame
    finally:
        capture.release()
    if decoded < info.frame_count - max(1, _LENGTH_TOLERANCE * info.frame_count):
        raise RecordingError(
            f'video {path}: decoding stopped after {decoded} of {info.frame_count} frames; '
            'the file is damaged or truncated: copy it again')
