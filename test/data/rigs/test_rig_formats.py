"""Rig files of other tools: OpenCV FileStorage, ROS camera_info YAML, Pose2Sim, IMU chains; units and inverse poses."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import yaml
from rig_cases import look_at, mixed_rig, ring

from hand_unc_ros.data.rigs import load_info_topics, load_rig, load_topics, save_rig
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.optical_axes import inverted


def refused(path, *words):
    with pytest.raises(CalibrationError) as caught:
        load_rig(path)
    for word in (str(path), *words):
        assert word in str(caught.value), f'{word!r} is not in {caught.value}'
    assert '\n' not in str(caught.value)


def assert_same(read, rig, atol=1e-12):
    assert read.names == rig.names
    for a, b in zip(read, rig):
        np.testing.assert_allclose(a.K, b.K, atol=atol)
        np.testing.assert_allclose(a.world_from_camera, b.world_from_camera, atol=atol)
        np.testing.assert_allclose(a.D, b.D, atol=atol)
        assert (a.width, a.height, a.distortion_model) == (b.width, b.height, b.distortion_model)


# --- OpenCV FileStorage, written by OpenCV itself

def write_easymocap(folder, rig, sizes=True, scale=1.0, matrices=True):
    intri = cv2.FileStorage(str(folder / 'intri.yml'), cv2.FILE_STORAGE_WRITE)
    extri = cv2.FileStorage(str(folder / 'extri.yml'), cv2.FILE_STORAGE_WRITE)
    for storage in (intri, extri):
        storage.startWriteStruct('names', cv2.FileNode_SEQ)
        for camera in rig:
            storage.write('', camera.name)
        storage.endWriteStruct()
    for camera in rig:
        intri.write(f'K_{camera.name}', np.array(camera.K))
        intri.write(f'dist_{camera.name}', np.array(camera.D)[None])
        if sizes:
            intri.write(f'H_{camera.name}', camera.height)
            intri.write(f'W_{camera.name}', camera.width)
        rotation = np.array(camera.camera_from_world[:3, :3])
        extri.write(f'R_{camera.name}', cv2.Rodrigues(rotation)[0])
        if matrices:
            extri.write(f'Rot_{camera.name}', rotation)
        extri.write(f'T_{camera.name}', np.array(camera.camera_from_world[:3, 3:]) / scale)
    intri.release()
    extri.release()


def named(rig, *names):
    return CameraRig([Camera(name, *[getattr(camera, field) for field in (
        'width', 'height', 'K', 'distortion_model', 'D', 'world_from_camera')]) for name, camera in zip(names, rig)])


@pytest.mark.parametrize('given', ['intri.yml', 'extri.yml'])
@pytest.mark.parametrize('matrices', [True, False])
def test_opencv_files_of_easymocap(tmp_path, given, matrices):
    rig = named(ring((0, 80, 160), models=('plumb_bob', 'rational_polynomial', 'plumb_bob')), '01', '02', 'left')
    write_easymocap(tmp_path, rig, matrices=matrices)
    assert_same(load_rig(tmp_path / given), rig, 1e-9)


def test_opencv_files_that_lack_something(tmp_path):
    rig = named(ring((0, 80)), '01', '02')
    write_easymocap(tmp_path, rig, sizes=False)
    refused(tmp_path / 'intri.yml', "'01'", "'H_01'", 'image size', 'W_01')
    (tmp_path / 'extri.yml').unlink()
    refused(tmp_path / 'intri.yml', 'OpenCV FileStorage', 'extri.yml', 'beside')
    text = (tmp_path / 'intri.yml').read_text()
    (tmp_path / 'intri.yml').write_text(text.replace('rows: 3', 'rows: 4', 1))
    refused(tmp_path / 'intri.yml', 'OpenCV matrix at line', 'rows × cols')
    (tmp_path / 'intri.yml').write_text(text.replace('data: [', 'data: [[', 1))
    refused(tmp_path / 'intri.yml', 'damaged OpenCV FileStorage file at line')
    (tmp_path / 'intri.xml').write_text('<?xml version="1.0"?>\n<opencv_storage></opencv_storage>\n')
    refused(tmp_path / 'intri.xml', 'XML', '.yml')


def test_no_opencv_file_is_called_invalid_yaml(tmp_path):
    for text in ('%YAML:1.0\n---\nM1: !!opencv-matrix\n   rows: 1\n   cols: 1\n   dt: d\n   data: [ 1. ]\n',
                 '%YAML:1.0\n---\nfoo: !!opencv-nd-matrix\n   sizes: [1]\n', '%YAML:1.0\n---\n- [', '%YAML:1.0\n---\n'):
        (tmp_path / 'any.yml').write_text(text)
        with pytest.raises(CalibrationError) as caught:
            load_rig(tmp_path / 'any.yml')
        assert 'not valid YAML' not in str(caught.value)


# --- ROS camera_info YAML

def info_yaml(camera, **changes):
    values = {
        'image_width': camera.width, 'image_height': camera.height, 'camera_name': camera.name,
        'camera_matrix': {'rows': 3, 'cols': 3, 'data': camera.K.ravel().tolist()},
        'distortion_model': camera.distortion_model,
        'distortion_coefficients': {'rows': 1, 'cols': camera.D.size, 'data': camera.D.tolist()},
        'rectification_matrix': {'rows': 3, 'cols': 3, 'data': np.eye(3).ravel().tolist()},
        'projection_matrix': {'rows': 3, 'cols': 4, 'data': [0.0] * 12}} | changes
    return yaml.safe_dump({key: value for key, value in values.items() if value is not None})


def test_camera_info_yaml(tmp_path):
    for camera in mixed_rig():
        path = tmp_path / f'{camera.name}.yaml'
        path.write_text(info_yaml(camera))
        read = load_rig(path)
        assert_same(read, CameraRig([camera.with_pose(np.eye(4))]))
    camera = mixed_rig()['cam1']
    path.write_text(info_yaml(camera, camera_name=None))
    assert load_rig(path).names == (path.stem,)
    path.write_text(info_yaml(camera, distortion_model='omni'))
    refused(path, 'omnidirectional', 'not supported')
    path.write_text(info_yaml(camera, image_width=640.5))
    refused(path, "'image_width'", 'whole pixels')
    path.write_text(info_yaml(camera, camera_matrix={'rows': 3, 'cols': 3, 'data': [1.0] * 8}))
    refused(path, "'camera_matrix'", '8 numbers')


def test_a_rig_of_camera_info_files(tmp_path):
    rig = mixed_rig()
    tables = {}
    for camera in rig:
        (tmp_path / f'{camera.name}.yaml').write_text(info_yaml(camera, camera_name='camera'))
        tables[camera.name] = {'intrinsics': f'{camera.name}.yaml',
                               'world_from_camera': camera.world_from_camera.tolist()}
    (tmp_path / 'rig.yaml').write_text(yaml.safe_dump({'cameras': tables}))
    assert_same(load_rig(tmp_path / 'rig.yaml'), rig)
    tables['cam1']['K'] = rig['cam1'].K.tolist()
    (tmp_path / 'rig.yaml').write_text(yaml.safe_dump({'cameras': tables}))
    refused(tmp_path / 'rig.yaml', "'cam1'", "'K'", 'beside intrinsics')
    tables['cam1'] = {'intrinsics': 'rig.yaml', 'world_from_camera': np.eye(4).tolist()}
    (tmp_path / 'rig.yaml').write_text(yaml.safe_dump({'cameras': tables}))
    refused(tmp_path / 'rig.yaml', 'no ROS camera_info YAML')


def test_the_calibration_sample_of_opencv(tmp_path):
    camera = mixed_rig()['cam3']
    storage = cv2.FileStorage(str(tmp_path / 'out_camera_data.yml'), cv2.FILE_STORAGE_WRITE)
    storage.write('image_width', 640)
    storage.write('image_height', 480)
    storage.write('fisheye_model', 1)
    storage.write('camera_matrix', np.array(camera.K))
    storage.write('distortion_coefficients', np.array(camera.D)[:, None])
    storage.release()
    read = load_rig(tmp_path / 'out_camera_data.yml').cameras[0]
    assert read.distortion_model == 'equidistant'
    np.testing.assert_allclose(read.D, camera.D)


# --- topics

def test_camera_info_topics_of_a_rig_file(tmp_path):
    save_rig(mixed_rig(), tmp_path / 'rig.yaml', topics={'cam1': '/left/image'})
    content = yaml.safe_load((tmp_path / 'rig.yaml').read_text())
    content['cameras']['cam2']['camera_info'] = '/right/info'
    (tmp_path / 'rig.yaml').write_text(yaml.safe_dump(content))
    load_rig(tmp_path / 'rig.yaml')
    assert load_info_topics(tmp_path / 'rig.yaml') == {'cam2': '/right/info'}
    assert load_topics(tmp_path / 'rig.yaml') == {'cam1': '/left/image'}
    content['cameras']['cam2']['camera_info'] = 3
    (tmp_path / 'rig.yaml').write_text(yaml.safe_dump(content))
    refused(tmp_path / 'rig.yaml', "'cam2'", "'camera_info'", 'name of a topic')


# --- Kalibr

def kalibr(poses, key, **changes):
    """A chain without T_cn_cnm1: `key` of each camera, from the poses of cameras in the IMU's frame."""
    chain = {}
    for index, imu_from_camera in enumerate(poses):
        matrix = imu_from_camera if key == 'T_imu_cam' else np.linalg.inv(imu_from_camera)
        chain[f'cam{index}'] = {
            'camera_model': 'pinhole', 'distortion_model': 'equidistant', 'distortion_coeffs': [0.0] * 4,
            'intrinsics': [400.0, 401.0, 320.0, 240.0], 'resolution': [640, 480], key: matrix.tolist()} | changes
    return yaml.safe_dump(chain)


