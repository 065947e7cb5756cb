"""The surface that is hung on estimated joints."""

import numpy as np
import pytest
import torch
from hand_cases import skin
from view_cases import hand, rotation

from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.following import PALM, FollowingSurface, load_following_surface
from hand_unc_ros.hand.joints import FINGERTIPS, ORDERS, PARENTS
from hand_unc_ros.hand.limits import ANGLE_LIMITS, FlexionAxes, pose_from_angles
from hand_unc_ros.hand.model import TIP_VERTICES
from hand_unc_ros.hand.standin import build_standin


@pytest.fixture(scope='module', params=('right', 'left'))
def side(request):
    return request.param


@pytest.fixture(scope='module')
def arrays(side):
    return build_standin(side)


@pytest.fixture(scope='module')
def surface(arrays):
    return FollowingSurface(arrays, 'stand-in')


def regressed(arrays, vertices):
    """Joints (21, 3) of a surface by the model's own regressor and tip vertices."""
    joints = np.concatenate([arrays['J_regressor'] @ vertices, vertices[list(TIP_VERTICES['smplx'])]])
    return joints[list(ORDERS['smplx'])]


def test_the_rest_joints_give_back_the_rest_surface(arrays, surface):
    np.testing.assert_allclose(surface.follow(surface.rest_joints), arrays['v_template'], atol=1e-12)
    np.testing.assert_allclose(regressed(arrays, arrays['v_template']), surface.rest_joints, atol=1e-12)
    np.testing.assert_allclose(surface.weights.sum(1), 1, atol=1e-6)
    assert surface.faces.shape == (1538, 3) and surface.faces.max() == 777


@pytest.mark.parametrize('seed', range(4))
def test_a_rigid_motion_and_scale_of_the_joints_moves_the_surface_alike(arrays, surface, seed):
    rng = np.random.default_rng(seed)
    turn, shift, scale = rotation(rng.normal(0, 2, 3)), rng.normal(0, 1, 3), np.exp(rng.normal(0, 0.3))
    moved = scale * surface.rest_joints @ turn.T + shift
    vertices = surface.follow(moved)
    np.testing.assert_allclose(vertices, scale * arrays['v_template'] @ turn.T + shift, atol=1e-9)
    np.testing.assert_allclose(regressed(arrays, vertices), moved, atol=1e-9)


@pytest.mark.parametrize('seed', range(4))
def test_following_commutes_with_rigid_motions_in_any_pose(surface, side, seed):
    rng = np.random.default_rng(seed)
    joints = hand(side=side, curl=rng.uniform(0, 1.2)) + rng.normal(0, 0.003, (21, 3))
    turn, shift = rotation(rng.normal(0, 2, 3)), rng.normal(0, 1, 3)
    np.testing.assert_allclose(
        surface.follow(joints @ turn.T + shift), surface.follow(joints) @ turn.T + shift, atol=1e-9
    )


@pytest.mark.parametrize('seed', range(4))
def test_bends_without_twist_are_linear_blend_skinning(arrays, surface, side, seed):
    """Joints turned about axes across their bones: the smallest turn that follows is the one made."""
    rng = np.random.default_rng(seed)
    axes = FlexionAxes.from_rest_joints(surface.rest_joints, side)
    heading = rng.uniform(-0.5, 0.5, (15, 1))
    bends = rng.uniform(-0.2, 1.3, (15, 1)) * (
        np.cos(heading) * axes.flexion + np.sin(heading) * axes.abduction
    )
    rigid = {**arrays, 'posedirs': np.zeros((778, 3, 135))}
    vertices, joints = skin(
        rigid, np.concatenate([rng.normal(0, 1, 3), bends.ravel()]), np.zeros(10), rng.normal(0, 1, 3)
    )
    public = np.concatenate([joints, vertices[list(TIP_VERTICES['smplx'])]])[list(ORDERS['smplx'])]
    np.testing.assert_allclose(surface.follow(public), vertices, atol=1e-9)


def test_a_surface_close_to_the_models_own(surface, side):
    """On the joints of a posed model, against its skin: the twist about bones and the shape are unknown."""
    pytest.importorskip('smplx')
    from hand_unc_ros.hand.model import load_hand_model

    model = load_hand_model(None, side)
    axes = FlexionAxes.from_rest_joints(model.rest_joints(), side)
    rng = np.random.default_rng(0)
    share = rng.uniform(0.2, 0.8, (6, len(ANGLE_LIMITS)))
    angles = torch.as_tensor(ANGLE_LIMITS[:, 0] + share * np.ptp(ANGLE_LIMITS, axis=1), dtype=torch.float32)
    pose = torch.cat(
        [torch.as_tensor(rng.normal(0, 1, (6, 3)), dtype=torch.float32), pose_from_angles(angles, axes)], 1
    )
    posed = model(pose, torch.as_tensor(rng.normal(0, 1, (6, 10)), dtype=torch.float32))
    for vertices, joints in zip(posed.vertices.double().numpy(), posed.joints.double().numpy()):
        distance = 1e3 * np.linalg.norm(surface.follow(joints) - vertices, axis=1)
        # Measured 2.5 mm mean; fingers are 15 mm thick.
        assert distance.mean() < 4 and np.quantile(distance, 0.95) < 12


