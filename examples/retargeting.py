"""A human hand's joints to a robot hand's angles by dex-retargeting, smoothed by what the covariance says.

The robot follows vectors from the wrist to the fingertips, seen from the palm. `vector_covariance` carries the 63×63
covariance of the joints over to them, and `VectorFilter` trusts a new vector as much as that allows: a fingertip that
is sure is followed at once, one that is hidden from most cameras is held back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.errors import ConfigError, MissingDependencyError

WRIST, INDEX_MCP, MIDDLE_MCP = 0, 5, 9
# How fast fingertips wander, m²/s: 55 mm standard deviation after a second, 11 mm between frames at 25 Hz.
DRIFT = 3e-3


def palm_frame(joints: np.ndarray, side: str = 'right') -> np.ndarray:
    """Axes of the palm in the world, (..., 3, 3), one a column; joints: (..., 21, 3).

    As dex-retargeting has them: z from the wrist to the middle knuckle, x out of the palm, towards which the fingers
    bend, y across it (right hand: towards the thumb).
    """
    z = _unit(joints[..., MIDDLE_MCP, :] - joints[..., WRIST, :])
    y = joints[..., INDEX_MCP, :] - joints[..., WRIST, :]
    y = _unit(y - (y * z).sum(-1, keepdims=True) * z) * (1.0 if side == 'right' else -1.0)
    return np.stack([np.cross(y, z), y, z], axis=-1)


def human_vectors(joints: np.ndarray, origins: np.ndarray, tasks: np.ndarray, side: str = 'right') -> np.ndarray:
    """Vectors between joints seen from the palm: (..., 21, 3) -> (..., n, 3) metres; NaN where a joint is."""
    return (joints[..., tasks, :] - joints[..., origins, :]) @ palm_frame(joints, side)


def vector_covariance(joints: np.ndarray, covariance: np.ndarray, origins: np.ndarray, tasks: np.ndarray,
                      side: str = 'right', step: float = 1e-5) -> np.ndarray:
    """Covariance (3n, 3n) m² of `human_vectors`, J Σ Jᵀ with J by central differences of `step` metres.

    It holds the error of the wrist, which all vectors share, and of the knuckles that the palm's axes hang on.
    covariance: (63, 63) m².  Rows of vectors with a missing joint are NaN.
    """
    shift = step * np.eye(63).reshape(63, 21, 3)
    forth, back = (human_vectors(joints + sign * shift, origins, tasks, side) for sign in (1, -1))
    jacobian = ((forth - back) / (2 * step)).reshape(63, -1).T
    return jacobian @ np.nan_to_num(covariance) @ jacobian.T


class VectorFilter:
    """A Kalman filter on all vectors at once: they wander with `drift` m²/s and are measured with their covariance.

    Its gain is a low-pass constant per direction and finger that follows Σ. A vector that is NaN is held, and
    trusted less the longer that lasts.
    """

    def __init__(self, drift: float = DRIFT) -> None:
        self.drift = drift
        self.reset()

    def reset(self) -> None:
        """Forget everything, as after a lost hand."""
        self.mean: np.ndarray | None = None
        self.covariance: np.ndarray | None = None

    def update(self, elapsed_s: float, vectors: np.ndarray, covariance: np.ndarray) -> np.ndarray | None:
        """vectors: (n, 3), covariance: (3n, 3n) -> (n, 3), or None until every vector has been seen.

        elapsed_s: since the last update.
        """
        measured = vectors.ravel()
        seen = np.isfinite(measured)
        if self.mean is None:
            if not seen.all():
                return None
            self.mean, self.covariance = measured.copy(), covariance.copy()
            return vectors.copy()
        P = self.covariance + self.drift * max(elapsed_s, 0.0) * np.eye(len(measured))
        gain = np.linalg.solve(P[np.ix_(seen, seen)] + covariance[np.ix_(seen, seen)], P[seen]).T
        self.mean = self.mean + gain @ (measured[seen] - self.mean[seen])
        P = P - gain @ P[seen]
        self.covariance = (P + P.T) / 2
        return self.mean.reshape(vectors.shape)


class RobotHand:
    """A hand of dex-retargeting's own vector configurations for teleoperation.

    robot: 'allegro', 'leap', 'shadow', … .  urdf_dir: `robots/hands` of a clone of dexsuite/dex-urdf.
    low_pass_alpha: dex-retargeting's own smoothing of the angles; 1 is none.
    origins, tasks: the human joints between which its n vectors run.  joint_names: of the angles.
    Raises MissingDependencyError without dex-retargeting, ConfigError for a robot or URDF that is not there.
    """

    def __init__(self, robot: str, urdf_dir: str | Path, side: str = 'right', low_pass_alpha: float = 1.0) -> None:
        try:
            from dex_retargeting.constants import HandType, RetargetingType, RobotName, get_default_config_path
            from dex_retargeting.retargeting_config import RetargetingConfig
        except ImportError as error:
            raise MissingDependencyError(f'dex-retargeting cannot be imported ({error}); '
                                         'pip install -r examples/requirements.txt') from error
        if robot not in RobotName.__members__:
            known = ', '.join(RobotName.__members__)
            raise ConfigError(f"robot '{robot}' is unknown to dex-retargeting; known: {known}")
        config = get_default_config_path(RobotName[robot], RetargetingType.vector, HandType[side])
        folder = Path(urdf_dir).expanduser().resolve()
        try:
            RetargetingConfig.set_default_urdf_dir(str(folder))
            override: dict[str, Any] = {'low_pass_alpha': low_pass_alpha}
            self._retargeting = RetargetingConfig.load_from_file(config, override).build()
        except (ValueError, OSError) as error:
            raise ConfigError(f'no URDF of {robot} ({side}) in {folder}: {error}; git clone '
                              'https://github.com/dexsuite/dex-urdf and give its robots/hands') from error
        self.origins, self.tasks = np.asarray(self._retargeting.optimizer.target_link_human_indices)
        self.joint_names: list[str] = list(self._retargeting.joint_names)

    def retarget(self, vectors: np.ndarray) -> np.ndarray:
        """Angles in radians, in the order of `joint_names`, for (n, 3) vectors; starts from the previous ones."""
        return np.asarray(self._retargeting.retarget(vectors), dtype=np.float64)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)
