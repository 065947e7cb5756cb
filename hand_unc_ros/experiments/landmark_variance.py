"""Trains the variance head of the method landmarks: `python -m hand_unc_ros.experiments.landmark_variance --help`.

First on synthetic crops, whose landmarks are known. Then without labels on recordings of calibrated cameras: of two
views of one hand, the distance of their landmarks across the epipolar lines is known, and by the two claimed variances
it has a variance of its own. Its likelihood is that of Student's t, since detectors err grossly now and then. The
trunk's landmarks stay as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.batches import SYNTHETIC_AUGMENTATION, develop
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.recordings.replay import BagSettings, Replay, find_calibration, find_images
from hand_unc_ros.hand import crops as boxes
from hand_unc_ros.hand.joints import from_public
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole
from hand_unc_ros.methods.contract import Crop
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.networks.landmark_boxes import box_of_landmarks
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_models import landmark_models
from hand_unc_ros.networks.landmark_pairs import Pairs, Readings, epipolar, same_hands, scores, student_nll
from hand_unc_ros.networks.landmark_variance import LandmarkVariance, LandmarkVarianceConfig, landmark_features
from hand_unc_ros.networks.placement import choose_precision
from hand_unc_ros.networks.weights import save_network

SYNTHETIC_BATCH, REAL_BATCH, READ_BATCH = 64, 48, 32
SYNTHETIC_VIEWS = 4
# While learning from recordings, so that what they do not show is not forgotten.
SYNTHETIC_WEIGHT = 0.3


def read(networks: LandmarkNetworks, images: Sequence[np.ndarray]) -> Readings:
    """What the trunk says of crops (224, 224, 3) uint8 RGB."""
    parts = []
    for begin in range(0, len(images), READ_BATCH):
        out = networks.output(np.stack(images[begin:begin + READ_BATCH]))
        parts.append((landmark_features(out), out.pooled, out.landmarks[..., :2], out.presence, out.handedness))
    return Readings(*(torch.cat(each).float().clone() for each in zip(*parts)))


def synthetic_readings(networks: LandmarkNetworks, samples: int, seed: int) -> tuple[Readings, Tensor]:
    """Readings of rendered hands, and their true landmarks (N, 21, 2) px."""
    source = MultiviewSamples(load_hand_model(ANNY), seed, MultiviewSettings(image_size=HAND_SIZE, absent=0.0))
    rng = np.random.default_rng(seed)
    images, truth = [], []
    for index in range(samples):
        for view in source.sample(index, SYNTHETIC_VIEWS).views:
            box = box_of_landmarks(view.joints_px)
            box[:2] += rng.normal(0, 0.04 * box[2], 2)
            box[2:] = box[2] * np.exp(rng.normal(0, 0.1)), box[3] + rng.normal(0, 0.12)
            crop = cut_pinhole(view.read(), view.camera, crop_intrinsics(view.camera, box, HAND_SIZE), HAND_SIZE)
            images.append(develop(crop, SYNTHETIC_AUGMENTATION, rng))
            joints = boxes.transform(boxes.crop_from_image(box, HAND_SIZE), view.joints_px)
            truth.append(from_public(joints, 'mediapipe'))
    return read(networks, images), torch.from_numpy(np.stack(truth)).float()


def recorded_crops(bag: Path, hands: int) -> tuple[list[Crop], list[tuple[int, int]], int]:
    """All hands of a recording in the crops of the live pipeline, set and track of each, and the number of sets.
    hands: 1 for the right one, 2 for both."""
    settings = EstimatorSettings(method='landmarks', covariance_head='none', handedness='both' if hands > 1 else 'right',
                                 device='cpu', threads=1, view_health=False)
    crops: list[Crop] = []
    owners: list[tuple[int, int]] = []
    sets = 0
    with open_bag(bag) as opened:
        of_bag = BagSettings(settings)
        calibrated = find_calibration(opened, of_bag)
        estimator = build_estimator(settings, tuple(find_images(opened, calibrated, of_bag)))
        for frames, result, *_ in Replay(opened, calibrated, of_bag, estimator):
            for hand in result.hands:
                for name, reading in result.readings_of(hand).views.items():
                    if reading.valid.any():
                        crops.append(cut_crop(frames.views[name], reading.box_px, hand.handedness, HAND_SIZE))
                        owners.append((sets, hand.track_id))
            sets += 1
    return crops, owners, sets


def recorded_pairs(networks: LandmarkNetworks, bag: Path, share: tuple[float, float], hands: int) -> Pairs:
    """All pairs of views of a recording's hands, between two shares of its sets, in the crops of the live pipeline.
    hands: 1 for the right one, 2 for both."""
    crops, owners, sets = recorded_crops(bag, hands)
    readings = read(networks, [crop.image for crop in crops])
    wanted = [row for row, (number, _) in enumerate(owners) if share[0] * sets <= number < share[1] * sets]
    rows = torch.tensor(list(same_hands(readings, owners, wanted)))
    residual, first, second = epipolar(readings.landmarks, torch.from_numpy(np.stack([crop.K for crop in crops])),
                                       torch.from_numpy(np.stack([crop.camera_from_world for crop in crops])), rows)
    return Pairs(readings, rows, residual, first, second)


def train(synthetic: tuple[Readings, Tensor], recordings: Sequence[Pairs], seed: int, steps: int) -> LandmarkVariance:
    """`steps` on synthetic crops, then as many with recordings."""
    torch.manual_seed(seed)
    head = LandmarkVariance(LandmarkVarianceConfig())
    readings, truth = synthetic
    known = torch.nonzero(readings.presence > 0.3)[:, 0]
    error = truth - readings.landmarks

    def of_synthetic() -> Tensor:
        rows = known[torch.randint(len(known), (SYNTHETIC_BATCH,))]
        log_sigma = head(readings.features[rows], readings.pooled[rows])
        return student_nll(error[rows].square() * (-2 * log_sigma).exp(), 2 * log_sigma)

    def of_recording(pairs: Pairs) -> Tensor:
        chosen = torch.randint(len(pairs.rows), (REAL_BATCH,))
        log_sigma = [head(pairs.readings.features[rows], pairs.readings.pooled[rows]) for rows in pairs.rows[chosen].T]
        variance = pairs.variance(log_sigma, chosen)
        return student_nll(pairs.residual[chosen].square() / variance, (variance / pairs.scale[chosen].square()).log())

    for with_recordings, lr in ((False, 1e-3), (True, 3e-4)):
        if with_recordings and not recordings:
            break
        optimiser = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            loss = SYNTHETIC_WEIGHT * of_synthetic() if with_recordings else of_synthetic()
            if with_recordings:
                loss = loss + sum(map(of_recording, recordings)) / len(recordings)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return head.eval()


def _recording(text: str) -> tuple[Path, tuple[float, float], int]:
    path, *rest = text.split(':')
    hands = int(rest[2]) if len(rest) > 2 else 1
    return Path(path), (float(rest[0]), float(rest[1])) if len(rest) > 1 else (0.0, 1.0), hands


def main() -> None:
    """The command: fit a head, judge it and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--synthetic', type=int, default=700, metavar='N', help='samples of four views (default 700)')
    parser.add_argument('--fit', type=_recording, action='append', default=[], metavar='BAG[:FROM:TO[:HANDS]]',
                        help='learn from these shares of a recording with rig.yaml in its folder')
    parser.add_argument('--judge', type=_recording, action='append', default=[], metavar='BAG[:FROM:TO[:HANDS]]')
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', help='weights to write (.safetensors)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = landmark_models()
    if stored is None:
        parser.error('the networks are missing; fetch them with `hand-unc models get landmarks`')
    # As they run live.
    device = torch.device('cpu')
    networks = LandmarkNetworks(*stored, device, choose_precision('auto', device))
    synthetic = synthetic_readings(networks, args.synthetic, args.seed)
    fit = [recorded_pairs(networks, *recording) for recording in args.fit]
    judge = [recorded_pairs(networks, *recording) for recording in args.judge]
    for name, recordings in (('synthetic only', ()), ('with recordings', fit)):
        head = train(synthetic, recordings, args.seed, args.steps)
        for (path, share, _), pairs in zip(args.fit + args.judge, fit + judge):
            print(json.dumps({'head': name, 'recording': path.name, 'share': share,
                              **{key: round(value, 3) for key, value in scores(head, pairs).items()}}), flush=True)
        if not fit:
            break
    if args.output is not None:
        save_network(args.output, head, head.config.to_dict())


if __name__ == '__main__':
    main()
