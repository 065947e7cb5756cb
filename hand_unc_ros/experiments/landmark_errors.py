"""Trains the error head of the method landmarks: `python -m hand_unc_ros.experiments.landmark_errors --help`.

First on synthetic crops of lifelike hands, whose landmarks are known. Then without labels on recordings of calibrated
cameras: of two views of one hand, the distance of their landmarks across the epipolar lines is known, and by the two
claimed variances it has a variance of its own. Its likelihood is that of Student's t, since detectors err grossly now
and then. The trunk stays as it is.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.batches import SYNTHETIC_AUGMENTATION, develop
from hand_unc_ros.data.synthetic.multiview import INGREDIENTS, MultiviewSamples, MultiviewSettings
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.stream import Processed
from hand_unc_ros.evaluation.recordings.replay import BagSettings, Replay, find_calibration, find_images
from hand_unc_ros.files import replace_file
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
from hand_unc_ros.networks.landmark_errors import Errors, Expert, LandmarkErrors, LandmarkErrorsConfig
from hand_unc_ros.networks.landmark_evidence import LandmarkEvidence, evidence_of
from hand_unc_ros.networks.placement import choose_precision
from hand_unc_ros.networks.weights import save_network

# Crops, and pairs of crops.
SYNTHETIC_BATCH, REAL_BATCH, READ_BATCH = 64, 48, 32
# Samples that are rendered and read together, of a seed of their own.
PART_SAMPLES, SYNTHETIC_VIEWS = 400, 4
LEAST_PRESENCE = 0.3
SHIFT_WIDTH, SEARCH_WIDTH = 128, 64
# Every so many rendered crops teach σ and no shifts: of those that teach shifts these leave less.
SIGMA_EVERY = 6
SYNTHETIC_RATE, RECORDED_RATE, MOST_GRADIENT = 1e-3, 3e-4, 5.0


def read(networks: LandmarkNetworks, images: Sequence[np.ndarray]) -> Readings:
    """What the trunk says of crops (224, 224, 3) uint8 RGB; features and maps in half precision."""
    parts = []
    for begin in range(0, len(images), READ_BATCH):
        out = networks.output(np.stack(images[begin:begin + READ_BATCH]))
        found = evidence_of(out)
        parts.append(Readings(found.features.half(), found.pooled.half(), found.landmarks.clone(),
                              out.presence.float().clone(), out.handedness.float().clone(),
                              tuple(level.half() for level in found.maps)))
    return joined(parts)


def joined(parts: Sequence[Readings]) -> Readings:
    """One after the other."""
    names = [field.name for field in fields(Readings) if field.name != 'maps']
    return Readings(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names},
                    maps=tuple(map(torch.cat, zip(*(part.maps for part in parts)))))


def jittered(rng: np.random.Generator, box: np.ndarray) -> np.ndarray:
    """A box (4,) as far off as that of a followed hand."""
    box = box.copy()
    box[:2] += rng.normal(0, 0.04 * box[2], 2)
    box[2:] = box[2] * np.exp(rng.normal(0, 0.1)), box[3] + rng.normal(0, 0.12)
    return box


class Steps(NamedTuple):
    """synthetic: on synthetic crops.  recorded: with recordings as well.  sigma: of σ alone, after the shifts."""

    synthetic: int = 2500
    recorded: int = 600
    sigma: int = 600


class Synthetic(NamedTuple):
    """Readings of N rendered hands, and their true landmarks (N, 21, 2) px."""

    readings: Readings
    truth: Tensor

    def rows(self, sigma: bool) -> Tensor:
        """Of those that the trunk takes for hands, the ones that teach σ after the shifts, or all others."""
        known = self.readings.presence > LEAST_PRESENCE
        return torch.nonzero(known & ((torch.arange(len(known)) % SIGMA_EVERY == 0) == sigma))[:, 0]


def synthetic_readings(networks: LandmarkNetworks, samples: int, seed: int, without: Sequence[str] = ()) -> Synthetic:
    """Of rendered hands, before cameras anywhere around them. without: see MultiviewSettings."""
    settings = MultiviewSettings(image_size=HAND_SIZE, absent=0.0, without=tuple(without))
    source = MultiviewSamples(load_hand_model(ANNY), seed, settings)
    rng = np.random.default_rng(seed)
    images, truth = [], []
    for index in range(samples):
        for view in source.sample(index, SYNTHETIC_VIEWS).views:
            box = jittered(rng, box_of_landmarks(view.joints_px))
            crop = cut_pinhole(view.read(), view.camera, crop_intrinsics(view.camera, box, HAND_SIZE), HAND_SIZE)
            images.append(develop(crop, SYNTHETIC_AUGMENTATION, rng))
            joints = boxes.transform(boxes.crop_from_image(box, HAND_SIZE), view.joints_px)
            truth.append(from_public(joints, 'mediapipe'))
    return Synthetic(read(networks, images), torch.from_numpy(np.stack(truth)).float())


def synthetic_parts(networks: LandmarkNetworks, samples: int, seed: int, kept: Path | None,
                    without: Sequence[str] = ()) -> Synthetic:
    """As synthetic_readings, part by part. kept: folder of parts that are there already, or will be."""
    parts = []
    for number, begin in enumerate(tqdm(range(0, samples, PART_SAMPLES), desc='rendering', unit='part', disable=None)):
        count, part_seed = min(PART_SAMPLES, samples - begin), 1000 * seed + number
        name = '-'.join([str(part_seed), str(count), *sorted(without)])
        path = None if kept is None else kept / f'{name}.pt'
        if path is not None and path.is_file():
            values, truth = torch.load(path, weights_only=True)
            parts.append(Synthetic(Readings(**values), truth))
            continue
        part = synthetic_readings(networks, count, part_seed, without)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path, DatasetError) as file:
                torch.save((vars(part.readings), part.truth), file)
        parts.append(part)
    return Synthetic(joined([part.readings for part in parts]), torch.cat([part.truth for part in parts]))


def recorded_crops(bag: Path, hands: int) -> tuple[list[Crop], list[tuple[int, int]], int]:
    """All hands of a recording in the crops of the live pipeline, set and track of each, and the number of sets.
    hands: 1 for the right one, 2 for both."""
    settings = EstimatorSettings(method='landmarks', covariance_head='none', handedness='both' if hands > 1 else 'right',
                                 device='cpu', threads=1, view_health=False)
    crops: list[Crop] = []
    owners: list[tuple[int, int]] = []
    sets = 0
    for frames, result, *_ in replayed(bag, settings):
        for hand in result.hands:
            for name, reading in result.readings_of(hand).views.items():
                if reading.valid.any():
                    crops.append(cut_crop(frames.views[name], reading.box_px, hand.handedness, HAND_SIZE))
                    owners.append((sets, hand.track_id))
        sets += 1
    return crops, owners, sets


def replayed(bag: Path, settings: EstimatorSettings) -> Iterator[Processed]:
    """The sets of a recording, and what the live pipeline says of them. Raises HandUncError with the remedy."""
    with open_bag(bag) as opened:
        of_bag = BagSettings(settings)
        calibrated = find_calibration(opened, of_bag)
        estimator = build_estimator(settings, tuple(find_images(opened, calibrated, of_bag)))
        yield from Replay(opened, calibrated, of_bag, estimator)


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


def taught_by_renderings(synthetic: Synthetic, seed: int, steps: int, shift_width: int = SHIFT_WIDTH,
                         search_width: int = SEARCH_WIDTH) -> LandmarkErrors:
    """A head whose experts learned from synthetic crops. shift_width, search_width: see LandmarkErrorsConfig."""
    torch.manual_seed(seed)
    head = LandmarkErrors(LandmarkErrorsConfig(shift_width=shift_width, search_width=search_width))
    for expert in head.experts():
        _fit(head, expert, synthetic, synthetic.rows(sigma=False), [], steps, SYNTHETIC_RATE)
    return head


def taught_by_recordings(head: LandmarkErrors, synthetic: Synthetic, recordings: Sequence[Pairs],
                         steps: Steps) -> LandmarkErrors:
    """A head that goes on learning, from recordings as well, if there are any; the one that is given stays as it is.

    Shifts that were learned from a hand leave less of its errors than those of a hand that was not seen, and σ by them
    would be too small. So σ are learned from what shifts leave that came from the other half of each recording, and from
    rendered crops that taught none."""
    def taught(parts: Sequence[Pairs]) -> LandmarkErrors:
        other = copy.deepcopy(head)
        for expert in other.experts() if parts else ():
            if expert.by_recordings:
                _fit(other, expert, synthetic, synthetic.rows(sigma=False), parts, steps.recorded, RECORDED_RATE)
        return other

    halves = [pairs.halves() for pairs in recordings]
    seen = [taught([pair[side] for pair in halves]) for side in (0, 1)]
    settled = [replace(pairs, residual=torch.cat([_left(seen[1 - side], half) for side, half in enumerate(pair)]))
               for pairs, pair in zip(recordings, halves)]
    last = taught(recordings)
    rows = synthetic.rows(sigma=True)
    truth = synthetic.truth.clone()
    with torch.no_grad():
        for part in rows.split(SYNTHETIC_BATCH):
            truth[part] -= last.shift(synthetic.readings.evidence(part))
    of_sigma = Expert(last.sigma_alone, last.sigma_parameters(), by_recordings=True)
    _fit(last, of_sigma, synthetic._replace(truth=truth), rows, settled, steps.sigma, RECORDED_RATE)
    return last


@torch.no_grad()
def _left(head: LandmarkErrors, pairs: Pairs) -> Tensor:
    """(P, 21), the residuals that a head's shifts leave."""
    return torch.cat([pairs.claims(head, part).residual for part in torch.arange(len(pairs.rows)).split(REAL_BATCH)])


