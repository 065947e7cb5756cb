"""A hand with known truth before known cameras, for tests that write a dataset's files and read them back."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from hand_cases import rodrigues, skin
from rig_cases import look_at

from hand_unc_ros.hand.joints import to_public
from hand_unc_ros.hand.model import TIP_VERTICES
from hand_unc_ros.hand.standin import build_standin

# What float32 files leave of a metre-sized number, and of a pixel.
METRES, PIXELS = 2e-6, 2e-3


@dataclass(frozen=True)
class Hand:
    """Truth in one frame, metres: joints (21, 3) public order, vertices (778, 3), and MANO's parameters."""

    joints: np.ndarray
    vertices: np.ndarray
    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray

    def seen_from(self, camera_from_world):
        """The same hand in another frame: MANO's parameters by the rule that MANO turns about the rest wrist."""
        turn, shift = camera_from_world[:3, :3], camera_from_world[:3, 3]
        rest = self.joints[0] - self.translation
        orientation = cv2.Rodrigues(turn @ rodrigues(self.pose[:3]))[0][:, 0]
        return Hand(self.joints @ turn.T + shift, self.vertices @ turn.T + shift,
                    np.concatenate([orientation, self.pose[3:]]), self.shape,
                    turn @ self.joints[0] + shift - rest)


@lru_cache
def mano_arrays(side='right'):
    """The stand-in with principal components and a mean pose, so that leaving either out is seen."""
    rng = np.random.default_rng(5)
    arrays = {key: np.array(value, dtype=np.float64) for key, value in build_standin(side).items()}
    arrays['hands_components'] = np.linalg.qr(rng.normal(size=(45, 45)))[0]
    arrays['hands_mean'] = rng.normal(0, 0.1, 45)
    return arrays


def write_mano(path, side='right'):
    """A hand model as `hand-unc mano convert` writes it."""
    arrays = mano_arrays(side)
    floats = {key: value.astype(np.int64 if key in ('f', 'kintree_table') else np.float32)
              for key, value in arrays.items()}
    np.savez(path, **floats, side=np.array(side))
    return path


@lru_cache
def hand(seed, side='right'):
    """A bent hand near the origin; joints and vertices by the tests' own skinning."""
    rng = np.random.default_rng(seed)
    pose, shape, translation = rng.normal(0, 0.25, 48), rng.normal(0, 0.5, 10), rng.normal(0, 0.03, 3)
    vertices, joints = skin(mano_arrays(side), pose, shape, translation)
    joints = np.concatenate([joints, vertices[list(TIP_VERTICES['smplx'])]])
    return Hand(to_public(joints, 'smplx'), vertices, pose, shape, translation)


def ring_poses(count, radius=0.9):
    """World-from-camera (4, 4) of cameras all around the origin, at different heights."""
    angles = np.arange(count) * 2 * np.pi / count + 0.3
    return [look_at((radius * np.cos(a), radius * np.sin(a), 0.3 + 0.1 * (i % 3))) for i, a in enumerate(angles)]


def intrinsics(number, size=(640, 480)):
    """(3, 3), another one for each camera."""
    return np.array([[610.0 + 3 * number, 0, size[0] / 2 + number], [0, 612.0 + 2 * number, size[1] / 2 - number],
                     [0, 0, 1]])


def projected(K, joints):
    """Pinhole projection (21, 2) of joints (21, 3) in the optical frame."""
    return (joints[:, :2] / joints[:, 2:]) @ np.diag(np.diag(K)[:2]) + K[:2, 2]


def write_image(path, size=(640, 480), red=200):
    """A whole image of one reddish colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), (30, 60, red), np.uint8))


def check_sample(sample, truth, pixels=PIXELS, metres=METRES):
    """Truth agrees with the sample; its 2D joints are where its 3D joints project; images are RGB."""
    np.testing.assert_allclose(sample.joints, truth.joints, atol=metres)
    for view in sample.views:
        np.testing.assert_allclose(view.camera.project(sample.joints)[0], view.joints_px, atol=pixels)
        assert view.visible.all()
        image = view.read()
        assert image.shape == (view.camera.height, view.camera.width, 3)
        assert np.abs(image[0, 0].astype(int) - (200, 60, 30)).max() <= 4


def check_mano(mano, truth, side='right', atol=2e-5):
    """The parameters pose the tests' own skinning to the truth's joints and vertices."""
    vertices, joints = skin(mano_arrays(side), mano.pose, mano.shape, mano.translation)
    np.testing.assert_allclose(vertices, truth.vertices, atol=atol)
    np.testing.assert_allclose(joints[0], truth.joints[0], atol=atol)
