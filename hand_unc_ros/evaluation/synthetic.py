"""Run the whole estimator on synthetic scenes it was not trained on; fit the covariance factors there.

`python -m hand_unc_ros.evaluation.synthetic --help`
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings, ring_of_cameras
from hand_unc_ros.estimation.covariance_scale import CovarianceScale, fit_factor
from hand_unc_ros.estimation.estimator import EstimatorSettings, HandEstimator, build_estimator
from hand_unc_ros.estimation.types import FrameSet, HandEstimate, View, joint_blocks
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.joints import FINGERTIPS
from hand_unc_ros.hand.model import load_hand_model

# Scenes of these seeds are for fitting and for testing; training draws from other streams altogether.
FIT_SEEDS = range(50_000, 50_024)
TEST_SEEDS = range(62_000, 62_024)
RATE_HZ = 15.0


@dataclass
class Errors:
    """What one run collected. errors: (N, 21, 3) metres, NaN where invalid.  covariances: (N, 21, 3, 3).
    sets: frame sets shown.  found: those that gave a hand."""

    errors: list[np.ndarray] = field(default_factory=list)
    covariances: list[np.ndarray] = field(default_factory=list)
    sets: int = 0
    found: int = 0

    def valid(self) -> tuple[np.ndarray, np.ndarray]:
        """Errors (M, 3) and covariances (M, 3, 3) of all valid joints."""
        errors, covariances = np.concatenate(self.errors), np.concatenate(self.covariances)
        keep = np.isfinite(errors).all(axis=1)
        return errors[keep], covariances[keep]

    def summary(self) -> dict[str, float]:
        """Unaligned joint error in mm, coverage of the 95 % ellipsoids, NEES per degree of freedom."""
        if not self.found:
            return {'sets': self.sets, 'found': 0}
        errors, covariances = self.valid()
        length = 1e3 * np.linalg.norm(errors, axis=1)
        per_joint = 1e3 * np.linalg.norm(np.stack(self.errors), axis=2)
        distance2 = mahalanobis_squared(errors, covariances)
        return {'sets': self.sets, 'found': self.found, 'mpjpe_mm': float(length.mean()),
                'median_mm': float(np.median(length)),
                'fingertips_mm': float(np.nanmean(per_joint[:, list(FINGERTIPS)])),
                'coverage95': float((distance2 <= chi2_quantile(0.95, 3)).mean()),
                'nees_per_dof': float(distance2.mean() / 3)}


def run_scene(estimator: HandEstimator, scene: Scene, frames: int, cameras: tuple[str, ...] | None = None,
              into: Errors | None = None, skip: int = 0) -> Errors:
    """Show `frames` sets of a scene to the estimator. cameras: those that deliver (default all).
    skip: sets at the start that do not count."""
    into = into if into is not None else Errors()
    cameras = cameras or scene.rig.names
    estimator.reset()
    for index in range(frames):
        t = index / RATE_HZ
        stamp = 1_000_000_000 + int(t * 1e9)
        views = {name: View(scene.rig[name], image, stamp) for name, image in scene.images(t, list(cameras)).items()}
        result = estimator.process(FrameSet(stamp, views, scene.rig.names))
        if index < skip:
            continue
        into.sets += 1
        if isinstance(result, HandEstimate):
            into.found += 1
            truth = scene.truth(t)[0]
            into.errors.append(np.where(result.valid[:, None], result.joints - truth, np.nan))
            into.covariances.append(joint_blocks(result.covariance))
    return into


def run_seeds(estimator: HandEstimator, seeds: range, frames: int, views: int, cameras: int = 4,
              clutter: int = 1) -> Errors:
    """Scenes of many seeds, each with its own rig, hand, motion, light and objects; `views` of its cameras deliver."""
    collected = Errors()
    model = load_hand_model(None)
    for seed in tqdm(seeds, desc=f'{views} views', leave=False):
        scene = Scene(model, ring_of_cameras(cameras, seed=seed), seed, SceneSettings(clutter=clutter))
        run_scene(estimator, scene, frames, scene.rig.names[:views], collected)
    return collected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--weights', default='', help='2D network (default: the shipped one)')
    parser.add_argument('--finder', default='', help='finder network (default: the shipped one)')
    parser.add_argument('--frames', type=int, default=20, help='sets per scene')
    parser.add_argument('--scenes', type=int, default=24)
    parser.add_argument('--views', type=int, nargs='+', default=[2, 3, 4])
    parser.add_argument('--cameras', type=int, default=4, help='cameras of each rig')
    parser.add_argument('--clutter', type=int, default=1, help='objects near the hand')
    parser.add_argument('--triangulation', default='refined')
    parser.add_argument('--fit', type=Path, help='fit the factors on the fitting scenes and write them here')
    parser.add_argument('--calibration', default='', help="factors to apply when testing, or 'none'")
    arguments = parser.parse_args()
    settings = EstimatorSettings(weights=arguments.weights, finder_weights=arguments.finder,
                                 triangulation=arguments.triangulation,
                                 calibration='none' if arguments.fit else arguments.calibration)
    factors = {}
    for views in arguments.views:
        estimator = build_estimator(settings, ())
        seeds = (FIT_SEEDS if arguments.fit else TEST_SEEDS)[:arguments.scenes]
        collected = run_seeds(estimator, seeds, arguments.frames, views, arguments.cameras, arguments.clutter)
        print(json.dumps({'views': views} | {k: round(v, 3) for k, v in collected.summary().items()}))
        if arguments.fit:
            factors[views] = fit_factor(*collected.valid())
    if arguments.fit:
        CovarianceScale(factors).save(arguments.fit, data=f'{arguments.scenes} synthetic scenes (seeds from '
                                      f'{FIT_SEEDS[0]}), {arguments.frames} sets each', probability=0.95)
        print(factors)


if __name__ == '__main__':
    main()
