"""DexYCB's reader on a tree in the layout of the DexYCB toolkit, written here."""

import os
import shutil

import numpy as np
import pytest
import yaml
from reader_cases import (
    check_mano,
    check_sample,
    hand,
    intrinsics,
    mano_arrays,
    projected,
    ring_poses,
    write_image,
    write_mano,
)

from hand_unc_ros.data.datasets import DATASETS, open_dataset
from hand_unc_ros.data.datasets.dexycb import SERIALS, SUBJECTS
from hand_unc_ros.errors import ConfigError, DatasetError, HandModelError

MASTER = '840412060917'
# Sequences with frames: place in its subject's folder, subject, side.
SEEN = {(0, 0): 'right', (4, 0): 'right', (9, 2): 'right', (1, 5): 'left', (7, 9): 'right'}
FRAMES = 4
# Frame 0 has no hand; in frame 2 camera 5 does not see it.
ABSENT, HIDDEN = 0, (2, SERIALS[5])


def sequence(place):
    return f'20200709_{100000 + place}'


def poses():
    """Camera poses in the frame of the master."""
    in_scene = dict(zip(SERIALS, ring_poses(8)))
    return {serial: np.linalg.inv(in_scene[MASTER]) @ pose for serial, pose in in_scene.items()}


def truth(place, subject, frame):
    """The hand in the master's frame, and its identity."""
    in_scene = dict(zip(SERIALS, ring_poses(8)))
    return hand(1000 * subject + 10 * place + frame, SEEN[place, subject]).seen_from(np.linalg.inv(in_scene[MASTER]))


def coefficients(pose):
    arrays = mano_arrays()
    return np.concatenate([pose[:3], (pose[3:] - arrays['hands_mean']) @ np.linalg.inv(arrays['hands_components'])])


def write_sequence(folder, place, subject):
    pose_m = np.zeros((FRAMES, 1, 51), np.float32)
    for frame in range(FRAMES):
        for serial, pose in poses().items():
            seen = frame != ABSENT and (frame, serial) != HIDDEN
            here = truth(place, subject, frame).seen_from(np.linalg.inv(pose))
            labels = {
                'seg': np.zeros((2, 2), np.uint8),
                'joint_3d': here.joints[None],
                'joint_2d': projected(intrinsics(SERIALS.index(serial)), here.joints)[None],
                'pose_m': np.concatenate([coefficients(here.pose), here.translation])[None]}
            if not seen:
                labels.update(joint_3d=-np.ones((1, 21, 3)), joint_2d=-np.ones((1, 21, 2)), pose_m=np.zeros((1, 51)))
            (folder / serial).mkdir(exist_ok=True)
            np.savez(folder / serial / f'labels_{frame:06d}.npz',
                     **{key: value if key == 'seg' else value.astype(np.float32) for key, value in labels.items()})
            write_image(folder / serial / f'color_{frame:06d}.jpg')
        pose_m[frame, 0] = 0 if frame == ABSENT else 1
    np.savez(folder / 'pose.npz', pose_m=pose_m, pose_y=np.zeros((FRAMES, 2, 7)))


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp('dexycb')
    calibration = root / 'calibration'
    calibration.mkdir()
    np.savez(calibration / 'no_hand.npz', pose_m=np.zeros((FRAMES, 1, 51)))
    for number, serial in enumerate(SERIALS):
        K = intrinsics(number)
        path = calibration / 'intrinsics' / f'{serial}_640x480.yml'
        path.parent.mkdir(parents=True, exist_ok=True)
        table = {'fx': K[0, 0], 'fy': K[1, 1], 'ppx': K[0, 2], 'ppy': K[1, 2]}
        path.write_text(yaml.safe_dump({'color': {k: float(v) for k, v in table.items()}, 'depth': {}}))
    extrinsics = {serial: pose[:3].ravel().tolist() for serial, pose in poses().items()}
    (calibration / 'extrinsics_20200702_151821').mkdir()
    (calibration / 'extrinsics_20200702_151821' / 'extrinsics.yml').write_text(
        yaml.safe_dump({'master': MASTER, 'extrinsics': {**extrinsics, 'apriltag': [0.0] * 12}}))
    for number, subject in enumerate(SUBJECTS):
        for place in range(100):
            folder = root / subject / sequence(place)
            folder.mkdir(parents=True)
            seen = SEEN.get((place, number))
            (folder / 'meta.yml').write_text(
                f"extrinsics: '20200702_151821'\nmano_calib:\n- {subject}_right\nmano_sides:\n- {seen or 'left'}\n"
                f'num_frames: {FRAMES}\nycb_ids:\n- 1\n')
            if not seen:
                os.link(calibration / 'no_hand.npz', folder / 'pose.npz')
            else:
                write_sequence(folder, place, number)
                shape = calibration / f'mano_{subject}_right' / 'mano.yml'
                shape.parent.mkdir(exist_ok=True)
                shape.write_text(yaml.safe_dump({'betas': truth(place, number, 1).shape.tolist()}))
    return root


