"""2D joints from MediaPipe Hands: a front end for real images that needs no training of ours.

MediaPipe gives landmarks but no uncertainty per landmark, so variances come from a noise model
(`noise_model.py`): a standard deviation per kind of joint, as a fraction of the hand's extent in
the image. What leaves here is the same `ViewEstimate` that a network front end gives.

MediaPipe: Zhang et al., "MediaPipe Hands: On-device Real-time Hand Tracking", 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.estimation.types import View, ViewEstimate
from hand_unc_ros.hand.crops import box_around
from hand_unc_ros.hand.joints import JOINT_COUNT, to_public
from hand_unc_ros.methods.landmarks.noise_model import landmark_variance

# A hand that MediaPipe calls the other one with more than 98 % is the other one.
_MIN_HANDEDNESS = 0.02

_INSTALL = (
    'the mediapipe front end needs mediapipe 0.10.21, the last release with its hand model inside: run '
    "`make setup-mediapipe`, or `pip install 'hand_unc_ros[mediapipe]' && pip install --no-deps "
    'mediapipe==0.10.21` (without --no-deps it pulls 1 GB that hands don\'t need, and a second OpenCV)')


def _hands_class() -> Any:
    try:
        from mediapipe.python.solutions.hands import Hands
    except (ImportError, AttributeError) as error:
        raise MissingDependencyError(f'{_INSTALL} ({error})') from error
    return Hands


class MediapipeFrontEnd:
    """MediaPipe Hands for several cameras, each with its own tracker.

    cameras: names of the views that may come. handedness: 'right' or 'left', the hand wanted, as its
    owner calls it. tracking: follow the hand from frame to frame (faster, smoother) instead of
    searching every image anew. max_hands: 2 where the other hand may be in view too, at about twice
    the time. Close it when done; it is a context manager.

    Raises MissingDependencyError without mediapipe, ConfigError for a bad argument.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        handedness: str = 'right',
        tracking: bool = True,
        max_hands: int = 1,
        model_complexity: int = 1,
        detection_confidence: float = 0.3,
        tracking_confidence: float = 0.2,
    ) -> None:
        if handedness not in ('right', 'left'):
            raise ConfigError(f"handedness {handedness!r} is unknown; use 'right' or 'left'")
        if max_hands not in (1, 2):
            raise ConfigError(f'max_hands {max_hands!r} is out of range; use 1 or 2')
        if model_complexity not in (0, 1):
            raise ConfigError(f'model_complexity {model_complexity!r} is out of range; use 0 or 1')
        for name, value in (('detection_confidence', detection_confidence),
                            ('tracking_confidence', tracking_confidence)):
            if not 0 <= value <= 1:
                raise ConfigError(f'{name} {value!r} is outside 0 … 1')
        hands = _hands_class()
        # MediaPipe names hands as they look in a mirror; cameras here don't mirror.
        self._label = 'Left' if handedness == 'right' else 'Right'
        self._trackers = {
            camera: hands(
                static_image_mode=not tracking, max_num_hands=max_hands, model_complexity=model_complexity,
                min_detection_confidence=detection_confidence, min_tracking_confidence=tracking_confidence)
            for camera in cameras}

    def estimate(self, views: Mapping[str, View], predicted: np.ndarray | None = None) -> ViewEstimate:
        """2D joints of the given views, in their order and in full-image pixels.

        predicted: as every front end takes it; not used, since MediaPipe follows the hand by itself.
        A view without the wanted hand has valid False, NaN and score 0; so have joints that lie outside
        their image by more than a standard deviation, which MediaPipe only guesses. score: the probability
        of the wanted handedness (MediaPipe tells no other). Raises ConfigError for a camera that was not
        named at the start.
        """
        count = len(views)
        joints = np.full((count, JOINT_COUNT, 2), np.nan)
        variance = np.full((count, JOINT_COUNT, 2), np.nan)
        boxes = np.full((count, 4), np.nan)
        score = np.zeros(count)
        for index, (camera, view) in enumerate(views.items()):
            if camera not in self._trackers:
                raise ConfigError(
                    f'camera {camera!r} is unknown to this front end; it was made for '
                    f'{", ".join(self._trackers)}')
            result = self._trackers[camera].process(np.ascontiguousarray(view.image))
            landmarks, score[index] = self._wanted(result)
            if landmarks is None:
                continue
            height, width = view.image.shape[:2]
            # MediaPipe's unit square has its corner at the corner of the first pixel; ours is at the centre.
            pixels = landmarks * (width, height) - 0.5
            boxes[index] = box_around(pixels)
            spread = landmark_variance(pixels)
            beyond = np.maximum(-0.5 - pixels, pixels - (width - 0.5, height - 0.5))
            inside = (beyond <= np.sqrt(spread)).all(axis=-1)
            joints[index, inside] = pixels[inside]
            variance[index, inside] = spread[inside]
        return ViewEstimate(
            cameras=tuple(views), joints_px=joints, variance_px2=variance,
            valid=np.isfinite(joints).all(axis=-1), score=score, boxes_px=boxes)

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

    def __enter__(self) -> MediapipeFrontEnd:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
