"""InterHand2.6M's reader, on a tree written here in the layout of the official page."""

import json
import pickle

import numpy as np
import pytest
from dataset_cases import looking_at, mano_file, pinhole, random_joints, ring, write_image
from hand_cases import skin

from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.data.datasets.interhand import InterHand
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.hand.joints import JOINT_NAMES, ORDERS

CENTRE = np.array([0.05, 0.2, 1.0])
CAMERAS = ('400262', '400263', '400264', '400265', '400266', '400267')
FOCAL, PRINCIPAL, SIZE = (1270.0, 1265.0), (170.0, 255.0), (334, 512)
# The official skeleton.txt of one hand.
FILE_NAMES = [f'{finger}{joint}' for finger in ('thumb', 'index', 'middle', 'ring', 'pinky') for joint in (4, 3, 2, 1)]
FILE_NAMES.append('wrist')
# (sequence, frame): (annotated hands). Frames of the 5 fps release lie 18 apart.
FRAMES = {('ROM01_Fist', 7290): 'right', ('ROM01_Fist', 7308): 'right', ('ROM01_Fist', 7344): 'right',
          ('ROM09_Touch', 9000): 'right left', ('ROM09_Touch', 9018): 'left'}


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


class Tree:
    """Split 'train' with capture 3 of two sequences; truth in metres by (frame, side), in the order of the file."""

    def __init__(self, root):
        rng = np.random.default_rng(1)
        self.root, self.truth, self.fits = root, {}, {}
        self.poses = dict(zip(CAMERAS, ring(len(CAMERAS), CENTRE)))
        self.data = {'images': [], 'annotations': []}
        joints3d, fits = {}, {}
        for (sequence, frame), hands in FRAMES.items():
            world, valid = np.zeros((42, 3)), np.zeros((42, 1))
            for side, part in (('right', slice(0, 21)), ('left', slice(21, 42))):
                if side in hands:
                    world[part], valid[part] = random_joints(rng, CENTRE), 1
                    self.truth[frame, side] = world[part].copy()
                    self.fits[frame, side] = [rng.normal(0, s, n) for s, n in ((0.3, 48), (1.0, 10), (0.1, 3))]
            joints3d[str(frame)] = {'world_coord': (1000 * world).tolist(), 'joint_valid': valid.astype(int).tolist(),
                                    'hand_type': 'interacting' if ' ' in hands else hands, 'hand_type_valid': 1}
            fits[str(frame)] = {side: dict(zip(('pose', 'shape', 'trans'), map(list, self.fits[frame, side])))
                                if side in hands else None for side in ('right', 'left')}
            for camera in CAMERAS:
                number = len(self.data['images'])
                name = f'Capture3/{sequence}/cam{camera}/image{frame}.jpg'
                self.data['images'].append({
                    'id': number, 'file_name': name, 'width': SIZE[0], 'height': SIZE[1], 'capture': 3, 'subject': 1,
                    'seq_name': sequence, 'camera': camera, 'frame_idx': frame})
                self.data['annotations'].append({
                    'id': 10_000 + number, 'image_id': number, 'bbox': [10, 10, 200, 300],
                    'joint_valid': valid.astype(int).ravel().tolist(), 'hand_type': joints3d[str(frame)]['hand_type'],
                    'hand_type_valid': 1})
                write_image(root / 'images/train' / name, *SIZE)
        self.joints3d, self.mano = {'3': joints3d}, {'3': fits}
        self.cameras = {'3': {
            'campos': {c: (-1000 * M[:3, :3].T @ M[:3, 3]).tolist() for c, M in self.poses.items()},
            'camrot': {c: M[:3, :3].tolist() for c, M in self.poses.items()},
            'focal': {c: FOCAL for c in CAMERAS}, 'princpt': {c: PRINCIPAL for c in CAMERAS}}}
        self.write()

    def file(self, kind):
        return self.root / f'annotations/train/InterHand2.6M_train_{kind}.json'

    def write(self):
        for kind, content in (('data', self.data), ('camera', self.cameras), ('joint_3d', self.joints3d),
                              ('MANO_NeuralAnnot', self.mano)):
            dump(self.file(kind), content)

    def pixels(self, camera, points):
        K = [[FOCAL[0], 0, PRINCIPAL[0]], [0, FOCAL[1], PRINCIPAL[1]], [0, 0, 1]]
        return pinhole(K, self.poses[camera], points)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / 'InterHand2.6M_5fps_batch1')


def test_joint_order_by_name():
    """skeleton.txt numbers the joints of a finger 4 (tip) to 1 (base)."""
    spelled = []
    for name in JOINT_NAMES:
        finger, _, joint = name.partition('_')
        place = {'tip': 4, 'dip': 3, 'ip': 3, 'pip': 2, 'mcp': 2 if finger == 'thumb' else 1, 'cmc': 1}
        spelled.append('wrist' if name == 'wrist' else finger.replace('little', 'pinky') + str(place[joint]))
    assert [FILE_NAMES[i] for i in ORDERS['interhand']] == spelled


