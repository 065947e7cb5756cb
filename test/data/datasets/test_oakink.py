"""OakInk-Image's reader on a tree in the layout of its docs/datasets.md, written here."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
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
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.data.datasets.oakink import CAMERA_NAMES, SIZE
from hand_unc_ros.errors import DatasetError

USE, HANDOVER = 'A01001_0001_0000/2021-09-26-19-59-58', 'S10002_0004_0001_0003/2021-10-02-11-00-00'
# (recording, subject, frame); frame 100 comes after 16 although '100' sorts before it.
MOMENTS = {'train': [(USE, 0, 6), (USE, 0, 16), (USE, 0, 100)], 'test': [(HANDOVER, 0, 7), (HANDOVER, 1, 7)]}


def truth(recording, subject, frame):
    return hand(frame + 1000 * subject + len(recording))


def quaternions(pose):
    """(16, 4), w first, some negated: the same rotations."""
    xyzw = Rotation.from_rotvec(pose.reshape(16, 3)).as_quat()
    return xyzw[:, [3, 0, 1, 2]] * np.where(np.arange(16) % 3, 1, -1)[:, None]


def write_view(image_root, moment, number):
    recording, subject, frame = moment
    name = f'{recording.replace("/", "__")}__{subject}__{frame}__{number}.pkl'
    world, camera_from_world = truth(*moment), np.linalg.inv(ring_poses(4)[number])
    here = world.seen_from(camera_from_world)
    general = {
        'cam_extr': torch.tensor(camera_from_world, dtype=torch.float32),
        'cam_intr': torch.tensor(intrinsics(number, SIZE)),
        'obj_anno': np.eye(4),
        'hand_anno': {'hand_pose': torch.tensor(quaternions(world.pose), dtype=torch.float32),
                      'hand_shape': torch.tensor(world.shape, dtype=torch.float32),
                      'hand_tsl': torch.tensor(world.joints[0], dtype=torch.float32)}}
    content = {'general_info': general, 'cam_intr': intrinsics(number, SIZE).astype(np.float32),
               'hand_j': here.joints.astype(np.float32), 'hand_v': here.vertices.astype(np.float32)}
    for folder, value in content.items():
        (image_root / 'anno' / folder).mkdir(parents=True, exist_ok=True)
        (image_root / 'anno' / folder / name).write_bytes(pickle.dumps(value))
    path = image_root / 'stream_release_v2' / recording / f'{CAMERA_NAMES[number]}_{frame}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        os.link(image_root / 'image.png', path)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp('oakink')
    write_image(root / 'image/image.png', SIZE)
    splits = root / 'image/anno/split/split2'
    splits.mkdir(parents=True)
    for split, moments in MOMENTS.items():
        for moment in moments:
            for number in range(4):
                write_view(root / 'image', moment, number)
        # The list leaves out images with less than half of the joints inside: camera 2 here.
        listed = [[*moment, number] for moment in moments[::-1] for number in (0, 1, 3)]
        (splits / f'seq_{split}.json').write_text(json.dumps(listed))
    return root


def copied(tree, tmp_path):
    return shutil.copytree(tree, tmp_path / 'copy', copy_function=os.link)


def replace(path, content):
    # Files of a copy are links; writing through one would change the original.
    path.unlink()
    path.write_bytes(content)


def test_splits_order_and_all_four_views(tree):
    for split, moments in MOMENTS.items():
        source = open_dataset('oakink', tree, split)
        samples = [source[i] for i in range(len(source))]
        assert [(s.sequence, s.frame) for s in samples] == [(f'{r}/{subject}', f) for r, subject, f in moments]
        assert all([v.camera.name for v in s.views] == list(CAMERA_NAMES) for s in samples)
    assert open_dataset('oakink', tree, 'train').sequences == [(0, 3)]
    # Giver and receiver are two hands at the same time.
    assert open_dataset('oakink', tree, 'test').sequences == [(0, 1), (1, 2)]


def test_truth_and_cameras(tree):
    for split, moments in MOMENTS.items():
        source = open_dataset('oakink', tree, split)
        for index, moment in enumerate(moments):
            sample, expected = source[index], truth(*moment)
            check_sample(sample, expected)
            np.testing.assert_allclose(sample.vertices, expected.vertices, atol=2e-6)
            for number, view in enumerate(sample.views):
                np.testing.assert_allclose(view.camera.world_from_camera, ring_poses(4)[number], atol=1e-6)
                here = expected.seen_from(np.linalg.inv(ring_poses(4)[number]))
                np.testing.assert_allclose(view.joints_px, projected(intrinsics(number, SIZE), here.joints), atol=2e-3)
            assert sample.side == 'right' and sample.mano is None


def test_mano_parameters_with_a_model(tree, tmp_path):
    pytest.importorskip('smplx')
    source = open_dataset('oakink', tree, 'train', mano_model=write_mano(tmp_path / 'right.npz'))
    check_mano(source[1].mano, truth(*MOMENTS['train'][1]))


@pytest.mark.parametrize('path, content, named', [
    ('image/anno/split/split2/seq_train.json', b'[["A/B", 0, 1', 'not whole JSON'),
    ('image/anno/split/split2/seq_train.json', b'{}', 'no list of images'),
    ('image/anno/split/split2/seq_train.json', b'[["A/B", 0, 1, 4]]', "expected .<sequence>/<time>"),
    ('image/anno/split/split2/seq_train.json', b'[["AB", 0, 1, 0]]', "expected .<sequence>/<time>"),
    ('image/anno/hand_j/A01001_0001_0000__2021-09-26-19-59-58__0__6__2.pkl', pickle.dumps(np.zeros((20, 3))),
     r'shape \(20, 3\)'),
    ('image/anno/cam_intr/A01001_0001_0000__2021-09-26-19-59-58__0__6__2.pkl', pickle.dumps(np.zeros((3, 3))),
     'focal lengths'),
    ('image/anno/general_info/A01001_0001_0000__2021-09-26-19-59-58__0__6__2.pkl', pickle.dumps(os.system), 'refused'),
    ('image/anno/general_info/A01001_0001_0000__2021-09-26-19-59-58__0__6__2.pkl',
     pickle.dumps({'cam_extr': 2 * torch.eye(4)}), 'last row'),
    ('image/anno/general_info/A01001_0001_0000__2021-09-26-19-59-58__0__6__2.pkl', pickle.dumps({'hand_anno': {}}),
     "no entry 'cam_extr'"),
])
def test_damaged_files_are_named(tree, tmp_path, path, content, named):
    root = copied(tree, tmp_path)
    replace(root / path, content)
    with pytest.raises(DatasetError, match=named) as caught:
        open_dataset('oakink', root, 'train')[0]
    assert 'oakink_image_v2 and anno_v2_1.zip' in str(caught.value)


def test_missing_parts_and_other_versions_are_named(tree, tmp_path):
    with pytest.raises(DatasetError, match='no such directory'):
        open_dataset('oakink', tmp_path / 'absent', 'train')
    with pytest.raises(DatasetError, match='train, test'):
        open_dataset('oakink', tree, 'val')
    root = copied(tree, tmp_path)
    image = root / 'image/stream_release_v2' / USE / 'north_west_color_6.png'
    image.unlink()
    with pytest.raises(DatasetError, match=r'north_west_color_6\.png: no such file'):
        open_dataset('oakink', root, 'train')[0]
    # The first annotations had no cameras.
    (root / 'image/anno/general_info').rename(root / 'image/anno/moved')
    with pytest.raises(DatasetError, match='general_info.*since anno_v2_1'):
        open_dataset('oakink', root, 'train')
    (root / 'image/stream_release_v2').rename(root / 'image/stream_release')
    with pytest.raises(DatasetError, match='images, version 2'):
        open_dataset('oakink', root, 'train')
