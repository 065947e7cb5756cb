"""Skin of a person's hand as a texture: colour, gloss and relief, all drawn from a generator, none from photographs.

What a texel shows follows from where it lies on the hand at rest: palm or back, over a joint, under a nail. Colour is
what melanin and blood leave of the light (the two-pigment model of skin: Tsumura et al., "Image-based skin color and
texture analysis/synthesis by extracting hemoglobin and melanin information", 2003).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from hand_unc_ros.data.synthetic.appearance import Appearance
from hand_unc_ros.data.synthetic.compiled import njit
from hand_unc_ros.data.synthetic.noise import noise, noise_lattice
from hand_unc_ros.data.synthetic.rasteriser import visible_faces
from hand_unc_ros.data.synthetic.shading import SKIN_CHANNELS
from hand_unc_ros.data.synthetic.worn import draw_worn
from hand_unc_ros.hand.joints import FINGERS, MIDDLE_MCP, WRIST
from hand_unc_ros.hand.limits import fingers_of
from hand_unc_ros.hand.model import HandModel
from hand_unc_ros.hand.palm_frame import INDEX_MCP, LITTLE_MCP

SKIN_SIZE = 384
SKIN_COUNT = 64
# What skin without pigments reflects, and how much of red, green and blue a unit of melanin and of blood absorbs.
BLOODLESS = np.array([0.82, 0.70, 0.56])
MELANIN = np.array([0.46, 0.66, 0.92])
BLOOD = np.array([0.06, 0.34, 0.30])
GLOVES = 0.04
# Creases of the palm in its own coordinates: across from the little (0) to the index knuckle (1), along from the wrist
# (0) to the middle knuckle (1); the line of life, of the head and of the heart.
PALM_LINES = (
    ((1.08, 0.86), (0.90, 0.80), (0.73, 0.66), (0.62, 0.47), (0.58, 0.27), (0.62, 0.06)),
    ((1.06, 0.85), (0.82, 0.74), (0.55, 0.62), (0.30, 0.52), (0.10, 0.42)),
    ((-0.12, 0.66), (0.12, 0.70), (0.36, 0.76), (0.58, 0.86), (0.68, 1.02)),
)
# Public index of each finger's first joint.
FIRST = {finger: 1 + 4 * place for place, finger in enumerate(FINGERS)}


class _Lines(NamedTuple):
    """Segments of curves. start, end: (S, 2).  width: (S,) of the Gaussian cross-section.  depth: (S,)."""

    start: np.ndarray
    end: np.ndarray
    width: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class SkinAtlas:
    """Where every texel of a hand's texture lies on the hand at rest; made once from a hand model.

    place: (T, T, 3) metres.  palm, nail: (T, T) in [0, 1].  finger: (T, T) index into FINGERS, −1 for the palm and the
    arm.  along: (T, T, 4) metres past each of the finger's four joints along the bone that begins there.
    palm_uv: (T, T, 2) in the coordinates of PALM_LINES.
    """

    place: np.ndarray
    palm: np.ndarray
    nail: np.ndarray
    finger: np.ndarray
    along: np.ndarray
    palm_uv: np.ndarray

    @staticmethod
    def of(model: HandModel, size: int = SKIN_SIZE) -> SkinAtlas:
        """Of a hand model with `uv`, `palm` and `nail`."""
        with torch.no_grad():
            template = model(torch.zeros(1, 48)).vertices[0].double().numpy()
        joints = model.rest_joints()
        faces = model.faces.numpy()
        corners = np.ascontiguousarray(np.asarray(model.uv, np.float32).reshape(-1, 2) * size - 0.5)
        face_of, bary = visible_faces(corners, np.arange(3 * len(faces), dtype=np.int32).reshape(-1, 3), (size, size))
        # Gaps between the islands take the nearest texel, so that bilinear look-ups at their edges find skin.
        nearest = distance_transform_edt(face_of < 0, return_distances=False, return_indices=True)
        face_of, bary = face_of[tuple(nearest)], bary[tuple(nearest)]
        weights = np.concatenate([bary, 1 - bary.sum(-1, keepdims=True)], -1)
        rows = faces[face_of]

        def spread(values: np.ndarray) -> np.ndarray:
            return np.einsum('uvk,uvk...->uv...', weights, np.asarray(values, np.float32)[rows])

        place = spread(template)
        finger = fingers_of(model.weights)[rows[..., 0]]
        along = np.zeros((*finger.shape, 4), np.float32)
        for number, name in enumerate(FINGERS):
            own, first = finger == number, FIRST[name]
            for k in range(4):
                begin, end = joints[first + min(k, 2)], joints[first + min(k, 2) + 1]
                axis = (end - begin) / np.linalg.norm(end - begin)
                along[own, k] = (place[own] - joints[first + k]) @ axis
        across = joints[INDEX_MCP] - joints[LITTLE_MCP]
        up = joints[MIDDLE_MCP] - joints[WRIST]
        basis = np.linalg.pinv(np.stack([across, up], 1))
        # Wrist at the middle of its breadth, which lies below the middle between the ring and the middle finger.
        palm_uv = (place - joints[WRIST]) @ basis.T + [0.55, 0.0]
        return SkinAtlas(place.astype(np.float32), spread(model.palm), spread(model.nail), finger, along,
                         palm_uv.astype(np.float32))


class Skins:
    """Skins of many people by number; each depends on the seed and its number, and is drawn when first asked for."""

    def __init__(self, model: HandModel, seed: int, count: int = SKIN_COUNT, size: int = SKIN_SIZE) -> None:
        self.atlas, self.seed, self.count = SkinAtlas.of(model, size), seed, count
        # Where the vertices are in the texture, each in one of its faces.
        self._at = np.zeros((len(model.weights), 2), np.float32)
        self._at[model.faces.numpy()] = model.uv
        self._lattice = noise_lattice(np.random.default_rng((seed, 7050)))
        self._drawn: dict[int, np.ndarray] = {}

    def draw(self, rng: np.random.Generator, count: int) -> Appearance:
        """The look of a hand, with what it wears. count: skins to choose from, at most all of them."""
        skin = self.skin(int(rng.integers(min(count, self.count))))
        albedo = cv2.remap(skin[..., :4], *(self._at * len(skin) - 0.5).T[..., None], cv2.INTER_LINEAR)[:, 0]
        return Appearance(np.ascontiguousarray(albedo[:, :3]), float(albedo[:, 3].mean()), None,
                          float(rng.uniform(0.05, 0.22)), skin, draw_worn(rng))

    def skin(self, number: int) -> np.ndarray:
        """(T, T, SKIN_CHANNELS) float32."""
        if number not in self._drawn:
            rng = np.random.default_rng((self.seed, 7051, number))
            self._drawn[number] = draw_skin(rng, self.atlas, self._lattice)
        return self._drawn[number]


def draw_skin(rng: np.random.Generator, atlas: SkinAtlas, lattice: np.ndarray) -> np.ndarray:
    """(T, T, SKIN_CHANNELS) float32 of one person, or now and then of a glove, for `rasteriser.render`.

    lattice: from `noise_lattice`.
    """
    if rng.random() < GLOVES:
        albedo, gloss, relief = _glove(rng, atlas, lattice)
    else:
        albedo, gloss, relief = _person(rng, atlas, lattice)
    size = len(relief)
    # Finer than two texels nothing can be shown.
    relief = cv2.GaussianBlur(relief.astype(np.float32), (0, 0), 0.7)
    skin = np.empty((size, size, SKIN_CHANNELS), np.float32)
    skin[..., :3] = np.clip(albedo, 0.005, 0.95)
    skin[..., 3] = np.clip(gloss, 0, 1)
    skin[..., 5], skin[..., 4] = np.gradient(relief)
    skin[..., 4:] *= size
    return skin


def _person(rng: np.random.Generator, atlas: SkinAtlas, lattice: np.ndarray) -> tuple[np.ndarray, ...]:
    palm, nail = atlas.palm, atlas.nail
    fine, middle, coarse = (noise(lattice, atlas.place, scale) for scale in (1600.0, 420.0, 70.0))
    back = 1 - palm
    # Light skin is the more frequent one in images at hand, dark skin is seen as well as that.
    melanin = np.exp(rng.uniform(np.log(0.12), np.log(3.6)))
    blood = rng.uniform(0.35, 1.1)
    age = rng.random()
    creases, wrinkles = _palm_creases(rng, atlas, lattice), _knuckles(rng, atlas, lattice)
    bends = _finger_creases(rng, atlas, lattice)
    veins = _veins(rng, atlas, lattice) * back * rng.uniform(0, 1) ** 1.5

    pigment = melanin * (1 - rng.uniform(0.55, 0.85) * palm) * (1 + 0.12 * coarse + 0.05 * middle)
    pigment = pigment + 0.25 * min(melanin, 1.0) * wrinkles * back  # knuckles are darker
    if rng.random() < 0.35:  # freckles and moles
        spots = np.clip(noise(lattice, atlas.place, rng.uniform(250, 500)) - rng.uniform(0.55, 0.75), 0, 1)
        pigment = pigment + rng.uniform(1, 4) * spots * back
    pigment = pigment * (1 - 0.5 * nail)
    red = blood * (1 + 0.35 * palm * rng.random() + 0.22 * coarse + 0.10 * middle)
    tips = np.clip(atlas.along[..., 2] / 0.02, 0, 1) * (atlas.finger >= 0)
    red = red + blood * (rng.uniform(0.1, 0.7) * tips + rng.uniform(0, 0.5) * wrinkles * back)
    lines = np.maximum(creases, bends)
    red = red + rng.uniform(0.2, 0.7) * lines
    pigment = pigment + rng.uniform(0.1, 0.35) * lines * (0.3 + min(melanin, 1.5))
    # Hollow under pressure, pale: a little of it everywhere, by patches.
    albedo = BLOODLESS * np.exp(-pigment[..., None] * MELANIN - np.clip(red, 0, None)[..., None] * BLOOD)
    albedo = albedo * (1 - veins[..., None] * np.array([0.20, 0.09, 0.05]) * rng.uniform(0.4, 1.2))
    albedo = albedo * (1 + 0.05 * fine[..., None] + 0.04 * middle[..., None])
    # Nails: rosy and bright, a pale moon at the root and a white edge.
    bed = BLOODLESS * np.exp(-0.45 * melanin * MELANIN - blood * rng.uniform(0.7, 1.2) * BLOOD)
    if rng.random() < 0.12:
        bed = rng.uniform(0.02, 0.8, 3)  # lacquer
    inside = np.clip(1.6 * nail - 0.3, 0, 1)[..., None]
    albedo = albedo + inside * (bed - albedo)
    rim = np.clip(1 - np.abs(nail - 0.35) / 0.3, 0, 1)
    albedo = albedo * (1 - 0.22 * rim[..., None])

    gloss = rng.uniform(0.15, 0.75) * (1 + 0.25 * middle + 0.2 * fine) * (1 - 0.35 * palm)
    gloss = gloss * (1 - 0.5 * lines) + 0.9 * inside[..., 0]
    relief = 1e-3 * (-0.45 * lines * (0.7 + 0.6 * age) - 0.35 * wrinkles * (0.5 + age) + 0.5 * veins
                     + (0.035 + 0.05 * age) * fine + 0.06 * middle + 0.35 * nail)
    return albedo, gloss, relief


def _glove(rng: np.random.Generator, atlas: SkinAtlas, lattice: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rubber or cloth over everything, creased at the joints."""
    colour = rng.uniform(0.02, 0.75, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(0.02, 0.8))
    middle, coarse = (noise(lattice, atlas.place, scale) for scale in (260.0, 70.0))
    weave = noise(lattice, atlas.place, 1500.0)
    cloth = rng.random() < 0.5
    folds = _knuckles(rng, atlas, lattice) + _finger_creases(rng, atlas, lattice)
    albedo = colour * (1 + 0.08 * coarse + 0.05 * middle + (0.15 if cloth else 0.02) * weave)[..., None]
    gloss = np.full(middle.shape, rng.uniform(0, 0.15) if cloth else rng.uniform(0.3, 1.0))
    return albedo, gloss, 1e-3 * (0.5 * middle + 0.5 * coarse - 0.5 * folds + (0.1 if cloth else 0.0) * weave)


