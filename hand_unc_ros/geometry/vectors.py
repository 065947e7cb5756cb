"""What is done to single vectors."""

from __future__ import annotations

import numpy as np


def unit(vector: np.ndarray) -> np.ndarray:
    """A vector (N,) that is not zero, at length 1."""
    return vector / np.linalg.norm(vector)
