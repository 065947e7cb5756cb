"""Synthetic training samples: hands of any pose and orientation, seen by cameras anywhere around them.

A sample depends on the seed and its index alone, so a set of any size can be drawn in any order by any number of
workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.samples import ManoParameters, Sample, SampleView
from hand_unc_ros.data.synthetic import appearance as looks
from hand_unc_ros.data.synthetic import imaging, shapes
from hand_unc_ros.data.synthetic.environment import draw_environment
from hand_unc_ros.data.synthetic.grasps import draw_grasp
from hand_unc_ros.data.synthetic.lit import Lit, Surface
from hand_unc_ros.data.synthetic.motion import HandState
from hand_unc_ros.data.synthetic.noise import noise_lattice
from hand_unc_ros.data.synthetic.photographs import installed_photographs
from hand_unc_ros.data.synthetic.postures import draw_angles, draw_closure
from hand_unc_ros.data.synthetic.rasteriser import Mesh, Mottling, Projection
from hand_unc_ros.data.synthetic.ring import look_at
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.data.synthetic.sensor import Sensor, Webcam, draw_webcam, leave_frame
from hand_unc_ros.data.synthetic.skin import Skins
from hand_unc_ros.data.synthetic.surroundings import Surroundings
from hand_unc_ros.data.synthetic.two_hands import draw_two_hands
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.joints import JOINT_COUNT, MIDDLE_MCP
from hand_unc_ros.hand.model import HandModel, load_hand_model

BACKGROUND_COUNT = 160
FIRST_BACKGROUNDS, FIRST_SKINS = 8, 4
# An ideal camera has this and no other intrinsics.
FOCAL_PX = 600.0
IDEAL_K = np.diag([FOCAL_PX, FOCAL_PX, 1.0])
# Points to a side of what crops are cut from, over its pixels at full resolution: coarser images get several to a pixel.
FINENESS = 1.3
# An image spans this many times the side of the hand's box, room for the jitter of its crops.
MARGIN = 1.45
# Share of images that show a border of the frame, beyond which crops are black.
FRAME_BORDERS = 0.12
# What samples can lack, so that one sees what it is worth: hands of many shapes, things in them and second hands;
# drawn skins, in place of which they have plain colours; joints of a finger that bend each on their own; objects, rooms
# and photographs about them, or the photographs alone; a webcam, without which images are sharp, clean and all exposed
# alike, or of a webcam what brings its spectra near to those of photographs.
INGREDIENTS = ('hands', 'skin', 'postures', 'surroundings', 'photographs', 'webcam', 'spectrum')


@dataclass(frozen=True)
class MultiviewSettings:
    """What training sees. image_size: side in pixels of the crops that will be cut.  objects: probabilities of 0, 1,
    … objects near the hand.  absent: share of views that are turned away from the hand, whose image shows none.
    alone_holding_both: probabilities of a hand by itself, of one that holds a thing, and of both hands of a person.
    without: which of INGREDIENTS they lack."""

    image_size: int = 128
    objects: tuple[float, ...] = (0.4, 0.3, 0.18, 0.12)
    absent: float = 0.05
    alone_holding_both: tuple[float, float, float] = (0.55, 0.27, 0.18)
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError for what is no ingredient."""
        unknown = sorted(set(self.without) - set(INGREDIENTS))
        if unknown:
            raise ConfigError(f'samples cannot be without {", ".join(unknown)}; choose of {", ".join(INGREDIENTS)}')


