"""Tiles of materials and printed things, drawn from a generator: (128, 128, 3) float32, linear RGB in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from hand_unc_ros.data.synthetic.raycaster import TILE


def cloud(rng: np.random.Generator, cells: float, octaves: int = 4, stretch: float = 1.0, gain: float = 0.5,
          size: int = TILE) -> np.ndarray:
    """(size, size) periodic noise of unit variance and zero mean. cells: across the tile, of the coarsest octave.
    stretch: how much longer its cells are down the tile."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        columns = max(2, int(round(cells * 2 ** octave)))
        rows = max(2, int(round(columns / stretch)))
        if columns > size:
            break
        noise = rng.standard_normal((rows, columns), dtype=np.float32)
        # Periodic: two cells of the other side on every side before the enlargement.
        padded = np.pad(noise, 2, mode='wrap')
        big = cv2.resize(padded, None, fx=size / columns, fy=size / rows, interpolation=cv2.INTER_CUBIC)
        left, top = int(round(2 * size / columns)), int(round(2 * size / rows))
        total += gain ** octave * big[top:top + size, left:left + size]
    return (total - total.mean()) / (total.std() + 1e-6)


def natural_colour(rng: np.random.Generator, low: float = 0.02, high: float = 0.8,
                   colourful: float = 0.4) -> np.ndarray:
    """(3,) linear reflectance of a painted or dyed surface: mostly near grey, saturated in a share `colourful`."""
    level = np.exp(rng.uniform(np.log(low), np.log(high)))
    if rng.random() >= colourful:
        warm, green = rng.normal(0, 0.12), rng.normal(0, 0.05)
        return np.clip(level * np.array([1 + warm, 1 + green, 1 - 1.2 * warm]), 0.004, 0.92)
    hue = rng.uniform(0, 6)
    wheel = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    purity = rng.beta(2, 2.5)
    return np.clip(level * (1 - purity + purity * wheel * 1.6), 0.004, 0.92)


