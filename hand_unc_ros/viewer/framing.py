"""Where to look from, how large to draw the cameras, and where to put the ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

UP_AXES: dict[str, tuple[float, float, float]] = {
    '+x': (1.0, 0.0, 0.0), '-x': (-1.0, 0.0, 0.0),
    '+y': (0.0, 1.0, 0.0), '-y': (0.0, -1.0, 0.0),
    '+z': (0.0, 0.0, 1.0), '-z': (0.0, 0.0, -1.0),
}
# Where a hand is looked for in front of cameras whose axes do not meet.
DEFAULT_DISTANCE_M = 0.6
FIELD_OF_VIEW = np.deg2rad(45.0)


class WorkVolume(NamedTuple):
    """centre: (3,) metres, world.  distance: median distance of the cameras from it, metres."""

    centre: np.ndarray
    distance: float


class Viewpoint(NamedTuple):
    """position and target: (3,) metres, world."""

    position: np.ndarray
    target: np.ndarray


def work_volume(world_from_cameras: Sequence[np.ndarray]) -> WorkVolume:
    """The point nearest to all optical axes: where the rig looks at.

    world_from_cameras: (4, 4) poses, z forward.  Where the axes are nearly parallel or meet behind
    a camera, the mean of the points DEFAULT_DISTANCE_M in front of the cameras; the origin
    without cameras.
    """
    if not world_from_cameras:
        return WorkVolume(np.zeros(3), DEFAULT_DISTANCE_M)
    poses = np.stack([np.asarray(pose, dtype=float) for pose in world_from_cameras])
    centres, forward = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal = across.sum(axis=0)
    centre = (centres + DEFAULT_DISTANCE_M * forward).mean(axis=0)
    # The smallest eigenvalue is the sum of squared sines to the mean direction; 0.01 per camera
    # is six degrees.
    if np.linalg.eigvalsh(normal)[0] > 0.01 * len(poses):
        meeting = np.linalg.solve(normal, np.einsum('nij,nj->i', across, centres))
        if (np.einsum('nj,nj->n', meeting - centres, forward) > 0.0).all():
            centre = meeting
    return WorkVolume(centre, float(np.median(np.linalg.norm(centres - centre, axis=1))))


def frustum_depth(volume: WorkVolume) -> float:
    """Depth in metres at which a camera's image is drawn."""
    return float(np.clip(0.25 * volume.distance, 0.04, 0.4))


def viewpoint(
    centre: np.ndarray, camera_centres: np.ndarray, up: np.ndarray, distance: float, *, cameras_in_sight: bool
) -> Viewpoint:
    """A viewpoint above the widest gap between the cameras, looking at the centre.

    centre: (3,) metres.  camera_centres: (V, 3) metres.  up: (3,) unit axis of the world.
    distance: from the centre, metres; at most 1.6 times that to bring the cameras in sight.
    """
    up = np.asarray(up, dtype=float)
    first = np.roll(up, 1)
    second = np.cross(up, first)
    offsets = np.asarray(camera_centres, dtype=float).reshape(-1, 3) - centre
    azimuths = np.sort(np.arctan2(offsets @ second, offsets @ first))
    if len(azimuths):
        gaps = np.diff(np.append(azimuths, azimuths[0] + 2.0 * np.pi))
        widest = int(gaps.argmax())
        # Not in the middle of a gap that is most of the circle: from behind the rig a hand is seen
        # from the side that no camera sees.
        azimuth = azimuths[widest] + min(gaps[widest] / 2.0, np.deg2rad(50.0))
    else:
        azimuth = np.deg2rad(-60.0)
    elevation = np.deg2rad(20.0)
    level = np.cos(azimuth) * first + np.sin(azimuth) * second
    back = np.cos(elevation) * level + np.sin(elevation) * up
    target, reach, farthest = np.asarray(centre, dtype=float), distance, 1.6 * distance
    if cameras_in_sight and len(offsets):
        # Cameras mostly hang above the hand: raise the view, so that both are in it.
        target = centre + np.clip(0.4 * (offsets @ up).mean(), 0.0, 0.25 * distance) * up
        while reach < farthest and not _in_sight(target + reach * back, -back, up, offsets + centre):
            reach *= 1.05
    return Viewpoint(target + reach * back, target)


def _in_sight(position: np.ndarray, forward: np.ndarray, up: np.ndarray, points: np.ndarray) -> bool:
    """Whether all points are in a 3:2 window."""
    right = np.cross(forward, up)
    right = right / np.linalg.norm(right)
    offsets = points - position
    depth = offsets @ forward
    half_height = 0.95 * np.tan(FIELD_OF_VIEW / 2.0) * depth
    across, above = offsets @ right, offsets @ np.cross(right, forward)
    return bool(((depth > 0.0) & (np.abs(across) < 1.4 * half_height) & (np.abs(above) < half_height)).all())


def ground_height(centre: np.ndarray, up: np.ndarray) -> float:
    """Height along `up`, in metres, of the grid: the world's zero where that is just below the work
    volume, else 0.2 m below its centre."""
    height = float(np.dot(centre, up))
    return 0.0 if 0.08 <= height <= 0.6 else round((height - 0.2) / 0.05) * 0.05
