"""RHD's reader, on a tree written here in the layout of the authors' tools."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from hand_unc_ros.data.batches import collate, crop_sample
from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.data.datasets.files import read_pickle
from hand_unc_ros.errors import DatasetError

K = np.array([[282.9, 0.0, 160.0], [0.0, 282.9, 160.0], [0.0, 0.0, 1.0]])
# Files are not numbered in the order of the table.
NUMBERS = {'training': (2, 0, 1), 'evaluation': (0, 1)}
# Pixels of the left and the right hand in each image's mask, and seen joints of both.
SEEN = {0: ((500, 100), (21, 5)), 1: ((40, 900), (12, 21)), 2: ((0, 0), (10, 11))}
FINGERS = {'thumb': 1, 'index': 5, 'middle': 9, 'ring': 13, 'little': 17}


def joints_of(number: int, side: str) -> dict[str, np.ndarray]:
    """By name: the wrist, and of each finger four points from base to tip, metres, camera frame."""
    rng = np.random.default_rng((number, side == 'left'))
    wrist = np.array([-0.1 if side == 'left' else 0.1, 0.02 * number, 0.6 + 0.05 * number])
    hand = {'wrist': wrist}
    for place, finger in enumerate(FINGERS):
        base = wrist + [0.02 * (place - 2), -0.06, 0.0] + rng.normal(0, 0.003, 3)
        hand[finger] = base + np.arange(4)[:, None] * np.array([0.002 * (place - 2), -0.025, 0.004])
    return hand


def as_rhd(hand: dict[str, np.ndarray]) -> np.ndarray:
    """(21, 3): each finger from the tip to the base, behind the wrist."""
    rows = np.empty((21, 3))
    rows[0] = hand['wrist']
    for finger, first in FINGERS.items():
        for step, point in enumerate(hand[finger][::-1]):
            rows[first + step] = point
    return rows


def as_public(hand: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([hand['wrist'][None], *(hand[finger] for finger in FINGERS)])


def label(number: int) -> dict[str, np.ndarray]:
    xyz = np.concatenate([as_rhd(joints_of(number, side)) for side in ('left', 'right')])
    px = xyz @ K.T
    seen = np.concatenate([np.arange(21) < count for count in SEEN[number][1]])
    return {'xyz': xyz, 'uv_vis': np.column_stack([px[:, :2] / px[:, 2:], seen.astype(float)]), 'K': K}


def write_tree(root: Path, protocol: int = 2) -> Path:
    for name, numbers in NUMBERS.items():
        for folder in ('color', 'mask'):
            (root / name / folder).mkdir(parents=True)
        for number in numbers:
            cv2.imwrite(str(root / name / 'color' / f'{number:05d}.png'),
                        np.full((320, 320, 3), (30, 60, 40 * number), np.uint8))
            mask = np.zeros(320 * 320, np.uint8)
            left, right = SEEN[number][0]
            # A person, and hands of several parts.
            mask[:5000] = 1
            mask[10_000:10_000 + left] = 2 + np.arange(left) % 16
            mask[40_000:40_000 + right] = 18 + np.arange(right) % 16
            cv2.imwrite(str(root / name / 'mask' / f'{number:05d}.png'), mask.reshape(320, 320))
        table = {number: label(number) for number in numbers}
        (root / name / f'anno_{name}.pickle').write_bytes(pickle.dumps(table, protocol=protocol))
    return root


@pytest.fixture(params=[0, 2, 4])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_tree(tmp_path / 'rhd', request.param)


def test_of_each_image_the_hand_with_more_pixels_is_taken(tree: Path) -> None:
    source = open_dataset('rhd', tree, 'train')
    # As many pixels are those of the right one.
    assert [(sample.name, sample.side) for sample in source] == [
        (f'rhd/training/0000{number}/{side}', side) for number, side in enumerate(('left', 'right', 'right'))]
    for number, sample in enumerate(source):
        np.testing.assert_allclose(sample.joints, as_public(joints_of(number, sample.side)), atol=1e-9)
        view, = sample.views
        np.testing.assert_allclose(view.joints_px, view.camera.project(sample.joints)[0], atol=1e-6)
        assert view.visible.sum() == SEEN[number][1][sample.side == 'right']
        assert view.read()[5, 5].tolist() == [40 * number, 60, 30] and sample.vertices is None
    assert len(open_dataset('rhd', tree, 'test')) == 2


def test_both_hands_are_samples_where_most_of_them_is_seen(tree: Path) -> None:
    source = open_dataset('rhd', tree, 'train', hands='both')
    assert [sample.name.split('/')[2:] for sample in source] == [
        ['00000', 'left'], ['00001', 'left'], ['00001', 'right'], ['00002', 'right']]
    assert source.sequences == [(n, n + 1) for n in range(4)]
    # Of the left hand's first twelve: wrist, thumb, index, and the middle finger from the tip on without its base.
    assert source[1].views[0].visible.tolist() == 9 * [True] + [False, True, True, True] + 8 * [False]


def test_left_hands_come_out_mirrored(tree: Path) -> None:
    source = open_dataset('rhd', tree, 'train', hands='both')
    left = crop_sample(source[0], 96)
    np.testing.assert_allclose(left['joints'], as_public(joints_of(0, 'left')) * [-1, 1, 1])
    camera = left['joints'] @ left['camera_from_world'][0, :, :3].T + left['camera_from_world'][0, :, 3]
    px = camera @ left['K'][0].T
    np.testing.assert_allclose((px[:, :2] / px[:, 2:])[left['joint_mask'][0]],
                               left['joints_px'][0][left['joint_mask'][0]], atol=1e-3)
    assert left['joint_mask'].sum() > 15
    batch = collate([left, crop_sample(source[3], 96)])
    assert batch['joints'].isfinite().all() and batch['vertices'].shape == (2, 0, 3)


def test_what_is_missing_or_odd_is_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path / 'rhd')
    for options, words in ((dict(split='evaluation'), 'split of RHD'), (dict(split='train', hands='all'), 'of hands')):
        with pytest.raises(DatasetError, match=words):
            open_dataset('rhd', root, **options)
    where = root / 'evaluation' / 'anno_evaluation.pickle'
    whole = {number: label(number) for number in NUMBERS['evaluation']}
    for content, words in (({0: {**whole[0], 'xyz': np.zeros((21, 3))}}, r'xyz of image 0: shape \(21, 3\)'),
                           ({0: {'xyz': whole[0]['xyz']}}, "no entry 'uv_vis'"), ({}, 'no table of images'),
                           ([whole[0]], 'no table of images'), (os.system, 'refused')):
        where.write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(DatasetError, match=words):
            open_dataset('rhd', root, 'test')
    where.write_bytes(pickle.dumps({0: {**whole[0], 'K': K @ np.diag([2.0, 2.0, 1.0])}}, protocol=2))
    with pytest.raises(DatasetError, match='no projections of the joints'):
        open_dataset('rhd', root, 'test')[0]
    mask = root / 'training' / 'mask' / '00000.png'
    for size, words in (((320, 320, 3), 'no mask of 320×320'), ((160, 320), 'no mask')):
        cv2.imwrite(str(mask), np.zeros(size, np.uint8))
        with pytest.raises(DatasetError, match=words):
            open_dataset('rhd', root, 'train')[0]
    mask.write_bytes(b'no image')
    with pytest.raises(DatasetError, match='00000.png'):
        open_dataset('rhd', root, 'train')[0]
    where.unlink()
    with pytest.raises(DatasetError, match='anno_evaluation.pickle: no such file.*RHD_v1-1'):
        open_dataset('rhd', root, 'test')


def test_a_table_of_many_images_is_read_where_it_is_expected(tmp_path: Path) -> None:
    """Beyond what an annotation of one frame may hold."""
    # Its numbers need not be those of a hand.
    table = {number: {'a': np.zeros(1), 'b': np.zeros(1), 'c': np.zeros(1)} for number in range(3000)}
    (tmp_path / 'table.pickle').write_bytes(pickle.dumps(table, protocol=2))
    with pytest.raises(DatasetError, match='MAX_OPCODES, 200000'):
        read_pickle(tmp_path / 'table.pickle', 'labels', 'get it')
    assert len(read_pickle(tmp_path / 'table.pickle', 'labels', 'get it', times=2)) == 3000
    with pytest.raises(DatasetError, match='refused'):
        (tmp_path / 'table.pickle').write_bytes(pickle.dumps({0: os.system}))
        read_pickle(tmp_path / 'table.pickle', 'labels', 'get it', times=2)
