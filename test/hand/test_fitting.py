"""A hand model's parameters fitted to joints.  Bounds: about 1.5 times what was measured, unless said otherwise."""

import numpy as np
import pytest
import torch
from hand_cases import regressed, skin
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.anatomical_pose import pose_from_angles
from hand_unc_ros.hand.fitting import MAX_STEPS, PALM, HandFitter, load_hand_fitter
from hand_unc_ros.hand.joints import FINGERTIPS, ORDERS
from hand_unc_ros.hand.limits import ANGLE_LIMITS, FlexionAxes
from hand_unc_ros.hand.model import TIP_VERTICES
from hand_unc_ros.hand.skinned_points import SkinnedPoints
from hand_unc_ros.hand.standin import build_standin

ARRAYS = {side: build_standin(side) for side in ('right', 'left')}
FITTERS = {side: load_hand_fitter('stand-in', side) for side in ARRAYS}
REST = {side: regressed(arrays, arrays['v_template']) for side, arrays in ARRAYS.items()}
AXES = {side: FlexionAxes.from_rest_joints(REST[side], side) for side in ARRAYS}


@pytest.fixture(params=('right', 'left'))
def side(request):
    return request.param


def isotropic(sigma):
    return np.tile(sigma ** 2 * np.eye(3), (21, 1, 1))


def random_hands(side, count, seed, twist=0.0, betas=None):
    """Lists of vertices (778, 3) and joints (21, 3): any pose within the limits, any shape, turn and place.

    twist: deviation (rad) of turns about every bone, on top.
    """
    rng = np.random.default_rng(seed)
    angles = torch.from_numpy(rng.uniform(ANGLE_LIMITS[:, 0], ANGLE_LIMITS[:, 1], (count, len(ANGLE_LIMITS))))
    bent = Rotation.from_rotvec(pose_from_angles(angles, AXES[side]).numpy().reshape(-1, 3))
    about_bones = rng.normal(0, 1, (count, 15, 1)) * twist * AXES[side].twist
    fingers = (bent * Rotation.from_rotvec(about_bones.reshape(-1, 3))).as_rotvec().reshape(count, 45)
    surfaces, joints = [], []
    for turn, finger in zip(Rotation.random(count, random_state=seed).as_rotvec(), fingers):
        beta = rng.normal(0, 1, 10) if betas is None else betas
        vertices, sixteen = skin(ARRAYS[side], np.concatenate([turn, finger]), beta, rng.normal(0, 1, 3))
        surfaces.append(vertices)
        joints.append(np.concatenate([sixteen, vertices[list(TIP_VERTICES['smplx'])]])[list(ORDERS['smplx'])])
    return surfaces, joints


def pose_turns(side, angles):
    """(16, 3, 3): flexion, then abduction about the turned axis, then twist about the bone; the wrist is still."""
    axes = AXES[side]
    parts = [Rotation.from_rotvec(axis * angles[:, c:c + 1]) for c, axis in enumerate(
        (axes.flexion, axes.abduction, axes.twist))]
    return np.concatenate([np.eye(3)[None], (parts[0] * parts[1] * parts[2]).as_matrix()])


def distance(a, b):
    return np.linalg.norm(a - b, axis=-1)


def twists(side, pose):
    """(15,) rad: each joint's turn about its bone, after the bends that bring the bone where it is."""
    axes, turns = AXES[side], Rotation.from_rotvec(pose.reshape(16, 3)[1:]).as_matrix()
    found = []
    for turn, flexion, abduction, twist in zip(turns, axes.flexion, axes.abduction, axes.twist):
        bone = turn @ twist
        up = np.cross(flexion, twist)
        bend = Rotation.from_rotvec(np.arctan2(bone @ up, bone @ twist) * flexion)
        lean = np.arcsin(np.clip(bone @ flexion * np.sign(np.cross(abduction, twist) @ flexion), -1, 1))
        left = (bend * Rotation.from_rotvec(lean * abduction)).as_matrix().T @ turn
        found.append(Rotation.from_matrix(left).as_rotvec() @ twist)
    return np.array(found)