class MultiviewSamples:
    """Endless samples of `views` cameras each. State: the stores of backgrounds and noise, drawn from the seed.

    photographs: linear RGB (H, W, 3) to take backgrounds from besides, see `photographs.backgrounds_from_folder`.
    """

    def __init__(self, model: HandModel, seed: int, settings: MultiviewSettings = MultiviewSettings(),
                 photographs: Sequence[np.ndarray] = ()) -> None:
        rng = np.random.default_rng((seed, 7020))
        self.seed = seed
        self.settings = settings
        self.hand = PosedHand(model)
        self.skins = None if model.uv is None or 'skin' in settings.without else Skins(model, seed)
        self.lattice = noise_lattice(rng)
        self.sensor = Sensor(rng)
        installed = [] if 'photographs' in settings.without else installed_photographs()
        self.surroundings = Surroundings(seed, [*installed, *photographs], BACKGROUND_COUNT,
                                         int(np.clip(1.4 * settings.image_size, 128, 320)))

    def sample(self, index: int, views: int) -> Sample:
        """Sample number `index`. Its hand does not depend on the number of views."""
        rng = np.random.default_rng((self.seed, index, 7021))
        betas = np.clip(rng.normal(0, 1, 10), -2.5, 2.5) * ('hands' not in self.settings.without)
        look = self.look(rng, FIRST_SKINS + index // 4)
        state, vertices, joints, things = self._composed(rng, betas, look)
        meshes = self.hand.mesh(vertices, joints, look, *self.arm(rng))
        centre = joints[[0, 5, 9, 13, 17]].mean(axis=0)
        if 'surroundings' not in self.settings.without:
            things += [self.object_near(rng, centre)
                       for _ in range(rng.choice(len(self.settings.objects), p=self.settings.objects))]
        surface = self._surface(rng, look)
        shown = surface.lit(meshes + things)
        # Few samples need few backgrounds, which take longer than samples; many samples see all of them.
        stores = FIRST_BACKGROUNDS + index // 2
        seen = []
        for place, pose in enumerate(draw_cameras(rng, centre, views)):
            present = rng.random() >= self.settings.absent
            view = self._view(rng, f'cam{place}', upright(pose, joints), joints,
                              shown if present else surface.lit(things), stores)
            seen.append(view if present else replace(view, joints_px=np.full((JOINT_COUNT, 2), np.nan),
                                                     visible=np.zeros(JOINT_COUNT, bool)))
        return Sample(f'synthetic {self.seed}/{index}', tuple(seen), joints, vertices,
                      ManoParameters(self.hand.pose(state), betas, state.translation))

    def given(self, index: int, vertices: np.ndarray, joints: np.ndarray, poses: Sequence[np.ndarray]) -> list[SampleView]:
        """A given hand by itself, vertices (N, 3) and joints (21, 3) metres, as cameras at poses world_from_camera (4, 4)
        film it. index: of the person, light, surroundings and webcams that it is given."""
        rng = np.random.default_rng((self.seed, index, 7022))
        look = self.look(rng, FIRST_SKINS + index // 4)
        shown = self._surface(rng, look).lit(self.hand.mesh(vertices, joints, look, *self.arm(rng)))
        return [self._view(rng, f'cam{place}', upright(pose, joints), joints, shown, FIRST_BACKGROUNDS + index // 2)
                for place, pose in enumerate(poses)]

    def _surface(self, rng: np.random.Generator, look: looks.Appearance) -> Surface:
        """Light, and the skin of a look."""
        return Surface(draw_environment(rng), Mottling(self.lattice, rng.uniform(50, 150), look.mottle),
                       None if look.skin is None else look.skin[None])

    @cached_property
    def left(self) -> PosedHand:
        """The other hand of the person, loaded when it is first drawn."""
        return PosedHand(load_hand_model(ANNY if self.hand.model.uv is not None else None, side='left'))

    def look(self, rng: np.random.Generator, skins: int) -> looks.Appearance:
        """How a person looks. skins: how many to choose from."""
        return looks.draw_appearance(rng, self.hand.skin) if self.skins is None else self.skins.draw(rng, skins)

    def _composed(self, rng: np.random.Generator, betas: np.ndarray,
                  look: looks.Appearance) -> tuple[HandState, np.ndarray, np.ndarray, list[Mesh]]:
        """State, vertices (N, 3) and joints (21, 3) of the hand, alone, holding something or beside the other hand of
        the same person, and what it holds, or the other hand."""
        kind = 0 if 'hands' in self.settings.without else rng.choice(3, p=self.settings.alone_holding_both)
        turn = Rotation.random(random_state=int(rng.integers(2 ** 31))).as_rotvec()
        place = rng.uniform(-0.1, 0.1, 3)
        if kind == 1:
            grasp = draw_grasp(rng, self.hand, betas, turn, place)
            return grasp.state, grasp.vertices, grasp.joints, [grasp.thing]
        if kind == 2:
            pair = draw_two_hands(rng, self.hand, self.left, betas, centre=place)
            other = self.left.mesh(pair.left.vertices, pair.left.joints, look, *self.arm(rng))
            return pair.right.state, pair.right.vertices, pair.right.joints, other
        draw = draw_closure if 'postures' in self.settings.without else draw_angles
        state = HandState(draw(rng), turn, place)
        vertices, joints = (array[0] for array in self.hand.surfaces([state], betas[None]))
        return state, vertices, joints, []

    def arm(self, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Bend and length of a forearm, which leaves the image where hands look real."""
        return rng.normal(0, 0.3, 3), float(rng.uniform(0.12, 0.28) if self.skins is None else rng.uniform(0.2, 0.36))

    def object_near(self, rng: np.random.Generator, centre: np.ndarray) -> Mesh:
        """A thing about the hand's centre (3,)."""
        direction = rng.normal(size=3)
        place = centre + direction / np.linalg.norm(direction) * rng.uniform(0.03, 0.13)
        rotation = Rotation.random(random_state=int(rng.integers(2 ** 31))).as_matrix()
        return shapes.placed(shapes.draw_object(rng), rotation, place)

    def _view(self, rng: np.random.Generator, name: str, pose: np.ndarray, joints: np.ndarray, shown: Lit | None,
              stores: int) -> SampleView:
        """The part around the hand of what an ideal camera sees. stores: backgrounds to choose from."""
        # What a camera resolves of the hand varies with its distance: render at that, then resample.
        size = int(MARGIN * self.settings.image_size * np.exp(rng.uniform(np.log(0.65), np.log(1.4))))
        camera, pixels = window_of(name, pose, joints, size)
        image = self.before(self.background(rng, size, stores), camera, shown)
        webcam = self.webcam(rng, image)
        if webcam is None:
            image = imaging.quantise(imaging.to_srgb(image))
        else:
            image = self.sensor.image(image, webcam, rng)
            if rng.random() < FRAME_BORDERS:
                leave_frame(rng, image, pixels)
        return SampleView(camera, image, pixels, np.ones(JOINT_COUNT, bool))

    def background(self, rng: np.random.Generator, size: int, stores: int) -> np.ndarray:
        """Linear light (size, size, 3) of what lies behind a hand. stores: backgrounds to choose from."""
        if 'surroundings' in self.settings.without:
            return np.full((size, size, 3), rng.uniform(0.02, 0.8, 3), np.float32)
        return self.surroundings.patch(rng, size, stores)

    def webcam(self, rng: np.random.Generator, linear: np.ndarray) -> Webcam | None:
        """What films linear light (H, W, 3); None where images are what the light is."""
        if 'webcam' in self.settings.without:
            return None
        webcam = draw_webcam(rng, linear)
        return webcam._replace(spectrum=None) if 'spectrum' in self.settings.without else webcam

    def before(self, background: np.ndarray, camera: Camera, shown: Lit | None) -> np.ndarray:
        """Linear light (size, size, 3) that comes to a camera without distortion from a mesh before a background of
        its size, which it takes the place of."""
        if shown is None:
            return background
        local = shown.vertices @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
        at = local[:, :2] / np.maximum(local[:, 2:], 1e-3) * camera.K[[0, 1], [0, 1]] + camera.K[:2, 2]
        shown.draw(Projection(at, local[:, 2], camera.centre), background,
                   max(1.0, FINENESS * MARGIN * self.settings.image_size / camera.width))
        return background


def window_of(name: str, pose: np.ndarray, joints: np.ndarray, size: int) -> tuple[Camera, np.ndarray]:
    """The camera of this name that has the part around the hand of what an ideal one at a pose (4, 4) sees as its whole
    image, of `size` px, and the joints (21, 2) in it."""
    px, depth = ideal_project(pose, joints)
    box = crops.reach_box(joints, px, FOCAL_PX / depth[MIDDLE_MCP]) * [1, 1, MARGIN, 0]
    K = np.vstack([crops.crop_from_image(box, size), [0, 0, 1]]) @ IDEAL_K
    pixels = crops.transform(np.array([[K[0, 0] / FOCAL_PX, 0, K[0, 2]], [0, K[1, 1] / FOCAL_PX, K[1, 2]]]), px)
    return Camera(name, size, size, K, 'none', np.zeros(0), pose), pixels


def upright(pose: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """The pose (4, 4) of an ideal camera turned about its axis until the hand stands upright: crops are, and image
    corners are wasted."""
    roll = crops.upright_roll(ideal_project(pose, joints)[0])
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]
    return pose @ turn


def ideal_project(pose: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """px (N, 2) and depth (N,) of points (N, 3), world, in an ideal camera at a pose (4, 4); all before it."""
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    return FOCAL_PX * local[:, :2] / local[:, 2:], local[:, 2]


def draw_cameras(rng: np.random.Generator, target: np.ndarray, count: int) -> list[np.ndarray]:
    """Poses world_from_camera (4, 4) of `count` cameras that look about at the target (3,), spread over a cap of the
    sphere of a random width: from a narrow stereo rig to cameras all around."""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    opening = rng.uniform(np.radians(25), np.pi)
    reach = np.exp(rng.uniform(np.log(0.28), np.log(1.1)))
    turn = Rotation.align_vectors(axis[None], np.array([[0.0, 0.0, 1.0]]))[0].as_matrix()
    poses, directions = [], []
    while len(poses) < count:
        # Uniform over the cap, redrawn while two cameras would be in one place.
        cosine = rng.uniform(np.cos(opening), 1.0)
        azimuth = rng.uniform(0, 2 * np.pi)
        sine = np.sqrt(1 - cosine ** 2)
        local = np.array([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine])
        direction = turn @ local
        apart = min((np.arccos(np.clip(direction @ other, -1, 1)) for other in directions), default=np.pi)
        if apart < opening / (2 * count):
            continue
        directions.append(direction)
        distance = reach * np.exp(rng.normal(0, 0.15))
        aside = rng.normal(0, 0.18, 3) * distance
        poses.append(look_at(target + direction * distance, target + aside))
    return poses
