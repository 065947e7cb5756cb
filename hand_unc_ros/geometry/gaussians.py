"""Covariance matrices: validity, repair, distances, ellipsoids and coverage.  NumPy, batched.

An input matrix with a non-finite entry gives NaN (or False), never an exception, so that invalid joints
may stay in the batch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import gammaincinv

# Smallest eigenvalue of a covariance as a share of its largest that exceeds rounding.
_LEAST_EIGENVALUE = 1e-13


def is_psd(covariance: np.ndarray, tolerance: float = 1e-9) -> np.ndarray:
    """Whether (..., d, d) is finite, symmetric and positive semi-definite -> (...) bool.

    tolerance: relative to the largest absolute entry, for symmetry and for the smallest eigenvalue.
    """
    finite, matrix = _finite(covariance)
    scale = tolerance * np.abs(matrix).max((-2, -1))
    symmetric = np.abs(matrix - matrix.swapaxes(-1, -2)).max((-2, -1)) <= scale
    return finite & symmetric & (np.linalg.eigvalsh(matrix)[..., 0] >= -scale)


def nearest_psd(covariance: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """The nearest matrix, in the Frobenius norm, whose eigenvalues are all at least `floor`.

    covariance: (..., d, d), symmetrised first.  floor: in the units of the covariance, ≥ 0.
    Higham, Computing a nearest symmetric positive semidefinite matrix, 1988.
    """
    finite, matrix = _finite(covariance)
    values, vectors = np.linalg.eigh((matrix + matrix.swapaxes(-1, -2)) / 2)
    repaired = (vectors * np.maximum(values, floor)[..., None, :]) @ vectors.swapaxes(-1, -2)
    repaired = (repaired + repaired.swapaxes(-1, -2)) / 2
    return np.where(finite[..., None, None], repaired, np.nan)


def square_roots(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Σ^½ and Σ^-½ (..., d, d), and where they are known (...): where Σ is finite and not zero; else identities."""
    known, matrix = _finite(covariance)
    values, vectors = np.linalg.eigh(matrix)
    known = known & (values[..., -1] > 0)
    values = np.where(known[..., None], np.maximum(values, _LEAST_EIGENVALUE * values[..., -1:]), 1.0)
    vectors = np.where(known[..., None, None], vectors, np.eye(matrix.shape[-1]))
    root, turned = np.sqrt(values)[..., None, :], vectors.swapaxes(-1, -2)
    return (vectors * root) @ turned, (vectors / root) @ turned, known


def mahalanobis_squared(error: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """eᵀ Σ⁻¹ e for error (..., d) and covariance (..., d, d) -> (...); NaN where Σ is singular."""
    finite, matrix = _finite(covariance)
    values, vectors = np.linalg.eigh(matrix)
    definite = finite & (values[..., 0] > np.finfo(np.float64).eps * values[..., -1])
    projected = (np.asarray(error, np.float64)[..., None, :] @ vectors)[..., 0, :]
    distance2 = (projected ** 2 / np.where(definite[..., None], values, 1.0)).sum(-1)
    return np.where(definite, distance2, np.nan)


@lru_cache(maxsize=256)
def chi2_quantile(probability: float, dof: int) -> float:
    """Quantile of the χ² distribution with `dof` degrees of freedom.  Raises ValueError outside (0, 1)."""
    if not 0.0 < probability < 1.0 or dof < 1:
        raise ValueError(f'χ² quantile needs 0 < probability < 1 and dof ≥ 1, got {probability}, {dof}')
    return float(2 * gammaincinv(dof / 2, probability))


def ellipsoid_axes(covariance: np.ndarray, probability: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The ellipsoid that holds `probability` of a 3D Gaussian.

    covariance: (..., 3, 3), m².  Returns radii (..., 3), metres, largest first, and R (..., 3, 3), a
    right-handed rotation whose columns are the axes in the same order.
    """
    finite, matrix = _finite(covariance)
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[..., ::-1], vectors[..., ::-1].copy()
    vectors[..., 2] *= np.sign(np.linalg.det(vectors))[..., None]
    radii = np.sqrt(np.maximum(values, 0.0) * chi2_quantile(probability, 3))
    return np.where(finite[..., None], radii, np.nan), np.where(finite[..., None, None], vectors, np.nan)


def coverage(error: np.ndarray, covariance: np.ndarray, probability: float = 0.95) -> float:
    """Share of errors (..., d) inside the `probability` region of their covariance (..., d, d).

    Items with a non-finite error or a singular covariance are left out; NaN when none is left.
    """
    distance2 = mahalanobis_squared(error, covariance)
    known = np.isfinite(distance2)
    if not known.any():
        return float('nan')
    return float((distance2[known] <= chi2_quantile(probability, np.shape(error)[-1])).mean())


def _finite(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which matrices are finite, and the batch in float64 with the others replaced by the identity."""
    matrix = np.asarray(covariance, np.float64)
    finite = np.isfinite(matrix).all((-2, -1))
    return finite, np.where(finite[..., None, None], matrix, np.eye(matrix.shape[-1]))