def frames(source):
    return [(sample.sequence, sample.frame) for sample in (source[i] for i in range(len(source)))]


def test_splits_by_place_in_the_folder(tree):
    """S0: places 4 modulo 5 are val (subjects 1, 2) and test (others), the rest train; frames without hand are out."""
    expected = {'train': [(0, 0), (7, 9)], 'val': [(4, 0)], 'test': [(9, 2)]}
    for split, seen in expected.items():
        source = open_dataset('dexycb', tree, split)
        assert frames(source) == [(f'{SUBJECTS[subject]}/{sequence(place)}', frame)
                                  for place, subject in seen for frame in range(1, FRAMES)]
        assert source.sequences == [(3 * i, 3 * i + 3) for i in range(len(seen))]
    left = open_dataset('dexycb', tree, 'train', side='left')
    assert len(left) == 3 and left[0].side == 'left'


def test_truth_cameras_and_hidden_views(tree):
    source = open_dataset('dexycb', tree, 'train')
    for index, (place, subject, frame) in enumerate([(0, 0, 1), (0, 0, 2), (0, 0, 3), (7, 9, 1)]):
        sample = source[index]
        check_sample(sample, truth(place, subject, frame))
        names = [view.camera.name for view in sample.views]
        assert names[0] == MASTER and set(names) == set(SERIALS) - ({HIDDEN[1]} if frame == HIDDEN[0] else set())
        for view in sample.views:
            np.testing.assert_allclose(view.camera.world_from_camera, poses()[view.camera.name], atol=1e-9)
        assert sample.vertices is None and sample.mano is None and sample.side == 'right'
        assert sample.time_ns == round(frame * 1e9 / 30)


def test_principal_components_are_expanded_and_moved_to_the_world(tree, tmp_path):
    pytest.importorskip('smplx')
    source = open_dataset('dexycb', tree, 'test', mano_model=write_mano(tmp_path / 'right.npz'))
    expected = truth(9, 2, 1)
    check_mano(source[0].mano, expected)
    np.testing.assert_allclose(source[0].mano.pose, expected.pose, atol=2e-6)
    np.testing.assert_allclose(source[0].vertices, expected.vertices, atol=2e-6)
    left = open_dataset('dexycb', tree, 'train', side='left', mano_model=write_mano(tmp_path / 'left.npz', 'left'))
    check_mano(left[0].mano, truth(1, 5, 1), 'left')
    with pytest.raises(HandModelError, match='holds a left hand'):
        open_dataset('dexycb', tree, 'test', mano_model=tmp_path / 'left.npz')


def damaged(tree, tmp_path, change):
    """A tree of links to the good one with one thing changed."""
    root = tmp_path / 'copy'
    shutil.copytree(tree, root, copy_function=os.link)
    change(root)
    return root


def replace(path, write):
    # The copy's files are links; writing through one would change the original.
    path.unlink()
    write(path)


IN_TEST = f'{SUBJECTS[2]}/{sequence(9)}'


