"""Colour and spectrum of synthetic and real crops: `python -m hand_unc_ros.experiments.look_statistics --help`.

Of every set of crops of 224 px: mean and standard deviation of the channels, saturation, luma histogram, and the radial
amplitude spectrum. Real crops are those of the live pipeline. Numbers go to `look.json`, the plot to `look.png`, 64
synthetic crops to `synthetic.png`; printed as well is what the landmark network, which knows real hands, makes of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from hand_unc_ros.data.samples import SampleView
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.data.synthetic.photographs import backgrounds_from_folder
from hand_unc_ros.data.synthetic.spectrum import LUMA_DISPLAY, profile_slope, radial_profile
from hand_unc_ros.errors import ConfigError, DatasetError
from hand_unc_ros.experiments.landmark_errors import jittered, read, recorded_crops
from hand_unc_ros.files import replace_file, write_file
from hand_unc_ros.hand import crops as boxes
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST, from_public
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import box_of_landmarks
from hand_unc_ros.networks.landmark_models import landmark_models
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
from hand_unc_ros.networks.landmark_pairs import LEAST_PRESENCE
from hand_unc_ros.networks.placement import choose_precision

MOST_CROPS = 400
HISTOGRAM_BINS = 16
SYNTHETIC_VIEWS = 4
# Levels at these frequencies, cycles per pixel, tell blur and noise; below are shapes.
BAND = (0.3, 0.45)


class SyntheticCrops(NamedTuple):
    """images: (N, 224, 224, 3) uint8 RGB.  landmarks: (N, 21, 2) px, MediaPipe's order.  palm_px: (N,) length of the
    palm, from the wrist to the middle knuckle, as it would be seen face on."""

    images: np.ndarray
    landmarks: np.ndarray
    palm_px: np.ndarray


def synthetic_crops(samples: int, seed: int, photographs: Sequence[np.ndarray] = (), plain: bool = False,
                    hand: str | None = ANNY) -> SyntheticCrops:
    """Rendered hands, cut about their landmarks as the live pipeline does. plain: hands by themselves alone, which
    nothing hides.  hand: as `load_hand_model` names it."""
    settings = MultiviewSettings(image_size=HAND_SIZE, absent=0.0)
    if plain:
        settings = replace(settings, objects=(1.0,), alone_holding_both=(1.0, 0.0, 0.0))
    source = MultiviewSamples(load_hand_model(hand), seed, settings, photographs)
    rng = np.random.default_rng(seed)
    # Apart, since the first samples share few backgrounds.
    drawn = (source.sample(5 * index, SYNTHETIC_VIEWS) for index in range(samples))
    return cut(rng, ((view, sample.joints) for sample in drawn for view in sample.views))


def cut(rng: np.random.Generator, views: Iterable[tuple[SampleView, np.ndarray]]) -> SyntheticCrops:
    """Views and the joints (21, 3) metres of the hand that each shows, cut with the errors of the live pipeline."""
    images, landmarks, palms = [], [], []
    for view, joints in views:
        box = jittered(rng, box_of_landmarks(view.joints_px))
        K = crop_intrinsics(view.camera, box, HAND_SIZE)
        images.append(cut_pinhole(view.read(), view.camera, K, HAND_SIZE))
        px = boxes.transform(boxes.crop_from_image(box, HAND_SIZE), view.joints_px)
        landmarks.append(from_public(px, 'mediapipe'))
        depth = view.camera.project(joints)[1][MIDDLE_MCP]
        palm = np.linalg.norm(joints[MIDDLE_MCP] - joints[WRIST])
        palms.append(np.sqrt(np.linalg.det(K[:2, :2])) * palm / depth)
    return SyntheticCrops(np.stack(images), np.stack(landmarks), np.array(palms))


def agreement(crops: SyntheticCrops) -> dict[str, float]:
    """How real the landmark network takes rendered hands for: the share in which it sees a hand, the share of these
    that it calls right ones, and the median over crops of its mean error, px and palm lengths."""
    readings = read(networks(), crops.images)
    seen = (readings.presence >= LEAST_PRESENCE).numpy()
    error = np.linalg.norm(readings.landmarks.numpy() - crops.landmarks, axis=-1).mean(axis=1)
    return {'seen': round(float(seen.mean()), 3), 'right': round(float((readings.right.numpy()[seen] > 0.5).mean()), 3),
            'error_px': round(float(np.median(error[seen])), 2),
            'error_palms': round(float(np.median((error / crops.palm_px)[seen])), 4)}


def networks() -> LandmarkNetworks:
    """Those of landmarks, without an error head. Raises ConfigError where they are missing."""
    models = landmark_models()
    if models is None:
        raise ConfigError('the landmark networks are missing (hand-unc models get landmarks)')
    return LandmarkNetworks(*models, torch.device('cpu'), choose_precision('auto', torch.device('cpu')))


def sheet(path: Path, images: np.ndarray, columns: int = 8) -> None:
    """The first crops as one picture of `columns` by as many rows as they fill."""
    columns = min(columns, len(images))
    rows = [np.hstack(images[begin:begin + columns]) for begin in range(0, len(images) - columns + 1, columns)]
    write_file(path, cv2.imencode('.png', cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))[1].tobytes())


def folder_crops(folder: Path) -> np.ndarray:
    """(N, 224, 224, 3) uint8 RGB: photographs of hands, one each, scaled as they are."""
    files = sorted(path for path in Path(folder).rglob('*') if path.suffix.lower() in ('.jpg', '.jpeg', '.png'))
    read = [cv2.imread(str(path)) for path in _some(files)]
    if not read or any(image is None for image in read):
        raise DatasetError(f'{folder}: no photographs, or one that OpenCV does not read')
    return np.stack([cv2.cvtColor(cv2.resize(image, (HAND_SIZE, HAND_SIZE), interpolation=cv2.INTER_LINEAR),
                                  cv2.COLOR_BGR2RGB) for image in read])


def statistics(crops: np.ndarray) -> dict[str, object]:
    """Of crops (N, S, S, 3) uint8. Percentiles 10, 50 and 90 are over crops; levels are log10 amplitudes, see
    `spectrum.radial_profile`."""
    values = crops.astype(np.float32)
    highest = values.max(axis=3)
    saturation = ((highest - values.min(axis=3)) / np.maximum(highest, 1)).mean(axis=(1, 2))
    luma = values @ LUMA_DISPLAY
    profiles = np.stack([radial_profile(crop)[1] for crop in crops])
    frequency = radial_profile(crops[0])[0]
    band = (frequency >= BAND[0]) & (frequency <= BAND[1])
    return {'crops': len(crops),
            'mean': values.mean(axis=(0, 1, 2)).round(1).tolist(),
            'std_within': values.std(axis=(1, 2)).mean(axis=0).round(1).tolist(),
            'mean_luma': _percentiles(luma.mean(axis=(1, 2)), 1), 'std_luma': _percentiles(luma.std(axis=(1, 2)), 1),
            'saturation': _percentiles(saturation, 3),
            'luma_histogram': (np.histogram(luma, HISTOGRAM_BINS, (0, 256))[0] / luma.size).round(4).tolist(),
            'slope': _percentiles(np.array([profile_slope(crop) for crop in crops]), 3),
            'fine_level': _percentiles(profiles[:, band].mean(axis=1), 3),
            'frequency': frequency.round(4).tolist(),
            'profile': np.percentile(profiles, [10, 50, 90], axis=0).round(3).tolist()}


def distance(one: dict[str, object], other: dict[str, object]) -> dict[str, float]:
    """Between two sets: mean absolute difference of the median spectra (decades), and earth mover's distance of the
    luma histograms (display units of 255)."""
    spectra = np.abs(np.array(one['profile'][1]) - np.array(other['profile'][1]))
    histograms = np.cumsum(np.array(one['luma_histogram']) - np.array(other['luma_histogram']))
    return {'spectrum': float(spectra.mean().round(3)),
            'luma': float((np.abs(histograms).sum() * 256 / HISTOGRAM_BINS).round(1))}


def plot(path: Path, sets: dict[str, dict[str, object]]) -> None:
    """Spectra with their 10 to 90 % range, and luma histograms."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    for name, stats in sets.items():
        line, = left.plot(stats['frequency'], stats['profile'][1], label=name)
        left.fill_between(stats['frequency'], stats['profile'][0], stats['profile'][2], alpha=0.12,
                          color=line.get_color())
        right.step((np.arange(HISTOGRAM_BINS) + 0.5) * 256 / HISTOGRAM_BINS, stats['luma_histogram'], where='mid',
                   label=name)
    left.set(xscale='log', xlabel='cycles per pixel', ylabel='log10 amplitude', title='radial amplitude spectrum')
    right.set(xlabel='luma', ylabel='share of pixels', title='luma histogram')
    left.legend()
    figure.tight_layout()
    with replace_file(path) as file:
        figure.savefig(file, format='png', dpi=110)
    pyplot.close(figure)


