"""Hands in single cameras: found as palms, then followed from image to image by their own landmarks.

Each camera by itself, without a rig: where views know nothing of each other yet, and for labels on recordings. Where a
hand's 3D joints are followed, crops come from their prediction instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import to_public
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole
from hand_unc_ros.methods.contract import View
from hand_unc_ros.networks.landmark_boxes import box_of_landmarks, box_of_palm
from hand_unc_ros.networks.landmark_networks import PRESENCE_THRESHOLD, LandmarkNetworks
from hand_unc_ros.networks.blaze_hand import HAND_SIZE

# Hands whose landmarks lie closer than this share of their box, in the median, are the same hand.
SAME_HAND_SHARE = 0.12


@dataclass(frozen=True)
class SeenHand:
    """A hand in one image. joints_px: (21, 2) in pixels of the full, distorted image, also outside of it, NaN where the
    lens model does not hold.  presence: probability of a hand.  right: probability of a right one.
    box_px: (4,) of the crop it was read from, and ideal_px: (21, 2), in pixels without lens distortion."""

    joints_px: np.ndarray
    ideal_px: np.ndarray
    box_px: np.ndarray
    presence: float
    right: float


class ImageHandTracker:
    """Follows up to `max_hands` hands in each camera, and searches images with fewer for others."""

    def __init__(self, networks: LandmarkNetworks, max_hands: int = 1) -> None:
        self.networks = networks
        self.max_hands = max_hands
        self._followed: dict[str, list[np.ndarray]] = {}

    def reset(self) -> None:
        """Forget the hands, after a jump in time."""
        self._followed.clear()

    def update(self, views: Mapping[str, View]) -> dict[str, list[SeenHand]]:
        """Each camera's hands, the surest first."""
        boxes = {name: self._followed.get(name, []) for name in views}
        hands = self._read(views, boxes)
        short = [name for name in views if len(hands[name]) < self.max_hands]
        palms = self.networks.find([views[name].image for name in short])
        found = {name: [box for palm in seen if np.isfinite(box := box_of_palm(palm, views[name].camera)).all()]
                 for name, seen in zip(short, palms)}
        for name, more in self._read(views, found).items():
            hands[name] = self._distinct(hands[name] + more)
        self._followed |= {name: [box_of_landmarks(hand.ideal_px) for hand in seen] for name, seen in hands.items()}
        return hands

    def _read(self, views: Mapping[str, View],
              boxes: Mapping[str, list[np.ndarray]]) -> dict[str, list[SeenHand]]:
        jobs = [(name, box) for name in views for box in boxes.get(name, ())]
        images = [_cut(views[name], box) for name, box in jobs]
        hands: dict[str, list[SeenHand]] = {name: [] for name in views}
        if not jobs:
            return hands
        out = self.networks.read(np.stack(images))
        for (name, box), landmarks, presence, right in zip(jobs, out.landmarks, out.presence, out.handedness):
            if presence < PRESENCE_THRESHOLD:
                continue
            camera = views[name].camera
            ideal = crops.transform(crops.image_from_crop(box, HAND_SIZE), to_public(landmarks, 'mediapipe'))
            xy = (ideal - camera.K[:2, 2]) @ np.linalg.inv(camera.K[:2, :2]).T
            hands[name].append(SeenHand(camera.denormalise(xy), ideal, box, float(presence), float(right)))
        return {name: self._distinct(seen) for name, seen in hands.items()}

    def _distinct(self, hands: list[SeenHand]) -> list[SeenHand]:
        kept: list[SeenHand] = []
        for hand in sorted(hands, key=lambda hand: -hand.presence):
            apart = (np.median(np.linalg.norm(hand.ideal_px - other.ideal_px, axis=1)) / other.box_px[2]
                     for other in kept)
            if all(share > SAME_HAND_SHARE for share in apart):
                kept.append(hand)
        return kept[:self.max_hands]


def _cut(view: View, box: np.ndarray) -> np.ndarray:
    return cut_pinhole(view.image, view.camera, crop_intrinsics(view.camera, box, HAND_SIZE), HAND_SIZE)
