"""Which image a camera calibration describes: raw or rectified, whole, binned or cut, of which size.

K, D and P of a sensor_msgs/CameraInfo belong to the whole sensor at full resolution, before binning and region of
interest; D and K to the raw image, P and R to the rectified one. Drivers and rig files that mean another image give
numbers that look sound, so the doubts found here are warnings: each names the camera, the numbers and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import Camera, CameraRig

# Parts of a topic's name that stand for rectified images: image_rect, image_rect_color, rect/image, image_rectified.
_RECTIFIED = re.compile(r'(^|_)rect(ified)?(_|$)')
_TRANSPORTS = ('compressed', 'theora', 'ffmpeg', 'zstd')
# Principal points farther from the middle, as a share of the image's extent, are a crop or another image's.
_FAR_OFF = 0.2
# With binning or a region of interest K has two readings; one that is this much nearer to the middle is the likely one.
_NEARER, _OFF = 3.0, 0.08
# Distortion of a camera calibration made on rectified images is what the rectification left over.
_LEFT_OVER_PX = 2.0


class Extent(NamedTuple):
    """Where a published image lies on its sensor: pixels of the sensor to the left and above, of the sensor to one of
    the image, and the image's size."""

    left: int
    top: int
    bin_x: int
    bin_y: int
    width: int
    height: int

    def of_image(self, K: np.ndarray) -> np.ndarray:
        """K (3, 3) of the published image for that of the whole sensor."""
        K = np.array(K, dtype=np.float64)
        for axis, offset, binning in ((0, self.left, self.bin_x), (1, self.top, self.bin_y)):
            # Centres of pixels are at whole numbers, so that an edge lies half a pixel before its centre.
            K[axis, 2] = (K[axis, 2] - offset + 0.5) / binning - 0.5
            K[axis, :2] /= binning
        return K


