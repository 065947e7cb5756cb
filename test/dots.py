"""A hand of 21 coloured dots, and an estimator that reads their 2D places off the images by colour."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from hand_unc_ros.estimation.innovations import innovations
from hand_unc_ros.estimation.types import FrameResult, FrameSet, HandEstimate, HandReadings
from hand_unc_ros.estimation.view_health import Observation, ViewHealth
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.triangulation import propagate_covariance, triangulate_dlt
from hand_unc_ros.hand.fitting import HandFitter
from hand_unc_ros.methods.contract import ViewReading
from hand_unc_ros.methods.view_gaussians import ViewGaussians

WIDTH, HEIGHT, FOCAL = 320, 240, 300.0
SIGMA_PX = 1.0
_RADIUS = 2  # of a dot, in pixels


def dot_rig(cameras: int = 4) -> CameraRig:
    """Cameras on an arc of radius 0.6 m that look at the origin."""
    made = []
    for i in range(cameras):
        angle = np.deg2rad(150) * (i / max(cameras - 1, 1) - 0.5)
        centre = 0.6 * np.array([np.sin(angle), -0.3, -np.cos(angle)])
        z = -centre / np.linalg.norm(centre)
        x = np.cross([0.0, 1.0, 0.0], z)
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
        pose[:3, 3] = centre
        K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
        made.append(Camera(f'cam{i}', WIDTH, HEIGHT, K, 'none', np.zeros(0), pose))
    return CameraRig(made)


@lru_cache(maxsize=None)
def dot_points() -> np.ndarray:
    """(21, 3) metres: the first seed for which no dot hides another in any of eight cameras."""
    rig = dot_rig(8)
    for seed in range(1000):
        points = np.random.default_rng(seed).uniform(-0.12, 0.12, (21, 3))
        px = rig.project(torch.from_numpy(points))[0].numpy()
        distance = np.linalg.norm(px[:, :, None] - px[:, None], axis=-1) + 1e3 * np.eye(21)
        if distance.min() > 2 * _RADIUS + 1.5 and px.min() > 5 and (px < [WIDTH - 5, HEIGHT - 5]).all():
            return points
    raise AssertionError('no seed gives dots that are apart in every camera')


def colour(joint: int) -> tuple[int, int, int]:
    return 10 + 11 * joint, 255, 255 - 11 * joint


def draw(camera: Camera, points: np.ndarray | None = None) -> np.ndarray:
    """(H, W, 3) RGB with dots at the projections of points (21, 3), `dot_points` by default, rounded to whole pixels."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    points = dot_points() if points is None else points
    for joint, (u, v) in enumerate(np.rint(camera.project(points)[0]).astype(int)):
        image[v - _RADIUS:v + _RADIUS + 1, u - _RADIUS:u + _RADIUS + 1] = colour(joint)
    return image


def find_dots(image: np.ndarray) -> np.ndarray:
    """(21, 2) centres of the dots in pixels, NaN where a dot is missing."""
    rows, columns = np.nonzero(image[..., 1] == 255)
    joints = (image[rows, columns, 0].astype(int) - 10) // 11
    with np.errstate(invalid='ignore'):
        counts = np.bincount(joints, minlength=21)
        return np.stack([np.bincount(joints, values, 21) / counts for values in (columns, rows)], axis=-1)


class DotEstimator:
    """Stands in for the estimator: exact 2D joints with a variance of 1 px², triangulated."""

    def __init__(self, min_views: int = 2) -> None:
        self._min_views = min_views
        self.surfaces: dict[str, HandFitter] = {}
        self.health: ViewHealth | None = None
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        pass

    def process(self, frame_set: FrameSet) -> FrameResult:
        views = list(frame_set.views.values())
        rig = CameraRig([view.camera for view in views])
        px = torch.from_numpy(np.stack([find_dots(view.image) for view in views]))
        valid = torch.isfinite(px).all(-1)
        xy = rig.normalise(px)
        fit = triangulate_dlt(xy, rig.camera_from_world, valid=valid)
        if not fit.valid.all():
            return FrameResult(frame_set.stamp_ns, reasons=('the dots are not seen',))
        variance = torch.eye(2, dtype=torch.float64).expand(*xy.shape[:2], 2, 2) * (SIGMA_PX / FOCAL) ** 2
        blocks = propagate_covariance(fit.points, variance, rig.camera_from_world, valid).numpy()
        covariance = np.zeros((63, 63))
        for joint in range(21):
            covariance[3 * joint:3 * joint + 3, 3 * joint:3 * joint + 3] = blocks[joint]
        names = frame_set.expected
        used = np.array([name in frame_set.views for name in names])
        residuals = np.full((len(names), 21), np.nan)
        residuals[used] = (rig.project(fit.points)[0] - px).norm(dim=-1).numpy()
        rows = len(views)
        seen = ViewGaussians(tuple(view.camera.name for view in views), px.numpy(),
                             np.full((rows, 21, 2), SIGMA_PX ** 2), valid.numpy(), np.ones(rows),
                             np.full((rows, 4), np.nan))
        if self.health is None:
            self.health = ViewHealth(names)
        self.health.update(frame_set.stamp_ns, [
            Observation(seen, innovations(seen, rig, fit.points.numpy()), np.ones(rows, bool))])
        weights = np.outer(used / used.sum(), np.ones(21))
        hand = HandEstimate(frame_set.stamp_ns, 'right', 1.0, fit.points.numpy(), covariance,
                            np.ones(21, bool), names, used, weights, residuals, track_id=1)
        readings = {view.camera.name: ViewReading(
            view.camera.name, view.stamp_ns, px[row].numpy(), seen.variance_px2[row], seen.valid[row], 1.0, 'right',
            seen.boxes_px[row]) for row, view in enumerate(views)}
        return FrameResult(frame_set.stamp_ns, (hand,), (HandReadings(1, 'right', readings, readings),),
                           view_reports=self.health.reports())
