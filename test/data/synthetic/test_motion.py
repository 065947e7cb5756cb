"""Postures and their motion: within anatomy, not through themselves, as wide and as fast as a real hand's."""

import numpy as np
import pytest
import torch
from angle_cases import measured_angles
from repository import RECORDINGS
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from hand_unc_ros.data.synthetic import motion as motions
from hand_unc_ros.data.synthetic.finger_capsules import ANGLE_FINGERS, RADII, SOFT_M, clearance, place_joints
from hand_unc_ros.data.synthetic.motion import HandMotion
from hand_unc_ros.data.synthetic.postures import CLOSURE_CORRELATION, draw_angles, settle
from hand_unc_ros.hand.anatomical_pose import pose_from_angles
from hand_unc_ros.hand.joints import FINGERS
from hand_unc_ros.hand.limits import ANGLE_COUNT, ANGLE_LIMITS, ANGLE_NAMES, REACH_LIMITS, FlexionAxes
from hand_unc_ros.hand.model import load_hand_model

RATE_HZ = 30.0
# One right hand, 621 frames at 30 Hz: a detector's joints, so its angles jitter by about 0.7° and are off by some.
REAL = RECORDINGS / 'dex_retargeting' / 'human_joint_right.npz'
needs_real = pytest.mark.skipif(not REAL.is_file(), reason='the recording is not here')


def column(name):
    return ANGLE_NAMES.index(name)


@pytest.fixture(scope='module')
def drawn():
    """(1000, 21) rad."""
    rng = np.random.default_rng(0)
    return np.stack([draw_angles(rng) for _ in range(1000)])


@pytest.fixture(scope='module')
def rest():
    return place_joints(np.zeros((1, ANGLE_COUNT)))[0]


@pytest.fixture(scope='module')
def real(rest):
    """(621, 21) rad."""
    return measured_angles(np.load(REAL)['joints'], rest)


# --- the coarse hand --------------------------------------------------------------------------------------

def test_capsules_lie_in_the_hand_model():
    """Joints as the stand-in's, by the other way there; radii as its skin's around them."""
    model = load_hand_model(None)
    rng = np.random.default_rng(3)
    angles = rng.uniform(*REACH_LIMITS.T, (20, ANGLE_COUNT))
    axes = FlexionAxes.from_rest_joints(model.rest_joints(), 'right')
    pose = pose_from_angles(torch.as_tensor(angles, dtype=torch.float32), axes)
    with torch.no_grad():
        expected = model(torch.cat([torch.zeros(20, 3), pose], dim=1)).joints.double().numpy()
    found = place_joints(angles)
    # Distances do not depend on the frame.
    apart = [np.linalg.norm(joints[:, :, None] - joints[:, None], axis=-1) for joints in (expected, found)]
    assert np.abs(apart[0] - apart[1]).max() < 1e-5
    flat = model(torch.zeros(1, 48)).vertices[0].double().numpy()
    joints = model.rest_joints()
    for finger in range(5):
        # First bones lie in the palm and the web.
        for k in (1, 2):
            start, end = joints[1 + 4 * finger + k:3 + 4 * finger + k]
            share = (flat - start) @ (end - start) / ((end - start) @ (end - start))
            away = np.linalg.norm(flat - start - share[:, None] * (end - start), axis=1)
            skin = away[(share > 0.2) & (share < 0.8) & (away < 0.015)]
            assert np.median(skin) == pytest.approx(RADII[finger, k], abs=1e-3)


def test_clearance_is_of_what_meets(rest):
    open_hand = np.zeros((1, ANGLE_COUNT))
    fingers, thumb = clearance(open_hand)
    # Knuckles are 20 mm apart, fingers 18 mm thick; they fan out.
    assert (np.abs(fingers) < 0.03).all() and thumb[0] > 0
    through = open_hand.copy()
    through[0, column('index_mcp_abduction')], through[0, column('middle_mcp_abduction')] = -0.4, 0.4
    assert clearance(through)[0][0, 1] < -0.01 and clearance(through)[0][0, 3] == pytest.approx(fingers[0, 3])
    with pytest.raises(ValueError, match='21'):
        clearance(np.zeros(21))


# --- postures ---------------------------------------------------------------------------------------------

def test_angles_stay_within_reach_and_use_it(drawn):
    assert (drawn >= REACH_LIMITS[:, 0] - 1e-12).all() and (drawn <= REACH_LIMITS[:, 1] + 1e-12).all()
    assert (REACH_LIMITS[:, 0] <= ANGLE_LIMITS[:, 0]).all() and (REACH_LIMITS[:, 1] >= ANGLE_LIMITS[:, 1]).all()
    used = np.ptp(drawn, axis=0) / np.ptp(REACH_LIMITS, axis=1)
    assert used.min() > 0.8, dict(zip(ANGLE_NAMES, used.round(2)))
    # Most hands are within the active range, which fits take for granted.
    beyond = (drawn < ANGLE_LIMITS[:, 0]) | (drawn > ANGLE_LIMITS[:, 1])
    assert beyond.mean() < 0.15, beyond.mean()