def test_one_sample_per_hand(tree):
    source = open_dataset('interhand', tree.root, 'train')
    found = [(s.sequence, s.side, s.frame) for s in map(source.__getitem__, range(len(source)))]
    assert found == [
        ('Capture3/ROM01_Fist', 'right', 7290), ('Capture3/ROM01_Fist', 'right', 7308),
        ('Capture3/ROM01_Fist', 'right', 7344), ('Capture3/ROM09_Touch', 'left', 9000),
        ('Capture3/ROM09_Touch', 'left', 9018), ('Capture3/ROM09_Touch', 'right', 9000)]
    assert source.sequences == [(0, 3), (3, 5), (5, 6)]
    assert len(InterHand(tree.root, 'train', sides=['right'])) == 4
    assert len(InterHand(tree.root, 'train', sides=['left'])) == 2
    times = [source[i].time_ns for i in range(3)]
    # 18 frames are the step of the release, so the third frame comes two steps after the second.
    np.testing.assert_allclose(np.diff(times), (2e8, 4e8), atol=1)


def test_joints_land_on_their_projections(tree):
    source = InterHand(tree.root, 'train')
    for index in range(len(source)):
        sample = source[index]
        truth = tree.truth[sample.frame, sample.side][list(ORDERS['interhand'])]
        # Millimetres in the file are metres here; the file keeps all digits.
        np.testing.assert_allclose(sample.joints, truth, atol=1e-12)
        assert len(sample.views) == 6 and sample.mano is None
        for view in sample.views:
            assert view.camera.name[:3] == 'cam' and (view.camera.width, view.camera.height) == SIZE
            np.testing.assert_allclose(view.joints_px, tree.pixels(view.camera.name[3:], truth), atol=1e-6)
            assert view.visible.all()
    assert source[0].views[0].read().shape == (512, 334, 3)
    # The wrist is the first joint here and the last in the file.
    np.testing.assert_allclose(source[0].joints[0], tree.truth[7290, 'right'][20], atol=1e-12)


def test_missing_joints_are_nan_and_truncated_ones_not_visible(tree):
    tip, base = ORDERS['interhand'].index(0), ORDERS['interhand'].index(7)
    tree.joints3d['3']['7290']['joint_valid'][0] = [0]
    tree.data['annotations'][0]['joint_valid'][0] = 0
    # The index finger's base lies outside the first image alone.
    tree.data['annotations'][0]['joint_valid'][7] = 0
    # Without its wrist a hand is left out.
    tree.joints3d['3']['9000']['joint_valid'][41] = [0]
    tree.write()
    source = InterHand(tree.root, 'train')
    sample = source[0]
    assert np.flatnonzero(np.isnan(sample.joints).any(axis=1)).tolist() == [tip]
    for view in sample.views:
        assert np.isnan(view.joints_px[tip]).all() and not view.visible[tip]
        assert np.isfinite(view.joints_px[base]).all()
    assert [bool(view.visible[base]) for view in sample.views] == [False] + [True] * 5
    assert sample.views[1].visible.sum() == 20
    assert [(source[i].frame, source[i].side) for i in range(3, len(source))] == [(9018, 'left'), (9000, 'right')]


def test_a_camera_without_image_of_a_frame_is_absent(tree):
    dropped = tree.data['images'].pop(1)
    tree.data['annotations'].pop(1)
    tree.write()
    source = InterHand(tree.root, 'train')
    assert dropped['frame_idx'] == 7290
    assert [view.camera.name[3:] for view in source[0].views] == [c for c in CAMERAS if c != dropped['camera']]
    assert len(source[1].views) == 6


def test_cameras_are_spread_or_named(tree):
    # Three cameras side by side and one opposite: two of four must be the first and the opposite one.
    places = [CENTRE + np.array(p) for p in ((0.8, 0, 0.1), (0.8, 0.05, 0.1), (0.8, 0.1, 0.1), (-0.8, 0, 0.1))]
    for camera, place in zip(CAMERAS, places):
        pose = looking_at(place, CENTRE)
        tree.cameras['3']['campos'][camera] = (1000 * place).tolist()
        tree.cameras['3']['camrot'][camera] = pose[:3, :3].tolist()
    tree.data['images'] = [image for image in tree.data['images'] if image['camera'] in CAMERAS[:4]]
    tree.write()

    def names(**options):
        return [view.camera.name[3:] for view in InterHand(tree.root, 'train', **options)[0].views]

    assert names(views=2) == [CAMERAS[0], CAMERAS[3]]
    assert names(views=3) == [CAMERAS[0], CAMERAS[2], CAMERAS[3]]
    assert names(views=8) == list(CAMERAS[:4])
    assert names(cameras=[CAMERAS[1], CAMERAS[2]]) == list(CAMERAS[1:3])
    with pytest.raises(DatasetError, match='no hand'):
        names(cameras=['nonsense'])


