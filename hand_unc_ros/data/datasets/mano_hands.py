"""A user's converted MANO models, for what datasets leave to them: mean pose, principal components, surface."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from hand_unc_ros.data.samples import ManoParameters
from hand_unc_ros.errors import DatasetError, HandModelError
from hand_unc_ros.hand.model import ARRAY_SHAPES, HandModel, read_arrays

# Below this sum of differences (metres) the shape directions of both hands count as equal, not mirrored.
_SAME_DIRECTIONS = 1.0


class ManoHands:
    """The hands whose models are given.

    right, left: npz files made by `hand-unc mano convert`, or None.  mirror_shape: the dataset was fitted with the
    left hand's shape directions mirrored; MANO_LEFT.pkl of MANO v1.2 has the x part of the right hand's
    (https://github.com/vchoutas/smplx/issues/48), which is found by comparing the two files, so the left hand then
    needs both.  Raises HandModelError for a bad model, DatasetError for a left hand that cannot be compared.
    """

    def __init__(self, right: Path | str | None, left: Path | str | None = None, mirror_shape: bool = False) -> None:
        arrays = {side: _arrays(Path(path), side) for side, path in (('right', right), ('left', left))
                  if path is not None}
        if mirror_shape and 'left' in arrays:
            if 'right' not in arrays:
                raise DatasetError('left hands of this dataset need both models, to see whether the shape directions '
                                   'of the left one are mirrored: give mano_right too')
            ours, other = (arrays[side]['shapedirs'][:, 0] for side in ('left', 'right'))
            if np.abs(ours - other).sum() < _SAME_DIRECTIONS:
                mended = arrays['left']['shapedirs'].copy()
                mended[:, 0] *= -1
                arrays['left']['shapedirs'] = mended
        self._models = {side: HandModel(table, side, by_smplx=True) for side, table in arrays.items()}
        self._components = {side: table['hands_components'].astype(np.float64) for side, table in arrays.items()}
        self._means = {side: table['hands_mean'].astype(np.float64) for side, table in arrays.items()}

    def __contains__(self, side: str) -> bool:
        return side in self._models

    def parameters(self, side: str, pose: np.ndarray, shape: np.ndarray, translation: np.ndarray) -> ManoParameters:
        """pose: (48,) rad, the mean pose left out.  shape: (10,).  translation: (3,) metres.  `side` must be given."""
        return ManoParameters(pose + np.concatenate((np.zeros(3), self._means[side])), shape, translation)

    def without_components(self, side: str, pose: np.ndarray) -> np.ndarray:
        """Pose (48,) rad, the mean pose left out, from the orientation and 45 coefficients of principal components."""
        return np.concatenate((pose[:3], pose[3:] @ self._components[side]))

    def rest_wrist(self, side: str, shape: np.ndarray) -> np.ndarray:
        """Wrist (3,) metres of the hand of `shape` (10,) in the rest pose at translation 0; MANO turns about it."""
        return self.surface(side, ManoParameters(np.zeros(48), shape, np.zeros(3)))[1][0]

    def surface(self, side: str, mano: ManoParameters) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (778, 3) and joints (21, 3) in public order, metres, float64, in the frame of the parameters."""
        with torch.no_grad():
            surface = self._models[side](*(torch.tensor(part[None], dtype=torch.float32)
                                           for part in (mano.pose, mano.shape)))
        return tuple(part[0].double().numpy() + mano.translation for part in surface)


def moved(mano: ManoParameters, wrist: np.ndarray, transform: np.ndarray) -> ManoParameters:
    """`mano` under the rigid `transform` (4, 4). wrist: (3,) metres, where `mano` puts it before; wrist − translation
    is then its place in the rest pose, which needs no model."""
    orientation = cv2.Rodrigues(transform[:3, :3] @ cv2.Rodrigues(mano.pose[:3])[0])[0][:, 0]
    place = transform[:3, :3] @ wrist + transform[:3, 3]
    return ManoParameters(np.concatenate((orientation, mano.pose[3:])), mano.shape, place - (wrist - mano.translation))


def _arrays(path: Path, side: str) -> dict[str, np.ndarray]:
    arrays = read_arrays(path)
    stored = str(arrays.get('side', side))
    if stored != side:
        raise HandModelError(f'{path} holds a {stored} hand, asked for was the {side} one; give the other file')
    return {key: arrays[key] for key in ARRAY_SHAPES}
