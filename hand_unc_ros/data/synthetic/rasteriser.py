"""A small deferred software rasteriser: triangles to visibility, visibility to shaded skin.

Everything is single precision and single threaded, so an image depends on its inputs alone.
Positions are in the camera's optical frame (z forward); pixel centres are at integer coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.shading import Prepared, prepare, shade, skinned

NEAR = 0.02  # metres; triangles with a vertex nearer than this are dropped
# Triangles larger than this, pixels², have corners that no lens really images.
MAX_AREA_PX2 = 1e18
# Fast, but NaN and infinity stay what they are: projections can hold them.
HONEST_MATH = {'reassoc', 'contract', 'arcp', 'nsz'}


class Mesh(NamedTuple):
    """A surface with what shading needs, all per vertex.

    vertices: (N, 3) metres, world.  normals: (N, 3) unit, world.  faces: (F, 3) int32.
    albedo: (N, 3) linear RGB.  texture: (N, 3) coordinates that stay with the material, metres.
    gloss: (N,) in [0, 1].  uv: (F, 3, 2) in [0, 1], where the corners of faces lie in their skin, and skin: (F,) its
    number among those given to `render`, −1 for a face that has none; None where no face has one.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    albedo: np.ndarray
    texture: np.ndarray
    gloss: np.ndarray
    uv: np.ndarray | None = None
    skin: np.ndarray | None = None


class Light(NamedTuple):
    """One distant key light and a sky/ground ambient. Directions are unit, towards the light, world. softness: metres
    by which the key light's shadows are blurred."""

    direction: np.ndarray
    colour: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    up: np.ndarray
    softness: float = 0.0


class Mottling(NamedTuple):
    """Noise on the albedo. lattice: from `noise_lattice`.  scale: cells per metre.  gain: share of the albedo."""

    lattice: np.ndarray
    scale: float = 90.0
    gain: float = 0.12


class Projection(NamedTuple):
    """The vertices of a mesh in a camera. px: (N, 2) pixels.  depth: (N,) metres along the optical axis.
    eye: (3,) camera centre, world."""

    px: np.ndarray
    depth: np.ndarray
    eye: np.ndarray


def merge(meshes: list[Mesh]) -> Mesh:
    """One mesh out of several."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    faces = np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets)])
    join = {name: np.concatenate([getattr(mesh, name) for mesh in meshes]).astype(np.float32)
            for name in ('vertices', 'normals', 'albedo', 'texture', 'gloss')}
    if any(mesh.skin is not None for mesh in meshes):
        uv, skin = zip(*map(skinned, meshes))
        join |= {'uv': np.concatenate(uv), 'skin': np.concatenate(skin)}
    return Mesh(faces=np.ascontiguousarray(faces, np.int32), **join)


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def vertex_normals(vertices, faces):
    """Area-weighted unit normals (N, 3) of a triangle mesh with outward faces."""
    normals = np.zeros_like(vertices)
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = (vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1],
                      vertices[b, 2] - vertices[a, 2])
        vx, vy, vz = (vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1],
                      vertices[c, 2] - vertices[a, 2])
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for n in range(normals.shape[0]):
        length = np.sqrt(normals[n, 0] ** 2 + normals[n, 1] ** 2 + normals[n, 2] ** 2) + 1e-12
        normals[n] /= length
    return normals


@njit(cache=True, fastmath=HONEST_MATH, nogil=True, error_model='numpy')
def _visibility(px, nearness, faces, corner, face_of, zbuf):
    """Nearest face per pixel, −1 for none, and its 1/z. nearness: (N,) 1/z of the vertices, 0 of those that are not
    drawn.  corner: (2,) column and row of the first pixel."""
    height, width = zbuf.shape
    first_u, first_v = corner[0], corner[1]
    last_u, last_v = first_u + width - 1, first_v + height - 1
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        i0, i1, i2 = nearness[a], nearness[b], nearness[c]
        if i0 == 0.0 or i1 == 0.0 or i2 == 0.0:
            continue
        x0, y0, x1, y1, x2, y2 = px[a, 0], px[a, 1], px[b, 0], px[b, 1], px[c, 0], px[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if not 0.0 < abs(area) < MAX_AREA_PX2:  # NaN as well
            continue
        left, right = min(x0, x1, x2), max(x0, x1, x2)
        top, bottom = min(y0, y1, y2), max(y0, y1, y2)
        if right < first_u or left > last_u or bottom < first_v or top > last_v:
            continue
        u0, u1 = int(max(float(first_u), np.ceil(left))), int(min(float(last_u), np.floor(right)))
        v0, v1 = int(max(float(first_v), np.ceil(top))), int(min(float(last_v), np.floor(bottom)))
        inverse = 1.0 / area
        for v in range(v0, v1 + 1):
            entered = False
            for u in range(u0, u1 + 1):
                w0 = ((x1 - u) * (y2 - v) - (x2 - u) * (y1 - v)) * inverse
                w1 = ((x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)) * inverse
                w2 = 1.0 - w0 - w1
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    if entered:
                        break
                    continue
                entered = True
                near = w0 * i0 + w1 * i1 + w2 * i2
                if near > zbuf[v - first_v, u - first_u]:
                    zbuf[v - first_v, u - first_u] = near
                    face_of[v - first_v, u - first_u] = f


@njit(cache=True, fastmath=HONEST_MATH, nogil=True, error_model='numpy')
def _flat_weights(px, faces, face_of, bary):
    """First two barycentric weights at each pixel of `face_of` in its face."""
    for v in range(face_of.shape[0]):
        for u in range(face_of.shape[1]):
            f = face_of[v, u]
            if f < 0:
                continue
            x0, y0, x1, y1 = px[faces[f, 0], 0], px[faces[f, 0], 1], px[faces[f, 1], 0], px[faces[f, 1], 1]
            x2, y2 = px[faces[f, 2], 0], px[faces[f, 2], 1]
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            bary[v, u, 0] = ((x1 - u) * (y2 - v) - (x2 - u) * (y1 - v)) / area
            bary[v, u, 1] = ((x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)) / area


def visible_faces(px: np.ndarray, faces: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of a flat mesh, px (N, 2), the face at each pixel (H, W), −1 for none, and its first two barycentric weights."""
    face_of = np.full(size, -1, np.int32)
    bary = np.zeros((*size, 2), np.float32)
    _visibility(px, np.ones(len(px)), faces, (0, 0), face_of, np.zeros(size, np.float32))
    _flat_weights(px, faces, face_of, bary)
    return face_of, bary