@pytest.mark.parametrize('key', ['T_imu_cam', 'T_cam_imu'])
def test_a_chain_to_an_imu(tmp_path, key):
    poses = [look_at((0.3, 0.4, 0.2)), look_at((-0.4, 0.3, 0.3)), look_at((0.0, -0.5, 0.4))]
    (tmp_path / 'chain.yaml').write_text('%YAML:1.0\n' + kalibr(poses, key))
    rig = load_rig(tmp_path / 'chain.yaml')
    np.testing.assert_array_equal(rig['cam0'].world_from_camera, np.eye(4))
    for camera, pose in zip(rig, poses):
        np.testing.assert_allclose(camera.world_from_camera, np.linalg.inv(poses[0]) @ pose, atol=1e-12)
        assert camera.distortion_model == 'equidistant'
        where = np.linalg.inv(poses[0]) @ (0.05, 0.02, -0.03, 1.0)
        in_camera = (np.linalg.inv(pose) @ (0.05, 0.02, -0.03, 1.0))[:3]
        want = cv2.fisheye.projectPoints(in_camera[None, None], np.zeros(3), np.zeros(3), camera.K, np.zeros(4))[0]
        np.testing.assert_allclose(camera.project(where[None, :3])[0][0], want.ravel(), atol=1e-6)


