"""Rooms as webcams see them: walls, a desk, shelves, screens, windows, and the person whose hands they are for.

A room is drawn as a list of solids for the ray caster. People have heads, clothes and bare or sleeved arms that end
where the hands would begin: what is rendered before them is the only hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.synthetic import textures
from hand_unc_ros.data.synthetic.appearance import SKIN_TONES
from hand_unc_ros.data.synthetic.raycaster import BOX, ELLIPSOID, FRONT, LIMB, AreaLight, Lens, Solid, cast
from hand_unc_ros.geometry.vectors import unit

_TILES = {'wood': 3, 'fabric': 5, 'plaid': 2, 'marble': 1, 'carpet': 1, 'plaster': 3, 'bricks': 1, 'books': 3,
          'keyboard': 1, 'screen': 2, 'print': 4, 'window': 2}
HAIR = np.array([[0.012, 0.009, 0.007], [0.03, 0.017, 0.009], [0.09, 0.05, 0.025], [0.30, 0.20, 0.10],
                 [0.25, 0.25, 0.25]])
# A person at rest measures so from the seat of the chair to the shoulders, and across them, metres.
SEAT, SHOULDERS = 0.46, 0.58


class Room(NamedTuple):
    """solids, lights, tiles, ambient: as `raycaster.cast`.  person: (3,) centre of the head; desk: (3,) centre of the
    desk's top.  inner: (3,) half sizes of the room, whose floor's centre is the origin."""

    solids: list[Solid]
    lights: list[AreaLight]
    tiles: np.ndarray
    ambient: np.ndarray
    person: np.ndarray
    desk: np.ndarray
    inner: np.ndarray


class _Tiles:
    """Draws tiles, and knows which are of which material."""

    def __init__(self, rng: np.random.Generator, pictures: Sequence[np.ndarray]) -> None:
        self.rng, self.images, self.places = rng, [], {}
        for name, count in _TILES.items():
            for _ in range(count):
                tile = textures.MATERIALS[name](rng)
                if name in ('print', 'screen') and len(pictures) and rng.random() < 0.5:
                    tile = pictures[rng.integers(len(pictures))]
                self.add(name, tile)

    def add(self, name: str, tile: np.ndarray) -> int:
        self.images.append(np.asarray(tile, np.float32))
        self.places.setdefault(name, []).append(len(self.images) - 1)
        return len(self.images) - 1

    def any(self, *names: str) -> int:
        places = self.places[names[self.rng.integers(len(names))]]
        return places[self.rng.integers(len(places))]


def yaw(angle: float) -> np.ndarray:
    """Rotation (3, 3) about the vertical."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def draw_room(rng: np.random.Generator, pictures: Sequence[np.ndarray] = ()) -> Room:
    """A furnished room with its light. pictures: tiles of photographs for posters and screens, may be empty."""
    tiles = _Tiles(rng, pictures)
    inner = np.array([rng.uniform(1.4, 3.0), rng.uniform(1.4, 3.0), rng.uniform(1.15, 1.4)])
    solids = _shell(rng, tiles, inner)
    desk = np.array([rng.uniform(-0.3, 0.3), inner[1] - rng.uniform(0.5, 1.0), rng.uniform(0.70, 0.78)])
    person = np.array([desk[0] + rng.normal(0, 0.1), desk[1] - rng.uniform(0.50, 0.75), rng.uniform(1.12, 1.3)])
    solids += _desk(rng, tiles, desk) + _shelves(rng, tiles, inner) + _chair(rng, tiles, person)
    windows, lights = _lights(rng, tiles, inner)
    solids += windows
    if rng.random() < 0.85:
        solids += draw_person(rng, tiles, person)
    wall = np.mean([solids[k].albedo * tiles.images[solids[k].texture].mean(axis=(0, 1)) for k in range(3)], axis=0)
    power = np.sum([light.power for light in lights], axis=0)
    # Light that has been thrown back by walls comes from everywhere.
    bounced = power * (0.05 + 0.25 * wall) * rng.uniform(0.25, 0.9)
    ambient = np.stack([0.55 * bounced, bounced])
    return Room(solids, lights, np.stack(tiles.images), ambient, person, desk, inner)


