"""CameraInfo and poses into cameras, and the reasons why not."""

from __future__ import annotations

import types
from dataclasses import replace

import numpy as np
import pytest

from hand_unc_ros.data.camera_calibrations import CameraCalibrations
from hand_unc_ros.data.camera_messages import camera_from_info, check_size, pose_matrix
from hand_unc_ros.errors import CalibrationError, ImageFormatError
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, Camera, CameraRig

POINTS = np.array([[0.1, -0.05, 1.0], [-0.2, 0.1, 1.5], [0.0, 0.0, 0.8]])


def info(**changes):
    values = dict(width=640, height=480, distortion_model='plumb_bob',
                  d=np.array([0.1, -0.05, 0.001, 0.002, 0.01]),
                  k=np.array([500.0, 0, 320, 0, 510, 240, 0, 0, 1]), binning_x=0, binning_y=0,
                  roi=types.SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0))
    values.update(changes)
    return types.SimpleNamespace(**values)


def vector(*values):
    return types.SimpleNamespace(**dict(zip('xyzw', values)))


def test_camera_info_gives_its_camera():
    camera = camera_from_info('cam0', info(), np.eye(4))
    assert (camera.width, camera.height, camera.distortion_model) == (640, 480, 'plumb_bob')
    assert np.array_equal(camera.K, [[500, 0, 320], [0, 510, 240], [0, 0, 1]])
    plain = camera_from_info('cam0', info(d=np.array([]), distortion_model=''), np.eye(4))
    assert plain.distortion_model == 'none'


def test_binning_and_region_of_interest_move_the_pixels():
    full, _ = camera_from_info('cam0', info(), np.eye(4)).project(POINTS)
    roi = types.SimpleNamespace(x_offset=100, y_offset=40, width=400, height=400)
    part = info(binning_x=2, binning_y=4, roi=roi)
    camera = camera_from_info('cam0', part, np.eye(4))
    assert (camera.width, camera.height) == (200, 100)
    px, _ = camera.project(POINTS)
    # A binned pixel covers `binning` pixels, so edges and not centres scale.
    np.testing.assert_allclose(px, (full - [100, 40] + 0.5) / [2, 4] - 0.5, atol=1e-9)


@pytest.mark.parametrize('changes, word', [
    (dict(k=np.zeros(9)), 'calibrate'), (dict(k=np.full(9, np.nan)), 'NaN'),
    (dict(d=np.zeros(3)), 'coefficients'), (dict(d=np.full(5, np.inf)), 'NaN or infinite'),
    (dict(distortion_model='mystery'), 'mystery'),
    (dict(width=0), 'width'), (dict(k=np.array([500.0, 0, 320, 0, -510, 240, 0, 0, 1])), 'focal')])
def test_an_unusable_camera_info_is_refused_with_the_reason(changes, word):
    with pytest.raises(CalibrationError, match=word) as caught:
        camera_from_info('cam7', info(**changes), np.eye(4))
    assert 'cam7' in str(caught.value)


def test_a_pose_from_a_transform():
    half = np.sqrt(0.5)
    pose = pose_matrix(vector(1.0, 2.0, 3.0), vector(0.0, 0.0, half, half))
    np.testing.assert_allclose(pose @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)
    with pytest.raises(CalibrationError, match='norm'):
        pose_matrix(vector(0.0, 0.0, 0.0), vector(0.0, 0.0, 0.0, 0.0))


def rig():
    return CameraRig([Camera(name, 640, 480, np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]]), 'none',
                             np.zeros(0), np.eye(4)) for name in ('cam0', 'cam1')])


def test_a_rig_file_calibrates_at_once_and_names_what_it_lacks():
    calibrations = CameraCalibrations(['cam0', 'cam1'], rig(), info_used=False, pose_used=False)
    assert calibrations.camera('cam1').width == 640 and calibrations.reason('cam1') is None
    with pytest.raises(CalibrationError, match='cam9'):
        CameraCalibrations(['cam9'], rig(), info_used=False, pose_used=False)


def test_a_camera_is_left_out_with_its_reason_and_comes_back():
    calibrations = CameraCalibrations(['cam0'], rig(), info_used=True, pose_used=False)
    assert 'CameraInfo' in calibrations.reason('cam0')
    calibrations.take_info('cam0', info())
    assert calibrations.camera('cam0') is not None
    calibrations.take_info('cam0', info(k=np.zeros(9)))
    assert calibrations.camera('cam0') is None and 'uncalibrated' in calibrations.reason('cam0')
    calibrations.take_info('cam0', info())
    assert calibrations.reason('cam0') is None


@pytest.mark.parametrize('info_used, pose_used', [(False, False), (True, False), (False, True), (True, True)])
def test_how_well_a_camera_is_calibrated_is_the_rig_files_word(info_used, pose_used):
    said = CalibrationUncertainty(1e-3, 2e-3)
    cameras = CameraRig([replace(camera, uncertainty=said) for camera in rig()])
    calibrations = CameraCalibrations(['cam0'], cameras, info_used=info_used, pose_used=pose_used)
    calibrations.take_info('cam0', info())
    calibrations.take_pose('cam0', np.eye(4))
    assert calibrations.camera('cam0').uncertainty is said


def test_poses_are_waited_for_and_their_faults_told():
    calibrations = CameraCalibrations(['cam0'], None, info_used=True, pose_used=True)
    calibrations.take_info('cam0', info())
    assert calibrations.without_pose == ('cam0',)
    calibrations.refuse_pose('cam0', 'no transform from world to cam0')
    assert 'transform' in calibrations.reason('cam0')
    calibrations.take_pose('cam0', np.eye(4))
    assert calibrations.without_pose == () and calibrations.camera('cam0') is not None


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ImageFormatError, match='320×240'):
        check_size(rig()['cam0'], np.zeros((240, 320, 3), np.uint8))