@pytest.mark.parametrize('changes, words', [
    (dict(camera_model='omni'), ('omnidirectional', 'not supported', 'pinhole-equi')),
    (dict(camera_model='ds'), ('double sphere', 'not supported')),
    (dict(camera_model='eucm'), ('EUCM', 'not supported')), (dict(distortion_model='fov'), ('field-of-view',))])
def test_models_of_kalibr_that_are_not_supported(tmp_path, changes, words):
    (tmp_path / 'chain.yaml').write_text(kalibr([look_at((0.3, 0.4, 0.2))], 'T_imu_cam', **changes))
    refused(tmp_path / 'chain.yaml', "'cam0'", *words)


# --- TOML

def toml(rig, heads, **extra):
    lines = []
    for head, camera in zip(heads, rig):
        pose = camera.camera_from_world
        keys = {'size': [float(camera.width), float(camera.height)], 'matrix': camera.K.tolist(),
                'distortions': camera.D[:4].tolist(), 'rotation': cv2.Rodrigues(pose[:3, :3])[0].ravel().tolist(),
                'translation': pose[:3, 3].tolist(), 'fisheye': 'false', **extra}
        lines += [head] + [f'{key} = {value}' for key, value in keys.items()] + ['']
    return '\n'.join(lines)


def test_pose2sim_names_cameras_by_their_serial_numbers(tmp_path):
    rig = named(ring((0, 70, 140), models=('equidistant',)), '19829', 'CC1_24510', 'int_cam3_img')
    text = toml(rig, ['[19829]', '[CC1_24510]', '[int_cam3_img]'], fisheye='true')
    (tmp_path / 'Calib.toml').write_text(text + '[metadata]\nadjusted = false\nerror = 0.0\n')
    assert_same(load_rig(tmp_path / 'Calib.toml'), rig, 1e-9)
    (tmp_path / 'Calib.toml').write_text(text.replace('fisheye = true', 'name = "19829"\nfisheye = true', 1))
    assert load_rig(tmp_path / 'Calib.toml').names == rig.names


@pytest.mark.parametrize('heads', [['[cam_0]', '[cam_1]'], ['[cameras.0]', '[cameras.1]'],
                                   ['[[cameras]]', '[[cameras]]'], ['[cameras.cam_0]', '[cameras.cam_1]']])
def test_ignored_cameras_in_every_form(tmp_path, heads):
    text = toml(ring((0, 70)), heads)
    path = tmp_path / 'config.toml'
    path.write_text('[charuco]\ncolumns = 4\n' + text)
    assert load_rig(path).names == ('cam_0', 'cam_1')
    path.write_text(text + 'ignore = true\n')
    assert load_rig(path).names == ('cam_0',)
    # Without numbers as well.
    path.write_text(text.split(heads[1])[0] * (heads[0] != heads[1]) + f'{heads[1]}\nignore = true\n'
                    + text.split(heads[0])[1].join((heads[0], '')) * (heads[0] == heads[1]))
    assert len(load_rig(path)) == 1
    path.write_text(text + 'ignore = "yes"\n')
    refused(path, "'ignore'", 'true or false')


