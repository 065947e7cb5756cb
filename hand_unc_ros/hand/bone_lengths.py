"""Lengths of a hand's bones, learned while it is followed, and joints held to them.

Bones are rigid, so the length that many sets agree on corrects each one.  Errors of landmarks that persist while the
hand keeps its pose repeat in every set; a length is therefore never taken to be known better than LEAST_SHARE.

A triangulated bone is too long on average, since an error n across it adds n² / (2 l) to its length l.  With Σ_d the
covariance of the vector d between its ends, u its direction and Σ_n = (I − u uᵀ) Σ_d (I − u uᵀ), to second order

    l = |d| − tr Σ_n / (2 l),   variance uᵀ Σ_d u + tr Σ_n² / (2 l²) + (OWN_SHARE l)².

The joints are those of Gaussian measurements

    |x_b − x_a| ~ N(l, variance of l + (OWN_SHARE l)² + ((tr Σ_n)² + 2 tr Σ_n²) / (4 l²))

of all bones, by an iterated extended Kalman update (Bell & Cathey, 1993) with the weights of Student's t. The last term
is the mean square of n² / (2 l), which the linear update neglects.

Covariances of triangulated joints are independent of each other, their errors are not: those that the ends of a bone
share are the larger part, and its length does not correct them.  So every joint keeps its own covariance, and takes
from the update the correlations alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from hand_unc_ros.geometry.gaussians import square_roots
from hand_unc_ros.geometry.residual_covariance import inflate
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import BONES, JOINT_COUNT

# Lengths of the 20 bones in metres, adult mean, in the order of BONES (each finger base → tip; the first
# of a finger runs from the wrist). Hands differ by about ±25 %; estimates err more.
BONE_LENGTHS = np.array([0.038, 0.042, 0.034, 0.028, 0.094, 0.043, 0.026, 0.022, 0.092, 0.047, 0.030, 0.023,
                         0.086, 0.043, 0.029, 0.023, 0.082, 0.035, 0.021, 0.021])
# Standard deviations as shares of the length: of an unknown hand, wide enough that a child's is not drawn to an
# adult's; of a length that was learned, at least; of the distance between the landmarks of a rigid bone, by what they
# mean in different poses and views.
PRIOR_SHARE, LEAST_SHARE, OWN_SHARE = 0.4, 0.02, 0.04
# A learned length is forgotten with the square root of time, share of it per √s.
FORGETTING = 0.03
# Degrees of freedom of Student's t: bones of hidden fingers are off by many σ.
DEGREES = 4.0
# A bone whose direction is unknown says nothing: the squared error of d exceeds this share of its squared length.
MAX_UNKNOWN = 1.0
ITERATIONS = 3
# Metres; only keeps the direction of a bone of no length finite.
_SHORTEST = 1e-6

_PARENTS, _CHILDREN = np.array(BONES).T


def bone_lengths(joints: np.ndarray) -> np.ndarray:
    """(..., 20) metres, in the order of BONES, from joints (..., 21, 3); NaN with an invalid end."""
    return np.linalg.norm(joints[..., _CHILDREN, :] - joints[..., _PARENTS, :], axis=-1)


def bone_vectors(joints: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(..., 20, 3) metres from each bone's parent to its child, and their covariances (..., 20, 3, 3) m², of joints
    (..., 21, 3) and covariances (..., 63, 63), joint-major; NaN with an invalid end."""
    blocks = np.moveaxis(covariance.reshape(*covariance.shape[:-2], JOINT_COUNT, 3, JOINT_COUNT, 3), -2, -3)
    a, b = _PARENTS, _CHILDREN
    spread = blocks[..., a, a, :, :] + blocks[..., b, b, :, :] - blocks[..., a, b, :, :] - blocks[..., b, a, :, :]
    return joints[..., b, :] - joints[..., a, :], spread


class _Measured(NamedTuple):
    """Of the N bones whose direction is known: length (N,) metres; variance along the bone (N,) m²; across it, tr Σ_n
    (N,) m² and tr Σ_n² (N,) m⁴.  known: (20,) which they are."""

    length: np.ndarray
    along: np.ndarray
    across: np.ndarray
    across2: np.ndarray
    known: np.ndarray


def _prior_variance() -> np.ndarray:
    return np.square(PRIOR_SHARE * BONE_LENGTHS)