def test_the_function_fitted_is_the_hand_models(side):
    """Random turns far outside any hand's; the model works in float32."""
    from hand_unc_ros.hand.model import load_hand_model

    rng = np.random.default_rng(0)
    pose, shape, place = rng.normal(0, 0.8, (4, 48)), rng.normal(0, 1.5, (4, 10)), rng.normal(0, 1, (4, 3))
    surface = load_hand_model(None, side)(*(torch.from_numpy(x).float() for x in (pose, shape, place)))
    points = SkinnedPoints(ARRAYS[side], np.arange(778))
    for k in range(4):
        placed = points.place(Rotation.from_rotvec(pose[k].reshape(16, 3)).as_matrix(), shape[k], place[k])
        both = np.concatenate([placed.joints, placed.points[list(TIP_VERTICES['smplx'])]])
        np.testing.assert_allclose(placed.points, surface.vertices[k].numpy(), atol=1e-6)
        np.testing.assert_allclose(both[list(ORDERS['smplx'])], surface.joints[k].numpy(), atol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_slopes_are_those_of_finite_differences(side, seed):
    rng = np.random.default_rng(seed)
    points = SkinnedPoints(ARRAYS[side], [*TIP_VERTICES['smplx'], *rng.integers(0, 778, 8)])
    turns = Rotation.from_rotvec(rng.normal(0, 0.7, (16, 3))).as_matrix()
    axes, shape, place = rng.normal(0, 1, (16, 3, 3)), rng.normal(0, 1, 10), rng.normal(0, 1, 3)
    slopes = points.jacobian(turns, axes, points.place(turns, shape, place))

    def at(step):
        small = Rotation.from_rotvec((axes @ step[:48].reshape(16, 3, 1))[..., 0]).as_matrix()
        placed = points.place(turns @ small, shape + step[48:58], place + step[58:])
        return np.concatenate([placed.joints, placed.points])

    steps = 1e-5 * np.eye(61)
    differences = np.stack([(at(step) - at(-step)) / 2e-5 for step in steps], axis=-1)
    assert slopes.shape == differences.shape == (29, 3, 61)
    # Third derivatives times 1e-10 / 6, and rounding: measured 2e-10 m.
    np.testing.assert_allclose(slopes, differences, atol=2e-9)
    assert np.abs(slopes).max() > 0.1


def test_small_changes_of_angles_turn_about_the_axes_said(side):
    rng = np.random.default_rng(1)
    angles = rng.normal(0, 0.7, (15, 3))
    turns, axes = FITTERS[side]._turns(angles)
    expected = pose_turns(side, angles)
    np.testing.assert_allclose(turns, expected, atol=1e-12)
    for c in range(3):
        step = np.zeros((15, 3))
        step[:, c] = 1e-6
        difference = (pose_turns(side, angles + step) - pose_turns(side, angles - step))[1:] / 2e-6
        # R^T dR is the cross-product matrix of the axis.
        cross = turns[1:].swapaxes(1, 2) @ difference
        np.testing.assert_allclose(cross[:, [2, 0, 1], [1, 2, 0]], axes[1:, :, c], atol=1e-8)


def test_known_hands_come_back_from_exact_joints(side):
    surfaces, joints = random_hands(side, 20, 0)
    fits = [FITTERS[side].fit(x, isotropic(0.001)) for x in joints]
    residual = np.array([fit.residual_m for fit in fits])
    # Not zero: the priors pull, against joints that are claimed to be known to 1 mm.
    assert np.median(residual) < 0.0005 and residual.max() < 0.001
    mesh = [distance(fit.vertices, vertices).mean() for fit, vertices in zip(fits, surfaces)]
    assert np.median(mesh) < 0.00075 and max(mesh) < 0.002
    for fit, known in zip(fits, joints):
        assert fit.residual_m == pytest.approx(np.sqrt((distance(fit.joints, known) ** 2).mean()))
        assert fit.iterations <= 6 and fit.side == side


def test_parameters_say_what_the_surface_shows(side):
    _, joints = random_hands(side, 3, 1)
    for known in joints:
        fit = FITTERS[side].fit(known, isotropic(0.003))
        vertices, sixteen = skin(ARRAYS[side], fit.pose, fit.shape, fit.translation)
        np.testing.assert_allclose(fit.vertices, vertices, atol=1e-9)
        both = np.concatenate([sixteen, vertices[list(TIP_VERTICES['smplx'])]])
        np.testing.assert_allclose(fit.joints, both[list(ORDERS['smplx'])], atol=1e-9)


def test_noise_is_reduced_and_its_size_recognised(side):
    rng = np.random.default_rng(2)
    _, joints = random_hands(side, 20, 2)
    noisy = [x + rng.normal(0, 0.005, (21, 3)) for x in joints]
    fits = [FITTERS[side].fit(x, isotropic(0.005)) for x in noisy]
    after = np.mean([distance(fit.joints, x).mean() for fit, x in zip(fits, joints)])
    # Measured 0.6: 26 angles and places of 63 numbers, and some shape.
    assert after < 0.75 * np.mean([distance(a, b).mean() for a, b in zip(noisy, joints)])
    assert 0.5 < np.mean([fit.whitened_residual for fit in fits]) < 0.9
    assert FITTERS[side].fit(noisy[0], isotropic(0.05)).whitened_residual < 0.2


def test_the_covariance_says_which_direction_to_believe(side):
    """Joints known to 1 mm across and 10 mm along a direction of their own, as from two near cameras."""
    rng = np.random.default_rng(3)
    _, joints = random_hands(side, 20, 3)
    sigma, weighted, unweighted = np.array([0.001, 0.001, 0.010]), [], []
    for k, known in enumerate(joints):
        axes = Rotation.random(21, random_state=k).as_matrix()
        noisy = known + (axes @ (sigma * rng.normal(size=(21, 3)))[:, :, None])[..., 0]
        told = FITTERS[side].fit(noisy, (axes * sigma ** 2) @ axes.swapaxes(1, 2))
        untold = FITTERS[side].fit(noisy, isotropic(np.sqrt((sigma ** 2).mean())))
        weighted.append(distance(told.joints, known).mean())
        unweighted.append(distance(untold.joints, known).mean())
    # Measured 2.1 of 5.4 mm.
    assert np.mean(weighted) < 0.6 * np.mean(unweighted)


def test_what_errors_have_in_common_counts(side):
    """Every joint but the palm's shifted alike within its finger: a full covariance knows, its blocks don't."""
    rng = np.random.default_rng(4)
    _, joints = random_hands(side, 20, 4)
    full = np.kron(np.eye(21), 0.001 ** 2 * np.eye(3))
    for finger in range(5):
        rows = slice(3 * (2 + 4 * finger), 3 * (5 + 4 * finger))
        full[rows, rows] += np.kron(np.ones((3, 3)), 0.008 ** 2 * np.eye(3))
    blocks = full * np.kron(np.eye(21), np.ones((3, 3)))
    errors = []
    for known in joints:
        noisy = known + rng.multivariate_normal(np.zeros(63), full).reshape(21, 3)
        errors.append([distance(FITTERS[side].fit(noisy, c).joints, known).mean() for c in (full, blocks)])
    together, apart = np.mean(errors, axis=0)
    # Measured 6.2 of 8.4 mm.
    assert together < 0.85 * apart
    same = FITTERS[side].fit(noisy, blocks), FITTERS[side].fit(
        noisy, np.stack([blocks[3 * j:3 * j + 3, 3 * j:3 * j + 3] for j in range(21)]))
    np.testing.assert_array_equal(same[0].vertices, same[1].vertices)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2 ** 31 - 1))
