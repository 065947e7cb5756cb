"""What the readers of HO-3D share: its lists of frames, a frame's annotation, and its axes.

    ROOT/train.txt, evaluation.txt                        lines <sequence>/<frame>, such as ABF10/0000
    ROOT/train/<sequence>/meta/<frame>.pkl                evaluation/ alike, of the hand only the wrist

meta holds camMat (3, 3), handJoints3D (21, 3) metres in smplx's order, handPose (48,) axis-angle rad with the mean
pose added, handBeta (10,), handTrans (3,), all in the camera's OpenGL frame (x right, y up, z backward).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hand_unc_ros.data.datasets.files import array, entry, read_pickle, read_text
from hand_unc_ros.data.datasets.mano_hands import moved
from hand_unc_ros.data.datasets.views import transformed
from hand_unc_ros.data.samples import ManoParameters
from hand_unc_ros.errors import DatasetError

SIZE = (640, 480)
FRAMES_PER_SECOND = 30
OPTICAL_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def listed_frames(where: Path, remedy: str) -> list[tuple[str, str]]:
    """Sequence and frame of each line of train.txt or evaluation.txt, in its order. Raises DatasetError."""
    found = []
    for number, line in enumerate(read_text(where, 'the list of frames', remedy).split(), 1):
        sequence, slash, frame = line.partition('/')
        if not slash or not frame.isdecimal() or not sequence:
            raise DatasetError(f"{where}: entry {number} is '{line}', expected <sequence>/<frame>; {remedy}")
        found.append((sequence, frame))
    return found


def annotation(folder: Path, frame: str, remedy: str) -> dict | None:
    """A frame's meta: camMat (3, 3), handJoints3D (21, 3) metres, smplx's order, OpenGL frame, None where there are not
    all joints, and as `wrist` (3,) the one that is there then.

    None for a camera without an annotation: single frames of single cameras have no file, or one of Nones.
    Raises DatasetError.
    """
    where = folder / 'meta' / f'{frame}.pkl'
    if not where.exists() and where.parent.is_dir():
        return None
    meta = read_pickle(where, "a frame's annotation", remedy)
    K, joints = (entry(meta, key, where, remedy) for key in ('camMat', 'handJoints3D'))
    if K is None and joints is None:
        return None
    alone, what = joints is not None and np.size(joints) == 3, f'{where}: handJoints3D'
    return {**meta, 'camMat': array(K, (3, 3), f'{where}: camMat', remedy),
            'handJoints3D': None if joints is None or alone else array(joints, (21, 3), what, remedy),
            'wrist': array(joints, (3,), what, remedy) if alone else None}


def mano_parameters(folder: Path, frame: str, meta: dict, world_from_camera: np.ndarray,
                    remedy: str) -> ManoParameters | None:
    """MANO's parameters in the world, of an annotation with joints; None where it has none. Raises DatasetError."""
    if meta.get('handPose') is None:
        return None
    where = folder / 'meta' / f'{frame}.pkl'
    pose, shape, translation = (array(entry(meta, key, where, remedy), size, f'{where}: {key}', remedy) for
                                key, size in (('handPose', (48,)), ('handBeta', (10,)), ('handTrans', (3,))))
    local = ManoParameters(pose, shape, translation)
    return moved(local, meta['handJoints3D'][0], world_from_camera @ OPTICAL_FROM_OPENGL)


def to_world(joints: np.ndarray, world_from_camera: np.ndarray) -> np.ndarray:
    """(N, 3) metres from a camera's OpenGL frame to the world, by the pose (4, 4) of its optical frame."""
    return transformed(joints, world_from_camera @ OPTICAL_FROM_OPENGL)
