"""HO-3D v3's reader on a tree in the layout of the authors' scripts, written here."""

import os
import pickle
import shutil

import numpy as np
import pytest
from reader_cases import (
    check_mano,
    check_sample,
    hand,
    intrinsics,
    projected,
    ring_poses,
    write_image,
    write_mano,
)

from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.joints import from_public

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
FRAMES = {'ABF1': ('0000', '0002', '0010'), 'BB1': ('0005',), 'GSF1': ('0001',), 'MDF1': ('0001',), 'SiBF1': ('0001',),
          'GPMF1': ('0003', '0004'), 'SB1': ('0007', '0008')}
# SB1's cameras 1 and 3 are in the evaluation set; camera 4 of ABF1 has no frame 0010.
EVALUATION, ABSENT = ('SB11', 'SB13'), ('ABF14', '0010')
# Not its own inverse, so that both readings of cam_orders.txt differ.
ORDER = np.array([1, 3, 2, 4, 0])
# Numbers of the calibration have 6 decimals: a micrometre at 0.9 m and 610 px/rad.
ROUNDED = {'pixels': 5e-3, 'metres': 5e-6}


def truth(group, frame):
    return hand(sum(map(ord, group)) + int(frame))


def annotation(group, number, frame):
    """What meta holds for camera `number`: the hand in its OpenGL frame."""
    here = truth(group, frame).seen_from(FLIP @ np.linalg.inv(ring_poses(5)[number]))
    meta = {'camMat': intrinsics(number), 'objName': '021_bleach_cleanser', 'objRot': np.zeros((3, 1))}
    if f'{group}{number}' in EVALUATION:
        return {**meta, 'handJoints3D': here.joints[0], 'handBoundingBox': [10, 20, 100, 120]}
    return {**meta, 'handJoints3D': from_public(here.joints, 'smplx'), 'handPose': here.pose, 'handBeta': here.shape,
            'handTrans': here.translation, 'handVertContact': np.zeros(778, bool)}


def write_calibration(root, group, order_of_places):
    folder = root / 'calibration' / group / 'calibration'
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / 'cam_orders.txt', ORDER)
    for place, number in enumerate(order_of_places):
        np.savetxt(folder / f'trans_{place}.txt', ring_poses(5)[number], fmt='%.6f')


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp('ho3d')
    listed = {'train': ['MC1/0000', 'ShSu10/0001'], 'evaluation': ['AP10/0000']}
    write_image(root / 'image.jpg')
    for group, frames in FRAMES.items():
        # GPMF1 is written in POEM's reading: camera i at place order[i].
        write_calibration(root, group, np.argsort(ORDER) if group == 'GPMF1' else ORDER)
        for number in range(5):
            sequence = f'{group}{number}'
            part = 'evaluation' if sequence in EVALUATION else 'train'
            folder = root / part / sequence
            for name in ('rgb', 'meta'):
                (folder / name).mkdir(parents=True)
            for frame in frames:
                if (sequence, frame) == ABSENT:
                    continue
                listed[part].append(f'{sequence}/{frame}')
                os.link(root / 'image.jpg', folder / 'rgb' / f'{frame}.jpg')
                (folder / 'meta' / f'{frame}.pkl').write_bytes(
                    pickle.dumps(annotation(group, number, frame), protocol=2))
    for part, lines in listed.items():
        # The lists need not be in order.
        (root / f'{part}.txt').write_text('\n'.join(lines[::-1]) + '\n')
    return root


def copied(tree, tmp_path):
    return shutil.copytree(tree, tmp_path / 'copy', copy_function=os.link)


def replace(path, content):
    # Files of a copy are links; writing through one would change the original.
    path.unlink()
    path.write_bytes(content)


def test_splits_and_order(tree):
    for split, groups in (('train', ('ABF1', 'BB1', 'GSF1', 'MDF1', 'SiBF1')), ('test', ('GPMF1', 'SB1'))):
        source = open_dataset('ho3d', tree, split)
        samples = [source[i] for i in range(len(source))]
        assert [(s.sequence, s.frame) for s in samples] == [(g, int(f)) for g in groups for f in FRAMES[g]]
        assert [source[start].sequence for start, _ in source.sequences] == list(groups)
        assert source.sequences[-1][1] == len(source)


@pytest.mark.parametrize('split', ['train', 'test'])
def test_axes_cameras_and_projections(tree, split):
    """OpenGL frames become optical ones; either reading of cam_orders.txt is recognised by the annotations."""
    source = open_dataset('ho3d', tree, split)
    for index in range(len(source)):
        sample = source[index]
        frame = f'{sample.frame:04d}'
        expected = truth(sample.sequence, frame)
        check_sample(sample, expected, **ROUNDED)
        numbers = [int(view.camera.name[-1]) for view in sample.views]
        # Camera 2 comes first: its annotation is the truth.
        assert numbers[0] == 2
        assert sorted(numbers) == [n for n in range(5) if (f'{sample.sequence}{n}', frame) != ABSENT]
        for number, view in zip(numbers, sample.views):
            pose = ring_poses(5)[number]
            np.testing.assert_allclose(view.camera.world_from_camera, pose, atol=2e-6)
            here = expected.seen_from(np.linalg.inv(pose))
            np.testing.assert_allclose(view.joints_px, projected(intrinsics(number), here.joints), atol=5e-3)
        assert sample.side == 'right' and sample.vertices is None
        check_mano(sample.mano, expected)


