"""Cost of triangulating one point: the batched solver against a NumPy loop with one SVD per point.

    python benchmarks/triangulation.py [--points 10000] [--views 4] [--runs 7]

One thread for both, processor time, so that a busy machine counts little; the two run in turn and medians
are compared.
The batched DLT must cost at least 20 times less; the exit status is 1 where it does not.  The live case
(21 points: undistortion, DLT and five Gauss-Newton iterations) is timed as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.triangulation import covariance_from_pixels, refine_reprojection, triangulate_dlt

REQUIRED_RATIO = 20.0


def ring(views: int) -> CameraRig:
    """Cameras 0.8 m around the origin, looking at it."""
    cameras = []
    for index in range(views):
        angle = 2 * np.pi * index / views + 0.2
        centre = np.array([0.8 * np.cos(angle), 0.8 * np.sin(angle), 0.4])
        z = -centre / np.linalg.norm(centre)
        x = np.cross(z, (0.0, 0.0, 1.0))
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = np.stack((x, np.cross(z, x), z), 1), centre
        K = np.array([[520.0, 0.0, 320.0], [0.0, 520.0, 240.0], [0.0, 0.0, 1.0]])
        D = np.array([-0.3, 0.1, 0.001, -0.002, 0.0])
        cameras.append(Camera(f'cam{index}', 640, 480, K, 'plumb_bob', D, pose))
    return CameraRig(cameras)


def numpy_loop(xy: np.ndarray, projections: np.ndarray) -> np.ndarray:
    """Textbook DLT, one point at a time.  xy: (V, N, 2).  projections: (V, 3, 4).  Returns (N, 3)."""
    points = np.empty((xy.shape[1], 3))
    for n in range(xy.shape[1]):
        rows = np.empty((2 * len(projections), 4))
        for v, P in enumerate(projections):
            rows[2 * v] = xy[v, n, 0] * P[2] - P[0]
            rows[2 * v + 1] = xy[v, n, 1] * P[2] - P[1]
        homogeneous = np.linalg.svd(rows)[2][-1]
        points[n] = homogeneous[:3] / homogeneous[3]
    return points


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--points', type=int, default=10_000)
    parser.add_argument('--views', type=int, default=4)
    parser.add_argument('--runs', type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rig = ring(options.views)
    projections = rig.camera_from_world.numpy()

    def observe(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        points = 0.06 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
        px = rig.project(points)[0]
        px = px + torch.randn(px.shape, generator=generator, dtype=torch.float64)
        xy, jacobian = rig.normalise_with_jacobian(px)
        return px, xy, covariance_from_pixels(torch.ones_like(px), jacobian)

    _, xy, covariance = observe(options.points)
    xy_numpy = xy.numpy()
    hand_px, _, _ = observe(21)

    def batched() -> torch.Tensor:
        return triangulate_dlt(xy, rig.camera_from_world).points

    def refined() -> torch.Tensor:
        return refine_reprojection(start, xy, covariance, rig.camera_from_world).points

    def live() -> torch.Tensor:
        hand_xy, jacobian = rig.normalise_with_jacobian(hand_px)
        hand_covariance = covariance_from_pixels(torch.ones_like(hand_px), jacobian)
        linear = triangulate_dlt(hand_xy, rig.camera_from_world)
        return refine_reprojection(linear.points, hand_xy, hand_covariance, rig.camera_from_world).points

    with torch.inference_mode():
        start = batched()
        refined(), live()
        difference = np.linalg.norm(start.numpy() - numpy_loop(xy_numpy, projections), axis=1).max()
        times: dict[str, list[float]] = {'loop': [], 'batched': [], 'refined': [], 'live': []}
        for _ in range(options.runs):
            times['loop'].append(seconds(lambda: numpy_loop(xy_numpy, projections)))
            times['batched'].append(seconds(batched))
            times['refined'].append(seconds(refined))
            times['live'] += [seconds(live) for _ in range(20)]
    median = {name: statistics.median(values) for name, values in times.items()}
    per_point = {name: 1e6 * median[name] / options.points for name in ('loop', 'batched', 'refined')}
    ratio = median['loop'] / median['batched']
    print(f'{options.points} points, {options.views} views, median of {options.runs} interleaved runs, '
          'processor time, 1 thread')
    print(f"NumPy loop, one SVD per point   {per_point['loop']:9.3f} µs/point")
    print(f"batched DLT                     {per_point['batched']:9.3f} µs/point   {ratio:.0f} times less")
    print(f"batched refinement, 5 steps     {per_point['refined']:9.3f} µs/point   "
          f"{median['loop'] / median['refined']:.1f} times less than the DLT loop")
    print(f"live: 21 points, undistort + DLT + refinement   {1e3 * median['live']:.2f} ms")
    print(f'largest difference between the two DLT answers  {1e3 * difference:.3f} mm under 1 px of noise')
    if ratio < REQUIRED_RATIO:
        print(f'the batched DLT must cost at least {REQUIRED_RATIO:.0f} times less', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
