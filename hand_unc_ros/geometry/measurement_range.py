"""The range of 2D measurements and of 3D results with which this package computes.

Whatever a network, a message or a recording claims is brought into it on entry, so that no later step meets numbers
whose squares overflow or vanish.
"""

from __future__ import annotations

import numpy as np

# Standard deviations of 2D joints are taken as 0.001 to 1000 px: below lies no measurement, above no information.
MIN_VARIANCE_PX2, MAX_VARIANCE_PX2 = 1e-6, 1e6
# A joint farther than this from the corner of its image is no measurement of it.
MAX_PIXELS = 1e5
# A joint of which less is known than this standard deviation, metres, in its worst direction is not estimated at all.
MAX_SIGMA = 1.0
# Farther from the world's origin than this, metres, nothing is reconstructed.
MAX_DISTANCE = 1e3


def clamp_measurements(joints_px: np.ndarray, variance_px2: np.ndarray, valid: np.ndarray,
                       ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measurements within the range, and which of them are left.

    joints_px, variance_px2: (…, 2).  valid: (…) bool.  Variances are clamped; a joint with a variance that is not
    positive, with a number that is not finite or too far from the image becomes invalid, and NaN.  Measurements that
    lie within the range come back bit by bit.
    """
    with np.errstate(invalid='ignore'):
        usable = (valid & (np.abs(joints_px) <= MAX_PIXELS).all(-1) & np.isfinite(variance_px2).all(-1)
                  & (variance_px2 > 0).all(-1))
    clamped = np.clip(variance_px2, MIN_VARIANCE_PX2, MAX_VARIANCE_PX2)
    return (np.where(usable[..., None], joints_px, np.nan), np.where(usable[..., None], clamped, np.nan), usable)


def is_estimated(points: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Whether points (…, 3) metres with covariances (…, 3, 3) m² lie within the range -> (…) bool."""
    finite = np.isfinite(points).all(-1) & np.isfinite(covariance).all((-2, -1))
    safe = np.where(finite[..., None, None], covariance, 0.0)
    with np.errstate(invalid='ignore'):
        near = (np.abs(points) <= MAX_DISTANCE).all(-1)
        # The trace bounds the largest eigenvalue from above, a third of it from below: mostly neither is near.
        trace = safe.trace(axis1=-2, axis2=-1)
        known = trace <= MAX_SIGMA ** 2
        open_ = finite & near & ~known & (trace <= 3 * MAX_SIGMA ** 2)
    if open_.any():
        known = known.copy()
        known[open_] = np.linalg.eigvalsh(safe[open_])[..., -1] <= MAX_SIGMA ** 2
    return finite & near & known
