"""Which of several cameras explains what all of them say."""

from __future__ import annotations

import numpy as np

# A second camera that explains this share of what the first does may as well be the one at fault.
AMBIGUOUS = 0.9


def blame_worst(explained: np.ndarray, guilty: np.ndarray, blamed: dict[int, tuple[int, ...]]) -> int:
    """Blame one more camera: that of `guilty` which explains most. Returns its index.

    explained: (V,) what each camera's fault explains, twice the log-likelihood.  guilty: (N,) indices that may be
    blamed.  blamed: cameras that are blamed already, each with those that may be at fault in its place; one is added.
    """
    worst = int(guilty[explained[guilty].argmax()])
    # Not those that are blamed already, for whatever is left of their fault.
    left = explained.copy()
    left[list(blamed)] = 0
    others = np.flatnonzero(left >= AMBIGUOUS * left[worst])
    blamed[worst] = (worst, *(int(row) for row in others if row != worst))
    return worst
