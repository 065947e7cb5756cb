"""What weighting by the covariance does to a robot hand: jitter, error and lag, with and without; and a plot.

Two sources. A recording of human joints (`--joints`, an .npz with `joints` (N, 21, 3) metres at 30 Hz), smoothed, taken
for the truth, and disturbed by noise of a known covariance. And the shipped estimator on a synthetic rig, four cameras
of which two fail for a while.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from retargeting import DRIFT, RobotHand, VectorFilter, human_vectors, vector_covariance
from scipy.signal import savgol_filter

from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.contract import View

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402

SYNTHETIC_HZ, RECORDED_HZ = 15.0, 30.0


class Sequence(NamedTuple):
    """times: (N,) s.  truth, joints: (N, 21, 3) m.  covariance: (N, 63, 63) m².  hard: (N,) bool, when it was hard to
    see."""

    times: np.ndarray
    truth: np.ndarray
    joints: np.ndarray
    covariance: np.ndarray
    hard: np.ndarray


def synthetic(seed: int, seconds: float) -> Sequence:
    """The shipped estimator on four cameras; two of them fail in the middle third."""
    scene = Scene(load_hand_model(None), ring_of_cameras(4, seed=seed), seed, SceneSettings(clutter=1))
    estimator = build_estimator(EstimatorSettings(method='jump_hand'), ())
    times = np.arange(int(seconds * SYNTHETIC_HZ)) / SYNTHETIC_HZ
    hard = (times >= seconds / 3) & (times < 2 * seconds / 3)
    joints, covariance = np.full((len(times), 21, 3), np.nan), np.full((len(times), 63, 63), np.nan)
    for i, t in enumerate(times):
        stamp = 10 ** 9 + int(t * 1e9)
        names = list(scene.rig.names[:2] if hard[i] else scene.rig.names)
        views = {name: View(scene.rig[name], image, stamp) for name, image in scene.images(t, names).items()}
        result = estimator.process(FrameSet(stamp, views, scene.rig.names))
        for hand in result.hands:
            joints[i], covariance[i] = hand.joints, hand.covariance
    return Sequence(times, np.stack([scene.truth(t)[0] for t in times]), joints, covariance, hard)


def disturbed(path: Path, seed: int) -> Sequence:
    """Recorded joints with noise: 2 mm everywhere, and up to 15 mm along one axis of the world for the fingers in the
    middle third, half of it shared by the joints of a finger."""
    truth = savgol_filter(np.load(path)['joints'], 11, 3, axis=0)
    times = np.arange(len(truth)) / RECORDED_HZ
    hard = (times >= times[-1] / 3) & (times < 2 * times[-1] / 3)
    shared = np.kron(np.eye(5), np.full((4, 4), 0.5) + 0.5 * np.eye(4))
    fingers = np.zeros((21, 21))
    fingers[1:, 1:] = shared
    depth = np.kron(fingers, np.diag([0.015 ** 2, 0.0, 0.0]))
    covariance = 0.002 ** 2 * np.eye(63) + hard[:, None, None] * depth
    draws = np.random.default_rng(seed).standard_normal((len(truth), 63, 1))
    noise = (np.linalg.cholesky(covariance) @ draws).reshape(truth.shape)
    return Sequence(times, truth, truth + noise, covariance, hard)


def angles(sequence: Sequence, robot: str, urdf_dir: Path, weighting: str, drift: float = DRIFT) -> np.ndarray:
    """Robot angles (N, dof). weighting: 'truth', 'none', 'low-pass' (dex-retargeting's own, alpha 0.2), 'constant' (the
    same filter with the median covariance) or 'covariance'."""
    hand = RobotHand(robot, urdf_dir, low_pass_alpha=0.2 if weighting == 'low-pass' else 1.0)
    where = hand.origins, hand.tasks
    vectors = human_vectors(sequence.truth if weighting == 'truth' else sequence.joints, *where)
    if weighting in ('constant', 'covariance'):
        spread = np.stack([vector_covariance(j, c, *where) for j, c in zip(sequence.joints, sequence.covariance)])
        if weighting == 'constant':
            spread = np.broadcast_to(np.nanmedian(spread, axis=0), spread.shape)
        smooth, steps = VectorFilter(drift), np.diff(sequence.times, prepend=sequence.times[0])
        vectors = [smooth.update(step, v, c) for step, v, c in zip(steps, vectors, spread)]
    result: list[np.ndarray] = []
    for vector in vectors:
        # Without an estimate the robot holds.
        hold = vector is None or not np.isfinite(vector).all()
        result.append((result[-1] if result else np.zeros(len(hand.joint_names))) if hold else hand.retarget(vector))
    return np.array(result)


def jitter(values: np.ndarray, where: np.ndarray) -> float:
    """Standard deviation of the second difference over time of (N, dof)."""
    return float(np.diff(values, 2, axis=0)[where[2:]].std())


def lag(values: np.ndarray, truth: np.ndarray, period_s: float) -> float:
    """Seconds by which (N, dof) follows the truth: the shift with the smallest error, to a tenth of a period."""
    index = np.arange(len(truth))
    shifts = np.arange(-1.0, 8.0, 0.1)
    errors = [np.mean([(np.interp(index + shift, index, v) - t)[10:-10] ** 2 for v, t in zip(values.T, truth.T)])
              for shift in shifts]
    return float(shifts[np.argmin(errors)] * period_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--urdf-dir', type=Path, required=True, help='robots/hands of a clone of dexsuite/dex-urdf')
    parser.add_argument('--robot', default='allegro')
    parser.add_argument('--joints', type=Path, help='recorded human joints; default: the synthetic rig')
    parser.add_argument('--seed', type=int, default=62001)
    parser.add_argument('--seconds', type=float, default=18.0)
    parser.add_argument('--drift', type=float, default=DRIFT)
    parser.add_argument('--plot', type=Path)
    args = parser.parse_args()
    sequence = disturbed(args.joints, args.seed) if args.joints else synthetic(args.seed, args.seconds)
    kinds = ('truth', 'none', 'low-pass', 'constant', 'covariance')
    tracks = {kind: angles(sequence, args.robot, args.urdf_dir, kind, args.drift) for kind in kinds}
    truth, period_s = tracks['truth'], sequence.times[1]
    print('weighting     jitter easy / hard, mrad     error easy / hard, mrad     lag all / hard, ms')
    for kind, track in tracks.items():
        row = [1e3 * jitter(track, where) for where in (~sequence.hard, sequence.hard)]
        row += [1e3 * np.sqrt(((track - truth)[where] ** 2).mean()) for where in (~sequence.hard, sequence.hard)]
        row += [1e3 * lag(track[where], truth[where], period_s) for where in (slice(None), sequence.hard)]
        print(f'{kind:12}' + ''.join(f'{value:13.0f}' for value in row))
    if args.plot:
        draw(sequence, tracks, args.plot)


def draw(sequence: Sequence, tracks: dict[str, np.ndarray], path: Path) -> None:
    """The angle that moves most, and how much all angles shake, over time."""
    most = np.argmax(tracks['truth'].std(axis=0))
    colours = {'truth': '#888888', 'none': '#d95f02', 'covariance': '#1b6ca8'}
    names = {'truth': 'from the true joints', 'none': 'not weighted', 'covariance': 'weighted by covariance'}
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 4.6), sharex=True, layout='constrained')
    for kind, colour in colours.items():
        track = tracks[kind]
        above.plot(sequence.times, track[:, most], color=colour, label=names[kind], linewidth=1.2)
        shaking = np.abs(np.diff(track, 2, axis=0)).mean(axis=1)
        window = np.ones(9) / 9
        below.plot(sequence.times[1:-1], 1e3 * np.convolve(shaking, window, 'same'), color=colour, linewidth=1.2)
    for axes in (above, below):
        axes.axvspan(*sequence.times[sequence.hard][[0, -1]], color='#eeeeee', zorder=0)
        axes.spines[['top', 'right']].set_visible(False)
    above.set_ylabel('one joint, rad')
    above.legend(frameon=False, ncols=3, loc='lower center', bbox_to_anchor=(0.5, 1.0))
    below.set_ylabel('|second difference|, mrad')
    below.set_xlabel('time, s (grey: hard to see)')
    figure.savefig(path, dpi=100)


if __name__ == '__main__':
    main()