@dataclass(frozen=True)
class BoneLengths:
    """Of one hand, as far as they are known: length and variance (20,), metres and m², in the order of BONES."""

    length: np.ndarray = field(default_factory=BONE_LENGTHS.copy)
    variance: np.ndarray = field(default_factory=_prior_variance)

    def learned(self, joints: np.ndarray, covariance: np.ndarray, elapsed_s: float) -> BoneLengths:
        """With what triangulated joints (21, 3) metres, NaN where unknown, and their covariance (63, 63) m² say,
        `elapsed_s` after what is known."""
        bones = self._measured(joints, covariance)
        known = bones.known
        length, before = self.length[known], self.variance[known]
        before = before + np.square(FORGETTING * length) * max(elapsed_s, 0.0)
        off = bones.length - bones.across / (2 * length) - length
        noise = bones.along + bones.across2 / (2 * length ** 2) + np.square(OWN_SHARE * length)
        noise = noise / _weights(off, before + noise)
        gain = before / (before + noise)
        new_length, new_variance = self.length.copy(), self.variance.copy()
        new_length[known] += gain * off
        new_variance[known] = np.maximum((1 - gain) * before, np.square(LEAST_SHARE * new_length[known]))
        return BoneLengths(new_length, new_variance)

    def hold(self, joints: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joints (21, 3) metres held to the lengths, and their covariance (63, 63) m², joint-major: positive
        semi-definite, with the 3×3 blocks that it had. Both may be NaN where unknown."""
        bones = self._measured(joints, covariance)
        known, target = bones.known, self.length[bones.known]
        if not known.any():
            return joints, covariance
        parents, children = _PARENTS[known], _CHILDREN[known]
        P, start = np.nan_to_num(covariance), np.nan_to_num(joints).reshape(-1)
        noise = (self.variance[known] + np.square(OWN_SHARE * target)
                 + (bones.across ** 2 + 2 * bones.across2) / (4 * target ** 2))
        state, bone = start, np.arange(len(parents))
        for _ in range(ITERATIONS):
            points = state.reshape(-1, 3)
            vector = points[children] - points[parents]
            length = np.linalg.norm(vector, axis=1)
            along = vector / np.maximum(length, _SHORTEST)[:, None]
            H = np.zeros((len(bone), JOINT_COUNT, 3))
            H[bone, children], H[bone, parents] = along, -along
            H = H.reshape(len(bone), -1)
            off = target - length - H @ (start - state)
            reach = H @ P
            spread = reach @ H.T
            widened = noise / _weights(off, spread.diagonal() + noise)
            gain = np.linalg.solve(spread + np.diag(widened), reach).T
            state = start + gain @ off
        # Joseph's form is positive semi-definite for any gain.
        keep = np.eye(len(state)) - gain @ H
        P = keep @ P @ keep.T + (gain * widened) @ gain.T
        before, _, known = square_roots(joint_blocks(covariance))
        _, after, _ = square_roots(joint_blocks(P))
        restored = np.where(known[:, None, None], before @ after, np.nan)
        return np.where(np.isfinite(joints), state.reshape(-1, 3), np.nan), inflate(P, restored)

    def _measured(self, joints: np.ndarray, covariance: np.ndarray) -> _Measured:
        vector, spread = bone_vectors(joints, covariance)
        # Judged by the expected length: of measured ones, the long would be chosen.  Comparisons with NaN are false.
        known = np.trace(spread, axis1=1, axis2=2) < MAX_UNKNOWN * np.square(self.length)
        known &= np.isfinite(vector).all(axis=1)
        vector, spread = vector[known], spread[known]
        length = np.linalg.norm(vector, axis=1)
        direction = vector / np.maximum(length, _SHORTEST)[:, None]
        along = np.einsum('na,nab,nb->n', direction, spread, direction)
        turned = (spread @ direction[..., None])[..., 0]
        across = np.trace(spread, axis1=1, axis2=2) - along
        across2 = np.square(spread).sum((1, 2)) - 2 * np.square(turned).sum(1) + along ** 2
        return _Measured(length, along, across, across2, known)


def _weights(off: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Of Student's t for errors of a variance, at most 1."""
    return np.minimum((DEGREES + 1) / (DEGREES + np.square(off) / variance), 1.0)
