"""Samples to network inputs: crops with their pinhole cameras, augmented, left hands mirrored; and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.data.samples import Sample, SampleView
from hand_unc_ros.data.synthetic.imaging import jpeg, motion_blur
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole, hand_box, mirror_view

# As hand/crops.py's reach_box.
BoxRule = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Augmentation:
    """What is varied, alike for all frames of a window. Standard deviations unless said otherwise.

    scale: of the box, relative.  roll: rad.  centre: share of the box.  colour: relative gain, per image, and half of
    it per channel.  blur: probability of motion blur.  noise: mean of the exponential from which its sigma is drawn,
    of 255. compress: probability of JPEG artefacts.
    """

    scale: float = 0.0
    roll: float = 0.0
    centre: float = 0.0
    colour: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    compress: float = 0.0


NO_AUGMENTATION = Augmentation()
# POEM's, for real datasets.
POEM_AUGMENTATION = Augmentation(scale=0.06, roll=np.radians(5), colour=0.3)
# Harder: the live pipeline crops around its own estimate. Synthetic images come from a webcam already.
SYNTHETIC_AUGMENTATION = Augmentation(scale=0.16, roll=0.3, centre=0.07, colour=0.05, blur=0.1, noise=1.0, compress=0.1)


def crop_sample(sample: Sample, size: int, augmentation: Augmentation = NO_AUGMENTATION, seed: Sequence[int] = (0,),
                views: Sequence[int] | None = None, rule: BoxRule = reach_box) -> dict[str, np.ndarray]:
    """One sample as arrays with a leading view axis; see `collate` for the names.

    views: which of its views, in which order; all by default.  seed: decides the augmentation; give the frames of a
    window the same one.  rule: draws the box that is augmented, see hand_box; where the palm is unknown, the view's own
    is taken.  A left hand comes out mirrored: its
    world is reflected in x = 0, its images left to right.
    """
    chosen = [sample.views[i] for i in (range(len(sample.views)) if views is None else views)]
    out: dict[str, list] = {name: [] for name in ('images', 'K', 'camera_from_world', 'view_mask', 'joints_px',
                                                  'joint_mask', 'present')}
    mirrored = sample.side == 'left'
    for place, view in enumerate(chosen):
        rng = np.random.default_rng((*seed, place))
        box = jitter(_box(sample, view, rule), augmentation, rng)
        seen = view.image is not None and bool(np.isfinite(box).all())
        K = crop_intrinsics(view.camera, box, size) if seen else np.eye(3)
        image = develop(cut_pinhole(view.read(), view.camera, K, size), augmentation, rng) if seen else \
            np.zeros((size, size, 3), np.uint8)
        pose = view.camera.camera_from_world[:3].copy()
        px, mask = _crop_joints(view, K, size) if seen else (np.zeros((JOINT_COUNT, 2)), np.zeros(JOINT_COUNT, bool))
        if mirrored:
            image, px, K, pose = mirror_view(image, px, K, pose)
        out['images'].append(np.ascontiguousarray(image))
        out['K'].append(K)
        out['camera_from_world'].append(pose)
        out['view_mask'].append(seen)
        out['joints_px'].append(px)
        out['joint_mask'].append(mask)
        out['present'].append(seen and bool(mask.any()))
    arrays = {name: np.stack(values) for name, values in out.items()}
    flip = np.array([-1.0 if mirrored else 1.0, 1.0, 1.0])
    vertices = np.zeros((0, 3)) if sample.vertices is None else sample.vertices
    return arrays | {'joints': sample.joints * flip, 'vertices': vertices * flip}


def collate(samples: Sequence[dict[str, np.ndarray]], indices: Sequence[int] | None = None) -> dict[str, Tensor]:
    """A batch: images (B, V, S, S, 3) uint8; K (B, V, 3, 3), camera_from_world (B, V, 3, 4), joints_px (B, V, 21, 2)
    in the crops, joints (B, 21, 3), vertices (B, N, 3) float32; view_mask, present (B, V), joint_mask (B, V, 21)
    bool; index (B,).

    The world of every sample is shifted to its hand, so that float32 keeps its digits. Samples with fewer views than
    the most are filled up with masked ones, those without a surface with NaN; N is 0 where none has one.
    Raises ValueError for samples with surfaces of different hand models.
    """
    views = max(len(sample['view_mask']) for sample in samples)
    samples = _with_vertices(samples)
    batch = {name: np.stack([_padded(name, sample[name], views) for sample in samples]) for name in samples[0]}
    known = np.isfinite(batch['joints']).all(axis=-1, keepdims=True)
    origin = np.where(known, batch['joints'], 0.0).sum(1, keepdims=True) / known.sum(1, keepdims=True).clip(1)
    batch['joints'] = batch['joints'] - origin
    batch['vertices'] = batch['vertices'] - origin
    pose = batch['camera_from_world']
    batch['camera_from_world'] = np.concatenate([pose[..., :3], pose[..., 3:] + pose[..., :3] @ origin[..., None]], -1)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(
        value.astype(np.float32) if value.dtype == np.float64 else value)) for name, value in batch.items()}
    tensors['index'] = torch.as_tensor(range(len(samples)) if indices is None else list(indices), dtype=torch.int64)
    return tensors


def _with_vertices(samples: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    counts = {len(sample['vertices']) for sample in samples} - {0}
    if len(counts) > 1:
        raise ValueError(f'samples with {" and ".join(map(str, sorted(counts)))} vertices do not make one batch: they'
                         ' are of different hand models')
    count = max(counts, default=0)
    unknown = {'vertices': np.full((count, 3), np.nan)}
    return [sample if len(sample['vertices']) else sample | unknown for sample in samples]


def develop(image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Blur, colour, noise and compression of an image (H, W, 3) uint8."""
    if rng.random() < augmentation.blur:
        angle, length = rng.uniform(0, 2 * np.pi), min(rng.exponential(0.03), 0.1) * image.shape[1]
        image = motion_blur(image, length * np.array([np.cos(angle), np.sin(angle)]))
    if augmentation.colour or augmentation.noise:
        gain = np.exp(rng.normal(0, augmentation.colour) + rng.normal(0, augmentation.colour / 2, 3)).astype(np.float32)
        image = cv2.LUT(image, (np.arange(256, dtype=np.float32)[:, None] * gain)[None])
        sigma = rng.exponential(augmentation.noise) if augmentation.noise else 0.0
        noise = rng.standard_normal(image.shape, np.float32) if augmentation.noise else image
        image = cv2.addWeighted(image, 1.0, noise, sigma, 0.0, dtype=cv2.CV_8U)
    if rng.random() < augmentation.compress:
        image = jpeg(image, int(rng.integers(35, 95)))
    return image


