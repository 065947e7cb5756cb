"""Two hands at once through one estimator, each with a memory of its own; and what a method is given of a track."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from rig_cases import ring
from view_cases import PERIOD_NS, START_NS, TruthMethod, frames, hand, readings_of, see

from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.tracks import LEAST_CALM, Track
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.bone_lengths import BoneLengths, bone_lengths
from hand_unc_ros.methods.contract import Detection, NotFused

torch.set_num_threads(1)

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
SIDES = ('left', 'right')
PLACES = {'left': np.array([-0.1, 0.02, 0.0]), 'right': np.array([0.1, -0.02, 0.03])}
HANDS = {side: hand(side=side, place=PLACES[side]) for side in SIDES}
SPEED = {'left': np.array([0.2, 0.0, 0.0]), 'right': np.array([0.0, -0.1, 0.1])}


class TwoHands(TruthMethod):
    """Finds and reads both hands of a script, each by its own crops. gone: hands that are not there."""

    def __init__(self, **changes):
        super().__init__(None)
        self.gone, self.found, self.windows, self.bones = set(), 0, [], {}
        for name, value in changes.items():
            setattr(self, name, value)

    def joints(self, side, stamp_ns):
        return HANDS[side] + SPEED[side] * (stamp_ns - START_NS) * 1e-9

    def find(self, views):
        self.found += 1
        # Not in the order in which the estimator asks for them, and with a worse rival.
        return [[detection for side in reversed(SIDES) if side not in self.gone for detection in (
            Detection(np.full(4, 1.0), side, 0.2), Detection(np.full(4, 2.0), side, 0.9))] for _ in views]

    def read(self, crops):
        readings = []
        for side in SIDES:
            mine = [crop for crop in crops if crop.handedness == side]
            if mine:
                stamp_ns, rig = mine[0].view.stamp_ns, CameraRig([crop.camera for crop in mine])
                hidden = [(row, None) for row in range(len(mine))] if side in self.gone else ()
                seen = see(rig, self.joints(side, stamp_ns), noise=0.3, seed=stamp_ns % 1000, hidden=hidden)
                readings += readings_of(seen, stamp_ns, side).values()
        order = [(crop.camera.name, crop.handedness) for crop in crops]
        return sorted(readings, key=lambda reading: order.index((reading.camera, reading.handedness)))

    def fuse(self, window, rig, track):
        self.windows.append((track.handedness, window))
        self.bones[track.handedness] = track.bones
        return super().fuse(window, rig, track)


def estimator_of(method, hands=SIDES, **options):
    return HandEstimator(method, EstimatorSettings(**options), hands=hands)


def test_two_hands_are_followed_as_two_tracks():
    method = TwoHands()
    estimator = estimator_of(method)
    for index in range(6):
        result = estimator.process(frames(RIG, index))
        assert [hand.handedness for hand in result.hands] == ['left', 'right'] and result.reasons == ()
        assert [hand.track_id for hand in result.hands] == [1, 2]
        for found in result.hands:
            truth = method.joints(found.handedness, START_NS + index * PERIOD_NS)
            assert np.linalg.norm(found.joints - truth, axis=1).max() < 0.01
            assert np.linalg.eigvalsh(found.covariance).min() > 0
            readings = result.readings_of(found)
            assert readings.handedness == found.handedness and tuple(readings.views) == RIG.names
            assert all(reading.handedness == found.handedness for reading in readings.views.values())
        assert set(result.stage_ms) >= {'views', 'fusion', 'refinement', 'health', 'finish'}
    # Searched once, then followed; in the second set each is predicted.
    assert method.found == 1 and all(predicted is not None for _, predicted in method.calls[2:])


def test_each_of_two_hands_is_as_if_it_were_alone():
    """To the bit, filter and all."""
    both = estimator_of(TwoHands(), filter=True, view_health=False)
    alone = {side: estimator_of(TwoHands(), (side,), filter=True, view_health=False) for side in SIDES}
    for index in range(5):
        result = both.process(frames(RIG, index))
        for found in result.hands:
            expected, = alone[found.handedness].process(frames(RIG, index)).hands
            for name in ('joints', 'covariance', 'velocity', 'reprojection_px', 'view_weights'):
                np.testing.assert_array_equal(vars(found)[name], vars(expected)[name])


def test_a_lost_hand_leaves_the_other_and_comes_back_as_itself():
    method = TwoHands()
    estimator = estimator_of(method)
    estimator.process(frames(RIG, 0))
    method.gone = {'left'}
    result = estimator.process(frames(RIG, 1))
    assert [(hand.handedness, hand.track_id) for hand in result.hands] == [('right', 2)]
    assert result.reasons == ('0 of 4 views show a hand, 2 are needed: depth is not observable',)
    assert [(readings.track_id, readings.handedness) for readings in result.readings] == [(0, 'left'), (2, 'right')]
    assert [track.track_id for track in estimator.tracks] == [2]
    # It is searched for at once, and again while the other one is followed.
    assert method.found == 2
    estimator.process(frames(RIG, 2))
    assert method.found == 3
    method.gone = set()
    result = estimator.process(frames(RIG, 3))
    assert [(hand.handedness, hand.track_id) for hand in result.hands] == [('left', 1), ('right', 2)]


def test_a_calm_hand_is_expected_narrowly_until_it_surprises():
    """A hand that goes straight on lies where it is predicted; one that jumps by 30 cm, 6 σ, does not."""
    track, still = Track(1, 'right'), HANDS['right']
    spread = 1e-6 * np.eye(63)

    def see_at(index, joints):
        stamp_ns = START_NS + index * PERIOD_NS
        track.learn_calm(stamp_ns, joints)
        track.follower.update(stamp_ns, joints, spread)
        after = stamp_ns + PERIOD_NS
        return np.trace(track.expected_covariance(after)[0]) / np.trace(track.follower.predicted_covariance(after)[0])

    assert see_at(0, still) == 1.0
    for index in range(1, 20):
        share = see_at(index, still + 0.3 * index * PERIOD_NS * 1e-9)
    np.testing.assert_allclose(share, LEAST_CALM)
    assert see_at(20, still + 0.3) == 1.0
    # A share of 1/CALM_SETS of what it was above the least goes with every calm set.
    assert LEAST_CALM < see_at(21, track.follower.predict(START_NS + 21 * PERIOD_NS))


def test_a_hand_found_again_moves_on_as_before():
    """Lost for two sets: what the filter knew of its velocity is not learned anew."""
    method = TwoHands()
    estimator = estimator_of(method)
    for index in range(13):
        method.gone = {'right'} if index in (10, 11) else set()
        estimator.process(frames(RIG, index))
    right = next(track for track in estimator.tracks if track.handedness == 'right')
    np.testing.assert_allclose(right.follower.velocity, np.broadcast_to(SPEED['right'], (21, 3)), atol=0.05)
    assert right.calm < 0.2 and right.track_id in (1, 2)


def test_a_track_remembers_the_bones_of_its_hand():
    """Known to 2 % at best, of a hand that was lost for a moment too; another one's are not."""
    method = TwoHands()
    estimator = estimator_of(method)
    estimator.process(frames(RIG, 0))
    assert all((bones.variance == BoneLengths().variance).all() for bones in method.bones.values())
    for index in range(1, 6):
        estimator.process(frames(RIG, index))
    learned = method.bones
    for side in SIDES:
        assert np.abs(learned[side].length / bone_lengths(HANDS[side]) - 1).max() < 0.05
        assert (np.sqrt(learned[side].variance) < 0.04 * learned[side].length).all()
    method.gone, method.bones = {'left'}, {}
    estimator.process(frames(RIG, 6))
    method.gone = set()
    for index in (7, 8):
        estimator.process(frames(RIG, index))
    assert estimator.tracks[-1].track_id == 1
    assert (method.bones['left'].variance < 2 * learned['left'].variance).all()
    estimator.process(frames(RIG, 60))
    assert all((bones.variance == BoneLengths().variance).all() for bones in method.bones.values())


