"""HO-3D's reader of single images on trees of versions 2 and 3 in the layout of the authors' scripts, written here."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from ho3d_cases import TEST, TRAIN, borders, seen, write_ho3d, write_truth
from reader_cases import METRES, check_mano, check_sample, projected, write_mano

from hand_unc_ros.data.batches import crop_sample
from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.errors import DatasetError


@pytest.fixture(params=['png', 'jpg'])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_ho3d(tmp_path / 'ho3d', request.param)


def test_training_images_have_their_hands_in_the_optical_frame(tree: Path) -> None:
    source = open_dataset('ho3d_single', tree, 'train')
    assert [f'{sample.sequence}/{sample.frame:04d}' for sample in source] == list(TRAIN)
    assert source.sequences == [(0, 1), (1, 2), (2, 3)]
    for sample, name in zip(source, TRAIN):
        check_sample(sample, seen(name))
        check_mano(sample.mano, seen(name))
        assert sample.joints[0, 2] > 0.5 and sample.side == 'right' and sample.views[0].box_px is None


def test_vertices_with_a_model(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip('smplx')
    source = open_dataset('ho3d_single', tree, 'train', mano_model=write_mano(tmp_path / 'right.npz'))
    np.testing.assert_allclose(source[1].vertices, seen(TRAIN[1]).vertices, atol=1e-5)


def test_test_images_come_in_the_order_of_the_list_with_their_boxes(tree: Path) -> None:
    source = open_dataset('ho3d_single', tree, 'test')
    assert [f'{sample.sequence}/{sample.frame:04d}' for sample in source] == list(TEST)
    for sample, name in zip(source, TEST):
        np.testing.assert_allclose(sample.joints[0], seen(name).joints[0], atol=METRES)
        assert np.isnan(sample.joints[1:]).all() and sample.vertices is None and sample.mano is None
        x, y, side, roll = sample.views[0].box_px
        left, upper, right, lower = borders(name)
        assert (x, y, roll) == ((left + right) / 2, (upper + lower) / 2, 0)
        # All joints lie in the box, of which nothing but the wrist is known.
        crop = crop_sample(sample, 200)
        px = projected(sample.views[0].camera.K, seen(name).joints)
        assert (np.abs(px - [x, y]) < side / 2).all() and crop['view_mask'].all()
        assert crop['joint_mask'][0].tolist() == [True] + 20 * [False]


def test_published_truth_is_taken(tree: Path) -> None:
    write_truth(tree)
    source = open_dataset('ho3d_single', tree, 'test')
    for sample, name in zip(source, TEST):
        check_sample(sample, seen(name))
        np.testing.assert_allclose(sample.vertices, seen(name).vertices, atol=METRES)
    (tree / 'evaluation_xyz.json').write_text('[]')
    with pytest.raises(DatasetError, match=r'evaluation_xyz.json: shape \(0,\), expected \(4, 21, 3\)'):
        open_dataset('ho3d_single', tree, 'test')


def test_what_is_missing_or_odd_is_named(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match='split of HO-3D'):
        open_dataset('ho3d_single', tree, 'evaluation')
    with pytest.raises(DatasetError, match='no such directory'):
        open_dataset('ho3d_single', tmp_path / 'nothing', 'train')
    meta = tree / 'evaluation/SM1/meta/0003.pkl'
    content = pickle.loads(meta.read_bytes())
    for change, words in ((dict(handBoundingBox=[10, 20, 10, 20]), 'no extent'),
                          (dict(handBoundingBox=[1, 2, 3]), r'handBoundingBox: shape \(3,\)'),
                          (dict(handJoints3D=None, camMat=None), 'has no hand')):
        meta.write_bytes(pickle.dumps(content | change, protocol=2))
        with pytest.raises(DatasetError, match=words):
            open_dataset('ho3d_single', tree, 'test')[0]
    for image in (tree / 'train/MC1/rgb').iterdir():
        image.unlink()
    with pytest.raises(DatasetError, match=r'0001.jpg: no such file, nor a png'):
        open_dataset('ho3d_single', tree, 'train')[0]
    (tree / 'train.txt').write_text('\n')
    with pytest.raises(DatasetError, match='lists no frames'):
        open_dataset('ho3d_single', tree, 'train')
