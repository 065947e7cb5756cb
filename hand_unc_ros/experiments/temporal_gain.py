"""What refinement over time is worth live: `python -m hand_unc_ros.experiments.temporal_gain --help`.

Every set of images of lifelike synthetic scenes is rendered once and shown to several estimators: the landmarks frame by
frame, and UST-Hand, both also smoothed by the constant-velocity filter. Some sets never come. Scenes are of seeds that no
training and no covariance map has seen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.files import write_file
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.contract import View

SEEDS = range(64_000, 64_100)
# Sets before the filter has settled and the window is full.
SKIP = 6
# Shifts in time, in frames, among which the lag is looked for.
SHIFTS = np.linspace(-2, 2, 41)


@dataclass
class Followed:
    """What one estimator said of a scene. numbers: of the sets.  joints (N, 21, 3), covariances (N, 63, 63).
    process_ms: of each set."""

    numbers: list[int] = field(default_factory=list)
    joints: list[np.ndarray] = field(default_factory=list)
    covariances: list[np.ndarray] = field(default_factory=list)
    process_ms: list[float] = field(default_factory=list)


def follow(scene: Scene, estimators: dict[str, HandEstimator], rate_hz: float, sets: int, drops: float,
           seed: int) -> dict[str, Followed]:
    """What each estimator makes of `sets` sets of the scene, of which a share `drops` never comes."""
    rng = np.random.default_rng((seed, 7070))
    said = {name: Followed() for name in estimators}
    for estimator in estimators.values():
        estimator.reset()
    for number in range(sets):
        if number > 2 and rng.random() < drops:
            continue
        stamp = 1_000_000_000 + round(1e9 * number / rate_hz)
        views = {name: View(scene.rig[name], image, stamp) for name, image in scene.images(number / rate_hz).items()}
        for name, estimator in estimators.items():
            begin = time.process_time()
            result = estimator.process(FrameSet(stamp, views, scene.rig.names))
            said[name].process_ms.append(1e3 * (time.process_time() - begin))
            for hand in result.hands:
                said[name].numbers.append(number)
                said[name].joints.append(hand.joints)
                said[name].covariances.append(hand.covariance)
    return said


def judge(followed: list[tuple[Followed, Callable[[float], np.ndarray]]], rate_hz: float) -> dict[str, float]:
    """Numbers of one estimator over scenes, each with its truth by time.

    mpjpe_mm and coverage95 are over all published joints; acceleration_mps2: mean error of the second difference over
    three consecutive sets; lag_frames: by how much the truth must be delayed to fit best."""
    errors, inside, accelerations = [], [], []
    shifted = np.zeros((len(SHIFTS), 0))
    for said, truth in followed:
        kept = [row for row, number in enumerate(said.numbers) if number >= SKIP]
        error_of = {}
        for row in kept:
            number, joints = said.numbers[row], said.joints[row]
            error_of[number] = joints - truth(number / rate_hz)
            distance2 = mahalanobis_squared(error_of[number], joint_blocks(said.covariances[row]))
            errors.append(np.linalg.norm(error_of[number], axis=1))
            inside.append(np.where(np.isfinite(distance2), distance2 <= chi2_quantile(0.95, 3), np.nan))
            apart = [np.nanmean(np.linalg.norm(joints - truth((number - shift) / rate_hz), axis=1)) for shift in SHIFTS]
            shifted = np.column_stack([shifted, apart])
        accelerations += [np.linalg.norm(error_of[n - 1] - 2 * error_of[n] + error_of[n + 1], axis=1) * rate_hz ** 2
                          for n in error_of if n - 1 in error_of and n + 1 in error_of]
    return {'sets': len(errors), 'mpjpe_mm': 1e3 * float(np.nanmean(errors)),
            'median_mm': 1e3 * float(np.nanmedian(errors)), 'coverage95': float(np.nanmean(inside)),
            'acceleration_mps2': float(np.nanmean(accelerations)),
            'lag_frames': float(SHIFTS[np.median(shifted, axis=1).argmin()]),
            'process_ms': float(np.median([ms for said, _ in followed for ms in said.process_ms]))}


def scenes(count: int, cameras: int) -> Iterator[tuple[int, Scene]]:
    """Lifelike scenes with one object each, and their seeds."""
    model = load_hand_model(ANNY)
    for seed in tqdm(SEEDS[:count], desc='scenes', disable=None):
        yield seed, Scene(model, ring_of_cameras(cameras, seed=seed), seed, SceneSettings(clutter=1))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', default='', help="UST-Hand's (default: the shipped ones)")
    parser.add_argument('--scenes', type=int, default=8)
    parser.add_argument('--sets', type=int, default=36, help='of each scene')
    parser.add_argument('--cameras', type=int, default=4)
    parser.add_argument('--rate', type=float, default=15.0, help='Hz')
    parser.add_argument('--drops', type=float, default=0.1, help='share of the sets that never come')
    parser.add_argument('--covariance-maps', nargs=2, default=('', ''), metavar=('LANDMARKS', 'UST_HAND'),
                        help="files, or 'none' (default: those that were fitted to recordings of real hands)")
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    of_landmarks, of_ust_hand = args.covariance_maps
    methods = {'landmarks': EstimatorSettings(method='landmarks', covariance_map=of_landmarks),
               'ust_hand': EstimatorSettings(method='ust_hand', covariance_map=of_ust_hand, weights=args.weights)}
    settings = {name + told: replace(chosen, filter=bool(told)) for name, chosen in methods.items()
                for told in ('', ', filter')}
    estimators = {name: build_estimator(chosen, tuple(f'cam{i}' for i in range(args.cameras)))
                  for name, chosen in settings.items()}
    followed: dict[str, list] = {name: [] for name in settings}
    for seed, scene in scenes(args.scenes, args.cameras):
        for name, said in follow(scene, estimators, args.rate, args.sets, args.drops, seed).items():
            followed[name].append((said, lambda t, scene=scene: scene.truth(t)[0]))
    numbers = {name: judge(parts, args.rate) for name, parts in followed.items()}
    for name, row in numbers.items():
        print(f'{name:20s}', '  '.join(f'{key} {value:.3g}' for key, value in row.items()))
    if args.json is not None:
        write_file(args.json, json.dumps(vars(args) | {'json': None, 'numbers': numbers}, indent=1) + '\n')


if __name__ == '__main__':
    main()