@pytest.mark.parametrize('change, named', [
    (lambda root: shutil.rmtree(root / 'calibration'), 'calibration: no such directory'),
    (lambda root: shutil.rmtree(root / SUBJECTS[7]), f'{SUBJECTS[7]}: no such directory'),
    (lambda root: shutil.rmtree(root / SUBJECTS[7] / sequence(55)), '99 sequences, expected 100'),
    (lambda root: (root / IN_TEST / 'meta.yml').unlink(), 'meta.yml: no such file'),
    (lambda root: (root / IN_TEST / MASTER / 'labels_000001.npz').unlink(), 'labels_000001.npz: no such file'),
    (lambda root: replace(root / IN_TEST / 'pose.npz', lambda path: path.write_bytes(b'PK')), 'not a whole npz'),
    (lambda root: replace(root / IN_TEST / 'pose.npz', lambda path: np.savez(path, pose_y=0)), "lacks 'pose_m'"),
    (lambda root: replace(root / 'calibration/intrinsics/836212060125_640x480.yml',
                          lambda path: path.write_text('depth: {}')), "no entry 'color'"),
])
def test_missing_and_partial_trees_are_named_at_once(tree, tmp_path, change, named):
    with pytest.raises(DatasetError, match=named) as caught:
        open_dataset('dexycb', damaged(tree, tmp_path, change), 'test')
    assert 'dex-ycb.github.io' in str(caught.value)


@pytest.mark.parametrize('change, named', [
    (lambda root: (root / IN_TEST / SERIALS[0] / 'color_000001.jpg').unlink(), 'color_000001.jpg: no such file'),
    (lambda root: replace(root / IN_TEST / SERIALS[0] / 'labels_000001.npz', lambda path: np.savez(
        path, joint_3d=np.zeros((1, 20, 3)), joint_2d=np.zeros((1, 21, 2)), pose_m=np.zeros((1, 51)))),
     'joint_3d: shape'),
    (lambda root: replace(root / 'calibration/extrinsics_20200702_151821/extrinsics.yml', lambda path: path.write_text(
        yaml.safe_dump({'extrinsics': {serial: [2.0] * 12 for serial in SERIALS}}))), 'orthonormal'),
])
def test_a_damaged_frame_is_named_when_it_is_read(tree, tmp_path, change, named):
    source = open_dataset('dexycb', damaged(tree, tmp_path, change), 'test')
    with pytest.raises(DatasetError, match=named):
        source[0]


def test_a_pickled_label_is_not_unpickled(tree, tmp_path):
    root = damaged(tree, tmp_path, lambda root: replace(
        root / IN_TEST / MASTER / 'labels_000001.npz',
        lambda path: np.savez(path, joint_3d=np.array([{}]), joint_2d=0, pose_m=0)))
    with pytest.raises(DatasetError, match='not a whole npz'):
        open_dataset('dexycb', root, 'test')


@pytest.mark.parametrize('name', DATASETS)
def test_every_named_dataset_says_which_directory_it_lacks(tmp_path, name):
    # ARCTIC's joints come from a model or a second directory; it asks for one of these first.
    options = {'processed': tmp_path / 'absent'} if name == 'arctic' else {}
    with pytest.raises(DatasetError, match=rf'{tmp_path}/absent.*no such'):
        open_dataset(name, tmp_path / 'absent', 'train', **options)


def test_options(tree, tmp_path):
    with pytest.raises(DatasetError, match='train, val, test'):
        open_dataset('dexycb', tree, 'evaluation')
    with pytest.raises(DatasetError, match='right, left'):
        open_dataset('dexycb', tree, 'val', side='both')
    with pytest.raises(ConfigError, match="no option 'hand'.*side, mano_model"):
        open_dataset('dexycb', tree, 'val', hand='left')
    with pytest.raises(ConfigError, match='dexycb, ho3d'):
        open_dataset('nosuchset', tree, 'val')
    with pytest.raises(DatasetError, match="no frame of split 'val' shows a left hand"):
        open_dataset('dexycb', tree, 'val', side='left')
