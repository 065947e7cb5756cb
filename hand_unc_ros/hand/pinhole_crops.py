"""Crops as images of pinhole cameras: whatever the lens does to the whole image, a crop's geometry is K alone."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand import crops

# Beyond this reduction bilinear sampling skips pixels; the crop is then cut larger and averaged down.
MAX_REDUCTION = 1.5
# A box can be as large as a joint's projection goes when it nears the camera; its crop must stay affordable.
MAX_OVERSAMPLING = 8
# Lens distortion is smooth: it is computed at this many nodes along each side of a crop and interpolated between.
NODES = 17
# Outside of any image, also in what is interpolated from it.
FAR_PX = -1e6


def crop_intrinsics(camera: Camera, box: np.ndarray, size: int) -> np.ndarray:
    """K (3, 3) of the crop under a box (4,) in undistorted pixels of the camera; it holds the box's roll."""
    affine = np.vstack([crops.crop_from_image(box, size), [0.0, 0.0, 1.0]])
    return affine @ camera.K


def cut_pinhole(image: np.ndarray, camera: Camera, K: np.ndarray, size: int) -> np.ndarray:
    """The (size, size, 3) uint8 crop with intrinsics K out of the whole, distorted image; black outside of it."""
    affine = (camera.K @ np.linalg.inv(K))[:2]
    scale = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    oversampling = int(np.clip(np.ceil(scale / MAX_REDUCTION), 1, MAX_OVERSAMPLING))
    side = size * oversampling
    # Crop pixels of the oversampled crop: the same square with finer cells.
    finer = affine.copy()
    finer[:, :2] /= oversampling
    finer[:, 2] += affine[:, :2] @ np.full(2, (1 / oversampling - 1) / 2)
    if camera.distortion_model == 'none':
        out = cv2.warpAffine(image, finer, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                             borderMode=cv2.BORDER_CONSTANT)
    else:
        x, y = _distorted_grid(camera, finer, side)
        out = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return cv2.resize(out, (size, size), interpolation=cv2.INTER_AREA) if oversampling > 1 else out


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


def _distorted_grid(camera: Camera, affine: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in the distorted image each of side² crop pixels is, as two (side, side) float32 maps."""
    nodes = np.linspace(0, side - 1, NODES)
    u, v = np.meshgrid(nodes, nodes)
    ideal = crops.transform(affine, np.column_stack([u.ravel(), v.ravel()]))
    xy = (np.column_stack([ideal, np.ones(len(ideal))]) @ np.linalg.inv(camera.K).T)[:, :2]
    # A box may reach beyond where the lens model holds, and folded back would show a part of the image again.
    px = np.nan_to_num(camera.denormalise(xy), nan=FAR_PX).astype(np.float32).reshape(NODES, NODES, 2)
    weights = _interpolation(side)
    return weights @ px[..., 0] @ weights.T, weights @ px[..., 1] @ weights.T


@lru_cache(maxsize=8)
def _interpolation(side: int) -> np.ndarray:
    """(side, NODES) float32 weights of the nodes for each of `side` pixels; the outer nodes are the outer pixels."""
    place = np.linspace(0, NODES - 1, side)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(NODES))).astype(np.float32)