def test_names_that_are_none(tmp_path):
    path = tmp_path / 'config.toml'
    path.write_text(toml(ring((0, 70)), ['[cam_0]', '[cam_1]'], name='[1]'))
    refused(path, "'name'", 'text')
    path.write_text(toml(ring((0, 70)), ['[cam_0]', '["cam\\n1"]']))
    refused(path, 'no name for a camera', 'cam\\n1')


# --- units

RIG = ring((0, 60, 120, 180))


def scaled(rig, factor):
    cameras = []
    for camera in rig:
        pose = np.array(camera.world_from_camera)
        pose[:3, 3] *= factor
        cameras.append(camera.with_pose(pose))
    return CameraRig(cameras)


def yaml_rig(path, rig, unit=None):
    save_rig(rig, path)
    if unit is not None:
        path.write_text(f'metres_per_unit: {unit}\n' + path.read_text())
    return path


@pytest.mark.parametrize('per_metre, word', [(1000.0, 'm apart'), (1 / 0.025, 'board'), (1 / 0.05, 'a hand is'),
                                             (100.0, 'metres'), (1e-3, 'mm apart')])
def test_other_units_are_caught_in_every_format(tmp_path, per_metre, word):
    foreign = scaled(RIG, per_metre)
    path = yaml_rig(tmp_path / 'rig.yaml', foreign)
    refused(path, word, 'metres', 'metres_per_unit: 0.001')
    assert_same(load_rig(yaml_rig(tmp_path / 'unit.yaml', foreign, 1 / per_metre)), RIG, 1e-9)
    path = tmp_path / 'rig.toml'
    text = toml(foreign, [f'[cam{i}]' for i in range(4)])
    path.write_text(text)
    refused(path, word, 'metres', 'metres_per_unit = 0.001', '[metadata]')
    path.write_text(text + f'[metadata]\nmetres_per_unit = {1 / per_metre:.17f}\n')
    for read, camera in zip(load_rig(path), RIG):
        np.testing.assert_allclose(read.world_from_camera, camera.world_from_camera, atol=1e-9)
    write_easymocap(tmp_path, foreign)
    refused(tmp_path / 'extri.yml', word, 'metres')


def test_a_large_rig_in_metres_may_say_so(tmp_path):
    large = scaled(RIG, 30.0)
    refused(yaml_rig(tmp_path / 'rig.yaml', large), 'px long')
    assert_same(load_rig(yaml_rig(tmp_path / 'rig.yaml', large, 1)), large)
    refused(yaml_rig(tmp_path / 'rig.yaml', large, 'true'), 'metres_per_unit', 'above 0')
    refused(yaml_rig(tmp_path / 'rig.yaml', scaled(RIG, 100.0), 1), 'm apart')


def test_hall_sized_and_narrow_rigs_are_believed(tmp_path):
    yaml_rig(tmp_path / 'hall.yaml', scaled(RIG, 6.0))
    load_rig(tmp_path / 'hall.yaml')
    pair = [Camera(f'cam{i}', 640, 480, RIG.cameras[0].K, 'none', np.zeros(0),
                   np.block([[np.eye(3), np.array([[0.06 * i], [0], [0]])], [np.zeros((1, 3)), np.ones((1, 1))]]))
            for i in range(2)]
    yaml_rig(tmp_path / 'pair.yaml', CameraRig(pair))
    load_rig(tmp_path / 'pair.yaml')


# --- inverse poses

def test_inverse_poses_are_named(tmp_path, caplog):
    # No camera of a real rig looks exactly at the origin of its world.
    rig = CameraRig([camera.with_pose(look_at(camera.centre, target)) for camera, target in zip(
        RIG, np.random.default_rng(0).normal(0.0, 0.03, (4, 3)))])
    with caplog.at_level(logging.WARNING):
        load_rig(yaml_rig(tmp_path / 'rig.yaml', rig))
        assert caplog.messages == []
        load_rig(yaml_rig(tmp_path / 'inverse.yaml', inverted(rig)))
    assert len(caplog.messages) == 1
    for word in ('inverse.yaml', 'inverted', 'camera_from_world', 'in front of them'):
        assert word in caplog.messages[0]


def test_inverse_poses_that_put_all_cameras_in_one_place_are_refused(tmp_path):
    refused(yaml_rig(tmp_path / 'rig.yaml', inverted(RIG)), 'inverted', 'camera_from_world')