def _finger_creases(rng: np.random.Generator, atlas: SkinAtlas, lattice: np.ndarray) -> np.ndarray:
    """(T, T) in [0, 1]: the lines across the palmar side of the fingers, and the bracelet lines of the wrist."""
    wave = 1.1e-3 * noise(lattice, atlas.place, 160.0)
    lines = np.zeros(atlas.palm.shape, np.float32)
    for number, name in enumerate(FINGERS):
        own = atlas.finger == number
        # Past the joint, metres: at the root, where the web is, then a pair at the middle and one at the last joint.
        marks = ((0, 0.002, 1.0), (1, 0.0, 0.9)) if name == 'thumb' else (
            (0, 0.019, 1.0), (1, -0.0012, 1.0), (1, 0.0014, 0.8), (2, 0.0, 0.9))
        if name == 'thumb':
            marks = (*marks, (2, 0.0, 0.9))
        for joint, offset, depth in marks:
            place = offset + rng.normal(0, 0.0008)
            width = rng.uniform(0.0005, 0.0009)
            line = np.exp(-0.5 * ((atlas.along[..., joint] + wave - place) / width) ** 2)
            lines = np.maximum(lines, own * line * depth * rng.uniform(0.4, 1.0))
    for mark in (-0.01, 0.01):
        line = np.exp(-0.5 * ((atlas.palm_uv[..., 1] + 12 * wave - mark - 0.04) / 0.008) ** 2)
        lines = np.maximum(lines, (atlas.finger < 0) * line * rng.uniform(0.1, 0.8))
    return lines * atlas.palm ** 0.5


