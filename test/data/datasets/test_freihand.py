"""FreiHAND's reader, on a tree written here in the layout of the official fh_utils.py."""

import json

import numpy as np
import pytest
from dataset_cases import random_joints, write_image

from hand_unc_ros.data.batches import collate, crop_sample
from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.errors import DatasetError

K = [[480.0, 0.0, 111.5], [0.0, 482.0, 113.0], [0.0, 0.0, 1.0]]
HANDS = {'training': 3, 'evaluation': 2}


@pytest.fixture
def tree(tmp_path):
    """The root, and joints and vertices by split."""
    rng, truth = np.random.default_rng(0), {}
    for name, count in HANDS.items():
        joints = np.stack([random_joints(rng, np.array([0.01, -0.02, 0.7])) for _ in range(count)])
        vertices = rng.normal(0, 0.05, (count, 778, 3)) + [0, 0, 0.7]
        for what, values in (('K', [K] * count), ('xyz', joints.tolist()), ('verts', vertices.tolist())):
            (tmp_path / f'{name}_{what}.json').write_text(json.dumps(values))
        for number in range(count * (4 if name == 'training' else 1)):
            write_image(tmp_path / name / 'rgb' / f'{number:08d}.jpg', 224, 224, (15 * number, 90, 30))
        truth[name] = joints, vertices
    return tmp_path, truth


def test_images_of_all_backgrounds_share_their_hands(tree):
    root, truth = tree
    joints, vertices = truth['training']
    source = open_dataset('freihand', root, 'train', vertices=True)
    assert len(source) == 12
    for index, (hand, number) in ((0, (0, 0)), (1, (0, 3)), (7, (1, 10)), (11, (2, 11))):
        sample = source[index]
        np.testing.assert_allclose(sample.joints, joints[hand])
        np.testing.assert_allclose(sample.vertices, vertices[hand])
        view, = sample.views
        px = joints[hand] @ np.array(K).T
        np.testing.assert_allclose(view.joints_px, px[:, :2] / px[:, 2:])
        assert abs(int(view.read()[100, 100, 0]) - 15 * number) < 4 and sample.side == 'right'
    harmonised = open_dataset('freihand', root, 'train', background='hom')
    assert [int(sample.name.rpartition('/')[2]) for sample in map(harmonised.__getitem__, range(3))] == [3, 4, 5]
    assert harmonised[0].vertices is None


def test_the_test_split_has_one_image_of_each_hand_and_makes_batches(tree):
    root, truth = tree
    source = open_dataset('freihand', root, 'test')
    assert len(source) == 2
    batch = collate([crop_sample(source[index], 64) for index in range(2)])
    assert batch['images'].shape == (2, 1, 64, 64, 3) and batch['joint_mask'].any()


def test_the_test_split_without_truth_has_boxes_alone(tree):
    """As FreiHAND_pub_v2.zip brings it: the crop is then the whole image, and nothing is annotated in it."""
    root, truth = tree
    for what in ('xyz', 'verts'):
        (root / f'evaluation_{what}.json').unlink()
    source = open_dataset('freihand', root, 'test')
    assert len(source) == 2 and [source[i].name.rpartition('/')[2] for i in range(2)] == ['00000000', '00000001']
    assert np.isnan(source[0].joints).all() and not source[0].views[0].visible.any()
    crop = crop_sample(source[1], 224)
    np.testing.assert_allclose(crop['K'][0], K)
    np.testing.assert_array_equal(crop['images'][0], source[1].views[0].read())
    assert crop['view_mask'].all() and not crop['present'].any() and not crop['joint_mask'].any()
    # An origin is not made of joints that are not known.
    batch = collate([crop, crop_sample(open_dataset('freihand', root, 'train')[0], 224)])
    np.testing.assert_array_equal(batch['camera_from_world'][0, 0], np.eye(4)[:3])
    assert batch['joints'][1].isfinite().all()
    (root / 'training_xyz.json').unlink()
    with pytest.raises(DatasetError, match='training_xyz.json: no such file'):
        open_dataset('freihand', root, 'train')


def test_what_is_missing_or_odd_is_named(tree):
    root, _ = tree
    for options, words in ((dict(split='val'), 'split of FreiHAND'),
                           (dict(split='train', background='blue'), 'background')):
        with pytest.raises(DatasetError, match=words):
            open_dataset('freihand', root, **options)
    (root / 'evaluation_xyz.json').write_text(json.dumps([[[0.0] * 3] * 20] * 2))
    with pytest.raises(DatasetError, match=r'evaluation_xyz.json: shape'):
        open_dataset('freihand', root, 'test')
    (root / 'training_K.json').unlink()
    with pytest.raises(DatasetError, match='FreiHAND_pub_v2'):
        open_dataset('freihand', root, 'train')
