"""This package's YAML: `cameras: {name: {image_size, K, distortion_model, D, world_from_camera, …}}`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.rigs.camera_info import read_intrinsics
from hand_unc_ros.data.rigs.tables import ROUNDING, CameraTable
from hand_unc_ros.data.rigs.text import short
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, Camera
from hand_unc_ros.geometry.lens_names import DISTORTION_MODELS

_INTRINSICS = ('image_size', 'K', 'distortion_model', 'D')
_KEYS = (*_INTRINSICS, 'intrinsics', 'world_from_camera', 'topic', 'camera_info', 'uncertainty')


def read_cameras(path: Path, tables: Mapping[Any, Any], scale: float) -> list[Camera]:
    """The cameras of `tables` by name. scale: metres per unit of the positions."""
    return [_camera(CameraTable(path, str(name), table), scale) for name, table in tables.items()]


def _camera(table: CameraTable, scale: float) -> Camera:
    unknown = [key for key in table.content if key not in _KEYS]
    if unknown:
        raise table.fail(unknown[0], f"unknown; the keys are {', '.join(_KEYS)}")
    for key in ('topic', 'camera_info'):
        if key in table and not isinstance(table.content[key], str):
            raise table.fail(key, 'is not a text; give the name of a topic')
    size, K, lens = _intrinsics(table)
    pose = _pose(table)
    pose[:3, 3] *= scale
    return table.camera_at(size, K, lens, pose, _uncertainty(table))


def _intrinsics(table: CameraTable) -> tuple[tuple[int, int], np.ndarray, tuple[str, np.ndarray]]:
    if 'intrinsics' in table:
        twice = [key for key in _INTRINSICS if key in table]
        if twice:
            raise table.fail(twice[0], 'is given beside intrinsics, a file that holds it; leave one of them out')
        file = table.content['intrinsics']
        if not isinstance(file, str):
            raise table.fail('intrinsics', 'is not a text; give the name of a ROS camera_info YAML file')
        return read_intrinsics(table.path.parent / file)
    size = table.size('image_size')
    K = table.numbers('K', 'give the 3×3 intrinsic matrix, as rows or as 9 numbers', (3, 3), (9,))
    model = table.one_of('distortion_model', DISTORTION_MODELS)
    D = np.zeros(0)
    if model != 'none' or 'D' in table:
        D = table.numbers('D', f"'{model}' takes {DISTORTION_MODELS[model]} coefficients", (-1,))
    return size, K.reshape(3, 3), _lens(table, model, D)


def _lens(table: CameraTable, model: str, D: np.ndarray) -> tuple[str, np.ndarray]:
    """What the file says where it fits, so that rigs are read as they were written; else by OpenCV's nesting."""
    if D.size == DISTORTION_MODELS[model]:
        return model, D
    if D.size == 0:
        raise table.fail('D', f"is empty; '{model}' takes {DISTORTION_MODELS[model]} coefficients, and a lens without "
                              'distortion is none')
    return table.lens('D', model, D)


def _pose(table: CameraTable) -> np.ndarray:
    key = 'world_from_camera'
    remedy = 'give a 4×4 matrix, or position: [x, y, z] (metres) and quaternion_xyzw: [x, y, z, w]'
    value = table.get(key, remedy)
    if not isinstance(value, Mapping):
        return table.transform(key, remedy)
    parts = CameraTable(table.path, table.camera, value)
    pose = np.eye(4)
    pose[:3, 3] = parts.numbers('position', remedy, (3,))
    quaternion = parts.numbers('quaternion_xyzw', remedy, (4,))
    norm = np.linalg.norm(quaternion)
    if not abs(norm - 1) <= ROUNDING:
        raise parts.fail('quaternion_xyzw', f'has norm {norm:.4g}; give a unit quaternion, x y z w')
    pose[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    return pose


def _uncertainty(table: CameraTable) -> CalibrationUncertainty | None:
    key, fields = 'uncertainty', CalibrationUncertainty.FIELDS
    if key not in table:
        return None
    value = table.content[key]
    if not isinstance(value, Mapping) or not value:
        raise table.fail(key, f"is {short(value)}; give standard deviations below it: {', '.join(fields)}")
    unknown = [name for name in value if name not in fields]
    if unknown:
        raise table.fail(f'{key}.{unknown[0]}', f"unknown; the keys are {', '.join(fields)}")
    parts = CameraTable(table.path, table.camera, {f'{key}.{name}': numbers for name, numbers in value.items()})
    given = {name: parts.numbers(f'{key}.{name}', f'give one standard deviation or {axes} of them', (), (axes,))
             for name, (axes, _) in fields.items() if f'{key}.{name}' in parts}
    try:
        return CalibrationUncertainty(**given)
    except CalibrationError as error:
        raise table.fail(key, str(error)) from None
