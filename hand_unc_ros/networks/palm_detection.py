"""From a whole image to palms: the frame that the palm detector takes, and what its anchors say.

As MediaPipe's graph `palm_detection_cpu` does it: one anchor size, boxes that overlap averaged by their scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from hand_unc_ros.hand import crops
from hand_unc_ros.networks.blaze_hand import PALM_ANCHORS, PALM_KEYPOINTS, PALM_SIZE

SCORE_THRESHOLD = 0.5
# Boxes that overlap by more (intersection over union) are of one palm.
SAME_PALM_OVERLAP = 0.3
# Keypoints of a palm: wrist, index, middle, ring and little MCP, thumb CMC and MCP; as public joints.
KEYPOINT_JOINTS = (0, 5, 9, 13, 17, 1, 2)
WRIST_KEYPOINT, MIDDLE_KEYPOINT = 0, 2


@dataclass(frozen=True)
class Palm:
    """box: (4,) x, y of the low and of the high corner, and keypoints: (7, 2), in pixels of the image.
    score: in [0, 1]."""

    box: np.ndarray
    keypoints: np.ndarray
    score: float


def palm_frame(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole image in a square of 192 px with black margins, and the map (2, 3) from its pixels to the image's."""
    height, width = image.shape[:2]
    side = max(height, width)
    affine = crops.image_from_crop(np.array([(width - 1) / 2, (height - 1) / 2, side, 0.0]), PALM_SIZE)
    inner = [max(1, round(PALM_SIZE * length / side)) for length in (width, height)]
    small = cv2.resize(image, inner, interpolation=cv2.INTER_AREA if side > PALM_SIZE else cv2.INTER_LINEAR)
    frame = np.zeros((PALM_SIZE, PALM_SIZE, 3), np.uint8)
    left, top = ((PALM_SIZE - length) // 2 for length in inner)
    frame[top:top + inner[1], left:left + inner[0]] = small
    return frame, affine


def decode_palms(scores: np.ndarray, values: np.ndarray, affine: np.ndarray,
                 threshold: float = SCORE_THRESHOLD) -> list[Palm]:
    """Palms of one frame, best first.

    scores: (2016,) logits and values: (2016, 18), as PalmNet gives them.  affine: (2, 3) from the frame to the image.
    """
    probability = 1 / (1 + np.exp(-np.clip(scores.astype(np.float64), -100, 100)))
    rows = np.flatnonzero(probability >= threshold)
    rows = rows[np.argsort(-probability[rows], kind='stable')]
    centre = _anchors()[rows]
    value = values[rows].astype(np.float64)
    middle, half = centre + value[:, :2], value[:, 2:4] / 2
    points = centre[:, None] + value[:, 4:].reshape(-1, PALM_KEYPOINTS, 2)
    # Corners and keypoints together, (N, 9, 2): both are averaged. The detector's origin is a corner, ours a centre.
    everything = np.concatenate([(middle - half)[:, None], (middle + half)[:, None], points], 1) - 0.5
    palms, probability = [], probability[rows]
    while len(everything):
        same = _overlap(everything[0, :2], everything[:, :2]) > SAME_PALM_OVERLAP
        same[0] = True
        mean = np.average(everything[same], axis=0, weights=probability[same])
        mean = crops.transform(affine, mean)
        palms.append(Palm(mean[:2].ravel(), mean[2:], float(probability[0])))
        everything, probability = everything[~same], probability[~same]
    return palms


@lru_cache(maxsize=1)
def _anchors() -> np.ndarray:
    """Centres (2016, 2) in pixels of the frame, corner origin, in the order of PalmNet's output."""
    parts = []
    for cells, count in PALM_ANCHORS:
        places = (np.arange(cells) + 0.5) * PALM_SIZE / cells
        y, x = np.meshgrid(places, places, indexing='ij')
        parts.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), count, axis=0))
    return np.concatenate(parts)


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (N,) of a box (2, 2), low and high corner, with others (N, 2, 2)."""
    sides = np.minimum(box[1], others[:, 1]) - np.maximum(box[0], others[:, 0])
    common = np.prod(np.maximum(sides, 0), axis=1)
    union = np.prod(box[1] - box[0]) + np.prod(others[:, 1] - others[:, 0], axis=1) - common
    return common / np.maximum(union, 1e-9)
