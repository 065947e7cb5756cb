"""Endless single-view training crops, rendered as they are needed and decided by the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic import appearance as looks
from hand_unc_ros.data.synthetic import imaging, shapes
from hand_unc_ros.data.synthetic.motion import HandState, draw_angles
from hand_unc_ros.data.synthetic.rasteriser import merge, noise_lattice, render
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import MIDDLE_MCP
from hand_unc_ros.hand.model import HandModel
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH

POSE_BATCH = 64
BACKGROUND_COUNT = 64
BACKGROUND_SIZE = 384
FOCAL_PX = 600.0
# A photograph spans this many times the side of the hand's box, room for the jitter of its cuts.
MARGIN = 1.4
SHELF = 384
# A landscape spans this many times the width of the frames that are cut from it.
LANDSCAPE_SPAN = 1.4
LANDSCAPE_SIZE = 288


@dataclass(frozen=True)
class CropSettings:
    """What training sees. image_size: side in pixels.  Rolls are jittered about upright by a normal of
    `roll_sigma` rad; scale and centre by shares of the box.  objects: probabilities of 0, 1, … objects.  absent: share of
    crops without a hand.  cuts: crops made of one rendered photograph."""

    image_size: int = 128
    roll_sigma: float = 0.3
    scale_sigma: float = 0.16
    centre_sigma: float = 0.07
    objects: tuple[float, ...] = (0.4, 0.3, 0.18, 0.12)
    absent: float = 0.06
    cuts: int = 4


class Crop(NamedTuple):
    """image: (S, S, 3) uint8.  joints_px: (21, 2) in the crop.  inside: (21,) bool.  present: bool."""

    image: np.ndarray
    joints_px: np.ndarray
    inside: np.ndarray
    present: bool


class Frame(NamedTuple):
    """A small whole frame for the finder. image: (128, 160, 3) uint8.  box: (4,) as `hand.crops`, frame
    pixels; NaN where there is no hand."""

    image: np.ndarray
    box: np.ndarray


class _Subject(NamedTuple):
    vertices: np.ndarray
    joints: np.ndarray


class _Portrait(NamedTuple):
    image: np.ndarray
    joints_px: np.ndarray
    box: np.ndarray
    present: bool


class HandPhotographer:
    """Draws hands in front of one camera, in any orientation. State: the generator and the prop store."""

    def __init__(self, model: HandModel, seed: int, stream: int = 0,
                 settings: CropSettings = CropSettings()) -> None:
        self.settings = settings
        self.rng = np.random.default_rng((seed, stream, 7010))
        self.hand = PosedHand(model)
        self.lattice = noise_lattice(self.rng)
        self.backgrounds = [looks.draw_background(self.rng, BACKGROUND_SIZE, BACKGROUND_SIZE)
                            for _ in range(BACKGROUND_COUNT)]
        self.grain = imaging.Grain(self.rng, *(max(side, settings.image_size) for side in (FRAME_HEIGHT, FRAME_WIDTH)))
        self.subjects: list[_Subject] = []
        self.shelf: list[_Portrait] = []
        self.frame_shelf: list[_Portrait] = []

    def _subject(self) -> _Subject:
        """The next posed hand in camera coordinates; posing is done for many hands at once."""
        if not self.subjects:
            rng = self.rng
            rotations = Rotation.random(POSE_BATCH, random_state=int(rng.integers(2 ** 31))).as_rotvec()
            distance = np.exp(rng.uniform(np.log(0.25), np.log(1.3), POSE_BATCH))
            off_axis = rng.normal(0, 0.22, (POSE_BATCH, 2)) * distance[:, None]
            places = np.column_stack([off_axis, distance])
            states = [HandState(draw_angles(rng), rotation, place)
                      for rotation, place in zip(rotations, places)]
            betas = np.clip(rng.normal(0, 1, (POSE_BATCH, 10)), -2.5, 2.5)
            vertices, joints = self.hand.surfaces(states, betas)
            self.subjects = [_Subject(v, j) for v, j in zip(vertices, joints)]
        return self.subjects.pop()

    def crop(self) -> Crop:
        """The next training crop, upright but for jitter.

        A photograph is taken wider than the crop and cut several times with other jitter, blur and noise:
        rendering costs more than the rest. Cuts wait in a shelf so that siblings do not follow each other.
        """
        while len(self.shelf) < SHELF:
            photograph = self._portrait()
            self.shelf += [photograph] * self.settings.cuts
        return self._cut(_take(self.shelf, self.rng))

    def _portrait(self) -> _Portrait:
        rng, settings = self.rng, self.settings
        subject = self._subject()
        joints_px, box = _project(subject)
        present = bool(rng.random() >= settings.absent)
        wide = box * [1, 1, MARGIN, 1]
        # What a camera resolves of the hand varies with its distance: render at that, then resample.
        side = int(MARGIN * settings.image_size * np.exp(rng.uniform(np.log(0.65), np.log(1.5))))
        image = imaging.quantise(self._photograph(subject, wide, (side, side), present))
        to_portrait = crops.crop_from_image(wide, side)
        return _Portrait(image, crops.transform(to_portrait, joints_px), crops.transform_box(to_portrait, box), present)

    def _cut(self, portrait: _Portrait) -> Crop:
        rng, settings = self.rng, self.settings
        side = portrait.image.shape[0]
        inner = side / MARGIN
        middle = (side - 1) / 2 + rng.normal(0, settings.centre_sigma, 2) * inner
        box = np.array([*middle, inner * np.exp(rng.normal(0, settings.scale_sigma)),
                        rng.normal(0, settings.roll_sigma)])
        size = settings.image_size
        image = cv2.warpAffine(portrait.image, crops.image_from_crop(box, size), (size, size),
                               flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101)
        joints_px = crops.transform(crops.crop_from_image(box, size), portrait.joints_px)
        inside = np.all((joints_px > -0.5) & (joints_px < size - 0.5), axis=1)
        return Crop(self._develop(image), joints_px, inside & portrait.present, portrait.present)

    def frame(self) -> Frame:
        """The next whole frame for the finder, the hand somewhere in it at a realistic size and turn."""
        while len(self.frame_shelf) < SHELF:
            self.frame_shelf += [self._landscape()] * self.settings.cuts
        return self._cut_frame(_take(self.frame_shelf, self.rng))

    def _landscape(self) -> _Portrait:
        rng = self.rng
        subject = self._subject()
        joints_px, hand = _project(subject)
        # Side of the hand's box as a share of the frame's width.
        share = np.exp(rng.uniform(np.log(0.14), np.log(0.85)))
        span = hand[2] / share * LANDSCAPE_SPAN
        view = np.array([*(hand[:2] - rng.uniform(-0.22, 0.22, 2) * span), span, 0.0])
        present = bool(rng.random() >= 0.15)
        image = imaging.quantise(self._photograph(subject, view, (LANDSCAPE_SIZE,) * 2, present))
        to_landscape = crops.crop_from_image(view, LANDSCAPE_SIZE)
        return _Portrait(image, crops.transform(to_landscape, joints_px), crops.transform_box(to_landscape, hand),
                         present)

    def _cut_frame(self, landscape: _Portrait) -> Frame:
        rng = self.rng
        width = LANDSCAPE_SIZE / LANDSCAPE_SPAN * np.exp(rng.uniform(-0.2, 0.2))
        middle = (LANDSCAPE_SIZE - 1) / 2 + rng.uniform(-0.12, 0.12, 2) * LANDSCAPE_SIZE
        view = np.array([*middle, width, rng.uniform(-np.pi, np.pi)])
        affine = _frame_from_image(view, FRAME_WIDTH, FRAME_HEIGHT)
        image = cv2.warpAffine(landscape.image, affine, (FRAME_WIDTH, FRAME_HEIGHT), flags=cv2.INTER_LINEAR,
                               borderMode=cv2.BORDER_REFLECT_101)
        box = np.full(4, np.nan)
        if landscape.present:
            box = crops.transform_box(affine, landscape.box)
            if not ((box[:2] > 0) & (box[:2] < [FRAME_WIDTH - 1, FRAME_HEIGHT - 1])).all():
                box[:] = np.nan
        return Frame(self._develop(image), box)

    def _photograph(self, subject: _Subject, view: np.ndarray, size: tuple[int, int],
                    present: bool) -> np.ndarray:
        """Render the region `view` (box whose side is the image's width) of the ideal camera."""
        rng, settings = self.rng, self.settings
        height, width = size
        to_pixels = _frame_from_image(view, width, height)
        look = looks.draw_appearance(rng, self.hand.skin)
        light = looks.draw_light(rng)
        meshes = []
        if present:
            meshes += self.hand.mesh(subject.vertices, subject.joints, look, rng.normal(0, 0.3, 3),
                                     rng.uniform(0.12, 0.28))
        centre = subject.joints[[0, 5, 9, 13, 17]].mean(axis=0)
        count = rng.choice(len(settings.objects), p=settings.objects)
        for _ in range(count):
            meshes.append(self._prop(centre))
        background = self._background(height, width)
        if not meshes:
            return background
        mesh = merge(meshes)
        ideal = FOCAL_PX * mesh.vertices[:, :2] / np.maximum(mesh.vertices[:, 2:], 1e-3)
        px = crops.transform(to_pixels, ideal.astype(np.float64))
        linear, alpha, _ = render(mesh, px, mesh.vertices[:, 2], size, np.zeros(3), light, self.lattice,
                                  noise_scale=rng.uniform(50, 150), noise_gain=look.mottle, shadow_size=64)
        return imaging.composite(linear, alpha, background)

    def _prop(self, centre: np.ndarray):
        """An object in or near the hand, or between it and the camera."""
        rng = self.rng
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        place = centre + direction * rng.uniform(0.03, 0.13)
        if rng.random() < 0.3:
            place = place * rng.uniform(0.6, 0.95)
        rotation = Rotation.random(random_state=int(rng.integers(2 ** 31))).as_matrix()
        return shapes.placed(shapes.draw_object(rng), rotation, place)

    def _background(self, height: int, width: int) -> np.ndarray:
        rng = self.rng
        store = self.backgrounds[rng.integers(len(self.backgrounds))]
        side = int(rng.uniform(0.15, 1.0) * BACKGROUND_SIZE)
        top, left = rng.integers(0, BACKGROUND_SIZE - side + 1, 2)
        patch = store[top:top + side, left:left + side]
        if rng.random() < 0.5:
            patch = patch[:, ::-1]
        if rng.random() < 0.5:
            patch = patch.transpose(1, 0, 2)
        patch = patch[..., rng.permutation(3)]
        image = cv2.resize(patch, (width, height), interpolation=cv2.INTER_LINEAR)
        return image.astype(np.float32) * rng.uniform(0.4, 1.3)

    def _develop(self, image: np.ndarray) -> np.ndarray:
        """Blur, colour, noise and compression of a (H, W, 3) uint8 image."""
        rng = self.rng
        if rng.random() < 0.25:
            angle, length = rng.uniform(0, 2 * np.pi), min(rng.exponential(0.03), 0.1) * image.shape[1]
            image = imaging.motion_blur(image, length * np.array([np.cos(angle), np.sin(angle)]))
        if rng.random() < 0.2:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.4))
        gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, [0.07, 0.05, 0.07]))
        image = image * gain.astype(np.float32)
        image = self.grain.apply(image, rng.exponential(4.0), rng)
        if rng.random() < 0.3:
            image = imaging.jpeg(image, int(rng.integers(35, 95)))
        return image


