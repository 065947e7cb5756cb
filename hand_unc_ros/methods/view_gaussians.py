"""What the cameras read of one hand, as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hand_unc_ros.methods.contract import ViewReading


@dataclass(frozen=True)
class ViewGaussians:
    """The readings of one hand by V cameras as arrays; the fields of ViewReading with V in front.

    cameras: V names.  joints_px, variance_px2: (V, 21, 2), NaN where valid: (V, 21) is False.  score: (V,).
    boxes_px: (V, 4).
    """

    cameras: tuple[str, ...]
    joints_px: np.ndarray
    variance_px2: np.ndarray
    valid: np.ndarray
    score: np.ndarray
    boxes_px: np.ndarray


def stack(readings: Iterable[ViewReading]) -> ViewGaussians:
    """The readings of one hand, one for each camera, in their order."""
    rows = list(readings)

    def stacked(name: str, *shape: int) -> np.ndarray:
        return np.array([vars(row)[name] for row in rows]).reshape(len(rows), *shape)

    return ViewGaussians(tuple(row.camera for row in rows), stacked('joints_px', 21, 2), stacked('variance_px2', 21, 2),
                         stacked('valid', 21).astype(bool), stacked('score').astype(float), stacked('box_px', 4))
