"""OpenCV FileStorage as EasyMocap writes it: K_01, dist_01, H_01, W_01 in intri.yml, R_01 or Rot_01 and T_01 in
extri.yml, which lie beside each other (or in one file). Poses map world to camera."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.rigs.tables import CameraTable, inverse
from hand_unc_ros.data.rigs.text import read_content
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import Camera

_PAIRS = {'intri': 'extri', 'extri': 'intri'}


def is_easymocap(content: Mapping) -> bool:
    """Whether this is the content of an intri.yml or extri.yml."""
    return bool(_names(content, ('K_',))) or bool(_names(content, ('T_',)) and _names(content, ('R_', 'Rot_')))


def read_cameras(path: Path, content: Mapping, scale: float) -> list[Camera]:
    """The cameras of both files, whichever of them is `path`. scale: metres per unit of T."""
    merged = dict(content)
    if not _names(content, ('K_',)) or not _names(content, ('T_',)):
        beside = _other(path)
        merged = {**read_content(beside), **content}
    names = _names(merged, ('K_',))
    without = [name for name in _names(merged, ('T_',)) if name not in names]
    if without:
        raise CalibrationError(f"{path}: camera '{without[0]}' has a pose and no intrinsics; add K_{without[0]} and "
                               f'dist_{without[0]}, or leave T_{without[0]} out')
    return [_camera(path, name, merged, scale) for name in names]


def _names(content: Mapping, prefixes: tuple[str, ...]) -> list[str]:
    """Cameras with a key of one of these prefixes, in the order of the file."""
    return list(dict.fromkeys(key[len(prefix):] for key in content if isinstance(key, str)
                              for prefix in prefixes if key.startswith(prefix) and len(key) > len(prefix)))


def _other(path: Path) -> Path:
    for part, other in _PAIRS.items():
        beside = path.with_name(path.name.replace(part, other))
        if part in path.name and beside.is_file():
            return beside
    raise CalibrationError(f'{path}: an OpenCV FileStorage file with the intrinsics or the poses alone; put intri.yml '
                           'and extri.yml beside each other, as EasyMocap writes them, and give one of them')


def _camera(path: Path, name: str, content: Mapping, scale: float) -> Camera:
    table = CameraTable(path, name, content)
    for key in (f'H_{name}', f'W_{name}'):
        if key not in table:
            raise table.fail(key, f'missing; the files do not give the image size: add H_{name} and W_{name}, height '
                                  'and width in pixels, to intri.yml')
    size = table.side(f'W_{name}'), table.side(f'H_{name}')
    K = table.numbers(f'K_{name}', 'give the 3×3 intrinsic matrix', (3, 3))
    remedy = 'give 4, 5 or 8 coefficients as OpenCV orders them'
    key = next((key for key in (f'dist_{name}', f'D_{name}') if key in table), f'dist_{name}')
    D = table.numbers(key, remedy, (-1,), (1, -1), (-1, 1)).ravel()
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = _rotation(table, name)
    translation = table.numbers(f'T_{name}', 'give the translation of extri.yml, 3 numbers', (3,), (3, 1), (1, 3))
    camera_from_world[:3, 3] = scale * translation.ravel()
    return table.camera_at(size, K, table.lens(key, 'opencv', D), inverse(camera_from_world))


def _rotation(table: CameraTable, name: str) -> np.ndarray:
    if f'Rot_{name}' in table:
        return table.rotation(f'Rot_{name}', table.numbers(f'Rot_{name}', 'give a 3×3 rotation', (3, 3)))
    key = f'R_{name}'
    vector = table.numbers(key, 'give a rotation vector in radians, or a 3×3 rotation', (3,), (3, 1), (1, 3), (3, 3))
    if vector.size == 9:
        return table.rotation(key, vector)
    if np.abs(vector).max() > 1e3:
        raise table.fail(key, f'is {vector.ravel().tolist()}; give a rotation vector in radians')
    return Rotation.from_rotvec(vector.ravel()).as_matrix()
