"""Rendered hands beside photographs of the same postures: `python -m hand_unc_ros.experiments.like_poses --help`.

Hands of recordings are posed as their joints say, and filmed by cameras where the real ones stood. What the landmark
network makes of both tells how real rendered hands look to it, apart from postures and views that are hard for it anywhere.
Crops of photographs and of renderings are drawn alike, about the joints. Rendered hands hold nothing and nothing hides them,
so that the comparison is fair for recordings of hands by themselves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.experiments.landmark_errors import jittered, read, replayed
from hand_unc_ros.experiments.look_statistics import SyntheticCrops, agreement, cut, networks, recording, sheet
from hand_unc_ros.files import write_file
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.fitting import HandFit, load_hand_fitter
from hand_unc_ros.hand.joints import from_public
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole, mirror_view
from hand_unc_ros.methods.contract import View
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import box_of_landmarks
from hand_unc_ros.networks.landmark_pairs import LEAST_PRESENCE

# A photograph is compared where the whole hand is this far inside its image, px.
BORDER_PX = 8.0
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


class Posed(NamedTuple):
    """A recorded hand as a right one. fit: of Anny's hand.  poses: world_from_camera (4, 4) of the cameras whose images
    have all of it; photographs: (V, 224, 224, 3) uint8 RGB of them, landmarks: (V, 21, 2) px, where the fit's joints
    are in these, MediaPipe's order."""

    fit: HandFit
    poses: list[np.ndarray]
    photographs: np.ndarray
    landmarks: np.ndarray


def posed_hands(bag: Path, hands: int, seed: int, every: int) -> list[Posed]:
    """The hands of every so many sets of a recording that several views show. hands: 1 for the right one, 2 for both."""
    settings = EstimatorSettings(method='landmarks', handedness='both' if hands > 1 else 'right', device='cpu', threads=1,
                                 view_health=False)
    rng, fitter = np.random.default_rng(seed), load_hand_fitter(ANNY, 'right')
    found: list[Posed] = []
    for number, (frames, result, *_) in enumerate(replayed(bag, settings)):
        for hand in result.hands if number % every == 0 else ():
            flip = np.diag(MIRROR)[:3] if hand.handedness == 'left' else np.ones(3)
            spread = np.tile(flip, len(hand.joints))
            fit = fitter.fit(hand.joints * flip, hand.covariance * np.outer(spread, spread), hand.valid)
            views = () if fit is None else [
                seen for name in result.readings_of(hand).views
                if (seen := _seen(rng, frames.views[name], fit, flip)) is not None]
            if views:
                poses, photographs, landmarks = zip(*views)
                found.append(Posed(fit, list(poses), np.stack(photographs), np.stack(landmarks)))
    return found


def _seen(rng: np.random.Generator, view: View, fit: HandFit,
          flip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Pose, photograph and landmarks of one view, see Posed; None where it has not all of the hand."""
    camera = view.camera
    px, depth = camera.project(fit.joints * flip)
    inside = (px > BORDER_PX) & (px < np.array([camera.width, camera.height]) - BORDER_PX)
    if not inside.all() or depth.min() <= 0:
        return None
    K = crop_intrinsics(camera, jittered(rng, box_of_landmarks(px)), HAND_SIZE)
    photograph = cut_pinhole(view.image, camera, K, HAND_SIZE)
    landmarks = camera.normalise(px) @ K[:2, :2].T + K[:2, 2]
    pose = camera.world_from_camera
    if flip[0] < 0:
        photograph, landmarks, *_ = mirror_view(photograph, landmarks, K, camera.camera_from_world[:3])
        pose = MIRROR @ pose @ MIRROR
    return pose, photograph, from_public(landmarks, 'mediapipe')


def rendered(hands: Sequence[Posed], seed: int) -> SyntheticCrops:
    """The same hands before the same cameras, each with a person, light, room and webcam of its own."""
    source = MultiviewSamples(load_hand_model(ANNY), seed, MultiviewSettings(image_size=HAND_SIZE, absent=0.0))
    filmed = ((view, hand.fit.joints) for number, hand in enumerate(hands)
              for view in source.given(5 * number, hand.fit.vertices, hand.fit.joints, hand.poses))
    return cut(np.random.default_rng(seed), filmed)


def compare(hands: Sequence[Posed], seed: int) -> tuple[dict[str, object], SyntheticCrops]:
    """crops: how many of each kind.  rendered: see look_statistics.agreement.  photographed: seen, the share in which the
    network sees a hand, and error_palms, the median distance of its landmarks from the joints that it has told itself.
    And the rendered crops."""
    crops = rendered(hands, seed)
    photographs = np.concatenate([hand.photographs for hand in hands])
    readings = read(networks(), photographs)
    seen = (readings.presence >= LEAST_PRESENCE).numpy()
    off = np.linalg.norm(readings.landmarks.numpy() - np.concatenate([hand.landmarks for hand in hands]), axis=-1)
    return {'crops': len(photographs), 'rendered': agreement(crops),
            'photographed': {'seen': round(float(seen.mean()), 3),
                             'error_palms': round(float(np.median((off.mean(1) / crops.palm_px)[seen])), 4)}}, crops


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--recording', type=recording, action='append', required=True, metavar='BAG[:HANDS]',
                        help='a bag with rig.yaml in its folder; HANDS is 1 for the right one (default), 2 for both')
    parser.add_argument('--every', type=int, default=1, metavar='N', help='take the hands of every N-th set (default 1)')
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='FOLDER')
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    numbers = {}
    for bag, hands in args.recording:
        posed = posed_hands(bag, hands, args.seed, args.every)
        numbers[bag.name], crops = compare(posed, args.seed)
        print(json.dumps({'recording': bag.name, **numbers[bag.name]}), flush=True)
        both = np.stack([np.concatenate([hand.photographs for hand in posed]), crops.images], axis=1)
        sheet(args.output / f'{bag.name}.png', both[np.linspace(0, len(both) - 1, min(32, len(both))).astype(int)]
              .reshape(-1, HAND_SIZE, HAND_SIZE, 3))
    write_file(args.output / 'like_poses.json', json.dumps(numbers, indent=1) + '\n')


if __name__ == '__main__':
    main()
