"""Mesh of the stand-in hand: palm rings, four finger tubes and a thumb tube, stitched by design.

The surface is a disk: one boundary loop of 16 vertices at the wrist, hence
F = 2 V - 2 - 16 = 1538 triangles for V = 778 vertices, MANO's numbers.
Coordinates as in `standin_shape`: millimetres, (distal, radial, dorsal).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hand_unc_ros.hand.standin_shape import Skeleton, SkinField, pad_direction

BOUNDARY_COUNT = 16

_PALM_FINGERS = ('index', 'middle', 'ring', 'little')
# Columns of a palm ring, radial to ulnar: three per finger, corners shared.
_COLUMNS = 12
_RING = 2 * (_COLUMNS + 1) + 2
# (position between wrist stump and webs, dorsal vertices, palmar vertices) of each palm ring.
_PALM_RINGS = (
    (0.0, 7, 7), (0.12, 11, 10), (0.24, 13, 13), (0.37, 13, 13), (0.50, 13, 13), (0.63, 13, 13),
    (0.75, 13, 13), (0.86, 13, 13),
)
_THUMB_FIRST_RING = 3
_STUMP_MM = -18.0
_WEB_FRACTION = 0.44
_OUTWARD = np.array([-0.5, 0.85, 0.0])


@dataclass(frozen=True)
class Topology:
    """Which vertex is what, and the faces.

    faces: (1538, 3), outward for a right hand. tips: the vertex at each fingertip. last_ring: the ring
    before it. tube: all vertices of a finger beyond its base loop. relaxed: (R,) vertices that
    `_relax` moves, average: (R, 778) mean over their neighbours along rings and columns.
    """

    faces: np.ndarray
    tips: dict[str, int]
    last_ring: dict[str, np.ndarray]
    tube: dict[str, np.ndarray]
    relaxed: np.ndarray
    average: np.ndarray


class _Builder:
    """Collects vertices and quads; positions come from rays cast on the skin field."""

    def __init__(self, bones: Skeleton) -> None:
        self.bones = bones
        self.origins: list[np.ndarray] = []
        self.directions: list[np.ndarray] = []
        self.quads: list[tuple[int, int, int, int]] = []
        self.triangles: list[tuple[int, int, int]] = []

    def add(self, origin: np.ndarray, direction: np.ndarray) -> int:
        self.origins.append(origin)
        self.directions.append(direction / np.linalg.norm(direction))
        return len(self.origins) - 1

    def tube(self, lower: list[int], upper: list[int]) -> None:
        for i in range(len(lower)):
            j = (i + 1) % len(lower)
            self.quads.append((lower[i], lower[j], upper[j], upper[i]))

    def zip_rings(self, lower: list[int], at_lower: list[float], upper: list[int],
                  at_upper: list[float]) -> None:
        """Triangles between rings of different counts; `at_*` are positions round the ring in [0, 28)."""
        i = j = 0
        while i < len(lower) or j < len(upper):
            next_lower = at_lower[i + 1] if i + 1 < len(lower) else _RING + (i >= len(lower)) * _RING
            next_upper = at_upper[j + 1] if j + 1 < len(upper) else _RING + (j >= len(upper)) * _RING
            a, b = lower[i % len(lower)], upper[j % len(upper)]
            if next_lower <= next_upper:
                i += 1
                self.triangles.append((a, lower[i % len(lower)], b))
            else:
                j += 1
                self.triangles.append((a, upper[j % len(upper)], b))


def build_mesh(bones: Skeleton, topology: Topology | None = None) -> tuple[np.ndarray, Topology]:
    """Vertices (778, 3) mm on the skin of `bones`, and their topology (made when not given)."""
    builder = _Builder(bones)
    webs = _web_points(bones)
    rings, positions = _palm(builder, webs)
    loops = _web_ring(builder, webs, rings, positions)
    tips, last_ring, tube = {}, {}, {}
    for finger, loop in zip(_PALM_FINGERS, loops):
        tips[finger], last_ring[finger], tube[finger] = _finger(builder, finger, loop)
    removed = _thumb(builder, rings, tips, last_ring, tube)

    skin = SkinField(bones)
    points = skin.cast(np.array(builder.origins), np.array(builder.directions))
    kept = np.setdiff1d(np.arange(len(points)), removed)
    if topology is not None:
        return _relax(points[kept], topology.relaxed, topology.average, skin), topology
    number = np.full(len(points), -1)
    number[kept] = np.arange(len(kept))
    movable = [v for ring in rings[1:] for v in ring] + list(tube['thumb'][:12])
    relaxed = number[np.setdiff1d(movable, removed)]
    quads, triangles = number[np.array(builder.quads)], number[np.array(builder.triangles)]
    average = _neighbour_average(quads, triangles, len(kept))[relaxed]
    vertices = _relax(points[kept], relaxed, average, skin)
    topology = Topology(
        faces=np.concatenate([_split(quads, vertices), triangles]), relaxed=relaxed, average=average,
        tips={f: int(number[v]) for f, v in tips.items()},
        last_ring={f: number[v] for f, v in last_ring.items()},
        tube={f: number[v] for f, v in tube.items()},
    )
    return vertices, topology


def _web_points(bones: Skeleton) -> dict[str, np.ndarray]:
    """Centre of each finger where its tube begins."""
    centres = {}
    for finger in _PALM_FINGERS:
        chain = bones.chain(finger)
        centres[finger] = chain[0] + _WEB_FRACTION * (chain[1] - chain[0])
    return centres


def _palm(builder: _Builder, webs: dict[str, np.ndarray]) -> tuple[list[list[int]], list[list[float]]]:
    bones = builder.bones
    centres = np.array([webs[finger] for finger in _PALM_FINGERS])
    top_u = np.array([0.0, 1.5, 4.5, 7.5, 10.5, 12.0])
    edge = np.array([0.0, 3.0, 0.0])
    top = np.vstack([centres[0] + edge, centres, centres[3] - edge])
    stump = np.array([[_STUMP_MM, 13.0 * bones.width, 0.0], [_STUMP_MM, -12.0 * bones.width, 0.0]])
    rings, positions = [], []
    for fraction, dorsal, palmar in _PALM_RINGS:
        def origin(u: float) -> np.ndarray:
            distal_end = np.array([np.interp(u, top_u, top[:, axis]) for axis in range(3)])
            wrist_end = stump[0] + (stump[1] - stump[0]) * u / _COLUMNS
            return wrist_end + fraction * (distal_end - wrist_end)

        ring, at = [builder.add(origin(0.0), np.array([0.0, 1.0, 0.0]))], [0.0]
        for u in np.linspace(0.0, _COLUMNS, dorsal):
            ring.append(builder.add(origin(u), _fan(u, 1.0)))
            at.append(1.0 + u)
        ring.append(builder.add(origin(_COLUMNS), np.array([0.0, -1.0, 0.0])))
        at.append(_COLUMNS + 2.0)
        for u in np.linspace(_COLUMNS, 0.0, palmar):
            ring.append(builder.add(origin(u), _fan(u, -1.0)))
            at.append(2.0 * _COLUMNS + 3.0 - u)
        if rings and len(rings[-1]) == len(ring):
            builder.tube(rings[-1], ring)
        elif rings:
            builder.zip_rings(rings[-1], positions[-1], ring, at)
        rings.append(ring)
        positions.append(at)
    return rings, positions


def _fan(u: float, side: float) -> np.ndarray:
    """Direction of the ray of column `u` on the dorsal (1) or palmar (-1) side."""
    tilt = np.deg2rad(np.interp(u, [0.0, 1.5, 3.0, 9.0, 10.5, 12.0], [50.0, 22.0, 4.0, -4.0, -22.0, -50.0]))
    return np.array([0.0, np.sin(tilt), side * np.cos(tilt)])


def _web_ring(builder: _Builder, webs: dict[str, np.ndarray], rings: list[list[int]],
              positions: list[list[float]]) -> list[list[int]]:
    """The ring from which the fingers leave; returns the base loop (10) of each finger."""
    bones = builder.bones
    dorsal, palmar, middle = [0] * 13, [0] * 13, [0] * 5
    for i, finger in enumerate(_PALM_FINGERS):
        up, side = _cross_section(bones, finger, 0)
        for column, degrees in ((3 * i + 1, 18.0), (3 * i + 2, 18.0)):
            lean = np.deg2rad(degrees) * (-1.0 if column % 3 == 1 else 1.0)
            dorsal[column] = builder.add(webs[finger], up * np.cos(lean) + side * np.sin(lean))
            palmar[column] = builder.add(webs[finger], -up * np.cos(lean) + side * np.sin(lean))
    for i in range(5):
        if i in (0, 4):
            finger = _PALM_FINGERS[min(i, 3)]
            up, side = _cross_section(bones, finger, 0)
            out, base, lean = (-side if i == 0 else side), webs[finger], np.deg2rad(54.0)
        else:
            below, above = _PALM_FINGERS[i - 1], _PALM_FINGERS[i]
            out = bones.bone_directions(below)[0] + bones.bone_directions(above)[0]
            out /= np.linalg.norm(out)
            up = _cross_section(bones, above, 0)[0]
            base, lean = 0.5 * (webs[below] + webs[above]) - 9.0 * out, np.deg2rad(50.0)
        middle[i] = builder.add(base, out)
        dorsal[3 * i] = builder.add(base, up * np.cos(lean) + out * np.sin(lean))
        palmar[3 * i] = builder.add(base, -up * np.cos(lean) + out * np.sin(lean))
    ring = [middle[0], *dorsal, middle[4], *palmar[::-1]]
    builder.tube(rings[-1], ring)
    rings.append(ring)
    positions.append([float(i) for i in range(_RING)])
    return [[*dorsal[3 * i:3 * i + 4], middle[i + 1], *palmar[3 * i:3 * i + 4][::-1], middle[i]]
            for i in range(4)]


def _cross_section(bones: Skeleton, finger: str, phalanx: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors away from the pad and to the side in the section across a phalanx."""
    direction = bones.bone_directions(finger)[phalanx]
    up = -pad_direction(finger, direction)
    return up, np.cross(direction, up)


