"""The stand-in hand: a procedural hand in the form of MANO's data, for use without MANO's licence.

Nothing in it comes from MANO; only the layout is MANO's (778 vertices, 1538 faces, 16 joints, 10 shape
coefficients, joint order and the vertices at the fingertips), so that whatever runs on it runs on a
user's MANO. Frame as in MANO, metres: for the right hand the fingers point to -x, the back of the hand
faces +y, the thumb is on the +z side; the origin lies near the middle knuckle. The left hand is the
right one mirrored in x. Joint rotations are axis-angles about these axes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hand_unc_ros.hand.mirror import on_side
from hand_unc_ros.hand.standin_mesh import Topology, build_mesh
from hand_unc_ros.hand.standin_shape import BETA_NAMES, CHAINS, FIRST_JOINT, Skeleton, pad_direction, skeleton
from hand_unc_ros.hand.topology import VERTEX_COUNT

# Names this hand where a model is asked for.
STANDIN = 'stand-in'
# Parent of each of smplx.MANO's 16 joints.
PARENTS16 = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)

# Rows: world axes x, y, z of a right hand in (distal, radial, dorsal).
_WORLD_FROM_ANATOMY = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
_ORIGIN_MM = np.array([95.0, 0.0, 0.0])
# Standard deviations over which the shape directions are differenced.
_SHAPE_STEP = 0.5

# Places of the tip and of its neighbours in the last ring (pad first), so that the tip vertices that
# other projects use (see `model.TIP_VERTICES`) lie at the tips here too.
_TIP_PLACES = {
    'thumb': (744, 745), 'index': (320, 317, 333), 'middle': (443, 444),
    'ring': (554, 555, 556), 'little': (671, 672, 673),
}


def build_standin(side: str = 'right') -> dict[str, np.ndarray]:
    """The stand-in hand as a dict of arrays with the keys of MANO's files.

    v_template (778, 3) m; shapedirs (778, 3, 10) m per standard deviation (`BETA_NAMES`);
    posedirs (778, 3, 135); J_regressor (16, 778); weights (778, 16); kintree_table (2, 16);
    f (1538, 3); hands_components (45, 45), the identity; hands_mean (45,), a relaxed hand in rad.
    Raises ValueError when `side` is neither 'right' nor 'left'.
    """
    return on_side(_right_hand(), side)


@lru_cache(maxsize=1)
def _right_hand() -> dict[str, np.ndarray]:
    count = len(BETA_NAMES)
    bones = skeleton(np.zeros(count))
    vertices, topology = build_mesh(bones)
    order = _numbering(topology)
    # Shape directions: differences of the procedure itself, joints included.
    vertex_steps, joint_steps = [], []
    for beta in _SHAPE_STEP * np.eye(count):
        changed = skeleton(beta)
        vertex_steps.append((build_mesh(changed, topology)[0] - vertices) / _SHAPE_STEP)
        joint_steps.append((changed.joints[:16] - bones.joints[:16]) / _SHAPE_STEP)
    shapedirs, joint_dirs = np.stack(vertex_steps, axis=-1), np.stack(joint_steps, axis=-1)
    weights = _skin_weights(bones, vertices, topology)
    regressor = joint_regressor(bones.joints[:16], joint_dirs, vertices, shapedirs)
    posedirs = _pose_correctives(bones, vertices, weights)

    number = np.empty_like(order)
    number[order] = np.arange(VERTEX_COUNT)
    parents = np.array(PARENTS16, dtype=np.int64)
    return {
        'v_template': ((vertices - _ORIGIN_MM) @ _WORLD_FROM_ANATOMY.T / 1000.0)[order],
        'shapedirs': (np.einsum('ij,vjb->vib', _WORLD_FROM_ANATOMY, shapedirs) / 1000.0)[order],
        'posedirs': posedirs[order],
        'J_regressor': regressor[:, order],
        'weights': weights[order],
        'kintree_table': np.stack([parents, np.arange(16)]),
        'f': number[topology.faces],
        'hands_components': np.eye(45),
        'hands_mean': _relaxed_pose(bones),
    }


def _numbering(topology: Topology) -> np.ndarray:
    """order[i] = vertex of the mesh that becomes vertex i."""
    order = np.full(VERTEX_COUNT, -1)
    for finger, places in _TIP_PLACES.items():
        ring = topology.last_ring[finger]
        pad = np.roll(ring, -(len(ring) // 2))
        order[list(places)] = [topology.tips[finger], *pad[:len(places) - 1]]
    order[order < 0] = np.setdiff1d(np.arange(VERTEX_COUNT), order[order >= 0])
    return order


def _smoothstep(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _skin_weights(bones: Skeleton, vertices: np.ndarray, topology: Topology) -> np.ndarray:
    """(778, 16) weights: along each chain smooth steps at the joints, between chains by distance."""
    membership = np.zeros((VERTEX_COUNT, len(CHAINS)))
    along = np.zeros((VERTEX_COUNT, len(CHAINS), 4))
    for c, finger in enumerate(CHAINS):
        chain = bones.chain(finger)
        directions = bones.bone_directions(finger)
        root = chain[0] - 60.0 * directions[0] if finger != 'thumb' else chain[0] - 4.0 * directions[0]
        membership[:, c] = -_distance_to_polyline(vertices, np.vstack([root, chain])) / 2.5
        passed = np.ones(VERTEX_COUNT)
        for k, half_width in enumerate((13.0, 6.5, 5.5) if finger != 'thumb' else (13.0, 9.0, 7.0)):
            axis = directions[k] + (directions[k - 1] if k else 0.0)
            axis = axis / np.linalg.norm(axis)
            step = _smoothstep(0.5 + (vertices - chain[k]) @ axis / (2.0 * half_width))
            along[:, c, k] = passed * (1.0 - step)
            passed = passed * step
        along[:, c, 3] = passed
    membership = np.exp(membership - membership.max(axis=1, keepdims=True))
    for c, finger in enumerate(CHAINS):
        membership[topology.tube[finger]] = np.eye(len(CHAINS))[c]
    membership /= membership.sum(axis=1, keepdims=True)
    weights = np.zeros((VERTEX_COUNT, 16))
    for c, finger in enumerate(CHAINS):
        weights[:, 0] += membership[:, c] * along[:, c, 0]
        for k in range(3):
            weights[:, FIRST_JOINT[finger] + k] += membership[:, c] * along[:, c, k + 1]
    average = _adjacency(topology.faces)
    for _ in range(2):
        weights = 0.5 * weights + 0.5 * (average @ weights)
    fourth = np.sort(weights, axis=1)[:, -4][:, None]
    weights = np.where((weights >= fourth) & (weights > 1e-3), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _adjacency(faces: np.ndarray) -> np.ndarray:
    """Row-normalised vertex adjacency (778, 778)."""
    adjacency = np.zeros((VERTEX_COUNT, VERTEX_COUNT))
    following = np.roll(faces, -1, axis=1)
    adjacency[faces, following] = 1.0
    adjacency[following, faces] = 1.0
    return adjacency / adjacency.sum(axis=1, keepdims=True)


def _distance_to_polyline(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    axis = np.diff(line, axis=0)
    relative = points[:, None] - line[:-1]
    along = np.clip((relative * axis).sum(-1) / (axis ** 2).sum(-1), 0.0, 1.0)
    return np.linalg.norm(relative - along[..., None] * axis, axis=-1).min(axis=1)


def joint_regressor(joints: np.ndarray, joint_dirs: np.ndarray, vertices: np.ndarray,
                    shapedirs: np.ndarray, reach: int = 80) -> np.ndarray:
    """(J, N) non-negative rows of sum 1 over the `reach` nearest vertices: exact at rest, close under every beta.

    joints: (J, 3), joint_dirs: (J, 3, 10), vertices: (N, 3), shapedirs: (N, 3, 10), all in millimetres.

    Each row is the Gaussian window tilted exponentially (the distribution of least relative entropy)
    until its mean meets the rest joint and, as far as it can, the joint's ten shape displacements.
    """
    regressor = np.zeros((len(joints), len(vertices)))
    softness = np.concatenate([np.full(3, 1e-9), np.full(30, 1e-2)])
    for j, joint in enumerate(joints):
        distance = np.linalg.norm(vertices - joint, axis=1)
        near = np.argsort(distance, kind='stable')[:reach]
        prior = -0.5 * (distance[near] / distance[near[25]]) ** 2
        shape_misses = (shapedirs[near] - joint_dirs[j]).reshape(len(near), -1)
        features = np.concatenate([(vertices[near] - joint) / 10.0, shape_misses], axis=1)
        tilt = np.zeros(33)

        def dual(tilt: np.ndarray) -> tuple[float, np.ndarray]:
            exponent = prior + features @ tilt
            row = np.exp(exponent - exponent.max())
            value = exponent.max() + np.log(row.sum()) + 0.5 * (softness * tilt ** 2).sum()
            return value, row / row.sum()

        value, row = dual(tilt)
        for _ in range(40):
            mean = row @ features
            slope = mean + softness * tilt
            if np.abs(slope).max() < 1e-10:
                break
            curvature = (features * row[:, None]).T @ features - np.outer(mean, mean) + np.diag(softness)
            step, scale = np.linalg.solve(curvature, slope), 1.0
            while dual(tilt - scale * step)[0] > value - 1e-4 * scale * (slope @ step) and scale > 1e-4:
                scale *= 0.5
            tilt = tilt - scale * step
            value, row = dual(tilt)
        regressor[j, near] = row
    return regressor


def _pose_correctives(bones: Skeleton, vertices: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(778, 3, 135) displacements (m) linear in the entries of R - I of each joint.

    Where linear blending averages two turns by an angle t, the skin over the joint sinks towards the
    bisector by the factor cos(t / 2). The back of each knuckle is raised by
    0.35 (1 - cos t) of its distance to the axis, which restores most of it; 1 - cos t is read off the
    rotation as -d' (R - I) d, d the bone's direction.
    """
    posedirs = np.zeros((VERTEX_COUNT, 3, 15, 3, 3))
    for finger in CHAINS:
        chain = bones.chain(finger)
        first = FIRST_JOINT[finger]
        # The thumb's first joint lies deep in the palm and needs none.
        for k in range(1 if finger == 'thumb' else 0, 3):
            direction = bones.bone_directions(finger)[k]
            up = -pad_direction(finger, direction)
            moved = weights[:, first + k:first + 3].sum(axis=1)
            before = weights[:, first + k - 1] if k else weights[:, 0]
            height = np.maximum((vertices - chain[k]) @ up, 0.0) / 1000.0
            lift = _WORLD_FROM_ANATOMY @ up * (0.35 * 4.0 * moved * before * height)[:, None]
            bone = _WORLD_FROM_ANATOMY @ direction
            posedirs[:, :, first + k - 1] -= lift[:, :, None, None] * np.outer(bone, bone)
    return posedirs.reshape(VERTEX_COUNT, 3, 135)


def _relaxed_pose(bones: Skeleton) -> np.ndarray:
    """(45,) axis-angles of a hand at ease: each joint bent a little."""
    pose = np.zeros((15, 3))
    for finger in CHAINS:
        for k, degrees in enumerate((8.0, 10.0, 12.0) if finger == 'thumb' else (20.0, 28.0, 14.0)):
            direction = bones.bone_directions(finger)[k]
            axis = np.cross(direction, pad_direction(finger, direction))
            pose[FIRST_JOINT[finger] + k - 1] = np.deg2rad(degrees) * _WORLD_FROM_ANATOMY @ axis
    return pose.ravel()
