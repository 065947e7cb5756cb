"""Which image a camera calibration describes: rectified or raw, whole, binned or cut, of which size."""

from __future__ import annotations

import types

import cv2
import numpy as np
import pytest

from hand_unc_ros.data.calibrated_image import (
    camera_doubts,
    check_rectified,
    info_doubts,
    is_rectified,
    resized_doubt,
)
from hand_unc_ros.data.camera_messages import camera_from_info
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.data.camera_calibrations import CameraCalibrations

K = np.array([[640.0, 0, 331], [0, 642, 236], [0, 0, 1]])
D = np.array([-0.28, 0.09, 0.0005, -0.0004, 0.0])


def info(K=K, D=D, size=(640, 480), P=None, R=None, binning=0, roi=(0, 0, 0, 0), model='plumb_bob'):
    P = np.zeros((3, 4)) if P is None else np.asarray(P, float)
    return types.SimpleNamespace(
        width=size[0], height=size[1], distortion_model=model, d=np.asarray(D, float), k=np.asarray(K, float).ravel(),
        p=P.ravel(), r=(np.eye(3) if R is None else R).ravel(), binning_x=binning, binning_y=binning,
        roi=types.SimpleNamespace(x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3]))


def new_matrix(K=K, offset=0.0):
    inner = cv2.getOptimalNewCameraMatrix(K, D, (640, 480), 0)[0]
    return np.column_stack((inner, (offset, 0.0, 0.0)))


@pytest.mark.parametrize('topic, rectified', [
    ('/left/image_rect', True), ('/left/image_rect/compressed', True), ('left/image_rect_color', True),
    ('/zed/left/color/rect/image', True), ('/cam/image_rectified', True), ('/left/image_raw', False),
    ('/left/image_raw/compressed', False), ('/direct/image', False), ('/rectory/image', False), ('', False)])
def test_topics_of_rectified_images(topic, rectified):
    assert is_rectified(topic) is rectified


def test_rectified_images_are_those_of_p_and_r():
    R = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0]
    P = new_matrix()
    points = np.array([[x, y, 0.8] for x in (-0.3, 0.0, 0.2) for y in (-0.2, 0.0, 0.2)])
    raw = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, D)[0]
    want = cv2.undistortPoints(raw, K, D, R=R, P=P[:, :3])[:, 0]
    camera = camera_from_info('left', info(P=P, R=R), np.eye(4), rectified=True)
    np.testing.assert_allclose(camera.project(points)[0], want, atol=1e-3)
    assert camera.distortion_model == 'none'
    halved = camera_from_info('left', info(P=P, R=R, binning=2), np.eye(4), rectified=True)
    np.testing.assert_allclose(halved.project(points)[0], (want + 0.5) / 2 - 0.5, atol=1e-3)


def test_rectified_images_without_p_are_refused_unless_nothing_was_rectified():
    with pytest.raises(CalibrationError, match="camera 'left'.*P of its CameraInfo is 0.*raw images"):
        camera_from_info('left', info(), np.eye(4), rectified=True)
    camera = camera_from_info('left', info(D=np.zeros(5)), np.eye(4), rectified=True)
    np.testing.assert_array_equal(camera.K, K)
    with pytest.raises(CalibrationError, match='R of its CameraInfo'):
        camera_from_info('left', info(P=new_matrix(), R=np.full((3, 3), 0.5)), np.eye(4), rectified=True)


def test_the_offset_of_a_stereo_pair_is_named():
    doubts = info_doubts('right', info(P=new_matrix(offset=-64.0)), rectified=True)
    assert len(doubts) == 1 and 'P has the offset 0.1' in doubts[0] and 'its own centre' in doubts[0]
    assert info_doubts('left', info(P=new_matrix()), rectified=True) == []


