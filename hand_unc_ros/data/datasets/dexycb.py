"""DexYCB (Chao et al., CVPR 2021) with its eight cameras: DexYCB-MV of POEM (Yang et al., CVPR 2023).

    ROOT/calibration/intrinsics/<serial>_640x480.yml      color: {fx, fy, ppx, ppy}
    ROOT/calibration/extrinsics_<id>/extrinsics.yml       extrinsics: {<serial>: 12 numbers, 3×4 by rows}
    ROOT/calibration/mano_<id>/mano.yml                   betas: 10 numbers
    ROOT/<subject>/<sequence>/meta.yml                    num_frames, extrinsics, mano_sides, mano_calib
    ROOT/<subject>/<sequence>/pose.npz                    pose_m (frames, hands, 51), zeros where there is no hand
    ROOT/<subject>/<sequence>/<serial>/color_<6 digits>.jpg, labels_<6 digits>.npz

Extrinsics map from a camera to the master camera, whose frame is the world here. A label file holds joint_3d (1, 21, 3)
metres in the camera's optical frame, joint_2d (1, 21, 2) pixels, both in the public order and −1 where the hand is not
visible or not annotated, and pose_m (1, 51): global orientation, 45 coefficients of MANO's principal components,
translation; zeros where there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from hand_unc_ros.data.datasets.files import (
    array,
    camera,
    choose,
    entry,
    read_npz_no_pickle,
    read_yaml,
    required_dir,
    required_file,
    rigid,
)
from hand_unc_ros.data.datasets.mano_hands import ManoHands, moved
from hand_unc_ros.data.datasets.views import runs, transformed
from hand_unc_ros.data.samples import ManoParameters, Sample, SampleView
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.geometry.cameras import Camera

SUBJECTS = (
    '20200709-subject-01', '20200813-subject-02', '20200820-subject-03', '20200903-subject-04', '20200908-subject-05',
    '20200918-subject-06', '20200928-subject-07', '20201002-subject-08', '20201015-subject-09', '20201022-subject-10',
)
SERIALS = ('836212060125', '839512060362', '840412060917', '841412060263',
           '932122060857', '932122060861', '932122061900', '932122062010')
# POEM takes the truth from this camera; the others hold the same hand.
_FIRST = '840412060917'
SEQUENCES_PER_SUBJECT = 100
SIZE = (640, 480)
FRAMES_PER_SECOND = 30
_REMEDY = 'unpack all archives of DexYCB (20201205) from https://dex-ycb.github.io into one directory'


class _Recording(NamedTuple):
    """One sequence. path: below the root.  side: of its only hand.  extrinsics, mano: names of its calibrations."""

    path: str
    side: str
    extrinsics: str
    mano: str


class _Labels(NamedTuple):
    """One camera's labels. joints (21, 3) metres, optical frame.  joints_px (21, 2).  pose (51,)."""

    joints: np.ndarray
    joints_px: np.ndarray
    pose: np.ndarray


