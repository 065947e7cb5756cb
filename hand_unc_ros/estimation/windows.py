"""Sums over the newest seconds of sets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np

# A window moves in steps of a tenth of its length; a camera is judged once it was seen in so many of them.
_PARTS = 10


class Sums(Protocol):
    """offered: (V,) sets that had something to say of each camera."""

    offered: np.ndarray

    def add(self, other: Sums, sign: float = 1.0) -> None:
        """Add the other's sums, or with sign −1 take them away."""


S = TypeVar('S', bound=Sums)


class Window(Generic[S]):
    """The sums over the newest `window_s` of sets, in parts of which the oldest is dropped as a whole. zero: empty
    sums."""

    def __init__(self, window_s: float, zero: Callable[[], S]) -> None:
        self.part_s = window_s / _PARTS
        self.zero = zero
        self.parts: deque[S] = deque([zero()])
        self.total = zero()
        self.due_s = self.part_s

    def add(self, sums: S, step_s: float) -> None:
        """Add a set that came `step_s` after the one before."""
        self.due_s -= step_s
        if self.due_s <= 0:
            self.due_s += self.part_s
            self.parts.append(self.zero())
            if len(self.parts) > _PARTS + 1:
                self.total.add(self.parts.popleft(), -1.0)
        self.total.add(sums)
        self.parts[-1].add(sums)

    def judges(self, share: float = 1.0) -> np.ndarray:
        """(V,) whether each camera was seen all along, if not in every set, or in that share of the parts."""
        return np.sum([part.offered > 0 for part in self.parts], axis=0) >= share * _PARTS