@pytest.mark.parametrize('mirrored', [True, False])
def test_mano_of_both_hands(tree, tmp_path, mirrored):
    """Fits were made with mirrored shape directions, whichever left model the user has."""
    right = mano_file(tmp_path / 'right.npz', 'right')
    left = mano_file(tmp_path / 'left.npz', 'left', mirrored_shape=mirrored)
    left['shapedirs'][:, 0] = -right['shapedirs'][:, 0]
    source = InterHand(tree.root, 'train', mano_right=tmp_path / 'right.npz', mano_left=tmp_path / 'left.npz')
    for index, side, arrays in ((3, 'left', left), (5, 'right', right)):
        sample = source[index]
        pose, shape, translation = tree.fits[9000, side]
        full = pose + np.concatenate((np.zeros(3), arrays['hands_mean']))
        assert sample.side == side
        np.testing.assert_allclose(sample.mano.pose, full, atol=1e-7)
        np.testing.assert_allclose(sample.mano.translation, translation, atol=1e-12)
        # The model runs in float32; a hand of 0.2 m is good to 1e-6 m.
        np.testing.assert_allclose(sample.vertices, skin(arrays, full, shape, translation)[0], atol=2e-6)


def test_left_model_alone_cannot_be_judged(tree, tmp_path):
    mano_file(tmp_path / 'left.npz', 'left')
    with pytest.raises(DatasetError, match='give mano_right too'):
        InterHand(tree.root, 'train', mano_left=tmp_path / 'left.npz')


def test_a_hand_without_fit_has_no_mano(tree, tmp_path):
    mano_file(tmp_path / 'right.npz', 'right')
    tree.mano['3']['7290']['right'] = None
    del tree.mano['3']['7308']
    tree.write()
    source = InterHand(tree.root, 'train', mano_right=tmp_path / 'right.npz')
    assert [source[i].mano is None for i in range(4)] == [True, True, False, True]
    assert [source[i].vertices is None for i in range(4)] == [True, True, False, True]


def break_pose(tree):
    tree.cameras['3']['camrot'][CAMERAS[2]] = (2 * np.eye(3)).tolist()


def forget_capture(tree):
    tree.joints3d = {'4': tree.joints3d['3']}


def forget_frame(tree):
    del tree.joints3d['3']['7308']


def forget_key(tree):
    del tree.data['images'][3]['seq_name']


def halve_validity(tree):
    tree.data['annotations'][3]['joint_valid'] = [1] * 21


def one_hand(tree):
    tree.joints3d['3']['7290']['world_coord'] = tree.joints3d['3']['7290']['world_coord'][:21]


@pytest.mark.parametrize('damage, message', [
    (break_pose, 'camera 400264, capture 3: its rotation is not orthonormal'),
    (forget_capture, "joint_3d.json: no entry '3'"),
    (forget_frame, "capture 3: .*7308|no entry '7308'"),
    (forget_key, "data.json: .*'seq_name'"),
    (halve_validity, 'data.json: '),
    (one_hand, r'capture 3, frame 7290: shape \(21, 3\), expected \(42, 3\)'),
])
def test_damaged_annotations_are_named(tree, damage, message):
    damage(tree)
    tree.write()
    with pytest.raises(DatasetError, match=message) as caught:
        InterHand(tree.root, 'train')[0]
    assert 'InterHand2.6M v1.0 from https://mks0601' in str(caught.value)


def test_missing_files_are_named(tree):
    with pytest.raises(DatasetError, match='images/val: no such directory'):
        InterHand(tree.root, 'val')
    tree.file('camera').unlink()
    with pytest.raises(DatasetError, match='InterHand2.6M_train_camera.json: no such file'):
        InterHand(tree.root, 'train')
    tree.write()
    tree.file('data').write_text('{"images": [')
    with pytest.raises(DatasetError, match='not whole JSON'):
        InterHand(tree.root, 'train')
    tree.write()
    (tree.root / 'images/train/Capture3').rename(tree.root / 'images/train/Capture9')
    with pytest.raises(DatasetError, match='Capture3: no such directory.*`only`'):
        InterHand(tree.root, 'train')


def test_the_old_version_is_recognised(tree):
    (tree.root / 'annotations/train').rename(tree.root / 'annotations/machine_annot')
    with pytest.raises(DatasetError, match="'machine_annot', so it is InterHand2.6M v0.0"):
        InterHand(tree.root, 'train')


def test_workers_can_take_the_source(tree):
    source = InterHand(tree.root, 'train')
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[4].joints, source[4].joints)


def test_captures_can_be_chosen(tree):
    with pytest.raises(DatasetError, match='no hand'):
        InterHand(tree.root, 'train', only=[7])
    assert len(InterHand(tree.root, 'train', only=[3])) == 6


def test_bad_options_are_named(tree):
    with pytest.raises(DatasetError, match='fps 5 or 30'):
        InterHand(tree.root, 'train', fps=25)
    with pytest.raises(DatasetError, match="side 'both'"):
        InterHand(tree.root, 'train', sides=['both'])