def _project(subject: _Subject) -> tuple[np.ndarray, np.ndarray]:
    """Joints (21, 2) and box (4,) of a hand in the ideal camera's image."""
    joints_px = FOCAL_PX * subject.joints[:, :2] / subject.joints[:, 2:]
    return joints_px, crops.reach_box(subject.joints, joints_px, FOCAL_PX / subject.joints[MIDDLE_MCP, 2])


def _take(shelf: list, rng: np.random.Generator):
    """A random entry of the shelf, removed."""
    index = int(rng.integers(len(shelf)))
    shelf[index], shelf[-1] = shelf[-1], shelf[index]
    return shelf.pop()


def _frame_from_image(view: np.ndarray, width: int, height: int) -> np.ndarray:
    """Affine map (2, 3) from ideal-camera pixels to a width × height image whose width spans the view."""
    affine = crops.crop_from_image(view, width)
    affine[1, 2] += (height - width) / 2
    return affine


def batches(photographer: HandPhotographer, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless stacked crops: image (B, S, S, 3), joints_px (B, 21, 2), inside (B, 21), present (B,)."""
    while True:
        drawn = [photographer.crop() for _ in range(size)]
        yield {name: np.stack([getattr(crop, name) for crop in drawn]) for name in Crop._fields}


def frame_batches(photographer: HandPhotographer, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Endless stacked frames: image (B, 128, 160, 3), box (B, 4)."""
    while True:
        drawn = [photographer.frame() for _ in range(size)]
        yield {name: np.stack([getattr(frame, name) for frame in drawn]) for name in Frame._fields}
