"""Pictures of what was estimated, drawn into the images: the best, middle and worst sets of a recording."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from hand_unc_ros.estimation.types import FrameSet, HandEstimate, HandReadings
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import chi2_quantile
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import BONES

SIDE_PX = 300
# The part of the image that is shown, in sides of the hand's box.
MARGIN = 1.25
# Pictures kept while a recording runs; in between, every second one is let go.
MOST = 48
SHOWN = (('best', 0.0), ('better', 0.25), ('middle', 0.5), ('worse', 0.75), ('bad', 0.95), ('worst', 1.0))
_BONE, _ELLIPSE, _READ, _JOINT = (255, 170, 40), (90, 230, 120), (255, 60, 60), (255, 255, 255)


@dataclass(frozen=True)
class Picture:
    """A hand in the images of a set. share: median distance of the projected joints from the read ones, as a share of
    the hand's box.  views: camera → JPEG."""

    share: float
    stamp_ns: int
    handedness: str
    views: Mapping[str, bytes]


@dataclass
class Pictures:
    """Collects pictures by how far the projected joints are from the read ones; the best and the worst are kept."""

    kept: list[Picture] = field(default_factory=list)

    def add(self, frames: FrameSet, hand: HandEstimate, readings: HandReadings, rig: CameraRig) -> None:
        """Take a hand of a set. rig: the cameras of its readings."""
        views = readings.gaussians
        projected = rig.project(torch.from_numpy(hand.joints))[0].numpy()
        share = np.linalg.norm(projected - views.joints_px, axis=-1) / views.boxes_px[:, 2:3]
        if not np.isfinite(share).any():
            return
        middle = float(np.nanmedian(share))
        if len(self.kept) >= MOST:
            self.kept.sort(key=lambda one: one.share)
            self.kept = [one for place, one in enumerate(self.kept) if place % 2 == 0 or place == len(self.kept) - 1]
        jacobian = rig.projection_jacobian(torch.from_numpy(hand.joints)).numpy()
        spread = jacobian @ joint_blocks(hand.covariance[None])[0] @ jacobian.swapaxes(-1, -2)
        pictures = {name: draw(frames.views[name].image, projected[row], spread[row], views.joints_px[row])
                    for row, name in enumerate(views.cameras)}
        self.kept.append(Picture(middle, hand.stamp_ns, hand.handedness, pictures))

    def chosen(self) -> list[tuple[str, Picture]]:
        """Named pictures, from the best to the worst; those that are the same once."""
        ordered = sorted(self.kept, key=lambda one: one.share)
        found: dict[int, tuple[str, Picture]] = {}
        for name, quantile in SHOWN if ordered else ():
            place = round(quantile * (len(ordered) - 1))
            found.setdefault(place, (name, ordered[place]))
        return list(found.values())


def draw(image: np.ndarray, joints_px: np.ndarray, spread_px2: np.ndarray, read_px: np.ndarray) -> bytes:
    """JPEG of the part of an image that shows a hand, with its projected joints (21, 2), their 95 % ellipses by
    covariances (21, 2, 2) px², and the read joints (21, 2) as crosses; NaN is left out."""
    known = np.isfinite(joints_px).all(-1)
    both = np.concatenate([joints_px[known], read_px[np.isfinite(read_px).all(-1)]])
    low, high = (both.min(0), both.max(0)) if len(both) else (np.zeros(2), np.array(image.shape[1::-1], float))
    side = max(MARGIN * float((high - low).max()), 40.0)
    scale, corner = SIDE_PX / side, (low + high) / 2 - side / 2
    affine = np.array([[scale, 0, -scale * corner[0]], [0, scale, -scale * corner[1]]])
    canvas = cv2.warpAffine(image, affine, (SIDE_PX, SIDE_PX), flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    at = (joints_px - corner) * scale
    for first, second in BONES:
        if known[[first, second]].all():
            cv2.line(canvas, _point(at[first]), _point(at[second]), _BONE, 1, cv2.LINE_AA)
    for joint in np.flatnonzero(known & np.isfinite(spread_px2).all((-2, -1))):
        values, vectors = np.linalg.eigh(spread_px2[joint])
        axes = scale * np.sqrt(np.maximum(values, 0) * chi2_quantile(0.95, 2))
        turn = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        size = [int(min(max(length, 1), 4 * SIDE_PX)) for length in axes[::-1]]
        cv2.ellipse(canvas, _point(at[joint]), size, turn, 0, 360, _ELLIPSE, 1, cv2.LINE_AA)
        cv2.circle(canvas, _point(at[joint]), 1, _JOINT, -1)
    for point in (read_px - corner) * scale:
        if np.isfinite(point).all():
            cv2.drawMarker(canvas, _point(point), _READ, cv2.MARKER_TILTED_CROSS, 5, 1)
    done, data = cv2.imencode('.jpg', canvas[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert done
    return data.tobytes()


def html(pictures: Pictures) -> str:
    """The chosen pictures as rows of a page, one column for each camera."""
    rows = []
    for name, picture in pictures.chosen():
        cells = ''.join(
            f'<figure><img alt="{camera}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
            f'<figcaption>{camera}</figcaption></figure>' for camera, data in picture.views.items())
        rows.append(f'<p class="note"><b>{name}</b>: {picture.handedness} hand at {picture.stamp_ns / 1e9:.3f} s, median '
                    f'distance {100 * picture.share:.1f} % of the hand</p><div class="overlays">{cells}</div>')
    return ''.join(rows)


def _point(value: np.ndarray) -> tuple[int, int]:
    limit = 16 * SIDE_PX
    return int(np.clip(round(float(value[0])), -limit, limit)), int(np.clip(round(float(value[1])), -limit, limit))