def test_without_a_memory_of_bones_a_method_gets_none():
    method = TwoHands()
    estimator = estimator_of(method, bone_memory=False)
    for index in range(2):
        estimator.process(frames(RIG, index))
    assert method.bones == dict.fromkeys(SIDES)


def test_both_hands_count_for_the_health_of_a_camera():
    one, two = (estimator_of(TwoHands(), hands) for hands in (('right',), SIDES))
    for index in range(3):
        reports = [estimator.process(frames(RIG, index)).view_reports for estimator in (one, two)]
    assert all(len(report) == len(RIG) and all(np.isfinite(one.shift_px) for one in report) for report in reports)
    assert reports[0] != reports[1]


def test_a_method_gets_the_window_that_it_asks_for():
    method = TwoHands(window=3)
    estimator = estimator_of(method, ('right',))
    for index in range(5):
        estimator.process(frames(RIG, index))
    stamps = [[next(iter(readings.values())).stamp_ns for readings in window] for _, window in method.windows]
    number = [[round((stamp - START_NS) / PERIOD_NS) for stamp in window] for window in stamps]
    assert number == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    # Nothing of the past comes to a hand that is new.
    estimator.reset()
    estimator.process(frames(RIG, 5))
    assert len(method.windows[-1][1]) == 1


def test_why_a_method_makes_no_hand_is_passed_on():
    class Refusing(TwoHands):
        def fuse(self, window, rig, track):
            return NotFused(f'no {track.handedness} hand today')

    result = estimator_of(Refusing()).process(frames(RIG))
    assert result.hands == () and result.reasons == ('no left hand today', 'no right hand today')


def test_a_method_that_needs_more_views_gets_them():
    method = TwoHands(min_views=3)
    assert estimator_of(method, ('right',)).process(frames(RIG, cameras=RIG.names[:2])).reasons == (
        '2 of 2 views show a hand, 3 are needed: depth is not observable',)
    assert method.calls == []


def test_a_detection_of_the_other_hand_is_not_taken():
    class OneSided(TwoHands):
        def find(self, views):
            return [[replace(one, handedness='left') for one in found] for found in super().find(views)]

    result = estimator_of(OneSided(), ('right',)).process(frames(RIG))
    assert result.hands == () and result.reasons[0].startswith('0 of 4 views show a hand')
