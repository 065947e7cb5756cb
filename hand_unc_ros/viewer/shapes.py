"""Meshes and transforms of what is drawn of a hand: ellipsoids, joints, bones and painted faces."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from hand_unc_ros.geometry.gaussians import ellipsoid_axes
from hand_unc_ros.geometry.quaternions import quaternions_xyzw
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import BONES

# An instance that is not to be seen keeps its place in the batch and shrinks to nothing, so that
# every update has the same shape.
HIDDEN_SCALE = 1e-6
# Wider ones would hide the scene; their colour is saturated long before.
MAX_RADIUS_M = 0.5


class Mesh(NamedTuple):
    """vertices: (N, 3) float32.  faces: (F, 3) uint32, counter-clockwise from outside."""

    vertices: np.ndarray
    faces: np.ndarray


class Instances(NamedTuple):
    """Placements of copies of one unit mesh: world_point = position + R(wxyz) (scale * point).

    positions: (N, 3) metres, world.  wxyz: (N, 4) unit quaternions.  scales: (N, 3) metres.
    shown: (N,) bool; the others have scale HIDDEN_SCALE and finite positions.
    """

    positions: np.ndarray
    wxyz: np.ndarray
    scales: np.ndarray
    shown: np.ndarray


def unit_sphere(subdivisions: int = 2) -> Mesh:
    """Icosphere of radius 1: 20·4ⁿ faces, vertices on the sphere."""
    golden = (1.0 + 5.0**0.5) / 2.0
    corners = [(-1, golden, 0), (1, golden, 0), (-1, -golden, 0), (1, -golden, 0)]
    vertices = [np.roll(corner, shift) for shift in range(3) for corner in corners]
    vertices = [np.asarray(vertex, dtype=float) / np.linalg.norm(vertex) for vertex in vertices]
    faces = _hull_of_icosahedron(np.array(vertices))
    for _ in range(subdivisions):
        middles: dict[tuple[int, int], int] = {}
        finer = []
        for a, b, c in faces:
            ab, bc, ca = (_middle(vertices, middles, *edge) for edge in ((a, b), (b, c), (c, a)))
            finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = finer
    return Mesh(np.array(vertices, dtype=np.float32), np.array(faces, dtype=np.uint32))


def _hull_of_icosahedron(vertices: np.ndarray) -> list[tuple[int, int, int]]:
    distance = np.linalg.norm(vertices[:, None] - vertices[None], axis=-1)
    near = np.isclose(distance, distance[distance > 0].min())
    faces = []
    for a, b, c in itertools.combinations(range(12), 3):
        if near[a, b] and near[b, c] and near[c, a]:
            outward = np.dot(np.cross(vertices[b] - vertices[a], vertices[c] - vertices[a]), vertices[a]) > 0
            faces.append((a, b, c) if outward else (a, c, b))
    return faces


def _middle(vertices: list[np.ndarray], middles: dict[tuple[int, int], int], a: int, b: int) -> int:
    edge = (min(a, b), max(a, b))
    if edge not in middles:
        middle = vertices[a] + vertices[b]
        vertices.append(middle / np.linalg.norm(middle))
        middles[edge] = len(vertices) - 1
    return middles[edge]


def unit_bone(sides: int = 12) -> Mesh:
    """Tapered tube along +z from z=0 (radius 1) to z=1 (radius 0.75), open at both ends.

    The ends are inside the spheres of the joints.
    """
    angles = np.linspace(0.0, 2.0 * np.pi, sides, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    base = np.concatenate([ring, np.zeros((sides, 1))], axis=1)
    tip = np.concatenate([0.75 * ring, np.ones((sides, 1))], axis=1)
    here = np.arange(sides)
    after = (here + 1) % sides
    faces = np.concatenate([
        np.stack([here, after, after + sides], axis=1),
        np.stack([here, after + sides, here + sides], axis=1),
    ])
    return Mesh(np.concatenate([base, tip]).astype(np.float32), faces.astype(np.uint32))


def ellipsoids(
    joints: np.ndarray, covariance: np.ndarray, valid: np.ndarray, probability: float
) -> Instances:
    """Ellipsoids that hold each joint with the given probability, as instances of `unit_sphere`.

    joints: (21, 3) metres, world.  covariance: (63, 63) m², joint-major.  valid: (21,) bool.
    The semi-axes are sqrt(chi²₃(p) λ) along the eigenvectors, largest first, the rotation
    right-handed; radii above MAX_RADIUS_M are drawn as MAX_RADIUS_M.
    Joints that are invalid or not finite are not shown.
    """
    blocks = joint_blocks(covariance)
    shown = valid & np.isfinite(joints).all(axis=-1) & np.isfinite(blocks).all(axis=(-1, -2))
    radii, rotation = ellipsoid_axes(np.where(shown[:, None, None], blocks, np.eye(3)), probability)
    scales = np.where(shown[:, None], np.clip(radii, HIDDEN_SCALE, MAX_RADIUS_M), HIDDEN_SCALE)
    return Instances(_finite(joints, shown), quaternions(rotation), scales, shown)


def joint_spheres(joints: np.ndarray, valid: np.ndarray, radii: np.ndarray) -> Instances:
    """Spheres at the joints (21, 3); radii: (21,) metres."""
    shown = valid & np.isfinite(joints).all(axis=-1)
    scales = np.where(shown, radii, HIDDEN_SCALE)[:, None].repeat(3, axis=1)
    wxyz = np.tile([1.0, 0.0, 0.0, 0.0], (len(joints), 1))
    return Instances(_finite(joints, shown), wxyz, scales, shown)


def bones(joints: np.ndarray, valid: np.ndarray, radius: float) -> Instances:
    """The 20 bones as instances of `unit_bone`, from parent to child; joints: (21, 3) metres.

    A bone is shown when both its joints are.
    """
    parent, child = np.array(BONES).T
    usable = valid & np.isfinite(joints).all(axis=-1)
    shown = usable[parent] & usable[child]
    start = _finite(joints, usable)[parent]
    vector = np.where(shown[:, None], joints[child] - joints[parent], [0.0, 0.0, 1.0])
    length = np.linalg.norm(vector, axis=1)
    shown = shown & (length > HIDDEN_SCALE)
    direction = np.where(shown[:, None], vector / np.maximum(length, HIDDEN_SCALE)[:, None], [0.0, 0.0, 1.0])
    scales = np.stack([np.full(len(length), radius)] * 2 + [length], axis=1)
    return Instances(start, _from_z_axis(direction), np.where(shown[:, None], scales, HIDDEN_SCALE), shown)


def unit_right_triangle() -> Mesh:
    """Legs of length 1 along +x and +y from the right angle at the origin; it faces +z."""
    return Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=np.float32), np.array([[0, 1, 2]], dtype=np.uint32))


def right_triangles(vertices: np.ndarray, faces: np.ndarray) -> Instances:
    """Faces (F, 3) of vertices (N, 3), each cut by the altitude onto its longest side into two right triangles, as 2F
    instances of `unit_right_triangle`: first one half of each face, then the other. Outside stays outside.

    Faces without area are not shown.
    """
    corners = np.asarray(vertices, dtype=float)[faces]
    sides = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2)
    # Corners a, b of the longest side, and c before it, in the order of the face.
    a, b, c = (corners[np.arange(len(corners)), (sides.argmax(axis=1) + step) % 3] for step in range(3))
    length = np.maximum(sides.max(axis=1), HIDDEN_SCALE)[:, None]
    along = (b - a) / length
    foot = a + ((c - a) * along).sum(axis=1, keepdims=True) * along
    height = np.linalg.norm(c - foot, axis=1)
    shown = (height > HIDDEN_SCALE) & (length[:, 0] > HIDDEN_SCALE)
    along = np.where(shown[:, None], along, [1.0, 0.0, 0.0])
    up = np.where(shown[:, None], (c - foot) / np.maximum(height, HIDDEN_SCALE)[:, None], [0.0, 1.0, 0.0])
    out = np.cross(along, up)
    turns = np.concatenate([np.stack([along, up, out], axis=2), np.stack([up, -along, out], axis=2)])
    first, second = (np.linalg.norm(corner - foot, axis=1) for corner in (b, a))
    scales = np.concatenate([np.stack([first, height, height], axis=1), np.stack([height, second, height], axis=1)])
    shown, foot = np.tile(shown, 2), np.tile(foot, (2, 1))
    scales = np.where(shown[:, None], np.maximum(scales, HIDDEN_SCALE), HIDDEN_SCALE)
    return Instances(foot, quaternions(turns), scales, shown)


def _finite(points: np.ndarray, usable: np.ndarray) -> np.ndarray:
    rest = points[usable].mean(axis=0) if usable.any() else np.zeros(3)
    return np.where(usable[:, None], points, rest)


def _from_z_axis(direction: np.ndarray) -> np.ndarray:
    """Shortest rotation (N, 4) wxyz that takes +z to each unit vector (N, 3)."""
    x, y, z = direction.T
    wxyz = np.stack([1.0 + z, -y, x, np.zeros_like(z)], axis=1)
    opposite = z < -1.0 + 1e-9
    wxyz[opposite] = (0.0, 1.0, 0.0, 0.0)
    return wxyz / np.linalg.norm(wxyz, axis=1, keepdims=True)


def quaternions(rotation: np.ndarray) -> np.ndarray:
    """Rotation matrices (3, 3) or (N, 3, 3) to unit quaternions (..., 4), w first and not negative."""
    return np.roll(quaternions_xyzw(rotation), 1, axis=-1)
