"""Crops as images of pinhole cameras: whatever the lens does to the whole image, a crop's geometry is K alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST

# Beyond this reduction bilinear sampling skips pixels; the image is then averaged down before the crop is cut.
MAX_REDUCTION = 1.5
# Pixels around the part of an image that is averaged down, for sampling at its edge.
MARGIN_PX = 3
# Lens distortion is smooth: it is computed at this many nodes along each side of a crop and interpolated between.
NODES = 17
# Nearer to a camera than this, metres, a palm has no crop.
MIN_DEPTH = 0.02
# Outside of any image, also in what is interpolated from it.
FAR_PX = -1e6


def hand_box(joints: np.ndarray, camera: Camera, depth: float | None = None,
             rule: Callable[[np.ndarray, np.ndarray, float], np.ndarray] = crops.reach_box) -> np.ndarray:
    """The upright box (4,) in undistorted pixels of everything the hand (21, 3), world, can reach; NaN where its palm
    is unknown or behind the camera.  depth: of the middle knuckle, metres, where it has been projected already.
    rule: draws another box, from the same arguments as `crops.reach_box`."""
    local = joints @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
    if not np.isfinite(local[[WRIST, MIDDLE_MCP]]).all() or (local[[WRIST, MIDDLE_MCP], 2] < MIN_DEPTH).any():
        return np.full(4, np.nan)
    px = local[:, :2] / local[:, 2:] @ camera.K[:2, :2].T + camera.K[:2, 2]
    focal = (camera.K[0, 0] + camera.K[1, 1]) / 2
    return rule(joints, px, focal / (local[MIDDLE_MCP, 2] if depth is None else depth))


def crop_intrinsics(camera: Camera, box: np.ndarray, size: int) -> np.ndarray:
    """K (3, 3) of the crop under a box (4,) in undistorted pixels of the camera; it holds the box's roll."""
    affine = np.vstack([crops.crop_from_image(box, size), [0.0, 0.0, 1.0]])
    return affine @ camera.K


def cut_pinhole(image: np.ndarray, camera: Camera, K: np.ndarray, size: int) -> np.ndarray:
    """The (size, size, 3) uint8 crop with intrinsics K out of the whole, distorted image; black outside of it."""
    affine = (camera.K @ np.linalg.inv(K))[:2]
    nodes = _nodes(camera, affine, size)
    weights = _interpolation(size)
    x, y = (weights @ places @ weights.T for places in np.moveaxis(nodes, -1, 0).copy())
    reduction = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    if reduction > MAX_REDUCTION:
        shrunk = _shrunk(image, nodes, int(np.ceil(reduction / MAX_REDUCTION)))
        if shrunk is None:
            return np.zeros((size, size, *image.shape[2:]), np.uint8)
        image, first, step = shrunk
        x, y = ((place - first[axis] + 0.5) / step[axis] - 0.5 for axis, place in enumerate((x, y)))
    return cv2.remap(image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR,
                     borderMode=cv2.BORDER_CONSTANT)


def mirror_view(image: np.ndarray, px: np.ndarray, K: np.ndarray,
                camera_from_world: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same view of the world reflected in x = 0: an image (S, S, 3) flipped left to right, pixels (N, 2),
    intrinsics (3, 3) and pose (3, 4). Both rotations stay proper: the camera's frame is reflected in its own x = 0.
    """
    size = image.shape[1]
    flip = np.diag([-1.0, 1.0, 1.0])
    mirrored_px = np.column_stack([size - 1 - px[:, 0], px[:, 1]])
    to_mirrored = np.array([[-1.0, 0.0, size - 1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    pose = flip @ camera_from_world @ np.diag([-1.0, 1.0, 1.0, 1.0])
    return image[:, ::-1], mirrored_px, to_mirrored @ K @ flip, pose


def _nodes(camera: Camera, affine: np.ndarray, size: int) -> np.ndarray:
    """Where in the distorted image the nodes of a crop are, (NODES, NODES, 2); FAR_PX beyond where the lens model
    holds: folded back they would show a part of the image again."""
    u, v = np.meshgrid(*[np.linspace(0, size - 1, NODES)] * 2)
    ideal = crops.transform(affine, np.column_stack([u.ravel(), v.ravel()]))
    if camera.distortion_model != 'none':
        xy = (ideal - camera.K[:2, 2]) @ np.linalg.inv(camera.K[:2, :2]).T
        ideal = np.nan_to_num(camera.denormalise(xy), nan=FAR_PX)
    return ideal.reshape(NODES, NODES, 2)


def _shrunk(image: np.ndarray, nodes: np.ndarray, by: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The part of an image that the nodes span, averaged down about `by` times; its first pixel x, y and its pixels per
    averaged one, exactly. None where the nodes lie outside."""
    limits = np.array([image.shape[1], image.shape[0]])
    seen = nodes[(nodes > FAR_PX / 2).all(-1)]
    if not len(seen):
        return None
    first = np.clip(np.floor(seen.min(0)) - MARGIN_PX, 0, limits).astype(int)
    last = np.clip(np.ceil(seen.max(0)) + MARGIN_PX, 0, limits).astype(int)
    if (last <= first).any():
        return None
    # In whole blocks, which is several times faster, wherever the image is large enough.
    more = (first - last) % by
    before = np.minimum(first, more)
    first, last = first - before, np.minimum(last + more - before, limits)
    sides = last - first
    fewer = -(-sides // by)
    part = image[first[1]:last[1], first[0]:last[0]]
    return cv2.resize(part, fewer.tolist(), interpolation=cv2.INTER_AREA), first, sides / fewer


@lru_cache(maxsize=8)
def _interpolation(side: int) -> np.ndarray:
    """(side, NODES) weights of the nodes for each of `side` pixels; the outer nodes are the outer pixels."""
    place = np.linspace(0, NODES - 1, side)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(NODES)))
