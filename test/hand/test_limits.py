"""Anatomical angles, their limits and the way to axis-angles."""

import numpy as np
import pytest
import torch
from hand_cases import directed_edges, rodrigues, volume

from hand_unc_ros.hand.anatomical_pose import pose_from_angles
from hand_unc_ros.hand.joints import FINGERS
from hand_unc_ros.hand.limits import ANGLE_COUNT, ANGLE_LIMITS, ANGLE_NAMES, REACH_LIMITS, FlexionAxes
from hand_unc_ros.hand.standin import build_standin


from hand_unc_ros.hand.model import load_hand_model  # noqa: E402

SIDES = ('right', 'left')


@pytest.fixture(scope='module', params=SIDES)
def hand(request):
    model = load_hand_model(None, request.param)
    joints = model.rest_joints()
    return model, joints, FlexionAxes.from_rest_joints(joints, request.param)


def angles_of(**degrees):
    values = torch.zeros(1, ANGLE_COUNT, dtype=torch.float64)
    for name, value in degrees.items():
        values[0, ANGLE_NAMES.index(name)] = np.deg2rad(value)
    return values


def joints_at(hand, **degrees):
    model, _, axes = hand
    pose = pose_from_angles(angles_of(**degrees), axes).float()
    return model(torch.cat([torch.zeros(1, 3), pose], dim=1)).joints[0].double().numpy()


def test_limits_are_ordered_and_hold_the_rest_pose():
    assert ANGLE_LIMITS.shape == (ANGLE_COUNT, 2) == (len(ANGLE_NAMES), 2) == (21, 2)
    assert len(set(ANGLE_NAMES)) == ANGLE_COUNT
    assert (ANGLE_LIMITS[:, 0] <= 0.0).all() and (ANGLE_LIMITS[:, 1] > 0.0).all()
    assert np.abs(ANGLE_LIMITS).max() < np.deg2rad(110.0)
    # What hands reach holds what they do by themselves.
    assert REACH_LIMITS.shape == (ANGLE_COUNT, 2) and np.abs(REACH_LIMITS).max() < np.deg2rad(115.0)
    assert (REACH_LIMITS[:, 0] < ANGLE_LIMITS[:, 0]).all() and (REACH_LIMITS[:, 1] >= ANGLE_LIMITS[:, 1]).all()


def test_the_prior_of_fits_is_the_active_range():
    """Wider ranges of drawn poses must not loosen fits, and with them their covariance, unnoticed."""
    digest = np.rad2deg([ANGLE_LIMITS.sum(axis=0), np.ptp(ANGLE_LIMITS, axis=0)])
    np.testing.assert_allclose(digest, [[-200.0, 1400.0], [25.0, 95.0]])


def test_axes_are_orthonormal_and_mirrored(hand):
    _, joints, axes = hand
    three = (axes.flexion, axes.abduction, axes.twist)
    for first, second in zip(three, three[1:] + three[:1]):
        np.testing.assert_allclose((first * second).sum(axis=1), 0.0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, atol=1e-12)
    other = 'left' if axes.side == 'right' else 'right'
    mirrored = FlexionAxes.from_rest_joints(joints * [-1.0, 1.0, 1.0], other)
    for name in ('flexion', 'abduction', 'twist'):
        # Axes of turns are pseudo-vectors.
        expected = getattr(axes, name) * [1.0, -1.0, -1.0]
        np.testing.assert_allclose(getattr(mirrored, name), expected, atol=1e-12)


def test_axes_follow_a_turned_and_scaled_model(hand):
    """A user's model need not have the stand-in's frame."""
    _, joints, axes = hand
    turn = rodrigues(np.array([0.4, -1.1, 0.7]))
    turned = FlexionAxes.from_rest_joints(3.0 * joints @ turn.T + 5.0, axes.side)
    np.testing.assert_allclose(turned.flexion, axes.flexion @ turn.T, atol=1e-9)


def test_axes_refuse_what_has_none(hand):
    with pytest.raises(ValueError, match='coincide'):
        FlexionAxes.from_rest_joints(np.zeros((21, 3)), 'right')
    with pytest.raises(ValueError, match='side'):
        FlexionAxes.from_rest_joints(hand[1], 'middle')


