"""Intrinsics of one camera: ROS camera_info YAML, as camera_calibration and camera_info_manager write it, and the file
that OpenCV's calibration sample writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hand_unc_ros.data.rigs.tables import CameraTable
from hand_unc_ros.data.rigs.text import read_content, short
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import Camera

Intrinsics = tuple[tuple[int, int], np.ndarray, tuple[str, np.ndarray]]


def is_camera_info(content: Mapping) -> bool:
    """Whether this is the content of such a file."""
    return 'camera_matrix' in content and 'image_width' in content


def read_camera(path: Path, content: Mapping) -> Camera:
    """The camera at the origin of the world: these files know no pose."""
    name = content.get('camera_name')
    table = CameraTable(path, name if isinstance(name, str) and name.strip() else path.stem, content)
    size, K, lens = _intrinsics(table)
    return table.camera_at(size, K, lens, np.eye(4))


def read_intrinsics(path: Path) -> Intrinsics:
    """Size, K (3, 3) and lens of the raw image from a file that a rig file names."""
    content = read_content(path)
    if not is_camera_info(content):
        raise CalibrationError(f"{path}: no ROS camera_info YAML, which has the keys 'image_width', 'image_height', "
                               "'camera_matrix', 'distortion_model' and 'distortion_coefficients'")
    return _intrinsics(CameraTable(path, path.stem, content))


def _intrinsics(table: CameraTable) -> Intrinsics:
    size = table.side('image_width'), table.side('image_height')
    K = _matrix(table, 'camera_matrix', 9).reshape(3, 3)
    D = _matrix(table, 'distortion_coefficients', None)
    model = table.content.get('distortion_model')
    if model is None:
        # OpenCV's sample names no model: fisheye by a flag of its own, else by the number of coefficients.
        fisheye = table.content.get('fisheye_model', 0)
        model = 'equidistant' if fisheye not in (0, False) else 'opencv'
    if not isinstance(model, str):
        raise table.fail('distortion_model', f'is {short(model)}; give plumb_bob, rational_polynomial or equidistant')
    return size, K, table.lens('distortion_coefficients', model, D)


def _matrix(table: CameraTable, key: str, count: int | None) -> np.ndarray:
    """A matrix as ROS has it, {rows, cols, data}, or as OpenCV has it, as a flat array of `count` numbers."""
    remedy = 'give {rows, cols, data: [numbers]}'
    value = table.get(key, remedy)
    if isinstance(value, Mapping):
        parts = CameraTable(table.path, table.camera, {f'{key}.data': value.get('data')})
        array = parts.numbers(f'{key}.data', remedy, (-1,), (-1, -1)).ravel()
    else:
        array = table.numbers(key, remedy, (-1,), (-1, -1)).ravel()
    if count is not None and array.size != count:
        raise table.fail(key, f'has {array.size} numbers; {count} are needed')
    return array
