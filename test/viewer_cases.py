"""Hands and cameras for the tests of the view."""

import numpy as np

from hand_unc_ros.estimation.types import HandEstimate
from hand_unc_ros.geometry.cameras import Camera

# Square root of the 95 % quantile of χ² with three degrees of freedom (tables: 7.8147).
RADIUS_95 = 2.7955


def look_at(position, target):
    """world_from_camera (4, 4) with the world's z up in the image."""
    forward = np.asarray(target, float) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose


def make_camera(name, position=(0.6, 0.0, 0.4), target=(0.0, 0.0, 0.2)):
    K = np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]])
    return Camera(name, 640, 480, K, 'none', np.zeros(0), look_at(np.array(position), target))


def make_hand(*, shift=0.0, sigma_m=0.003, valid=None, views=('a', 'b')):
    rng = np.random.default_rng(1)
    joints = rng.normal(scale=0.05, size=(21, 3)) + [shift, 0.0, 0.2]
    valid = np.ones(21, bool) if valid is None else valid
    covariance = np.diag(np.tile(np.array([2.0, 1.0, 0.5]) ** 2 * sigma_m**2, 21))
    rows = np.repeat(valid, 3)
    covariance[~(rows[:, None] & rows)] = np.nan
    return HandEstimate(
        stamp_ns=1, handedness='right', score=0.9, joints=np.where(valid[:, None], joints, np.nan),
        covariance=covariance, valid=valid, cameras=tuple(views), view_used=np.ones(len(views), bool),
        view_weights=np.full((len(views), 21), 1.0 / len(views)), reprojection_px=np.zeros((len(views), 21)),
        covariance_calibrated=True,
    )


def matrix_from(wxyz):
    w, x, y, z = np.moveaxis(np.asarray(wxyz, float), -1, 0)
    return np.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ], axis=-1).reshape(np.shape(wxyz)[:-1] + (3, 3))


def node(viewer, name):
    """Handle of a scene node; viser keeps them by name."""
    return viewer._server.scene._handle_from_node_name[name]
