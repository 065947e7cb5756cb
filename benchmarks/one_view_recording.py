"""One camera of a recording against all of them: `python benchmarks/one_view_recording.py --help`.

A real recording has no truth; what all its cameras say together stands for it. One camera at a time is followed by AMVUR,
from the start (`alone`) and after all cameras have shown the hand for a while (`kept`), when its bones are known.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from hand_unc_ros.api import HandTracker, Recording, load_bag
from hand_unc_ros.files import write_file
from hand_unc_ros.geometry.alignment import align_root, align_similarity
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks

# Sets of all cameras before one is left.
SHOWN = 60


def by_all(recording: Recording) -> dict[int, np.ndarray]:
    """Joints (21, 3) metres by stamp, of all cameras; sets in which a joint is not known are left out."""
    with HandTracker(recording.rig, method='landmarks') as tracker:
        found = {sets.stamp_ns: tracker.process(sets.images, sets.stamp_ns).hands for sets in recording}
    return {stamp: hands[0].joints for stamp, hands in found.items() if hands and hands[0].valid.all()}


def by_one(recording: Recording, camera: str, shown: int, truth: dict[int, np.ndarray], weights: str) -> dict[str, float]:
    """Numbers of one camera from set `shown` on; all cameras deliver before."""
    errors, aligned, rooted, inside, sets = [], [], [], [], 0
    with HandTracker(recording.rig, method='amvur', min_views=2 if shown else 1, weights=weights) as tracker:
        for number, frames in enumerate(recording):
            images = frames.images if number < shown else {name: image for name, image in frames.images.items()
                                                           if name == camera}
            hands = tracker.process(images, frames.stamp_ns).hands
            if number < max(shown, SHOWN) or frames.stamp_ns not in truth:
                continue
            sets += 1
            if not hands or not hands[0].valid.all():
                continue
            hand, target = hands[0], truth[frames.stamp_ns]
            error = hand.joints - target
            errors.append(np.linalg.norm(error, axis=1).mean())
            aligned.append(np.linalg.norm(align_similarity(hand.joints[None], target[None])[0] - target, axis=1).mean())
            rooted.append(np.linalg.norm(align_root(hand.joints[None], target[None])[0] - target, axis=1).mean())
            inside.append(mahalanobis_squared(error, joint_blocks(hand.covariance)) <= chi2_quantile(0.95, 3))
    numbers = {'sets': sets, 'published': len(errors) / max(sets, 1)}
    if errors:
        numbers |= {'absolute_mm': 1e3 * float(np.mean(errors)), 'root_relative_mm': 1e3 * float(np.mean(rooted)),
                    'pa_mm': 1e3 * float(np.mean(aligned)), 'coverage95': float(np.mean(inside))}
    return numbers


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bag', type=Path, metavar='BAG')
    parser.add_argument('--rig', type=Path, help="rig file (default: the bag's own)")
    parser.add_argument('--weights', default='', help="AMVUR's (default: the shipped ones)")
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    recording = load_bag(args.bag, args.rig)
    truth = by_all(recording)
    numbers = {f'{camera} {how}': by_one(recording, camera, shown, truth, args.weights)
               for camera in recording.cameras for how, shown in (('alone', 0), ('kept', SHOWN))}
    for name, row in numbers.items():
        print(f'{name:14s}', '  '.join(f'{key} {value:.3g}' for key, value in row.items()))
    if args.json is not None:
        write_file(args.json, json.dumps({'bag': args.bag.name, 'numbers': numbers}, indent=1) + '\n')


if __name__ == '__main__':
    main()
