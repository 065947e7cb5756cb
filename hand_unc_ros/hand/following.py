"""A hand surface hung on estimated joints: every bone turned and moved to where the joints are.

Closed form and without smplx: a surface to look at and to test for contact. Its bones start at the joints given;
a fingertip misses its joint by what the last bone is longer than the model's (a few mm). It is not a fit of pose and
shape parameters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.joints import FINGERTIPS, JOINT_COUNT, ORDERS, PARENTS
from hand_unc_ros.hand.model import TIP_VERTICES, read_arrays
from hand_unc_ros.hand.standin import build_standin

# The wrist and the knuckles move together: they give the turn of the palm.
PALM = (0, 1, 5, 9, 13, 17)
STANDIN = 'stand-in'


class FollowingSurface:
    """A rest surface with skinning weights.

    name: 'stand-in' or 'mano'.  faces: (1538, 3) vertex indices.
    """

    def __init__(self, arrays: dict[str, np.ndarray], name: str, tips: str = 'smplx') -> None:
        self.name = name
        self.faces = np.asarray(arrays['f'], dtype=np.int64)
        template = np.asarray(arrays['v_template'], dtype=np.float64)
        regressed = np.asarray(arrays['J_regressor'], dtype=np.float64) @ template
        both = np.concatenate([regressed, template[list(TIP_VERTICES[tips])]])
        self.rest_joints = both[list(ORDERS['smplx'])]
        # Weights on the public joints; the bone that ends in a tip hangs on the joint before it.
        self.weights = np.zeros((len(template), JOINT_COUNT))
        for public, other in enumerate(ORDERS['smplx']):
            if other < 16:
                self.weights[:, public] = np.asarray(arrays['weights'])[:, other]
        self._template = template
        parents, children = np.array(PARENTS[1:]), np.arange(1, JOINT_COUNT)
        self._bones = parents, children
        self._rest_bones = self.rest_joints[children] - self.rest_joints[parents]

    def follow(self, joints: np.ndarray) -> np.ndarray | None:
        """Vertices (778, 3) for joints (21, 3), metres, any frame; None when the palm is not known.

        Invalid (NaN) finger joints stay straight on the last valid one.
        """
        known = np.isfinite(joints).all(axis=1)
        palm = [j for j in PALM if known[j]]
        if len(palm) < 4 or not known[0]:
            return None
        parents, children = self._bones
        lengths = np.linalg.norm(joints[children] - joints[parents], axis=1)
        scale = float(np.nanmedian(lengths / np.linalg.norm(self._rest_bones, axis=1)))
        turns = np.empty((JOINT_COUNT, 3, 3))
        turns[0] = _best_rotation(self.rest_joints[palm], joints[palm])
        places = joints.copy()
        for child in range(1, JOINT_COUNT):
            parent = PARENTS[child]
            rest = self._rest_bones[child - 1]
            # The bones of the palm do not bend: they carry its turn to the knuckles.
            expected = turns[parent] @ rest
            if not known[child]:
                places[child] = places[parent] + scale * expected
            if parent != 0:
                turns[parent] = _between(expected, places[child] - places[parent]) @ turns[parent]
            turns[child] = turns[parent]
        linear = scale * turns
        offset = places - (linear @ self.rest_joints[:, :, None])[..., 0]
        blended = self.weights @ np.concatenate([linear.reshape(JOINT_COUNT, 9), offset], axis=1)
        return (blended[:, :9].reshape(-1, 3, 3) @ self._template[:, :, None])[..., 0] + blended[:, 9:]

    def vertex_variance(self, covariance: np.ndarray) -> np.ndarray:
        """(778, 3) m²: the skinning-weighted mean of the joints' variances, NaN where a joint it needs is.

        covariance: (63, 63) m².  JUMP-Hand weights vertex variances so; a tip's own uncertainty counts for
        the bone it ends, half and half with that bone's joint.
        """
        variances = np.diagonal(covariance).reshape(JOINT_COUNT, 3).copy()
        for tip in FINGERTIPS:
            variances[tip - 1] = (variances[tip - 1] + variances[tip]) / 2
        lost = ~np.isfinite(variances).all(axis=1)
        spread = self.weights @ np.where(lost[:, None], 0.0, variances)
        spread[(self.weights[:, lost] > 0).any(axis=1)] = np.nan
        return spread


def load_following_surface(model: str, side: str) -> FollowingSurface:
    """model: 'stand-in', or the path of an npz made by `hand-unc mano convert`. Raises HandModelError."""
    if model == STANDIN:
        return FollowingSurface(build_standin(side), STANDIN)
    arrays = read_arrays(Path(model))
    stored = str(arrays.get('side', side))
    if stored != side:
        raise HandModelError(f'{model} holds a {stored} hand, followed is the {side} one; give the other file')
    return FollowingSurface(arrays, 'mano')


def _best_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) that best turns centred source (N, 3) into centred target (Kabsch)."""
    u, _, vt = np.linalg.svd((target - target.mean(axis=0)).T @ (source - source.mean(axis=0)))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return u @ vt


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation that turns the direction of a into that of b."""
    a, b = a / np.linalg.norm(a), b / max(np.linalg.norm(b), 1e-9)
    axis, cosine = np.cross(a, b), float(a @ b)
    if cosine < -0.999999:
        across = np.cross(a, [1.0, 0.0, 0.0] if abs(a[0]) < 0.9 else [0.0, 1.0, 0.0])
        across /= np.linalg.norm(across)
        return 2 * np.outer(across, across) - np.eye(3)
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + skew + skew @ skew / (1 + cosine)
