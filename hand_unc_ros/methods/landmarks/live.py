"""2D joints from MediaPipe Hands, triangulated: a method for real images that needs no training of ours.

MediaPipe gives landmarks but no uncertainty per landmark, so variances come from a noise model
(`SIGMA_FRACTION`): a standard deviation per kind of joint, as a fraction of the hand's extent in
the image.

MediaPipe: Zhang et al., "MediaPipe Hands: On-device Real-time Hand Tracking", 2020.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.crops import box_around
from hand_unc_ros.hand.joints import JOINT_COUNT, to_public
from hand_unc_ros.methods.contract import (
    HANDEDNESS,
    Crop,
    Detection,
    Fused,
    HandPrior,
    MethodOptions,
    View,
    ViewReading,
)
from hand_unc_ros.methods.cropping import whole_image
from hand_unc_ros.methods.geometric_fusion import fuse, stack, with_refinement

# Standard deviation of one image coordinate of a landmark, as a fraction of the side of the square
# around the hand (`box_around(joints, expansion=1)`); base → tip of the thumb and of a finger.
#
# Derived from the handpose3d recording (TemugeB/handpose3d, MIT; 360 frames in which two calibrated
# cameras both see the right hand; complexity 1, tracking). Each joint was triangulated by least squares
# on reprojection; two views leave one residual degree of freedom, so with equal relative noise in both
# views q = sqrt(Σ_views |residual|² / extent²) is |N(0, σ)|, and σ = (95 % quantile of q) / 1.96,
# because the package promises 95 % ellipsoids. Index … little were averaged. Limits: only the error
# across epipolar lines shows in such residuals, and it is taken as isotropic; calibration and
# synchronisation errors are in it; a bias common to both views is not; one subject, one recording.
SIGMA_FRACTION_WRIST = 0.024
SIGMA_FRACTION_THUMB = (0.024, 0.035, 0.034, 0.033)
SIGMA_FRACTION_FINGER = (0.018, 0.020, 0.027, 0.033)
SIGMA_FRACTION = np.array((SIGMA_FRACTION_WRIST, *SIGMA_FRACTION_THUMB, *(SIGMA_FRACTION_FINGER * 4)))
SIGMA_FRACTION.flags.writeable = False

# A hand that MediaPipe calls the other one with more than 98 % is the other one.
_MIN_HANDEDNESS = 0.02

_INSTALL = (
    'the method landmarks needs mediapipe 0.10.21, the last release with its hand model inside: run '
    "`make setup-mediapipe`, or `pip install 'hand_unc_ros[mediapipe]' && pip install --no-deps "
    'mediapipe==0.10.21` (without --no-deps it pulls 1 GB that hands don\'t need, and a second OpenCV)')


def _hands_class() -> Any:
    try:
        from mediapipe.python.solutions.hands import Hands
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(f'{_INSTALL} ({error})') from error
    return Hands


def landmark_variance(joints_px: np.ndarray) -> np.ndarray:
    """Variances (..., 21, 2) px² of landmarks (..., 21, 2) px by the noise model above."""
    extent = box_around(joints_px, expansion=1.0)[..., 2]
    sigma = SIGMA_FRACTION * extent[..., None]
    return np.repeat((sigma ** 2)[..., None], 2, axis=-1)


def files(options: MethodOptions) -> dict[str, Path]:
    """None: MediaPipe's weights are inside its release. A covariance head, if one is named, has no use here."""
    return {}


def build(options: MethodOptions, cameras: tuple[str, ...]) -> Landmarks:
    """Set up a tracker for each camera. Raises MissingDependencyError without mediapipe."""
    return Landmarks(cameras, options)


@dataclass(frozen=True)
class TrackerOptions:
    """MediaPipe's own. tracking: follow the hand from frame to frame (faster, smoother) instead of searching every
    image anew.  max_hands: 2 where the other hand may be in view too, at about twice the time.  The confidences are in
    [0, 1].  Raises ConfigError for a bad value.
    """

    tracking: bool = True
    max_hands: int = 1
    model_complexity: int = 1
    detection_confidence: float = 0.3
    tracking_confidence: float = 0.2

    def __post_init__(self) -> None:
        if self.max_hands not in (1, 2):
            raise ConfigError(f'max_hands {self.max_hands!r} is out of range; use 1 or 2')
        if self.model_complexity not in (0, 1):
            raise ConfigError(f'model_complexity {self.model_complexity!r} is out of range; use 0 or 1')
        for name, value in (('detection_confidence', self.detection_confidence),
                            ('tracking_confidence', self.tracking_confidence)):
            if not 0 <= value <= 1:
                raise ConfigError(f'{name} {value!r} is outside 0 … 1')