@pytest.mark.parametrize('finger', FINGERS[1:])
def test_flexion_bends_to_the_palm_by_its_angle(hand, finger):
    _, rest, _ = hand
    first = 1 + 4 * FINGERS.index(finger)
    for joint, name in enumerate(('mcp', 'pip', 'dip')):
        bent = joints_at(hand, **{f'{finger}_{name}_flexion': 50.0})
        before, after = (joints[first + joint + 1] - joints[first + joint] for joints in (rest, bent))
        cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
        assert np.rad2deg(np.arccos(cosine)) == pytest.approx(50.0, abs=0.05)
        # The palm faces -y.
        assert after[1] < before[1]
        np.testing.assert_allclose(bent[:first + joint + 1], rest[:first + joint + 1], atol=1e-6)


def test_abduction_and_thumb_move_as_named(hand):
    _, rest, _ = hand
    for finger in FINGERS[1:]:
        tip = 4 + 4 * FINGERS.index(finger)
        # The thumb is on the +z side of either hand.
        assert joints_at(hand, **{f'{finger}_mcp_abduction': 10.0})[tip, 2] > rest[tip, 2] + 0.008
    assert joints_at(hand, thumb_cmc_abduction=20.0)[4, 1] < rest[4, 1] - 0.01
    assert joints_at(hand, thumb_cmc_flexion=20.0)[4, 2] < rest[4, 2] - 0.01
    # After pronation the bent thumb points more to the back of the hand, that is, to the fingertips' pads.
    plain = joints_at(hand, thumb_ip_flexion=60.0)
    assert joints_at(hand, thumb_ip_flexion=60.0, thumb_cmc_pronation=30.0)[4, 1] > plain[4, 1] + 0.002


def test_order_of_turns_at_a_knuckle(hand):
    _, _, axes = hand
    pose = pose_from_angles(angles_of(index_mcp_flexion=60.0, index_mcp_abduction=12.0), axes).numpy()
    flexion, abduction = np.deg2rad(60.0) * axes.flexion[0], np.deg2rad(12.0) * axes.abduction[0]
    expected = rodrigues(flexion) @ rodrigues(abduction)
    np.testing.assert_allclose(rodrigues(pose[0, :3]), expected, atol=1e-12)


def test_rest_has_a_gradient(hand):
    angles = torch.zeros(2, ANGLE_COUNT, dtype=torch.float64, requires_grad=True)
    pose = pose_from_angles(angles, hand[2])
    assert pose.abs().max() == 0.0
    pose.square().sum().backward()
    assert torch.isfinite(angles.grad).all()
    bent = torch.full_like(angles, 0.3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: pose_from_angles(values, hand[2]), (bent,))
    with pytest.raises(ValueError, match='21'):
        pose_from_angles(torch.zeros(2, 20), hand[2])


@pytest.mark.parametrize('limits', [ANGLE_LIMITS, REACH_LIMITS], ids=['active', 'reach'])
def test_every_pose_within_limits_keeps_the_hand_whole(hand, limits):
    """Uniform draws, harsher than any hand: neighbours bend independently of each other."""
    model, _, axes = hand
    rng = np.random.default_rng(11)
    low, high = limits.T
    angles = np.concatenate([low + rng.random((60, ANGLE_COUNT)) * (high - low), [low, high]])
    pose = pose_from_angles(torch.as_tensor(angles, dtype=torch.float32), axes)
    with torch.no_grad():
        posed = model(torch.cat([torch.zeros(len(pose), 3), pose], dim=1)).vertices.double().numpy()
    rest, faces = build_standin(axes.side)['v_template'], build_standin(axes.side)['f']
    # Measured over 300 draws: volume 0.93 to 1.02 of rest; 99.8 % of edges keep 0.37 to 1.98 of their length.
    ratios = np.array([volume(vertices, faces) for vertices in posed]) / volume(rest, faces)
    assert ratios.min() > 0.88 and ratios.max() < 1.06
    edges = np.unique(np.sort(directed_edges(faces), axis=1), axis=0)
    stretch = (np.linalg.norm(posed[:, edges[:, 0]] - posed[:, edges[:, 1]], axis=2)
               / np.linalg.norm(rest[edges[:, 0]] - rest[edges[:, 1]], axis=1))
    low_tail, high_tail = np.percentile(stretch, [0.1, 99.9])
    assert low_tail > 0.3 and high_tail < 2.3 and stretch.max() < 6.0
