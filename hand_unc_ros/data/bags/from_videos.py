"""Calibrated videos to a ROS 2 bag, without ROS.

A bag written here holds, per camera, `/<camera>/image_raw/compressed`
(sensor_msgs/CompressedImage, JPEG) and `/<camera>/camera_info` (sensor_msgs/CameraInfo), and once
`/tf_static` with the pose of each camera's optical frame in `world`. Beside the recording lies
`rig.yaml`, the same camera calibrations for readers without TF.
"""

from __future__ import annotations

import heapq
import logging
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from hand_unc_ros.data.bags.frame_stamps import common_rate, container_stamps, table_stamps
from hand_unc_ros.data.bags.reader import INFO_TYPE, TF_TYPE
from hand_unc_ros.data.bags.video_sync import synchronise
from hand_unc_ros.data.bags.writer import METADATA_VERSION, disk_error
from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.data.videos import VideoInfo, probe_video, read_frames
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.geometry.cameras import Camera, CameraRig

log = logging.getLogger(__name__)

IMAGE_TYPE = 'sensor_msgs/msg/CompressedImage'
WORLD_FRAME = 'world'

# Videos carry no capture time. A fixed start keeps conversions reproducible, and lies in the past,
# so that no frame of a freshly converted bag has a stamp in the future. 2020-01-01T00:00:00Z.
DEFAULT_START_TIME_S = 1_577_836_800.0
DEFAULT_JPEG_QUALITY = 95  # what image_transport uses

# (camera, ns since the start, BGR image), in the order in which they are written.
Frames = Iterator[tuple[str, int, np.ndarray]]

_FOREVER = QosTime(9223372036, 854775807)  # rmw's infinite duration


def _qos(depth: int, durability: QosDurability) -> Qos:
    # Reliable and volatile or stronger: matches every subscriber, best-effort ones included.
    return Qos(QosHistory.KEEP_LAST, depth, QosReliability.RELIABLE, durability, _FOREVER, _FOREVER,
               QosLiveliness.AUTOMATIC, _FOREVER, False)


CAMERA_QOS = _qos(10, QosDurability.VOLATILE)
STATIC_QOS = _qos(1, QosDurability.TRANSIENT_LOCAL)


def image_topic(camera: str) -> str:
    """Topic of a camera's compressed images."""
    return f'/{camera}/image_raw/compressed'


def info_topic(camera: str) -> str:
    """Topic of a camera's CameraInfo."""
    return f'/{camera}/camera_info'


def optical_frame(camera: str) -> str:
    """Name of a camera's optical frame."""
    return f'{camera}_optical_frame'