def draw(prepared: Prepared, projection: Projection, size: tuple[int, int],
         fineness: float = 1.0) -> tuple[np.ndarray, tuple[slice, slice], np.ndarray] | None:
    """What a camera sees of a mesh in its light.

    size: (height, width) of the image.  fineness: points that are drawn to a side of each pixel, 1 or more, one at its
    centre by default.
    Returns linear RGB and coverage (h, w, 4) float32 of the rows and columns of the image that the mesh reaches, which
    these are, and 1/z of the points in them, 0 where nothing is; None where the mesh is not in the image. Colours are
    those of what is covered times the coverage.
    """
    fine = [max(1, round(fineness * side)) for side in size[::-1]]
    steps = [points / side for points, side in zip(fine, size[::-1])]
    # Pixel centres are at integers, so that the first of a finer grid lies before that of the coarser one.
    px = np.ascontiguousarray((projection.px + 0.5) * steps - 0.5, np.float32)
    depth = np.ascontiguousarray(projection.depth, np.float32)
    drawn = depth >= NEAR
    nearness = np.divide(1.0, depth, out=np.zeros(len(depth)), where=drawn)
    window = _window(px[drawn], fine)
    if window is None:
        return None
    shares, spans, parts = [], [], []
    for step, side, first, last in zip(steps, size[::-1], *window):
        begin, end = int(first / step), min(side, int(np.ceil((last + 1) / step)))
        # All points of the pixels that are reached, since the mesh may lie between those that it covers.
        first, last = int(begin * step), min(int(np.ceil(end * step)), round(side * step)) - 1
        shares.append(_shares(first, last, step, begin))
        spans.append((first, last + 1 - first))
        parts.append(slice(begin, end))
    corner = spans[0][0], spans[1][0]
    face_of = np.full((spans[1][1], spans[0][1]), -1, np.int32)
    zbuf = np.zeros(face_of.shape, np.float32)
    _visibility(px, nearness, prepared.faces, corner, face_of, zbuf)
    columns, rows = parts
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start, 4), np.float32)
    shade(face_of, corner, px, nearness, prepared, np.ascontiguousarray(projection.eye, np.float32),
          np.concatenate(shares), out)
    return out, (rows, columns), zbuf


def _window(px: np.ndarray, size: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
    """First and last column and row (2,) of an image of (width, height) that the points px (N, 2) span."""
    px = px[np.isfinite(px).all(axis=1)]
    if not len(px):
        return None
    low = np.ceil(np.clip(px.min(axis=0), 0, size)).astype(int)
    high = np.floor(np.clip(px.max(axis=0), -1, np.array(size) - 1)).astype(int)
    return (low, high) if (low <= high).all() else None


def _shares(first: int, last: int, step: float, begin: int) -> np.ndarray:
    """(last + 1 − first, 3) of points first … last, the pixel past `begin` that each starts in, and its shares in that
    one and the next. step: points to a pixel."""
    points = np.arange(first, last + 1)
    pixel = np.floor(points / step + 1e-9)
    inside = np.minimum((pixel + 1) * step - points, 1.0)
    inside[inside > 1 - 1e-9] = 1.0
    return np.column_stack([pixel - begin, inside / step, (1 - inside) / step]).astype(np.float32)


def render(mesh: Mesh, projection: Projection, size: tuple[int, int], light: Light, mottling: Mottling,
           shadow_size: int = 96, skins: np.ndarray | None = None,
           ambient: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shade `mesh` as seen from a camera.

    size: (height, width) of the image.  shadow_size: cells along a side of the shadow map.
    skins: (M, T, T, SKIN_CHANNELS) of the faces that have one.  ambient: (N, 3) irradiance of the vertices over π, in
    place of the light's sky and ground.
    Returns linear RGB (H, W, 3) float32, coverage (H, W) float32 of 0 or 1, and 1/z (H, W) float32
    (0 where nothing is).
    """
    image, zbuf = np.zeros((*size, 4), np.float32), np.zeros(size, np.float32)
    drawn = draw(prepare(mesh, light, mottling, shadow_size, skins, ambient), projection, size)
    if drawn is not None:
        part, where, zbuf[drawn[1]] = drawn
        image[where] = part
    return np.ascontiguousarray(image[..., :3]), np.ascontiguousarray(image[..., 3]), zbuf
