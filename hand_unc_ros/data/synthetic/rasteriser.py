"""A small deferred software rasteriser: triangles to visibility, visibility to shaded skin.

Everything is single precision and single threaded, so an image depends on its inputs alone.
Positions are in the camera's optical frame (z forward); pixel centres are at integer coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.noise import noise_at_point
from hand_unc_ros.data.synthetic.shadows import Shadows, cast_shadows, in_soft_shadow

NEAR = 0.02  # metres; triangles with a vertex nearer than this are dropped
# Of a skin: albedo, linear RGB; gloss in [0, 1]; growth of its relief along u and v, metres over the whole unit.
SKIN_CHANNELS = 6
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


class _Pixels(NamedTuple):
    """face_of: (H, W) nearest face, -1 for none.  bary: (H, W, 2) first two barycentric weights in that face.
    image: (H, W, 3) linear RGB."""

    face_of: np.ndarray
    bary: np.ndarray
    image: np.ndarray


def merge(meshes: list[Mesh]) -> Mesh:
    """One mesh out of several."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    faces = np.concatenate([mesh.faces + offset for mesh, offset in zip(meshes, offsets)])
    join = {name: np.concatenate([getattr(mesh, name) for mesh in meshes]).astype(np.float32)
            for name in ('vertices', 'normals', 'albedo', 'texture', 'gloss')}
    if any(mesh.skin is not None for mesh in meshes):
        uv, skin = zip(*map(_skinned, meshes))
        join |= {'uv': np.concatenate(uv), 'skin': np.concatenate(skin)}
    return Mesh(faces=np.ascontiguousarray(faces, np.int32), **join)