class DexYcb:
    """DexYCB, setup S0 (all subjects, cameras and objects seen), as a SequenceSource.

    split: 'train' (of each subject's sequences in order of name, those whose place is not 4 modulo 5), 'val' (the
    others of subjects 1 and 2), 'test' (the others of subjects 3 to 10).  side: 'right' as in POEM, or 'left'.
    mano_model: a converted MANO of that side; with it samples have MANO parameters and vertices.

    A sample is a frame in which POEM's first camera sees the hand; other cameras that do not are left out. To find
    these frames one label file per frame is looked into when the source is made.
    Raises DatasetError naming what is missing.
    """

    def __init__(self, root: Path, split: str, side: str = 'right', mano_model: Path | str | None = None) -> None:
        choose(split, ('train', 'val', 'test'), 'split of DexYCB')
        choose(side, ('right', 'left'), 'side')
        self._root = required_dir(root, 'DexYCB', _REMEDY)
        required_dir(root / 'calibration', "DexYCB's calibration", _REMEDY)
        self._hands = None if mano_model is None else ManoHands(**{'right': None, side: mano_model})
        self._intrinsics = {serial: self._read_intrinsics(serial) for serial in SERIALS}
        self._rigs: dict[str, dict[str, Camera]] = {}
        self._betas: dict[str, np.ndarray] = {}
        self._samples = [(recording, frame) for recording in self._recordings(split) if recording.side == side
                         for frame in self._frames(recording)]
        if not self._samples:
            raise DatasetError(f"{root}: no frame of split '{split}' shows a {side} hand; {_REMEDY}")
        self.sequences = runs([recording for recording, _ in self._samples])
        self.times_ns = [round(frame * 1e9 / FRAMES_PER_SECOND) for _, frame in self._samples]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        recording, frame = self._samples[index]
        cameras = self._cameras(recording.extrinsics)
        views, first, left_out = [], None, []
        for serial in (_FIRST, *(serial for serial in SERIALS if serial != _FIRST)):
            labels = self._labels(recording, serial, frame)
            if labels is None:
                left_out.append(serial)
                continue
            first = first or labels
            image = required_file(self._root / recording.path / serial / f'color_{frame:06d}.jpg', 'an image', _REMEDY)
            views.append(SampleView(cameras[serial], image, labels.joints_px, np.ones(21, dtype=bool)))
        pose = cameras[_FIRST].world_from_camera
        mano = self._mano(recording, first, pose)
        return Sample(
            name=f'{recording.path}/{frame:06d}', views=tuple(views), joints=transformed(first.joints, pose),
            vertices=None if mano is None else self._hands.surface(recording.side, mano)[0], mano=mano,
            time_ns=self.times_ns[index], side=recording.side, sequence=recording.path, frame=frame,
            left_out=tuple(left_out))

    def _recordings(self, split: str) -> list[_Recording]:
        subjects = {'train': SUBJECTS, 'val': SUBJECTS[:2], 'test': SUBJECTS[2:]}[split]
        recordings = []
        for subject in subjects:
            folder = required_dir(self._root / subject, 'the sequences of a subject', _REMEDY)
            names = sorted(path.name for path in folder.iterdir() if path.is_dir())
            if len(names) != SEQUENCES_PER_SUBJECT:
                raise DatasetError(f'{folder} has {len(names)} sequences, expected {SEQUENCES_PER_SUBJECT}, by whose '
                                   f'order the splits are made; {_REMEDY}')
            recordings += [self._recording(f'{subject}/{name}') for place, name in enumerate(names)
                           if (place % 5 == 4) == (split != 'train')]
        return recordings

    def _recording(self, path: str) -> _Recording:
        where = self._root / path / 'meta.yml'
        meta = read_yaml(where, 'the description of a sequence', _REMEDY)
        sides, mano = (entry(meta, key, where, _REMEDY) for key in ('mano_sides', 'mano_calib'))
        if not isinstance(sides, list) or not isinstance(mano, list) or len(sides) != 1 or len(mano) != 1:
            raise DatasetError(f'{where}: mano_sides and mano_calib must each name one hand; {_REMEDY}')
        return _Recording(path, choose(sides[0], ('right', 'left'), f'side in {where}'),
                          str(entry(meta, 'extrinsics', where, _REMEDY)), str(mano[0]))

    def _frames(self, recording: _Recording) -> list[int]:
        where = self._root / recording.path / 'pose.npz'
        poses = read_npz_no_pickle(where, ['pose_m'], "a sequence's poses (pose_m)", _REMEDY)['pose_m']
        poses = array(poses, (-1, 1, 51), f'{where}: pose_m', _REMEDY)
        return [int(frame) for frame in np.flatnonzero(poses.any(axis=(1, 2)))
                if self._labels(recording, _FIRST, frame) is not None]

    def _labels(self, recording: _Recording, serial: str, frame: int) -> _Labels | None:
        """Labels, or None where the camera does not see the hand."""
        where = self._root / recording.path / serial / f'labels_{frame:06d}.npz'
        shapes = {'joint_3d': (1, 21, 3), 'joint_2d': (1, 21, 2), 'pose_m': (1, 51)}
        content = read_npz_no_pickle(where, list(shapes), "a camera's labels", _REMEDY)
        joints, joints_px, pose = (array(content[key], shape, f'{where}: {key}', _REMEDY)[0]
                                   for key, shape in shapes.items())
        return None if (joints == -1).all() or (joints_px == -1).all() else _Labels(joints, joints_px, pose)

    def _mano(self, recording: _Recording, labels: _Labels, world_from_camera: np.ndarray) -> ManoParameters | None:
        if self._hands is None or not labels.pose.any():
            return None
        if recording.mano not in self._betas:
            where = self._root / 'calibration' / f'mano_{recording.mano}' / 'mano.yml'
            betas = entry(read_yaml(where, "a subject's hand shape", _REMEDY), 'betas', where, _REMEDY)
            self._betas[recording.mano] = array(betas, (10,), f'{where}: betas', _REMEDY)
        pose = self._hands.without_components(recording.side, labels.pose[:48])
        local = self._hands.parameters(recording.side, pose, self._betas[recording.mano], labels.pose[48:])
        return moved(local, labels.joints[0], world_from_camera)

    def _read_intrinsics(self, serial: str) -> np.ndarray:
        where = self._root / 'calibration' / 'intrinsics' / f'{serial}_{SIZE[0]}x{SIZE[1]}.yml'
        color = entry(read_yaml(where, "a camera's intrinsics", _REMEDY), 'color', where, _REMEDY)
        fx, fy, cx, cy = array([entry(color, key, where, _REMEDY) for key in ('fx', 'fy', 'ppx', 'ppy')], (4,),
                               f'{where}: color', _REMEDY)
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])

    def _cameras(self, extrinsics: str) -> dict[str, Camera]:
        if extrinsics not in self._rigs:
            where = self._root / 'calibration' / f'extrinsics_{extrinsics}' / 'extrinsics.yml'
            table = entry(read_yaml(where, 'the poses of the cameras', _REMEDY), 'extrinsics', where, _REMEDY)
            rig = {}
            for serial in SERIALS:
                rows = array(entry(table, serial, where, _REMEDY), (12,), f'{where}: {serial}', _REMEDY)
                pose = rigid(rows.reshape(3, 4), f'{where}: {serial}', _REMEDY)
                rig[serial] = camera(serial, SIZE, self._intrinsics[serial], pose, str(where), _REMEDY)
            self._rigs[extrinsics] = rig
        return self._rigs[extrinsics]
