"""Synthetic hands that no network was trained on: kinds of scenes to validate and test on.

Nothing is shared with training (data/synthetic/multiview.py, frames.py): every draw comes from a seed stream that ends
in a number of its kind's own, so no seed of one gives the draws of the other. Cameras stand in a ring, have lens
distortion and a sensor of 640×480; hands move, and images show that motion and sensor noise; backgrounds are drawn for
each camera and not taken from a store; objects go with the hand, their sizes and places are drawn in other ways.
A hand with texture coordinates is lifelike, and webcams film it before surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.samples import ManoParameters, Sample, SampleView
from hand_unc_ros.data.synthetic import appearance as looks
from hand_unc_ros.data.synthetic import imaging, shapes
from hand_unc_ros.data.synthetic.environment import draw_environment
from hand_unc_ros.data.synthetic.filming import FINENESS, moving, photograph
from hand_unc_ros.data.synthetic.lit import Lit, Surface
from hand_unc_ros.data.synthetic.motion import HandMotion
from hand_unc_ros.data.synthetic.noise import noise_lattice
from hand_unc_ros.data.synthetic.photographs import installed_photographs
from hand_unc_ros.data.synthetic.rasteriser import Light, Mesh, Mottling, Projection, merge
from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.data.synthetic.second_hand import with_second_hand
from hand_unc_ros.data.synthetic.sensor import Sensor, Webcam, draw_webcam
from hand_unc_ros.data.synthetic.skin import Skins
from hand_unc_ros.data.synthetic.surroundings import Surroundings
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.geometry.vectors import unit
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.joints import JOINT_COUNT, MIDDLE_MCP
from hand_unc_ros.hand.model import HandModel, load_hand_model
from hand_unc_ros.hand.standin import STANDIN

RATE_HZ = 15.0
SENSOR = (640, 480)
# A stored window spans this many times the side of the hand's box, and at most so many pixels.
WINDOW = 1.6
WINDOW_PX = 256
PALM_JOINTS = [0, 5, 9, 13, 17]


@dataclass(frozen=True)
class HeldOutKind:
    """stream: of its seeds.  objects: fewest and most.  between: how many of them stand between hand and cameras.
    exposure_s: of every image.  noise: sensor sigma, of 255.  period_s: between the key poses of the motion, in which
    the hand rests.  start: at which share of a period a sequence begins, least and most.
    missing: one camera of each pair delivers nothing, so half of any even number of first views.
    second: whether the person's left hand is near: it passes by, or goes along, touching or clasped."""

    stream: int
    objects: tuple[int, int] = (0, 0)
    between: int = 0
    exposure_s: float = 0.002
    noise: float = 2.0
    period_s: float = 1.1
    start: tuple[float, float] = (0.1, 1.1)
    missing: bool = False
    second: bool = False


HELD_OUT = {
    'clean': HeldOutKind(7041),
    'occluded': HeldOutKind(7042, objects=(3, 4), between=2),
    'blurred': HeldOutKind(7043, objects=(1, 1), exposure_s=0.045, noise=5.0, period_s=0.45, start=(0.25, 0.75)),
    'missing': HeldOutKind(7044, objects=(1, 1), missing=True),
    'two_hands': HeldOutKind(7045, second=True),
}


@dataclass(frozen=True)
class _Scene:
    """What one sequence shows. objects: mesh, and where its origin is from the middle of the palm (3,).  light: of the
    stand-in, or the surface of a lifelike hand."""

    motion: HandMotion
    start_s: float
    betas: np.ndarray
    look: looks.Appearance
    light: Light | Surface
    bend: np.ndarray
    arm_length: float
    rig: CameraRig
    objects: list[tuple[Mesh, np.ndarray]]
    silent: frozenset[str]