def photograph_room(rng: np.random.Generator, room: Room, size: int, rays: int = 3) -> np.ndarray:
    """(size, size, 3) float32 linear: the room by a camera where webcams are: before the person, at the side, over the
    desk, or somewhere."""
    kind = rng.choice(4, p=[0.5, 0.22, 0.18, 0.1])
    person, desk, inner = room.person, room.desk, room.inner
    if kind == 0:  # on or behind the desk
        eye = desk + [rng.normal(0, 0.25), rng.uniform(-0.05, 0.5), rng.uniform(0.15, 0.7)]
        target = person + rng.normal(0, [0.2, 0.1, 0.16]) - [0, 0, 0.12]
    elif kind == 1:  # beside
        eye = person + [rng.choice([-1, 1]) * rng.uniform(0.7, 1.4), rng.uniform(-0.3, 0.9), rng.uniform(-0.2, 0.8)]
        target = person + rng.normal(0, [0.15, 0.25, 0.2]) + [0, 0.15, -0.2]
    elif kind == 2:  # looking down at the desk
        eye = desk + [rng.normal(0, 0.3), rng.normal(-0.1, 0.3), rng.uniform(0.45, 1.1)]
        target = desk + rng.normal(0, [0.25, 0.2, 0.02])
    else:
        eye = rng.uniform(-0.9, 0.9, 3) * inner + [0, 0, inner[2]]
        eye[2] = max(eye[2], 0.6)
        target = rng.uniform(-0.9, 0.9, 3) * inner + [0, 0, rng.uniform(0.4, 1.4)]
    eye = np.clip(eye, [-0.93 * inner[0], -0.93 * inner[1], 0.5], [0.93 * inner[0], 0.93 * inner[1], 1.9 * inner[2]])
    lens = Lens(eye, look(eye, target), float(rng.uniform(0.25, 0.65)))
    return cast(room.solids, room.lights, room.tiles, lens, size, room.ambient, rng, rays)


