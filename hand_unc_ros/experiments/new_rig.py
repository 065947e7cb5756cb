"""A rig that nothing was trained on, adapted to and judged by the truth: `python -m hand_unc_ros.experiments.new_rig`.

Two recordings of one person in one room by wide-angle cameras are rendered as videos and made bags, as from a user's
own videos. `hand-unc adapt` learns from the first, without labels. Then the truth, which it never sees, tells what the
networks in use and the adapted ones are worth on the second.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from hand_unc_ros.adaptation.run import Request, adapt
from hand_unc_ros.data.bags.from_videos import DEFAULT_START_TIME_S, from_videos
from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.estimation.adapted import load_adapted
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.recordings.evaluate import evaluate_bag
from hand_unc_ros.files import replace_file, write_file
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.settings.recordings import BagSettings

# Of the person and the room; no training and no covariance map has seen it.
SEED = 64_500
# Seconds of the motion between the two recordings.
PAUSE_S = 5.0
LEARN, JUDGE = 'learn', 'judge'


def wide_angle_rig(cameras: int, seed: int) -> CameraRig:
    """Cameras nearer, wider and more distorted than those of the training scenes."""
    return ring_of_cameras(cameras, size=(800, 600), radius=0.5, focal_px=430.0, seed=seed,
                           distortion=(-0.24, 0.06, 0.001, -0.001, 0.0))


def film(folder: Path, scene: Scene, from_s: float, seconds: float, rate_hz: float) -> None:
    """A bag `folder` of what the scene shows for a time, and the true joints as `folder`.truth.npz, where they are not
    there yet."""
    if folder.is_dir():
        return
    numbers = range(round(seconds * rate_hz))
    videos = {camera.name: folder.parent / f'{folder.name}-{camera.name}.avi' for camera in scene.rig}
    writers = {camera.name: cv2.VideoWriter(str(videos[camera.name]), cv2.VideoWriter_fourcc(*'MJPG'), rate_hz,
                                            (camera.width, camera.height)) for camera in scene.rig}
    joints = []
    for number in tqdm(numbers, desc=folder.name, unit='set', disable=None):
        time_s = from_s + number / rate_hz
        for name, image in scene.images(time_s).items():
            writers[name].write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        joints.append(scene.truth(time_s)[0])
    for writer in writers.values():
        writer.release()
    stamps = [round(1e9 * DEFAULT_START_TIME_S) + round(1e9 * number / rate_hz) for number in numbers]
    with replace_file(truth_of(folder), DatasetError) as file:
        np.savez_compressed(file, stamp_ns=np.array(stamps), joints=np.array(joints))
    from_videos(videos, scene.rig, folder, fps=rate_hz)
    for video in videos.values():
        video.unlink()


def truth_of(bag: Path) -> Path:
    """The file of the true joints beside a bag."""
    return bag.with_name(f'{bag.name}.truth.npz')


def by_truth(bag: Path, estimator: EstimatorSettings) -> dict[str, float]:
    """What an estimator is worth on a bag: mm without alignment, shares, px."""
    told = evaluate_bag(bag, BagSettings(estimator=estimator), truth=str(truth_of(bag))).summary
    return {'hands': told['hands'], 'sets': told['sets'],
            **{name: told['truth'][name] for name in ('mpjpe_mm', 'median_mm', 'fingertips_mm')},
            'coverage95': told['coverage']['95'], 'left_out_px': told['leave_one_view_out']['error']['median_px']}


def adapted_settings(folder: Path, before: EstimatorSettings) -> EstimatorSettings:
    """The networks of an adapted folder, whatever its verdict was."""
    found = load_adapted(folder)
    return replace(before, method=found.method, **{name: str(folder / file) for name, file in found.files.items()})


def run(folder: Path, cameras: int, rate_hz: float, learn_s: float, judge_s: float,
        seed: int, changes: tuple[str, ...] = (), config: str = '') -> Mapping[str, Any]:
    """All of it, in `folder`; what is there from a run that was killed is kept. The verdict, and the numbers by the
    truth before and after."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(load_hand_model(ANNY), wide_angle_rig(cameras, seed), seed, SceneSettings(clutter=1))
    film(folder / LEARN, scene, 0.0, learn_s, rate_hz)
    film(folder / JUDGE, scene, learn_s + PAUSE_S, judge_s, rate_hz)
    before = EstimatorSettings(method='landmarks')
    report = adapt(Request([folder / LEARN], folder / 'adapted', judges=[folder / JUDGE], estimator=before,
                           changes=changes, config=config))
    after = adapted_settings(folder / 'adapted', before)
    return {'verdict': report['verdict'], 'chosen': report['chosen'], 'before': by_truth(folder / JUDGE, before),
            'after': by_truth(folder / JUDGE, after)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='of the recordings and the adapted networks')
    parser.add_argument('--cameras', type=int, default=4)
    parser.add_argument('--rate', type=float, default=10.0, help='Hz')
    parser.add_argument('--learn', type=float, default=90.0, metavar='S', help='seconds to learn from')
    parser.add_argument('--judge', type=float, default=30.0, metavar='S', help='seconds to judge by')
    parser.add_argument('--seed', type=int, default=SEED)
    parser.add_argument('--config', default='', help='of the training, as for `hand-unc adapt`')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', dest='changes')
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    told = run(args.folder, args.cameras, args.rate, args.learn, args.judge, args.seed, tuple(args.changes),
               args.config)
    text = json.dumps(told, indent=1)
    print(text)
    if args.json is not None:
        write_file(args.json, text + '\n')


if __name__ == '__main__':
    main()