def test_a_rigid_motion_of_the_joints_moves_the_fit(seed):
    rng = np.random.default_rng(seed)
    side = ('right', 'left')[seed % 2]
    joints = random_hands(side, 1, seed)[1][0] + rng.normal(0, 0.004, (21, 3))
    mix = rng.normal(0, 0.004, (21, 3, 3))
    covariance = mix @ mix.swapaxes(1, 2) + isotropic(0.003)
    turn, shift = Rotation.random(random_state=seed).as_matrix(), rng.normal(0, 1, 3)
    fit = FITTERS[side].fit(joints, covariance)
    moved = FITTERS[side].fit(joints @ turn.T + shift, turn @ covariance @ turn.T)
    # Rounding may decide whether a last step is taken, which moves no parameter by more than a tenth of its deviation:
    # 0.1 in shape, 0.03 rad at a joint, 0.3 mm under these covariances.
    np.testing.assert_allclose(moved.vertices, fit.vertices @ turn.T + shift, rtol=0, atol=3e-4)
    np.testing.assert_allclose(moved.shape, fit.shape, rtol=0, atol=0.1)
    np.testing.assert_allclose(moved.pose[3:], fit.pose[3:], rtol=0, atol=0.03)


def test_unknown_joints_are_not_used(side):
    _, joints = random_hands(side, 6, 5)
    for missing in ([8], [7, 8], [5, 6, 7, 8], [4, 8, 12, 16, 20], [1, 13]):
        for known in joints:
            lost = known.copy()
            lost[missing] = np.nan
            fit = FITTERS[side].fit(lost, isotropic(0.001))
            assert np.isfinite(fit.vertices).all() and np.isfinite(fit.joints).all()
            assert fit.residual_m < 0.001
            valid = np.ones(21, bool)
            valid[missing] = False
            wrong, unsure = known.copy(), isotropic(0.001)
            wrong[missing] += 1.0
            unsure[missing] = np.nan
            for other in (FITTERS[side].fit(wrong, isotropic(0.001), valid=valid),
                          FITTERS[side].fit(wrong, unsure)):
                np.testing.assert_array_equal(other.vertices, fit.vertices)