def _skinned(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """uv and skin of a mesh, also of one without."""
    if mesh.skin is not None:
        return np.ascontiguousarray(mesh.uv, np.float32), np.ascontiguousarray(mesh.skin, np.int32)
    return np.zeros((len(mesh.faces), 3, 2), np.float32), np.full(len(mesh.faces), -1, np.int32)


@njit(cache=True, fastmath=True, nogil=True)
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


@njit(cache=True, fastmath=HONEST_MATH, nogil=True)
def _visibility(px, depth, faces, face_of, bary, zbuf):
    """Nearest face per pixel with its first two barycentric weights (screen space) and 1/z."""
    height, width = zbuf.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if depth[a] < NEAR or depth[b] < NEAR or depth[c] < NEAR:
            continue
        x0, y0, x1, y1, x2, y2 = px[a, 0], px[a, 1], px[b, 0], px[b, 1], px[c, 0], px[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if not 0.0 < abs(area) < MAX_AREA_PX2:  # NaN as well
            continue
        left, right = min(x0, x1, x2), max(x0, x1, x2)
        top, bottom = min(y0, y1, y2), max(y0, y1, y2)
        if right < 0 or left > width - 1 or bottom < 0 or top > height - 1:
            continue
        u0, u1 = int(max(0.0, np.ceil(left))), int(min(width - 1.0, np.floor(right)))
        v0, v1 = int(max(0.0, np.ceil(top))), int(min(height - 1.0, np.floor(bottom)))
        inverse = 1.0 / area
        i0, i1, i2 = 1.0 / depth[a], 1.0 / depth[b], 1.0 / depth[c]
        for v in range(v0, v1 + 1):
            for u in range(u0, u1 + 1):
                w0 = ((x1 - u) * (y2 - v) - (x2 - u) * (y1 - v)) * inverse
                w1 = ((x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)) * inverse
                w2 = 1.0 - w0 - w1
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                nearness = w0 * i0 + w1 * i1 + w2 * i2
                if nearness > zbuf[v, u]:
                    zbuf[v, u] = nearness
                    face_of[v, u] = f
                    bary[v, u, 0] = w0 * i0 / nearness
                    bary[v, u, 1] = w1 * i1 / nearness


@njit(cache=True, fastmath=True, nogil=True)
def _texel(skin, u, v, out):
    """The channels of a skin (T, T, SKIN_CHANNELS) at (u, v) in [0, 1], bilinear, into `out`."""
    size = skin.shape[0]
    x, y = min(max(u * size - 0.5, 0.0), size - 1.001), min(max(v * size - 0.5, 0.0), size - 1.001)
    ix, iy = int(x), int(y)
    tx, ty = x - ix, y - iy
    for c in range(skin.shape[2]):
        out[c] = ((skin[iy, ix, c] * (1 - tx) + skin[iy, ix + 1, c] * tx) * (1 - ty)
                  + (skin[iy + 1, ix, c] * (1 - tx) + skin[iy + 1, ix + 1, c] * tx) * ty)


@njit(cache=True, fastmath=True, nogil=True)
def _uv_gradients(vertices, faces, uv, skin):
    """(F, 2, 3) 1/m: how fast u and v grow along the surface of each face that has a skin."""
    gradients = np.zeros((faces.shape[0], 2, 3), np.float32)
    for f in range(faces.shape[0]):
        if skin[f] < 0:
            continue
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        e1, e2 = vertices[b] - vertices[a], vertices[c] - vertices[a]
        g11, g12, g22 = (e1 * e1).sum(), (e1 * e2).sum(), (e2 * e2).sum()
        scale = g11 * g22 - g12 * g12
        if scale < 1e-20:
            continue
        for k in range(2):
            d1, d2 = uv[f, 1, k] - uv[f, 0, k], uv[f, 2, k] - uv[f, 0, k]
            p, q = (g22 * d1 - g12 * d2) / scale, (g11 * d2 - g12 * d1) / scale
            for axis in range(3):
                gradients[f, k, axis] = p * e1[axis] + q * e2[axis]
    return gradients


@njit(cache=True, fastmath=True, nogil=True)
def _shade(pixels, mesh, gradients, skins, eye, light, ambient, mottling, shadows):
    face_of, bary, image = pixels
    vertices, normals, faces, albedo, texture, gloss, uv, skin_of = mesh
    light_dir, light_colour, sky, ground, up, softness = light
    lattice, noise_scale, noise_gain = mottling
    light_px, light_depth, light_faces_depth, light_origin, light_cell = shadows
    height, width = face_of.shape
    texel = np.zeros(SKIN_CHANNELS, np.float32)
    base = np.zeros(3, np.float32)
    for v in range(height):
        for u in range(width):
            f = face_of[v, u]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            w0, w1 = bary[v, u, 0], bary[v, u, 1]
            w2 = 1.0 - w0 - w1
            nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0]
            ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1]
            nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2]
            inv = 1.0 / (np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
            nx, ny, nz = nx * inv, ny * inv, nz * inv
            px = w0 * vertices[a, 0] + w1 * vertices[b, 0] + w2 * vertices[c, 0]
            py = w0 * vertices[a, 1] + w1 * vertices[b, 1] + w2 * vertices[c, 1]
            pz = w0 * vertices[a, 2] + w1 * vertices[b, 2] + w2 * vertices[c, 2]
            ex, ey, ez = eye[0] - px, eye[1] - py, eye[2] - pz
            inv = 1.0 / (np.sqrt(ex * ex + ey * ey + ez * ez) + 1e-9)
            ex, ey, ez = ex * inv, ey * inv, ez * inv
            if nx * ex + ny * ey + nz * ez < 0:  # inside of an open surface
                nx, ny, nz = -nx, -ny, -nz
            skinned = skin_of[f] >= 0
            if skinned:
                _texel(skins[skin_of[f]], w0 * uv[f, 0, 0] + w1 * uv[f, 1, 0] + w2 * uv[f, 2, 0],
                       w0 * uv[f, 0, 1] + w1 * uv[f, 1, 1] + w2 * uv[f, 2, 1], texel)
                # The normal of a height field on the surface (Blinn, Simulation of wrinkled surfaces, 1978).
                nx -= texel[4] * gradients[f, 0, 0] + texel[5] * gradients[f, 1, 0]
                ny -= texel[4] * gradients[f, 0, 1] + texel[5] * gradients[f, 1, 1]
                nz -= texel[4] * gradients[f, 0, 2] + texel[5] * gradients[f, 1, 2]
                inv = 1.0 / (np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9)
                nx, ny, nz = nx * inv, ny * inv, nz * inv
            ndl = nx * light_dir[0] + ny * light_dir[1] + nz * light_dir[2]

            lu = (w0 * light_px[a, 0] + w1 * light_px[b, 0] + w2 * light_px[c, 0]
                  - light_origin[0]) / light_cell
            lv = (w0 * light_px[a, 1] + w1 * light_px[b, 1] + w2 * light_px[c, 1]
                  - light_origin[1]) / light_cell
            ld = w0 * light_depth[a] + w1 * light_depth[b] + w2 * light_depth[c]
            bias = 0.004 + 1.5 * light_cell
            slant = min(3.0, np.sqrt(max(0.0, 1 - ndl * ndl)) / max(ndl, 0.1))
            lit = 1.0 - 0.85 * in_soft_shadow(light_faces_depth, lu, lv, ld + bias, softness / light_cell,
                                               slant * light_cell)

            if skinned:
                shine = texel[3]
                for k in range(3):
                    base[k] = texel[k]
            else:
                tx = w0 * texture[a, 0] + w1 * texture[b, 0] + w2 * texture[c, 0]
                ty = w0 * texture[a, 1] + w1 * texture[b, 1] + w2 * texture[c, 1]
                tz = w0 * texture[a, 2] + w1 * texture[b, 2] + w2 * texture[c, 2]
                n1 = noise_at_point(lattice, tx * noise_scale, ty * noise_scale, tz * noise_scale)
                n2 = noise_at_point(lattice, tx * noise_scale * 4.7 + 7, ty * noise_scale * 4.7 + 3,
                            tz * noise_scale * 4.7)
                mottle = 1.0 + noise_gain * (0.7 * n1 + 0.5 * n2)
                shine = w0 * gloss[a] + w1 * gloss[b] + w2 * gloss[c]
                for k in range(3):
                    base[k] = mottle * (w0 * albedo[a, k] + w1 * albedo[b, k] + w2 * albedo[c, k])

            hx, hy, hz = ex + light_dir[0], ey + light_dir[1], ez + light_dir[2]
            inv = 1.0 / (np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
            ndh = max(0.0, (nx * hx + ny * hy + nz * hz) * inv)
            specular = shine * 0.35 * ndh ** 24 * lit if ndl > 0 else 0.0
            rim = 0.0
            if skinned:
                # A broad lobe of the skin and a narrow one of the fat on it, and the sky's reflection at grazing angles.
                specular = shine * (0.10 * ndh ** 10 + 0.22 * ndh ** 60) * lit * min(1.0, max(0.0, 4 * ndl))
                rim = 0.12 * shine * (1.0 - max(0.0, nx * ex + ny * ey + nz * ez)) ** 4
            hemisphere = 0.5 + 0.5 * (nx * up[0] + ny * up[1] + nz * up[2])
            for k in range(3):
                wrap = 0.28 if k == 0 else 0.12  # red light travels further under skin
                diffuse = max(0.0, (ndl + wrap) / (1 + wrap)) * (lit if ndl > 0 else lit * 0.6)
                if skinned and k == 0:
                    diffuse = 0.8 * diffuse + 0.2 * np.sqrt(diffuse)  # and into the shadows' edges
                if ambient.shape[0]:
                    around = w0 * ambient[a, k] + w1 * ambient[b, k] + w2 * ambient[c, k]
                else:
                    around = ground[k] + (sky[k] - ground[k]) * hemisphere
                value = base[k] * (diffuse * light_colour[k] + around) + specular * light_colour[k] + rim * around
                image[v, u, k] = value


def visible_faces(px: np.ndarray, faces: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Of a flat mesh, px (N, 2), the face at each pixel (H, W), −1 for none, and its first two barycentric weights."""
    face_of = np.full(size, -1, np.int32)
    bary = np.zeros((*size, 2), np.float32)
    _visibility(px, np.ones(len(px), np.float32), faces, face_of, bary, np.zeros(size, np.float32))
    return face_of, bary


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
    height, width = size
    face_of = np.full((height, width), -1, np.int32)
    bary = np.empty((height, width, 2), np.float32)
    zbuf = np.zeros((height, width), np.float32)
    _visibility(np.ascontiguousarray(projection.px, np.float32), np.ascontiguousarray(projection.depth, np.float32),
                mesh.faces, face_of, bary, zbuf)

    shadows = cast_shadows(mesh.vertices, mesh.faces, light.direction, shadow_size)
    uv, skin = _skinned(mesh)
    gradients = _uv_gradients(mesh.vertices, mesh.faces, uv, skin)
    skins = np.zeros((0, 2, 2, SKIN_CHANNELS), np.float32) if skins is None else skins
    ambient = np.zeros((0, 3), np.float32) if ambient is None else ambient
    image = np.zeros((height, width, 3), np.float32)
    eye, *parts = (np.ascontiguousarray(value, np.float32) for value in (projection.eye, *light[:5]))
    _shade(_Pixels(face_of, bary, image), mesh._replace(uv=uv, skin=skin), gradients, skins, eye,
           Light(*parts, np.float32(light.softness)), ambient,
           Mottling(mottling.lattice, np.float32(mottling.scale), np.float32(mottling.gain)), shadows)
    return image, (face_of >= 0).astype(np.float32), zbuf
