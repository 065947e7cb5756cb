"""Lens models as camera drivers and camera calibration programs write them: by many names, with 0 to 14 coefficients.

OpenCV nests its radial-tangential models, so the number of coefficients names the model: 4 (k1 k2 p1 p2), 5 (and k3),
8 (and k4 k5 k6), 12 (and the thin prism s1 … s4), 14 (and the tilt τx τy). Zeros mean no distortion for these models
only: an equidistant lens with zeros is still r = f θ and no pinhole.
"""

from __future__ import annotations

import numpy as np

from hand_unc_ros.errors import CalibrationError

# Number of coefficients of each model.
DISTORTION_MODELS: dict[str, int] = {'none': 0, 'plumb_bob': 5, 'rational_polynomial': 8, 'equidistant': 4}

_RADIAL = ('plumb_bob', 'radtan', 'radial-tangential', 'radial_tangential', 'brown', 'brown_conrady',
           'rational_polynomial', 'rational', 'opencv', 'perspective')
_EQUIDISTANT = ('equidistant', 'equi', 'fisheye', 'opencv_fisheye', 'kannala_brandt', 'kannala_brandt4')
_NONE = ('none', 'pinhole', 'ideal')
_UNSUPPORTED = {
    'omni': 'omnidirectional (Mei)', 'omnidirectional': 'omnidirectional (Mei)', 'mei': 'omnidirectional (Mei)',
    'ds': 'double sphere', 'double_sphere': 'double sphere', 'eucm': 'extended unified (EUCM)',
    'fov': 'field-of-view (FOV)', 'atan': 'field-of-view (FOV)', 'ucm': 'unified (UCM)',
    'thin_prism': 'thin prism', 'thin_prism_fisheye': 'thin prism', 'division': 'division',
    'inverse_brown_conrady': 'inverse Brown-Conrady', 'ftheta': 'f-theta', 'scaramuzza': 'Scaramuzza',
}
_REMEDY = ('calibrate as plumb_bob (kalibr pinhole-radtan), rational_polynomial (cv2.CALIB_RATIONAL_MODEL) or '
           'equidistant (cv2.fisheye, kalibr pinhole-equi)')
# Coefficients that no lens has: beyond it the polynomials overflow.
LARGEST_COEFFICIENT = 1e9


def lens_model(name: str, D: np.ndarray) -> tuple[str, np.ndarray]:
    """The model of DISTORTION_MODELS and its coefficients for a lens called `name` with coefficients D (n,).

    An empty name with D = 0 or without D is a lens without distortion.
    Raises CalibrationError, with the remedy, for a lens that is not supported or does not fit its coefficients.
    """
    plain = name.strip().lower().replace(' ', '_')
    D = np.asarray(D, dtype=np.float64).ravel()
    if np.isfinite(D).all() and (np.abs(D) > LARGEST_COEFFICIENT).any():
        raise CalibrationError(f'has the coefficient {D[np.abs(D).argmax()]:g}, which no lens has; '
                               'calibrate the camera again')
    if plain in _RADIAL:
        return opencv_model(D)
    if plain in _EQUIDISTANT:
        return 'equidistant', _equidistant(name, D)
    if plain in _UNSUPPORTED:
        raise CalibrationError(f"distortion_model '{name}': the {_UNSUPPORTED[plain]} lens model is not supported; "
                               f'{_REMEDY}')
    if plain in _NONE or not plain:
        if not D.any():
            return 'none', np.zeros(0)
        raise CalibrationError(f"distortion_model '{name}' with non-zero D; name the lens model (plumb_bob, "
                               'rational_polynomial or equidistant) or leave D empty')
    raise CalibrationError(f"unknown distortion_model '{name[:60]}'; {_REMEDY}")


def opencv_model(D: np.ndarray) -> tuple[str, np.ndarray]:
    """Model and coefficients of OpenCV's radial-tangential coefficients D (n,), by their number.

    Five zeros stay plumb_bob, as an empty D becomes none. Raises CalibrationError for a number that OpenCV does not
    have, and for thin-prism and tilt coefficients other than 0.
    """
    D = np.asarray(D, dtype=np.float64).ravel()
    if D.size == 0:
        return 'none', D
    if D.size not in (4, 5, 8, 12, 14):
        raise CalibrationError(f'has {D.size} distortion coefficients; OpenCV has 4 or 5 (plumb_bob), '
                               '8 (rational_polynomial), or 12 or 14 of which the last are 0')
    if D[8:].any():
        raise CalibrationError('has thin-prism or tilt coefficients (s1 … s4, τx, τy) other than 0, which are not '
                               'supported; calibrate without cv2.CALIB_THIN_PRISM_MODEL and cv2.CALIB_TILTED_MODEL')
    if D.size > 5 and D[5:].any():
        return 'rational_polynomial', D[:8].copy()
    if D.size == 4:
        return 'plumb_bob', np.append(D, 0.0)
    return 'plumb_bob', D[:5].copy()


def _equidistant(name: str, D: np.ndarray) -> np.ndarray:
    if D.size < 4 or D[4:].any():
        raise CalibrationError(f"distortion_model '{name}' takes 4 coefficients k1 k2 k3 k4 in D, got {D.size}; an "
                               'ideal equidistant lens has four zeros, a lens without distortion is none')
    return D[:4].copy()