def test_a_finger_bends_the_right_way_over_missing_joints(side):
    """Two sides of a triangle: what lies between is on the back's side, not the palm's, 40 to 90 mm away."""
    _, joints = random_hands(side, 20, 6)
    for missing in ([6], [7], [14], [6, 7], [10, 11], [18, 19]):
        for known in joints:
            lost = known.copy()
            lost[missing] = np.nan
            assert distance(FITTERS[side].fit(lost, isotropic(0.001)).joints, known)[missing].max() < 0.018


def test_unknown_palm_gives_no_fit(side):
    for missing in ([0], [1, 5, 9], list(PALM), list(range(21))):
        joints = REST[side].copy()
        joints[missing] = np.nan
        assert FITTERS[side].fit(joints, isotropic(0.003)) is None
    unsure = np.kron(np.eye(21), 1e-5 * np.eye(3))
    unsure[0, 0] = np.nan
    assert FITTERS[side].fit(REST[side], unsure) is None


def test_twist_is_not_seen_in_joints_and_stays_small(side):
    """Stiff turns keep near zero whatever the truth; the thumb's base alone may pronate."""
    stiff = [j for j in range(15) if j != 12]
    # Measured 0.1 and 0.6 degrees, 1.0 and 8.8.
    for true_twist, mean, highest in ((0.0, 0.2, 1.5), (np.deg2rad(15), 2, 13)):
        _, joints = random_hands(side, 10, 7, twist=true_twist)
        found = np.abs([twists(side, FITTERS[side].fit(x, isotropic(0.003)).pose) for x in joints])[:, stiff]
        assert np.rad2deg(found.mean()) < mean and np.rad2deg(found.max()) < highest


def test_vertices_show_the_twist_that_joints_do_not(side):
    rng = np.random.default_rng(8)
    surfaces, joints = random_hands(side, 8, 8, twist=np.deg2rad(15))
    variance, without, seen = np.full((778, 3), 0.003 ** 2), [], []
    for vertices, known in zip(surfaces, joints):
        noisy, surface = known + rng.normal(0, 0.003, (21, 3)), vertices + rng.normal(0, 0.003, (778, 3))
        surface[rng.random(778) < 0.2] = np.nan
        fit = FITTERS[side].fit(noisy, isotropic(0.003), vertices=surface, variance=variance)
        seen.append(distance(fit.vertices, vertices).mean())
        without.append(distance(FITTERS[side].fit(noisy, isotropic(0.003)).vertices, vertices).mean())
    # Measured 2.4 of 3.7 mm.
    assert np.mean(seen) < 0.8 * np.mean(without)


def test_a_tracks_shape_settles(side):
    """One hand in 40 poses, 5 mm of noise: handing on the fit averages bone lengths."""
    rng = np.random.default_rng(9)
    betas = rng.normal(0, 1, 10)
    _, joints = random_hands(side, 40, 9, betas=betas)

    def bones(shape):
        sixteen = ARRAYS[side]['J_regressor'] @ (ARRAYS[side]['v_template'] + ARRAYS[side]['shapedirs'] @ shape)
        parents = np.array(ARRAYS[side]['kintree_table'])[0, 1:]
        return distance(sixteen[1:], sixteen[parents])

    previous, alone, tracked = None, [], []
    for known in joints:
        noisy = known + rng.normal(0, 0.005, (21, 3))
        previous = FITTERS[side].fit(noisy, isotropic(0.005), previous=previous)
        tracked.append(previous.shape)
        alone.append(FITTERS[side].fit(noisy, isotropic(0.005)).shape)
    errors = [np.mean([np.abs(bones(s) - bones(betas)).mean() for s in x[15:]]) for x in (tracked, alone)]
    assert errors[0] < 0.85 * errors[1]
    assert np.std(tracked[15:], axis=0).mean() < 0.3 * np.std(alone[15:], axis=0).mean()


