"""A per-view stage on crops of recorded hands: `python benchmarks/real_views.py BAG WEIGHTS...`.

The crops are those of the live pipeline with `method: landmarks`. Of every stage and of MediaPipe's landmark network
itself: how well the views of a hand agree across their epipolar lines (median and 90th percentile, px of a crop of the
stage's size: the least move of both landmarks that makes their rays meet), and how far its joints lie from MediaPipe's
landmarks, which saw real hands and are no truth (median and 90th percentile, % of the crop's side).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from hand_unc_ros.experiments.landmark_errors import read, recorded_crops
from hand_unc_ros.hand.joints import to_public
from hand_unc_ros.methods.contract import Crop
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.gaussian_2d import CONFIGS, Gaussian2DNet, cells_to_pixels, read_view_state
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_models import landmark_models
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
from hand_unc_ros.networks.landmark_pairs import Pairs, epipolar, same_hands
from hand_unc_ros.networks.weights import load_into

SIZE = 'lite'


@torch.inference_mode()
def joints_of(weights: Path, crops: Sequence[Crop]) -> torch.Tensor:
    """(N, 21, 2) px of the crops as they are, (HAND_SIZE, HAND_SIZE)."""
    network = Gaussian2DNet(CONFIGS[SIZE])
    load_into(network, read_view_state(weights), str(weights))
    network.eval()
    side = network.config.image_size
    images = np.stack([cv2.resize(crop.image, (side, side), interpolation=cv2.INTER_AREA) for crop in crops])
    cells = torch.cat([network(image_tensor(part)).mean for part in torch.from_numpy(images).split(32)])
    return (cells_to_pixels(cells, side) + 0.5) * HAND_SIZE / side - 0.5


def spread(values: np.ndarray) -> list[float]:
    """Median and 90th percentile."""
    return np.percentile(values, [50, 90]).round(2).tolist()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bag', type=Path, metavar='BAG', help='with rig.yaml in its folder')
    parser.add_argument('weights', type=Path, nargs='+', metavar='WEIGHTS',
                        help=f"of a per-view stage of size '{SIZE}', alone or in a whole network")
    parser.add_argument('--hands', type=int, choices=(1, 2), default=1, help='1: the right one (default), 2: both')
    args = parser.parse_args()
    torch.set_num_threads(1)
    stored = landmark_models()
    if stored is None:
        parser.error('the networks are missing; fetch them with `hand-unc models get landmarks`')
    crops, owners, _ = recorded_crops(args.bag, args.hands)
    readings = read(LandmarkNetworks(*stored), [crop.image for crop in crops])
    rows = torch.tensor(list(same_hands(readings, owners, range(len(crops)))))
    seen = rows.unique()
    K = torch.from_numpy(np.stack([crop.K for crop in crops]))
    poses = torch.from_numpy(np.stack([crop.camera_from_world for crop in crops]))
    known = torch.from_numpy(to_public(readings.landmarks.numpy(), 'mediapipe'))
    said = {'MediaPipe': known, **{str(path): joints_of(path, crops) for path in args.weights}}
    scale = CONFIGS[SIZE].image_size / HAND_SIZE
    for name, joints in said.items():
        pairs = Pairs(readings, rows, *epipolar(joints, K, poses, rows))
        across = pairs.residual.abs() / pairs.scale
        apart = (joints - known)[seen].norm(dim=-1) / HAND_SIZE
        print(json.dumps({'stage': name, 'pairs': len(rows), 'across_px': spread(scale * across.numpy()),
                          'from_mediapipe_percent': spread(100 * apart.numpy())}), flush=True)


if __name__ == '__main__':
    main()
