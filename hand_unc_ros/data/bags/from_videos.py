"""Calibrated videos to a ROS 2 bag, without ROS.

A bag written here holds, per camera, `/<camera>/image_raw/compressed`
(sensor_msgs/CompressedImage, JPEG) and `/<camera>/camera_info` (sensor_msgs/CameraInfo), and once
`/tf_static` with the pose of each camera's optical frame in `world`. Beside the recording lies
`rig.yaml`, the same calibration for readers without TF.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
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

_FOREVER = QosTime(9223372036, 854775807)  # rmw's infinite duration


def _qos(depth: int, durability: QosDurability) -> Qos:
    # Reliable and volatile or stronger: matches every subscriber, best-effort ones included.
    return Qos(QosHistory.KEEP_LAST, depth, QosReliability.RELIABLE, durability, _FOREVER, _FOREVER,
               QosLiveliness.AUTOMATIC, _FOREVER, False)


CAMERA_QOS = _qos(10, QosDurability.VOLATILE)
STATIC_QOS = _qos(1, QosDurability.TRANSIENT_LOCAL)


def image_topic(camera: str) -> str:
    """Topic of the images of a camera in a bag made from videos."""
    return f'/{camera}/image_raw/compressed'


def info_topic(camera: str) -> str:
    """Topic of the CameraInfo of that camera."""
    return f'/{camera}/camera_info'


def optical_frame(camera: str) -> str:
    """Name of the optical frame of that camera."""
    return f'{camera}_optical_frame'


def from_videos(
    videos: Sequence[str | Path] | Mapping[str, str | Path],
    rig: CameraRig,
    output: str | Path,
    *,
    fps: float | None = None,
    start_time_s: float = DEFAULT_START_TIME_S,
    shift: Mapping[str, float] | None = None,
    sync: bool = False,
    trim: bool = False,
    jpeg_quality: int = DEFAULT_JPEG_QUALITY,
    progress: bool | None = None,
) -> Path:
    """Write synchronised videos and their calibration as one bag. Returns its folder.

    videos: in the order of the rig's cameras, or by camera name (a subset of the rig is fine).
    Frame i of every video is stamped start_time_s + i / fps; fps is the videos' own unless given.
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
    rates = _rates(infos, fps, sync)
    for name, info in infos.items():
        _check_size(rig[name], info)
    shift = dict(shift or {})
    for name in shift:
        if name not in infos:
            raise RecordingError(f'shift names camera {name!r}; the cameras here are {", ".join(infos)}')
    if sync:
        found = synchronise({name: info.path for name, info in infos.items()}, fps)
        shift = {name: shift.get(name, 0) + found.offset_s[name] * rates[name] for name in infos}
        log.info('offsets from %s: %s', found.source, ', '.join(
            f'{name} {1e3 * found.offset_s[name]:+.1f} ± {1e3 * found.sigma_s[name]:.1f} ms' for name in infos))
    elif not trim:
        _check_lengths(infos)

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f'.{output.name}.partial-', dir=output.parent))
    except OSError as error:
        raise disk_error(output, error) from error
    try:
        bag = partial / output.name
        _write(bag, infos, rig, rates, round(start_time_s * 1e9), shift, trim, sync, jpeg_quality, progress)
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
    return assigned


def _rates(infos: Mapping[str, VideoInfo], fps: float | None, own: bool) -> dict[str, float]:
    """Frames per second of each video: their own, or a common one."""
    if fps is not None:
        if not 0 < fps < 10_000:
            raise RecordingError(f'frame rate {fps} is not a positive number of frames per second')
        return dict.fromkeys(infos, float(fps))
    rates = {name: info.fps for name, info in infos.items()}
    listed = ', '.join(f'{infos[name].path} {rate:.6g}' for name, rate in rates.items())
    if min(rates.values()) <= 0:
        raise RecordingError(f'a video does not say its frame rate ({listed}); give it with --fps')
    if own:
        return rates
    # Half a frame over the whole length is the drift that would pair wrong frames.
    longest = max(max(info.frame_count for info in infos.values()), 1)
    if (max(rates.values()) - min(rates.values())) / min(rates.values()) * longest > 0.5:
        raise RecordingError(
            f'the videos differ in frame rate ({listed} frames/s); convert them to one rate, or give '
            'the common one with --fps')
    return dict.fromkeys(infos, next(iter(rates.values())))