def look(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Axes right, down, forward (columns) of a level camera at `eye` that looks at `target`."""
    forward = np.asarray(target, float) - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    if np.linalg.norm(right) < 1e-3:
        right = np.array([1.0, 0.0, 0.0])
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def _box(centre, half, albedo, **more) -> Solid:
    return Solid(BOX, np.asarray(centre, float), np.asarray(half, float), np.asarray(albedo, float), **more)


def _ones(rng: np.random.Generator) -> np.ndarray:
    return np.full(3, rng.uniform(0.7, 1.0))


def _shell(rng: np.random.Generator, tiles: _Tiles, inner: np.ndarray) -> list[Solid]:
    """Walls, floor and ceiling as slabs; skirting, a door, pictures."""
    wall = tiles.any('plaster') if rng.random() < 0.85 else tiles.any('bricks', 'wood', 'fabric')
    other = wall if rng.random() < 0.6 else tiles.any('plaster')
    x, y, z = inner
    scale = float(rng.uniform(0.5, 1.2))
    solids = [_box([0, -y - 0.1, z], [x + 0.2, 0.1, z], _ones(rng), texture=wall, scale=scale),
              _box([0, y + 0.1, z], [x + 0.2, 0.1, z], _ones(rng), texture=other, scale=scale),
              _box([-x - 0.1, 0, z], [0.1, y, z], _ones(rng), texture=wall, scale=scale),
              _box([x + 0.1, 0, z], [0.1, y, z], _ones(rng), texture=other, scale=scale),
              _box([0, 0, -0.1], [x, y, 0.1], _ones(rng), texture=tiles.any('wood', 'carpet', 'bricks', 'wood'),
                   scale=float(rng.uniform(0.6, 1.5)), gloss=float(rng.uniform(0, 0.4))),
              _box([0, 0, 2 * z + 0.1], [x, y, 0.1], np.full(3, rng.uniform(0.5, 0.85)))]
    white = np.full(3, rng.uniform(0.4, 0.8))
    for side in (-1, 1):
        solids.append(_box([0, side * (y - 0.01), 0.05], [x, 0.012, 0.05], white))
        solids.append(_box([side * (x - 0.01), 0, 0.05], [0.012, y, 0.05], white))
    place = rng.uniform(-0.7, 0.7) * x
    door = tiles.any('wood') if rng.random() < 0.4 else -1
    solids += [_box([place, -y + 0.015, 1.03], [0.48, 0.02, 1.03], white * 0.9),
               _box([place, -y + 0.03, 1.0], [0.42, 0.02, 1.0], _ones(rng) * 0.85, texture=door),
               _box([place + 0.36, -y + 0.08, 1.0], [0.05, 0.012, 0.012], [0.3, 0.28, 0.25], gloss=0.9)]
    for _ in range(rng.integers(1, 6)):
        half = rng.uniform(0.1, 0.45, 2)
        height = rng.uniform(1.2, 1.8)
        frame, picture = textures.natural_colour(rng, 0.01, 0.5), tiles.any('print')
        if rng.random() < 0.6:
            spot = rng.uniform(-0.85, 0.85) * x
            solids += [_box([spot, -y + 0.01, height], [half[0] + 0.02, 0.015, half[1] + 0.02], frame),
                       _box([spot, -y + 0.02, height], [half[0], 0.015, half[1]], np.ones(3), texture=picture)]
        else:
            side, spot = rng.choice([-1, 1]), rng.uniform(-0.85, 0.85) * y
            solids += [_box([side * (x - 0.01), spot, height], [0.015, half[0] + 0.02, half[1] + 0.02], frame),
                       _box([side * (x - 0.02), spot, height], [0.015, half[0], half[1]], np.ones(3), texture=picture)]
    return solids


def _desk(rng: np.random.Generator, tiles: _Tiles, desk: np.ndarray) -> list[Solid]:
    """A top on legs with a screen, a keyboard, paper, cups and small things."""
    half = np.array([rng.uniform(0.55, 0.95), rng.uniform(0.32, 0.45)])
    plain = rng.random() < 0.4
    top = _box(desk - [0, 0, 0.02], [*half, 0.02], textures.natural_colour(rng, 0.02, 0.85) if plain else _ones(rng),
               texture=-1 if plain else tiles.any('wood', 'wood', 'marble', 'fabric'),
               scale=float(rng.uniform(0.7, 1.4)), gloss=float(rng.uniform(0, 0.5)))
    leg = textures.natural_colour(rng, 0.02, 0.6)
    solids = [top] + [_box([desk[0] + sx * (half[0] - 0.04), desk[1] + sy * (half[1] - 0.04), desk[2] / 2 - 0.02],
                           [0.025, 0.025, desk[2] / 2 - 0.02], leg) for sx in (-1, 1) for sy in (-1, 1)]
    dark = np.full(3, rng.uniform(0.01, 0.05))
    if rng.random() < 0.55:  # beside the middle, since a camera looks from there
        spot = desk + [rng.choice([-1, 1]) * rng.uniform(0.3, 0.5), half[1] - 0.08, 0]
        turn = yaw(rng.normal(0, 0.4))
        solids += [_box(spot + [0, 0.02, 0.30], [0.27, 0.012, 0.165], dark, rotation=turn),
                   _box(spot + turn @ [0, 0.004, 0] + [0, 0, 0.30], [0.26, 0.012, 0.155], np.ones(3), rotation=turn,
                        texture=tiles.any('screen'), glow=float(rng.uniform(0.2, 1.0))),
                   _box(spot + [0, 0.03, 0.08], [0.03, 0.02, 0.08], dark)]
    if rng.random() < 0.7:
        solids.append(_box(desk + [rng.normal(0, 0.15), -0.1 + rng.normal(0, 0.05), 0.012],
                           [0.22, 0.07, 0.012], _ones(rng), rotation=yaw(rng.normal(0, 0.15)),
                           texture=tiles.any('keyboard')))
    for _ in range(rng.integers(2, 9)):
        spot = desk + [*rng.uniform(-0.9, 0.9, 2) * half, 0]
        kind, turn = rng.integers(4), yaw(rng.uniform(0, np.pi))
        colour = textures.natural_colour(rng)
        if kind == 0:
            solids.append(_box(spot + [0, 0, 0.004], [0.105, 0.149, 0.004], _ones(rng), rotation=turn,
                               texture=tiles.any('print')))
        elif kind == 1:  # a cup or a bottle
            height = rng.uniform(0.03, 0.1)
            solids.append(Solid(LIMB, spot + [0, 0, height], np.array([0.04, 0.04, max(height - 0.02, 0.005)]),
                                colour, gloss=0.6))
        elif kind == 2:
            size = rng.uniform(0.02, 0.1, 3)
            solids.append(_box(spot + [0, 0, size[2]], size, colour, rotation=turn, gloss=float(rng.uniform(0, 0.6)),
                               texture=tiles.any('print') if rng.random() < 0.3 else -1))
        else:  # a pen or a cable
            across = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
            solids.append(Solid(LIMB, spot + [0, 0, 0.006], np.array([0.005, 0.005, rng.uniform(0.05, 0.2)]), colour,
                                rotation=turn @ across))
    return solids


def _shelves(rng: np.random.Generator, tiles: _Tiles, inner: np.ndarray) -> list[Solid]:
    """Shelves of books and boxes, a cupboard or a sofa along the walls, a curtain, a plant."""
    solids: list[Solid] = []
    x, y, _ = inner
    for _ in range(rng.integers(1, 4)):
        width, height = rng.uniform(0.3, 0.6), rng.uniform(0.5, 1.1)
        behind = rng.random() < 0.7
        spot, turn = np.array([rng.uniform(-0.8, 0.8) * x, -y + 0.18, 0]), yaw(0)
        if not behind:
            side = rng.choice([-1, 1])
            spot, turn = np.array([side * (x - 0.18), rng.uniform(-0.7, 0.5) * y, 0]), yaw(side * np.pi / 2)
        body = textures.natural_colour(rng, 0.01, 0.7)
        kind = rng.integers(3)
        if kind == 0:  # shelves
            solids += [_box(spot + turn @ [0, -0.13, height], [width, 0.02, height], body * 0.6, rotation=turn)]
            solids += [_box(spot + turn @ [s * width, 0, height], [0.015, 0.15, height], body, rotation=turn)
                       for s in (-1, 1)]
            count = int(rng.integers(3, 6))
            for level in range(count + 1):
                z = 2 * height * level / count
                solids.append(_box(spot + [0, 0, z], [width, 0.15, 0.012], body, rotation=turn))
                if level < count and rng.random() < 0.8:
                    tall, share = 0.8 * height / count, rng.uniform(0.5, 1.0)
                    solids.append(_box(spot + turn @ [-(1 - share) * width, -0.02, 0] + [0, 0, z + tall + 0.012],
                                       [width * share * 0.97, 0.09, tall], _ones(rng), rotation=turn,
                                       texture=tiles.any('books') if rng.random() < 0.8 else tiles.any('print')))
        elif kind == 1:  # a cupboard
            solids.append(_box(spot + [0, 0, height], [width, 0.17, height], _ones(rng) if rng.random() < 0.5 else body,
                               rotation=turn, texture=tiles.any('wood') if rng.random() < 0.6 else -1, scale=1.0,
                               gloss=float(rng.uniform(0, 0.5))))
        else:  # a sofa or a bed
            cloth = tiles.any('fabric', 'plaid')
            solids += [_box(spot + turn @ [0, 0.25, 0.22], [0.8, 0.4, 0.22], _ones(rng), rotation=turn, texture=cloth,
                            scale=2.0),
                       _box(spot + turn @ [0, -0.05, 0.45], [0.8, 0.1, 0.4], _ones(rng), rotation=turn, texture=cloth,
                            scale=2.0)]
            solids += [Solid(ELLIPSOID, spot + turn @ [rng.uniform(-0.6, 0.6), 0.1, 0.55],
                             np.array([0.22, 0.1, 0.18]), _ones(rng), rotation=turn,
                             texture=tiles.any('fabric', 'plaid'), scale=3.0) for _ in range(rng.integers(0, 3))]
    if rng.random() < 0.3:
        side, start = rng.choice([-1, 1]), rng.uniform(-0.6, 0.4) * y
        cloth = tiles.any('fabric', 'plaid')
        solids += [Solid(LIMB, np.array([side * (x - 0.08), start + 0.09 * k, 1.2]), np.array([0.055, 0.055, 1.0]),
                         _ones(rng), texture=cloth, scale=3.0) for k in range(int(rng.integers(4, 10)))]
    if rng.random() < 0.35:  # leaves
        spot = np.array([rng.uniform(-0.8, 0.8) * x, -y + rng.uniform(0.25, 0.5), 0])
        solids.append(Solid(LIMB, spot + [0, 0, 0.18], np.array([0.13, 0.13, 0.08]), textures.natural_colour(rng)))
        for _ in range(14):
            axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
            solids.append(Solid(ELLIPSOID, spot + [0, 0, 0.7] + rng.normal(0, [0.15, 0.1, 0.2]),
                                np.array([0.03, 0.008, 0.14]), np.array([0.05, 0.13, 0.03]) * rng.uniform(0.5, 1.6),
                                rotation=axes, gloss=0.3))
    return solids


def _chair(rng: np.random.Generator, tiles: _Tiles, person: np.ndarray) -> list[Solid]:
    cloth = tiles.any('fabric', 'wood')
    return [_box([person[0], person[1] - 0.18, rng.uniform(0.7, 0.92)], [0.23, 0.03, 0.3], _ones(rng), texture=cloth,
                 scale=2.0),
            _box([person[0], person[1] + 0.05, SEAT - 0.04], [0.24, 0.24, 0.04], _ones(rng), texture=cloth, scale=2.0)]


def _lights(rng: np.random.Generator, tiles: _Tiles, inner: np.ndarray) -> tuple[list[Solid], list[AreaLight]]:
    """Windows and lamps: what is seen of them, and their light."""
    solids, lights = [], []
    x, y, z = inner
    warm, cool = np.array([1.0, 0.78, 0.52]), np.array([0.85, 0.95, 1.1])
    kinds = rng.choice(['window', 'ceiling', 'lamp'], 2, p=[0.5, 0.3, 0.2])
    for rank, kind in enumerate(kinds):
        power = np.exp(rng.normal(np.log(2.5), 0.5)) / (1 + rank)
        if kind == 'window':
            side = int(rng.integers(3))
            half, height = rng.uniform(0.4, 0.8), rng.uniform(1.2, 1.5)
            spot, lean = [(np.array([-x, rng.uniform(-0.6, 0.6) * y, height]), [0.02, half, 0.6]),
                          (np.array([x, rng.uniform(-0.6, 0.6) * y, height]), [0.02, half, 0.6]),
                          (np.array([rng.uniform(-0.6, 0.6) * x, -y, height]), [half, 0.02, 0.6])][side]
            solids.append(_box(spot, lean, np.ones(3), texture=tiles.any('window'), glow=float(rng.uniform(1.0, 6.0))))
            towards = -spot / np.linalg.norm(spot[:2]) * [1, 1, 0]
            lights.append(AreaLight(spot + 0.35 * towards, 0.3, 1.3 * power * cool))
        elif kind == 'ceiling':
            spot = np.array([*rng.uniform(-0.6, 0.6, 2) * inner[:2], 2 * z])
            solids.append(_box(spot, [0.3, rng.uniform(0.1, 0.3), 0.02], np.ones(3), glow=5.0))
            lights.append(AreaLight(spot - [0, 0, 0.2], 0.18, power * (cool + rng.uniform(0, 1) * (warm - cool))))
        else:
            spot = np.array([*rng.uniform(-0.8, 0.8, 2) * inner[:2], rng.uniform(1.2, 1.7)])
            solids.append(Solid(ELLIPSOID, spot, np.array([0.12, 0.12, 0.14]), warm, glow=4.0))
            lights.append(AreaLight(spot, 0.12, 0.7 * power * warm))
    return solids, lights


def draw_person(rng: np.random.Generator, tiles: _Tiles, head: np.ndarray) -> list[Solid]:
    """Somebody who sits and faces +y, about. head: (3,) its centre."""
    place = rng.uniform(0, len(SKIN_TONES) - 1)
    tone = SKIN_TONES[int(place)] * np.exp(rng.normal(0, 0.12)) * [1, 1 + rng.normal(0, 0.05), 1 + rng.normal(0, 0.08)]
    hair = HAIR[rng.integers(len(HAIR))] * rng.uniform(0.6, 1.5)
    cloth = tiles.any('fabric', 'fabric', 'plaid')
    dye = _ones(rng) if rng.random() < 0.6 else np.full(3, rng.uniform(0.04, 0.2))
    turn = yaw(np.pi + rng.normal(0, 0.5)) @ _pitch(rng.normal(-0.1, 0.22)) @ _roll(rng.normal(0, 0.12))
    trunk = yaw(np.pi + rng.normal(0, 0.2))
    # The tile is multiplied by the skin's tone.
    face = tiles.add('face', textures.face(rng, tone, hair) / tone)
    solids = _head(rng, head, turn, tone, hair, face, tiles.add('hair', textures.strands(rng)))
    neck = head + [0, -0.03, -0.13]
    solids.append(Solid(LIMB, neck, np.array([0.055, 0.055, 0.07]), tone * 0.9))
    chest = head + [0, -0.04, -0.38]
    wide = rng.uniform(0.17, 0.24)

    def dressed(centre, half, rotation=trunk) -> Solid:
        return Solid(ELLIPSOID, np.asarray(centre, float), np.asarray(half, float), dye, rotation=rotation,
                     texture=cloth, scale=3.0)

    solids += [dressed(chest, [wide, 0.12, 0.24]), dressed(chest - [0, -0.02, 0.3], [wide * 0.95, 0.14, 0.26]),
               dressed(chest + [0, 0, 0.14], [wide * 1.05, 0.075, 0.075])]
    bare = rng.random() < 0.55
    for side in (-1, 1):
        shoulder = chest + trunk @ [side * (wide - 0.01), 0, 0] + [0, 0, 0.12]
        elbow = shoulder + [side * rng.uniform(-0.02, 0.18) * -1, rng.uniform(0.0, 0.18), -rng.uniform(0.16, 0.27)]
        if rng.random() < 0.25:  # an arm raised to the camera
            elbow = shoulder + [-side * rng.uniform(0.0, 0.2), rng.uniform(0.1, 0.25), rng.uniform(-0.15, 0.1)]
        lower = elbow + unit(np.array([rng.normal(0, 0.5), rng.uniform(0.3, 1.2), rng.uniform(-0.3, 0.9)])) * 0.24
        solids += [_limb(shoulder, elbow, 0.052, dye, texture=cloth, scale=3.0),
                   Solid(ELLIPSOID, shoulder, np.array([0.058, 0.058, 0.07]), dye, texture=cloth, scale=3.0)]
        if bare:
            solids += [_limb(elbow, lower, 0.036, tone, gloss=0.1),
                       _limb(shoulder + 0.6 * (elbow - shoulder), elbow, 0.044, tone, gloss=0.1)]
        else:
            solids.append(_limb(elbow, lower, 0.044, dye, texture=cloth, scale=3.0))
    for side in (-1, 1):
        hip = chest + [side * 0.1, 0.05, -0.5]
        solids.append(_limb(hip, hip + [side * 0.08, 0.45, 0.0], 0.075, textures.natural_colour(rng, 0.01, 0.2)))
    return solids


def _head(rng: np.random.Generator, centre: np.ndarray, turn: np.ndarray, tone: np.ndarray, hair: np.ndarray,
          face: int, strands: int) -> list[Solid]:
    """Skull with a painted face, nose, ears, hair. The face looks along -y of its own frame."""
    def at(*offset: float) -> np.ndarray:
        return centre + turn @ np.array(offset)

    def part(offset, half, colour, **more) -> Solid:
        return Solid(ELLIPSOID, at(*offset), np.asarray(half, float), np.asarray(colour, float), rotation=turn, **more)

    wide = rng.uniform(0.070, 0.080)
    solids = [part([0, 0.0, 0], [wide, 0.092, 0.118], tone, texture=face, mapping=FRONT, gloss=0.12),
              part([0, 0.02, -0.055], [wide * 0.86, 0.088, 0.062], tone, gloss=0.05),
              part([0, -0.094, -0.020], [0.013, 0.016, 0.026], tone * [1.02, 0.95, 0.93], gloss=0.2),
              part([0, -0.102, -0.034], [0.017, 0.011, 0.009], tone * [1.02, 0.93, 0.9], gloss=0.2)]
    solids += [part([side * wide * 1.0, 0.012, -0.01], [0.012, 0.02, 0.032], tone * [1, 0.9, 0.88]) for side in (-1, 1)]
    # The skull behind the painted face is hidden by hair, or bare.
    style = rng.random()
    locks = {'texture': strands, 'scale': 5.0, 'gloss': 0.15}
    if style < 0.9:
        fringe = rng.uniform(0.055, 0.085)
        solids += [part([0, 0.022, 0.026], [wide * 1.07, 0.090, 0.106], hair, **locks),
                   part([0, -0.012, fringe + 0.012], [wide * 1.0, 0.080, 0.048], hair, **locks)]
        solids += [part(rng.normal([0, 0.0, 0.098], [0.03, 0.03, 0.006]), [0.042, 0.05, 0.022],
                        hair * rng.uniform(0.8, 1.3), **locks) for _ in range(4)]
    else:
        solids += [part([0, 0.012, 0.008], [wide * 1.01, 0.090, 0.117], tone, gloss=0.2)]
    if 0.5 < style < 0.85:  # long hair
        solids += [part([side * wide * 0.95, 0.035, -0.08], [0.028, 0.06, 0.14], hair, **locks)
                   for side in (-1, 1)]
        solids += [part([0, 0.06, -0.08], [wide, 0.05, 0.15], hair, **locks)]
    return solids


def _limb(begin: np.ndarray, end: np.ndarray, radius: float, albedo: np.ndarray, **more) -> Solid:
    axis = np.asarray(end, float) - begin
    length = np.linalg.norm(axis)
    z = axis / length
    x = unit(np.cross(z, [0.3, 0.9, 0.1]))
    return Solid(LIMB, (np.asarray(begin, float) + end) / 2, np.array([radius, radius, length / 2]),
                 np.asarray(albedo, float), rotation=np.stack([x, np.cross(z, x), z], axis=1), **more)


def _pitch(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _roll(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