def test_joints_of_a_finger_bend_on_their_own_and_neighbours_together(drawn):
    joint = {name: np.stack([drawn[:, column(f'{finger}_{name}_flexion')] for finger in FINGERS[1:]])
             for name in ('mcp', 'pip', 'dip')}
    for mcp, pip, dip in zip(*joint.values()):
        # A fist bends both, a hook one, a plate the other: somewhat correlated, and every corner is there.
        assert 0.1 < np.corrcoef(mcp, pip)[0, 1] < 0.6
        for low in (mcp, pip), (pip, mcp):
            assert ((low[0] < np.deg2rad(15)) & (low[1] > np.deg2rad(65))).mean() > 0.02
        assert np.corrcoef(pip, dip)[0, 1] > 0.5
        assert np.percentile(dip, 2) < np.deg2rad(-15)
    for name in ('mcp', 'pip'):
        found = np.corrcoef(joint[name])
        assert found[2, 3] > found[0, 1] > 0.4 and found[0, 1] > found[0, 3] > 0.2
    assert np.allclose(CLOSURE_CORRELATION, CLOSURE_CORRELATION.T)
    assert np.linalg.eigvalsh(CLOSURE_CORRELATION)[0] > 0


def test_no_finger_runs_through_another_or_the_palm(drawn):
    fingers, thumb = clearance(drawn)
    worst = np.minimum(fingers.min(axis=1), thumb)
    assert (worst >= -SOFT_M - 1e-9).mean() > 0.99 and worst.min() > -0.008, (worst.min(), (worst < -SOFT_M).mean())
    # Thumbs touch: pinches, fists and keys are closed until they do.
    assert 0.15 < (thumb < 0.002).mean() < 0.75
    closed = settle(REACH_LIMITS[:, 1])
    assert clearance(closed[None])[0].min() >= -SOFT_M - 1e-9 and clearance(closed[None])[1][0] >= -SOFT_M - 1e-9
    free = np.zeros(ANGLE_COUNT)
    assert np.array_equal(settle(free), free)


@needs_real
def test_real_hands_lie_within_what_is_drawn(drawn, real, rest):
    """Of each angle, and of each knuckle's angle less the next joint's, the drawn 1–99 % hold 98 % of the frames."""
    measured = measured_angles(place_joints(drawn), rest)
    # What is measured is what was drawn, but for the thumb's prior.
    assert np.abs(measured - drawn)[:, 5:].max() < 1e-6
    names = list(ANGLE_NAMES)
    both = [measured, real]
    for finger in FINGERS[1:]:
        pair = [column(f'{finger}_{joint}_flexion') for joint in ('mcp', 'pip')]
        both = [np.column_stack([angles, angles[:, pair[0]] - angles[:, pair[1]]]) for angles in both]
        names.append(f'{finger} mcp − pip')
    low, high = np.quantile(both[0], [0.01, 0.99], axis=0)
    inside = (both[1] >= low) & (both[1] <= high)
    assert inside.mean(axis=0).min() >= 0.98, dict(zip(names, inside.mean(axis=0).round(3)))
    # 59 % with one closure for both joints; 96 % measured.
    assert inside.all(axis=1).mean() > 0.93


# --- motion -----------------------------------------------------------------------------------------------

def test_wrist_is_smooth_and_no_faster_than_minimum_jerk():
    """The profile 10 s³ − 15 s⁴ + 6 s⁵ peaks at 15/8 of the mean speed and rests at the keys."""
    motion = HandMotion(3, base=(0.4, -0.2, 0.9))
    step = 1e-4
    for key in range(3):
        start, end = (motion.at((key + i) * motion.period_s) for i in (0, 1))
        travel = np.linalg.norm(end.translation - start.translation)
        turn = (Rotation.from_rotvec(end.orientation) * Rotation.from_rotvec(start.orientation).inv()).magnitude()
        speeds = []
        for s in np.linspace(0.001, 0.998, 41):
            one, other = (motion.at((key + s) * motion.period_s + d) for d in (0, step))
            speeds.append([np.linalg.norm(other.translation - one.translation) / step,
                           (Rotation.from_rotvec(other.orientation)
                            * Rotation.from_rotvec(one.orientation).inv()).magnitude() / step])
        limit = 1.875 / motion.period_s * np.array([travel, turn])
        peak = np.max(speeds, axis=0)
        assert (peak <= limit * 1.001 + 1e-9).all()
        assert (peak >= limit * 0.99 - 1e-9).all()
        assert (np.array(speeds)[[0, -1]] <= 1e-3 * limit + 1e-9).all()


