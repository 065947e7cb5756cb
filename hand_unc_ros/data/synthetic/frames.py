"""Small whole frames with a hand somewhere in them, for the finder; they depend on the seed and the block's number."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic import appearance as looks
from hand_unc_ros.data.synthetic import imaging, shapes
from hand_unc_ros.data.synthetic.motion import HandState, draw_angles
from hand_unc_ros.data.synthetic.noise import noise_lattice
from hand_unc_ros.data.synthetic.rasteriser import Mesh, Mottling, Projection, merge, render
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import MIDDLE_MCP
from hand_unc_ros.hand.model import HandModel
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH

BACKGROUND_COUNT = 64
BACKGROUND_SIZE = 384
FOCAL_PX = 600.0
# A landscape spans this many times the width of the frames that are cut from it.
LANDSCAPE_SPAN = 1.4
LANDSCAPE_SIZE = 288


class FrameSettings(NamedTuple):
    """objects: probabilities of 0, 1, … objects near the hand.  absent: share of landscapes without a hand.
    cuts: frames cut from each."""

    objects: tuple[float, ...] = (0.4, 0.3, 0.18, 0.12)
    absent: float = 0.15
    cuts: int = 4


class _Landscape(NamedTuple):
    """image: (288, 288, 3) uint8.  box: (4,) of the hand as `hand.crops`, in its pixels; NaN where there is none."""

    image: np.ndarray
    box: np.ndarray


class FrameSamples:
    """Draws hands in front of one camera, in any orientation. State: the stores of backgrounds and noise."""

    def __init__(self, model: HandModel, seed: int, settings: FrameSettings = FrameSettings()) -> None:
        rng = np.random.default_rng((seed, 7010))
        self.seed, self.settings = seed, settings
        self.hand = PosedHand(model)
        self.lattice = noise_lattice(rng)
        self.backgrounds = [looks.draw_background(rng, BACKGROUND_SIZE, BACKGROUND_SIZE)
                            for _ in range(BACKGROUND_COUNT)]
        self.grain = imaging.Grain(rng, FRAME_HEIGHT, FRAME_WIDTH)

    def block(self, index: int, count: int) -> dict[str, np.ndarray]:
        """Block number `index` of `count` frames: image (N, 128, 160, 3) uint8 and box (N, 4) in its pixels, NaN where
        no hand is in it.

        Rendering costs more than the rest, so a landscape wider than a frame is cut several times with other jitter,
        blur and noise; its frames are spread over the block.
        """
        rng = np.random.default_rng((self.seed, index, 7011))
        landscapes = self._landscapes(rng, -(-count // self.settings.cuts))
        order = rng.permutation(len(landscapes) * self.settings.cuts)[:count] % len(landscapes)
        frames = [self._cut(landscapes[place], rng) for place in order]
        return {'image': np.stack([image for image, _ in frames]), 'box': np.stack([box for _, box in frames])}

    def _landscapes(self, rng: np.random.Generator, count: int) -> list[_Landscape]:
        """Posing is done for all hands at once."""
        turns = Rotation.random(count, random_state=int(rng.integers(2 ** 31))).as_rotvec()
        distance = np.exp(rng.uniform(np.log(0.25), np.log(1.3), count))
        off_axis = rng.normal(0, 0.22, (count, 2)) * distance[:, None]
        states = [HandState(draw_angles(rng), turn, place)
                  for turn, place in zip(turns, np.column_stack([off_axis, distance]))]
        betas = np.clip(rng.normal(0, 1, (count, 10)), -2.5, 2.5)
        return [self._landscape(rng, vertices, joints) for vertices, joints in zip(*self.hand.surfaces(states, betas))]

    def _landscape(self, rng: np.random.Generator, vertices: np.ndarray, joints: np.ndarray) -> _Landscape:
        px = FOCAL_PX * joints[:, :2] / joints[:, 2:]
        hand = crops.reach_box(joints, px, FOCAL_PX / joints[MIDDLE_MCP, 2])
        # Side of the hand's box as a share of the frame's width.
        span = hand[2] / np.exp(rng.uniform(np.log(0.14), np.log(0.85))) * LANDSCAPE_SPAN
        view = np.array([*(hand[:2] - rng.uniform(-0.22, 0.22, 2) * span), span, 0.0])
        present = bool(rng.random() >= self.settings.absent)
        look, light = looks.draw_appearance(rng, self.hand.skin), looks.draw_light(rng)
        meshes = []
        if present:
            meshes += self.hand.mesh(vertices, joints, look, rng.normal(0, 0.3, 3), rng.uniform(0.12, 0.28))
        centre = joints[[0, 5, 9, 13, 17]].mean(axis=0)
        meshes += [self._object(rng, centre) for _ in range(rng.choice(len(self.settings.objects),
                                                                       p=self.settings.objects))]
        image = looks.background_patch(rng, self.backgrounds, LANDSCAPE_SIZE)
        if meshes:
            mesh = merge(meshes)
            ideal = FOCAL_PX * mesh.vertices[:, :2] / np.maximum(mesh.vertices[:, 2:], 1e-3)
            at = crops.transform(crops.crop_from_image(view, LANDSCAPE_SIZE), ideal.astype(np.float64))
            linear, alpha, _ = render(mesh, Projection(at, mesh.vertices[:, 2], np.zeros(3)), (LANDSCAPE_SIZE,) * 2,
                                      light, Mottling(self.lattice, rng.uniform(50, 150), look.mottle), shadow_size=64)
            image = imaging.composite(linear, alpha, image)
        box = crops.transform_box(crops.crop_from_image(view, LANDSCAPE_SIZE), hand)
        return _Landscape(imaging.quantise(image), box if present else np.full(4, np.nan))

    def _object(self, rng: np.random.Generator, centre: np.ndarray) -> Mesh:
        """In or near the hand, or between it and the camera."""
        direction = rng.normal(size=3)
        place = centre + direction / np.linalg.norm(direction) * rng.uniform(0.03, 0.13)
        if rng.random() < 0.3:
            place = place * rng.uniform(0.6, 0.95)
        rotation = Rotation.random(random_state=int(rng.integers(2 ** 31))).as_matrix()
        return shapes.placed(shapes.draw_object(rng), rotation, place)

    def _cut(self, landscape: _Landscape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A frame (128, 160, 3) and its box (4,)."""
        width = LANDSCAPE_SIZE / LANDSCAPE_SPAN * np.exp(rng.uniform(-0.2, 0.2))
        middle = (LANDSCAPE_SIZE - 1) / 2 + rng.uniform(-0.12, 0.12, 2) * LANDSCAPE_SIZE
        affine = crops.crop_from_image(np.array([*middle, width, rng.uniform(-np.pi, np.pi)]), FRAME_WIDTH)
        affine[1, 2] += (FRAME_HEIGHT - FRAME_WIDTH) / 2
        image = cv2.warpAffine(landscape.image, affine, (FRAME_WIDTH, FRAME_HEIGHT), flags=cv2.INTER_LINEAR,
                               borderMode=cv2.BORDER_REFLECT_101)
        box = crops.transform_box(affine, landscape.box)
        if not ((box[:2] > 0) & (box[:2] < [FRAME_WIDTH - 1, FRAME_HEIGHT - 1])).all():
            box = np.full(4, np.nan)
        return self._develop(image, rng), box

    def _develop(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Blur, colour, noise and compression of a (H, W, 3) uint8 image."""
        if rng.random() < 0.25:
            angle, length = rng.uniform(0, 2 * np.pi), min(rng.exponential(0.03), 0.1) * image.shape[1]
            image = imaging.motion_blur(image, length * np.array([np.cos(angle), np.sin(angle)]))
        if rng.random() < 0.2:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.4))
        gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, [0.07, 0.05, 0.07]))
        image = self.grain.apply(image * gain.astype(np.float32), rng.exponential(4.0), rng)
        return imaging.jpeg(image, int(rng.integers(35, 95))) if rng.random() < 0.3 else image
