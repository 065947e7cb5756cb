"""Kalibr camera chains, and those chains as OpenVINS and others keep them, with poses to an IMU instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hand_unc_ros.data.rigs.tables import CameraTable, inverse
from hand_unc_ros.geometry.cameras import Camera

_CHAIN, _IMU_FROM_CAMERA, _CAMERA_FROM_IMU = 'T_cn_cnm1', 'T_imu_cam', 'T_cam_imu'
_UNSUPPORTED = {'omni': 'omnidirectional (Mei)', 'ds': 'double sphere', 'eucm': 'extended unified (EUCM)'}
_LENSES = ('radtan', 'equidistant', 'equi', 'none')


def read_cameras(path: Path, tables: Mapping, scale: float) -> list[Camera]:
    """The cameras of a chain from cam0 on; the world is the frame of cam0. scale: metres per unit."""
    ordered = [CameraTable(path, name, tables[name])
               for name in sorted(tables, key=lambda name: int(re.sub(r'\D', '', name)))]
    for index, table in enumerate(ordered):
        if table.camera != f'cam{index}':
            raise table.fail(_CHAIN, f"the chain has no 'cam{index}'; number the cameras from cam0 on")
    poses = _by_imu(ordered) if any(_CHAIN not in table for table in ordered[1:]) else _by_chain(ordered)
    cameras = []
    for table, pose in zip(ordered, poses):
        pose[:3, 3] *= scale
        cameras.append(_camera(table, pose))
    return cameras


def _by_chain(tables: list[CameraTable]) -> list[np.ndarray]:
    """world_from_camera (4, 4) of each camera from the transforms between neighbours."""
    camera_from_world = np.eye(4)
    poses = [np.eye(4)]
    for index, table in enumerate(tables[1:]):
        step = table.transform(_CHAIN, f'give the 4×4 transform from cam{index} to {table.camera} '
                                       '(kalibr_calibrate_cameras writes it)')
        camera_from_world = step @ camera_from_world
        poses.append(inverse(camera_from_world))
    return poses


def _by_imu(tables: list[CameraTable]) -> list[np.ndarray]:
    """world_from_camera (4, 4) of each camera from its transform to or from an IMU that all share."""
    without = [table.camera for table in tables if _IMU_FROM_CAMERA not in table and _CAMERA_FROM_IMU not in table]
    if without:
        lacking = next(table for table in tables[1:] if _CHAIN not in table)
        raise lacking.fail(_CHAIN, f'missing; give the 4×4 transform from the camera before it to {lacking.camera} '
                                   f'(kalibr_calibrate_cameras writes it), or {_CAMERA_FROM_IMU} or {_IMU_FROM_CAMERA} '
                                   f'of all cameras, which {", ".join(without)} lacks')
    poses = []
    for table in tables:
        if _IMU_FROM_CAMERA in table:
            poses.append(table.transform(_IMU_FROM_CAMERA, 'give the 4×4 transform from the camera to the IMU'))
        else:
            poses.append(inverse(table.transform(_CAMERA_FROM_IMU, 'give the 4×4 transform from the IMU')))
    world = inverse(poses[0])
    return [np.eye(4), *(world @ pose for pose in poses[1:])]


def _camera(table: CameraTable, world_from_camera: np.ndarray) -> Camera:
    model = table.content.get('camera_model')
    if isinstance(model, str) and model in _UNSUPPORTED:
        raise table.fail('camera_model', f"'{model}', the {_UNSUPPORTED[model]} lens model, is not supported; "
                                         'calibrate with --models pinhole-radtan or, for fisheye lenses, pinhole-equi')
    table.one_of('camera_model', ('pinhole',))
    fx, fy, cx, cy = table.numbers('intrinsics', 'pinhole takes [fu, fv, pu, pv]', (4,))
    lens = table.content.get('distortion_model')
    if lens == 'fov':
        raise table.fail('distortion_model', "'fov', the field-of-view lens model, is not supported; calibrate with "
                                             '--models pinhole-radtan or pinhole-equi')
    lens = table.one_of('distortion_model', _LENSES)
    D = np.zeros(0)
    if lens != 'none':
        D = table.numbers('distortion_coeffs', f'{lens} takes 4 coefficients', (4,))
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    return table.camera_at(table.size('resolution'), K, table.lens('distortion_coeffs', lens, D), world_from_camera)