def test_vertices_with_a_model(tree, tmp_path):
    pytest.importorskip('smplx')
    source = open_dataset('ho3d', tree, 'test', mano_model=write_mano(tmp_path / 'right.npz'))
    np.testing.assert_allclose(source[0].vertices, truth('GPMF1', '0003').vertices, atol=1e-5)


def test_cameras_that_contradict_each_other_are_refused(tree, tmp_path):
    root = copied(tree, tmp_path)
    folder = root / 'calibration/GPMF1/calibration'
    replace(folder / 'cam_orders.txt', b'0 1 2 3 4')
    with pytest.raises(DatasetError, match=r'GPMF1.*wrist \d+ cm apart'):
        open_dataset('ho3d', root, 'test')[0]


@pytest.mark.parametrize('path, content, named', [
    ('calibration/GPMF1/calibration/cam_orders.txt', b'0 1 2 3 3', 'each of 0'),
    ('calibration/GPMF1/calibration/cam_orders.txt', b'a b c d e', 'not an array of numbers'),
    ('calibration/GPMF1/calibration/trans_1.txt', b'1 0 0 0 0 1 0 0 0 0 1 0', r'shape \(12,\), expected \(16,\)'),
    ('calibration/GPMF1/calibration/trans_1.txt', b'2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1', 'orthonormal'),
    ('train/GPMF10/meta/0003.pkl', pickle.dumps({'camMat': np.eye(3)})[:-9], 'not a whole pickle'),
    ('train/GPMF10/meta/0003.pkl', pickle.dumps({'handJoints3D': np.zeros((21, 3))}), "no entry 'camMat'"),
    ('train/GPMF10/meta/0003.pkl', pickle.dumps({'camMat': np.eye(3), 'handJoints3D': np.zeros((16, 3))}),
     r'handJoints3D: shape \(16, 3\)'),
    ('train/GPMF10/meta/0003.pkl', pickle.dumps(os.system), 'refused'),
])
def test_damaged_files_are_named(tree, tmp_path, path, content, named):
    root = copied(tree, tmp_path)
    replace(root / path, content)
    with pytest.raises(DatasetError, match=named) as caught:
        open_dataset('ho3d', root, 'test')[0]
    assert path.split('/')[-1] in str(caught.value) and 'HO-3D v3' in str(caught.value)


def test_frames_with_few_annotations(tree, tmp_path):
    """Without camera 2's joints the truth comes from the lowest camera that has them; without any it is refused."""
    root = copied(tree, tmp_path)
    for number in (2, 0, 1, 3, 4):
        meta = {'camMat': intrinsics(number), 'handJoints3D': np.zeros(3) if number else None}
        replace(root / f'train/GPMF1{number}/meta/0003.pkl', pickle.dumps(meta))
        source = open_dataset('ho3d', root, 'test')
        if number == 4:
            with pytest.raises(DatasetError, match='no camera of GPMF1, frame 0003'):
                source[0]
            continue
        source[1]  # Camera poses need a frame with two annotations.
        check_sample(source[0], truth('GPMF1', '0003'), **ROUNDED)
        assert len(source[0].views) == 5


def test_missing_parts_and_other_versions_are_named(tree, tmp_path):
    with pytest.raises(DatasetError, match='no such directory'):
        open_dataset('ho3d', tmp_path / 'absent', 'train')
    with pytest.raises(DatasetError, match='train, test'):
        open_dataset('ho3d', tree, 'evaluation')
    root = copied(tree, tmp_path)
    image = root / 'train/GPMF10/rgb/0003.jpg'
    image.rename(image.with_suffix('.png'))
    with pytest.raises(DatasetError, match='version 2'):
        open_dataset('ho3d', root, 'test')[0]
    image.with_suffix('.png').unlink()
    with pytest.raises(DatasetError, match=r'0003\.jpg: no such file'):
        open_dataset('ho3d', root, 'test')[0]
    lines = (root / 'train.txt').read_text().replace('GPMF1', 'XYZ')
    replace(root / 'train.txt', lines.encode())
    with pytest.raises(DatasetError, match='no frames of GPMF1'):
        open_dataset('ho3d', root, 'test')
    replace(root / 'train.txt', b'ABF10 0000')
    with pytest.raises(DatasetError, match="entry 1 is 'ABF10'"):
        open_dataset('ho3d', root, 'test')
    shutil.rmtree(root / 'calibration')
    with pytest.raises(DatasetError, match='version 2 has none'):
        open_dataset('ho3d', root, 'train')