def _check_size(camera: Camera, info: VideoInfo) -> None:
    if (camera.width, camera.height) != (info.width, info.height):
        raise RecordingError(
            f'video {info.path} is {info.width}x{info.height}, but camera {camera.name!r} was calibrated at '
            f'{camera.width}x{camera.height}; use the calibration of this recording, or check that the '
            'videos are in the order of the rig')


def _check_lengths(infos: Mapping[str, VideoInfo]) -> None:
    counts = {info.frame_count for info in infos.values() if info.frame_count}
    if len(counts) > 1:
        listed = ', '.join(f'{info.path} {info.frame_count}' for info in infos.values())
        raise RecordingError(
            f'the videos differ in length ({listed} frames), so they may not start together; '
            'cut them to the same frames, or give --trim to end with the shortest')


def _write(bag: Path, infos: Mapping[str, VideoInfo], rig: CameraRig, rates: Mapping[str, float], start_ns: int,
           shift: Mapping[str, float], trim: bool, uneven: bool, jpeg_quality: int, progress: bool | None) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    total = max(info.frame_count for info in infos.values()) or None
    with ExitStack() as stack:
        writer = stack.enter_context(
            Writer(bag, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP))
        source = ', '.join(f'{name}={info.path.name}' for name, info in infos.items())
        writer.set_custom_data('source', source)
        for name, frames in shift.items():
            writer.set_custom_data(f'shift_{name}', f'{frames:g} frames')
        static = writer.add_connection(
            '/tf_static', TF_TYPE, typestore=store, offered_qos_profiles=[STATIC_QOS])
        images, calibrations = {}, {}
        for name in infos:
            calibrations[name] = writer.add_connection(
                info_topic(name), INFO_TYPE, typestore=store, offered_qos_profiles=[CAMERA_QOS])
            images[name] = writer.add_connection(
                image_topic(name), IMAGE_TYPE, typestore=store, offered_qos_profiles=[CAMERA_QOS])

        first_ns = start_ns + min(round(shift.get(name, 0) * 1e9 / rates[name]) for name in infos)
        writer.write(static, first_ns, store.serialize_cdr(_tf_message(rig, first_ns, store), TF_TYPE))

        streams = [stack.enter_context(_closing(read_frames(info.path))) for info in infos.values()]
        bar = stack.enter_context(tqdm(total=total, unit='frame', desc=f'{bag.name}',
                                       disable=None if progress is None else not progress))
        written = 0
        for index, frames in enumerate(zip_longest(*streams)):
            ended = [info for info, frame in zip(infos.values(), frames) if frame is None]
            if ended and trim:
                break
            if ended and not uneven:
                raise RecordingError(
                    f'video {ended[0].path} ends after {index} frames, before the others; cut the videos to '
                    'the same frames, or give --trim to end with the shortest')
            for name, frame in zip(infos, frames):
                if frame is None:
                    continue
                stamp_ns = start_ns + round((index + shift.get(name, 0)) * 1e9 / rates[name])
                _write_view(writer, store, rig[name], frame, stamp_ns, calibrations[name], images[name],
                            jpeg_quality)
            written = index + 1
            bar.update()
        if not written:
            raise RecordingError(f'video {next(iter(infos.values())).path}: holds no frame')


@contextmanager
def _closing(frames: Iterator[np.ndarray]) -> Iterator[Iterator[np.ndarray]]:
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
