"""A moving hand, the things around it, its light, and the cameras that look at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic import appearance as looks
from hand_unc_ros.data.synthetic import imaging, shapes
from hand_unc_ros.data.synthetic import worn as things
from hand_unc_ros.data.synthetic.filming import Exposure, PlainCameras, Webcams
from hand_unc_ros.data.synthetic.finger_capsules import FingerTurns
from hand_unc_ros.data.synthetic.motion import HandMotion, HandState
from hand_unc_ros.data.synthetic.noise import noise_lattice
from hand_unc_ros.data.synthetic.posing import Posing
from hand_unc_ros.data.synthetic.rasteriser import Mesh, Mottling, Projection, merge, vertex_normals
from hand_unc_ros.data.synthetic.skin import Skins
from hand_unc_ros.data.synthetic.worn import Worn
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.vectors import unit
from hand_unc_ros.hand.joints import FINGERS, FINGERTIPS
from hand_unc_ros.hand.limits import ANGLE_COUNT, FlexionAxes, fingers_of
from hand_unc_ros.hand.model import HandModel
from hand_unc_ros.hand.palm_frame import INDEX_MCP, LITTLE_MCP



def _smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((value - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


class PosedHand:
    """Turns hand states into surfaces that can be rendered. Holds what depends on the model alone."""

    def __init__(self, model: HandModel) -> None:
        self.model = model
        self.axes = FlexionAxes.from_rest_joints(model.rest_joints(), model.side)
        self._turns = FingerTurns(self.axes)
        self._posing = None if model.skinning is None else Posing(model.skinning, self._turns)
        at_rest = HandState(np.zeros(ANGLE_COUNT), np.zeros(3), np.zeros(3))
        vertices, joints = (array[0] for array in self.surfaces([at_rest], np.zeros((1, 10))))
        self.faces = np.ascontiguousarray(model.faces, np.int32)
        self.rest_vertices = np.ascontiguousarray(vertices, np.float32)
        self.wrist_loop = shapes.boundary_loop(self.faces)[::-1]
        normals = vertex_normals(self.rest_vertices, self.faces)
        palmar = np.cross(joints[INDEX_MCP] - joints[0], joints[LITTLE_MCP] - joints[0])
        palmar = palmar / np.linalg.norm(palmar) * (1.0 if model.side == 'right' else -1.0)
        facing = normals @ palmar
        self.fingers = fingers_of(model.weights)
        self.uv = None if model.uv is None else np.ascontiguousarray(model.uv, np.float32)
        if model.palm is not None and model.nail is not None:
            self.skin = looks.SkinMap(model.palm, model.nail)
            return
        palm = _smoothstep(facing, -0.25, 0.45)
        nail = np.zeros(len(vertices))
        for finger, tip in zip(FINGERS, FINGERTIPS):
            along = joints[tip] - joints[tip - 1]
            along = along / np.linalg.norm(along)
            centre = joints[tip] - 0.006 * along
            radial = vertices - centre
            # The thumb's nail faces sideways from the palm; its back is what its own skin normal says.
            near = 1 - _smoothstep(np.linalg.norm(radial, axis=1), 0.007, 0.011)
            dorsal = _smoothstep(-facing, 0.35, 0.7) if finger != 'thumb' else _smoothstep(
                -normals @ _thumb_palmar(joints, palmar), 0.35, 0.7)
            nail = np.maximum(nail, near * dorsal)
        self.skin = looks.SkinMap(palm, nail)

    def surfaces(self, states: list[HandState], betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (B, N, 3) and joints (B, 21, 3) in metres, world, float64, of B hands."""
        if self._posing is not None:
            placed = [self._placed(state, shape) for state, shape in zip(states, betas)]
            return np.stack([vertices for vertices, _ in placed]), np.stack([joints for _, joints in placed])

        def stacked(values: list[np.ndarray]) -> torch.Tensor:
            return torch.as_tensor(np.stack(values), dtype=torch.float32)

        pose = stacked([self.pose(state) for state in states])
        with torch.no_grad():
            surface = self.model(pose, stacked(list(betas)), stacked([state.translation for state in states]))
        return surface.vertices.double().numpy(), surface.joints.double().numpy()

    def _placed(self, state: HandState, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (N, 3) and joints (21, 3) of one hand."""
        points, joints = self._posing.place(state.angles, state.orientation, betas, state.translation)
        joints = np.concatenate([joints, points[self.model.points]])[self.model.order]
        return points[:len(self.model.weights)], joints

    def pose(self, state: HandState) -> np.ndarray:
        """MANO pose (48,) axis-angle of a state, global orientation first."""
        turns = self._turns.of_pose(state.angles[None])[0]
        return np.concatenate([state.orientation, Rotation.from_matrix(turns).as_rotvec().ravel()])

    def mesh(self, vertices: np.ndarray, joints: np.ndarray, look: looks.Appearance,
             bend: np.ndarray, arm_length: float, skin_number: int = 0) -> list[Mesh]:
        """The hand and the forearm behind it. bend: rotation vector of the wrist, world.  skin_number: of the look's
        skin among those given to `render`."""
        vertices = np.ascontiguousarray(vertices, np.float32)
        hand = Mesh(vertices, vertex_normals(vertices, self.faces), self.faces, look.albedo,
                    self.rest_vertices, np.full(len(vertices), look.gloss, np.float32))
        if look.skin is not None:
            hand = hand._replace(uv=self.uv, skin=np.full(len(self.faces), skin_number, np.int32))
        ring = vertices[self.wrist_loop].astype(np.float64)
        outward = ring.mean(axis=0) - vertices[self.skin.palm > 0.5].mean(axis=0)
        outward = outward / np.linalg.norm(outward)
        tube, faces = shapes.forearm(ring, outward, bend, arm_length)
        rest, _ = shapes.forearm(self.rest_vertices[self.wrist_loop].astype(np.float64),
                                 outward, np.zeros(3), arm_length)
        wrist_albedo = look.albedo[self.wrist_loop]
        albedo = np.tile(wrist_albedo, (len(tube) // len(ring), 1))
        if look.sleeve is not None:
            albedo[2 * len(ring):] = look.sleeve
        arm = shapes.surface(tube, faces, np.zeros(3), look.gloss if look.sleeve is None else 0.0)
        # The seam takes the hand's own normals, or shading would show it.
        arm.normals[:len(ring)] = hand.normals[self.wrist_loop]
        arm = Mesh(arm.vertices, arm.normals, arm.faces, albedo.astype(np.float32),
                   rest.astype(np.float32), arm.gloss)
        return [hand, arm, *self._worn(look.worn, vertices, joints, tube)]

    def _worn(self, worn: Worn, vertices: np.ndarray, joints: np.ndarray, tube: np.ndarray) -> list[Mesh]:
        """tube: the forearm's vertices, rings as long as the wrist's loop."""
        columns = len(self.wrist_loop)
        meshes = [] if worn.sleeve is None else [things.sleeve(worn.sleeve, tube, columns)]
        if worn.band is not None:
            meshes += things.band(worn.band, tube, columns, int(self.skin.palm[self.wrist_loop].argmin()))
        return meshes + [things.ring(ring, joints, vertices, self.fingers == (ring.joint - 1) // 4)
                         for ring in worn.rings]


def _thumb_palmar(joints: np.ndarray, palmar: np.ndarray) -> np.ndarray:
    """Where the thumb's pad faces in the rest pose: across its own axis, towards the little finger."""
    along = joints[4] - joints[2]
    along = along / np.linalg.norm(along)
    across = joints[LITTLE_MCP] - joints[3]
    pad = palmar + 0.8 * across / np.linalg.norm(across)
    pad = pad - along * (pad @ along)
    return pad / np.linalg.norm(pad)


@dataclass(frozen=True)
class SceneSettings:
    """How hard the scene is. clutter: number of objects near the hand.  blur_s: exposure time in seconds.
    noise: sensor sigma in display units of 255, of the stand-in's plain cameras.  jpeg_quality: None for raw images."""

    clutter: int = 1
    blur_s: float = 0.004
    noise: float = 3.0
    jpeg_quality: int | None = None


class Scene:
    """A seeded scene that can be asked for its truth and its images at any time. A hand with texture coordinates is
    lifelike and filmed by webcams in rooms."""

    def __init__(self, model: HandModel, rig: CameraRig, seed: int,
                 settings: SceneSettings = SceneSettings(), motion: HandMotion | None = None) -> None:
        rng = np.random.default_rng((seed, 7002))
        self.rig = rig
        self.settings = settings
        self.seed = seed
        self.hand = PosedHand(model)
        self.motion = motion or HandMotion(seed, base=tuple(Rotation.random(random_state=int(
            rng.integers(2 ** 31))).as_rotvec()))
        self.betas = np.clip(rng.normal(0, 1, 10), -2, 2)
        lifelike = model.uv is not None
        self.look = Skins(model, seed, 1).draw(rng, 1) if lifelike else looks.draw_appearance(rng, self.hand.skin)
        light = looks.draw_light(rng)
        mottling = Mottling(noise_lattice(rng), gain=self.look.mottle)
        grain = imaging.Grain(rng, max(camera.height for camera in rig), max(camera.width for camera in rig))
        self.bend = rng.normal(0, 0.25, 3)
        self.arm_length = rng.uniform(0.3, 0.4) if lifelike else rng.uniform(0.16, 0.26)
        self.objects = [shapes.draw_object(rng, 0.008, 0.03) for _ in range(settings.clutter)]
        self.placings = [(Rotation.random(random_state=int(rng.integers(2 ** 31))).as_matrix(),
                          unit(rng.normal(size=3)) * rng.uniform(0.05, 0.13)) for _ in self.objects]
        if lifelike:
            self.cameras: PlainCameras | Webcams = Webcams(rig, seed, mottling, self.look.skin)
        else:
            backgrounds = [looks.draw_background(np.random.default_rng((seed, 7003, i)), camera.height, camera.width)
                           for i, camera in enumerate(rig.cameras)]
            self.cameras = PlainCameras(backgrounds, light, mottling, grain, settings.noise)

    def truth(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Joints (21, 3) and vertices (N, 3) at time t, metres, world."""
        vertices, joints = self.hand.surfaces([self.motion.at(t)], self.betas[None])
        return joints[0], vertices[0]

    def _meshes(self, joints: np.ndarray, vertices: np.ndarray) -> list[Mesh]:
        centre = joints[[0, 5, 9, 13, 17]].mean(axis=0)
        meshes = self.hand.mesh(vertices, joints, self.look, self.bend, self.arm_length)
        return meshes + [shapes.placed(thing, rotation, centre + offset)
                         for thing, (rotation, offset) in zip(self.objects, self.placings)]

    def images(self, t: float, cameras: list[str] | None = None) -> dict[str, np.ndarray]:
        """RGB uint8 images (H, W, 3) of the named cameras (all by default) at time t."""
        joints, vertices = self.truth(t)
        later, _ = self.truth(t + self.settings.blur_s)
        meshes = self._meshes(joints, vertices)
        points = merge(meshes).vertices.astype(np.float64)
        lit = self.cameras.lit(meshes)
        images = {}
        for place, camera in enumerate(self.rig.cameras):
            if cameras is not None and camera.name not in cameras:
                continue
            rng = np.random.default_rng((self.seed, 7004, place, int(round(t * 1e6))))
            motion = np.nan_to_num((camera.project(later)[0] - camera.project(joints)[0]).mean(axis=0))
            image = self.cameras.image(lit, Exposure(place, Projection(*camera.project(points), camera.centre),
                                                     motion, rng))
            if self.settings.jpeg_quality is not None:
                image = imaging.jpeg(image, self.settings.jpeg_quality)
            images[camera.name] = image
        return images
