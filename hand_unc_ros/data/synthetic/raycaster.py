"""A small ray caster for what lies behind hands: boxes, ellipsoids and limbs with textures, soft shadows, occlusion.

It is slower than the rasteriser and knows soft light; images of it are made once and cut many times. Single precision,
single threaded. World frame: z up, metres; images are linear RGB.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit

BOX, ELLIPSOID, LIMB = 0, 1, 2
# How texture coordinates are found: by the faces of a box, or seen from the front (-y) of the solid's own frame.
WRAPPED, FRONT = 0, 1
TILE = 128
FAR = 1e9


class Solid(NamedTuple):
    """One primitive. kind: BOX, ELLIPSOID or LIMB (rounded cylinder along its own z, with one radius).

    centre: (3,).  half: (3,) half sizes; of a LIMB radius, radius and half the length of its axis.  rotation: (3, 3),
    its axes in the world as columns.  albedo: (3,) linear, multiplied by the texture.  texture: index of a tile, -1 for
    none.  scale: tiles per metre; 0 stretches one tile over the solid.  mapping: WRAPPED or FRONT.  glow: radiance as a
    multiple of the surface's colour.  gloss: in [0, 1].
    """

    kind: int
    centre: np.ndarray
    half: np.ndarray
    albedo: np.ndarray
    rotation: np.ndarray = np.eye(3)
    texture: int = -1
    scale: float = 0.0
    mapping: int = WRAPPED
    glow: float = 0.0
    gloss: float = 0.0


class AreaLight(NamedTuple):
    """A ball of light. centre: (3,).  radius: metres.  power: (3,) irradiance at 1 m, linear RGB."""

    centre: np.ndarray
    radius: float
    power: np.ndarray


class Lens(NamedTuple):
    """A pinhole. eye: (3,).  axes: (3, 3), right, down and forward as columns.  field: tangent of half the angle of
    view across the image's side."""

    eye: np.ndarray
    axes: np.ndarray
    field: float


class _Packed(NamedTuple):
    kind: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    rotation: np.ndarray
    albedo: np.ndarray
    texture: np.ndarray
    mapping: np.ndarray
    numbers: np.ndarray  # scale, glow, gloss, radius of the bounding ball


def cast(solids: list[Solid], lights: list[AreaLight], tiles: np.ndarray, lens: Lens, size: int,
         ambient: np.ndarray, rng: np.random.Generator, rays: int = 3) -> np.ndarray:
    """(size, size, 3) float32 linear RGB.

    tiles: (T, 128, 128, 3) float32 linear textures.  ambient: (2, 3) light from below and from above.  rays: per pixel
    and light, and for the occlusion of ambient light; their directions are stratified, their noise is that of a camera.
    """
    packed = _pack(solids)
    image = np.empty((size, size, 3), np.float32)
    light = np.array([[*one.centre, one.radius, *one.power] for one in lights], np.float32).reshape(-1, 7)
    # Directions evenly over a sphere; each pixel starts at another one.
    points = 64
    turn = np.arange(points) * np.pi * (3 - np.sqrt(5))
    height = 1 - 2 * (np.arange(points) + 0.5) / points
    around = np.sqrt(1 - height ** 2)
    sphere = np.column_stack([around * np.cos(turn), around * np.sin(turn), height])[rng.permutation(points)]
    starts = rng.integers(0, points, (size, size)).astype(np.int64)
    _cast(packed, light, np.ascontiguousarray(tiles, np.float32), np.asarray(lens.eye, np.float32),
          np.ascontiguousarray(lens.axes, np.float32), np.float32(lens.field), np.asarray(ambient, np.float32),
          sphere.astype(np.float32), starts, rays, image)
    return image


