"""How honest the covariance of fused joints stays when single joints of single views are far off.

    python benchmarks/outliers.py [--sets 120] [--seed 1000] [--grid choice|report]

Hands of 21 joints in front of rings of cameras; the 2D joints carry the Gaussian noise that their variances claim.
A share of them is a gross outlier: uniform in the crop, with the variance of all others claimed.  For every case two
rows compare the propagated covariance and the published one: NEES per degree of freedom (1 where the covariance is
honest), the share of joints inside their 95 % ellipsoid, and the median σ.

'choice' is the rig and the seeds on which the constants of geometry/residual_covariance.py were chosen, 'report' has
other distances, numbers of views, noise, and errors that the claimed variances know nothing of: shared by the joints
of a view, or heavy-tailed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.crops import box_around, image_from_crop, transform
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.methods.view_gaussians import ViewGaussians

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


class Case(NamedTuple):
    """views on a ring of `radius` metres; σ of the noise in px; share of gross outliers; noise in claimed σ."""

    name: str
    views: int = 4
    radius: float = 0.8
    sigma_px: float = 2.0
    outliers: float = 0.0
    noise: str = 'gaussian'


def gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def correlated(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Half of the variance is shared by all joints of a view."""
    return np.sqrt(0.5) * (rng.standard_normal(shape) + rng.standard_normal((shape[0], 1, 2)))


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student-t with 3 degrees of freedom, scaled to the claimed median."""
    scale = np.sqrt(rng.chisquare(3, (*shape[:2], 1)) / 3)
    return rng.standard_normal(shape) / scale


def ambiguous(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A fifth of the joints is three times as uncertain in all views as claimed."""
    return rng.standard_normal(shape) * np.where(rng.random((1, shape[1], 1)) < 0.2, 3.0, 1.0)


NOISES: dict[str, Noise] = {'gaussian': gaussian, 'correlated': correlated, 'heavy': heavy, 'ambiguous': ambiguous}

CHOICE = tuple(Case(f'{views} views, {100 * share:.0f} %', views, outliers=share)
               for share in (0.0, 0.03) for views in (2, 3, 4, 8))
REPORT = (
    *(Case(f'{views} views, σ {sigma:.0f} px, {100 * share:.0f} %', views, 1.1, sigma, share)
      for share in (0.0, 0.03) for views in (2, 3, 4, 8) for sigma in (1.0, 3.0, 6.0)),
    *(Case(f'4 views at {radius} m, 3 %', 4, radius, 2.0, 0.03) for radius in (0.4, 0.6, 2.0)),
    *(Case(f'4 views, {100 * share:.0f} %', 4, 1.1, 2.0, share) for share in (0.01, 0.1, 0.2)),
    *(Case(f'{views} views, {noise}, {100 * share:.0f} %', views, 1.1, 2.0, share, noise)
      for noise in ('correlated', 'heavy', 'ambiguous') for views in (2, 4, 8) for share in (0.0, 0.03)),
)


def ring(views: int, radius: float, rng: np.random.Generator) -> CameraRig:
    """Cameras around the origin, not evenly, looking at it."""
    cameras = []
    for index in range(views):
        angle = 2 * np.pi * (index + rng.uniform(-0.3, 0.3)) / max(views, 3)
        centre = radius * np.array([np.cos(angle), np.sin(angle), rng.uniform(0.2, 0.8)])
        z = -centre / np.linalg.norm(centre)
        x = np.cross(z, (0.0, 0.0, 1.0))
        x /= np.linalg.norm(x)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = np.stack((x, np.cross(z, x), z), 1), centre
        K = np.array([[520.0, 0.0, 320.0], [0.0, 520.0, 240.0], [0.0, 0.0, 1.0]])
        cameras.append(Camera(f'cam{index}', 640, 480, K, 'none', np.zeros(0), pose))
    return CameraRig(cameras)


def hands(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Joints (21, 3) of the stand-in at rest, turned at random near the origin."""
    rest = load_hand_model().rest_joints()
    rest = rest - rest.mean(0)
    return [rest @ Rotation.random(random_state=int(rng.integers(2 ** 31))).as_matrix().T + rng.uniform(-0.05, 0.05, 3)
            for _ in range(count)]


def observed(joints: np.ndarray, rig: CameraRig, case: Case, rng: np.random.Generator) -> ViewGaussians:
    px = rig.project(torch.from_numpy(joints))[0].numpy()
    boxes = box_around(px)
    variance = np.full(px.shape, case.sigma_px ** 2)
    px = px + case.sigma_px * NOISES[case.noise](rng, px.shape)
    wrong = rng.random(px.shape[:2]) < case.outliers
    for view, box in enumerate(boxes):
        px[view, wrong[view]] = transform(image_from_crop(box, 256), rng.uniform(0, 255, (21, 2)))[wrong[view]]
    views = len(rig.names)
    return ViewGaussians(rig.names, px, variance, np.ones((views, 21), bool), np.ones(views), boxes)


class Honesty(NamedTuple):
    """NEES per degree of freedom, share inside the 95 % ellipsoid, median σ in metres."""

    nees: float
    inside: float
    sigma: float


def honesty(errors: np.ndarray, covariances: np.ndarray) -> Honesty:
    distance2 = mahalanobis_squared(errors, covariances)
    sigma = np.sqrt(np.trace(covariances, axis1=-2, axis2=-1) / 3)
    return Honesty(float(np.nanmean(distance2) / 3), float(np.nanmean(distance2 < chi2_quantile(0.95, 3))),
                   float(np.nanmedian(sigma)))


def measure(case: Case, sets: int, seed: int) -> tuple[Honesty, Honesty]:
    """Of the propagated covariance and of the published one."""
    rng = np.random.default_rng(seed)
    errors, propagated, published = [], [], []
    for joints in hands(sets, rng):
        rig = ring(case.views, case.radius, rng)
        fused = fuse(observed(joints, rig, case, rng), rig)
        errors.append(fused.joints - joints)
        propagated.append(fused.propagated)
        published.append(fused.covariance)
    stacked = np.concatenate(errors)
    return honesty(stacked, np.concatenate(propagated)), honesty(stacked, np.concatenate(published))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--sets', type=int, default=120)
    parser.add_argument('--seed', type=int, default=1000)
    parser.add_argument('--grid', choices=('choice', 'report'), default='report')
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f'{"":36s} NEES/dof          inside 95 %       median σ, mm')
    print(f'{"":36s} propag.   publ.   propag.   publ.   propag.   publ.')
    with torch.inference_mode():
        for case in CHOICE if options.grid == 'choice' else REPORT:
            before, after = measure(case, options.sets, options.seed)
            print(f'{case.name:36s} {before.nees:7.2f} {after.nees:7.2f}   {100 * before.inside:7.1f} '
                  f'{100 * after.inside:7.1f}   {1e3 * before.sigma:7.2f} {1e3 * after.sigma:7.2f}', flush=True)


if __name__ == '__main__':
    main()
