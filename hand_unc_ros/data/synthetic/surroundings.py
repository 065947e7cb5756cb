"""What lies behind a hand, in linear light: ray-cast rooms with people, photographs, panoramas; and pieces of them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from hand_unc_ros.data.synthetic.photographs import is_panorama, views_of_panorama
from hand_unc_ros.data.synthetic.raycaster import TILE
from hand_unc_ros.data.synthetic.rooms import draw_room, photograph_room

STORE_COUNT = 160
STORE_SIZE = 320
# Share of stores that each photograph gets, up to a share for all of them: few would be seen too often.
_SHARE_OF_EACH, _SHARE_OF_ALL = 0.012, 0.4
# Linear light above this is cut off in a store.
_BRIGHTEST = 6.0


class Surroundings:
    """Backgrounds by number; each depends on the seed, its number and the photographs given, and is made when it is
    first asked for. State: those made so far, 8 bits with a square root."""

    def __init__(self, seed: int, photographs: Sequence[np.ndarray] = (), count: int = STORE_COUNT,
                 size: int = STORE_SIZE) -> None:
        self.seed, self.count, self.size = seed, count, size
        self.photographs = [np.asarray(image, np.float32) for image in photographs]
        self._pictures = [cv2.resize(np.minimum(image, 1.0), (TILE, TILE), interpolation=cv2.INTER_AREA)
                          for image in self.photographs]
        self._stores: dict[int, np.ndarray] = {}

    def store(self, number: int) -> np.ndarray:
        """(size, size, 3) float32 linear, of mean luma about 0.2: a whole background."""
        return cv2.LUT(self._coded(number), _DECODE)

    def _coded(self, number: int) -> np.ndarray:
        if number not in self._stores:
            image = self._make(number)
            image = image * (0.2 / max(float(image.mean()), 1e-4))
            coded = (255 * np.sqrt(np.clip(image / _BRIGHTEST, 0, 1)) + 0.5).astype(np.uint8)
            # The noise of few rays is not a camera's.
            self._stores[number] = cv2.medianBlur(coded, 3)
        return self._stores[number]

    def patch(self, rng: np.random.Generator, size: int, stores: int | None = None) -> np.ndarray:
        """(size, size, 3) float32 linear: a part of a store, turned as upright crops are, out of focus, at some
        brightness and colour of light. stores: how many of the stores to choose from, all by default."""
        store = self._coded(int(rng.integers(min(stores or self.count, self.count))))
        whole = len(store)
        # Now and then a small part: a plain wall, a piece of cloth.
        least, most = (0.3, 1.0) if rng.random() < 0.85 else (0.08, 0.3)
        side = whole * np.exp(rng.uniform(np.log(least), np.log(most)))
        # Crops stand upright with the hand, so the world behind them leans, mostly little.
        angle = rng.normal(0, 0.6) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
        reach = (whole - side) / 2
        centre = (whole - 1) / 2 + rng.uniform(-reach, reach, 2)
        c, s = np.cos(angle) * side / size, np.sin(angle) * side / size
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        middle = (size - 1) / 2
        turn = np.array([[c * mirror, -s, 0.0], [s * mirror, c, 0.0]])
        turn[:, 2] = centre - turn[:, :2] @ [middle, middle]
        patch = cv2.warpAffine(store, turn, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                               borderMode=cv2.BORDER_REFLECT_101)
        decode = _DECODE if rng.random() < 0.5 else _HARSH
        blur = rng.choice([0.0, 0.7, 1.6, 3.5], p=[0.5, 0.25, 0.17, 0.08]) * rng.uniform(0.6, 1.4) * size / 224
        level = np.exp(rng.normal(0.1, 0.95))
        warmth = rng.normal(0, 0.08)
        patch = cv2.LUT(patch, (decode[:, None] * (level * np.exp([warmth, 0.0, -warmth])).astype(np.float32))[None])
        return cv2.GaussianBlur(patch, (0, 0), blur) if blur > 0.2 else patch

    def _make(self, number: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, 7030, number))
        if rng.random() < min(_SHARE_OF_EACH * len(self.photographs), _SHARE_OF_ALL):
            image = self.photographs[rng.integers(len(self.photographs))]
            if is_panorama(image):
                return views_of_panorama(rng, image, self.size)
            return _square(rng, image, self.size)
        return photograph_room(rng, draw_room(rng, self._pictures), self.size)


def _square(rng: np.random.Generator, image: np.ndarray, size: int) -> np.ndarray:
    """A square part of a photograph, with its clipped highlights lifted again: lamps and windows outshine paper."""
    height, width = image.shape[:2]
    side = int(min(height, width) * rng.uniform(0.6, 1.0))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    part = cv2.resize(image[top:top + side, left:left + side], (size, size),
                      interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
    return part * (1 + rng.uniform(0, 3) * np.clip(part.min(axis=2, keepdims=True) - 0.85, 0, None) / 0.15)


# Linear light of what stores hold; and as of a scene with harder light, whose bright parts are brighter.
_DECODE = (_BRIGHTEST * (np.arange(256) / 255) ** 2).astype(np.float32)
_HARSH = (0.6 * _DECODE + 0.4 * _DECODE ** 2 / 0.3).astype(np.float32)
