"""Covariances that claim a joint to be known exactly in some direction: zeros, as ROS writes "unknown", or one axis of
variance 0. No error is likely under them, so that they can neither be scaled nor judged with the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hand_unc_ros.hand.joints import JOINT_COUNT

# The smallest variance as a share of the largest below which nothing but rounding is left of it, and in m² (1 µm).
_SHARE, _LEAST = 1e-12, 1e-12


class Singular(NamedTuple):
    """Of joints (N, 21): singular, whether the covariance is; contradicted, whether the error lies in part in a
    direction without variance."""

    singular: np.ndarray
    contradicted: np.ndarray

    def summary(self, known: np.ndarray) -> dict[str, int]:
        """How many of the `known` (N, 21) joints."""
        return {'joints': int((self.singular & known).sum()), 'of': int(known.sum()),
                'contradicted': int((self.contradicted & known).sum())}


def find_singular(covariances: np.ndarray, errors: np.ndarray | None = None) -> Singular:
    """covariances: (N, 63, 63) m².  errors: (N, 21, 3) metres, None or NaN where they are not known."""
    parts = covariances.reshape(-1, JOINT_COUNT, 3, JOINT_COUNT, 3)
    blocks = np.einsum('njajb->njab', parts)
    finite = np.isfinite(blocks).all((-2, -1))
    values, vectors = np.linalg.eigh(np.where(finite[..., None, None], blocks, np.eye(3)))
    exact = values <= np.maximum(_SHARE * values[..., -1:], _LEAST)
    singular = finite & exact.any(-1)
    if errors is None:
        return Singular(singular, np.zeros_like(singular))
    along = (errors[..., None, :] @ vectors)[..., 0, :]
    # An error as small as the rounding of a variance is none.
    wrong = (exact & (along ** 2 > _LEAST)).any(-1)
    return Singular(singular, singular & wrong)


def sentences(counts: dict[str, Any]) -> list[str]:
    """`Singular.summary` in words; none where no covariance is singular."""
    if not counts['joints']:
        return []
    text = (f'{counts["joints"]} of {counts["of"]} covariances of joints are singular: they claim a joint to be known '
            'exactly in some direction, which is infinitely too small')
    if counts['contradicted']:
        text += f', and the errors of {counts["contradicted"]} contradict them'
    return [f'{text}. No factor mends that; publish a covariance with a variance along every axis.']
