"""Camera rigs from and to files.

`load_rig` recognises a file by its content:

- this package's YAML: `cameras: {cam0: {image_size: [w, h], K: 3×3 or 9 numbers, distortion_model, D,
  world_from_camera: 4×4 or {position: [x, y, z], quaternion_xyzw: [x, y, z, w]}, topic (optional), uncertainty
  (optional: standard deviations {rotation_rad, translation_m, focal_px, centre_px}, see CalibrationUncertainty)}}`;
- Kalibr camera chains (YAML): world is the frame of cam0;
- aniposelib calibration TOML (`[cam_0]` …) and caliscope camera arrays (`[cameras.0]` …): `rotation` and
  `translation` map world to camera.  aniposelib keeps the unit of its calibration board: where that is
  not metres, say so by `metres_per_unit = 0.001` under `[metadata]`.

Every error is a CalibrationError that names file, camera, key and remedy.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.spatial.transform import Rotation

from hand_unc_ros.errors import CalibrationError, MissingDependencyError
from hand_unc_ros.files import write_file
from hand_unc_ros.geometry.cameras import DISTORTION_MODELS, CalibrationUncertainty, Camera, CameraRig

_FORMATS = ("hand_unc_ros YAML ('cameras:'), Kalibr camchain YAML ('cam0:' with 'intrinsics'), "
            "aniposelib TOML ('[cam_0]'), caliscope TOML ('[cameras.0]')")
_KEYS = ('image_size', 'K', 'distortion_model', 'D', 'world_from_camera', 'topic', 'uncertainty')
# Text files carry rotations with few digits; within this they are moved to the nearest rotation.
_ROUNDING = 1e-3
_EXACT = 1e-9
# No hand is watched by cameras this far apart: the file is in another unit.
_LARGEST_RIG_M = 50.0


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise CalibrationError(f"key '{key}' is given twice (line {key_node.start_mark.line + 1}); "
                                       'give every camera and every key its own name')
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Table:
    """One camera's table in a file: reads keys, and names file, camera and key when it cannot."""

    def __init__(self, path: Path, camera: str, content: Any) -> None:
        self.path, self.camera = path, camera
        if not isinstance(content, Mapping):
            raise CalibrationError(f"{path}: camera '{camera}' is {content!r}; give its keys below it")
        self.content = content

    def one_of(self, key: str, options: Collection[str]) -> str:
        names = f"give one of {', '.join(options)}"
        value = self.get(key, names)
        if not isinstance(value, str) or value not in options:
            raise self.fail(key, f'is {value!r}; {names}')
        return value

    def fail(self, key: str, message: str) -> CalibrationError:
        return CalibrationError(f"{self.path}: camera '{self.camera}', key '{key}': {message}")

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) not in (None, 'null')

    def get(self, key: str, remedy: str) -> Any:
        if key not in self:
            raise self.fail(key, f'missing; {remedy}')
        return self.content[key]

    def numbers(self, key: str, remedy: str, *shapes: tuple[int, ...]) -> np.ndarray:
        """Finite float64 array in one of `shapes` (an extent of −1 matches any)."""
        value = self.get(key, remedy)
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            raise self.fail(key, f'{value!r} is not an array of numbers; {remedy}') from None
        if not np.isfinite(array).all():
            raise self.fail(key, f'has NaN or infinite entries; {remedy}')
        if not any(len(shape) == array.ndim
                   and all(want in (-1, have) for want, have in zip(shape, array.shape)) for shape in shapes):
            raise self.fail(key, f'has shape {array.shape}; {remedy}')
        return array

    def size(self, key: str) -> tuple[int, int]:
        remedy = 'give [width, height] in whole pixels'
        value = self.numbers(key, remedy, (2,))
        if (value < 1).any() or (value != np.round(value)).any():
            raise self.fail(key, f'is {value.tolist()}; {remedy}')
        return int(value[0]), int(value[1])

    def transform(self, key: str, remedy: str) -> np.ndarray:
        matrix = self.numbers(key, remedy, (4, 4)).copy()
        if not np.array_equal(matrix[3], (0.0, 0.0, 0.0, 1.0)):
            raise self.fail(key, 'has a last row other than 0 0 0 1; is the matrix transposed?')
        matrix[:3, :3] = self.rotation(key, matrix[:3, :3])
        return matrix

    def rotation(self, key: str, matrix: np.ndarray) -> np.ndarray:
        """The nearest rotation where `matrix` is one up to rounding; CalibrationError where it is not."""
        error = np.abs(matrix @ matrix.T - np.eye(3)).max()
        if error > _ROUNDING:
            raise self.fail(key, f'the rotation is not orthonormal (off by {error:.2g}); check for scaled or '
                                 'swapped rows and give at least 4 decimals')
        if np.linalg.det(matrix) < 0:
            raise self.fail(key, 'the rotation is a reflection (determinant −1); camera frames are right-'
                                 'handed, x right, y down, z forward')
        if error <= _EXACT:
            return matrix
        u, _, vt = np.linalg.svd(matrix)
        return u @ vt

    def camera_at(self, size: tuple[int, int], K: np.ndarray, model: str, D: np.ndarray,
                  world_from_camera: np.ndarray, uncertainty: CalibrationUncertainty | None = None) -> Camera:
        try:
            return Camera(self.camera, *size, K, model, D, world_from_camera, uncertainty)
        except CalibrationError as error:
            raise CalibrationError(f'{self.path}: {error}') from None


