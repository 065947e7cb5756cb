"""FreiHAND: single images of right hands with 3D joints and MANO's surface, in the camera's frame.

Format after the official tools (https://github.com/lmb-freiburg/freihand, utils/fh_utils.py): `training_K.json`,
`training_xyz.json` (21 joints, metres, public order), `training_verts.json` for 32,560 hands, and
`training/rgb/NNNNNNNN.jpg`, 224×224, four of each hand: before the green screen, and three with other backgrounds, the
numbers of each behind those of the one before. `evaluation_…` alike, with one image of each hand; its joints and
vertices were published later than its images and need not be there.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hand_unc_ros.data.datasets.files import array, camera, choose, read_json, required_dir
from hand_unc_ros.data.datasets.views import projected_view
from hand_unc_ros.data.samples import Sample
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.topology import VERTEX_COUNT

REMEDY = ('unpack FreiHAND_pub_v2.zip (and FreiHAND_pub_v2_eval.zip for the split test) from'
          ' https://lmb.informatik.uni-freiburg.de/projects/freihand')
SPLITS = {'train': 'training', 'test': 'evaluation'}
# Backgrounds of the training images, in the order of their numbers: green screen, harmonised, coloured by a sample and
# automatically.
BACKGROUNDS = ('gs', 'hom', 'sample', 'auto')
_IMAGE_SIZE = (224, 224)
_WHOLE_IMAGE = np.array([111.5, 111.5, 224.0, 0.0])


class FreiHand:
    """One sample per image, of one view, whose camera's frame is the world; in the order of the numbers. The box of a
    hand is the whole image, which was cut around it.

    split: 'train' or 'test'.  background: one of BACKGROUNDS, or 'all' for all four; of training images alone.
    vertices: read the surface too; the file of the training set has more than a gigabyte.
    Raises DatasetError naming what is missing.
    """

    def __init__(self, root: Path | str, split: str, background: str = 'all', vertices: bool = False) -> None:
        choose(split, tuple(SPLITS), 'split of FreiHAND')
        choose(background, (*BACKGROUNDS, 'all'), 'background of FreiHAND')
        self._root, self._name = Path(root), SPLITS[split]
        self._folder = required_dir(self._root / self._name / 'rgb', f"FreiHAND's {self._name} images", REMEDY)
        self._K = self._table('K', (-1, 3, 3))
        count = len(self._K)
        self._joints = np.full((count, JOINT_COUNT, 3), np.nan)
        if split == 'train' or (self._root / f'{self._name}_xyz.json').exists():
            self._joints = self._table('xyz', self._joints.shape)
        self._vertices = self._table('verts', (count, VERTEX_COUNT, 3)) if vertices else None
        kinds = range(len(BACKGROUNDS)) if background == 'all' else (BACKGROUNDS.index(background),)
        # Images of one hand follow each other.
        self._rows = [(hand, hand + kind * count) for hand in range(count)
                      for kind in (kinds if split == 'train' else (0,))]
        if not self._rows:
            raise DatasetError(f"{self._root / f'{self._name}_K.json'} lists no hands; {REMEDY}")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        hand, number = self._rows[index]
        joints = self._joints[hand]
        where = f'{self._root / f"{self._name}_K.json"}: hand {hand}'
        source = camera('cam0', _IMAGE_SIZE, self._K[hand], np.eye(4), where, REMEDY)
        view = replace(projected_view(source, self._folder / f'{number:08d}.jpg', joints), box_px=_WHOLE_IMAGE)
        surface = None if self._vertices is None else self._vertices[hand]
        return Sample(f'freihand/{self._name}/{number:08d}', (view,), joints, surface, None, 0, 'right',
                      f'{hand:08d}', 0)

    def _table(self, what: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self._root / f'{self._name}_{what}.json'
        return array(read_json(path, f"'{what}' of all hands", REMEDY), shape, str(path), REMEDY)