def test_degenerate_joints_give_a_finite_hand(side):
    joints = random_hands(side, 1, 10)[1][0]
    coincident, folded, point = joints.copy(), joints.copy(), np.zeros((21, 3))
    coincident[7] = coincident[6]
    folded[8] = folded[7] - (folded[8] - folded[7])
    flat = REST[side] * [1, 0, 1]
    mirrored = joints * [-1, 1, 1]
    for strange in (coincident, folded, flat, mirrored, point, 3 * joints):
        for sigma in (0.0, 0.003):
            fit = FITTERS[side].fit(strange, isotropic(sigma))
            assert np.isfinite(fit.vertices).all() and np.isfinite(fit.pose).all()
            assert fit.iterations <= MAX_STEPS


def test_skin_is_as_uncertain_as_the_joints_that_it_hangs_on(side):
    variances = np.random.default_rng(0).uniform(1e-6, 1e-4, (21, 3))
    spread = FITTERS[side].vertex_variance(np.diag(variances.ravel()))
    assert (spread >= variances.min(0) - 1e-12).all() and (spread <= variances.max(0) + 1e-12).all()
    for tip, vertex in zip(FINGERTIPS, TIP_VERTICES['smplx']):
        # The skin of a fingertip hangs on the last bone: half its joint, half its tip.
        np.testing.assert_allclose(spread[vertex], (variances[tip - 1] + variances[tip]) / 2, rtol=1e-6)
    variances[8] = np.nan
    unknown = np.isnan(FITTERS[side].vertex_variance(np.diag(variances.ravel()))).any(1)
    # The public joint 7 is the index finger's distal one, smplx's 3: its bone ends in the tip 8.
    assert np.array_equal(unknown, ARRAYS[side]['weights'][:, ORDERS['smplx'][7]] > 0) and 20 < unknown.sum() < 250


def test_a_converted_file_is_fitted_alike(tmp_path, side):
    """float32 and the wrist's parent as MANO's files have them."""
    arrays = {key: x.astype(np.float32 if x.dtype.kind == 'f' else np.int64) for key, x in ARRAYS[side].items()}
    arrays['kintree_table'][0, 0] = 2 ** 32 - 1
    path = tmp_path / 'mine.npz'
    np.savez(path, **arrays, side=np.array(side))
    fitter = load_hand_fitter(str(path), side)
    assert (fitter.name, fitter.side, FITTERS[side].name) == ('mano', side, 'stand-in')
    np.testing.assert_array_equal(fitter.faces, ARRAYS[side]['f'])
    joints = random_hands(side, 1, 11)[1][0]
    np.testing.assert_allclose(
        fitter.fit(joints, isotropic(0.003)).vertices, FITTERS[side].fit(joints, isotropic(0.003)).vertices, atol=1e-5)
    other = 'left' if side == 'right' else 'right'
    with pytest.raises(HandModelError, match=f'mine.npz holds a {side} hand.*{other}'):
        load_hand_fitter(str(path), other)
    with pytest.raises(HandModelError, match='nowhere.npz'):
        load_hand_fitter(str(tmp_path / 'nowhere.npz'), side)


def test_bad_input_is_named():
    fitter, joints = FITTERS['right'], REST['right']
    with pytest.raises(ValueError, match=r'joints \(21, 3\)'):
        fitter.fit(joints[:20], isotropic(0.003))
    with pytest.raises(ValueError, match='covariance.*63, 63'):
        fitter.fit(joints, np.eye(3))
    with pytest.raises(ValueError, match='semi-definite'):
        fitter.fit(joints, -isotropic(0.01))
    with pytest.raises(ValueError, match='go together'):
        fitter.fit(joints, isotropic(0.003), vertices=np.zeros((778, 3)))
    with pytest.raises(ValueError, match=r'\(778, 3\)'):
        fitter.fit(joints, isotropic(0.003), vertices=np.zeros((21, 3)), variance=np.ones((21, 3)))
    with pytest.raises(HandModelError, match="'both'"):
        HandFitter(ARRAYS['right'], 'both', 'stand-in')
    with pytest.raises(HandModelError, match="lacks 'weights'"):
        HandFitter({k: v for k, v in ARRAYS['right'].items() if k != 'weights'}, 'right', 'mine')
    chain = np.stack([np.arange(16) - 1, np.arange(16)])
    with pytest.raises(HandModelError, match='tree of joints'):
        HandFitter({**ARRAYS['right'], 'kintree_table': chain}, 'right', 'mine')
