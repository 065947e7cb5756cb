"""What the tests of the readers with two hands share: cameras round a hand and a projection of their own."""

from functools import lru_cache

import cv2
import numpy as np
import pytest
from reader_cases import mano_arrays


def looking_at(centre, target, roll=0.0):
    """camera_from_world (4, 4) of an optical frame at `centre` that looks at `target`."""
    z = (np.asarray(target) - centre) / np.linalg.norm(np.asarray(target) - centre)
    x = np.cross(z, (0.0, 0.0, 1.0))
    x /= np.linalg.norm(x)
    turned = np.cos(roll) * x + np.sin(roll) * np.cross(z, x)
    rotation = np.stack([turned, np.cross(z, turned), z])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ centre
    return pose


def ring(count, target, radius=0.8):
    """camera_from_world of `count` cameras round `target`, at different heights and rolls."""
    angles = np.linspace(0.0, 2 * np.pi, count, endpoint=False)
    return [looking_at(target + radius * np.array([np.cos(a), np.sin(a), 0.3 * np.sin(2 * a) + 0.1]), target, 0.2 * a)
            for a in angles]


def pinhole(K, camera_from_world, points):
    """Pixels (N, 2) of points (N, 3), metres: without the package's cameras."""
    local = points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    return (local @ np.asarray(K).T)[:, :2] / local[:, 2:]


def random_joints(rng, centre, spread=0.06):
    return np.asarray(centre) + rng.uniform(-spread, spread, (21, 3))


@lru_cache
def jpeg(width, height, rgb):
    image = np.full((height, width, 3), rgb[::-1], np.uint8)
    return cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


def write_image(path, width, height, rgb=(10, 120, 240)):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(width, height, rgb))


def mano_file(path, side, mirrored_shape=True):
    """A converted MANO, and its arrays.

    mirrored_shape: False gives the left hand the x part of the right hand's shape directions, as MANO_LEFT.pkl has.
    """
    pytest.importorskip('smplx', reason='a MANO hand is posed by the extra `hand`')
    arrays = mano_arrays(side)
    if side == 'left':
        arrays['shapedirs'][:, 0] = mano_arrays('right')['shapedirs'][:, 0] * (-1 if mirrored_shape else 1)
    np.savez(path, side=np.array(side), **arrays)
    return arrays
