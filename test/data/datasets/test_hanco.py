"""HanCo's reader, on a tree written here in the layout of the official show_dataset.py."""

import pickle

import numpy as np
import pytest
from dataset_cases import mano_file, pinhole, write_image
from hanco_cases import K, dump, write_hanco
from hand_cases import skin

from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.data.datasets.hanco import HanCo
from hand_unc_ros.errors import DatasetError

# Sequence 2 is recorded before a real background (is_train False); frame 1 of sequence 0 has no fit.
META = {
    'is_train': [[True] * 3, [True] * 2, [False] * 2],
    'subject_id': [[4] * 3, [5] * 2, [6] * 2],
    'is_valid': [[True, False, False], [True, True], [True, False]],
    'object_id': [[None] * 3, [2] * 2, [None] * 2],
    'has_fit': [[True, False, True], [True, True], [True, True]],
}


@pytest.fixture
def tree(tmp_path):
    """The root, and the truth by (sequence, frame)."""
    root = tmp_path / 'HanCo'
    return root, write_hanco(root, META)


def test_splits_and_sequences(tree):
    root, _ = tree
    train, test = (open_dataset('hanco', root, split) for split in ('train', 'test'))
    assert [(s.sequence, s.frame) for s in map(train.__getitem__, range(len(train)))] == [
        ('0000', 0), ('0000', 2), ('0001', 0), ('0001', 1)]
    assert train.sequences == [(0, 2), (2, 4)]
    assert [(s.sequence, s.frame) for s in map(test.__getitem__, range(len(test)))] == [('0002', 0), ('0002', 1)]
    assert len(HanCo(root, 'train', fits='is_valid')) == 3
    # Recorded at 5 Hz; the gap of a frame without fit stays in the time.
    assert [train[i].time_ns for i in (0, 1)] == [0, 400_000_000]
    # HaMuCo's protocol takes all sequences below 1200 for training.
    assert len(HanCo(root, 'train', protocol='hamuco')) == 6
    with pytest.raises(DatasetError, match="no frame of split 'test' \\(hamuco\\)"):
        HanCo(root, 'test', protocol='hamuco')


def test_other_backgrounds_exist_for_green_screens_only(tree):
    root, _ = tree
    for sequence in (0, 1):
        for c in range(8):
            for frame in range(3):
                write_image(root / f'rgb_merged/{sequence:04d}/cam{c}/{frame:08d}.jpg', 224, 224, (200, c, 9))
    source = HanCo(root, 'train', protocol='hamuco', images='rgb_merged')
    assert len(source) == 4
    np.testing.assert_allclose(source[2].views[5].read()[3, 3], (200, 5, 9), atol=3)
    with pytest.raises(DatasetError, match='and rgb_merged'):
        HanCo(root, 'test', images='rgb_merged')


def test_workers_can_take_the_source(tree, tmp_path):
    root, _ = tree
    mano_file(tmp_path / 'right.npz', 'right')
    source = HanCo(root, 'train', mano_model=tmp_path / 'right.npz')
    copied = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copied[3].vertices, source[3].vertices)


def test_joints_land_on_their_projections(tree):
    root, truth = tree
    source = HanCo(root, 'train')
    for index, key in enumerate([(0, 0), (0, 2), (1, 0), (1, 1)]):
        sample, (joints, _, poses) = source[index], truth[key]
        assert sample.side == 'right' and sample.mano is None and sample.vertices is None
        np.testing.assert_array_equal(sample.joints, joints)
        assert [view.camera.name for view in sample.views] == [f'cam{c}' for c in range(8)]
        for view, pose in zip(sample.views, poses):
            # The file's matrices have 7 digits: 1e-7 of a turn or a metre is below 1e-3 px at f = 480 px.
            np.testing.assert_allclose(view.joints_px, pinhole(K, pose, joints), atol=1e-3)
            assert view.visible.all()
    # Images are those of their camera: blue-green-red channels were written in the other order.
    image = source[0].views[7].read()
    assert image.shape == (224, 224, 3)
    np.testing.assert_allclose(image[100, 100], (70, 50, 200), atol=3)