def _knuckles(rng: np.random.Generator, atlas: SkinAtlas, lattice: np.ndarray) -> np.ndarray:
    """(T, T) in [0, 1]: the wrinkles over the joints of the back."""
    wave = 1.2e-3 * noise(lattice, atlas.place, 210.0)
    wrinkles = np.zeros(atlas.palm.shape, np.float32)
    for joint, reach, spacing in ((1, 0.0055, 0.0019), (2, 0.0038, 0.0015)):
        s = atlas.along[..., joint] + wave + rng.normal(0, 0.0008)
        stripes = 0.5 + 0.5 * np.cos(2 * np.pi * s / (spacing * rng.uniform(0.85, 1.2)))
        wrinkles = np.maximum(wrinkles, stripes ** 2 * np.exp(-0.5 * (s / reach) ** 2) * rng.uniform(0.3, 1.0))
    return wrinkles * (1 - atlas.palm) ** 0.7 * (1 - atlas.nail) * (atlas.finger >= 0)


def _palm_creases(rng: np.random.Generator, atlas: SkinAtlas, lattice: np.ndarray) -> np.ndarray:
    """(T, T) in [0, 1]: the three great lines of the palm and some small ones."""
    curves = [(np.array(line) + rng.normal(0, 0.025, (len(line), 2)), rng.uniform(0.008, 0.014), rng.uniform(0.5, 1))
              for line in PALM_LINES]
    for _ in range(rng.integers(2, 9)):
        begin = rng.uniform([0.05, 0.15], [0.95, 0.9])
        step = rng.normal(0, 0.12, 2)
        curves.append((begin + np.outer(np.arange(3), step) + rng.normal(0, 0.015, (3, 2)), rng.uniform(0.004, 0.008),
                       rng.uniform(0.1, 0.4)))
    wave = 0.012 * np.stack([noise(lattice, atlas.place, 150.0), noise(lattice, atlas.place + 0.2, 150.0)], -1)
    return _curves(curves, atlas.palm_uv + wave.astype(np.float32)) * atlas.palm * (atlas.finger < 0)


