"""The cameras that ROS messages describe: sensor_msgs/CameraInfo for K and D, static transforms for the poses.

Messages of rclpy and of rosbags alike: only their fields are looked at.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from hand_unc_ros.data.calibrated_image import info_doubts, published_extent
from hand_unc_ros.errors import CalibrationError, ImageFormatError
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.lens_names import lens_model

log = logging.getLogger(__name__)

# Messages carry rotations with few digits; within this they are moved to the nearest rotation.
_ROUNDING = 1e-3


def camera_from_info(name: str, info: Any, world_from_camera: np.ndarray, rectified: bool = False) -> Camera:
    """The camera of a sensor_msgs/CameraInfo at a (4, 4) pose, for the image as it is published.

    K and D are used, those of the raw image; for `rectified` images P, and R, which turns the camera. Binning and
    the region of interest are taken into account.  Doubts whether these are the intrinsics of that image are logged as
    warnings.  Raises CalibrationError, naming the camera and the remedy.
    """
    extent = published_extent(info)
    try:
        if rectified:
            K, turn = _rectified(info)
            model, D = 'none', np.zeros(0)
            world_from_camera = world_from_camera @ turn
        else:
            K = np.array(info.k, dtype=np.float64).reshape(3, 3)
            model, D = lens_model(info.distortion_model, np.array(info.d, dtype=np.float64))
    except CalibrationError as error:
        raise CalibrationError(f"camera '{name}': {error}") from None
    camera = Camera(name, extent.width, extent.height, extent.of_image(K), model, D, world_from_camera)
    for doubt in info_doubts(name, info, rectified):
        log.warning('%s', doubt)
    return camera


def _rectified(info: Any) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) of the rectified image, and its camera's pose (4, 4) in the raw image's camera."""
    P = np.array(info.p, dtype=np.float64).reshape(3, 4)
    R = np.array(info.r, dtype=np.float64).reshape(3, 3)
    turn = np.eye(4)
    if R.any():
        if not np.abs(R @ R.T - np.eye(3)).max() < _ROUNDING:
            raise CalibrationError('R of its CameraInfo is not a rotation; calibrate the camera again')
        u, _, vt = np.linalg.svd(R)
        turn[:3, :3] = (u @ vt).T
    if P.any():
        return P[:, :3], turn
    if np.any(info.d) or info.distortion_model in ('equidistant', 'fisheye'):
        raise CalibrationError('its topic carries rectified images, and P of its CameraInfo is 0, so that their camera '
                               'is not known; take the raw images, or calibrate the camera with image_pipeline')
    return np.array(info.k, dtype=np.float64).reshape(3, 3), turn


def pose_matrix(translation: Any, rotation: Any) -> np.ndarray:
    """(4, 4) of a geometry_msgs translation and quaternion; raises CalibrationError when that is none."""
    x, y, z, w = rotation.x, rotation.y, rotation.z, rotation.w
    norm = float(np.sqrt(x * x + y * y + z * z + w * w))
    if not abs(norm - 1) < 1e-2:
        raise CalibrationError(f'the quaternion ({x:g}, {y:g}, {z:g}, {w:g}) of the transform has '
                               f'norm {norm:g}; it must be 1')
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), translation.x],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), translation.y],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), translation.z],
        [0, 0, 0, 1]])


def check_size(camera: Camera, image: np.ndarray) -> None:
    """Raise ImageFormatError when the image is not of the size that the camera was calibrated for."""
    check_pixels(camera, image.shape[1], image.shape[0])


def check_pixels(camera: Camera, width: int, height: int) -> None:
    """As `check_size`, by width and height alone: before an image is decoded."""
    if (width, height) != (camera.width, camera.height):
        raise ImageFormatError(f'the image is {width}×{height} and the camera calibration of {camera.name} is for '
                               f'{camera.width}×{camera.height}; calibrate at the size that is streamed')


def rig_from_messages(infos: Mapping[str, Any], transforms: Iterable[Any], world_frame: str,
                      rectified: Collection[str] = ()) -> CameraRig:
    """The rig of one CameraInfo for each camera and of geometry_msgs/TransformStamped from the world to their frames.

    rectified: the cameras whose images are rectified.
    Raises CalibrationError, naming the camera, where its pose in `world_frame` cannot be had.
    """
    parents = {stamped.child_frame_id.strip('/'): (stamped.header.frame_id.strip('/'), stamped.transform)
               for stamped in transforms}
    cameras = []
    for name, info in infos.items():
        frame = info.header.frame_id.strip('/')
        chain, pose = _to_root(frame, parents)
        above, world = _to_root(world_frame.strip('/'), parents)
        if chain != above:
            raise CalibrationError(f'camera {name!r}: no static transforms lead from {world_frame!r} to its frame '
                                   f'{frame!r}; give the camera calibration as a rig file')
        cameras.append(camera_from_info(name, info, np.linalg.inv(world) @ pose, name in rectified))
    return CameraRig(cameras)


def _to_root(frame: str, parents: Mapping[str, tuple[str, Any]]) -> tuple[str, np.ndarray]:
    """The frame at the top of the tree, and the pose (4, 4) of `frame` in it."""
    pose, seen = np.eye(4), {frame}
    while frame in parents:
        frame, transform = parents[frame]
        pose = pose_matrix(transform.translation, transform.rotation) @ pose
        if frame in seen:
            raise CalibrationError(f'the static transforms go round in a circle at frame {frame!r}')
        seen.add(frame)
    return frame, pose