def test_fingers_are_smooth_and_as_fast_as_their_moves(monkeypatch):
    """Without drift, each finger's angles go from key to key by minimum jerk within the time of its move."""
    motion = HandMotion(4, period_s=0.9)
    monkeypatch.setattr(motions, '_DRIFT', np.zeros(ANGLE_COUNT))
    times = np.arange(0, 4 * motion.period_s, 4e-3)
    angles = np.stack([motion.at(t).angles for t in times])
    speeds = np.abs(np.diff(angles, axis=0)) / 4e-3
    for key in range(4):
        moves = motions._moves(motion.seed, key, motion.period_s)
        assert (moves.onset >= 0).all() and (moves.onset + moves.duration <= motion.period_s + 1e-12).all()
        swing = np.abs(motion.at((key + 1) * motion.period_s).angles - motion.at(key * motion.period_s).angles)
        limit = 1.875 * swing / moves.duration[ANGLE_FINGERS]
        within = (times[:-1] >= key * motion.period_s) & (times[:-1] < (key + 1) * motion.period_s - 4e-3)
        assert (speeds[within].max(axis=0) <= limit * 1.001 + 1e-9).all()
        assert (speeds[within].max(axis=0) >= limit * 0.97 - 1e-9).all()
    # With drift, still without a jump: a step of 4 ms at 20 rad/s is 0.08 rad.
    monkeypatch.undo()
    angles = np.stack([motion.at(t).angles for t in times])
    assert np.abs(np.diff(angles, axis=0)).max() < 0.08 and np.abs(np.diff(angles, 2, axis=0)).max() < 8e-3


def test_motion_stays_in_its_bounds_and_is_decided_by_the_seed():
    motion = HandMotion(5, base=(0.0, 1.0, 0.5), centre=(0.1, 0.0, -0.1), reach=(0.02, 0.03, 0.04))
    base = Rotation.from_rotvec(motion.base)
    states = [motion.at(t) for t in np.linspace(0, 12, 60)]
    for state in states:
        assert (np.abs(state.translation - motion.centre) <= np.array(motion.reach) + 1e-12).all()
        # A ball of 1.2 rad round `base` is convex: the way between two of its turns stays in it.
        assert (Rotation.from_rotvec(state.orientation) * base.inv()).magnitude() <= motion.turn + 1e-9
        assert (state.angles >= REACH_LIMITS[:, 0]).all() and (state.angles <= REACH_LIMITS[:, 1]).all()
    for forget in (motions._posture, motions._moves, motions._freedom, motions._drift):
        forget.cache_clear()
    for t, state in reversed(list(zip(np.linspace(0, 12, 60), states))):
        assert np.array_equal(HandMotion(5, base=motion.base).at(t).angles, state.angles)
    assert not np.array_equal(HandMotion(6).at(0.3).angles, HandMotion(5).at(0.3).angles)


@pytest.fixture(scope='module')
def sequences():
    """(20, 150, 21) rad at 30 Hz."""
    return np.stack([[HandMotion(seed).at(frame / RATE_HZ).angles for frame in range(150)] for seed in range(20)])


def test_hands_seldom_run_through_themselves_on_their_way(sequences):
    fingers, thumb = clearance(sequences.reshape(-1, ANGLE_COUNT))
    worst = np.minimum(fingers.min(axis=1), thumb)
    # Measured: 4 % by more than 4 mm, 0.5 % by more than 8.
    assert (worst < -0.004).mean() < 0.08 and (worst < -0.008).mean() < 0.02, worst.min()


@needs_real
def test_fingers_are_as_fast_as_real_ones(sequences, real, rest):
    """Speeds and accelerations at 50 and 90 % of all frames and angles, both smoothed alike (Gaussian, 50 ms: the
    detector's jitter would be most of the acceleration otherwise). The recording turns no wrist."""
    def quantiles(angles, order):
        smooth = gaussian_filter1d(angles, 1.5, axis=0, mode='nearest')
        return np.abs(np.diff(smooth, order, axis=0)) * RATE_HZ ** order

    measured = measured_angles(place_joints(sequences.reshape(-1, ANGLE_COUNT)), rest).reshape(sequences.shape)
    for order in (1, 2):
        ours = np.quantile(np.concatenate([quantiles(angles, order) for angles in measured]), [0.5, 0.9])
        theirs = np.quantile(quantiles(real, order), [0.5, 0.9])
        assert (np.abs(np.log(ours / theirs)) < np.log(1.5)).all(), (order, ours, theirs)