def test_only_the_last_bones_skin_can_miss_its_joint(surface, side):
    """Bones of other lengths: tips lie on their bone, off by what the bone is longer than its scaled rest."""
    rng = np.random.default_rng(1)
    joints = hand(side=side, curl=0.4)
    longer = joints.copy()
    for child in range(1, 21):
        parent = PARENTS[child]
        longer[child] = longer[parent] + (joints[child] - joints[parent]) * (
            1 if parent == 0 else rng.uniform(0.85, 1.15)
        )
    lengths, rest = (
        np.linalg.norm(x[1:] - x[list(PARENTS[1:])], axis=1) for x in (longer, surface.rest_joints)
    )
    excess = np.abs(lengths - np.median(lengths / rest) * rest)
    vertices = surface.follow(longer)
    for tip, vertex in zip(FINGERTIPS, TIP_VERTICES['smplx']):
        assert np.linalg.norm(vertices[vertex] - longer[tip]) == pytest.approx(excess[tip - 1], abs=1e-6)
        assert excess[tip - 1] < 0.2 * 0.03


def test_missing_finger_joints_stay_straight_on_the_last_known(arrays, surface):
    whole = surface.rest_joints @ rotation((0.3, 0.2, 0.1)).T
    for missing in ([8], [7, 8], [6, 7, 8], [8, 12, 16, 20], [2, 3, 4], [4, 5, 6, 7, 8]):
        joints = whole.copy()
        joints[missing] = np.nan
        vertices = surface.follow(joints)
        # The straight continuation is what the rest pose is, so nothing is lost here.
        np.testing.assert_allclose(vertices, arrays['v_template'] @ rotation((0.3, 0.2, 0.1)).T, atol=1e-9)
        assert np.isnan(joints[missing]).all()


def test_unknown_palm_gives_no_surface(surface):
    for missing in ([0], [1, 5, 9], list(PALM), list(range(21))):
        joints = surface.rest_joints.copy()
        joints[missing] = np.nan
        assert surface.follow(joints) is None, missing
    two = surface.rest_joints.copy()
    two[[1, 5]] = np.nan
    assert np.isfinite(surface.follow(two)).all()


def test_degenerate_joints_give_a_finite_surface(surface):
    """Two joints in one place, a finger folded back on itself, the hand in a plane."""
    coincident = surface.rest_joints.copy()
    coincident[7] = coincident[6]
    folded = surface.rest_joints.copy()
    folded[8] = folded[7] - (folded[8] - folded[7])
    flat = surface.rest_joints * [1, 0, 1]
    for joints in (coincident, folded, flat):
        vertices = surface.follow(joints)
        assert np.isfinite(vertices).all()
        assert np.ptp(vertices, axis=0).max() < 0.4


def test_vertex_variance_is_a_weighted_mean_of_the_joints(surface):
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(surface.vertex_variance(4e-6 * np.eye(63)), np.full((778, 3), 4e-6))
    variances = rng.uniform(1e-6, 1e-4, (21, 3))
    spread = surface.vertex_variance(np.diag(variances.ravel()))
    assert (spread >= variances.min(0) - 1e-12).all() and (spread <= variances.max(0) + 1e-12).all()
    for finger, tip in enumerate(FINGERTIPS):
        vertex = TIP_VERTICES['smplx'][finger]
        # The skin of a fingertip hangs on the last bone: half its joint, half its tip.
        np.testing.assert_allclose(spread[vertex], (variances[tip - 1] + variances[tip]) / 2, rtol=1e-6)


def test_vertex_variance_is_unknown_only_where_an_unknown_joint_is_needed(surface):
    covariance = 4e-6 * np.eye(63)
    for joint in (8, 6):
        broken = covariance.copy()
        broken[3 * joint:3 * joint + 3] = np.nan
        broken[:, 3 * joint:3 * joint + 3] = np.nan
        spread = surface.vertex_variance(broken)
        unknown = np.isnan(spread).all(1)
        assert np.array_equal(unknown, np.isnan(spread).any(1))
        # A tip hangs on the joint before it.
        needs = surface.weights[:, 7 if joint == 8 else 6] > 0
        assert np.array_equal(unknown, needs)
        assert 20 < unknown.sum() < 250
        np.testing.assert_allclose(spread[~unknown], 4e-6)


def test_loading_by_name_and_refusing_the_other_hand(tmp_path, side, arrays):
    assert load_following_surface('stand-in', side).name == 'stand-in'
    path = tmp_path / 'mine.npz'
    np.savez(path, **arrays, side=np.array(side))
    loaded = load_following_surface(str(path), side)
    assert loaded.name == 'mano'
    np.testing.assert_allclose(loaded.rest_joints, FollowingSurface(arrays, 'x').rest_joints, atol=1e-12)
    other = 'left' if side == 'right' else 'right'
    with pytest.raises(HandModelError, match=f'mine.npz holds a {side} hand.*{other}'):
        load_following_surface(str(path), other)
    with pytest.raises(HandModelError, match='nowhere.npz'):
        load_following_surface(str(tmp_path / 'nowhere.npz'), side)
