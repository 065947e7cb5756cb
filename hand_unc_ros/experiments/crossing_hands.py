"""Two scripted hands that cross, through the estimator: how often a track changes its hand.

`python -m hand_unc_ros.experiments.crossing_hands --help`. The hands move past each other at a few centimetres, both seen
by a detector with the faults of a real one: a crop shows whichever hand lies nearest to its middle, landmarks are noisy
and sometimes grossly wrong, views take a right hand for a left one or show none, and the hand behind is hidden from a
view where the other one covers it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.contract import HANDEDNESS, Crop, Detection, Fused, HandPrior, MethodOptions, View, ViewReading
from hand_unc_ros.methods.geometric_fusion import fuse, with_refinement
from hand_unc_ros.networks.landmark_boxes import box_of_hand, box_of_landmarks
from hand_unc_ros.methods.view_gaussians import stack

START_NS = 1_700_000_000_000_000_000
# A hand whose middle is nearer to the camera hides the other one where their middles are closer than this share of it.
HIDING_SHARE = 0.35
MIDDLE = (0, 5, 9, 13, 17)


@dataclass(frozen=True)
class Faults:
    """sigma_px: noise of landmarks.  gross: share of landmarks that err by ten times that.  dropped: share of hands that
    a view shows and does not give.  confused: share of readings with the wrong handedness."""

    sigma_px: float = 2.0
    gross: float = 0.03
    dropped: float = 0.1
    confused: float = 0.1


class ScriptedHands:
    """A method that reads hands from a script instead of images. truth: side → joints (21, 3) at a time in seconds."""

    name, min_views, window, crop_size, surface = 'scripted', 2, 1, 8, ''
    crop_box = staticmethod(box_of_hand)

    def __init__(self, rig: CameraRig, faults: Faults, seed: int, speed: float) -> None:
        self.rig, self.faults, self.options = rig, faults, MethodOptions()
        self.rng = np.random.default_rng(seed)
        self.speed = speed
        rest = {side: load_hand_model(None, side).rest_joints() for side in HANDEDNESS}
        turns = {side: _rotation(self.rng.normal(0, 1, 3)) for side in HANDEDNESS}
        self.rest = {side: (rest[side] - rest[side][list(MIDDLE)].mean(0)) @ turns[side].T for side in HANDEDNESS}

    def truth(self, seconds: float) -> dict[str, np.ndarray]:
        """Joints (21, 3) metres, by side: past each other once every 1 / speed seconds, at 2 to 8 cm."""
        x = 0.15 * np.cos(np.pi * self.speed * seconds)
        y = 0.025 + 0.015 * np.sin(0.7 * seconds)
        z = 0.03 * np.sin(1.3 * seconds)
        return {'right': self.rest['right'] + (x, y, z), 'left': self.rest['left'] + (-x, -y, -z)}

    def _shown(self, camera: int, stamp_ns: int) -> list[tuple[str, np.ndarray]]:
        """Side and joints in the image (21, 2) of each hand that a camera shows; the lens is taken as a pinhole."""
        own = self.rig.subset([self.rig.names[camera]])
        shown = []
        for side, joints in self.truth((stamp_ns - START_NS) * 1e-9).items():
            px, depth = own.project(torch.from_numpy(joints))
            shown.append((float(depth[0].mean()), side, px[0].numpy()))
        apart = np.linalg.norm(shown[0][2][list(MIDDLE)].mean(0) - shown[1][2][list(MIDDLE)].mean(0))
        if apart < HIDING_SHARE * box_of_landmarks(shown[0][2])[2]:
            shown = [min(shown, key=lambda one: one[0])]
        return [(side, px) for _, side, px in shown]

    def _reading(self, view: View, box: np.ndarray, handedness: str | None) -> ViewReading:
        """Of the hand nearest to the middle of a box (4,). handedness: of the crop, None for what the image shows."""
        row = self.rig.names.index(view.camera.name)
        shown = self._shown(row, view.stamp_ns)
        apart = [np.linalg.norm(px[list(MIDDLE)].mean(0) - box[:2]) for _, px in shown]
        side, px = shown[int(np.argmin(apart))]
        if min(apart) > box[2] / 2 or self.rng.random() < self.faults.dropped:
            return ViewReading.unread(view, handedness or 'right')
        right = 0.97 if (side == 'right') != (self.rng.random() < self.faults.confused) else 0.03
        scale = np.where(self.rng.random((21, 1)) < self.faults.gross, 10.0, 1.0)
        joints = px + self.faults.sigma_px * scale * self.rng.normal(size=(21, 2))
        return ViewReading(view.camera.name, view.stamp_ns, joints, np.full((21, 2), self.faults.sigma_px ** 2),
                           np.ones(21, bool), 0.9, handedness or HANDEDNESS[int(right < 0.5)], box, right=right)

    def find(self, views: Mapping[str, View]) -> list[list[Detection]]:
        """A detection of each hand that a view shows, with its reading."""
        found = []
        for view in views.values():
            readings = []
            for _, px in self._shown(self.rig.names.index(view.camera.name), view.stamp_ns):
                readings.append(self._reading(view, box_of_landmarks(px), None))
            found.append([Detection(box_of_landmarks(one.joints_px), one.handedness, 0.9, one) for one in readings
                          if one.valid.any()])
        return found

    def read(self, crops: Sequence[Crop]) -> list[ViewReading]:
        """The hand nearest to the middle of each crop."""
        return [self._reading(crop.view, crop.box_px, crop.handedness) for crop in crops]

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused:
        """Triangulated."""
        return with_refinement(fuse(stack(window[-1].values()), rig), None, bones=track.bones)

    def reset(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing to release."""


