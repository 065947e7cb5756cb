"""Light on what a camera sees of a mesh: skin with its relief, cloth and things, soft shadows, light from all around.

All arithmetic is in single precision and on one thread, so that an image depends on its inputs alone. What no camera
changes is computed once for all of them, by `prepare`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.noise import noise_at_point
from hand_unc_ros.data.synthetic.shadows import NOTHING, cast_shadows

if TYPE_CHECKING:
    from hand_unc_ros.data.synthetic.rasteriser import Light, Mesh, Mottling

# Of a skin: albedo, linear RGB; gloss in [0, 1]; growth of its relief along u and v, metres over the whole unit.
SKIN_CHANNELS = 6
# Of a vertex: normal, place, place in the shadow map with its depth, light from all around; those of surfaces without a
# skin have albedo, texture coordinates and gloss besides.
_COMMON, _ROW = 12, 19
# Points of the disc over which a soft shadow is the mean: a spiral that fills it evenly.
_TAPS = 6


class Prepared(NamedTuple):
    """A mesh in its light.

    faces: (F, 3) int32.  rows: (N, _ROW) of the vertices.  uv: (F, 3, 2), skin: (F,), gradients: (F, 2, 3), see `Mesh`
    and `_uv_gradients`.  skins: (M, T, T, SKIN_CHANNELS).  lattice, mottling: noise, and its scale and gain.
    light: (5, 3) of `Light`, direction to up.  all_around: whether rows hold the light from all around.
    nearest: (S + 2, S + 2) depth of what the light meets first.  highest, lowest: (S, S) of `nearest` about a cell, as
    far as taps reach.  taps: (T, 3) cells across, cells down, and metres by which the depth may rise per slant.
    bias: metres.
    """

    faces: np.ndarray
    rows: np.ndarray
    uv: np.ndarray
    skin: np.ndarray
    gradients: np.ndarray
    skins: np.ndarray
    lattice: np.ndarray
    mottling: np.ndarray
    light: np.ndarray
    all_around: bool
    nearest: np.ndarray
    highest: np.ndarray
    lowest: np.ndarray
    taps: np.ndarray
    bias: np.float32


def prepare(mesh: Mesh, light: Light, mottling: Mottling, shadow_size: int = 96, skins: np.ndarray | None = None,
            ambient: np.ndarray | None = None) -> Prepared:
    """All of a mesh that does not depend on the camera; the arguments are those of `rasteriser.render`."""
    shadows = cast_shadows(mesh.vertices, mesh.faces, light.direction, shadow_size)
    uv, skin = skinned(mesh)
    rows = np.zeros((len(mesh.vertices), _ROW), np.float32)
    parts = (mesh.normals, mesh.vertices, (shadows.px - shadows.origin) / shadows.cell, shadows.depth[:, None],
             np.zeros((1, 3)) if ambient is None else ambient, mesh.albedo, mesh.texture, mesh.gloss[:, None])
    place = 0
    for part in parts:
        rows[:, place:place + part.shape[1]] = part
        place += part.shape[1]
    radius = float(light.softness) / float(shadows.cell)
    taps = np.zeros((1, 3), np.float32)
    if radius >= 0.5:
        turn = 2.3999632 * np.arange(_TAPS)  # the golden angle
        reach = radius * np.sqrt((np.arange(_TAPS) + 0.5) / _TAPS)
        taps = np.column_stack([reach * np.cos(turn), reach * np.sin(turn), reach * shadows.cell]).astype(np.float32)
    nearest = cv2.copyMakeBorder(shadows.nearest, 0, 2, 0, 2, cv2.BORDER_CONSTANT, value=float(NOTHING))
    around = np.ones((2 * int(np.ceil(np.abs(taps[:, :2]).max())) + 3,) * 2, np.uint8)
    border = {'borderType': cv2.BORDER_CONSTANT, 'borderValue': float(NOTHING)}
    return Prepared(
        mesh.faces, rows, uv, skin, _uv_gradients(mesh.vertices, mesh.faces, uv, skin),
        np.zeros((0, 2, 2, SKIN_CHANNELS), np.float32) if skins is None else skins,
        mottling.lattice, np.array([mottling.scale, mottling.gain], np.float32), np.array(light[:5], np.float32),
        ambient is not None, nearest, cv2.dilate(shadows.nearest, around, **border),
        cv2.erode(shadows.nearest, around, **border), taps, np.float32(0.004 + 1.5 * shadows.cell))


def skinned(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """uv and skin of a mesh, also of one without."""
    if mesh.skin is not None:
        return np.ascontiguousarray(mesh.uv, np.float32), np.ascontiguousarray(mesh.skin, np.int32)
    return np.zeros((len(mesh.faces), 3, 2), np.float32), np.full(len(mesh.faces), -1, np.int32)


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _uv_gradients(vertices, faces, uv, skin):
    """(F, 2, 3) 1/m: how fast u and v grow along the surface of each face that has a skin."""
    gradients = np.zeros((faces.shape[0], 2, 3), np.float32)
    for f in range(faces.shape[0]):
        if skin[f] < 0:
            continue
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = (vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1],
                      vertices[b, 2] - vertices[a, 2])
        vx, vy, vz = (vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1],
                      vertices[c, 2] - vertices[a, 2])
        g11, g12, g22 = ux * ux + uy * uy + uz * uz, ux * vx + uy * vy + uz * vz, vx * vx + vy * vy + vz * vz
        scale = g11 * g22 - g12 * g12
        if scale < 1e-20:
            continue
        for k in range(2):
            d1, d2 = uv[f, 1, k] - uv[f, 0, k], uv[f, 2, k] - uv[f, 0, k]
            p, q = (g22 * d1 - g12 * d2) / scale, (g11 * d2 - g12 * d1) / scale
            gradients[f, k, 0] = p * ux + q * vx
            gradients[f, k, 1] = p * uy + q * vy
            gradients[f, k, 2] = p * uz + q * vz
    return gradients


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy', inline='always')
def _in_shadow(nearest, u, v, depth):
    """Share of the four cells about (u, v) that are nearer to the light than `depth`."""
    iu, iv = int(u), int(v)
    tu, tv = u - np.float32(iu), v - np.float32(iv)
    none, all_ = np.float32(0), np.float32(1)
    upper = (all_ - tu if nearest[iv, iu] > depth else none) + (tu if nearest[iv, iu + 1] > depth else none)
    lower = (all_ - tu if nearest[iv + 1, iu] > depth else none) + (tu if nearest[iv + 1, iu + 1] > depth else none)
    return upper + tv * (lower - upper)


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _lit(prepared, u, v, depth, facing):
    """Share of the key light that comes to (u, v) of the shadow map at a depth."""
    depth += prepared.bias
    iu, iv = int(u), int(v)
    if prepared.highest[iv, iu] <= depth:
        return np.float32(1)
    taps = prepared.taps
    slant = np.sqrt(max(np.float32(0), np.float32(1) - facing * facing)) / max(facing, np.float32(0.1))
    slant = min(np.float32(3), slant)
    if prepared.lowest[iv, iu] > depth + slant * taps[-1, 2]:
        return np.float32(0.15)
    end = np.float32(prepared.highest.shape[0])
    shadow = np.float32(0)
    for k in range(taps.shape[0]):
        shadow += _in_shadow(prepared.nearest, min(max(np.float32(0), u + taps[k, 0]), end),
                             min(max(np.float32(0), v + taps[k, 1]), end), depth + slant * taps[k, 2])
    return np.float32(1) - np.float32(0.85) * shadow / np.float32(taps.shape[0])


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _texel(skin, u, v, out):
    """The channels of a skin (T, T, SKIN_CHANNELS) at (u, v) in [0, 1], bilinear, into `out`."""
    size = np.float32(skin.shape[0])
    x = min(max(u * size - np.float32(0.5), np.float32(0)), size - np.float32(1.001))
    y = min(max(v * size - np.float32(0.5), np.float32(0)), size - np.float32(1.001))
    ix, iy = int(x), int(y)
    tx, ty = x - np.float32(ix), y - np.float32(iy)
    a, b = (np.float32(1) - tx) * (np.float32(1) - ty), tx * (np.float32(1) - ty)
    c, d = (np.float32(1) - tx) * ty, tx * ty
    for k in range(SKIN_CHANNELS):
        out[k] = a * skin[iy, ix, k] + b * skin[iy, ix + 1, k] + c * skin[iy + 1, ix, k] + d * skin[iy + 1, ix + 1, k]


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def shade(face_of, corner, px, nearness, prepared, eye, shares, out):
    """Adds the light of the pixels of `face_of` to `out` (h, w, 4), linear RGB and coverage.

    face_of: (H, W) face of each point, −1 for none.  corner: (2,) its first column and row.
    px: (N, 2), nearness: (N,) one over the depth, of the vertices.  eye: (3,).
    shares: (W + H, 3) for each column, then each row of `face_of`, the pixel of `out` that it begins in and its shares
    in that and the next one.
    """
    height, width = face_of.shape
    one, none = np.float32(1), np.float32(0)
    faces, rows, uv, skin_of, gradients = (prepared.faces, prepared.rows, prepared.uv, prepared.skin,
                                           prepared.gradients)
    light = prepared.light
    lx, ly, lz = light[0, 0], light[0, 1], light[0, 2]
    scale, gain = prepared.mottling[0], prepared.mottling[1]
    at = np.empty(_ROW, np.float32)
    texel = np.zeros(SKIN_CHANNELS, np.float32)
    base, value = np.zeros(3, np.float32), np.zeros(4, np.float32)
    value[3] = one
    for row in range(height):
        top = int(shares[width + row, 0])
        upper, lower = shares[width + row, 1], shares[width + row, 2]
        for column in range(width):
            f = face_of[row, column]
            if f < 0:
                continue
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            u, v = float(corner[0] + column), float(corner[1] + row)
            x0, y0, x1, y1, x2, y2 = px[a, 0], px[a, 1], px[b, 0], px[b, 1], px[c, 0], px[c, 1]
            # In double precision, since slivers amplify what is lost.
            w0, w1 = (x1 - u) * (y2 - v) - (x2 - u) * (y1 - v), (x2 - u) * (y0 - v) - (x0 - u) * (y2 - v)
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            w0, w1, w2 = w0 * nearness[a], w1 * nearness[b], (area - w0 - w1) * nearness[c]
            inverse = 1.0 / (w0 + w1 + w2)
            p, q = np.float32(w0 * inverse), np.float32(w1 * inverse)
            r = one - p - q
            skinned = skin_of[f] >= 0
            for k in range(_COMMON):
                at[k] = p * rows[a, k] + q * rows[b, k] + r * rows[c, k]
            nx, ny, nz = at[0], at[1], at[2]
            inv = one / (np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-9))
            nx, ny, nz = nx * inv, ny * inv, nz * inv
            ex, ey, ez = eye[0] - at[3], eye[1] - at[4], eye[2] - at[5]
            inv = one / (np.sqrt(ex * ex + ey * ey + ez * ez) + np.float32(1e-9))
            ex, ey, ez = ex * inv, ey * inv, ez * inv
            if nx * ex + ny * ey + nz * ez < none:  # inside of an open surface
                nx, ny, nz = -nx, -ny, -nz
            if skinned:
                _texel(prepared.skins[skin_of[f]], p * uv[f, 0, 0] + q * uv[f, 1, 0] + r * uv[f, 2, 0],
                       p * uv[f, 0, 1] + q * uv[f, 1, 1] + r * uv[f, 2, 1], texel)
                # The normal of a height field on the surface (Blinn, Simulation of wrinkled surfaces, 1978).
                nx -= texel[4] * gradients[f, 0, 0] + texel[5] * gradients[f, 1, 0]
                ny -= texel[4] * gradients[f, 0, 1] + texel[5] * gradients[f, 1, 1]
                nz -= texel[4] * gradients[f, 0, 2] + texel[5] * gradients[f, 1, 2]
                inv = one / (np.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-9))
                nx, ny, nz = nx * inv, ny * inv, nz * inv
                shine = texel[3]
                for k in range(3):
                    base[k] = texel[k]
            else:
                for k in range(_COMMON, _ROW):
                    at[k] = p * rows[a, k] + q * rows[b, k] + r * rows[c, k]
                tx, ty, tz = at[15] * scale, at[16] * scale, at[17] * scale
                coarse = noise_at_point(prepared.lattice, tx, ty, tz)
                fine = np.float32(4.7)
                fine = noise_at_point(prepared.lattice, tx * fine + np.float32(7), ty * fine + np.float32(3), tz * fine)
                mottle = one + gain * (np.float32(0.7) * coarse + np.float32(0.5) * fine)
                shine = at[18]
                for k in range(3):
                    base[k] = mottle * at[12 + k]
            facing = nx * lx + ny * ly + nz * lz
            # Farther from the light than red light gets under skin, nothing of it matters.
            lit = _lit(prepared, at[6], at[7], at[8], facing) if facing > np.float32(-0.28) else none
            seen = nx * ex + ny * ey + nz * ez
            specular, rim = none, none
            if facing > none:
                # Of the vector halfway between eye and light, which has a length of √(2 + 2 e·l) before it is made one.
                half = max(none, facing + seen)
                h2 = half * half / (np.float32(2) + np.float32(2) * (ex * lx + ey * ly + ez * lz) + np.float32(1e-9))
                h4 = h2 * h2
                h8 = h4 * h4
                h16 = h8 * h8
                if skinned:
                    # A broad lobe of the skin and a narrow one of the fat on it.
                    specular = shine * (np.float32(0.10) * h8 * h2 + np.float32(0.22) * h16 * h16 * h16 * h8 * h4) * lit
                    specular *= min(one, np.float32(4) * facing)
                else:
                    specular = shine * np.float32(0.35) * h16 * h8 * lit
            else:
                lit *= np.float32(0.6)
            if skinned:
                # The sky's reflection at grazing angles.
                away = one - max(none, seen)
                rim = np.float32(0.12) * shine * (away * away) * (away * away)
            hemisphere = np.float32(0.5) + np.float32(0.5) * (nx * light[4, 0] + ny * light[4, 1] + nz * light[4, 2])
            for k in range(3):
                wrap = np.float32(0.28) if k == 0 else np.float32(0.12)  # red light travels further under skin
                diffuse = max(none, (facing + wrap) / (one + wrap)) * lit
                if skinned and k == 0:
                    # And into the shadows' edges.
                    diffuse = np.float32(0.8) * diffuse + np.float32(0.2) * np.sqrt(diffuse)
                if prepared.all_around:
                    around = at[9 + k]
                else:
                    around = light[3, k] + (light[2, k] - light[3, k]) * hemisphere
                value[k] = base[k] * (diffuse * light[1, k] + around) + specular * light[1, k] + rim * around
            left = int(shares[column, 0])
            first, second = shares[column, 1], shares[column, 2]
            for k in range(4):
                out[top, left, k] += upper * first * value[k]
            if second > none:
                for k in range(4):
                    out[top, left + 1, k] += upper * second * value[k]
            if lower > none:
                for k in range(4):
                    out[top + 1, left, k] += lower * first * value[k]
                if second > none:
                    for k in range(4):
                        out[top + 1, left + 1, k] += lower * second * value[k]
