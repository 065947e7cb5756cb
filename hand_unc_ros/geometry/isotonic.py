"""Isotonic regression: the rising sequence nearest to given values, without SciPy 1.12, which brought one."""

from __future__ import annotations

import numpy as np


def isotonic_regression(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-decreasing (N,) that minimises Σ w (x − v)², by pooling adjacent violators.

    values: (N,).  weights: (N,), positive.  Barlow et al., Statistical inference under order restrictions, 1972.
    """
    means: list[float] = []
    sums: list[float] = []
    counts: list[int] = []
    for value, weight in zip(np.asarray(values, float).tolist(), np.asarray(weights, float).tolist()):
        means.append(value)
        sums.append(weight)
        counts.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            mean, total, count = means.pop(), sums.pop(), counts.pop()
            means[-1] = (sums[-1] * means[-1] + total * mean) / (sums[-1] + total)
            sums[-1] += total
            counts[-1] += count
    return np.repeat(means, counts)