def jitter(box: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """A box (4,) moved, scaled and rolled at random."""
    draw = rng.standard_normal(4)
    centre = box[:2] + augmentation.centre * box[2] * draw[:2]
    return np.array([*centre, box[2] * np.exp(augmentation.scale * draw[2]), box[3] + augmentation.roll * draw[3]])


def _box(sample: Sample, view: SampleView, rule: BoxRule) -> np.ndarray:
    """(4,) NaN where nothing says where the hand is."""
    box = hand_box(sample.joints, view.camera, rule=rule)
    return box if view.box_px is None or np.isfinite(box).all() else view.box_px


def _crop_joints(view: SampleView, K: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Annotated joints in the crop's pixels (21, 2), zeros where unknown, and which lie inside of it and of the image
    (21,)."""
    xy = view.camera.normalise(view.joints_px)
    px = xy @ K[:2, :2].T + K[:2, 2]
    inside = np.isfinite(px).all(1) & ((px > -0.5) & (px < size - 0.5)).all(1) & view.in_image
    return np.where(np.isfinite(px), px, 0.0), inside


def _padded(name: str, value: np.ndarray, views: int) -> np.ndarray:
    if name in ('joints', 'vertices') or len(value) == views:
        return value
    fill = np.zeros((views - len(value), *value.shape[1:]), value.dtype)
    if name == 'K':
        fill[:] = np.eye(3)
    if name == 'camera_from_world':
        fill[:] = np.eye(4)[:3]
    return np.concatenate([value, fill])
