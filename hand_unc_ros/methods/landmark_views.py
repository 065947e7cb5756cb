"""A camera's side of every method on MediaPipe's networks: hands found in images, landmarks with variances from crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.rig_cache import RigCache
from hand_unc_ros.hand.joints import to_public
from hand_unc_ros.methods.contract import HANDEDNESS, Crop, Detection, MethodOptions, View, ViewReading
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.methods.landmark_tracker import ImageHandTracker, SeenHand
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_boxes import box_of_hand, box_of_landmarks
from hand_unc_ros.networks.landmark_networks import PRESENCE_THRESHOLD, CropLandmarks, LandmarkNetworks
from hand_unc_ros.networks.landmark_noise import known_landmarks, landmark_variance

# A hand that the network takes for the other one with more than 99.5 % is the other one.
MIN_HANDEDNESS = 0.005
# Radians to either side by which crops are turned that are read twice: the network was trained on hands turned by more.
TURN = 0.2
# A hand that one search saw is looked for in the same place by the next, within this time: palms under a board or at a
# slant are found now and then only, but once found their landmarks are followed.
FIND_MEMORY_S = 0.5
# Hands that are looked for in each image: both of a person.
HANDS = 2
# On a recording of a rig that is well calibrated (caliscope's charuco_calibration, hands that hold a board) joints of a
# view lie off alike by up to 1.26 σ in 2.5 s and 0.79 σ in 10 s; twice the limits for independent errors are above both.
SHIFT_FACTOR = 2.0
ACCELERATIONS = ('auto', 'none', 'openvino')


class LandmarkViews:
    """Palms in whole images, landmarks in crops. State: the hands of the last search, and rigs in use.

    read_twice: read every crop turned to either side, and take the mean.
    """

    def __init__(self, networks: LandmarkNetworks, read_twice: bool = False) -> None:
        self.networks, self.read_twice = networks, read_twice
        self._rigs = RigCache()
        self._finder = ImageHandTracker(networks, HANDS)
        self._found_ns: int | None = None

    def find(self, views: Mapping[str, View]) -> list[list[Detection]]:
        """Up to two hands in each view, of either side: those that the last search saw, where they still are, and
        palms, confirmed and turned by a first reading."""
        stamp_ns = max((view.stamp_ns for view in views.values()), default=0)
        if self._found_ns is None or not 0 < stamp_ns - self._found_ns <= 1e9 * FIND_MEMORY_S:
            self._finder.reset()
        self._found_ns = stamp_ns
        found = self._finder.update(views)
        detections = []
        for name, hands in found.items():
            detections.append([
                Detection(box_of_landmarks(hand.ideal_px), HANDEDNESS[int(hand.right < 0.5)],
                          hand.presence * max(hand.right, 1 - hand.right), _first_reading(views[name], hand))
                for hand in hands])
        return detections

    def read(self, crops: Sequence[Crop]) -> list[ViewReading]:
        """The landmarks of a batch of crops. score: the probability that there is a hand.  features: what the networks
        describe of the crop, see LandmarkNetworks, where it is read once."""
        if not crops:
            return []
        turns = (-TURN, TURN) if self.read_twice else ()
        looks = [[_turned(crop, turn) for crop in crops] for turn in turns] or [crops]
        read = [self.networks.read(np.stack([crop.image for crop in look])) for look in looks]
        presence_of = np.mean([out.presence for out in read], axis=0)
        right_of = np.mean([out.handedness for out in read], axis=0)
        # A mirrored left hand is a right one to the network.
        wanted = [right if crop.mirrored or crop.handedness == 'right' else 1 - right
                  for crop, right in zip(crops, right_of)]
        readings = []
        means, variances = (np.array(parts) for parts in zip(*map(self._in_images, looks, read)))
        # The errors of both are nearly the same, so that the variance is that of one.
        images = zip(means.mean(axis=0), variances.prod(axis=0) ** (1 / len(variances)))
        features = read[0].features or [None] * len(crops)
        for crop, (joints, variance), presence, side, described in zip(crops, images, presence_of, wanted, features):
            joints, variance = known_landmarks(joints, variance, crop.camera.width, crop.camera.height)
            if presence < PRESENCE_THRESHOLD or side < MIN_HANDEDNESS:
                joints, variance = np.full_like(joints, np.nan), np.full_like(variance, np.nan)
            readings.append(ViewReading(
                crop.camera.name, crop.view.stamp_ns, joints, variance, np.isfinite(joints).all(axis=-1),
                float(presence), crop.handedness, crop.box_px, crop.K, crop.camera_from_world, described,
                right=float(side if crop.handedness == 'right' else 1 - side)))
        return readings

    def _in_images(self, crops: Sequence[Crop], out: CropLandmarks) -> tuple[np.ndarray, np.ndarray]:
        """Public joints (N, 21, 2), px of the distorted images, and their variances (N, 21, 2) px²."""
        K = np.stack([crop.K for crop in crops])
        inverse = np.linalg.inv(K[:, :2, :2])
        inverse[[crop.mirrored for crop in crops], 0] *= -1.0
        xy = (to_public(out.landmarks, 'mediapipe') - K[:, None, :2, 2]) @ inverse.swapaxes(1, 2)
        joints, to_image = np.empty_like(xy), np.empty((*xy.shape, 2))
        # A camera occurs once for each hand.
        for side in HANDEDNESS:
            rows = [row for row, crop in enumerate(crops) if crop.handedness == side]
            if rows:
                rig = self._rigs.of([crops[row].camera for row in rows])
                joints[rows], to_image[rows] = (
                    part.numpy() for part in rig.denormalise_with_jacobian(torch.from_numpy(xy[rows])))
        if out.sigma is None:
            return joints, landmark_variance(joints)
        # What is kept of the turned variance is its diagonal in image axes.
        squares = np.square(to_image @ inverse[:, None])
        return joints, (squares @ np.square(to_public(out.sigma, 'mediapipe'))[..., None])[..., 0]

    def reset(self) -> None:
        """Forget the hands of the last search."""
        self._finder.reset()


class OnLandmarks:
    """The camera's side of a method whose views are read by the landmark networks: all of it but `fuse`.

    networks: on their device, in torch; `cameras` crops at a time are what their runtimes are chosen for.
    Raises ConfigError for an acceleration that they do not have.
    """

    crop_size = HAND_SIZE
    crop_box = staticmethod(box_of_hand)
    shift_factor = SHIFT_FACTOR
    window = 1

    def __init__(self, networks: LandmarkNetworks, options: MethodOptions, cameras: int,
                 read_twice: bool = False) -> None:
        if options.acceleration not in ACCELERATIONS:
            raise ConfigError(f'the landmark networks have no acceleration {options.acceleration!r}; choose one of'
                              f' {", ".join(ACCELERATIONS)}')
        self.options, self.networks = options, networks
        self.views = LandmarkViews(networks, read_twice)
        networks.accelerate(options.acceleration, max(1, cameras))

    def find(self, views: Mapping[str, View]) -> list[list[Detection]]:
        """See LandmarkViews."""
        return self.views.find(views)

    def read(self, crops: Sequence[Crop]) -> list[ViewReading]:
        """See LandmarkViews."""
        return self.views.read(crops)

    def reset(self) -> None:
        """Forget the hands of the last search."""
        self.views.reset()

    def close(self) -> None:
        """Nothing to release."""


def _turned(crop: Crop, turn: float) -> Crop:
    """The same hand, its crop's box rolled by `turn` rad."""
    return cut_crop(crop.view, crop.box_px + (0.0, 0.0, 0.0, turn), crop.handedness, HAND_SIZE)


def _first_reading(view: View, hand: SeenHand) -> ViewReading:
    """Of a hand that was found in a whole image, with the variances of the noise model."""
    camera = view.camera
    joints, variance = known_landmarks(hand.joints_px, landmark_variance(hand.joints_px), camera.width, camera.height)
    return ViewReading(camera.name, view.stamp_ns, joints, variance, np.isfinite(joints).all(axis=-1), hand.presence,
                       HANDEDNESS[int(hand.right < 0.5)], hand.box_px, right=hand.right)
