"""Objects that hands hold and that hide them, and the forearm that a hand mesh ends without."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hand_unc_ros.data.synthetic.rasteriser import Mesh, vertex_normals


@lru_cache
def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Faces of a closed tube of `rows` rings of `columns` vertices, outward for counter-clockwise rings."""
    faces = []
    for r in range(rows - 1):
        for c in range(columns):
            a, b = r * columns + c, r * columns + (c + 1) % columns
            faces += [(a, b, a + columns), (b, b + columns, a + columns)]
    return np.array(faces, np.int32)


def superellipsoid(sizes: np.ndarray, roundness: float, rings: int = 13, columns: int = 20) -> tuple:
    """Vertices (N, 3) and faces of a box-like (roundness → 0) to ball-like (1) solid of half-axes `sizes`."""
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rings)[:, None]
    longitude = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]

    def power(value: np.ndarray) -> np.ndarray:
        return np.sign(value) * np.abs(value) ** roundness

    x = power(np.cos(latitude)) * power(np.cos(longitude))
    y = power(np.cos(latitude)) * power(np.sin(longitude))
    z = power(np.sin(latitude)) * np.ones_like(longitude)
    return np.stack([x, y, z], axis=-1).reshape(-1, 3) * sizes, grid_faces(rings, columns)


def cylinder(radius: float, half_length: float, columns: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a closed cylinder along z; the caps have vertices of their own."""
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius
    levels = [(0.0, -1), (1.0, -1), (1.0, -1), (1.0, 0), (1.0, 1), (1.0, 1), (0.0, 1)]
    vertices = np.concatenate([np.column_stack([circle * s, np.full(columns, half_length * z)])
                               for s, z in levels])
    return vertices, grid_faces(len(levels), columns)


def box(half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (24, 3) and faces of a box of half-axes `half` (3,); each side has vertices of its own."""
    corners, faces = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)[::int(sign)]
            side = np.insert(square, 0, sign, axis=1)
            first = 4 * len(corners)
            corners.append(np.roll(side, axis, axis=1) * half)
            faces += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
    return np.concatenate(corners), np.array(faces, np.int32)


def ring(radius: float, thickness: float, rows: int = 20, columns: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a torus about the y axis; `thickness` is the radius of its tube."""
    around = np.linspace(0, 2 * np.pi, rows + 1)[:, None]
    about = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    reach = radius + thickness * np.cos(about)
    points = np.stack([reach * np.cos(around), thickness * np.sin(about) * np.ones_like(around),
                       reach * np.sin(around)], axis=-1)
    return points.reshape(-1, 3), grid_faces(rows + 1, columns)


def surface(vertices: np.ndarray, faces: np.ndarray, albedo: np.ndarray, gloss: float) -> Mesh:
    """A mesh of one material whose texture is fixed to the given (rest) vertices."""
    vertices = np.ascontiguousarray(vertices, np.float32)
    count = len(vertices)
    return Mesh(vertices, vertex_normals(vertices, faces), faces,
                np.broadcast_to(np.asarray(albedo, np.float32), (count, 3)).copy(),
                vertices.copy(), np.full(count, gloss, np.float32))


def placed(mesh: Mesh, rotation: np.ndarray, translation: np.ndarray) -> Mesh:
    """The mesh moved rigidly; its texture goes with it."""
    rotation = rotation.astype(np.float32)
    return Mesh(np.ascontiguousarray(mesh.vertices @ rotation.T + translation.astype(np.float32)),
                np.ascontiguousarray(mesh.normals @ rotation.T), mesh.faces, mesh.albedo, mesh.texture,
                mesh.gloss)


def draw_object(rng: np.random.Generator, low: float = 0.012, high: float = 0.05) -> Mesh:
    """A cylinder or a more or less rounded box of random size (half-axes in metres) and colour."""
    albedo = rng.uniform(0.02, 0.8, 3) if rng.random() < 0.75 else np.full(3, rng.uniform(0.02, 0.8))
    if rng.random() < 0.4:
        vertices, faces = cylinder(rng.uniform(low, 0.7 * high), rng.uniform(2 * low, 2 * high))
    else:
        vertices, faces = superellipsoid(rng.uniform(low, high, 3) * rng.uniform(0.6, 1.6),
                                         rng.uniform(0.2, 1.0))
    return surface(vertices, faces, albedo, rng.uniform(0, 0.9))


def boundary_loop(faces: np.ndarray) -> np.ndarray:
    """The ordered vertex indices of the one open boundary of a mesh. Raises ValueError if there is not one."""
    directed = {}
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    known = {(int(a), int(b)) for a, b in edges}
    for a, b in known:
        if (b, a) not in known:
            directed[a] = b
    if not directed:
        raise ValueError('the mesh has no open boundary')
    start = min(directed)
    loop = [start]
    while directed[loop[-1]] != start:
        loop.append(directed[loop[-1]])
        if len(loop) > len(directed):
            raise ValueError('the boundary of the mesh is not one simple loop')
    if len(loop) != len(directed):
        raise ValueError('the mesh has more than one open boundary')
    return np.array(loop, np.int32)


def forearm(ring: np.ndarray, outward: np.ndarray, bend: np.ndarray, length: float,
            rings: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a tube that continues the wrist.

    ring: (R, 3) the wrist's boundary, in the order of `boundary_loop`.  outward: unit vector away from
    the hand.  bend: rotation vector (rad) by which the arm turns over its first third, world.
    """
    centre = ring.mean(axis=0)
    offsets = ring - centre
    angle = np.linalg.norm(bend)
    axis = bend / angle if angle > 1e-6 else np.array([1.0, 0.0, 0.0])
    levels = []
    position = centre.copy()
    for level in range(rings):
        share = level / (rings - 1)
        if 3 * share < 1.5:
            turn = rotation_about(axis, angle * min(1.0, 3 * share))
        if level:
            position = position + turn @ outward * (length / (rings - 1))
        swell = 1 + 0.45 * share
        levels.append(position + (offsets @ turn.T) * swell)
    return np.concatenate(levels), grid_faces(rings, len(ring))


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix (3, 3) about a unit axis."""
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * skew @ skew
