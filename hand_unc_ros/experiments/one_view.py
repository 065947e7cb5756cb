"""Cameras that fall out until one is left, and come back: `python -m hand_unc_ros.experiments.one_view --help`.

The estimator with AMVUR follows the hand of lifelike synthetic scenes by all cameras, by one, and by all again. Scenes are
of seeds that no training and no covariance map has seen.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic.scene import Scene
from hand_unc_ros.errors import MissingDependencyError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.evaluation.plots import COLOURS
from hand_unc_ros.experiments.temporal_gain import SEEDS, scenes
from hand_unc_ros.files import write_file
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.contract import View

RATE_HZ = 15.0
# The first sets, in which several views teach the lengths of the bones.
BEFORE = 12


class Moment(NamedTuple):
    """A published hand. alone: by one camera.  error: (21, 3) metres and covariance: (63, 63) m².  ray: (21, 3) unit,
    from the camera that stays to the true joints.  track_id: of the hand."""

    alone: bool
    error: np.ndarray
    covariance: np.ndarray
    ray: np.ndarray
    track_id: int


def follow(scene: Scene, estimator: HandEstimator, stays: str, alone: int, after: int,
           control: bool = False) -> list[Moment | None]:
    """One entry for each set, None where no hand was published. stays: the camera that is left for `alone` sets; control:
    all stay."""
    estimator.reset()
    moments: list[Moment | None] = []
    for number in range(BEFORE + alone + after):
        lonely = BEFORE <= number < BEFORE + alone and not control
        stamp, t = 1_000_000_000 + round(1e9 * number / RATE_HZ), number / RATE_HZ
        views = {name: View(scene.rig[name], image, stamp)
                 for name, image in scene.images(t, [stays] if lonely else None).items()}
        hands = estimator.process(FrameSet(stamp, views, scene.rig.names)).hands
        truth = scene.truth(t)[0]
        ray = truth - scene.rig[stays].centre
        moments.append(Moment(lonely, hands[0].joints - truth, hands[0].covariance,
                              ray / np.linalg.norm(ray, axis=1, keepdims=True), hands[0].track_id) if hands else None)
    return moments


def judge(followed: Sequence[Sequence[Moment | None]], alone: int) -> dict[str, float]:
    """published_alone: share of the sets of one camera that gave a hand; same_track: share of scenes whose hand kept its
    number.  By phase: mpjpe_mm, coverage95.  depth_error_ratio, depth_sigma_ratio: along the rays over across, root
    mean square, by one camera.  steps_within_3_sigma: share of the joints whose error changes, where the cameras fall
    out or come back, by less than three standard deviations of that change if both errors are independent."""
    numbers: dict[str, float] = {}
    known = [moment for moments in followed for moment in moments[BEFORE:BEFORE + alone] if moment is not None]
    numbers['published_alone'] = len(known) / (alone * len(followed))
    numbers['same_track'] = float(np.mean([len({m.track_id for m in moments if m is not None}) == 1
                                           for moments in followed]))
    phases = {'all': slice(4, BEFORE), 'alone': slice(BEFORE, BEFORE + alone), 'again': slice(BEFORE + alone, None)}
    for name, part in phases.items():
        shown = [moment for moments in followed for moment in moments[part] if moment is not None]
        error = np.stack([moment.error for moment in shown])
        distance2 = mahalanobis_squared(error, np.stack([joint_blocks(moment.covariance) for moment in shown]))
        numbers[f'mpjpe_mm_{name}'] = 1e3 * float(np.nanmean(np.linalg.norm(error, axis=-1)))
        numbers[f'coverage95_{name}'] = float(np.mean(distance2[np.isfinite(distance2)] <= chi2_quantile(0.95, 3)))
    error, ray = np.stack([moment.error for moment in known]), np.stack([moment.ray for moment in known])
    blocks = np.stack([joint_blocks(moment.covariance) for moment in known])
    along2, whole2 = np.square((error * ray).sum(-1)), np.square(error).sum(-1)
    depth2 = np.einsum('nja,njab,njb->nj', ray, blocks, ray)
    across2 = (np.trace(blocks, axis1=-2, axis2=-1) - depth2) / 2
    numbers['depth_error_ratio'] = float(np.sqrt(np.nanmean(along2) / np.nanmean((whole2 - along2) / 2)))
    numbers['depth_sigma_ratio'] = float(np.sqrt(np.nanmean(depth2) / np.nanmean(across2)))
    steps = [(moments[at - 1], moments[at]) for moments in followed for at in (BEFORE, BEFORE + alone)]
    within = [mahalanobis_squared(two.error - one.error, joint_blocks(one.covariance + two.covariance)) / 3 <= 9
              for one, two in steps if one is not None and two is not None]
    numbers['steps_within_3_sigma'] = float(np.mean(within)) if within else np.nan
    return numbers


class Course(NamedTuple):
    """Of each set, over scenes: quartiles and median (3, T) in mm of the root mean square error of a hand's joints, and
    of what its covariance says of that, the root of the mean trace; NaN where no scene gives a hand."""

    error_mm: np.ndarray
    sigma_mm: np.ndarray


def course(followed: Sequence[Sequence[Moment | None]]) -> Course:
    """How error and σ go over the sets of all scenes."""
    values = np.full((2, len(followed), len(followed[0])), np.nan)
    for row, moments in enumerate(followed):
        for place, moment in enumerate(moments):
            if moment is not None:
                trace = np.trace(joint_blocks(moment.covariance), axis1=-2, axis2=-1)
                values[:, row, place] = [np.nanmean(np.square(moment.error).sum(-1)), np.nanmean(trace)]
    there = np.isfinite(values).any(1)
    quartiles = np.full((3, *there.shape), np.nan)
    for which, place in np.argwhere(there):
        quartiles[:, which, place] = np.nanquantile(1e3 * np.sqrt(values[which, :, place]), (0.25, 0.5, 0.75))
    return Course(quartiles[:, 0], quartiles[:, 1])


def plot(shown: Course, alone: int) -> bytes:
    """A PNG of a course: medians as lines, quartiles as bands. Raises MissingDependencyError without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullFormatter
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'hand_unc_ros[report]'") from error
    figure = Figure(figsize=(7.0, 3.4), layout='constrained')
    axes = figure.add_subplot()
    time_s = np.arange(shown.error_mm.shape[1]) / RATE_HZ
    lonely = (np.array([BEFORE, BEFORE + alone]) - 0.5) / RATE_HZ
    axes.axvspan(*lonely, color='#ececec', label='one camera is left')
    for name, colour, (low, middle, high) in (('error of the joints', COLOURS[1], shown.error_mm),
                                              ('standard deviation that is published', COLOURS[0], shown.sigma_mm)):
        axes.fill_between(time_s, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(time_s, middle, color=colour, label=name)
    axes.spines[['top', 'right']].set_visible(False)
    axes.set(xlabel='time, s', ylabel='mm, root mean square of joints', yscale='log', xlim=(time_s[0], time_s[-1]))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(frameon=False, loc='outside upper left', ncol=3)
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=120)
    return file.getvalue()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', default='', help="AMVUR's (default: the shipped ones)")
    parser.add_argument('--covariance-map', default='', help="'none' to go without (default: beside the weights)")
    parser.add_argument('--scenes', type=int, default=8)
    parser.add_argument('--cameras', type=int, default=4)
    parser.add_argument('--alone', type=int, default=15, help='sets of one camera')
    parser.add_argument('--control', action='store_true', help='let no camera fall out, for comparison')
    parser.add_argument('--json', type=Path)
    parser.add_argument('--plot', type=Path, help='PNG to write: error and standard deviation over time')
    args = parser.parse_args()
    estimator = build_estimator(EstimatorSettings(method='amvur', weights=args.weights,
                                                  covariance_map=args.covariance_map),
                                tuple(f'cam{i}' for i in range(args.cameras)))
    followed = [follow(scene, estimator, f'cam{(seed - SEEDS[0]) % args.cameras}', args.alone, 8, args.control)
                for seed, scene in scenes(args.scenes, args.cameras)]
    numbers = judge(followed, args.alone)
    print('\n'.join(f'{name:22s} {value:.4g}' for name, value in numbers.items()))
    if args.plot is not None:
        write_file(args.plot, plot(course(followed), args.alone))
    if args.json is not None:
        about = vars(args) | {'json': None, 'plot': None, 'numbers': numbers}
        write_file(args.json, json.dumps(about, indent=1) + '\n')


if __name__ == '__main__':
    main()