@pytest.mark.parametrize('changes, words', [
    (dict(K=[[300, 0, 250], [0, 300, 187], [0, 0, 1]], size=(2000, 1500), binning=4),
     ('2000×1500', 'binning 4×4', '(250, 187)', '500×375', 'rig.intrinsics: file')),
    (dict(K=[[900, 0, 240], [0, 900, 180], [0, 0, 1]], size=(1280, 720), roi=(400, 180, 480, 360)),
     ('region of interest 480×360 at (400, 180)', '(240, 180)')),
    (dict(K=[[900, 0, 640], [0, 900, 360], [0, 0, 1]], size=(640, 360)),
     ('(640, 360)', '640×360', '1280×720', 'at the size that is streamed'))])
def test_intrinsics_of_another_image_are_named(changes, words, caplog):
    camera_from_info('left', info(**changes), np.eye(4))
    doubts = info_doubts('left', info(**changes))
    assert len(doubts) == 1 and caplog.messages == doubts
    for word in ("camera 'left'", *words):
        assert word in doubts[0], f'{word!r} is not in {doubts[0]}'


@pytest.mark.parametrize('changes', [
    {}, dict(binning=2), dict(binning=4, size=(2000, 1500), K=[[1200, 0, 1010], [0, 1200, 740], [0, 0, 1]]),
    dict(roi=(100, 40, 400, 400)), dict(roi=(0, 0, 640, 480)), dict(roi=(0, 0, 320, 480), binning=2)])
def test_sound_intrinsics_raise_no_doubt(changes):
    assert info_doubts('left', info(**changes)) == []


def test_a_size_that_changes_without_k_is_named():
    calibrations = CameraCalibrations(['left'], CameraRig([Camera('left', 640, 480, K, 'none', np.zeros(0), np.eye(4))]),
                                info_used=True, pose_used=False)
    calibrations.take_info('left', info())
    assert calibrations.doubt('left') is None
    calibrations.take_info('left', info(size=(512, 384)))
    assert '640×480 to 512×384' in calibrations.doubt('left') and 'K stayed' in calibrations.doubt('left')
    scaled = np.diag([0.8, 0.8, 1]) @ K
    calibrations.take_info('left', info(K=scaled, size=(512, 384)))
    assert calibrations.doubt('left') is None
    assert resized_doubt('left', info(), info(K=scaled, size=(512, 384))) is None


def test_rectified_topics_live_and_with_a_rig_file():
    calibrations = CameraCalibrations(['left'], CameraRig([Camera('left', 640, 480, K, 'none', np.zeros(0), np.eye(4))]),
                                info_used=True, pose_used=False, image_topics={'left': '/left/image_rect'})
    calibrations.take_info('left', info(P=new_matrix()))
    assert calibrations.camera('left').distortion_model == 'none'
    np.testing.assert_allclose(calibrations.camera('left').K, new_matrix()[:, :3])
    rig = CameraRig([Camera('left', 640, 480, K, 'plumb_bob', D, np.eye(4))])
    with pytest.raises(CalibrationError, match="'left'.*/left/image_rect carries rectified images.*up to [0-9]+ px"):
        CameraCalibrations(['left'], rig, info_used=False, pose_used=False, image_topics={'left': '/left/image_rect'})
    check_rectified(rig, {'left': '/left/image_raw', 'other': '/other/image_rect'})
    nearly = CameraRig([Camera('left', 640, 480, K, 'plumb_bob', 1e-3 * D, np.eye(4))])
    check_rectified(nearly, {'left': '/left/image_rect'})
    assert camera_doubts(rig['left']) == []
    cut = np.array([[640.0, 0, 120], [0, 640, 236], [0, 0, 1]])
    assert 'cut image' in camera_doubts(Camera('left', 640, 480, cut, 'none', np.zeros(0), np.eye(4)))[0]


def test_the_camera_info_that_is_waited_for_is_named():
    calibrations = CameraCalibrations(['left'], None, info_used=True, pose_used=True, info_topics={'left': '/left/info'})
    assert calibrations.awaits_info('left') and '/left/info' in calibrations.reason('left')
    calibrations.take_info('left', info())
    assert not calibrations.awaits_info('left') and 'pose' in calibrations.reason('left')
