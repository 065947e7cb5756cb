"""Where a detector that learned from people's labels sees a hand model's joints.

`python -m hand_unc_ros.experiments.label_offsets` renders a hand model in plain skin, runs MediaPipe's landmark network
on the crops, and finds for every joint the place in the frame of its bones that fits the landmarks of all crops best.
Fitted on one seed, judged on another.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.hand import crops as boxes
from hand_unc_ros.hand.joints import JOINT_NAMES, MIDDLE_MCP, to_public
from hand_unc_ros.hand.model import HandModel, hand_arrays, joint_rows
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole
from hand_unc_ros.hand.skinned_points import SkinnedPoints
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import box_of_landmarks
from hand_unc_ros.networks.landmark_models import landmark_models
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks

LEAST_PRESENCE = 0.5
VIEWS = 4
READ_BATCH = 32
# Residuals beyond this share of the palm count less, by Huber; the offsets' prior has this deviation.
HUBER, PRIOR = 0.05, 0.05
# A crop whose median landmark is farther off than these shares of a palm was not understood; not well enough to fit to.
LOST, CLOSE = 0.3, 0.08


@dataclass(frozen=True)
class Displacements:
    """Of M crops in which the network sees a hand: residual (M, 21, 2), landmark minus projected joint, and slopes
    (M, 21, 2, 3), its change with the joint's place in the model's rest frame, both in palm lengths. seen: share of all
    crops."""

    residual: np.ndarray
    slopes: np.ndarray
    seen: float

    def after(self, offsets: np.ndarray) -> np.ndarray:
        """Distances (M, 21) in palm lengths with the joints moved by `offsets` (21, 3), palm lengths."""
        return np.linalg.norm(self.residual - np.einsum('mjab,jb->mja', self.slopes, offsets), axis=-1)


def measure(networks: LandmarkNetworks, arrays: dict[str, np.ndarray], samples: int, seed: int) -> Displacements:
    """arrays: of a right hand with joints of its own (`joint_template`)."""
    settings = MultiviewSettings(image_size=HAND_SIZE, objects=(1.0,), absent=0)
    source = MultiviewSamples(HandModel(arrays), seed, settings)
    rows = joint_rows(arrays)
    points = SkinnedPoints(rows.arrays, rows.points)
    images, residual, slopes, scale = [], [], [], []
    for index in range(samples):
        sample = source.sample(index, VIEWS)
        turns = Rotation.from_rotvec(sample.mano.pose.reshape(16, 3)).as_matrix()
        moves = points.place(turns, sample.mano.shape, sample.mano.translation).point_turns
        palm = np.linalg.norm(sample.joints[MIDDLE_MCP] - sample.joints[0])
        for view in sample.views:
            box = box_of_landmarks(view.joints_px)
            K = crop_intrinsics(view.camera, box, HAND_SIZE)
            images.append(cut_pinhole(view.read(), view.camera, K, HAND_SIZE))
            affine = boxes.crop_from_image(box, HAND_SIZE)

            def places(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                px, depth = view.camera.project(points)
                return boxes.transform(affine, px), depth

            px, depth = places(sample.joints)
            step = 1e-3
            moved = [(places(sample.joints + step * moves[:, :, axis])[0] - px) / step for axis in range(3)]
            # Pixels that a palm's length spans at the joint's depth.
            palm_px = palm * view.camera.K[0, 0] * np.sqrt(abs(np.linalg.det(affine[:, :2]))) / depth[:, None]
            residual.append(px)
            slopes.append(palm * np.stack(moved, axis=-1) / palm_px[..., None])
            scale.append(palm_px)
    read = [networks.read(np.stack(images[begin:begin + READ_BATCH])) for begin in range(0, len(images), READ_BATCH)]
    landmarks = to_public(np.concatenate([part.landmarks for part in read]), 'mediapipe')
    presence = np.concatenate([part.presence for part in read])
    off = (landmarks - np.stack(residual)) / np.stack(scale)
    used = (presence >= LEAST_PRESENCE) & (np.median(np.linalg.norm(off, axis=-1), axis=1) < LOST)
    return Displacements(off[used], np.stack(slopes)[used], float(np.mean(presence >= LEAST_PRESENCE)))


def fit(measured: Displacements) -> np.ndarray:
    """(21, 3) palm lengths in the model's rest frame, by iteratively reweighted least squares."""
    close = np.median(measured.after(np.zeros((21, 3))), axis=1) < CLOSE
    measured = Displacements(measured.residual[close], measured.slopes[close], measured.seen)
    offsets = np.zeros((21, 3))
    for _ in range(15):
        distance = measured.after(offsets)
        weight = np.minimum(1.0, HUBER / np.maximum(distance, 1e-9)) / HUBER ** 2
        normal = np.einsum('mj,mjab,mjac->jbc', weight, measured.slopes, measured.slopes)
        # Crops of one hand err together: four count as one.
        normal = normal / VIEWS + np.eye(3) / PRIOR ** 2
        right = np.einsum('mj,mjab,mja->jb', weight, measured.slopes, measured.residual) / VIEWS
        offsets = np.linalg.solve(normal, right[..., None])[..., 0]
    return offsets


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='anny', help="a hand with joints of its own (default 'anny')")
    parser.add_argument('--samples', type=int, default=100, metavar='N', help='hands of four views (default 100)')
    parser.add_argument('--seeds', type=int, nargs=2, default=(1, 2), metavar=('FIT', 'JUDGE'))
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = landmark_models()
    if stored is None:
        parser.error('the networks are missing; fetch them with `hand-unc models get landmarks`')
    networks = LandmarkNetworks(*stored)
    arrays = hand_arrays(args.model, 'right')[0]
    fitted, judged = (measure(networks, arrays, args.samples, seed) for seed in args.seeds)
    offsets = fit(fitted)
    before, after = (np.median(judged.after(shift), axis=0) for shift in (0 * offsets, offsets))
    again = fit(judged)
    for joint, name in enumerate(JOINT_NAMES):
        print(f'{name:11s} offset {np.round(offsets[joint], 3)} on the other seed {np.round(again[joint], 3)}'
              f'  median {before[joint]:.3f} -> {after[joint]:.3f}')
    print(json.dumps({'crops': len(judged.residual), 'presence': [round(part.seen, 3) for part in (fitted, judged)],
                      'median': [round(float(np.median(judged.after(shift))), 4) for shift in (0 * offsets, offsets)]}))


if __name__ == '__main__':
    main()
