"""Recordings with rectified images: P and R of their CameraInfo, or a refusal that names the topic."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from recording_cases import calibration_messages, image_messages, write_bag
from rig_cases import ring

from hand_unc_ros.data.bags.reader import TF_TYPE, open_bag
from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.evaluation.recordings.replay import BagSettings, find_calibration, find_images

RIG = ring((10, 100, 190), radius=0.6, height=0.35)
TURN = cv2.Rodrigues(np.array([0.01, 0.03, -0.02]))[0]


def messages(name, with_p=True):
    """Images on …/`name`, beside the CameraInfo of the raw images."""
    calibration = calibration_messages(RIG)
    for _, kind, _, message in calibration:
        if kind != TF_TYPE:
            K = np.array(message.k).reshape(3, 3)
            inner = cv2.getOptimalNewCameraMatrix(K, np.array(message.d), (message.width, message.height), 0)[0]
            message.p = np.column_stack((inner, np.zeros(3))).ravel() if with_p else np.zeros(12)
            message.r = TURN.ravel()
    return [*calibration, *((topic.replace('image_raw', name), *rest) for topic, *rest in image_messages(RIG, 2))]


@pytest.mark.parametrize('name', ['image_rect', 'image_rect_color'])
def test_rectified_images_are_fused_by_p_and_r(tmp_path, name):
    with open_bag(write_bag(tmp_path / 'bag', messages(name))) as bag:
        calibrated = find_calibration(bag, BagSettings())
        assert find_images(bag, calibrated, BagSettings())['cam0'] == f'/cam0/{name}/compressed'
    points = np.random.default_rng(0).normal(0.0, 0.05, (20, 3))
    for camera, raw in zip(calibrated.rig, RIG):
        inner = cv2.getOptimalNewCameraMatrix(raw.K, raw.D, (raw.width, raw.height), 0)[0]
        want = cv2.undistortPoints(raw.project(points)[0][:, None], raw.K, raw.D, R=TURN, P=inner)[:, 0]
        np.testing.assert_allclose(camera.project(points)[0], want, atol=2e-2)
        assert camera.distortion_model == 'none'


def test_raw_images_are_still_fused_by_k_and_d(tmp_path):
    with open_bag(write_bag(tmp_path / 'bag', messages('image_raw'))) as bag:
        rig = find_calibration(bag, BagSettings()).rig
    np.testing.assert_allclose(rig['cam1'].D, RIG['cam1'].D)
    np.testing.assert_allclose(rig['cam1'].K, RIG['cam1'].K)


def test_what_does_not_describe_rectified_images_is_refused(tmp_path):
    with open_bag(write_bag(tmp_path / 'bag', messages('image_rect', with_p=False))) as bag:
        with pytest.raises(CalibrationError, match="'cam0'.*P of its CameraInfo is 0"):
            find_calibration(bag, BagSettings())
    with open_bag(write_bag(tmp_path / 'other', messages('image_rect'), RIG)) as bag:
        calibrated = find_calibration(bag, BagSettings())
        with pytest.raises(CalibrationError, match="'cam0'.*/cam0/image_rect/compressed carries rectified images"):
            find_images(bag, calibrated, BagSettings())
