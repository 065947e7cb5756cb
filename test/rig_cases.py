"""Camera rigs, and what they see, that several tests share."""

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.triangulation import covariance_from_pixels

# Small tensors: threads that wait for each other cost more than they compute.
torch.set_num_threads(1)

# One realistic lens of each model.
LENSES = {
    'none': (),
    'plumb_bob': (-0.31, 0.12, 0.0011, -0.0023, -0.02),
    'rational_polynomial': (0.52, -0.31, 0.0004, -0.0007, 0.02, 0.84, -0.28, -0.03),
    'equidistant': (-0.012, 0.021, -0.011, 0.0024),
}


def look_at(centre, target=(0.0, 0.0, 0.0)):
    """world_from_camera (4, 4) of a camera at `centre` that looks at `target`, world z up."""
    centre, target = np.asarray(centre, float), np.asarray(target, float)
    z = (target - centre) / np.linalg.norm(target - centre)
    x = np.cross(z, (0.0, 0.0, 1.0))
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack((x, np.cross(z, x), z), 1)
    pose[:3, 3] = centre
    return pose


def camera(name, centre, model='plumb_bob', focal=520.0, target=(0.0, 0.0, 0.0)):
    K = [[focal, 0.0, 322.0], [0.0, 1.02 * focal, 238.0], [0.0, 0.0, 1.0]]
    return Camera(name, 640, 480, K, model, LENSES[model], look_at(centre, target))


def ring(angles_deg, radius=0.8, height=0.4, models=('plumb_bob',)):
    """Cameras on a ring around the origin, looking at it; lens models in turn."""
    angles = np.radians(angles_deg)
    return CameraRig([
        camera(f'cam{i}', (radius * np.cos(a), radius * np.sin(a), height), models[i % len(models)])
        for i, a in enumerate(angles)
    ])


def mixed_rig():
    """Four cameras around the origin, each with another lens model."""
    return ring((10, 75, 170, 260), models=tuple(LENSES))


FLIP = np.diag([-1.0, 1.0, 1.0])


def mirrored_camera(camera):
    """What a camera becomes in the world mirrored at x = 0: its image is the mirrored image."""
    pose = np.eye(4)
    pose[:3, :3] = FLIP @ camera.world_from_camera[:3, :3] @ FLIP
    pose[:3, 3] = FLIP @ camera.centre
    K, D = np.array(camera.K), np.array(camera.D)
    K[0, 2] = camera.width - 1 - K[0, 2]
    if camera.distortion_model in ('plumb_bob', 'rational_polynomial'):
        D[3] = -D[3]
    return Camera(camera.name, camera.width, camera.height, K, camera.distortion_model, D, pose)


def hand_points(count=21, seed=0, spread=0.06):
    return torch.from_numpy(np.random.default_rng(seed).normal(0.0, spread, (count, 3)))


def observe(rig, points, variance_px2=1.0, noise=0.0, seed=0):
    """Noisy pixels of points (N, 3): xy (V, N, 2), covariance (V, N, 2, 2), both normalised.

    variance_px2: what the covariance claims, broadcasting to (V, N, 2); noise: its square root's factor
    that is really added.
    """
    px, _ = rig.project(points)
    variance = torch.as_tensor(variance_px2, dtype=torch.float64).expand(px.shape)
    generator = torch.Generator().manual_seed(seed)
    px = px + noise * variance.sqrt() * torch.randn(px.shape, generator=generator, dtype=torch.float64)
    xy, jacobian = rig.normalise_with_jacobian(px)
    return xy, covariance_from_pixels(variance, jacobian)
