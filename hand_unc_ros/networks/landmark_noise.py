"""How far MediaPipe's landmarks err in the image; the networks give no uncertainty of their own."""

from __future__ import annotations

import numpy as np

from hand_unc_ros.hand.crops import box_around

# Standard deviation of one image coordinate of a landmark, as a fraction of the side of the square
# around the hand (`box_around(joints, expansion=1)`); base → tip of the thumb and of a finger.
#
# Derived from the handpose3d recording (TemugeB/handpose3d, MIT; 360 frames in which two calibrated
# cameras both see the right hand; complexity 1, tracking). Each joint was triangulated by least squares
# on reprojection; two views leave one residual degree of freedom, so with equal relative noise in both
# views q = sqrt(Σ_views |residual|² / extent²) is |N(0, σ)|, and σ = (95 % quantile of q) / 1.96,
# because the package promises 95 % ellipsoids. Index … little were averaged. Limits: only the error
# across epipolar lines shows in such residuals, and it is taken as isotropic; camera calibration and
# synchronisation errors are in it; a bias common to both views is not; one subject, one recording.
SIGMA_FRACTION_WRIST = 0.024
SIGMA_FRACTION_THUMB = (0.024, 0.035, 0.034, 0.033)
SIGMA_FRACTION_FINGER = (0.018, 0.020, 0.027, 0.033)
SIGMA_FRACTION = np.array((SIGMA_FRACTION_WRIST, *SIGMA_FRACTION_THUMB, *(SIGMA_FRACTION_FINGER * 4)))
SIGMA_FRACTION.flags.writeable = False


def landmark_variance(joints_px: np.ndarray) -> np.ndarray:
    """Variances (..., 21, 2) px² of landmarks (..., 21, 2) px by SIGMA_FRACTION."""
    extent = box_around(joints_px, expansion=1.0)[..., 2]
    sigma = SIGMA_FRACTION * extent[..., None]
    return np.repeat((sigma ** 2)[..., None], 2, axis=-1)


def known_landmarks(joints_px: np.ndarray, variance: np.ndarray, width: int,
                    height: int) -> tuple[np.ndarray, np.ndarray]:
    """Means (..., 21, 2) px and variances (..., 21, 2) px² of the landmarks that an image of that size shows.

    NaN where a landmark lies outside of the image by more than its standard deviation: the network only guesses it.
    """
    beyond = np.maximum(-0.5 - joints_px, joints_px - (width - 0.5, height - 0.5))
    inside = (beyond <= np.sqrt(variance)).all(axis=-1)[..., None]
    return np.where(inside, joints_px, np.nan), np.where(inside, variance, np.nan)