def _finger(builder: _Builder, finger: str, loop: list[int]) -> tuple[int, np.ndarray, np.ndarray]:
    chain = builder.bones.chain(finger)
    lengths = np.linalg.norm(np.diff(chain, axis=0), axis=1)
    p, d, tip = np.cumsum(lengths)
    b, w = _WEB_FRACTION * p, 0.13 * p
    first = 0.6 if finger == 'little' else 0.45
    stations = [b + first * (p - w - b), p - w, p, p + w, 0.5 * (p + d), d - 0.85 * w, d, d + 0.85 * w,
                d + 0.53 * (tip - d), tip - 5.0, tip - 1.4]
    if finger == 'little':
        stations.pop(4)
    angles = np.deg2rad(-54.0 + 36.0 * np.arange(10))
    return _tube(builder, finger, loop, stations, angles)


def _thumb(builder: _Builder, rings: list[list[int]], tips: dict, last_ring: dict, tube: dict) -> np.ndarray:
    """Open the radial side of the palm and grow the thumb from the hole; returns removed vertices."""
    rows = [rings[_THUMB_FIRST_RING + i] for i in range(3)]
    # Dorsal corner, radial side, three palmar columns.
    columns = (1, 0, _RING - 1, _RING - 2, _RING - 3)
    grid = [[row[c] for c in columns] for row in rows]
    inside = {frozenset((grid[i][j], grid[i][j + 1], grid[i + 1][j], grid[i + 1][j + 1]))
              for i in range(2) for j in range(4)}
    builder.quads = [q for q in builder.quads if frozenset(q) not in inside]
    loop = [grid[0][0], grid[1][0], *grid[2], grid[1][4], *grid[0][:0:-1]]
    chain = builder.bones.chain('thumb')
    m, i, tip = np.cumsum(np.linalg.norm(np.diff(chain, axis=0), axis=1))
    stations = [m - 5.0, m + 1.5, m + 9.0, i - 6.5, i, i + 6.5, i + 0.55 * (tip - i), tip - 5.5, tip - 1.6]
    angles = np.deg2rad(-30.0 + 30.0 * np.arange(12))
    tips['thumb'], last_ring['thumb'], tube['thumb'] = _tube(builder, 'thumb', loop, stations, angles)
    return np.array(grid[1][1:4])


