"""HO-3D versions 2 and 3 (Hampali et al., CVPR 2020 and arXiv 2107.00887) as single images, in the official splits.

    ROOT/train.txt, evaluation.txt, train/<sequence>/…   see ho3d_frames.py
    ROOT/train/<sequence>/rgb/<frame>.png or .jpg         of version 2 or 3; evaluation/ alike
    ROOT/evaluation_xyz.json, evaluation_verts.json       truth of the test split, published in 2024; may be missing

meta in evaluation/ holds of the hand the wrist as handJoints3D (3,), and handBoundingBox (4,) px, its left, upper,
right and lower border. The truth lists 21 joints and 778 vertices of each image in the order of evaluation.txt, as
handJoints3D in train/.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.data.datasets.files import array, camera, choose, entry, read_json, required_dir
from hand_unc_ros.data.datasets.ho3d_frames import (
    FRAMES_PER_SECOND,
    SIZE,
    annotation,
    listed_frames,
    mano_parameters,
    to_world,
)
from hand_unc_ros.data.datasets.mano_hands import ManoHands
from hand_unc_ros.data.datasets.views import projected_view, runs
from hand_unc_ros.data.samples import ManoParameters, Sample
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.crops import BOX_EXPANSION
from hand_unc_ros.hand.joints import JOINT_COUNT, WRIST, to_public
from hand_unc_ros.hand.topology import VERTEX_COUNT

SPLITS = {'train': 'train', 'test': 'evaluation'}
_REMEDY = ('unpack HO-3D (HO3D_v2.zip or HO3D_v3.zip, and the ground truth for scores of the split test) from'
           ' https://github.com/shreyashampali/ho3d')


class Ho3dSingle:
    """One sample per image, of one view, whose camera's frame is the world; in the order of the lists.

    split: 'train' or 'test', the official evaluation set: without its truth a sample has the wrist alone and a view the
    box of the hand.  mano_model: a converted right MANO; with it samples of 'train' have vertices.
    Raises DatasetError naming what is missing.
    """

    def __init__(self, root: Path | str, split: str, mano_model: Path | str | None = None) -> None:
        choose(split, tuple(SPLITS), 'split of HO-3D')
        self._root = required_dir(Path(root), 'HO-3D, version 2 or 3', _REMEDY)
        self._hands = None if mano_model is None else ManoHands(mano_model)
        self._name = SPLITS[split]
        self._folder = required_dir(self._root / self._name, f"HO-3D's images of {self._name}", _REMEDY)
        self._frames = listed_frames(self._root / f'{self._name}.txt', _REMEDY)
        if not self._frames:
            raise DatasetError(f'{self._root / self._name}.txt lists no frames; {_REMEDY}')
        self._joints = self._truth('xyz', JOINT_COUNT) if split == 'test' else None
        self._vertices = self._truth('verts', VERTEX_COUNT) if split == 'test' else None
        self.sequences = runs([sequence for sequence, _ in self._frames])
        self.times_ns = [round(int(frame) * 1e9 / FRAMES_PER_SECOND) for _, frame in self._frames]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        sequence, frame = self._frames[index]
        folder = self._folder / sequence
        where = folder / 'meta' / f'{frame}.pkl'
        meta = annotation(folder, frame, _REMEDY)
        if meta is None or self._name == 'train' and meta['handJoints3D'] is None:
            raise DatasetError(f'{where} has no hand, as single frames of version 3 do not; leave it out')
        device = camera(sequence, SIZE, meta['camMat'], np.eye(4), str(where), _REMEDY)
        joints, vertices, mano, box = self._hand(index, folder, frame, meta)
        view = replace(projected_view(device, self._image(folder, frame), joints), box_px=box)
        return Sample(f'ho3d/{self._name}/{sequence}/{frame}', (view,), joints, vertices, mano,
                      self.times_ns[index], 'right', sequence, int(frame))

    def _hand(self, index: int, folder: Path, frame: str, meta: dict,
              ) -> tuple[np.ndarray, np.ndarray | None, ManoParameters | None, np.ndarray | None]:
        """Joints (21, 3), vertices (778, 3) and MANO's parameters in the camera's optical frame, and the box."""
        if self._name == 'train':
            mano = mano_parameters(folder, frame, meta, np.eye(4), _REMEDY)
            surface = None if self._hands is None or mano is None else self._hands.surface('right', mano)[0]
            return to_public(to_world(meta['handJoints3D'], np.eye(4)), 'smplx'), surface, mano, None
        where = folder / 'meta' / f'{frame}.pkl'
        if self._joints is not None:
            joints = to_public(to_world(self._joints[index], np.eye(4)), 'smplx')
        else:
            joints = np.full((JOINT_COUNT, 3), np.nan)
            if meta['wrist'] is not None:
                joints[WRIST] = to_world(meta['wrist'][None], np.eye(4))[0]
        vertices = None if self._vertices is None else to_world(self._vertices[index], np.eye(4))
        return joints, vertices, None, _square(entry(meta, 'handBoundingBox', where, _REMEDY), where)

    def _truth(self, what: str, count: int) -> np.ndarray | None:
        """(N, count, 3) metres as published, None where it is not there."""
        path = self._root / f'{self._name}_{what}.json'
        if not path.exists():
            return None
        return array(read_json(path, f"'{what}' of all images", _REMEDY), (len(self._frames), count, 3), str(path),
                     _REMEDY)

    @staticmethod
    def _image(folder: Path, frame: str) -> Path:
        images = [folder / 'rgb' / f'{frame}.{ending}' for ending in ('jpg', 'png')]
        found = next((image for image in images if image.is_file()), None)
        if found is None:
            raise DatasetError(f'{images[0]}: no such file, nor a png; expected an image there; {_REMEDY}')
        return found


def _square(borders: Any, where: Path) -> np.ndarray:
    """The upright box (4,), with a margin, around left, upper, right and lower border, px."""
    left, upper, right, lower = array(borders, (4,), f'{where}: handBoundingBox', _REMEDY)
    side = BOX_EXPANSION * max(right - left, lower - upper)
    if not side > 0:
        raise DatasetError(f'{where}: handBoundingBox has no extent; {_REMEDY}')
    return np.array([(left + right) / 2, (upper + lower) / 2, side, 0.0])