def wood(rng: np.random.Generator) -> np.ndarray:
    """Grain along the tile with rings and planks."""
    base = np.array([[0.42, 0.24, 0.11], [0.22, 0.10, 0.04], [0.60, 0.42, 0.24], [0.10, 0.05, 0.03],
                     [0.50, 0.36, 0.22]])[rng.integers(5)]
    grain = cloud(rng, rng.uniform(10, 30), 3, rng.uniform(10, 25))
    rings = np.sin(6 * cloud(rng, 3, 2, 6) + np.linspace(0, 4 * np.pi, TILE)[None])
    value = 1 + rng.uniform(0.08, 0.25) * grain + rng.uniform(0.03, 0.12) * rings
    if rng.random() < 0.4:
        planks = rng.integers(2, 5)
        value *= np.repeat(rng.uniform(0.75, 1.15, planks), -(-TILE // planks))[None, :TILE]
        value[:, ::TILE // planks] *= 0.5
    return _tinted(base, value)


def fabric(rng: np.random.Generator) -> np.ndarray:
    """Plain or knitted cloth with wrinkles."""
    weave = rng.standard_normal((TILE, TILE)).astype(np.float32)
    value = 1 + rng.uniform(0.02, 0.08) * cv2.GaussianBlur(weave, (0, 0), 0.6) + 0.05 * cloud(rng, 4, 3)
    if rng.random() < 0.3:
        ribs = rng.integers(12, 40)
        value *= 1 + 0.12 * np.sin(2 * np.pi * ribs * np.arange(TILE) / TILE)[None]
    return _tinted(natural_colour(rng, 0.012, 0.75), value)


def plaid(rng: np.random.Generator) -> np.ndarray:
    """Woven stripes in two directions, or in one."""
    def threads() -> np.ndarray:
        colours = np.stack([natural_colour(rng, 0.02, 0.7) for _ in range(3)])
        line = np.repeat(colours[rng.integers(0, 3, 12)], rng.integers(3, 20, 12), axis=0)
        return np.tile(line, (-(-TILE // len(line)), 1))[:TILE]

    across, along = threads(), threads()
    share = 0.5 if rng.random() < 0.6 else rng.choice([0.08, 0.92])
    tile = share * across[None] + (1 - share) * along[:, None]
    return np.clip(tile * (1 + 0.06 * rng.standard_normal((TILE, TILE, 1))), 0, 1).astype(np.float32)


def marble(rng: np.random.Generator) -> np.ndarray:
    """Stone with veins."""
    veins = np.abs(cloud(rng, 3, 5, gain=0.6))
    return _tinted(natural_colour(rng, 0.1, 0.8, 0.1), 1 - rng.uniform(0.1, 0.5) * np.exp(-veins * rng.uniform(4, 12)))


def carpet(rng: np.random.Generator) -> np.ndarray:
    """Coarse speckle."""
    value = 1 + rng.uniform(0.15, 0.4) * cloud(rng, 50, 2) + 0.1 * cloud(rng, 4)
    return _tinted(natural_colour(rng, 0.02, 0.4, 0.3), value)


def plaster(rng: np.random.Generator) -> np.ndarray:
    """A painted wall: nearly even."""
    value = 1 + rng.uniform(0.003, 0.04) * cloud(rng, rng.uniform(20, 60), 2) + 0.015 * cloud(rng, 2, 3)
    return _tinted(natural_colour(rng, 0.25, 0.85, 0.12), value)


def tiles_or_bricks(rng: np.random.Generator) -> np.ndarray:
    """Rows of tiles, every other one shifted."""
    rows, columns = int(rng.integers(4, 12)), int(rng.integers(2, 8))
    colour, joint = natural_colour(rng, 0.08, 0.7, 0.15), natural_colour(rng, 0.1, 0.6, 0.0)
    tile = np.full((TILE, TILE, 3), joint, np.float32)
    height, width = TILE // rows, TILE // columns
    for row in range(rows):
        for column in range(columns):
            left = column * width + (row % 2) * width // 2
            shade = colour * rng.uniform(0.8, 1.15)
            for part in (left, left - TILE):
                cv2.rectangle(tile, (part + 1, row * height + 1), (part + width - 2, (row + 1) * height - 2),
                              tuple(map(float, shade)), -1)
    return np.clip(tile * (1 + 0.08 * cloud(rng, 20, 3)[..., None]), 0, 1).astype(np.float32)


def books(rng: np.random.Generator) -> np.ndarray:
    """A row of spines with titles and gaps."""
    tile = np.full((TILE, TILE, 3), 0.015, np.float32)
    x = 0
    while x < TILE:
        width, top = int(rng.integers(4, 15)), int(rng.integers(2, 45))
        colour = natural_colour(rng, 0.02, 0.75)
        cv2.rectangle(tile, (x, top), (x + width - 1, TILE - 3), tuple(map(float, colour)), -1)
        if width > 5:
            ink = tuple(map(float, natural_colour(rng, 0.02, 0.8)))
            y = top + 8
            while y < TILE - 12:
                length = int(rng.integers(3, 14))
                cv2.line(tile, (x + width // 2, y), (x + width // 2, min(y + length, TILE - 8)), ink,
                         max(1, width // 4))
                y += length + int(rng.integers(4, 30))
        x += width + (int(rng.integers(1, 9)) if rng.random() < 0.12 else 0)
    return tile


def keyboard(rng: np.random.Generator) -> np.ndarray:
    """Keys in rows."""
    dark = rng.random() < 0.7
    body, key, ink = ((0.02, 0.035, 0.3) if dark else (0.35, 0.6, 0.05))
    tile = np.full((TILE, TILE, 3), body, np.float32)
    rows = 6
    for row in range(rows):
        x = 2.0
        while x < TILE - 6:
            width = float(rng.choice([8, 8, 8, 8, 12, 16])) if row < 5 or not 30 < x < 60 else 50.0
            top, bottom = row * TILE // rows + 2, (row + 1) * TILE // rows - 2
            right = int(min(x + width - 2, TILE - 2))
            cv2.rectangle(tile, (int(x), top), (right, bottom), (key * rng.uniform(0.8, 1.2),) * 3, -1)
            cv2.circle(tile, (int(x) + 3, (top + bottom) // 2), 1, (ink,) * 3, -1)
            x += width
    return tile


def screen(rng: np.random.Generator) -> np.ndarray:
    """A display's content: windows, lines of text, a picture."""
    dark = rng.random() < 0.45
    paper, ink = (0.02, 0.5) if dark else (0.85, 0.1)
    tile = np.full((TILE, TILE, 3), natural_colour(rng, 0.03, 0.5), np.float32)
    for _ in range(rng.integers(1, 4)):
        left, top = rng.integers(0, 50, 2)
        right, bottom = left + rng.integers(40, 100), top + rng.integers(40, 100)
        cv2.rectangle(tile, (int(left), int(top)), (int(right), int(bottom)), (paper,) * 3, -1)
        bar = tuple(map(float, natural_colour(rng)))
        cv2.rectangle(tile, (int(left), int(top)), (int(right), int(top) + 5), bar, -1)
        for y in range(int(top) + 9, int(bottom) - 3, 4):
            if rng.random() < 0.85:
                shift = int(rng.integers(3, 14))
                end = left + shift + rng.integers(5, max(6, int(right - left - shift)))
                colour = np.full(3, ink) if rng.random() < 0.7 else natural_colour(rng, 0.1, 0.7)
                cv2.line(tile, (int(left) + shift, y), (int(end), y), tuple(map(float, colour)), 1)
    return tile


def print_on_paper(rng: np.random.Generator) -> np.ndarray:
    """A page, a poster or a board of high contrast, as lie on desks and hang on walls."""
    kind = rng.integers(4)
    if kind == 0:  # a page of text
        tile = np.full((TILE, TILE, 3), rng.uniform(0.6, 0.85), np.float32)
        for y in range(12, TILE - 10, int(rng.integers(4, 8))):
            x = 12
            while x < TILE - 14 and rng.random() > 0.03:
                word = int(rng.integers(3, 14))
                cv2.line(tile, (x, y), (min(x + word, TILE - 12), y), (rng.uniform(0.05, 0.3),) * 3, 1)
                x += word + 3
        return tile
    if kind == 1:  # squares of a board, some with a pattern in them
        count = int(rng.integers(3, 8))
        cell = TILE / count
        tile = np.full((TILE, TILE, 3), 0.8, np.float32)
        for row in range(count):
            for column in range(count):
                left, top, right, bottom = (int(v * cell) for v in (column, row, column + 1, row + 1))
                if (row + column) % 2:
                    tile[top:bottom, left:right] = 0.02
                else:
                    code = (rng.random((6, 6)) < 0.6)
                    code[1:-1, 1:-1] |= rng.random((4, 4)) < 0.3
                    margin = max(1, int(cell * 0.18))
                    patch = cv2.resize(code.astype(np.float32), (right - left - 2 * margin, bottom - top - 2 * margin),
                                       interpolation=cv2.INTER_NEAREST)
                    tile[top + margin:bottom - margin, left + margin:right - margin] = (0.8 - 0.78 * patch)[..., None]
        return tile
    # A picture: soft fields of colour with shapes before them.
    tile = _tinted(natural_colour(rng), 1 + 0.3 * cloud(rng, 2, 4))
    tile = tile + 0.25 * natural_colour(rng) * (cloud(rng, rng.uniform(2, 5), 4)[..., None] > 0)
    for _ in range(rng.integers(2, 14)):
        centre = rng.integers(0, TILE, 2)
        axes = rng.integers(3, 40, 2)
        cv2.ellipse(tile, tuple(map(int, centre)), tuple(map(int, axes)), float(rng.uniform(0, 360)), 0, 360,
                    tuple(map(float, natural_colour(rng))), -1)
    frame = tuple(map(float, natural_colour(rng, 0.02, 0.7)))
    cv2.rectangle(tile, (0, 0), (TILE - 1, TILE - 1), frame, int(rng.integers(1, 10)))
    return np.clip(tile, 0, 1).astype(np.float32)


def outdoors(rng: np.random.Generator) -> np.ndarray:
    """What a window shows, out of focus: sky, trees, a building."""
    rise = np.linspace(0, 1, TILE)[:, None, None]
    sky = np.array([0.55, 0.75, 1.0]) * rng.uniform(0.6, 1.0) + rng.uniform(0, 0.3)
    tile = np.broadcast_to(sky * (1 - 0.4 * rise), (TILE, TILE, 3)).astype(np.float32)
    horizon = rng.uniform(0.3, 0.9) + 0.05 * cloud(rng, 6, 3)[:1]
    ground = np.array([0.10, 0.16, 0.05]) * rng.uniform(0.3, 1.5) * (1 + 0.5 * cloud(rng, 10, 3)[..., None])
    tile = np.where((rise[..., 0] > horizon)[..., None], np.clip(ground, 0.01, 1), tile)
    if rng.random() < 0.4:
        left, top = rng.integers(0, 90), rng.integers(20, 80)
        cv2.rectangle(tile := np.ascontiguousarray(tile, np.float32), (int(left), int(top)),
                      (int(left + rng.integers(20, 60)), TILE), tuple(map(float, natural_colour(rng, 0.1, 0.6))), -1)
    return cv2.GaussianBlur(np.ascontiguousarray(tile, np.float32), (0, 0), rng.uniform(0.5, 3))


def panes(rng: np.random.Generator) -> np.ndarray:
    """A window: outdoors behind a frame, or blinds."""
    tile = outdoors(rng)
    if rng.random() < 0.4:
        pitch = int(rng.integers(4, 9))
        slats = (np.arange(TILE) % pitch < pitch * rng.uniform(0.4, 0.8))[:, None, None]
        return np.where(slats, np.float32(rng.uniform(0.3, 0.6)), tile).astype(np.float32)
    shade = float(rng.uniform(0.05, 0.35))
    for k in range(int(rng.integers(1, 4)) + 1):
        place = int(k * TILE / max(1, int(rng.integers(1, 4))))
        cv2.line(tile, (place, 0), (place, TILE), (shade,) * 3, 4)
        cv2.line(tile, (0, place), (TILE, place), (shade,) * 3, 4)
    return tile


def strands(rng: np.random.Generator) -> np.ndarray:
    """Hair, of mean about 1: it is multiplied by its colour."""
    value = np.clip(1 + 0.4 * cloud(rng, 40, 2, 14.0) + 0.15 * cloud(rng, 5, 2), 0.2, 2.2)
    return np.repeat(value[..., None], 3, axis=2).astype(np.float32)


def face(rng: np.random.Generator, tone: np.ndarray, hair: np.ndarray) -> np.ndarray:
    """A face from the front, to be laid over the front of a head: eyes, brows, nostrils, mouth, perhaps a beard or
    glasses. Multiplies nothing: it holds the skin's own colour."""
    tile = np.full((TILE, TILE, 3), tone, np.float32)
    tile *= 1 + 0.04 * cloud(rng, 12, 3)[..., None]
    blush = np.exp(-((np.arange(TILE)[:, None] - 75) ** 2 + (np.abs(np.arange(TILE)[None] - 64) - 26) ** 2) / 200)
    tile *= 1 + blush[..., None] * np.array([0.08, -0.10, -0.12])
    eye_y, eye_x = int(58 + rng.integers(-2, 3)), int(20 + rng.integers(-2, 3))
    dark, white, lip = tone * 0.35, np.array([0.55, 0.52, 0.50]), tone * np.array([0.8, 0.45, 0.45])
    socket, features = np.zeros((TILE, TILE), np.float32), tile
    for side in (-1, 1):
        cv2.ellipse(socket, (64 + side * eye_x, eye_y - 2), (13, 8), 0, 0, 360, 1.0, -1)
    cv2.ellipse(socket, (64, 84), (8, 3), 0, 0, 360, 0.7, -1)
    cv2.ellipse(socket, (64, 111), (12, 3), 0, 0, 360, 0.6, -1)
    features *= 1 - 0.4 * cv2.GaussianBlur(socket, (0, 0), 3.0)[..., None]
    if rng.random() < 0.35:  # a beard, from stubble to full
        beard = np.zeros((TILE, TILE), np.float32)
        cv2.ellipse(beard, (64, 96), (44, 34), 0, 0, 180, 1.0, -1)
        cv2.rectangle(beard, (48, 86), (80, 93), 1.0, -1)
        beard = cv2.GaussianBlur(beard, (0, 0), 4) * np.clip(0.8 + 0.3 * cloud(rng, 40, 2), 0, 1)
        features += rng.uniform(0.3, 0.9) * beard[..., None] * (hair - features)
    opening = int(rng.integers(2, 5))
    for side in (-1, 1):
        centre = (64 + side * eye_x, eye_y)
        cv2.ellipse(features, centre, (8, opening), 0, 0, 360, tuple(map(float, white)), -1, cv2.LINE_AA)
        pupil = (centre[0] + int(rng.integers(-1, 2)), eye_y)
        cv2.circle(features, pupil, opening, (0.03, 0.02, 0.015), -1, cv2.LINE_AA)
        cv2.ellipse(features, centre, (9, opening + 1), 0, 180, 360, tuple(map(float, dark)), 2, cv2.LINE_AA)
        brow = tuple(map(float, 0.7 * hair + 0.3 * dark))
        cv2.ellipse(features, (centre[0], eye_y - 6), (12, 6), 0, 200, 340, brow, int(rng.integers(2, 5)), cv2.LINE_AA)
        cv2.circle(features, (64 + side * 4, 83), 2, tuple(map(float, dark)), -1, cv2.LINE_AA)
    cv2.ellipse(features, (64, 100), (14, int(rng.integers(2, 6))), 0, 0, 360, tuple(map(float, lip)), -1, cv2.LINE_AA)
    cv2.line(features, (51, 100), (77, 100), tuple(map(float, dark * 0.8)), 1, cv2.LINE_AA)
    if rng.random() < 0.35:
        for side in (-1, 1):
            cv2.ellipse(features, (64 + side * eye_x, eye_y + 1), (14, 10), 0, 0, 360, (0.02,) * 3, 2, cv2.LINE_AA)
        cv2.line(features, (58, eye_y), (70, eye_y), (0.02, 0.02, 0.02), 2, cv2.LINE_AA)
    return np.clip(cv2.GaussianBlur(features, (0, 0), 0.8), 0.004, 1).astype(np.float32)


MATERIALS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    'wood': wood, 'fabric': fabric, 'plaid': plaid, 'marble': marble, 'carpet': carpet, 'plaster': plaster,
    'bricks': tiles_or_bricks, 'books': books, 'keyboard': keyboard, 'screen': screen, 'print': print_on_paper,
    'window': panes}


def _tinted(colour: np.ndarray, value: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(colour, np.float32) * value[..., None], 0.003, 1).astype(np.float32)
