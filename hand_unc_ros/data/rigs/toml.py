"""Cameras as aniposelib, Pose2Sim and caliscope write them in TOML: `rotation` and `translation` map world to camera.

aniposelib and Pose2Sim: a table for each camera at the top level, called cam_0, by its serial number or otherwise.
caliscope: [cameras.0], [[cameras]], and in old versions [cam_0]; `ignore = true` leaves a camera out in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.rigs.tables import CameraTable, inverse
from hand_unc_ros.data.rigs.text import short
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import Camera

_CAMERA_KEYS = {'matrix', 'size', 'distortions', 'rotation', 'translation'}


def camera_tables(content: Mapping) -> dict[str, Any]:
    """The tables at the top level that are cameras, whatever they are called."""
    return {name: table for name, table in content.items()
            if re.fullmatch(r'cam_?\d+', name)
            or (isinstance(table, Mapping) and len(_CAMERA_KEYS & table.keys()) > 1)}


def read_cameras(path: Path, tables: Mapping, scale: float) -> list[Camera]:
    """Cameras of tables at the top level. scale: metres per unit of their translations."""
    found = [CameraTable(path, name, table) for name, table in tables.items()]
    return [_camera(table, table.camera, scale) for table in found if not table.flag('ignore')]


def read_caliscope(path: Path, tables: Any, scale: float) -> list[Camera]:
    """Cameras below `cameras`, by their number or as a list."""
    if isinstance(tables, list):
        tables = {str(index): table for index, table in enumerate(tables)}
    found = [CameraTable(path, name, table) for name, table in tables.items()]
    return [_camera(table, f'cam_{table.camera}' if table.camera.isdigit() else table.camera, scale)
            for table in found if not table.flag('ignore')]


def metres_per_unit(path: Path, table: Any, where: str) -> float | None:
    """The unit of the positions, where `table`, called `where` in the file, gives it."""
    value = table.get('metres_per_unit') if isinstance(table, Mapping) else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1e-9 < value < 1e9:
        raise CalibrationError(f"{path}: key '{where}metres_per_unit' is {short(value)}; give a number above 0, "
                               'such as 0.001 for millimetres')
    return float(value)


def _camera(table: CameraTable, name: str, scale: float) -> Camera:
    given = table.content.get('name', name)
    if isinstance(given, bool) or not isinstance(given, (str, int)):
        raise table.fail('name', f'is {short(given)}; give it as text')
    table = CameraTable(table.path, str(given), table.content)
    size = table.size('size')
    K = table.numbers('matrix', 'give the 3×3 intrinsic matrix', (3, 3))
    remedy = 'give 5 coefficients (8 rational, 4 with fisheye = true)'
    D = table.numbers('distortions', remedy, (-1,), (1, -1), (-1, 1)).ravel()
    lens = table.lens('distortions', 'equidistant' if table.flag('fisheye') else 'opencv', D)
    remedy = 'finish the extrinsic calibration of this camera, or leave it out'
    rotation = table.numbers('rotation', remedy, (3,), (3, 1), (3, 3))
    rotation = (_from_vector(table, rotation.ravel()) if rotation.size == 3
                else table.rotation('rotation', rotation))
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = rotation
    camera_from_world[:3, 3] = scale * table.numbers('translation', remedy, (3,), (3, 1)).ravel()
    return table.camera_at(size, K, lens, inverse(camera_from_world))


def _from_vector(table: CameraTable, vector: np.ndarray) -> np.ndarray:
    if np.abs(vector).max() > 1e3:
        raise table.fail('rotation', f'is {vector.tolist()}; give a rotation vector in radians')
    return Rotation.from_rotvec(vector).as_matrix()