def run(rig: CameraRig, minutes: float, rate_hz: float, seed: int, faults: Faults = Faults(),
        speed: float = 0.5) -> dict[str, float]:
    """Follow the two hands for a time; each published hand is compared with the truth.

    switches_per_minute: of tracks whose hand is another one than in their set before.  wrong: share of published hands
    that are nearer to the truth of the other side.  new_ids: track ids beyond the first two.  both: share of sets with
    two hands.  speed: passes of a second.
    """
    method = ScriptedHands(rig, faults, seed, speed)
    estimator = HandEstimator(method, EstimatorSettings(handedness='both', view_health=False))
    image = np.zeros((8, 8, 3), np.uint8)
    last: dict[int, str] = {}
    switches = wrong = published = both = 0
    sets, started = int(60 * minutes * rate_hz), time.perf_counter()
    for index in range(sets):
        stamp_ns = START_NS + int(1e9 * index / rate_hz)
        views = {camera.name: View(camera, image, stamp_ns) for camera in rig}
        result = estimator.process(FrameSet(stamp_ns, views, rig.names))
        truth = method.truth((stamp_ns - START_NS) * 1e-9)
        both += len(result.hands) == 2
        for hand in result.hands:
            own = min(truth, key=lambda side: np.nanmedian(np.linalg.norm(hand.joints - truth[side], axis=1)))
            switches += last.get(hand.track_id, own) != own
            last[hand.track_id] = own
            wrong += own != hand.handedness
            published += 1
    return {'minutes': minutes, 'passes': 60 * minutes * speed, 'sets': sets, 'both': both / sets,
            'switches_per_minute': switches / minutes, 'wrong': wrong / max(published, 1), 'new_ids': len(last) - 2,
            'ms_per_set': 1e3 * (time.perf_counter() - started) / sets}


def _rotation(vector: np.ndarray) -> np.ndarray:
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def main() -> None:
    """The command: run the script and print the numbers as JSON."""
    from hand_unc_ros.data.synthetic.ring import ring_of_cameras
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--rate', type=float, default=30.0, help='sets a second (default 30)')
    parser.add_argument('--cameras', type=int, default=4)
    parser.add_argument('--seed', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rig = ring_of_cameras(args.cameras, seed=args.seed)
    print(json.dumps({key: round(value, 4) for key, value in run(rig, args.minutes, args.rate, args.seed).items()}))


if __name__ == '__main__':
    main()
