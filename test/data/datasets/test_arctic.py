"""ARCTIC's reader, on a tree written here in the layout of the official documentation (docs/data/data_doc.md)."""

import json
import pickle

import numpy as np
import pytest
from dataset_cases import mano_file, pinhole, ring, write_image
from hand_cases import skin

from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.data.datasets.arctic import Arctic
from hand_unc_ros.errors import DatasetError, HandModelError
from hand_unc_ros.hand.joints import ORDERS
from hand_unc_ros.hand.model import TIP_VERTICES

CENTRE = np.array([0.02, 0.1, 1.1])
SIZE = (280, 200)
# Frames and offsets of the images by sequence; the first and last ten images are left out.
COUNTS, OFFSETS = {'s01/box_grab_01': 24, 's05/ketchup_use_02': 23}, {'s01': 2, 's05': 12}
K = np.array([[700.0, 0.0, 138.0], [0.0, 705.0, 99.0], [0.0, 0.0, 1.0]])
SIDES = ('right', 'left')


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save(path, content):
    """numpy.save of a table, as the dataset's authors write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, content)


class Tree:
    """fits: by sequence and side, pose without the mean (N, 48), shape (10,), translation (N, 3)."""

    def __init__(self, root):
        rng = np.random.default_rng(2)
        self.root, self.fits = root, {}
        self.data = root / 'arctic_data/data'
        self.poses = {'s01': ring(8, CENTRE), 's05': ring(8, CENTRE, 0.9)}
        self.misc = {subject: {
            'gender': 'female', 'ioi_offset': OFFSETS[subject], 'image_size': [[2800, 2000]] + [list(SIZE)] * 8,
            'intris_mat': [K.tolist()] * 8, 'world2cam': [pose.tolist() for pose in poses],
        } for subject, poses in self.poses.items()}
        self.splits = {'train': ['s01/box_grab_01'], 'val': ['s05/ketchup_use_02'], 'test': ['s03/box_grab_01']}
        for name, count in COUNTS.items():
            self.fits[name] = {side: (rng.normal(0, 0.3, (count, 48)), rng.normal(0, 1, 10),
                                      CENTRE + rng.normal(0, 0.02, (count, 3))) for side in SIDES}
            self.write_raw(name)
            for view in range(9):
                for image in range(OFFSETS[name[:3]], count + OFFSETS[name[:3]], 5):
                    write_image(self.data / f'images/{name}/{view}/{image:05d}.jpg', *SIZE)
        dump(self.data / 'splits_json/protocol_p1.json', self.splits)
        self.write_misc()

    def write_misc(self):
        dump(self.data / 'meta/misc.json', self.misc)

    def raw(self, name):
        return self.data / f'raw_seqs/{name}.mano.npy'

    def table(self, name):
        return {side: {'rot': pose[:, :3], 'pose': pose[:, 3:], 'trans': translation.astype(np.float64),
                       'shape': shape, 'fitting_err': [0.01] * len(pose)}
                for side, (pose, shape, translation) in self.fits[name].items()}

    def write_raw(self, name):
        save(self.raw(name), self.table(name))

    def write_processed(self, folder, name, boxes=None):
        """World joints in smplx's order, as process_seqs.py writes them. Returns them by side."""
        rng = np.random.default_rng(3)
        count = COUNTS[name]
        joints = {side: CENTRE + rng.uniform(-0.06, 0.06, (count, 21, 3)) for side in SIDES}
        boxes = np.full((count, 9, 3), (140.0, 100.0, 0.5)) if boxes is None else boxes
        save(folder / f'{name}.npy', {
            'world_coord': {f'joints.{side}': joints[side].astype(np.float32) for side in SIDES},
            'cam_coord': {'right_valid': np.ones((count, 9), np.int64)}, '2d': {}, 'bbox': boxes.astype(np.float32),
            'params': {'shape_r': np.zeros((count, 10), np.float32)}})
        return joints

    def truth(self, name, side, frame, arrays):
        """Vertices and joints (public order), metres, by the tests' own skinning."""
        pose, shape, translation = (part if part.ndim == 1 else part[frame] for part in self.fits[name][side])
        pose = pose + np.concatenate((np.zeros(3), arrays['hands_mean']))
        vertices, joints = skin(arrays, pose, shape, translation)
        joints = np.concatenate((joints, vertices[list(TIP_VERTICES['smplx'])]))
        return vertices, joints[list(ORDERS['smplx'])], pose


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / 'data')


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Options with both models, and their arrays. The left one has the directions that MANO_LEFT.pkl has."""
    folder = tmp_path_factory.mktemp('mano')
    arrays = {side: mano_file(folder / f'{side}.npz', side, mirrored_shape=False) for side in SIDES}
    return {f'mano_{side}': folder / f'{side}.npz' for side in SIDES}, arrays


def test_hands_from_mano_land_on_their_projections(tree, models):
    options, arrays = models
    for split, name in (('train', 's01/box_grab_01'), ('val', 's05/ketchup_use_02')):
        source = open_dataset('arctic', tree.root, split, **options)
        for index in (0, len(source) - 1):
            sample = source[index]
            assert sample.sequence == name and sample.side == SIDES[index > 0] and len(sample.views) == 8
            vertices, joints, pose = tree.truth(name, sample.side, sample.frame, arrays[sample.side])
            # The model runs in float32; a hand of 0.2 m is good to 1e-6 m, which is 1e-3 px here.
            np.testing.assert_allclose(sample.vertices, vertices, atol=2e-6)
            np.testing.assert_allclose(sample.joints, joints, atol=2e-6)
            np.testing.assert_allclose(sample.mano.pose, pose, atol=1e-12)
            for number, (view, world2cam) in enumerate(zip(sample.views, tree.poses[name[:3]]), start=1):
                assert view.camera.name == f'cam{number}' and view.visible.all()
                np.testing.assert_allclose(view.joints_px, pinhole(K, world2cam, joints), atol=3e-3)


def test_frames_images_and_time(tree, models):
    options, _ = models
    # 24 annotations: images 10 to 13 count; with offset 2 they belong to annotations 8 to 11.
    source = Arctic(tree.root, 'train', **options)
    assert source.sequences == [(0, 4), (4, 8)]
    assert [source[i].frame for i in range(8)] == [8, 9, 10, 11] * 2
    assert [source[i].side for i in (0, 3, 4, 7)] == ['right', 'right', 'left', 'left']
    assert source[0].views[4].image == tree.data / 'images/s01/box_grab_01/5/00010.jpg'
    np.testing.assert_allclose(np.diff([source[i].time_ns for i in range(4)]), 1e9 / 30, atol=1)
    # 23 annotations, offset 12: images 10 and 11 come before the first annotation, so one of 10 to 12 is left.
    source = Arctic(tree.root, 'val', sides=['left'], **options)
    assert [(sample.frame, sample.views[0].image.name) for sample in map(source.__getitem__, range(len(source)))] == [
        (0, '00012.jpg')]
    tree.misc['s05']['ioi_offset'] = 13
    tree.write_misc()
    with pytest.raises(DatasetError, match="no frame of split 'val'"):
        Arctic(tree.root, 'val', **options)


def test_joints_from_processed_sequences(tree, tmp_path):
    joints = tree.write_processed(tmp_path / 'seqs', 's01/box_grab_01')
    source = Arctic(tree.root, 'train', processed=tmp_path / 'seqs')
    for index in (0, 5):
        sample = source[index]
        truth = joints[sample.side][sample.frame][list(ORDERS['smplx'])]
        # float32 in the file: 1e-7 of a metre-sized number.
        np.testing.assert_allclose(sample.joints, truth, atol=1e-6)
        assert sample.mano is None and sample.vertices is None
        np.testing.assert_allclose(sample.views[3].joints_px, pinhole(K, tree.poses['s01'][3], truth), atol=1e-3)


def test_crops_keep_the_projection(tree, tmp_path):
    """A crop as Pillow makes it: the square around the box, in whole pixels, resized to 1000 pixels."""
    boxes = np.full((24, 9, 3), (140.0, 100.0, 0.5))
    boxes[8, 3] = 151.3, 87.6, 0.302
    joints = tree.write_processed(tmp_path / 'seqs', 's01/box_grab_01', boxes)
    for view in range(1, 9):
        write_image(tree.data / f'cropped_images/s01/box_grab_01/{view}/00010.jpg', 1000, 1000)
    view = Arctic(tree.root, 'train', images='cropped_images', processed=tmp_path / 'seqs')[0].views[2]
    assert view.read().shape == (1000, 1000, 3)
    side = 1.5 * 200 * 0.302
    left, top, right, bottom = (round(edge) for edge in (151.3 - side / 2, 87.6 - side / 2,
                                                          151.3 + side / 2, 87.6 + side / 2))
    whole = pinhole(K, tree.poses['s01'][2], joints['right'][8][list(ORDERS['smplx'])])
    # Areas are resized: a pixel's centre lies half a pixel inside.
    cropped = (whole + 0.5 - (left, top)) * 1000.0 / (right - left, bottom - top) - 0.5
    np.testing.assert_allclose(view.joints_px, cropped, atol=1e-2)


def test_workers_can_take_the_source(tree, tmp_path):
    tree.write_processed(tmp_path / 'seqs', 's01/box_grab_01')
    source = Arctic(tree.root, 'train', processed=tmp_path / 'seqs')
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[4].joints, source[4].joints)


def test_what_is_needed_for_joints_is_said(tree, models):
    options, _ = models
    with pytest.raises(DatasetError, match='give mano_right=FILE'):
        Arctic(tree.root, 'train')
    with pytest.raises(DatasetError, match='give mano_left=FILE'):
        Arctic(tree.root, 'train', mano_right=options['mano_right'])
    assert len(Arctic(tree.root, 'train', sides=['right'], mano_right=options['mano_right'])) == 4
    with pytest.raises(DatasetError, match='boxes of cropped_images'):
        Arctic(tree.root, 'train', images='cropped_images', **options)
    with pytest.raises(HandModelError, match='holds a right hand'):
        Arctic(tree.root, 'train', sides=['left'], mano_left=options['mano_right'])


def test_splits(tree, models):
    options, _ = models
    with pytest.raises(DatasetError, match='not published'):
        Arctic(tree.root, 'test', **options)
    with pytest.raises(DatasetError, match="'s09/box_use_01' is not a sequence of split 'train'"):
        Arctic(tree.root, 'train', only=['s09/box_use_01'], **options)
    tree.splits['train'].append('s02/mixer_use_01')
    dump(tree.data / 'splits_json/protocol_p1.json', tree.splits)
    with pytest.raises(DatasetError, match="misc.json: no entry 's02'"):
        Arctic(tree.root, 'train', **options)
    assert len(Arctic(tree.root, 'train', only=['s01/box_grab_01'], **options)) == 8


def test_the_root_may_be_the_data_folder(tree, models):
    options, _ = models
    assert len(Arctic(tree.data, 'train', **options)) == len(Arctic(tree.root.parent, 'train', **options)) == 8
    with pytest.raises(DatasetError, match='neither meta nor arctic_data/data/meta'):
        Arctic(tree.data / 'images', 'train', **options)


class Bomb:
    def __reduce__(self):
        return open, ('/nonexistent/opened', 'w')


def forget_view(tree):
    (tree.data / 'images/s01/box_grab_01/6').rename(tree.data / 'images/six')


def forget_pose(tree):
    table = tree.table('s01/box_grab_01')
    del table['left']['pose']
    save(tree.raw('s01/box_grab_01'), table)


def shorten(tree):
    table = tree.table('s01/box_grab_01')
    table['right']['trans'] = table['right']['trans'][:-1]
    save(tree.raw('s01/box_grab_01'), table)


def cut(tree):
    content = tree.raw('s01/box_grab_01').read_bytes()
    tree.raw('s01/box_grab_01').write_bytes(content[:len(content) // 2])


def plant(tree):
    save(tree.raw('s01/box_grab_01'), {'right': Bomb()})


def replace_by_numbers(tree):
    np.save(tree.raw('s01/box_grab_01'), np.zeros((3, 3)))


def replace_by_pickle(tree):
    tree.raw('s01/box_grab_01').write_bytes(pickle.dumps({'right': 1}))


def forget_cameras(tree):
    del tree.misc['s01']['world2cam']
    tree.write_misc()


def seven_cameras(tree):
    tree.misc['s01']['intris_mat'].pop()
    tree.write_misc()


def millimetre_rotation(tree):
    tree.misc['s01']['world2cam'][4] = (1000 * np.eye(4)).tolist()
    tree.write_misc()


@pytest.mark.parametrize('damage, message', [
    (lambda tree: tree.raw('s01/box_grab_01').unlink(), 'box_grab_01.mano.npy: no such file'),
    (forget_view, 'box_grab_01/6: no such directory.*`only`'),
    (forget_pose, "box_grab_01.mano.npy: no entry 'pose'"),
    (shorten, 'of the right hand differ in length'),
    (cut, 'box_grab_01.mano.npy is not a whole npy file'),
    (plant, 'refused: the pickle asks for .*open'),
    (replace_by_numbers, 'instead of a pickled table'),
    (replace_by_pickle, 'not a whole npy file'),
    (forget_cameras, "misc.json: s01: no entry 'world2cam'"),
    (seven_cameras, r"'intris_mat': shape \(7, 3, 3\), expected \(8, 3, 3\)"),
    (millimetre_rotation, 's01, view 5: '),
])
def test_damage_is_named(tree, models, damage, message):
    damage(tree)
    with pytest.raises(DatasetError, match=message) as caught:
        Arctic(tree.root, 'train', **models[0])
    assert 'unpack ARCTIC v1.0' in str(caught.value)


def test_a_processed_sequence_of_another_length_is_refused(tree, tmp_path):
    tree.write_processed(tmp_path / 'seqs', 's01/box_grab_01', np.ones((23, 9, 3)))
    with pytest.raises(DatasetError, match=r"'bbox': shape \(23, 9, 3\), expected \(24, 9, 3\).*process_seqs.py"):
        Arctic(tree.root, 'train', processed=tmp_path / 'seqs')[0]
    with pytest.raises(DatasetError, match='elsewhere: no such directory'):
        Arctic(tree.root, 'train', processed=tmp_path / 'elsewhere')