def test_mano_has_the_mean_pose_added(tree, tmp_path):
    root, truth = tree
    arrays = mano_file(tmp_path / 'right.npz', 'right')
    sample = HanCo(root, 'test', mano_model=tmp_path / 'right.npz')[1]
    pose, shape, translation = truth[2, 1][1]
    full = pose + np.concatenate((np.zeros(3), arrays['hands_mean']))
    np.testing.assert_allclose(sample.mano.pose, full, atol=1e-7)
    np.testing.assert_array_equal(sample.mano.shape, shape)
    np.testing.assert_array_equal(sample.mano.translation, translation)
    # The model runs in float32; a hand of 0.2 m is good to 1e-6 m.
    np.testing.assert_allclose(sample.vertices, skin(arrays, full, shape, translation)[0], atol=2e-6)


@pytest.mark.parametrize('damage, message', [
    (lambda root: (root / 'meta.json').unlink(), 'meta.json: no such file'),
    (lambda root: dump(root / 'meta.json', {'is_train': META['is_train']}), "no entry 'has_fit'"),
    (lambda root: dump(root / 'meta.json', {**META, 'has_fit': [[True]]}), 'do not list the same frames'),
    (lambda root: (root / 'calib').rename(root / 'moved'), 'calib: no such directory'),
    (lambda root: (root / 'xyz/0001').rename(root / 'moved'), 'name the sequences that you have'),
])
def test_a_damaged_tree_is_refused_at_once(tree, damage, message):
    root, _ = tree
    damage(root)
    with pytest.raises(DatasetError, match=message) as caught:
        HanCo(root, 'train')
    assert 'unpack HanCo from https://lmb' in str(caught.value)


@pytest.mark.parametrize('file, content, message', [
    ('calib/0000/00000000.json', {'K': [K] * 8, 'M': [np.diag([1000.0, 1000, 1000, 1]).tolist()] * 8}, 'orthonormal'),
    ('calib/0000/00000000.json', {'K': [K] * 5, 'M': [np.eye(4).tolist()] * 5}, r'expected \(8, 3, 3\)'),
    ('xyz/0000/00000000.json', np.zeros((42, 3)).tolist(), r'expected \(21, 3\)'),
])
def test_a_damaged_frame_is_named(tree, file, content, message):
    root, _ = tree
    dump(root / file, content)
    with pytest.raises(DatasetError, match=message) as caught:
        HanCo(root, 'train')[0]
    assert file in str(caught.value)


def test_a_partial_copy_needs_its_sequences_named(tree):
    root, _ = tree
    for folder in ('rgb', 'calib', 'xyz'):
        (root / folder / '0000').rename(root / f'{folder}-0000')
    assert len(HanCo(root, 'train', only=[1])) == 2
    with pytest.raises(DatasetError, match='no sequence 3'):
        HanCo(root, 'train', only=[3])


def test_images_are_read_late_and_named_when_they_fail(tree):
    root, _ = tree
    (root / 'rgb/0000/cam2/00000000.jpg').unlink()
    write_image(root / 'rgb/0000/cam3/00000000.jpg', 640, 480)
    (root / 'rgb/0000/cam4/00000000.jpg').write_bytes(b'no jpeg')
    views = HanCo(root, 'train')[0].views
    for c, message in ((2, 'cannot be read'), (3, '640×480'), (4, 'not an image')):
        with pytest.raises(DatasetError, match=message) as caught:
            views[c].read()
        assert f'cam{c}' in str(caught.value)


def test_unknown_options_name_the_known_ones(tree):
    root, _ = tree
    with pytest.raises(DatasetError, match='train, test'):
        HanCo(root, 'val')
    with pytest.raises(DatasetError, match='rgb_merged'):
        HanCo(root, 'train', images='rgb_mixed')