def _fit(head: LandmarkErrors, expert: Expert, synthetic: Synthetic, known: Tensor, recordings: Sequence[Pairs],
         steps: int, rate: float) -> None:
    """Let one expert of a head learn. known: rows of the synthetic crops that teach."""
    head.train()
    dtype = choose_precision('auto', torch.device('cpu'))

    def says(evidence: LandmarkEvidence) -> Errors:
        with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
            shift, log_sigma = expert.says(evidence)
        return shift.float(), log_sigma.float()

    def of_synthetic() -> Tensor:
        rows = known[torch.randint(len(known), (SYNTHETIC_BATCH,))]
        evidence = synthetic.readings.evidence(rows)
        shift, log_sigma = says(evidence)
        left = synthetic.truth[rows] - evidence.landmarks - shift
        return student_nll(left.square() * (-2 * log_sigma).exp(), 2 * log_sigma)

    def of_recording(pairs: Pairs) -> Tensor:
        chosen = torch.randint(len(pairs.rows), (REAL_BATCH,))
        return pairs.nll(pairs.claims(says, chosen), chosen)

    optimiser = torch.optim.AdamW(expert.learned, lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in tqdm(range(steps), desc='steps', disable=None):
        loss = of_synthetic() + sum(map(of_recording, recordings)) / max(1, len(recordings))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expert.learned, MOST_GRADIENT)
        optimiser.step()
        schedule.step()
    head.eval()


