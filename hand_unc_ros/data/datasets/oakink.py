"""OakInk-Image (Yang et al., CVPR 2022) with its four cameras: OakInk-MV of POEM.

    ROOT/image/anno/split/split2/seq_train.json, seq_test.json     lists of [<sequence>/<time>, subject, frame, camera]
    ROOT/image/anno/cam_intr/<sample>.pkl                          (3, 3)
    ROOT/image/anno/hand_j, hand_v/<sample>.pkl                    (21, 3) joints, (778, 3) vertices, metres, optical
                                                                   frame of the camera, joints in the public order
    ROOT/image/anno/general_info/<sample>.pkl                      cam_extr (4, 4) camera from world; hand_anno:
                                                                   hand_pose (16, 4) quaternions wxyz, hand_shape (10,)
    ROOT/image/stream_release_v2/<sequence>/<time>/<camera name>_<frame>.png

<sample> is <sequence>__<time>__<subject>__<frame>__<camera>. subject tells giver and receiver of a handover apart, both
of them right hands. general_info holds torch tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.data.datasets.files import (
    array,
    camera,
    choose,
    entry,
    read_json,
    read_pickle,
    required_dir,
    required_file,
    rigid,
)
from hand_unc_ros.data.datasets.mano_hands import ManoHands
from hand_unc_ros.data.datasets.views import inverted, projected_view, runs, transformed
from hand_unc_ros.data.samples import ManoParameters, Sample
from hand_unc_ros.errors import DatasetError

CAMERA_NAMES = ('north_east_color', 'south_east_color', 'north_west_color', 'south_west_color')
SIZE = (848, 480)
FRAMES_PER_SECOND = 30
_REMEDY = 'unpack OakInk-Image (oakink_image_v2 and anno_v2_1.zip) as docs/datasets.md of github.com/oakink/OakInk says'


class OakInk:
    """OakInk-MV, split SP2 (by objects), as a SequenceSource. World is OakInk's world frame.

    split: 'train' (OakInk's train and val) or 'test'.  mano_model: a converted right MANO; with it samples have MANO
    parameters. The lists name images with half of the joints inside; as in POEM a sample is every moment named there,
    with all four cameras. frame counts the video's frames, at nominally 30 a second.
    Raises DatasetError naming what is missing.
    """

    def __init__(self, root: Path, split: str, mano_model: Path | str | None = None) -> None:
        choose(split, ('train', 'test'), 'split of OakInk-MV')
        required_dir(root, 'OakInk', _REMEDY)
        self._annotations = required_dir(root / 'image' / 'anno', "OakInk-Image's annotations", _REMEDY)
        self._images = required_dir(root / 'image' / 'stream_release_v2', "OakInk-Image's images, version 2", _REMEDY)
        required_dir(self._annotations / 'general_info', 'cameras and poses, since anno_v2_1', _REMEDY)
        self._hands = None if mano_model is None else ManoHands(mano_model)
        where = self._annotations / 'split' / 'split2' / f'seq_{split}.json'
        listed = read_json(where, 'the list of a split', _REMEDY)
        if not isinstance(listed, list) or not listed:
            raise DatasetError(f'{where} holds no list of images; {_REMEDY}')
        self._samples = sorted({_moment(item, where) for item in listed})
        self.sequences = runs([sample[:2] for sample in self._samples])
        self.times_ns = [round(frame * 1e9 / FRAMES_PER_SECOND) for *_, frame in self._samples]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        recording, subject, frame = self._samples[index]
        sequence = f'{recording}/{subject}'
        views, joints, vertices, info = [], None, None, None
        for number, name in enumerate(CAMERA_NAMES):
            sample = f'{recording.replace("/", "__")}__{subject}__{frame}__{number}.pkl'
            where = self._annotations / 'general_info' / sample
            general = read_pickle(where, 'cameras and poses', _REMEDY)
            pose = inverted(rigid(entry(general, 'cam_extr', where, _REMEDY), f'{where}: cam_extr', _REMEDY))
            device = camera(name, SIZE, self._read('cam_intr', sample, (3, 3)), pose, str(where), _REMEDY)
            world = transformed(self._read('hand_j', sample, (21, 3)), pose)
            image = required_file(self._images / recording / f'{name}_{frame}.png', 'an image', _REMEDY)
            views.append(projected_view(device, image, world))
            if number == 0:
                joints = world
                vertices = transformed(self._read('hand_v', sample, (778, 3)), pose)
                info = (entry(general, 'hand_anno', where, _REMEDY), where)
        return Sample(
            name=f'{sequence}/{frame}', views=tuple(views), joints=joints, vertices=vertices,
            mano=self._mano(*info, joints[0]), time_ns=self.times_ns[index], sequence=sequence,
            frame=frame)

    def _read(self, folder: str, sample: str, shape: tuple[int, ...]) -> np.ndarray:
        where = self._annotations / folder / sample
        return array(read_pickle(where, f'an array {shape}', _REMEDY), shape, str(where), _REMEDY)

    def _mano(self, annotation: Any, where: Path, wrist: np.ndarray) -> ManoParameters | None:
        """Parameters in the world, the translation such that the wrist is at `wrist`.

        hand_tsl is of a hand centred on its wrist, so the wrist in the rest pose has to come from the model.
        """
        if self._hands is None:
            return None
        quaternions, shape = (array(entry(annotation, key, where, _REMEDY), size, f'{where}: {key}', _REMEDY)
                              for key, size in (('hand_pose', (16, 4)), ('hand_shape', (10,))))
        return ManoParameters(_axis_angle(quaternions).ravel(), shape, wrist - self._hands.rest_wrist('right', shape))


def _moment(item: Any, where: Path) -> tuple[str, int, int]:
    """(recording, subject, frame) of one entry of a list."""
    if (not isinstance(item, list) or [type(part) for part in item] != [str, int, int, int]
            or item[0].count('/') != 1 or not 0 <= item[3] < len(CAMERA_NAMES)):
        raise DatasetError(f'{where}: entry {item!r}, expected [<sequence>/<time>, subject, frame, camera]; {_REMEDY}')
    return item[0], item[1], item[2]


def _axis_angle(quaternions: np.ndarray) -> np.ndarray:
    """(N, 3) rad from quaternions (N, 4), w first, of any length above 0."""
    w, xyz = quaternions[:, :1], quaternions[:, 1:]
    sine = np.linalg.norm(xyz, axis=1, keepdims=True)
    angle = 2 * np.arctan2(sine, np.abs(w))
    return np.where(w < 0, -1.0, 1.0) * xyz * angle / np.where(sine > 0, sine, 1.0)