def load_rig(path: str | Path) -> CameraRig:
    """Read a rig of any format named at the top of this module; cameras keep the file's order.

    Raises CalibrationError (the file, camera, key and remedy), or MissingDependencyError where a TOML
    file needs a reader that Python 3.10 lacks.
    """
    path = Path(path)
    content = _read(path)
    is_toml = path.suffix.lower() == '.toml'
    numbered = {str(key): value for key, value in content.items() if re.fullmatch(r'cam_?\d+', str(key))}
    if 'cameras' in content:
        read = _caliscope_camera if is_toml else _own_camera
        tables = _named_cameras(path, content['cameras'])
        found = [read(_Table(path, str(name), table)) for name, table in tables.items()]
        cameras = [camera for camera in found if camera is not None]
    elif numbered and is_toml:
        scale = _metres_per_unit(path, content)
        cameras = [_aniposelib_camera(_Table(path, name, table), scale) for name, table in numbered.items()]
    elif numbered:
        cameras = _kalibr_cameras(path, numbered)
    else:
        raise CalibrationError(f"{path}: unknown format with the keys {', '.join(map(str, content))}; "
                               f'recognised are {_FORMATS}')
    try:
        rig = CameraRig(cameras)
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from None
    _check_extent(path, rig)
    return rig


def load_topics(path: str | Path) -> dict[str, str]:
    """Image topics named in a rig file (`topic`, Kalibr's `rostopic`), by camera; {} where there are none."""
    content = _read(Path(path))
    tables = content.get('cameras', content)
    topics = {}
    for name, table in (tables.items() if isinstance(tables, Mapping) else ()):
        topic = table.get('topic', table.get('rostopic')) if isinstance(table, Mapping) else None
        if isinstance(topic, str):
            topics[str(name)] = topic
    return topics


def save_rig(rig: CameraRig, path: str | Path, topics: Mapping[str, str] | None = None) -> None:
    """Write a rig as this package's YAML, bit for bit; `topics` may name image topics by camera.

    Raises CalibrationError for a file name that is not .yaml or .yml.
    """
    path = Path(path)
    if path.suffix.lower() not in ('.yaml', '.yml'):
        raise CalibrationError(
            f"{path}: rigs are written as YAML; name the file {path.with_suffix('.yaml').name}")
    tables = {}
    for camera in rig:
        tables[camera.name] = {
            'image_size': [camera.width, camera.height],
            'K': camera.K.tolist(),
            'distortion_model': camera.distortion_model,
            'D': camera.D.tolist(),
            'world_from_camera': camera.world_from_camera.tolist(),
        }
        if camera.uncertainty is not None:
            tables[camera.name]['uncertainty'] = {
                field: getattr(camera.uncertainty, field).tolist() for field in CalibrationUncertainty.FIELDS}
        if topics and camera.name in topics:
            tables[camera.name]['topic'] = topics[camera.name]
    text = yaml.safe_dump({'cameras': tables}, sort_keys=False, default_flow_style=None, allow_unicode=True)
    write_file(path, text)


