"""HO-3D's files of single images, as the authors' scripts read them, with a truth that tests know."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from reader_cases import Hand, hand, intrinsics, projected, ring_poses, write_image

from hand_unc_ros.hand.joints import from_public

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
TRAIN = ('MC1/0001', 'ABF10/0000', 'MC1/0002')
# Not in the order of their names: that of the list counts.
TEST = ('SM1/0003', 'AP11/0007', 'AP10/0007', 'SM1/0004')


def seen(name: str) -> Hand:
    """The hand of an image, in the optical frame of its camera."""
    number = sum(map(ord, name))
    return hand(number).seen_from(np.linalg.inv(ring_poses(5)[number % 5]))


def in_opengl(name: str) -> Hand:
    """The same in the frame of the dataset's files."""
    return seen(name).seen_from(FLIP)


def camera_matrix(name: str) -> np.ndarray:
    return intrinsics(sum(map(ord, name)) % 5)


def borders(name: str) -> list[int]:
    """handBoundingBox: of the joints."""
    px = projected(camera_matrix(name), seen(name).joints)
    return [*np.floor(px.min(0)).astype(int).tolist(), *np.ceil(px.max(0)).astype(int).tolist()]


def write_ho3d(root: Path, ending: str) -> Path:
    """A tree of version 2 (png) or 3 (jpg), without the truth of its evaluation set."""
    for folder, names in (('train', TRAIN), ('evaluation', TEST)):
        (root / f'{folder}.txt').parent.mkdir(parents=True, exist_ok=True)
        (root / f'{folder}.txt').write_text('\n'.join(names) + '\n')
        for name in names:
            sequence, frame = name.split('/')
            write_image(root / folder / sequence / 'rgb' / f'{frame}.{ending}')
            write_meta(root / folder / sequence / 'meta' / f'{frame}.pkl', name, folder == 'train')
    return root


def write_meta(path: Path, name: str, whole: bool) -> None:
    """An annotation, of all joints or of the wrist."""
    here = in_opengl(name)
    meta = {'camMat': camera_matrix(name), 'objName': '021_bleach_cleanser', 'objRot': np.zeros((3, 1))}
    if whole:
        meta |= {'handJoints3D': from_public(here.joints, 'smplx').astype(np.float32), 'handPose': here.pose,
                 'handBeta': here.shape, 'handTrans': here.translation}
    else:
        meta |= {'handJoints3D': here.joints[0], 'handBoundingBox': borders(name)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(meta, protocol=2))


def write_truth(root: Path) -> None:
    """evaluation_xyz.json and evaluation_verts.json as the authors' eval.py reads them."""
    hands = [in_opengl(name) for name in TEST]
    (root / 'evaluation_xyz.json').write_text(json.dumps([from_public(one.joints, 'smplx').tolist() for one in hands]))
    (root / 'evaluation_verts.json').write_text(json.dumps([one.vertices.tolist() for one in hands]))
