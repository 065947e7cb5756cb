"""Small independent geometry for the tests of the hand."""

import numpy as np

from hand_unc_ros.hand.joints import ORDERS
from hand_unc_ros.hand.model import TIP_VERTICES


def directed_edges(faces):
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def boundary_loop(faces):
    """Vertices of the only open loop, in order; fails when there is another."""
    edges = {tuple(edge) for edge in directed_edges(faces)}
    following = {a: b for a, b in edges if (b, a) not in edges}
    start = next(iter(following))
    loop = [start]
    while following[loop[-1]] != start:
        loop.append(following[loop[-1]])
    assert len(loop) == len(following)
    return loop


def volume(vertices, faces):
    """Volume (m^3) under the surface, its open end closed by a fan round its centre."""
    corners = vertices[faces] - vertices[boundary_loop(faces)].mean(axis=0)
    return np.einsum('ij,ij->', corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6.0


def crossings(vertices, faces):
    """Number of (edge, triangle) pairs without a common vertex that intersect (Moeller-Trumbore)."""
    edges = np.unique(np.sort(directed_edges(faces), axis=1), axis=0)
    low, high = vertices[faces].min(axis=1), vertices[faces].max(axis=1)
    edge_low, edge_high = vertices[edges].min(axis=1), vertices[edges].max(axis=1)
    near = np.ones((len(edges), len(faces)), dtype=bool)
    for k in range(3):
        near &= (edge_low[:, None, k] <= high[None, :, k]) & (edge_high[:, None, k] >= low[None, :, k])
    i, j = np.nonzero(near)
    apart = ~(edges[i][:, :, None] == faces[j][:, None, :]).any(axis=(1, 2))
    i, j = i[apart], j[apart]
    start, corner = vertices[edges[i, 0]], vertices[faces[j, 0]]
    ray = vertices[edges[i, 1]] - start
    u_side, v_side = vertices[faces[j, 1]] - corner, vertices[faces[j, 2]] - corner
    normal = np.cross(ray, v_side)
    scale = (u_side * normal).sum(axis=1)
    usable = np.abs(scale) > 1e-15
    scale = np.where(usable, scale, 1.0)
    offset = start - corner
    u = (offset * normal).sum(axis=1) / scale
    across = np.cross(offset, u_side)
    v, t = (ray * across).sum(axis=1) / scale, (v_side * across).sum(axis=1) / scale
    return int((usable & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)).sum())


def regressed(arrays, vertices):
    """Joints (21, 3) of a surface, by the model's own regressor and tip vertices."""
    joints = np.concatenate([arrays['J_regressor'] @ vertices, vertices[list(TIP_VERTICES['smplx'])]])
    return joints[list(ORDERS['smplx'])]


def rodrigues(axis_angle):
    angle = np.linalg.norm(axis_angle)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = axis_angle / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def skin(arrays, pose, betas, translation):
    """MANO's function written out once more: vertices (778, 3) and 16 joints, float64."""
    shaped = arrays['v_template'] + arrays['shapedirs'] @ betas
    joints = arrays['J_regressor'] @ shaped
    turns = np.stack([rodrigues(part) for part in pose.reshape(16, 3)])
    posed = shaped + arrays['posedirs'] @ (turns[1:] - np.eye(3)).ravel()
    parents = np.asarray(arrays['kintree_table'])[0].astype(np.int64)
    world_turn, world_place = [turns[0]], [joints[0]]
    for k in range(1, 16):
        parent = parents[k]
        world_turn.append(world_turn[parent] @ turns[k])
        world_place.append(world_place[parent] + world_turn[parent] @ (joints[k] - joints[parent]))
    moved = np.stack([(posed - joints[k]) @ world_turn[k].T + world_place[k] for k in range(16)])
    vertices = np.einsum('vk,kvi->vi', arrays['weights'], moved)
    return vertices + translation, np.stack(world_place) + translation