def _veins(rng: np.random.Generator, atlas: SkinAtlas, lattice: np.ndarray) -> np.ndarray:
    """(T, T) in [0, 1]: a net on the back of the hand that runs from between the knuckles to the wrist."""
    curves = []
    for start in (0.14, 0.42, 0.72, 0.95):
        x = start + rng.normal(0, 0.05)
        points = [(x, 0.95)]
        for y in (0.75, 0.55, 0.35, 0.15, -0.1, -0.4):
            x += rng.normal(0.25 * (0.5 - x), 0.09)
            points.append((x, y + rng.normal(0, 0.03)))
        curves.append((np.array(points), rng.uniform(0.012, 0.024), rng.uniform(0.4, 1.0)))
    for _ in range(3):  # branches between them
        y = rng.uniform(0.25, 0.7)
        x = rng.uniform(0.15, 0.75)
        curves.append((np.array([[x, y], [x + 0.14, y - rng.uniform(0, 0.25)]]), rng.uniform(0.010, 0.018),
                       rng.uniform(0.3, 0.8)))
    wave = 0.04 * np.stack([noise(lattice, atlas.place, 60.0), noise(lattice, atlas.place + 0.3, 60.0)], -1)
    return _curves(curves, atlas.palm_uv + wave.astype(np.float32)) * (atlas.finger < 0)


def _curves(curves: list[tuple[np.ndarray, float, float]], points: np.ndarray) -> np.ndarray:
    """The darkest of curves (points (P, 2), width, depth) at points (T, T, 2): Gaussians of the distance."""
    segments = [(begin, end, width, depth) for curve, width, depth in curves for begin, end in zip(curve, curve[1:])]
    parts = (np.ascontiguousarray(part, np.float32) for part in zip(*segments))
    return _distance_field(points, _Lines(*parts))


@njit(cache=True, fastmath=True, nogil=True, error_model='numpy')
def _distance_field(points, lines):
    start, end, width, depth = lines
    height, across = points.shape[:2]
    field = np.zeros((height, across), np.float32)
    for v in range(height):
        for u in range(across):
            for s in range(len(width)):
                dx, dy = end[s, 0] - start[s, 0], end[s, 1] - start[s, 1]
                px, py = points[v, u, 0] - start[s, 0], points[v, u, 1] - start[s, 1]
                share = min(1.0, max(0.0, (px * dx + py * dy) / (dx * dx + dy * dy + 1e-12)))
                ex, ey = px - share * dx, py - share * dy
                value = depth[s] * np.exp(-0.5 * (ex * ex + ey * ey) / (width[s] * width[s]))
                if value > field[v, u]:
                    field[v, u] = value
    return field
