"""AMVUR on an uncalibrated video of one hand, against joints of another system:
`python benchmarks/one_video.py VIDEO JOINTS.npz [--focal 1100]`.

The camera is assumed: a pinhole of that focal length, px, with its principal point in the middle. JOINTS holds `joints`
(T, 21, 3) metres, one for each frame, wrist first and then thumb to little finger, base to tip, in a frame of their
own: they tell nothing of place and turn, and errors are given after alignment. They are no truth: what stands for it was
found in the same images.

Printed: the share of frames with a hand; root-relative, turned onto the joints but not scaled; PA; the published size
over theirs; and the share of joints inside their 95 % ellipsoids after PA, of the covariance without what the alignment
takes out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from hand_unc_ros import Camera, CameraRig, HandTracker
from hand_unc_ros.files import write_file
from hand_unc_ros.geometry.alignment import align_similarity, best_rotation
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import WRIST


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('video', type=Path)
    parser.add_argument('joints', type=Path)
    parser.add_argument('--focal', type=float, default=1100.0)
    parser.add_argument('--handedness', default='right')
    parser.add_argument('--json', type=Path)
    arguments = parser.parse_args()
    references = np.load(arguments.joints)['joints']
    video = cv2.VideoCapture(str(arguments.video))
    width, height = (int(video.get(name)) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    K = np.array([[arguments.focal, 0, (width - 1) / 2], [0, arguments.focal, (height - 1) / 2], [0, 0, 1]])
    camera = Camera('video', width, height, K, 'none', np.zeros(0), np.eye(4))
    rows = []
    with HandTracker(CameraRig([camera]), method='amvur', min_views=1, handedness=arguments.handedness) as tracker:
        for number, reference in enumerate(references):
            good, image = video.read()
            if not good:
                raise SystemExit(f'{arguments.video} has {number} frames, and {arguments.joints} {len(references)}')
            stamp_ns = round(1e9 * (1 + number / 30))
            hands = tracker.process({'video': cv2.cvtColor(image, cv2.COLOR_BGR2RGB)}, stamp_ns).hands
            if hands and hands[0].valid.all() and np.isfinite(reference).all():
                rows.append(compared(hands[0].joints, hands[0].covariance, reference))
    means = dict(zip(('root_relative_mm', 'pa_mm', 'size', 'coverage95', 'sigma_mm'), np.mean(rows, axis=0).tolist()))
    share = len(rows) / len(references)
    numbers = {'frames': len(references), 'with_hand': share, 'focal_px': arguments.focal, **means}
    print(json.dumps({name: round(value, 3) for name, value in numbers.items()}))
    if arguments.json is not None:
        write_file(arguments.json, json.dumps(numbers, indent=1) + '\n')


def compared(joints: np.ndarray, covariance: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
    """Of one hand: root-relative and PA error, mm; its size over the reference's; share of joints inside their 95 %
    ellipsoids; root mean variance of a joint after alignment, mm."""
    own, theirs = joints - joints[WRIST], reference - reference[WRIST]
    turned = theirs @ best_rotation(theirs, own).T
    rooted = np.linalg.norm(own - turned, axis=1).mean()
    aligned = align_similarity(reference[None], joints[None])[0]
    off = joints - aligned
    size = np.linalg.norm(joints - joints.mean(0)) / np.linalg.norm(reference - reference.mean(0))
    kept = without_similarity(joints)
    blocks = joint_blocks(kept @ covariance @ kept.T)
    inside = mahalanobis_squared(off, blocks) <= chi2_quantile(0.95, 3)
    sigma = np.sqrt(np.trace(blocks, axis1=-2, axis2=-1).mean())
    return 1e3 * rooted, 1e3 * np.linalg.norm(off, axis=1).mean(), size, inside.mean(), 1e3 * sigma


def without_similarity(joints: np.ndarray) -> np.ndarray:
    """(63, 63), what a small change of joints (21, 3) is once they are turned, moved and scaled back as well as can be.
    """
    centred = joints - joints.mean(0)
    moves = [np.tile(axis, (len(joints), 1)) for axis in np.eye(3)]
    turns = [np.cross(axis, centred) for axis in np.eye(3)]
    basis, _ = np.linalg.qr(np.stack([*moves, *turns, centred]).reshape(7, -1).T)
    return np.eye(3 * len(joints)) - basis @ basis.T


if __name__ == '__main__':
    main()