def _pack(solids: list[Solid]) -> _Packed:
    half = np.array([one.half for one in solids], np.float32)
    kind = np.array([one.kind for one in solids], np.int64)
    bound = np.where(kind == BOX, np.linalg.norm(half, axis=1),
                     np.where(kind == LIMB, half[:, 0] + half[:, 2], half.max(axis=1)))
    return _Packed(kind, np.array([one.centre for one in solids], np.float32), half,
                   np.array([one.rotation for one in solids], np.float32),
                   np.array([one.albedo for one in solids], np.float32),
                   np.array([one.texture for one in solids], np.int64),
                   np.array([one.mapping for one in solids], np.int64),
                   np.column_stack([[one.scale for one in solids], [one.glow for one in solids],
                                    [one.gloss for one in solids], bound]).astype(np.float32))


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy', inline='always')
def _local(rotation, n, x, y, z):
    return (rotation[n, 0, 0] * x + rotation[n, 1, 0] * y + rotation[n, 2, 0] * z,
            rotation[n, 0, 1] * x + rotation[n, 1, 1] * y + rotation[n, 2, 1] * z,
            rotation[n, 0, 2] * x + rotation[n, 1, 2] * y + rotation[n, 2, 2] * z)


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _nearest(packed, ox, oy, oz, dx, dy, dz, limit, any_will_do):
    """Distance and index of what a ray meets first, or (limit, -1)."""
    kind, centre, half, rotation, _, _, _, numbers = packed
    best, found = limit, -1
    for n in range(kind.shape[0]):
        cx, cy, cz = ox - centre[n, 0], oy - centre[n, 1], oz - centre[n, 2]
        along = cx * dx + cy * dy + cz * dz
        radius = numbers[n, 3]
        beyond = cx * cx + cy * cy + cz * cz - radius * radius
        if beyond > 0 and (along > 0 or along * along < beyond):
            continue
        if any_will_do and numbers[n, 1] > 0:  # what glows stands for a light and casts no shadow
            continue
        px, py, pz = _local(rotation, n, cx, cy, cz)
        vx, vy, vz = _local(rotation, n, dx, dy, dz)
        hx, hy, hz = half[n, 0], half[n, 1], half[n, 2]
        t = np.float32(-1.0)
        if kind[n] == BOX:
            ix = 1 / (vx if abs(vx) > 1e-7 else np.float32(1e-7))
            iy = 1 / (vy if abs(vy) > 1e-7 else np.float32(1e-7))
            iz = 1 / (vz if abs(vz) > 1e-7 else np.float32(1e-7))
            ax, bx = (-hx - px) * ix, (hx - px) * ix
            ay, by = (-hy - py) * iy, (hy - py) * iy
            az, bz = (-hz - pz) * iz, (hz - pz) * iz
            enter = max(min(ax, bx), min(ay, by), min(az, bz))
            leave = min(max(ax, bx), max(ay, by), max(az, bz))
            if leave >= enter:
                t = enter if enter > 1e-4 else np.float32(-1.0)
        elif kind[n] == ELLIPSOID:
            qx, qy, qz = px / hx, py / hy, pz / hz
            wx, wy, wz = vx / hx, vy / hy, vz / hz
            a = wx * wx + wy * wy + wz * wz
            b = qx * wx + qy * wy + qz * wz
            c = qx * qx + qy * qy + qz * qz - 1
            d = b * b - a * c
            if d > 0:
                t = (-b - np.sqrt(d)) / a
        else:
            a = vx * vx + vy * vy
            b = px * vx + py * vy
            c = px * px + py * py - hx * hx
            d = b * b - a * c
            if d > 0 and a > 1e-9:
                s = (-b - np.sqrt(d)) / a
                if abs(pz + s * vz) <= hz:
                    t = s
            if t < 0:
                end = hz if pz > 0 or (abs(pz) <= hz and vz < 0) else -hz
                for _ in range(2):
                    ez = pz - end
                    b = px * vx + py * vy + ez * vz
                    d = b * b - (px * px + py * py + ez * ez - hx * hx)
                    if d > 0:
                        s = -b - np.sqrt(d)
                        if s > 0 and (t < 0 or s < t):
                            t = s
                    end = -end
        if 1e-4 < t < best:
            best, found = t, n
            if any_will_do:
                return best, found
    return best, found


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _texel(tiles, tile, u, v):
    """Bilinear, repeated."""
    side = tiles.shape[1]
    u, v = (u - np.floor(u)) * side, (v - np.floor(v)) * side
    iu, iv = int(u), int(v)
    fu, fv = u - iu, v - iv
    iu, iv = iu % side, iv % side
    ju, jv = (iu + 1) % side, (iv + 1) % side
    a, b, c, d = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
    first, second = tiles[tile, iv], tiles[tile, jv]
    r = a * first[iu, 0] + b * first[ju, 0] + c * second[iu, 0] + d * second[ju, 0]
    g = a * first[iu, 1] + b * first[ju, 1] + c * second[iu, 1] + d * second[ju, 1]
    e = a * first[iu, 2] + b * first[ju, 2] + c * second[iu, 2] + d * second[ju, 2]
    return r, g, e


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _cast(packed, lights, tiles, eye, axes, field, ambient, sphere, starts, rays, image):
    kind, centre, half, rotation, albedo, texture, mapping, numbers = packed
    size = image.shape[0]
    many = sphere.shape[0]
    for row in range(size):
        for column in range(size):
            sx = field * (2 * (column + np.float32(0.5)) / size - 1)
            sy = field * (2 * (row + np.float32(0.5)) / size - 1)
            dx = axes[0, 0] * sx + axes[0, 1] * sy + axes[0, 2]
            dy = axes[1, 0] * sx + axes[1, 1] * sy + axes[1, 2]
            dz = axes[2, 0] * sx + axes[2, 1] * sy + axes[2, 2]
            inv = 1 / np.sqrt(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx * inv, dy * inv, dz * inv
            t, n = _nearest(packed, eye[0], eye[1], eye[2], dx, dy, dz, np.float32(1e9), False)
            if n < 0:
                for k in range(3):
                    image[row, column, k] = ambient[1, k]
                continue
            x, y, z = eye[0] + t * dx, eye[1] + t * dy, eye[2] + t * dz
            px, py, pz = _local(rotation, n, x - centre[n, 0], y - centre[n, 1], z - centre[n, 2])
            hx, hy, hz = half[n, 0], half[n, 1], half[n, 2]
            if kind[n] == BOX:
                ax, ay, az = abs(px) / hx, abs(py) / hy, abs(pz) / hz
                lx, ly, lz = np.float32(0), np.float32(0), np.float32(0)
                if ax >= ay and ax >= az:
                    lx = np.float32(1) if px > 0 else np.float32(-1)
                    u, v, wu, wv = (py if px > 0 else -py), -pz, hy, hz
                elif ay >= az:
                    ly = np.float32(1) if py > 0 else np.float32(-1)
                    u, v, wu, wv = (px if py < 0 else -px), -pz, hx, hz
                else:
                    lz = np.float32(1) if pz > 0 else np.float32(-1)
                    u, v, wu, wv = px, -py, hx, hy
            elif kind[n] == ELLIPSOID:
                lx, ly, lz = px / (hx * hx), py / (hy * hy), pz / (hz * hz)
                u, v, wu, wv = np.arctan2(px, -py) * max(hx, hy), -pz, np.float32(np.pi) * max(hx, hy), hz
            else:
                top = min(max(pz, -hz), hz)
                lx, ly, lz = px, py, pz - top
                u, v, wu, wv = np.arctan2(px, -py) * hx, -pz, np.float32(np.pi) * hx, hz + hx
            if mapping[n] == FRONT:
                u, v, wu, wv = px, -pz, hx, hz
            nx = rotation[n, 0, 0] * lx + rotation[n, 0, 1] * ly + rotation[n, 0, 2] * lz
            ny = rotation[n, 1, 0] * lx + rotation[n, 1, 1] * ly + rotation[n, 1, 2] * lz
            nz = rotation[n, 2, 0] * lx + rotation[n, 2, 1] * ly + rotation[n, 2, 2] * lz
            inv = 1 / (np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-12))
            nx, ny, nz = nx * inv, ny * inv, nz * inv
            if nx * dx + ny * dy + nz * dz > 0:
                nx, ny, nz = -nx, -ny, -nz
            r, g, b = albedo[n, 0], albedo[n, 1], albedo[n, 2]
            if texture[n] >= 0 and not (mapping[n] == FRONT and ly > 0):
                scale = numbers[n, 0]
                if scale > 0:
                    tr, tg, tb = _texel(tiles, texture[n], u * scale, v * scale)
                else:
                    tr, tg, tb = _texel(tiles, texture[n], np.float32(0.5) + np.float32(0.498) * u / wu,
                                        np.float32(0.5) + np.float32(0.498) * v / wv)
                r, g, b = r * tr, g * tg, b * tb
            glow = numbers[n, 1]
            if glow > 0:
                image[row, column, 0], image[row, column, 1], image[row, column, 2] = r * glow, g * glow, b * glow
                continue
            start = starts[row, column]
            x, y, z = x + np.float32(2e-3) * nx, y + np.float32(2e-3) * ny, z + np.float32(2e-3) * nz
            open_to_sky = np.float32(0)
            for k in range(rays):
                s = (start + k * 21) % many
                vx, vy, vz = sphere[s, 0] + nx, sphere[s, 1] + ny, sphere[s, 2] + nz
                inv = 1 / (np.sqrt(vx * vx + vy * vy + vz * vz) + np.float32(1e-3))
                away, _ = _nearest(packed, x, y, z, vx * inv, vy * inv, vz * inv, np.float32(0.6), False)
                open_to_sky += away / np.float32(0.6)
            open_to_sky = np.float32(0.15) + np.float32(0.85) * open_to_sky / rays
            rise = np.float32(0.5) + np.float32(0.5) * nz
            lit_r = open_to_sky * (ambient[0, 0] + rise * (ambient[1, 0] - ambient[0, 0]))
            lit_g = open_to_sky * (ambient[0, 1] + rise * (ambient[1, 1] - ambient[0, 1]))
            lit_b = open_to_sky * (ambient[0, 2] + rise * (ambient[1, 2] - ambient[0, 2]))
            shine = np.float32(0)
            for m in range(lights.shape[0]):
                weight = np.float32(0)
                for k in range(rays):
                    s = (start + k * 21 + 7 * m) % many
                    vx = lights[m, 0] + lights[m, 3] * sphere[s, 0] - x
                    vy = lights[m, 1] + lights[m, 3] * sphere[s, 1] - y
                    vz = lights[m, 2] + lights[m, 3] * sphere[s, 2] - z
                    far2 = vx * vx + vy * vy + vz * vz
                    far = np.sqrt(far2) + np.float32(1e-6)
                    facing = (vx * nx + vy * ny + vz * nz) / far
                    if facing <= 0:
                        continue
                    _, hit = _nearest(packed, x, y, z, vx / far, vy / far, vz / far, far, True)
                    if hit < 0:
                        weight += facing / max(far2, np.float32(0.04))
                        if numbers[n, 2] > 0:
                            mx, my, mz = vx / far - dx, vy / far - dy, vz / far - dz
                            inv = 1 / (np.sqrt(mx * mx + my * my + mz * mz) + np.float32(1e-6))
                            sheen = max((mx * nx + my * ny + mz * nz) * inv, np.float32(0)) ** 40
                            shine += np.float32(0.5) * numbers[n, 2] * sheen * lights[m, 5] / far2 / rays
                weight /= rays
                lit_r += weight * lights[m, 4]
                lit_g += weight * lights[m, 5]
                lit_b += weight * lights[m, 6]
            image[row, column, 0] = r * lit_r + shine
            image[row, column, 1] = g * lit_g + shine
            image[row, column, 2] = b * lit_b + shine
