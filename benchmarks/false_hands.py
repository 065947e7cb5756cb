"""Hands where there are none: `python benchmarks/false_hands.py [BAG...] [--rooms N]`.

Every hand of a recording that the pipeline or the detector finds in any image is painted over with its surroundings, in the
sets before and after as well. What the pipeline still publishes then is a false hand, or one that was never found: faces,
necks, arms and furniture stay in view. Rooms are synthetic: four webcams each, with things before them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from hand_unc_ros.api import HandTracker, Recording, load_bag
from hand_unc_ros.data.synthetic import shapes
from hand_unc_ros.data.synthetic.filming import Exposure
from hand_unc_ros.data.synthetic.rasteriser import Projection, merge
from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.landmark_tracker import ImageHandTracker
from hand_unc_ros.networks.landmark_models import landmark_models
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks

# A hand is covered by discs about its joints, of this share of its extent; painting works on images so much smaller.
REACH, SMALLER = 0.25, 4
# Hands of an image that are looked for, and sets before and after in which they are covered too.
HANDS, AROUND = 4, 1
# Of a room: sets, things before its cameras, and the time between sets.
ROOM_SETS, ROOM_THINGS, PERIOD_NS = 6, 4, 33_000_000

Masks = dict[str, list[np.ndarray]]


def hands_of(recording: Recording) -> list[Masks]:
    """Of every set and camera, joints (21, 2) px of what may be hands."""
    networks = LandmarkNetworks(*landmark_models())
    detector = ImageHandTracker(networks, HANDS)
    found: list[Masks] = []
    with HandTracker(recording.rig, handedness='both') as tracker:
        for frames in recording:
            published = tracker.process(frames.images, frames.stamp_ns).hands
            views = {name: View(recording.rig[name], image, frames.stamp_ns) for name, image in frames.images.items()}
            seen = detector.update(views)
            found.append({name: [hand.joints_px for hand in seen[name]]
                          + [view.camera.project(hand.joints[hand.valid])[0] for hand in published]
                          for name, view in views.items()})
    return found


def painted(image: np.ndarray, hands: Sequence[np.ndarray]) -> np.ndarray:
    """The image (H, W, 3) uint8 with the hands covered."""
    height, width = image.shape[:2]
    mask = np.zeros((height // SMALLER, width // SMALLER), np.uint8)
    for joints in hands:
        joints = joints[np.isfinite(joints).all(axis=1)]
        joints = joints[(np.abs(joints) < 4 * max(width, height)).all(axis=1)]
        if not len(joints):
            continue
        points = np.round(joints / SMALLER).astype(np.int32)
        radius = max(2, int(REACH * np.ptp(joints, axis=0).max() / SMALLER))
        cv2.fillConvexPoly(mask, cv2.convexHull(points), 255)
        for point in points:
            cv2.circle(mask, tuple(map(int, point)), radius, 255, -1)
    if not mask.any():
        return image
    small = cv2.inpaint(cv2.resize(image, mask.shape[::-1], interpolation=cv2.INTER_AREA), mask, 3, cv2.INPAINT_TELEA)
    full = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)[..., None] > 0
    return np.where(full, cv2.resize(small, (width, height)), image)


def judge(bag: Path, save: Path | None) -> dict[str, object]:
    """How many sets of a masked recording give a hand. save: folder for the images of those that do."""
    recording = load_bag(bag)
    found = hands_of(recording)
    sets, false = 0, []
    with HandTracker(recording.rig, handedness='both') as tracker:
        for number, frames in enumerate(recording):
            near = found[max(0, number - AROUND):number + AROUND + 1]
            images = {name: painted(image, [hand for masks in near for hand in masks.get(name, ())])
                      for name, image in frames.images.items()}
            hands = tracker.process(images, frames.stamp_ns).hands
            sets += 1
            if not hands:
                continue
            false.append(number)
            if save is not None:
                save.mkdir(parents=True, exist_ok=True)
                for name, image in images.items():
                    for hand in hands:
                        for point in recording.rig[name].project(hand.joints[hand.valid])[0]:
                            if np.isfinite(point).all():
                                cv2.circle(image, tuple(int(value) for value in point.clip(-9, 9999)), 4, (0, 255, 0), -1)
                    cv2.imwrite(str(save / f'{bag.name}_{number}_{name}.jpg'), image[..., ::-1])
    return {'recording': bag.name, 'sets': sets, 'with a hand': len(false), 'which': false}


def judge_rooms(count: int, seed: int) -> dict[str, object]:
    """How many sets of synthetic rooms give a hand; their things stay where they are, their noise does not."""
    model, false = load_hand_model(ANNY), []
    for number in range(count):
        scene = Scene(model, ring_of_cameras(4, seed=seed + number), seed + number, SceneSettings(clutter=ROOM_THINGS))
        centre = scene.truth(0.0)[0][[0, 5, 9, 13, 17]].mean(axis=0)
        things = [shapes.placed(thing, rotation, centre + offset)
                  for thing, (rotation, offset) in zip(scene.objects, scene.placings)]
        lit, points = scene.cameras.lit(things), merge(things).vertices.astype(np.float64)
        with HandTracker(scene.rig, handedness='both') as tracker:
            for moment in range(ROOM_SETS):
                images = {camera.name: scene.cameras.image(lit, Exposure(
                    place, Projection(*camera.project(points), camera.centre), np.zeros(2),
                    np.random.default_rng((seed, number, moment, place)))) for place, camera in enumerate(scene.rig)}
                if tracker.process(images, moment * PERIOD_NS).hands:
                    false.append([seed + number, moment])
    return {'rooms': count, 'sets': count * ROOM_SETS, 'with a hand': len(false), 'which': false}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bags', type=Path, nargs='*', metavar='BAG', help='recording with rig.yaml in its folder')
    parser.add_argument('--rooms', type=int, default=0, metavar='N', help='synthetic rooms as well')
    parser.add_argument('--seed', type=int, default=0, help='of the first room')
    parser.add_argument('--save', type=Path, metavar='FOLDER', help='for the images of sets that give a hand')
    args = parser.parse_args()
    if landmark_models() is None:
        parser.error('the networks are missing; fetch them with `hand-unc models get landmarks`')
    for bag in args.bags:
        print(json.dumps(judge(bag, args.save)), flush=True)
    if args.rooms:
        print(json.dumps(judge_rooms(args.rooms, args.seed)), flush=True)


if __name__ == '__main__':
    main()