def _read(path: Path) -> dict:
    try:
        text = path.read_text(encoding='utf-8')
    except FileNotFoundError:
        raise CalibrationError(f'{path}: no such file; check the path of the rig file') from None
    except UnicodeDecodeError:
        raise CalibrationError(f'{path}: not a text file; recognised are {_FORMATS}') from None
    except OSError as error:
        raise CalibrationError(f'{path}: cannot be read ({error.strerror}); check the path') from None
    if not text.strip():
        raise CalibrationError(f'{path}: the file is empty; recognised are {_FORMATS}')
    content = _parse_toml(path, text) if path.suffix.lower() == '.toml' else _parse_yaml(path, text)
    if not isinstance(content, dict):
        raise CalibrationError(f'{path}: no keys at the top level; recognised are {_FORMATS}')
    return content


def _parse_yaml(path: Path, text: str) -> Any:
    # OpenCV's YAML header is not YAML; Kalibr files edited for other programs often start with it.
    text = re.sub(r'\A%YAML:[^\n]*', '', text)
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from None
    except yaml.YAMLError as error:
        mark = getattr(error, 'problem_mark', None)
        where = f' at line {mark.line + 1}' if mark else ''
        raise CalibrationError(f'{path}: not valid YAML{where}; recognised are {_FORMATS}') from None


def _parse_toml(path: Path, text: str) -> dict:
    try:
        import tomllib
    except ModuleNotFoundError:
        try:
            import tomli as tomllib
        except ModuleNotFoundError:
            raise MissingDependencyError(
                f"{path}: reading TOML with Python 3.10 needs tomli: pip install 'tomli>=2'") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CalibrationError(f'{path}: not valid TOML ({error}); a camera may be named twice') from None


def _named_cameras(path: Path, cameras: Any) -> dict:
    if not isinstance(cameras, dict) or not cameras:
        raise CalibrationError(f"{path}: 'cameras' holds no cameras; list them by name below it")
    return cameras


def _own_camera(table: _Table) -> Camera:
    unknown = [key for key in table.content if key not in _KEYS]
    if unknown:
        raise table.fail(unknown[0], f"unknown; the keys are {', '.join(_KEYS)}")
    size = table.size('image_size')
    K = table.numbers('K', 'give the 3×3 intrinsic matrix, as rows or as 9 numbers', (3, 3), (9,))
    model = table.one_of('distortion_model', DISTORTION_MODELS)
    D = np.zeros(0)
    if model != 'none' or 'D' in table:
        remedy = f"'{model}' takes {DISTORTION_MODELS[model]} coefficients"
        D = table.numbers('D', remedy, (DISTORTION_MODELS[model],), *([(-1,)] if model == 'none' else []))
    return table.camera_at(size, K.reshape(3, 3), model, D, _own_pose(table), _own_uncertainty(table))


