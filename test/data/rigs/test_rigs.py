"""Rig files: every format read right, ours written bit for bit, every mistake named."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import yaml
from rig_cases import look_at, mixed_rig, ring

from hand_unc_ros.data.rigs import load_rig, load_topics, save_rig
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, CameraRig


def same(a, b):
    return (all(getattr(a, field) == getattr(b, field)
                for field in ('name', 'width', 'height', 'distortion_model'))
            and all(np.array_equal(getattr(a, field), getattr(b, field))
                    for field in ('K', 'D', 'world_from_camera')))


def test_our_yaml_is_lossless(tmp_path):
    rig = mixed_rig()
    save_rig(rig, tmp_path / 'rig.yaml', topics={'cam1': '/left/image_raw'})
    again = load_rig(tmp_path / 'rig.yaml')
    assert again.names == rig.names and all(same(a, b) for a, b in zip(rig, again))
    assert load_topics(tmp_path / 'rig.yaml') == {'cam1': '/left/image_raw'}
    save_rig(again, tmp_path / 'again.yml')
    assert load_topics(tmp_path / 'again.yml') == {}
    with pytest.raises(CalibrationError, match=r'rig\.yaml'):
        save_rig(rig, tmp_path / 'rig.toml')


OURS = """
cameras:
  left:
    image_size: [640, 480]
    K: [500, 0, 320, 0, 510, 240, 0, 0, 1]
    distortion_model: none
    world_from_camera:
      position: [1.0, 2.0, 3.0]
      quaternion_xyzw: [0.0, 0.0, 0.70710678, 0.70710678]
  right:
    image_size: [640, 480]
    K: [[500, 0, 320], [0, 510, 240], [0, 0, 1]]
    distortion_model: plumb_bob
    D: [-0.1, 1e-3, 0, 0, 0]
    world_from_camera: [[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    topic: /cam_right/image_raw
"""


UNCERTAINTY = """    uncertainty:
      rotation_rad: 1e-3
      translation_m: [0.001, 0.001, 0.003]
      focal_px: 1.5
"""


def test_our_yaml_says_how_well_a_camera_is_calibrated(tmp_path):
    rig = load_rig(write(tmp_path, OURS + UNCERTAINTY))
    assert rig['left'].uncertainty is None
    read = rig['right'].uncertainty
    np.testing.assert_array_equal(read.rotation_rad, (1e-3, 1e-3, 1e-3))
    np.testing.assert_array_equal(read.translation_m, (1e-3, 1e-3, 3e-3))
    np.testing.assert_array_equal(read.focal_px, (1.5, 1.5))
    np.testing.assert_array_equal(read.centre_px, (0, 0))
    assert load_rig(write(tmp_path, OURS + '    uncertainty:\n'))['right'].uncertainty is None


def test_uncertainty_is_written_without_loss(tmp_path):
    rig = mixed_rig()
    said = CalibrationUncertainty((1 / 3e3, 2e-3, 1e-9), 1 / 7e2, (1.0, 1 / 3), 0.0)
    rig = CameraRig([rig.cameras[0], *(replace(camera, uncertainty=said) for camera in rig.cameras[1:])])
    save_rig(rig, tmp_path / 'rig.yaml')
    again = load_rig(tmp_path / 'rig.yaml')
    assert again.cameras[0].uncertainty is None
    for camera in again.cameras[1:]:
        for field in CalibrationUncertainty.FIELDS:
            np.testing.assert_array_equal(getattr(camera.uncertainty, field), getattr(said, field))


def write(tmp_path, text, name='rig.yaml'):
    path = tmp_path / name
    path.write_text(text, encoding='utf-8')
    return path


def test_our_yaml_as_people_write_it(tmp_path):
    rig = load_rig(write(tmp_path, OURS))
    assert rig.names == ('left', 'right')
    # 90 degrees about z: the camera's x axis is the world's y axis.
    np.testing.assert_allclose(rig['left'].world_from_camera[:3, 0], (0, 1, 0), atol=1e-8)
    np.testing.assert_allclose(rig['left'].centre, (1, 2, 3))
    assert rig['right'].D[1] == 1e-3 and rig['left'].D.size == 0 and rig['left'].K[1, 1] == 510


KALIBR = """
cam0:
  cam_overlaps: [1]
  camera_model: pinhole
  distortion_coeffs: [-0.28, 0.07, 0.0002, 0.00002]
  distortion_model: radtan
  intrinsics: [458.6, 457.3, 367.2, 248.4]
  resolution: [752, 480]
  rostopic: /left/image_raw
cam1:
  T_cn_cnm1:
  - [0.0, 0.0, -1.0, 0.1]
  - [0.0, 1.0, 0.0, 0.2]
  - [1.0, 0.0, 0.0, 0.3]
  - [0.0, 0.0, 0.0, 1.0]
  camera_model: pinhole
  distortion_coeffs: [0.01, -0.02, 0.003, 0.0]
  distortion_model: equidistant
  intrinsics: [400.0, 401.0, 376.0, 240.0]
  resolution: [752, 480]
cam2:
  T_cn_cnm1:
  - [1.0, 0.0, 0.0, -0.5]
  - [0.0, 1.0, 0.0, 0.0]
  - [0.0, 0.0, 1.0, 0.0]
  - [0.0, 0.0, 0.0, 1.0]
  camera_model: pinhole
  distortion_coeffs: []
  distortion_model: none
  intrinsics: [400.0, 401.0, 376.0, 240.0]
  resolution: [752, 480]
"""


@pytest.mark.parametrize('header', ['', '%YAML:1.0 # as OpenCV writes it\n'])
def test_kalibr_chain(tmp_path, header):
    path = write(tmp_path, header + KALIBR, 'camchain.yaml')
    rig = load_rig(path)
    assert rig.names == ('cam0', 'cam1', 'cam2') and rig['cam0'].width == 752
    assert [cam.distortion_model for cam in rig] == ['plumb_bob', 'equidistant', 'none']
    np.testing.assert_array_equal(rig['cam0'].D, (-0.28, 0.07, 0.0002, 0.00002, 0.0))
    np.testing.assert_array_equal(rig['cam0'].world_from_camera, np.eye(4))
    # The world is cam0; a point there goes through the chain: p1 = T10 p0, p2 = T21 p1.
    p0 = np.array([0.2, -0.1, 1.5])
    p1 = np.array([-p0[2] + 0.1, p0[1] + 0.2, p0[0] + 0.3])
    np.testing.assert_allclose(rig['cam1'].camera_from_world @ np.append(p0, 1), np.append(p1, 1))
    np.testing.assert_allclose(rig['cam2'].camera_from_world @ np.append(p0, 1),
                               np.append(p1 - (0.5, 0, 0), 1), atol=1e-15)
    assert load_topics(path) == {'cam0': '/left/image_raw'}


def toml_tables(rig, table, per_unit=1.0, rotation_matrix=False, **extra):
    """A rig the way aniposelib and caliscope write it, rotations by OpenCV's Rodrigues."""
    lines = []
    for index, cam in enumerate(rig):
        pose = cam.camera_from_world
        rotation = pose[:3, :3] if rotation_matrix else cv2.Rodrigues(pose[:3, :3])[0].ravel()
        keys = {'size': [cam.width, cam.height], 'matrix': cam.K.tolist(), 'distortions': cam.D.tolist(),
                'rotation': rotation.tolist(), 'translation': (pose[:3, 3] / per_unit).tolist(), **extra}
        lines += [f'[{table.format(index)}]'] + [f'{key} = {value}' for key, value in keys.items()] + ['']
    return '\n'.join(lines)


def assert_same_geometry(read, rig):
    for a, b in zip(read, rig):
        np.testing.assert_array_equal(a.K, b.K)
        np.testing.assert_array_equal(a.D, b.D)
        np.testing.assert_allclose(a.world_from_camera, b.world_from_camera, atol=1e-12)
        assert a.distortion_model == b.distortion_model


def test_aniposelib(tmp_path):
    rig = ring((0, 50, 100), models=('plumb_bob',))
    text = toml_tables(rig, 'cam_{}', name='"side"')
    text = text.replace('"side"', '"first"', 1).replace('"side"', '"second"', 1)
    read = load_rig(write(tmp_path, text + '[metadata]\nadjusted = false\nerror = 0.4\n', 'calibration.toml'))
    assert read.names == ('first', 'second', 'side')
    assert_same_geometry(read, rig)


def test_aniposelib_in_millimetres(tmp_path):
    rig = ring((0, 50))
    text = toml_tables(rig, 'cam_{}', per_unit=1e-3)
    with pytest.raises(CalibrationError, match='metres_per_unit = 0.001'):
        load_rig(write(tmp_path, text, 'mm.toml'))
    metadata = '[metadata]\nmetres_per_unit = 0.001\n'
    read = load_rig(write(tmp_path, text + metadata, 'mm.toml'))
    assert_same_geometry(read, rig)
    assert read.names == ('cam_0', 'cam_1')
    with pytest.raises(CalibrationError, match='metres_per_unit'):
        load_rig(write(tmp_path, text + metadata.replace('0.001', '-1'), 'mm.toml'))


@pytest.mark.parametrize('rotation_matrix', [False, True])
def test_caliscope(tmp_path, rotation_matrix):
    rig = ring((0, 50, 100))
    text = toml_tables(rig, 'cameras.{}', rotation_matrix=rotation_matrix, rotation_count=0, error=0.4,
                       exposure='"null"', grid_count=20, fisheye='false')
    read = load_rig(write(tmp_path, text + '[cameras.7]\nignore = true\n', 'camera_array.toml'))
    assert read.names == ('cam_0', 'cam_1', 'cam_2')
    assert_same_geometry(read, rig)


def test_fisheye_and_rational_distortion_in_toml(tmp_path):
    fisheye = ring((0, 50), models=('equidistant',))
    text = toml_tables(fisheye, 'cameras.{}', fisheye='true')
    assert_same_geometry(load_rig(write(tmp_path, text, 'f.toml')), fisheye)
    rational = ring((0, 50), models=('rational_polynomial',))
    assert_same_geometry(load_rig(write(tmp_path, toml_tables(rational, 'cam_{}'), 'r.toml')), rational)


def test_rotations_with_few_digits_become_rotations(tmp_path):
    rig = ring((20, 75))
    tables = {cam.name: {'image_size': [640, 480], 'K': cam.K.tolist(), 'distortion_model': 'none',
                         'world_from_camera': np.round(cam.world_from_camera, 4).tolist()} for cam in rig}
    read = load_rig(write(tmp_path, yaml.safe_dump({'cameras': tables})))
    for a, b in zip(read, rig):
        rotation = a.world_from_camera[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-14)
        np.testing.assert_allclose(rotation, b.world_from_camera[:3, :3], atol=1e-4)


def mistake(tmp_path, text, *parts, name='rig.yaml'):
    path = write(tmp_path, text, name)
    with pytest.raises(CalibrationError) as caught:
        load_rig(path)
    for part in (str(path), *parts):
        assert part in str(caught.value), f'{part!r} is not in {caught.value}'


@pytest.mark.parametrize('old, new, parts', [
    ('image_size: [640, 480]', 'size: [640, 480]', ("'left'", "'size'", 'image_size')),
    ('    image_size: [640, 480]\n', '', ("'left'", "'image_size'", 'missing')),
    ('[640, 480]', '[640]', ("'image_size'", 'width')),
    ('[640, 480]', '[640, 0]', ("'image_size'",)),
    ('[640, 480]', '[640, 480.5]', ("'image_size'",)),
    ('[500, 0, 320, 0, 510, 240, 0, 0, 1]', '[500, 510, 320, 240]', ("'left'", "'K'", '9 numbers')),
    ('[500, 0, 320, 0, 510, 240, 0, 0, 1]', '[0, 0, 320, 0, 510, 240, 0, 0, 1]', ("'left'", 'focal')),
    ('[500, 0, 320, 0, 510, 240, 0, 0, 1]', '[a, 0, 320, 0, 510, 240, 0, 0, 1]', ("'K'", 'numbers')),
    ('[500, 0, 320, 0, 510, 240, 0, 0, 1]', '[.nan, 0, 320, 0, 510, 240, 0, 0, 1]', ("'K'", 'NaN')),
    ('distortion_model: none', 'distortion_model: fov', ("'left'", "'distortion_model'", 'plumb_bob')),
    ('distortion_model: none', 'distortion_model: [1]', ("'left'", "'distortion_model'", 'plumb_bob')),
    ('    distortion_model: none\n', '', ("'distortion_model'", 'missing')),
    ('D: [-0.1, 1e-3, 0, 0, 0]', 'D: [-0.1, 1e-3, 0]', ("'right'", "'D'", '3 distortion coefficients', '4 or 5')),
    ('    D: [-0.1, 1e-3, 0, 0, 0]\n', '', ("'right'", "'D'", 'missing')),
    ('[0, 1, 0, 0]', '[0, 1.01, 0, 0]', ("'right'", "'world_from_camera'", 'orthonormal')),
    ('[0, 1, 0, 0]', '[0, -1, 0, 0]', ("'right'", "'world_from_camera'", 'reflection')),
    ('[0, 0, 0, 1]]', '[0, 0, 1, 1]]', ("'right'", "'world_from_camera'", 'transposed')),
    ('[0, 0, 1, 0], [0, 0, 0, 1]]', '[0, 0, 1, 0]]', ("'right'", "'world_from_camera'", '4×4')),
    ('0.70710678]', '0.5]', ("'left'", "'quaternion_xyzw'", 'unit')),
    ('      position: [1.0, 2.0, 3.0]\n', '', ("'left'", "'position'", 'missing')),
    ('  right:', '  left:', ("'left'", 'twice', 'line 10')),
    ('[1.0, 2.0, 3.0]', '[1000.0, 2.0, 3.0]', ("'left'", "'right'", 'metres')),
])
def test_mistakes_in_our_yaml(tmp_path, old, new, parts):
    assert old in OURS
    mistake(tmp_path, OURS.replace(old, new, 1), *parts)


@pytest.mark.parametrize('old, new, parts', [
    ('rotation_rad: 1e-3', 'rotation_deg: 0.1', ("'uncertainty.rotation_deg'", 'rotation_rad')),
    ('rotation_rad: 1e-3', 'rotation_rad: 0.5', ("'uncertainty'", 'rotation_rad', 'radians')),
    ('rotation_rad: 1e-3', 'rotation_rad: -1e-3', ("'uncertainty'", 'rotation_rad', '0 or above')),
    ('rotation_rad: 1e-3', 'rotation_rad: [1e-3, 1e-3]', ("'uncertainty.rotation_rad'", '3 of them')),
    ('rotation_rad: 1e-3', 'rotation_rad: about 1', ("'uncertainty.rotation_rad'", 'numbers')),
    ('[0.001, 0.001, 0.003]', '[1, 1, 3]', ("'uncertainty'", 'translation_m', 'metres')),
    ('focal_px: 1.5', 'focal_px: .inf', ("'uncertainty.focal_px'", 'infinite')),
    (UNCERTAINTY, '    uncertainty: 0.001\n', ("'uncertainty'", 'rotation_rad, translation_m')),
])
def test_mistakes_in_an_uncertainty(tmp_path, old, new, parts):
    text = OURS + UNCERTAINTY
    assert old in text
    mistake(tmp_path, text.replace(old, new, 1), "'right'", *parts)


@pytest.mark.parametrize('old, new, parts', [
    ('camera_model: pinhole', 'camera_model: omni', ("'cam0'", "'camera_model'", 'pinhole')),
    ('distortion_model: radtan', 'distortion_model: fov', ("'cam0'", "'distortion_model'", 'radtan')),
    ('[-0.28, 0.07, 0.0002, 0.00002]', '[-0.28, 0.07]', ("'cam0'", "'distortion_coeffs'", '4')),
    ('[458.6, 457.3, 367.2, 248.4]', '[458.6]', ("'cam0'", "'intrinsics'")),
    ('  resolution: [752, 480]\n', '', ("'cam0'", "'resolution'", 'missing')),
    ('T_cn_cnm1', 'T_cam_imu', ("'cam1'", "'T_cn_cnm1'", 'missing')),
    ('[0.0, 1.0, 0.0, 0.2]', '[0.0, 2.0, 0.0, 0.2]', ("'cam1'", "'T_cn_cnm1'", 'orthonormal')),
    ('cam2:', 'cam3:', ("'cam3'", 'cam2')),
])
def test_mistakes_in_a_kalibr_chain(tmp_path, old, new, parts):
    assert old in KALIBR
    mistake(tmp_path, KALIBR.replace(old, new, 1), *parts, name='camchain.yaml')


def test_mistakes_in_toml(tmp_path):
    good = toml_tables(ring((0, 50)), 'cam_{}')
    mistake(tmp_path, good.replace('rotation =', 'rotated =', 1), "'cam_0'", "'rotation'", 'calibration',
            name='a.toml')
    mistake(tmp_path, good.replace('matrix =', 'K =', 1), "'cam_0'", "'matrix'", 'missing', name='b.toml')
    mistake(tmp_path, good.replace('[cam_1]', '[cam_0]'), 'twice', name='c.toml')
    mistake(tmp_path, toml_tables(ring((0, 50)), 'cam_{}', name='"same"'), "'same'", 'twice', name='d.toml')
    mistake(tmp_path, toml_tables(ring((0, 50)), 'cam_{}', fisheye='true'), "'cam_0'", "'distortions'", '4',
            name='e.toml')
    mistake(tmp_path, toml_tables(ring((0, 50)), 'cameras.{}', translation='"null"'), 'cam_0',
            "'translation'", 'missing', name='f.toml')
    mistake(tmp_path, '[cameras]\n', 'no cameras', name='g.toml')
    mistake(tmp_path, '[cameras.0]\nignore = true\n', 'at least one', name='h.toml')
    mistake(tmp_path, 'not toml at all', 'TOML', name='i.toml')


@pytest.mark.parametrize('text, parts', [
    ('', ('empty', 'Kalibr')),
    ('  \n\n', ('empty',)),
    ('just a sentence', ('no keys', 'aniposelib')),
    ('a: [1, 2', ('not valid YAML', 'line 1')),
    ('image_width: 640\nmatrix: {}\n', ('unknown format', 'image_width', 'Kalibr', 'caliscope')),
    ('cameras: []\n', ("'cameras'", 'no cameras')),
    ('cameras: {left: 3}\n', ("'left'", '3')),
    ('cameras: !!python/object/apply:os.getcwd []\n', ('not valid YAML',)),
])
def test_files_that_are_no_rig(tmp_path, text, parts):
    mistake(tmp_path, text, *parts)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(CalibrationError, match='no such file'):
        load_rig(tmp_path / 'missing.yaml')
    with pytest.raises(CalibrationError, match='cannot be read'):
        load_rig(tmp_path)
    (tmp_path / 'image.yaml').write_bytes(b'\x89PNG\xff\xfe\x00')
    with pytest.raises(CalibrationError, match='not a text file'):
        load_rig(tmp_path / 'image.yaml')


def test_pose_convention_of_the_helpers():
    """A camera that looks at the origin sees it at its principal point."""
    px, depth = ring((30,)).cameras[0].project(np.zeros((1, 3)))
    np.testing.assert_allclose(px[0], (322.0, 238.0), atol=1e-9)
    assert depth[0] == pytest.approx(np.hypot(0.8, 0.4))
    np.testing.assert_allclose(look_at((0, -1, 0))[:3, 2], (0, 1, 0), atol=1e-15)