def _recording(text: str) -> tuple[Path, tuple[float, float], int]:
    path, *rest = text.split(':')
    hands = int(rest[2]) if len(rest) > 2 else 1
    return Path(path), (float(rest[0]), float(rest[1])) if len(rest) > 1 else (0.0, 1.0), hands


def _tell(name: str, head: LandmarkErrors, recordings: Sequence[tuple], pairs: Sequence[Pairs]) -> None:
    for (path, share, _), of_recording in zip(recordings, pairs):
        print(json.dumps({'head': name, 'recording': path.name, 'share': share,
                          **{key: round(value, 3) for key, value in scores(head, of_recording).items()}}), flush=True)


def main() -> None:
    """The command: fit a head, judge it and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--synthetic', type=int, default=4800, metavar='N', help='samples of four views (default 4800)')
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='of what the network says of synthetic crops, for the'
                        ' next time; remove it where scenes have changed')
    parser.add_argument('--without', nargs='+', choices=INGREDIENTS, default=(), metavar='INGREDIENT',
                        help='leave out of the synthetic scenes, to see what it is worth: ' + ', '.join(INGREDIENTS))
    parser.add_argument('--fit', type=_recording, action='append', default=[], metavar='BAG[:FROM:TO[:HANDS]]',
                        help='learn from these shares of a recording with rig.yaml in its folder')
    parser.add_argument('--judge', type=_recording, action='append', default=[], metavar='BAG[:FROM:TO[:HANDS]]')
    parser.add_argument('--steps', type=int, nargs=3, default=Steps(), metavar=('SYNTHETIC', 'RECORDED', 'SIGMA'),
                        help='on synthetic crops, with recordings as well, and of the variances alone after that (default'
                        f' {" ".join(map(str, Steps()))})')
    parser.add_argument('--shift-width', type=int, default=SHIFT_WIDTH,
                        help=f'of the layers that tell shifts by features (default {SHIFT_WIDTH}); 0: none')
    parser.add_argument('--search-width', type=int, default=SEARCH_WIDTH,
                        help=f'of the maps that are searched for shifts (default {SEARCH_WIDTH}); 0: none')
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
    synthetic = synthetic_parts(networks, args.synthetic, args.seed, args.keep, args.without)
    fit = [recorded_pairs(networks, *recording) for recording in args.fit]
    judge = [recorded_pairs(networks, *recording) for recording in args.judge]
    steps = Steps(*args.steps)
    head = taught_by_renderings(synthetic, args.seed, steps.synthetic, args.shift_width, args.search_width)
    _tell('synthetic only', head, args.fit + args.judge, fit + judge)
    head = taught_by_recordings(head, synthetic, fit, steps)
    _tell('with recordings and their σ' if fit else 'with their σ', head, args.fit + args.judge, fit + judge)
    if args.output is not None:
        save_network(args.output, head, head.config.to_dict())


if __name__ == '__main__':
    main()