def _own_pose(table: _Table) -> np.ndarray:
    key = 'world_from_camera'
    remedy = 'give a 4×4 matrix, or position: [x, y, z] (metres) and quaternion_xyzw: [x, y, z, w]'
    value = table.get(key, remedy)
    if not isinstance(value, Mapping):
        return table.transform(key, remedy)
    parts = _Table(table.path, table.camera, value)
    pose = np.eye(4)
    pose[:3, 3] = parts.numbers('position', remedy, (3,))
    quaternion = parts.numbers('quaternion_xyzw', remedy, (4,))
    norm = np.linalg.norm(quaternion)
    if abs(norm - 1) > _ROUNDING:
        raise parts.fail('quaternion_xyzw', f'has norm {norm:.4g}; give a unit quaternion, x y z w')
    pose[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    return pose


def _own_uncertainty(table: _Table) -> CalibrationUncertainty | None:
    key, fields = 'uncertainty', CalibrationUncertainty.FIELDS
    if key not in table:
        return None
    value = table.content[key]
    if not isinstance(value, Mapping) or not value:
        raise table.fail(key, f"is {value!r}; give standard deviations below it: {', '.join(fields)}")
    unknown = [name for name in value if name not in fields]
    if unknown:
        raise table.fail(f'{key}.{unknown[0]}', f"unknown; the keys are {', '.join(fields)}")
    parts = _Table(table.path, table.camera, {f'{key}.{name}': numbers for name, numbers in value.items()})
    given = {name: parts.numbers(f'{key}.{name}', f'give one standard deviation or {axes} of them', (), (axes,))
             for name, (axes, _) in fields.items() if f'{key}.{name}' in parts}
    try:
        return CalibrationUncertainty(**given)
    except CalibrationError as error:
        raise table.fail(key, str(error)) from None


def _kalibr_cameras(path: Path, tables: dict) -> list[Camera]:
    cameras = []
    camera_from_world = np.eye(4)
    for index, name in enumerate(sorted(tables, key=lambda name: int(re.sub(r'\D', '', name)))):
        table = _Table(path, name, tables[name])
        if name != f'cam{index}':
            raise table.fail('T_cn_cnm1', f"the chain has no 'cam{index}'; number the cameras from cam0 on")
        if index:
            step = table.transform('T_cn_cnm1', f'give the 4×4 transform from cam{index - 1} to {name} '
                                                '(kalibr_calibrate_cameras writes it)')
            camera_from_world = step @ camera_from_world
        cameras.append(_kalibr_camera(table, _inverse(camera_from_world)))
    return cameras


def _kalibr_camera(table: _Table, world_from_camera: np.ndarray) -> Camera:
    table.one_of('camera_model', ('pinhole',))
    fx, fy, cx, cy = table.numbers('intrinsics', 'pinhole takes [fu, fv, pu, pv]', (4,))
    models = {'radtan': 'plumb_bob', 'equidistant': 'equidistant', 'equi': 'equidistant', 'none': 'none'}
    kalibr_model = table.one_of('distortion_model', models)
    model = models[kalibr_model]
    D = np.zeros(0)
    if model != 'none':
        D = table.numbers('distortion_coeffs', f'{kalibr_model} takes 4 coefficients', (4,))
        D = np.append(D, 0.0) if model == 'plumb_bob' else D
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return table.camera_at(table.size('resolution'), K, model, D, world_from_camera)


def _aniposelib_camera(table: _Table, scale: float) -> Camera:
    return _toml_camera(table, str(table.content.get('name', table.camera)), scale)


def _caliscope_camera(table: _Table) -> Camera | None:
    """None for a camera that caliscope was told to ignore.  Its world is in metres."""
    if table.content.get('ignore') is True:
        return None
    name = table.camera if not table.camera.isdigit() else f'cam_{table.camera}'
    return _toml_camera(table, str(table.content.get('name', name)), 1.0)


def _toml_camera(table: _Table, name: str, scale: float) -> Camera:
    table = _Table(table.path, name, table.content)
    size = table.size('size')
    K = table.numbers('matrix', 'give the 3×3 intrinsic matrix', (3, 3))
    remedy = 'give 5 coefficients (8 rational, 4 with fisheye = true)'
    D = table.numbers('distortions', remedy, (-1,), (1, -1)).ravel()
    fisheye = table.content.get('fisheye', False)
    by_length = {4: 'plumb_bob', 5: 'plumb_bob', 8: 'rational_polynomial'}
    model = 'equidistant' if fisheye else by_length.get(D.size)
    if model is None or (fisheye and D.size != 4):
        raise table.fail('distortions', f'has {D.size} coefficients; {remedy}')
    if model == 'plumb_bob' and D.size == 4:
        D = np.append(D, 0.0)
    remedy = 'finish the extrinsic calibration of this camera, or leave it out'
    rotation = table.numbers('rotation', remedy, (3,), (3, 1), (3, 3))
    rotation = (Rotation.from_rotvec(rotation.ravel()).as_matrix() if rotation.size == 3
                else table.rotation('rotation', rotation))
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = rotation
    camera_from_world[:3, 3] = scale * table.numbers('translation', remedy, (3,), (3, 1)).ravel()
    return table.camera_at(size, K, model, D, _inverse(camera_from_world))


def _metres_per_unit(path: Path, content: dict) -> float:
    metadata = content.get('metadata')
    value = metadata.get('metres_per_unit', 1.0) if isinstance(metadata, Mapping) else 1.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float('inf'):
        raise CalibrationError(f"{path}: key 'metadata.metres_per_unit' is {value!r}; give a number above 0, "
                               'such as 0.001 for millimetres')
    return float(value)


def _check_extent(path: Path, rig: CameraRig) -> None:
    centres = np.stack([camera.centre for camera in rig])
    distance = np.linalg.norm(centres - centres[0], axis=1)
    if distance.max() > _LARGEST_RIG_M:
        first, far = rig.names[0], rig.names[int(distance.argmax())]
        raise CalibrationError(
            f"{path}: cameras '{first}' and '{far}' are {distance.max():.0f} m apart; positions are in "
            "metres. A TOML file in millimetres needs 'metres_per_unit = 0.001' under [metadata]")


def _inverse(transform: np.ndarray) -> np.ndarray:
    inverse = np.eye(4)
    inverse[:3, :3] = transform[:3, :3].T
    inverse[:3, 3] = -inverse[:3, :3] @ transform[:3, 3]
    return inverse
