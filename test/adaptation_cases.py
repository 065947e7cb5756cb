"""Recordings and estimators for the tests of adaptation: the images only have to be images, the method knows the
hand."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from recording_cases import calibration_messages, image_messages, write_bag
from rig_cases import ring
from view_cases import TruthMethod, hand

from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.geometry.cameras import Camera, CameraRig

torch.set_num_threads(1)

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)


def small(rig: CameraRig, by: int = 5) -> CameraRig:
    """The rig with images that are smaller by a factor, which are decoded faster."""
    scale = np.diag([1 / by, 1 / by, 1.0])
    return CameraRig([Camera(camera.name, camera.width // by, camera.height // by, scale @ camera.K,
                             camera.distortion_model, camera.D, camera.world_from_camera) for camera in rig])


def still(seconds: float) -> np.ndarray:
    return hand()


def turning(seconds: float) -> np.ndarray:
    """A hand that turns and moves slowly."""
    return hand(turn=(0.5 + 0.2 * np.sin(seconds), -0.3, 0.8), place=(0.02 * np.sin(0.7 * seconds), 0.0, 0.0))


def filmed(path, count, rig=RIG, image=None):
    """A bag of `count` sets of images, 15 a second, with rig.yaml beside it."""
    return write_bag(path, [*calibration_messages(rig), *image_messages(rig, count, image)], rig)


def flashes(lag_sets, rig=RIG, seed=0):
    """image(set, camera) of things that move at random times, which camera 1 shows `lag_sets` later."""
    rng = np.random.default_rng(seed)
    places = np.cumsum(rng.normal(0, 1, (2000, 2)) * (rng.random((2000, 1)) < 0.25) * 12, axis=0)

    def image(index, camera):
        shape = (rig[camera].height, rig[camera].width, 3)
        x, y = places[index + 100 - (lag_sets if camera == 'cam1' else 0)] + 40
        made = np.full(shape, 60, np.uint8)
        return cv2.circle(made, (int(x) % shape[1], int(y) % shape[0]), shape[0] // 6, (230, 200, 180), -1)

    return image


def estimators(method=TruthMethod, motion=still, **arguments):
    """A function as estimation.build.build_estimator, of a method that knows the hand."""
    def build(settings, cameras):
        return HandEstimator(method(motion, **arguments), settings)

    return build