def _tube(builder: _Builder, finger: str, loop: list[int], stations: list[float],
          angles: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Rings across the finger at arc lengths `stations` from its first joint, closed by one tip vertex."""
    chain = builder.bones.chain(finger)
    ends = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(chain, axis=0), axis=1))])
    directions = builder.bones.bone_directions(finger)
    first = len(builder.origins)
    previous, ring = loop, loop
    for station in stations:
        phalanx = int(np.clip(np.searchsorted(ends, station, side='right') - 1, 0, 2))
        centre = np.array([np.interp(station, ends, chain[:, axis]) for axis in range(3)])
        # At a joint the section halves the angle between its bones.
        near = np.abs(station - ends[1:3]).argmin()
        share = np.clip(0.5 + (station - ends[1 + near]) / 12.0, 0.0, 1.0)
        direction = (1.0 - share) * directions[near] + share * directions[near + 1]
        if abs(station - ends[1 + near]) > 6.0:
            direction = directions[phalanx]
        if finger == 'thumb':
            # The first rings lean with the web between thumb and palm.
            direction = direction + np.interp(station, [ends[1] - 5.0, ends[1] + 9.0], [0.5, 0.0]) * _OUTWARD
        direction = direction / np.linalg.norm(direction)
        up = -pad_direction(finger, direction)
        side = np.cross(direction, up)
        ring = [builder.add(centre, up * np.cos(a) + side * np.sin(a)) for a in angles]
        builder.tube(previous, ring)
        previous = ring
    tip = builder.add(chain[3] - 3.0 * directions[2], directions[2])
    for i in range(len(ring)):
        builder.triangles.append((ring[i], ring[(i + 1) % len(ring)], tip))
    return tip, np.array(ring), np.arange(first, tip + 1)


def _split(quads: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Triangles (2 Q, 3) of `quads` (Q, 4), each cut along its shorter diagonal."""
    a, b, c, d = quads.T
    one_way, other_way = (np.linalg.norm(vertices[i] - vertices[j], axis=1) for i, j in ((a, c), (b, d)))
    first = one_way <= other_way
    one = np.where(first[:, None], quads[:, [0, 1, 2]], quads[:, [0, 1, 3]])
    two = np.where(first[:, None], quads[:, [0, 2, 3]], quads[:, [1, 2, 3]])
    return np.concatenate([one, two])


def _neighbour_average(quads: np.ndarray, triangles: np.ndarray, count: int) -> np.ndarray:
    """Row-normalised adjacency (count, count) along polygon edges: diagonals would skew the relaxation."""
    adjacency = np.zeros((count, count))
    for polygons in (quads, triangles):
        following = np.roll(polygons, -1, axis=1)
        adjacency[polygons, following] = 1.0
        adjacency[following, polygons] = 1.0
    return adjacency / adjacency.sum(axis=1, keepdims=True)


def _relax(points: np.ndarray, relaxed: np.ndarray, average: np.ndarray, skin: SkinField,
           rounds: int = 8) -> np.ndarray:
    """Even out the palm's vertices along the skin: neighbour averages, put back on the surface."""
    points = points.copy()
    for _ in range(rounds):
        moved = 0.5 * points[relaxed] + 0.5 * (average @ points)
        points[relaxed] = skin.project(moved, iterations=1)
    points[relaxed] = skin.project(points[relaxed])
    return points
