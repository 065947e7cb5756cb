"""The Rendered Hand Pose Dataset (Zimmermann and Brox, ICCV 2017): single images of rendered people with both hands.

Format after the authors' tools (https://github.com/lmb-freiburg/hand3d, create_binary_db.py, data/BinaryDbReader.py):

    ROOT/training/anno_training.pickle         a table for each image, by its number, see below
    ROOT/training/color/NNNNN.png              320×320
    ROOT/training/mask/NNNNN.png               0 background, 1 person, 2 … 17 the left hand's parts, 18 … 33 the right's
    ROOT/evaluation/…                          the same; 41,258 and 2,728 images

A table holds K (3, 3), xyz (42, 3) metres in the camera's frame and uv_vis (42, 3), px and whether a joint is seen: 21
joints of the left hand, then 21 of the right one, each the wrist, then the fingers from tip to base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.data.datasets.files import array, camera, choose, entry, read_bytes, read_pickle, required_dir
from hand_unc_ros.data.encoded_images import decode_stored
from hand_unc_ros.data.samples import Sample, SampleView
from hand_unc_ros.errors import DatasetError, ImageFormatError
from hand_unc_ros.hand.joints import JOINT_COUNT, to_public

REMEDY = ('unpack RHD_v1-1.zip from'
          ' https://lmb.informatik.uni-freiburg.de/resources/datasets/RenderedHandposeDataset.en.html')
SPLITS = {'train': 'training', 'test': 'evaluation'}
HANDS = ('dominant', 'both')
SIDES = ('left', 'right')
_SIZE = (320, 320)
# The training set's table holds so many frames that it is this many times larger than those of other datasets may be.
_TIMES = 24
# A hand of which less is seen is no sample of `both`.
_LEAST_SEEN = 11
# Labels of the mask from which on a pixel is of the left and of the right hand.
_FIRST_LABEL = {'left': 2, 'right': 18}
# The published pixels of seen joints are projections of the published joints; this is their median difference.
_LARGEST_OFFSET_PX = 5.0


class RenderedHands:
    """One sample per hand, of one view, whose camera's frame is the world; in the order of the images' numbers.

    split: 'train' or 'test'.  hands: 'dominant', of each image the hand with more pixels in its mask, the authors' and
    the literature's protocol; or 'both', each hand of which at least 11 joints are seen.
    Opening reads all labels. Raises DatasetError naming what is missing.
    """

    def __init__(self, root: Path | str, split: str, hands: str = 'dominant') -> None:
        choose(split, tuple(SPLITS), 'split of RHD')
        choose(hands, HANDS, 'choice of hands')
        self._name = SPLITS[split]
        self._folder = required_dir(Path(root) / self._name, f"RHD's {self._name} images", REMEDY)
        self._where = self._folder / f'anno_{self._name}.pickle'
        table = read_pickle(self._where, 'the labels of all images', REMEDY, _TIMES)
        if not isinstance(table, dict) or not table or not all(type(number) is int for number in table):
            raise DatasetError(f'{self._where} holds no table of images by their numbers; {REMEDY}')
        self._numbers = sorted(table)
        labels = [table.pop(number) for number in self._numbers]
        self._xyz, self._uv_vis, self._K = (
            np.stack([self._label(number, one, key, shape) for number, one in zip(self._numbers, labels)])
            for key, shape in (('xyz', (42, 3)), ('uv_vis', (42, 3)), ('K', (3, 3))))
        # A side is found in the mask when it is asked for.
        self._rows: list[tuple[int, str]] = [(row, '') for row in range(len(labels))]
        if hands == 'both':
            self._rows = [(row, side) for row, seen in enumerate(self._uv_vis[..., 2] > 0) for side in SIDES
                          if seen[_half(side)].sum() >= _LEAST_SEEN]
        self.sequences = [(index, index + 1) for index in range(len(self._rows))]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row, side = self._rows[index]
        number = self._numbers[row]
        side = side or self._dominant(number)
        what = f'{self._where}: image {number}'
        joints, labels = (to_public(part[row, _half(side)], 'rhd') for part in (self._xyz, self._uv_vis))
        device = camera('cam0', _SIZE, self._K[row], np.eye(4), what, REMEDY)
        px, seen = labels[:, :2], labels[:, 2] > 0
        offset = np.linalg.norm(device.project(joints)[0] - px, axis=1)[seen]
        if len(offset) and not np.median(offset) <= _LARGEST_OFFSET_PX:
            raise DatasetError(f"{what}: the joints' pixels are no projections of the joints; {REMEDY}")
        view = SampleView(device, self._folder / 'color' / f'{number:05d}.png', px, seen)
        return Sample(f'rhd/{self._name}/{number:05d}/{side}', (view,), joints, side=side, sequence=f'{number:05d}')

    def _dominant(self, number: int) -> str:
        """The side with more pixels in an image's mask; the right one where they have as many, as in the tools."""
        path = self._folder / 'mask' / f'{number:05d}.png'
        try:
            labels = decode_stored(read_bytes(path, 'the mask of an image', REMEDY), str(path))
        except ImageFormatError as error:
            raise DatasetError(f'{error}; {REMEDY}') from error
        if labels.shape != _SIZE[::-1]:
            raise DatasetError(f'{path} is no mask of {_SIZE[0]}×{_SIZE[1]} pixels with one label each; {REMEDY}')
        right = int((labels >= _FIRST_LABEL['right']).sum())
        left = int((labels >= _FIRST_LABEL['left']).sum()) - right
        return 'left' if left > right else 'right'

    def _label(self, number: int, table: Any, key: str, shape: tuple[int, int]) -> np.ndarray:
        where = f'{self._where}: {key} of image {number}'
        return array(entry(table, key, where, REMEDY), shape, where, REMEDY)


def _half(side: str) -> slice:
    return slice(0, JOINT_COUNT) if side == 'left' else slice(JOINT_COUNT, 2 * JOINT_COUNT)
