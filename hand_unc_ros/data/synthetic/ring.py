"""Calibrated cameras around a place."""

from __future__ import annotations

import numpy as np

from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.vectors import cross


def ring_of_cameras(count: int, *, size: tuple[int, int] = (640, 480), radius: float = 0.6,
                    focal_px: float = 560.0, seed: int = 0,
                    distortion: tuple[float, ...] = (-0.05, 0.02, 0.0005, -0.0005, 0.0)) -> CameraRig:
    """`count` calibrated cameras around the origin, 15°–60° above its horizon, all looking near it.

    size: (width, height) pixels.  radius: distance in metres.  z is up in the world.
    """
    rng = np.random.default_rng((seed, 7001))
    cameras = []
    for i in range(count):
        azimuth = 2 * np.pi * (i + rng.uniform(-0.2, 0.2)) / count
        elevation = np.radians(rng.uniform(15, 60))
        direction = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation),
                              np.sin(elevation)])
        centre = direction * radius * rng.uniform(0.9, 1.15)
        pose = look_at(centre, rng.uniform(-0.02, 0.02, 3))
        focal = focal_px * rng.uniform(0.97, 1.03)
        K = np.array([[focal, 0, (size[0] - 1) / 2 + rng.uniform(-8, 8)],
                      [0, focal * rng.uniform(0.998, 1.002), (size[1] - 1) / 2 + rng.uniform(-8, 8)],
                      [0, 0, 1]])
        D = np.array(distortion) * rng.uniform(0.5, 1.5, len(distortion))
        cameras.append(Camera(f'cam{i}', size[0], size[1], K, 'plumb_bob', D, pose))
    return CameraRig(cameras)


def look_at(centre: np.ndarray, target: np.ndarray) -> np.ndarray:
    """world_from_camera (4, 4) of an optical frame at `centre` that looks at `target`, z of the world up."""
    forward = target - centre
    forward = forward / np.linalg.norm(forward)
    right = cross(forward, np.array([0.0, 0.0, 1.0]))
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, cross(forward, right), forward], axis=1)
    pose[:3, 3] = centre
    return pose