class Landmarks:
    """MediaPipe Hands for several cameras, each with its own tracker, which searches whole images.

    cameras: names of the views that may come.  Close it when done; it is a context manager.
    Raises MissingDependencyError without mediapipe, ConfigError for an unknown handedness.
    """

    name = 'landmarks'
    min_views = 2
    window = 1
    crop_size = None
    surface = ''

    def __init__(self, cameras: Sequence[str], options: MethodOptions = MethodOptions(),
                 tracker: TrackerOptions = TrackerOptions()) -> None:
        if options.handedness not in HANDEDNESS:
            raise ConfigError(f"handedness {options.handedness!r} is unknown; use 'right' or 'left'")
        self.options = options
        hands = _hands_class()
        # MediaPipe names hands as they look in a mirror; cameras here don't mirror.
        self._label = 'Left' if options.handedness == 'right' else 'Right'
        self._trackers = {
            camera: hands(
                static_image_mode=not tracker.tracking, max_num_hands=tracker.max_hands,
                model_complexity=tracker.model_complexity, min_detection_confidence=tracker.detection_confidence,
                min_tracking_confidence=tracker.tracking_confidence)
            for camera in cameras}

    def find(self, views: Mapping[str, View]) -> list[list[Detection]]:
        """The wanted hand somewhere in every image: the tracker that `read` runs looks for it by itself."""
        side = self.options.handedness
        return [[Detection(whole_image(view, side).box_px, side, 1.0)] for view in views.values()]

    def read(self, crops: Sequence[Crop]) -> list[ViewReading]:
        """2D joints in whole images, one of each camera.

        A reading without the wanted hand has valid False, NaN and score 0; so have joints that lie outside
        their image by more than a standard deviation, which MediaPipe only guesses. score: the probability
        of the wanted handedness (MediaPipe tells no other). Raises ConfigError for a camera that was not
        named at the start.
        """
        return [self._read(crop) for crop in crops]

    def _read(self, crop: Crop) -> ViewReading:
        camera = crop.camera.name
        if camera not in self._trackers:
            raise ConfigError(f'camera {camera!r} is unknown to this method; it was made for '
                              f'{", ".join(self._trackers)}')
        landmarks, score = self._wanted(self._trackers[camera].process(np.ascontiguousarray(crop.image)))
        if landmarks is None:
            return ViewReading.unread(crop.view, self.options.handedness)
        height, width = crop.image.shape[:2]
        # MediaPipe's unit square has its corner at the corner of the first pixel; ours is at the centre.
        pixels = landmarks * (width, height) - 0.5
        spread = landmark_variance(pixels)
        beyond = np.maximum(-0.5 - pixels, pixels - (width - 0.5, height - 0.5))
        inside = (beyond <= np.sqrt(spread)).all(axis=-1)
        joints, variance = (np.where(inside[:, None], values, np.nan) for values in (pixels, spread))
        return ViewReading(camera, crop.view.stamp_ns, joints, variance, np.isfinite(joints).all(axis=-1), score,
                           self.options.handedness, box_around(pixels))

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused:
        """Triangulated by the geometry alone."""
        started = time.perf_counter()
        triangulation = fuse(stack(window[-1].values()), rig, self.options.triangulation, self.options.min_views)
        return with_refinement(triangulation, None, {'fusion': 1e3 * (time.perf_counter() - started)})

    def _wanted(self, result: Any) -> tuple[np.ndarray | None, float]:
        """Landmarks (21, 2) in the unit square of the likeliest wanted hand, and its probability."""
        best, best_score = None, _MIN_HANDEDNESS
        for hand, labels in zip(result.multi_hand_landmarks or (), result.multi_handedness or ()):
            label = labels.classification[0]
            wanted = label.score if label.label == self._label else 1.0 - label.score
            if wanted > best_score:
                best, best_score = hand, wanted
        if best is None:
            return None, 0.0
        landmarks = np.array([(point.x, point.y) for point in best.landmark])
        if landmarks.shape != (JOINT_COUNT, 2) or not np.isfinite(landmarks).all():
            return None, 0.0
        return to_public(landmarks, 'mediapipe'), float(best_score)

    def reset(self) -> None:
        """Forget the tracked hands, after a jump in time."""
        for tracker in self._trackers.values():
            tracker.reset()

    def close(self) -> None:
        """Free the trackers; safe to call twice."""
        while self._trackers:
            self._trackers.popitem()[1].close()

    def __enter__(self) -> Landmarks:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