@dataclass(frozen=True)
class _Moment:
    """One frame of a sequence with V cameras. joints: (21, 3) metres.  lit: the mesh again, where it is lifelike.
    joints_px: (V, 21, 2) in whole images.  px (V, N, 2), depth (V, N): of the vertices of the mesh.  distance: (V,) of
    the middle knuckle along the axis.  motion: (V, 2) pixels while the shutter is open."""

    joints: np.ndarray
    mesh: Mesh
    lit: Lit | None
    joints_px: np.ndarray
    px: np.ndarray
    depth: np.ndarray
    distance: np.ndarray
    motion: np.ndarray


class HeldOutSequences:
    """Sequences of `frames` moments at 15 Hz, seen by `views` cameras. State: the hand and the stores of noise."""

    def __init__(self, model: HandModel, kind: str, seed: int, views: int, frames: int) -> None:
        """Raises ConfigError for an unknown kind or an odd number of views where pairs are needed."""
        if kind not in HELD_OUT:
            raise ConfigError(f"unknown kind of scene '{kind}'; known: {', '.join(HELD_OUT)}")
        self.name, self.kind, self.seed, self.views, self.frames = kind, HELD_OUT[kind], seed, views, frames
        if self.kind.missing and views % 2:
            raise ConfigError(f"scenes '{kind}' lose one camera of each pair; give an even number of views, "
                              f'not {views}')
        rng = np.random.default_rng((seed, self.kind.stream))
        self.hand = PosedHand(model)
        self.lattice = noise_lattice(rng)
        self.grain = imaging.Grain(rng, SENSOR[1], SENSOR[0])
        self.lifelike = None
        if model.uv is not None:
            stream = int(rng.integers(2 ** 31))
            self.lifelike = _Lifelike(Skins(model, stream), Surroundings(stream, installed_photographs()), Sensor(rng))

    def sequence(self, number: int) -> list[Sample]:
        """The samples of sequence `number`, which depends on the seed and this number alone."""
        rng = np.random.default_rng((self.seed, number, self.kind.stream))
        scene = self._scene(rng)
        times = scene.start_s + np.arange(self.frames) / RATE_HZ
        states = [scene.motion.at(t) for t in times]
        if self.kind.second:
            states, vertices, joints, *other = with_second_hand(rng, self.hand, self.left, scene.betas, states, times, True)
            arm = rng.normal(0, 0.25, 3), rng.uniform(0.16, 0.26)
            others = [self.left.mesh(*surface, scene.look, *arm) for surface in zip(*other)]
        else:
            vertices, joints = self.hand.surfaces(states, np.tile(scene.betas, (self.frames, 1)))
            others = [[]] * self.frames
        moments = [self._moment(scene, *moment) for moment in zip(times, vertices, joints, others)]
        seen = [self._record(rng, scene, place, moments) for place in range(self.views)]
        return [Sample(f'{self.name} {self.seed}/{number}/{frame}', tuple(views), joints[frame], vertices[frame],
                       ManoParameters(self.hand.pose(states[frame]), scene.betas, states[frame].translation),
                       time_ns=round(1e9 * frame / RATE_HZ), sequence=f'{self.name}-{self.seed}-{number}', frame=frame)
                for frame, views in enumerate(zip(*seen))]

    @cached_property
    def left(self) -> PosedHand:
        """The person's other hand, loaded when it is first drawn."""
        return PosedHand(load_hand_model(STANDIN if self.lifelike is None else ANNY, side='left'))

    def _scene(self, rng: np.random.Generator) -> _Scene:
        def integer() -> int:
            return int(rng.integers(2 ** 62))

        kind = self.kind
        base = Rotation.from_quat(rng.normal(size=4)).as_rotvec()
        motion = HandMotion(integer(), kind.period_s, tuple(base), reach=(0.09, 0.09, 0.06))
        start = kind.period_s * rng.uniform(*kind.start)
        betas = np.clip(rng.normal(0, 1, 10), -2.5, 2.5)
        if self.lifelike is None:
            look, light = looks.draw_appearance(rng, self.hand.skin), looks.draw_light(rng)
        else:
            look = self.lifelike.skins.draw(rng, self.lifelike.skins.count)
            light = Surface(draw_environment(rng), Mottling(self.lattice, gain=look.mottle), look.skin[None])
        bend, arm_length = rng.normal(0, 0.25, 3), rng.uniform(0.16, 0.26)
        rig = ring_of_cameras(self.views, size=SENSOR, radius=rng.uniform(0.5, 0.85), seed=integer())
        order = surrounding_order(self.views)
        silent = [rig.names[order[pair + rng.integers(2)]] for pair in range(0, self.views, 2)] if kind.missing else []
        middle = self.hand.surfaces([motion.at(start)], betas[None])[1][0, PALM_JOINTS].mean(axis=0)
        rig = rig.subset([rig.names[place] for place in order])
        objects = self._objects(rng, middle, rig.cameras)
        return _Scene(motion, start, betas, look, light, bend, arm_length, rig, objects, frozenset(silent))

    def _objects(self, rng: np.random.Generator, middle: np.ndarray, cameras: Sequence[Camera]
                 ) -> list[tuple[Mesh, np.ndarray]]:
        objects = []
        for number in range(rng.integers(self.kind.objects[0], self.kind.objects[1] + 1)):
            turn = Rotation.from_quat(rng.normal(size=4)).as_matrix()
            if number < self.kind.between:
                camera = cameras[rng.integers(len(cameras))]
                towards = unit(unit(camera.centre - middle) + rng.normal(0, 0.15, 3))
                thing, distance = shapes.draw_object(rng, 0.02, 0.04), rng.uniform(0.06, 0.12)
            else:
                towards = unit(rng.normal(size=3))
                thing, distance = shapes.draw_object(rng, 0.008, 0.03), rng.uniform(0.05, 0.1)
            objects.append((shapes.placed(thing, turn, np.zeros(3)), towards * distance))
        return objects

    def _moment(self, scene: _Scene, t: float, vertices: np.ndarray, joints: np.ndarray,
                others: list[Mesh]) -> _Moment:
        middle = joints[PALM_JOINTS].mean(axis=0)
        meshes = (self.hand.mesh(vertices, joints, scene.look, scene.bend, scene.arm_length) + others
                  + [shapes.placed(thing, np.eye(3), middle + offset) for thing, offset in scene.objects])
        mesh = merge(meshes)
        half = self.kind.exposure_s / 2
        ends = self.hand.surfaces([scene.motion.at(t - half), scene.motion.at(t + half)],
                                  np.tile(scene.betas, (2, 1)))[1]
        px, depth = scene.rig.project(torch.from_numpy(np.concatenate([joints, *ends, mesh.vertices])))
        now, opened, closed, surface = np.split(px.numpy(), np.cumsum([JOINT_COUNT] * 3), axis=1)
        # The image moves alike everywhere, as far as the joints do on average while the shutter is open about time t.
        motion = np.nan_to_num((closed - opened).mean(axis=1))
        lit = scene.light.lit(meshes) if isinstance(scene.light, Surface) else None
        return _Moment(joints, mesh, lit, now, surface, depth.numpy()[:, 3 * JOINT_COUNT:],
                       depth.numpy()[:, MIDDLE_MCP], motion)

    def _behind(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """A background (height, width, 3): display values uint8, or linear light behind a lifelike hand."""
        if self.lifelike is None:
            return looks.draw_background(rng, height, width)
        return self.lifelike.surroundings.patch(rng, max(height, width))[:height, :width]

    def _record(self, rng: np.random.Generator, scene: _Scene, place: int, moments: list[_Moment]) -> list[SampleView]:
        """What one camera gives of a sequence."""
        camera = scene.rig.cameras[place]
        windows = [_window(rng, moment.joints, moment.joints_px[place], camera.K[0, 0] / moment.distance[place])
                   for moment in moments]
        if camera.name in scene.silent:
            return [SampleView(_window_camera(camera, window)[0], None, np.full((JOINT_COUNT, 2), np.nan),
                               np.zeros(JOINT_COUNT, bool)) for window in windows]
        # One background behind all windows: it stands still while they follow the hand.
        left, top = np.min(windows, axis=0)[:2]
        right, bottom = np.max(windows, axis=0)[2:]
        behind = self._behind(rng, bottom - top, right - left)
        webcam = None if self.lifelike is None else draw_webcam(rng, behind)
        views = []
        for window, moment in zip(windows, moments):
            part, reduction = _window_camera(camera, window)
            background = behind[window[1] - top:window[3] - top, window[0] - left:window[2] - left]
            projection = Projection(moment.px[place] - window[:2], moment.depth[place], camera.centre)
            if webcam is None:
                image = photograph(moment.mesh, projection, scene.light,
                                   Mottling(self.lattice, gain=scene.look.mottle), moment.motion[place], background)
                image = self.grain.apply(image, self.kind.noise, rng)
            else:
                image = self.lifelike.image(moment.lit, projection, background, moving(webcam, moment.motion[place]),
                                            rng)
            if part.width < image.shape[1]:
                image = cv2.resize(image, (part.width, part.height), interpolation=cv2.INTER_AREA)
            px = crops.transform(reduction, moment.joints_px[place])
            inside = ((px > -0.5) & (px < [part.width - 0.5, part.height - 0.5])).all(axis=1)
            views.append(SampleView(part, image, px, inside))
        return views


class _Lifelike(NamedTuple):
    """What lifelike hands are filmed with."""

    skins: Skins
    surroundings: Surroundings
    sensor: Sensor

    def image(self, lit: Lit, projection: Projection, background: np.ndarray, webcam: Webcam,
              rng: np.random.Generator) -> np.ndarray:
        """RGB uint8 of the size of the background (H, W, 3), which is linear."""
        light = background.copy()
        lit.draw(projection, light, FINENESS)
        return self.sensor.image(light, webcam, rng)


def surrounding_order(count: int) -> list[int]:
    """The places 0 … count − 1 of a ring, each next one as far from those before as can be: 0 4 2 6 1 3 5 7."""
    order = [0]
    while len(order) < count:
        def apart(place: int) -> int:
            return min(min(abs(place - other), count - abs(place - other)) for other in order)

        order.append(max((place for place in range(count) if place not in order), key=apart))
    return order


def _window(rng: np.random.Generator, joints: np.ndarray, px: np.ndarray,
            px_per_metre: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom, in pixels of the whole image and within it, of a square about the hand."""
    box = crops.reach_box(joints, px, px_per_metre)
    half = WINDOW / 2 * box[2] * np.exp(rng.normal(0, 0.05))
    centre = box[:2] + rng.normal(0, 0.04, 2) * box[2]
    low = np.clip(np.floor(centre - half), 0, np.array(SENSOR) - 2).astype(int)
    high = np.clip(np.ceil(centre + half), low + 2, SENSOR).astype(int)
    return (*low, *high)


def _window_camera(camera: Camera, window: tuple[int, int, int, int]) -> tuple[Camera, np.ndarray]:
    """The camera whose whole image is a window of this one's, averaged down to at most WINDOW_PX, and the map (2, 3)
    from the pixels of this one to its. Lens distortion acts before K and stays what it is."""
    left, top, right, bottom = window
    share = min(1.0, WINDOW_PX / max(right - left, bottom - top))
    width, height = max(1, round(share * (right - left))), max(1, round(share * (bottom - top)))
    x, y = width / (right - left), height / (bottom - top)
    # Pixels have their centres at integers: the corner of an image is at −1/2 before and after.
    reduction = np.array([[x, 0, (x - 1) / 2 - x * left], [0, y, (y - 1) / 2 - y * top], [0, 0, 1]])
    return replace(camera, width=width, height=height, K=reduction @ camera.K), reduction[:2]