def published_extent(info: Any) -> Extent:
    """The extent of the image that a CameraInfo accompanies."""
    roi = info.roi
    width, height = (roi.width or info.width), (roi.height or info.height)
    bin_x, bin_y = info.binning_x or 1, info.binning_y or 1
    return Extent(int(roi.x_offset), int(roi.y_offset), int(bin_x), int(bin_y), int(width // bin_x),
                  int(height // bin_y))


def is_rectified(image_topic: str) -> bool:
    """Whether a topic carries rectified images, by the names that image_proc and the drivers give them."""
    parts = [part for part in image_topic.lower().split('/') if part and part not in _TRANSPORTS]
    return bool(parts) and (_RECTIFIED.search(parts[-1]) is not None or parts[-2:-1] in (['rect'], ['rectified']))


def info_doubts(name: str, info: Any, rectified: bool = False) -> list[str]:
    """What speaks against the intrinsics of a CameraInfo being those of the image that comes with it."""
    matrix = np.array(info.p if rectified else info.k, dtype=np.float64).reshape(3, -1)
    extent, letter = published_extent(info), 'P' if rectified else 'K'
    if not np.isfinite(matrix).all() or min(info.width, info.height) <= 0:
        return []
    centre = matrix[:2, 2]
    off = _off_centre(centre, info.width, info.height)
    doubts = []
    if (extent.width, extent.height) != (info.width, info.height) or extent.left or extent.top:
        other = _off_centre(centre, extent.width, extent.height)
        if off > _OFF and other * _NEARER < off:
            doubts.append(
                f"camera '{name}': CameraInfo has {_cut(info, extent)}, but {letter} with its principal point "
                f'({centre[0]:.0f}, {centre[1]:.0f}) px seems to belong to the published '
                f'{extent.width}×{extent.height} image already and is divided or shifted '
                f'once more; let the driver publish {letter} of the whole sensor, or binning and roi as 0, '
                'or give the intrinsics in the rig file (rig.intrinsics: file)')
            return doubts
    if off > _FAR_OFF:
        doubts.append(_far_off(name, letter, centre, info.width, info.height))
    if rectified and matrix.shape[1] == 4 and matrix[0, 3] != 0:
        offset_m = -matrix[0, 3] / matrix[0, 0] if matrix[0, 0] else 0.0
        doubts.append(f"camera '{name}': P has the offset {offset_m:.3f} m from the other camera of a stereo pair, "
                      'which is not used; its pose must be that of its own centre')
    return doubts


def resized_doubt(name: str, before: Any, after: Any) -> str | None:
    """The doubt where a CameraInfo gives another size than the one before it, and the same K."""
    sizes = [(published_extent(info).width, published_extent(info).height) for info in (before, after)]
    if sizes[0] == sizes[1] or (before.width, before.height) == (after.width, after.height) \
            or not np.array_equal(np.asarray(before.k), np.asarray(after.k)):
        return None
    K = np.asarray(after.k, dtype=np.float64).reshape(3, 3)
    return (f"camera '{name}': CameraInfo went from {before.width}×{before.height} to {after.width}×{after.height}, "
            f'and K stayed the same (fx {K[0, 0]:.0f}, centre {K[0, 2]:.0f} {K[1, 2]:.0f} px); the driver does not '
            'scale K: calibrate the camera at the size that is streamed')


def camera_doubts(camera: Camera) -> list[str]:
    """What speaks against the intrinsics of a rig file's camera being those of an image of its size."""
    centre = camera.K[:2, 2]
    if _off_centre(centre, camera.width, camera.height) <= _FAR_OFF:
        return []
    return [_far_off(camera.name, 'K', centre, camera.width, camera.height)]


def check_rectified(rig: CameraRig, topics: Mapping[str, str]) -> None:
    """Raise CalibrationError where a camera's topic carries rectified images and the rig file gives it a distortion."""
    for name, topic in topics.items():
        if name not in rig.names or not is_rectified(topic):
            continue
        moved_px = _largest_distortion_px(rig[name])
        if moved_px > _LEFT_OVER_PX:
            camera = rig[name]
            raise CalibrationError(
                f"camera '{name}': {topic} carries rectified images, and the rig file gives it the distortion "
                f'{camera.distortion_model}, which moves pixels by up to {moved_px:.0f} px; take the raw images, or '
                'give K of the rectified ones (P of their CameraInfo) with distortion_model: none')


def _off_centre(centre: np.ndarray, width: int, height: int) -> float:
    """Distance of a principal point from the middle of its image, as a share of the image's extent."""
    size = np.array((width, height), dtype=np.float64)
    if (size <= 0).any():
        return np.inf
    return float((np.abs(centre - (size - 1) / 2) / size).max())


def _far_off(name: str, letter: str, centre: np.ndarray, width: int, height: int) -> str:
    return (f"camera '{name}': the principal point ({centre[0]:.0f}, {centre[1]:.0f}) px of {letter} is far from the "
            f'middle of the {width}×{height} image; is {letter} that of another resolution (about '
            f'{max(round(2 * centre[0]), 0)}×{max(round(2 * centre[1]), 0)}) or of a cut image? '
            'Calibrate at the size that is streamed')


def _cut(info: Any, extent: Extent) -> str:
    cut = f'{info.width}×{info.height}'
    if extent.bin_x > 1 or extent.bin_y > 1:
        cut += f' with binning {extent.bin_x}×{extent.bin_y}'
    if extent.left or extent.top or info.roi.width or info.roi.height:
        cut += (f' with the region of interest {info.roi.width or info.width}×{info.roi.height or info.height} at '
                f'({extent.left}, {extent.top})')
    return cut


def _largest_distortion_px(camera: Camera) -> float:
    """How far the lens moves pixels of the image's border from where a pinhole has them; inf where it has no ray."""
    if not camera.D.any() and camera.distortion_model != 'equidistant':
        return 0.0
    across, down = np.linspace(0, camera.width - 1, 9), np.linspace(0, camera.height - 1, 9)
    px = np.array([(x, y) for x in across for y in down])
    straight = camera.normalise(px)
    pinhole = straight @ camera.K[:2, :2].T + camera.K[:2, 2]
    moved = np.linalg.norm(pinhole - px, axis=1)
    return float(moved.max()) if np.isfinite(moved).all() else np.inf
