"""Run the whole estimator on synthetic scenes it was not trained on; fit the covariance map there.

`python -m hand_unc_ros.evaluation.synthetic --help`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hand_unc_ros.data.shards import open_shards
from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
from hand_unc_ros.estimation.build import build_estimator, files_of
from hand_unc_ros.estimation.covariance_map import KINDS, PROBABILITY, CovarianceMap, fit_factor, fit_map
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.filter import SETTLED
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.evaluation import uncertainty
from hand_unc_ros.evaluation.benchmark import errors_of
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import FINGERTIPS
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.methods import DEFAULT, build_predictor, live_methods
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.predictions import PredictorOptions
from hand_unc_ros.networks.weights import fingerprint

# Scenes of these seeds are for fitting and for testing; training draws from other streams altogether.
FIT_SEEDS = range(50_000, 50_048)
TEST_SEEDS = range(62_000, 62_024)
RATE_HZ = 15.0
# What is farther from the hand than this in the mean, metres, is another thing that two views took for it: no
# covariance describes such an error, and it must not widen that of hands.
NOT_THE_HAND = 0.1


@dataclass(frozen=True)
class SceneSet:
    """Scenes of many seeds, each with its own rig, hand, motion, light and objects. cameras: of each rig.
    clutter: numbers of objects that the scenes have in turn.  size: (width, height) of the images.
    radius: of the ring of cameras, metres.  focal_px: focal length.  hand_model: as `load_hand_model` names it."""

    seeds: range
    cameras: int = 4
    clutter: Sequence[int] = (1,)
    size: tuple[int, int] = (640, 480)
    radius: float = 0.6
    focal_px: float = 560.0
    hand_model: str = STANDIN

    def scenes(self, description: str) -> Iterator[Scene]:
        """One scene for each seed. description: for the progress bar."""
        model = load_hand_model(self.hand_model)
        for place, seed in enumerate(tqdm(self.seeds, desc=description, leave=False)):
            rig = ring_of_cameras(self.cameras, size=self.size, radius=self.radius, focal_px=self.focal_px, seed=seed)
            yield Scene(model, rig, seed, SceneSettings(clutter=self.clutter[place % len(self.clutter)]))


@dataclass
class Errors:
    """The errors of one run. errors: (N, 21, 3) metres, NaN where invalid.  covariances: (N, 63, 63).  views: (N, 21),
    how many gave each joint.  sets: frame sets shown.  found: those that gave a hand."""

    errors: list[np.ndarray] = field(default_factory=list)
    covariances: list[np.ndarray] = field(default_factory=list)
    views: list[np.ndarray] = field(default_factory=list)
    sets: int = 0
    found: int = 0

    def stacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All errors, covariances and numbers of views."""
        return np.stack(self.errors), np.stack(self.covariances), np.stack(self.views)

    def of_hands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Those of the sets in which the hand was found, and not something else."""
        errors, covariances, views = self.stacked()
        near = np.nanmean(np.linalg.norm(errors, axis=2), axis=1) < NOT_THE_HAND
        return errors[near], covariances[near], views[near]

    def summary(self) -> dict[str, object]:
        """Unaligned joint error in mm, and what `uncertainty.summary` says of the covariance."""
        if not self.found:
            return {'sets': self.sets, 'found': 0}
        errors, covariances, _ = self.stacked()
        length = 1e3 * np.linalg.norm(errors, axis=2)
        return {'sets': self.sets, 'found': self.found, 'mpjpe_mm': float(np.nanmean(length)),
                'median_mm': float(np.nanmedian(length)),
                'fingertips_mm': float(np.nanmean(length[:, list(FINGERTIPS)])),
                'not_the_hand': len(errors) - len(self.of_hands()[0]),
                **uncertainty.summary(errors, covariances)}


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
        for hand in result.hands:
            into.found += 1
            truth = scene.truth(t)[0]
            into.errors.append(np.where(hand.valid[:, None], hand.joints - truth, np.nan))
            into.covariances.append(hand.covariance)
            into.views.append(np.isfinite(hand.reprojection_px).sum(axis=0))
    return into


def run_scenes(estimator: HandEstimator, scenes: SceneSet, frames: int, views: int, skip: int = 0) -> Errors:
    """Show `frames` sets of every scene to the estimator; the first `views` cameras of each rig deliver.
    skip: sets at the start of a scene that do not count."""
    collected = Errors()
    for scene in scenes.scenes(f'{views} views'):
        run_scene(estimator, scene, frames, scene.rig.names[:views], collected, skip)
    return collected


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--method', default=DEFAULT, choices=live_methods(), help=f'default {DEFAULT}')
    parser.add_argument('--hand-model', default=STANDIN, metavar='NAME',
                        help=f'{STANDIN}, or {ANNY}, lifelike (default {STANDIN})')
    parser.add_argument('--weights', default='', help='2D network (default: the shipped one)')
    parser.add_argument('--finder', default='', help='finder network (default: the shipped one)')
    parser.add_argument('--frames', type=int, default=20, help='sets per scene')
    parser.add_argument('--scenes', type=int, default=24)
    parser.add_argument('--views', type=int, nargs='+', default=[2, 3, 4])
    parser.add_argument('--cameras', type=int, default=4, help='cameras of each rig')
    parser.add_argument('--size', type=int, nargs=2, default=[640, 480], metavar=('W', 'H'), help='of the images')
    parser.add_argument('--radius', type=float, default=0.6, help='of the ring of cameras, metres')
    parser.add_argument('--focal', type=float, default=560.0, help='focal length, pixels')
    parser.add_argument('--clutter', type=int, nargs='+', default=[1], help='objects near the hand, in turn')
    parser.add_argument('--triangulation', default='refined')
    parser.add_argument('--filter', action='store_true', help='smooth over time')
    parser.add_argument('--covariance-head', default='', help="default: what lies beside the weights; 'none'")
    parser.add_argument('--fit', type=Path, help='fit the covariance map on the fitting scenes and write it here')
    parser.add_argument('--sets', type=Path, nargs='+', default=[],
                        help='folders of `hand-unc synth` to fit to beside the scenes, crops around true hands')
    parser.add_argument('--kind', choices=KINDS, default='scalar', help='of the map (default scalar)')
    parser.add_argument('--covariance-map', default='', help="map to apply when testing, or 'none'")
    arguments = parser.parse_args()
    settings = EstimatorSettings(
        method=arguments.method, weights=arguments.weights, finder_weights=arguments.finder,
        covariance_head=arguments.covariance_head,
        covariance_map='none' if arguments.fit else arguments.covariance_map, triangulation=arguments.triangulation,
        filter=arguments.filter)
    seeds = (FIT_SEEDS if arguments.fit else TEST_SEEDS)[:arguments.scenes]
    collected = {}
    for views in arguments.views:
        collected[views] = run_scenes(build_estimator(settings, ()), _scenes(arguments, seeds, views),
                                      arguments.frames, views)
        print(json.dumps({'views': views} | _rounded(collected[views].summary())), flush=True)
    if arguments.fit:
        fitted = fit(settings, arguments.kind, list(collected.values()), seeds, arguments)
        lost = sum(len(part.errors) - len(part.of_hands()[0]) for part in collected.values())
        scenes = (f'{len(seeds)} synthetic scenes of the hand {arguments.hand_model} (seeds from {FIT_SEEDS[0]}) with '
                  f'{arguments.clutter} objects in turn, {arguments.frames} sets each, views {arguments.views}; '
                  f'left out are {lost} sets in which something else was taken for the hand')
        fitted.save(arguments.fit, data=[scenes, *(open_shards(folder).description for folder in arguments.sets)],
                    probability=PROBABILITY)
        print(fitted)


def fit(settings: EstimatorSettings, kind: str, collected: list[Errors], seeds: range,
        arguments: argparse.Namespace) -> CovarianceMap:
    """The map of what was collected, and, with it applied, the factors for the output of the temporal filter."""
    files = files_of(settings)
    parts = [part.of_hands() for part in collected]
    head = fingerprint(files['covariance_head']) if 'covariance_head' in files else ''
    if arguments.sets:
        predictor = build_predictor(settings.method,
                                    PredictorOptions(files['weights'], files.get('covariance_head')))
        parts += [errors_of(predictor, open_shards(folder), count)
                  for folder in arguments.sets for count in arguments.views]
    errors, covariances, views = (np.concatenate(together) for together in zip(*parts))
    fitted = replace(fit_map(kind, errors, joint_blocks(covariances), views), head=head)
    filtered = {}
    for count in arguments.views:
        method = build_estimator(replace(settings, filter=True), ()).method
        estimator = HandEstimator(method, replace(settings, filter=True), fitted)
        # The filter needs some sets to settle.
        again = run_scenes(estimator, _scenes(arguments, seeds, count), arguments.frames, count, skip=SETTLED)
        errors, covariances, _ = again.of_hands()
        known = np.isfinite(errors).all(axis=2)
        filtered[count] = fit_factor(errors[known], joint_blocks(covariances)[known])
    return replace(fitted, filtered=filtered)


def _scenes(arguments: argparse.Namespace, seeds: range, views: int) -> SceneSet:
    return SceneSet(seeds, max(arguments.cameras, views), arguments.clutter, tuple(arguments.size), arguments.radius,
                    arguments.focal, arguments.hand_model)


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == '__main__':
    main()
