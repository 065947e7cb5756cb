"""Views whose 2D joints are projections, and runs of samples that follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hand_unc_ros.data.samples import SampleView
from hand_unc_ros.geometry.cameras import Camera


def inverted(transform: np.ndarray) -> np.ndarray:
    """Inverse (4, 4) of a rigid transform (4, 4)."""
    inverse = np.eye(4)
    inverse[:3, :3] = transform[:3, :3].T
    inverse[:3, 3] = -transform[:3, :3].T @ transform[:3, 3]
    return inverse


def projected_view(camera: Camera, image: Path | bytes | np.ndarray, joints: np.ndarray,
                   visible: np.ndarray | None = None) -> SampleView:
    """View whose 2D joints are the projections of joints (21, 3), metres, world, NaN where not annotated.

    visible: (21,) bool, where the dataset marks joints as seen; every joint with a projection counts as seen for None.
    """
    joints_px, _ = camera.project(joints)
    projected = np.isfinite(joints_px).all(axis=1)
    return SampleView(camera, image, joints_px, projected if visible is None else projected & visible)


def runs(keys: Sequence[object]) -> list[tuple[int, int]]:
    """Index ranges [start, stop) of equal neighbouring keys."""
    starts = [place for place, key in enumerate(keys) if place == 0 or key != keys[place - 1]]
    return list(zip(starts, [*starts[1:], len(keys)]))


def transformed(points: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """points (N, 3) under the rigid transform (4, 4)."""
    return points @ transform[:3, :3].T + transform[:3, 3]