def _some(items: Sequence) -> list:
    """At most MOST_CROPS of them, drawn without replacement."""
    chosen = np.random.default_rng(0).permutation(len(items))[:MOST_CROPS]
    return [items[k] for k in chosen]


def _percentiles(values: np.ndarray, digits: int) -> list[float]:
    return np.percentile(values, [10, 50, 90]).round(digits).tolist()


def recording(text: str) -> tuple[Path, int]:
    """Bag and number of hands of a command's argument."""
    path, _, hands = text.partition(':')
    return Path(path), int(hands or 1)


def main() -> None:
    """The command: statistics of recordings, of folders of photographs, and of synthetic crops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--recording', type=recording, action='append', default=[], metavar='BAG[:HANDS]',
                        help='a bag with rig.yaml in its folder; HANDS is 1 for the right one (default), 2 for both')
    parser.add_argument('--photographs', type=Path, action='append', default=[], metavar='FOLDER',
                        help='photographs of one hand each')
    parser.add_argument('--backgrounds', type=Path, metavar='FOLDER',
                        help='photographs to take backgrounds of synthetic images from besides')
    parser.add_argument('--samples', type=int, default=60, metavar='N',
                        help='synthetic samples of four views (default 60)')
    parser.add_argument('--hand', default=ANNY, help=f"{ANNY} (default), {STANDIN} or a converted MANO")
    parser.add_argument('--plain', action='store_true', help='hands by themselves, which nothing hides')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FOLDER')
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    sets = {}
    for bag, hands in args.recording:
        sets[bag.name] = statistics(np.stack([crop.image for crop in _some(recorded_crops(bag, hands)[0])]))
    for folder in args.photographs:
        sets[folder.name] = statistics(folder_crops(folder))
    backgrounds = backgrounds_from_folder(args.backgrounds) if args.backgrounds is not None else ()
    hand = None if args.hand == STANDIN else args.hand
    crops = synthetic_crops(args.samples, args.seed, backgrounds, args.plain, hand)
    sheet(args.output / 'synthetic.png', crops.images[:64])
    if landmark_models() is not None:
        print(json.dumps({'landmark_network': agreement(crops)}), flush=True)
    synthetic = statistics(crops.images)
    distances = {name: distance(synthetic, stats) for name, stats in sets.items()}
    sets['synthetic'] = synthetic
    for name, stats in sets.items():
        shown = {key: value for key, value in stats.items() if key not in ('frequency', 'profile', 'luma_histogram')}
        print(json.dumps({'set': name, **shown, **{f'distance_{key}': value
                                                   for key, value in distances.get(name, {}).items()}}), flush=True)
    write_file(args.output / 'look.json', json.dumps({'sets': sets, 'distances': distances}, indent=1) + '\n')
    plot(args.output / 'look.png', sets)


if __name__ == '__main__':
    main()
