"""Camera rigs from and to files.

`load_rig` recognises a file by its content:

- this package's YAML (`own`): `cameras: {cam0: {image_size: [w, h], K: 3×3 or 9 numbers, distortion_model, D,
  world_from_camera: 4×4 or {position: [x, y, z], quaternion_xyzw: [x, y, z, w]}, topic and camera_info (optional:
  topics of its images and CameraInfo), uncertainty (optional: standard deviations {rotation_rad, translation_m,
  focal_px, centre_px}, see CalibrationUncertainty)}}`; `intrinsics: left.yaml`, a ROS camera_info YAML beside it,
  stands for image_size, K, distortion_model and D;
- Kalibr camera chains (`kalibr`), by T_cn_cnm1 or by T_cam_imu or T_imu_cam of all cameras: world is the frame of cam0;
- aniposelib and Pose2Sim calibrations and caliscope camera arrays (`toml`): `rotation` and `translation` map world to
  camera;
- OpenCV FileStorage with intri.yml and extri.yml as EasyMocap writes them (`opencv`);
- ROS camera_info YAML (`camera_info`): one camera, at the origin of the world.

Positions are in metres. Where a file's are not (aniposelib and Kalibr keep the unit of the calibration board), it says
so by `metres_per_unit: 0.001` at its top level, in TOML under `[metadata]`.
Every error is a CalibrationError that names file, camera, key and remedy.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from hand_unc_ros.data.calibrated_image import camera_doubts
from hand_unc_ros.data.rigs import camera_info, kalibr, opencv, own, toml
from hand_unc_ros.data.rigs.checks import check_unit, inversion_doubt
from hand_unc_ros.data.rigs.text import FORMATS, read_content, short
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, Camera, CameraRig

log = logging.getLogger(__name__)


def load_rig(path: str | Path) -> CameraRig:
    """Read a rig of any format named at the top of this module; cameras keep the file's order.

    Raises CalibrationError (the file, camera, key and remedy), or MissingDependencyError where a TOML
    file needs a reader that Python 3.10 lacks. Poses that seem to be inverted, and intrinsics that seem to be
    those of another image, are logged as warnings.
    """
    path = Path(path)
    content = read_content(path)
    is_toml = path.suffix.lower() == '.toml'
    unit = (toml.metres_per_unit(path, content.get('metadata'), 'metadata.') if is_toml
            else toml.metres_per_unit(path, content, ''))
    cameras = _read_cameras(path, content, is_toml, 1.0 if unit is None else unit)
    try:
        rig = CameraRig(cameras)
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from None
    where = "'metres_per_unit = 0.001' under [metadata]" if is_toml else "'metres_per_unit: 0.001' at its top level"
    check_unit(path, rig, unit is not None, f'A file in millimetres needs {where}, one in board squares the length of '
                                            'a square in metres; a file in metres that means it needs the number 1')
    inversion = inversion_doubt(rig)
    doubts = [doubt for camera in rig for doubt in camera_doubts(camera)] + ([] if inversion is None else [inversion])
    for doubt in doubts:
        log.warning('%s: %s', path, doubt)
    return rig


def _read_cameras(path: Path, content: dict, is_toml: bool, scale: float) -> list[Camera]:
    if 'cameras' in content:
        tables = content['cameras']
        if not tables or not isinstance(tables, (dict, list) if is_toml else dict):
            raise CalibrationError(f"{path}: 'cameras' holds no cameras; list them by name below it")
        return (toml.read_caliscope if is_toml else own.read_cameras)(path, tables, scale)
    if is_toml:
        if tables := toml.camera_tables(content):
            return toml.read_cameras(path, tables, scale)
    elif numbered := {key: value for key, value in content.items()
                      if isinstance(key, str) and re.fullmatch(r'cam_?\d+', key)}:
        return kalibr.read_cameras(path, numbered, scale)
    elif camera_info.is_camera_info(content):
        return [camera_info.read_camera(path, content)]
    elif opencv.is_easymocap(content):
        return opencv.read_cameras(path, content, scale)
    keys = ', '.join(short(key) for key in list(content)[:20])
    raise CalibrationError(f'{path}: unknown format with the keys {keys}; recognised are {FORMATS}')


def load_topics(path: str | Path) -> dict[str, str]:
    """Image topics named in a rig file (`topic`, Kalibr's `rostopic`), by camera; {} where there are none."""
    return _named(path, ('topic', 'rostopic'))


def load_info_topics(path: str | Path) -> dict[str, str]:
    """CameraInfo topics named in a rig file (`camera_info`), by camera; {} where there are none."""
    return _named(path, ('camera_info',))


def _named(path: str | Path, keys: tuple[str, ...]) -> dict[str, str]:
    """The text under the first of `keys` that a camera's table has, by camera."""
    content = read_content(Path(path))
    tables = content.get('cameras', content)
    topics = {}
    for name, table in (tables.items() if isinstance(tables, Mapping) else ()):
        given = [table[key] for key in keys if key in table] if isinstance(table, Mapping) else []
        if given and isinstance(given[0], str):
            topics[str(name)] = given[0]
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
    path.write_text(text, encoding='utf-8')