def from_videos(
    videos: Sequence[str | Path] | Mapping[str, str | Path],
    rig: CameraRig,
    output: str | Path,
    *,
    fps: float | None = None,
    start_time_s: float = DEFAULT_START_TIME_S,
    timestamps: str | Path | None = None,
    shift: Mapping[str, int] | None = None,
    sync: bool = False,
    trim: bool = False,
    jpeg_quality: int = DEFAULT_JPEG_QUALITY,
    progress: bool | None = None,
) -> Path:
    """Write synchronised videos and their camera calibrations as one bag. Returns its folder.

    videos: in the order of the rig's cameras, or by camera name (a subset of the rig is fine).
    Frame i of every video is stamped start_time_s + i / fps; fps is the videos' own unless given. Where frames of a
    video are uneven, because the camera dropped some, all are stamped by their containers instead, from start_time_s
    on. timestamps: a table of times that goes before both, see `frame_stamps.table_stamps`.
    shift: camera → frames by which its stamps are moved later (negative: earlier), to mend, or to
    make, a wrong synchronisation. sync: find by how much each video starts later (video_sync), so that
    lengths and rates may differ; shift comes on top. trim: end with the shortest video instead of refusing unequal
    lengths. progress: True, False, or None for a bar on a terminal only.

    Nothing is left behind on failure: the bag is written to a hidden folder `.<name>.partial-*`
    beside its place and moved there when complete.

    Raises RecordingError naming the file or camera and the remedy.
    """
    output = Path(output)
    if os.path.lexists(output):
        raise RecordingError(
            f'{output} exists already and is not overwritten; remove it or choose another name')
    if not 1 <= jpeg_quality <= 100:
        raise RecordingError(f'JPEG quality {jpeg_quality} is outside 1 … 100')
    infos = {name: probe_video(path) for name, path in _assign(videos, rig).items()}
    rig = rig.subset(list(infos))
    for name, info in infos.items():
        _check_size(rig[name], info)
    shift = dict(shift or {})
    for name in shift:
        if name not in infos:
            raise RecordingError(f'shift names camera {name!r}; the cameras here are {", ".join(infos)}')
    start_ns = round(start_time_s * 1e9)
    if sync:
        if timestamps is not None:
            raise RecordingError('--sync and --timestamps both say how videos belong together; give one of them')
        first_ns, frames = _synchronised(infos, fps, shift)
    else:
        first_ns, frames = _plan(infos, fps, timestamps, shift, trim)

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f'.{output.name}.partial-', dir=output.parent))
    except OSError as error:
        raise disk_error(output, error) from error
    try:
        bag = partial / output.name
        _write(bag, infos, rig, frames, first_ns, start_ns, shift, jpeg_quality, progress)
        save_rig(rig, bag / 'rig.yaml')
        bag.rename(output)
    except OSError as error:
        raise disk_error(output, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _assign(videos: Sequence[str | Path] | Mapping[str, str | Path], rig: CameraRig) -> dict[str, Path]:
    known = ', '.join(rig.names)
    if isinstance(videos, Mapping):
        for name, path in videos.items():
            if name not in rig.names:
                raise RecordingError(f'video {path}: the rig has no camera {name!r}; it has {known}')
        assigned = {name: Path(videos[name]) for name in rig.names if name in videos}
    else:
        if len(videos) != len(rig.names):
            raise RecordingError(
                f'{len(videos)} videos for the {len(rig.names)} cameras of the rig ({known}); '
                'give one video per camera in that order, or name them: CAMERA=VIDEO')
        assigned = {name: Path(path) for name, path in zip(rig.names, videos)}
    if not assigned:
        raise RecordingError('no videos given; give one per camera of the rig')
    for (one, first), (two, second) in combinations(assigned.items(), 2):
        if first.exists() and second.exists() and first.samefile(second):
            raise RecordingError(f'video {second} is given for cameras {one!r} and {two!r}; give each its own')
    return assigned


def _plan(infos: Mapping[str, VideoInfo], fps: float | None, timestamps: str | Path | None,
          shift: Mapping[str, int], trim: bool) -> tuple[int, Frames]:
    """The earliest time, and the frames of all videos with their times, by what is known of these."""
    if timestamps is not None:
        if fps is not None:
            raise RecordingError('--fps and --timestamps both say when frames were taken; give one of them')
        stamps = table_stamps(Path(timestamps), infos)
    else:
        stamps = container_stamps(infos, fps)
    if stamps is None:
        rate = common_rate(infos, fps)
        if not trim:
            _check_lengths(infos)
        first_ns = round(min((shift.get(name, 0) for name in infos), default=0) * 1e9 / rate)
        return first_ns, _even_frames(infos, rate, shift, trim)
    period_ns = int(np.median(np.concatenate([np.diff(of_video) for of_video in stamps.values()] or [[0]])))
    ends = {name: int(of_video[-1]) for name, of_video in stamps.items()}
    if timestamps is None and not trim and max(ends.values()) - min(ends.values()) > 1.5 * period_ns:
        listed = ', '.join(f'{infos[name].path} {end / 1e9:.3f} s' for name, end in ends.items())
        raise RecordingError(f'the videos differ in length ({listed}), so they may not start together; cut them to the '
                             'same time, or give --trim to end with the shortest')
    last_ns = min(ends.values()) if trim else max(ends.values())
    stamps = {name: of_video[of_video <= last_ns] for name, of_video in stamps.items()} if trim else stamps
    moved = {name: of_video + shift.get(name, 0) * period_ns for name, of_video in stamps.items()}
    return min(int(of_video[0]) for of_video in moved.values()), _stamped_frames(infos, moved, trim)


def _synchronised(infos: Mapping[str, VideoInfo], fps: float | None, shift: Mapping[str, int]) -> tuple[int, Frames]:
    """The earliest time, and the frames of all videos with their times, by what the videos themselves show."""
    rates = {name: fps or info.fps for name, info in infos.items()}
    if min(rates.values()) <= 0:
        listed = ', '.join(f'{infos[name].path} {rate:.6g}' for name, rate in rates.items())
        raise RecordingError(f'a video does not say its frame rate ({listed}); give it with --fps')
    found = synchronise({name: info.path for name, info in infos.items()}, fps)
    log.info('offsets from %s: %s', found.source, ', '.join(
        f'{name} {1e3 * found.offset_s[name]:+.1f} ± {1e3 * found.sigma_s[name]:.1f} ms' for name in infos))
    first_ns = {name: round((found.offset_s[name] + shift.get(name, 0) / rates[name]) * 1e9) for name in infos}

    def of_video(name: str) -> Frames:
        with _closing(read_frames(infos[name].path)) as frames:
            for index, frame in enumerate(frames):
                yield name, first_ns[name] + round(index * 1e9 / rates[name]), frame

    def merged() -> Frames:
        with ExitStack() as stack:
            yield from heapq.merge(*(stack.enter_context(_closing(of_video(name))) for name in infos), key=itemgetter(1))

    return min(first_ns.values()), merged()


def _even_frames(infos: Mapping[str, VideoInfo], rate: float, shift: Mapping[str, int], trim: bool) -> Frames:
    """Frame i of each video at (i + shift) / rate."""
    with ExitStack() as stack:
        streams = [stack.enter_context(_closing(read_frames(info.path))) for info in infos.values()]
        for index, frames in enumerate(zip_longest(*streams)):
            ended = [info for info, frame in zip(infos.values(), frames) if frame is None]
            if ended and trim:
                break
            if ended:
                raise RecordingError(
                    f'video {ended[0].path} ends after {index} frames, before the others; cut the videos to '
                    'the same frames, or give --trim to end with the shortest')
            for name, frame in zip(infos, frames):
                yield name, round((index + shift.get(name, 0)) * 1e9 / rate), frame


def _stamped_frames(infos: Mapping[str, VideoInfo], stamps: Mapping[str, np.ndarray], trim: bool) -> Frames:
    """Frames at their times, in order of these."""
    def of_video(name: str) -> Frames:
        with _closing(read_frames(infos[name].path)) as frames:
            for index, stamp_ns in enumerate(stamps[name].tolist()):
                frame = next(frames, None)
                if frame is None:
                    raise RecordingError(f'video {infos[name].path} ends after {index} frames, and there are '
                                         f'{len(stamps[name])} times of its frames; give the times of this recording')
                yield name, stamp_ns, frame
            if not trim and next(frames, None) is not None:
                raise RecordingError(f'video {infos[name].path} has more frames than the {len(stamps[name])} that '
                                     'there are times of; give the times of this recording')

    with ExitStack() as stack:
        streams = [stack.enter_context(_closing(of_video(name))) for name in infos]
        yield from heapq.merge(*streams, key=itemgetter(1))


def _check_size(camera: Camera, info: VideoInfo) -> None:
    if (camera.width, camera.height) != (info.width, info.height):
        raise RecordingError(
            f'video {info.path} is {info.width}x{info.height}, but camera {camera.name!r} was calibrated at '
            f'{camera.width}x{camera.height}; use the camera calibration of this recording, or check that the '
            'videos are in the order of the rig')


def _check_lengths(infos: Mapping[str, VideoInfo]) -> None:
    counts = {info.frame_count for info in infos.values() if info.frame_count}
    if len(counts) > 1:
        listed = ', '.join(f'{info.path} {info.frame_count}' for info in infos.values())
        raise RecordingError(
            f'the videos differ in length ({listed} frames), so they may not start together; '
            'cut them to the same frames, or give --trim to end with the shortest')


def _write(bag: Path, infos: Mapping[str, VideoInfo], rig: CameraRig, frames: Frames, first_ns: int, start_ns: int,
           shift: Mapping[str, int], jpeg_quality: int, progress: bool | None) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    total = sum(info.frame_count for info in infos.values()) or None
    with ExitStack() as stack:
        writer = stack.enter_context(
            Writer(bag, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP))
        source = ', '.join(f'{name}={info.path.name}' for name, info in infos.items())
        writer.set_custom_data('source', source)
        for name, count in shift.items():
            writer.set_custom_data(f'shift_{name}', f'{count} frames')
        static = writer.add_connection(
            '/tf_static', TF_TYPE, typestore=store, offered_qos_profiles=[STATIC_QOS])
        images, calibrations = {}, {}
        for name in infos:
            calibrations[name] = writer.add_connection(
                info_topic(name), INFO_TYPE, typestore=store, offered_qos_profiles=[CAMERA_QOS])
            images[name] = writer.add_connection(
                image_topic(name), IMAGE_TYPE, typestore=store, offered_qos_profiles=[CAMERA_QOS])

        bar = stack.enter_context(tqdm(total=total, unit='image', desc=f'{bag.name}',
                                       disable=None if progress is None else not progress))
        stack.enter_context(_closing(frames))
        first_ns += start_ns
        writer.write(static, first_ns, store.serialize_cdr(_tf_message(rig, first_ns, store), TF_TYPE))
        written = 0
        for name, stamp_ns, frame in frames:
            _write_view(writer, store, rig[name], frame, start_ns + stamp_ns, calibrations[name], images[name],
                        jpeg_quality)
            written += 1
            bar.update()
        if not written:
            raise RecordingError(f'video {next(iter(infos.values())).path}: holds no frame')


@contextmanager
def _closing(frames: Generator) -> Iterator[Generator]:
    try:
        yield frames
    finally:
        frames.close()


def _write_view(writer: Writer, store: Any, camera: Camera, frame: np.ndarray, stamp_ns: int,
                info_connection: Connection, image_connection: Connection, jpeg_quality: int) -> None:
    if frame.shape[:2] != (camera.height, camera.width):
        raise RecordingError(
            f'the video of camera {camera.name!r} changes its size to {frame.shape[1]}x{frame.shape[0]} on '
            'the way; convert it to one size')
    encoded, jpeg = cv2.imencode('.jpg', frame, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
    if not encoded:
        raise RecordingError(f'a frame of camera {camera.name!r} could not be encoded as JPEG')
    types = store.types
    header = _header(types, stamp_ns, optical_frame(camera.name))
    info = camera_info(camera, header, types)
    image = types[IMAGE_TYPE](header=header, format='bgr8; jpeg compressed bgr8', data=jpeg.ravel())
    writer.write(info_connection, stamp_ns, store.serialize_cdr(info, INFO_TYPE))
    writer.write(image_connection, stamp_ns, store.serialize_cdr(image, IMAGE_TYPE))


def _header(types: Mapping[str, Any], stamp_ns: int, frame: str) -> Any:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = types['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds)
    return types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame)


def camera_info(camera: Camera, header: Any, types: Mapping[str, Any]) -> Any:
    """sensor_msgs/CameraInfo of a camera, unrectified (R = I, P = [K | 0])."""
    # ROS has no name for "no distortion": five zeros of plumb_bob say the same.
    undistorted = camera.distortion_model == 'none'
    projection = np.zeros((3, 4))
    projection[:, :3] = camera.K
    region = types['sensor_msgs/msg/RegionOfInterest'](
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return types[INFO_TYPE](
        header=header, height=camera.height, width=camera.width,
        distortion_model='plumb_bob' if undistorted else camera.distortion_model,
        d=np.zeros(5) if undistorted else np.asarray(camera.D, np.float64),
        k=np.asarray(camera.K, np.float64).ravel(), r=np.eye(3).ravel(), p=projection.ravel(),
        binning_x=0, binning_y=0, roi=region)


def _tf_message(rig: CameraRig, stamp_ns: int, store: Any) -> Any:
    types = store.types
    transforms = []
    for camera in rig.cameras:
        x, y, z = (float(value) for value in camera.world_from_camera[:3, 3])
        qx, qy, qz, qw = Rotation.from_matrix(camera.world_from_camera[:3, :3]).as_quat(canonical=True).tolist()
        transforms.append(types['geometry_msgs/msg/TransformStamped'](
            header=_header(types, stamp_ns, WORLD_FRAME), child_frame_id=optical_frame(camera.name),
            transform=types['geometry_msgs/msg/Transform'](
                translation=types['geometry_msgs/msg/Vector3'](x=x, y=y, z=z),
                rotation=types['geometry_msgs/msg/Quaternion'](x=qx, y=qy, z=qz, w=qw))))
    return types[TF_TYPE](transforms=transforms)
