"""HO-3D version 3 (Hampali et al., CVPR 2020 and arXiv 2107.00887) with its five cameras: HO3D-MV of POEM.

    ROOT/train.txt, evaluation.txt, train/<sequence>/…    see ho3d_frames.py
    ROOT/train/<sequence>/rgb/<frame>.jpg                 evaluation/ alike
    ROOT/calibration/<group>/calibration/cam_orders.txt   five numbers, see below
    ROOT/calibration/<group>/calibration/trans_<i>.txt    4×4, world from optical camera frame, metres

A group such as ABF1 was seen by five cameras at once; the last digit of its sequences ABF10 … ABF14 is the camera.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hand_unc_ros.data.datasets.files import array, camera, choose, read_text, required_dir, required_file, rigid
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
from hand_unc_ros.data.samples import Sample
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.joints import to_public

GROUPS = {'train': ('ABF1', 'BB1', 'GSF1', 'MDF1', 'SiBF1'), 'test': ('GPMF1', 'SB1')}
CAMERAS = 5
# POEM takes the truth from this camera where it is annotated.
_FIRST = 2
# Cameras that agree place the wrist within millimetres of each other; exchanged ones by decimetres apart.
_LARGEST_DISAGREEMENT_M = 0.05
_REMEDY = 'unpack HO-3D v3 (HO3D_v3.zip and its calibration) from https://github.com/shreyashampali/ho3d'


class Ho3d:
    """HO3D-MV as a SequenceSource. World is the frame of the group's calibration.

    split: 'train' (ABF1, BB1, GSF1, MDF1, SiBF1) or 'test' (GPMF1, SB1).  mano_model: a converted right MANO; with it
    samples have vertices.  Every frame listed in train.txt or evaluation.txt with at least two cameras, one of them in
    train/, is a sample. Two of SB1's sequences are in evaluation/ without joints; as in POEM, theirs come from the
    other cameras through the calibration. A camera without an annotation is left out of its sample.
    Raises DatasetError naming what is missing.
    """

    def __init__(self, root: Path, split: str, mano_model: Path | str | None = None) -> None:
        choose(split, tuple(GROUPS), 'split of HO3D-MV')
        self._root = required_dir(root, 'HO-3D v3', _REMEDY)
        required_dir(root / 'calibration', "HO-3D v3's calibration (version 2 has none)", _REMEDY)
        self._hands = None if mano_model is None else ManoHands(mano_model)
        self._rigs: dict[str, list[np.ndarray]] = {}
        self._samples: list[tuple[str, str, dict[int, Path]]] = []
        listed = self._listed()
        for group in GROUPS[split]:
            frames = sorted(listed[group].items(), key=lambda item: int(item[0]))
            moments = [(group, frame, folders) for frame, folders in frames
                       if len(folders) > 1 and any(path.parent.name == 'train' for path in folders.values())]
            if not moments:
                raise DatasetError(f'{root}: train.txt lists no frames of {group}0 … {group}4; {_REMEDY}')
            self._samples += moments
        self.sequences = runs([group for group, *_ in self._samples])
        self.times_ns = [round(int(frame) * 1e9 / FRAMES_PER_SECOND) for _, frame, _ in self._samples]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        group, frame, folders = self._samples[index]
        metas = {number: meta for number, folder in folders.items()
                 if (meta := annotation(folder, frame, _REMEDY)) is not None}
        if len(metas) < 2:
            raise DatasetError(f'{self._root}: {len(metas)} of {len(folders)} cameras of {group}, frame {frame} have an '
                               f'annotation, 2 are needed; {_REMEDY}')
        annotated = [number for number, meta in metas.items() if meta['handJoints3D'] is not None]
        if not annotated:
            raise DatasetError(f'{self._root}: no camera of {group}, frame {frame} has all joints annotated; {_REMEDY}')
        truth = _FIRST if _FIRST in annotated else min(annotated)
        poses = self._poses(group, metas)
        world = to_public(to_world(metas[truth]['handJoints3D'], poses[truth]), 'smplx')
        views = []
        for number in sorted(metas, key=lambda number: (number != truth, number)):
            name = folders[number].name
            device = camera(name, SIZE, metas[number]['camMat'], poses[number],
                            str(folders[number] / 'meta' / f'{frame}.pkl'), _REMEDY)
            own = metas[number]['handJoints3D']
            joints = world if own is None else to_public(to_world(own, poses[number]), 'smplx')
            views.append(projected_view(device, self._image(folders[number], frame), joints))
        mano = mano_parameters(folders[truth], frame, metas[truth], poses[truth], _REMEDY)
        return Sample(
            name=f'{group}/{frame}', views=tuple(views), joints=world,
            vertices=None if self._hands is None or mano is None else self._hands.surface('right', mano)[0], mano=mano,
            time_ns=self.times_ns[index], sequence=group, frame=int(frame),
            left_out=tuple(folder.name for number, folder in sorted(folders.items()) if number not in metas))

    def _listed(self) -> dict[str, dict[str, dict[int, Path]]]:
        """Folder of each camera's sequence, by group, frame and camera."""
        listed = {group: {} for groups in GROUPS.values() for group in groups}
        for folder in ('train', 'evaluation'):
            for sequence, frame in listed_frames(self._root / f'{folder}.txt', _REMEDY):
                if sequence[:-1] in listed and sequence[-1] in '01234':
                    views = listed[sequence[:-1]].setdefault(frame, {})
                    views[int(sequence[-1])] = self._root / folder / sequence
        return listed

    def _poses(self, group: str, metas: dict[int, dict]) -> list[np.ndarray]:
        """(4, 4) world from optical camera frame of cameras 0 … 4, found by the first frame that two cameras annotate.

        cam_orders.txt is read in two ways: the authors' vis_pcl_all_cameras.py takes its place i as camera order[i],
        POEM takes camera i at place order[i]. The annotations tell which one holds.
        """
        if group not in self._rigs:
            folder = required_dir(self._root / 'calibration' / group / 'calibration', "a group's calibration", _REMEDY)
            files = [folder / f'trans_{i}.txt' for i in range(CAMERAS)]
            places = [rigid(_numbers(file, 16).reshape(4, 4), str(file), _REMEDY) for file in files]
            order = _numbers(folder / 'cam_orders.txt', CAMERAS)
            if sorted(order) != list(range(CAMERAS)):
                raise DatasetError(f'{folder / "cam_orders.txt"} must hold each of 0 … 4 once; {_REMEDY}')
            readings = [[places[int(i)] for i in numbers] for numbers in (np.argsort(order), order)]
            apart = [_disagreement(metas, poses) for poses in readings]
            if min(apart) > _LARGEST_DISAGREEMENT_M:
                raise DatasetError(f'{folder}: with these camera poses the annotations of the cameras place the wrist '
                                   f'{100 * min(apart):.0f} cm apart; {_REMEDY}')
            reading = readings[int(np.argmin(apart))]
            if sum(meta['handJoints3D'] is not None for meta in metas.values()) < 2:
                return reading
            self._rigs[group] = reading
        return self._rigs[group]

    @staticmethod
    def _image(folder: Path, frame: str) -> Path:
        image = folder / 'rgb' / f'{frame}.jpg'
        if not image.is_file() and image.with_suffix('.png').is_file():
            raise DatasetError(f'{image} is a png here, as in HO-3D version 2; expected version 3; {_REMEDY}')
        return required_file(image, 'an image', _REMEDY)


def _disagreement(metas: dict[int, dict], poses: list[np.ndarray]) -> float:
    """Largest distance, metres, from the mean of the wrists that the cameras' own annotations give."""
    wrists = np.stack([to_world(meta['handJoints3D'], poses[number])[0] for number, meta in metas.items()
                       if meta['handJoints3D'] is not None])
    return float(np.linalg.norm(wrists - wrists.mean(axis=0), axis=1).max())


def _numbers(where: Path, count: int) -> np.ndarray:
    """The `count` numbers of a text file."""
    text = read_text(where, 'numbers of the calibration', _REMEDY)
    return array(text.split(), (count,), str(where), _REMEDY)
