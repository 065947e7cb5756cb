"""Both hands at once: views are associated, hands that cross keep their tracks, one that vanishes keeps its id."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rig_cases import ring
from view_cases import PERIOD_NS, START_NS, TruthMethod, frames, hand, readings_of, see

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.estimator import SEARCH_PERIOD_S, HandEstimator
from hand_unc_ros.estimation.hand_assignment import boxes_of_new_hands, owned_readings, unclaimed
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.tracks import TRACK_MEMORY_S, Track
from hand_unc_ros.experiments.crossing_hands import run
from hand_unc_ros.methods.contract import Detection, ViewReading

torch.set_num_threads(1)

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35, models=('none',))
HANDS = {'right': hand(place=(0.08, 0.0, 0.0)), 'left': hand((0.4, 0.9, -0.2), (-0.08, 0.02, 0.01), 'left')}


def readings(side, right=0.95, seed=0):
    """Of each view, by camera. right: probability of a right hand, of all views or of each."""
    seen = readings_of(see(RIG, HANDS[side], noise=0.5, seed=seed), START_NS, side)
    return {name: replace(one, right=float(share))
            for (name, one), share in zip(seen.items(), np.broadcast_to(right, len(RIG)))}


def detections(*seen):
    """For each view those of some hands, in an order that changes from view to view. None: not found there."""
    found = []
    for row, name in enumerate(RIG.names):
        of_view = [Detection(np.array([index, row, 1.0, 0.0]), 'right' if one[name].right > 0.5 else 'left', 0.9,
                             one[name]) for index, one in enumerate(seen)]
        found.append(of_view[::-1] if row % 2 else of_view)
    return found


def tracked(side, stamp_ns=START_NS):
    track = Track(1, side, seen_ns=stamp_ns)
    for step in (2, 1, 0):
        track.follower.update(stamp_ns - step * PERIOD_NS, HANDS[side], 1e-6 * np.eye(63))
    return track


def owners(boxes):
    return {side: [None if np.isnan(box[0]) else int(box[0]) for box in of_side] for side, of_side in boxes.items()}


def test_views_that_take_right_for_left_follow_the_hand_of_the_others():
    """In every view the surest detection of a side is another hand's: geometry decides."""
    found = detections(readings('right', [0.9, 0.9, 0.2, 0.9]), readings('left', [0.1, 0.7, 0.1, 0.1]))
    boxes = boxes_of_new_hands(found, RIG, ('right', 'left'), (), (), START_NS)
    assert owners(boxes) == {'right': [0, 0, 0, 0], 'left': [1, 1, 1, 1]}
    assert owners(boxes_of_new_hands(found, RIG, ('right',), (), (), START_NS)) == {'right': [0, 0, 0, 0]}


def test_a_lone_left_hand_is_not_taken_for_the_right_one():
    found = detections(readings('left', [0.1, 0.1, 0.7, 0.1]))
    assert boxes_of_new_hands(found, RIG, ('right',), (), (), START_NS) == {}
    assert owners(boxes_of_new_hands(found, RIG, ('right', 'left'), (), (), START_NS)) == {'left': [0, 0, 0, 0]}


def test_a_followed_hand_is_not_found_again():
    found = detections(readings('right'), readings('left', 0.4))
    boxes = boxes_of_new_hands(found, RIG, ('left',), (tracked('right', START_NS - PERIOD_NS),), (), START_NS)
    assert owners(boxes) == {'left': [1, 1, 1, 1]}


def test_what_shows_a_followed_hand_makes_no_new_one():
    """Seen by another view than the missing hand, it would make a third one with it, somewhere between them."""
    found = detections(readings('right'), readings('left', 0.4))
    left = unclaimed(found, RIG, [HANDS['right'] + 0.003])
    assert [[one.box_px[0] for one in of_view] for of_view in left] == [[1.0]] * 4
    assert unclaimed(found, RIG, [HANDS['right'], HANDS['left']]) == [[]] * 4
    for nobody in ([], [HANDS['right'] + 0.08], [np.full((21, 3), np.nan)]):
        assert unclaimed(found, RIG, nobody) == found
    unread = [[replace(one, reading=None) for one in of_view] for of_view in found]
    assert unclaimed(unread, RIG, [HANDS['right']]) == unread


def test_a_hand_lost_for_long_does_not_claim_another_ones_place():
    """The left hand was lost 0.3 s ago, so that it may be anywhere, 16 cm off too; the right one, lost now, is where it
    is expected. Views that are wrong about the side do not change that."""
    found = detections(readings('right', [0.03, 0.97, 0.03, 0.03]))
    lost = (tracked('left', START_NS - round(0.3e9)), tracked('right', START_NS - PERIOD_NS))
    assert owners(boxes_of_new_hands(found, RIG, ('right', 'left'), (), lost, START_NS)) == {'right': [0, 0, 0, 0]}


def test_a_lost_hand_is_known_by_its_place_where_views_are_wrong_about_the_side():
    found = detections(readings('right', 0.3))
    lost = (tracked('right', START_NS - 2 * PERIOD_NS),)
    assert owners(boxes_of_new_hands(found, RIG, ('right', 'left'), (), lost, START_NS)) == {'right': [0, 0, 0, 0]}


def test_one_hand_of_the_wanted_side_is_taken_as_it_was():
    found = [[replace(one, reading=None) for one in of_view] for of_view in detections(readings('right'))]
    found[1].append(Detection(np.array([9.0, 1, 1, 0]), 'right', 0.95))
    boxes = boxes_of_new_hands(found, RIG, ('right',), (), (), START_NS)
    assert owners(boxes) == {'right': [0, 9, 0, 0]}


def test_hands_apart_keep_their_readings():
    tracks = [tracked(side, START_NS - PERIOD_NS) for side in ('right', 'left')]
    mine = [readings(track.handedness, right) for track, right in zip(tracks, (0.95, 0.05))]
    owned = owned_readings(mine, tracks, (), RIG, START_NS)
    assert owned is None, 'no association where there is no doubt'


def test_crops_of_one_hand_that_show_the_other_are_not_fused():
    tracks = [tracked(side, START_NS - PERIOD_NS) for side in ('right', 'left')]
    right, left = (readings(track.handedness, share, seed) for track, share, seed in zip(tracks, (0.95, 0.05), (1, 2)))
    again = readings('right', 0.95, 3)
    left |= {name: again[name] for name in RIG.names[:2]}
    assert owned_readings([right, left], tracks, (), RIG, START_NS) == [frozenset(RIG.names), frozenset(RIG.names[2:])]


def test_a_crop_that_shows_a_hand_lost_a_moment_ago_is_not_fused_for_another():
    track, lost = (tracked(side, START_NS - PERIOD_NS) for side in ('left', 'right'))
    assert owned_readings([readings('right')], [track], [lost], RIG, START_NS) == [frozenset()]
    assert owned_readings([readings('left', 0.05)], [track], [lost], RIG, START_NS) is None


@pytest.mark.parametrize('minutes', (0.15, pytest.param(0.33, marks=pytest.mark.slow)))
def test_hands_that_cross_keep_their_tracks(minutes):
    """Nine and twenty passes at 2 to 8 cm; experiments/crossing_hands.py runs ten minutes."""
    told = run(RIG, minutes=minutes, rate_hz=15.0, seed=3, speed=1.0)
    assert told['switches_per_minute'] == 0 and told['wrong'] == 0
    assert told['both'] > 0.8


@pytest.mark.slow
def test_ten_minutes_of_crossing_hands():
    told = run(RIG, minutes=10.0, rate_hz=15.0, seed=1)
    assert told['switches_per_minute'] <= 0.2 and told['wrong'] < 0.01


class Blinking(TruthMethod):
    """Knows where the right hand is, and does not see it while `hidden`."""

    hidden, searches = False, 0

    def find(self, views):
        self.searches += 1
        return super().find(views)

    def look(self, rig, stamp_ns):
        seen = super().look(rig, stamp_ns)
        return see(rig, HANDS['right'], hidden=[(row, None) for row in range(len(rig))]) if self.hidden else seen


def test_a_hand_hidden_for_a_moment_keeps_its_id_and_one_hidden_for_long_does_not():
    method = Blinking(lambda t: HANDS['right'])
    estimator = HandEstimator(method, EstimatorSettings())
    memory = int(TRACK_MEMORY_S * 1e9 / PERIOD_NS)
    ids, hidden = [], {*range(3, 3 + memory - 1), *range(20, 20 + memory + 1)}
    for index in range(40):
        method.hidden = index in hidden
        ids += [hand.track_id for hand in estimator.process(frames(RIG, index)).hands]
    assert ids == [1] * (20 - memory + 1) + [2] * (20 - memory - 1)


def test_a_hand_that_comes_back_elsewhere_is_another_one():
    place = [np.zeros(3)]
    method = Blinking(lambda t: HANDS['right'] + place[0])
    estimator = HandEstimator(method, EstimatorSettings())
    assert estimator.process(frames(RIG, 0)).hands[0].track_id == 1
    method.hidden = True
    assert estimator.process(frames(RIG, 1)).hands == ()
    method.hidden, place[0] = False, np.array([0.0, 0.4, 0.0])
    assert estimator.process(frames(RIG, 2)).hands[0].track_id == 2


class OneSeenTwice(TruthMethod):
    """Every crop shows the right hand, and the images call it `side`."""

    side = 'right'

    def read(self, crops):
        own = [[crop for crop in crops if crop.handedness == side] for side in HANDS]
        return [replace(reading, right=0.9 if self.side == 'right' else 0.1)
                for of_side in own for reading in super(OneSeenTwice, self).read(of_side)]


@pytest.mark.parametrize('side', HANDS)
def test_one_hand_is_not_published_as_two(side):
    method = OneSeenTwice(lambda t: HANDS['right'])
    method.side = side
    estimator = HandEstimator(method, EstimatorSettings(handedness='both'))
    for index in range(15):
        result = estimator.process(frames(RIG, index))
        assert [(hand.handedness, hand.track_id) for hand in result.hands] == [(side, 1)]
        # Once it is followed it stays what it is.
        method.side = 'left' if side == 'right' else 'right'
    method.side = side
    assert 'is the other one' in HandEstimator(method, estimator.settings).process(frames(RIG, 0)).reasons[0]


def test_a_missing_second_hand_is_searched_for_now_and_then():
    class OneOfBoth(Blinking):
        def read(self, crops):
            return [reading if reading.handedness == 'right' else ViewReading.unread(crop.view, 'left')
                    for crop, reading in zip(crops, self._of_sides(crops))]

        def _of_sides(self, crops):
            return [reading for side in ('right', 'left') for reading in super(OneOfBoth, self).read(
                [crop for crop in crops if crop.handedness == side])]

    method = OneOfBoth(lambda t: HANDS['right'])
    estimator = HandEstimator(method, EstimatorSettings(handedness='both'))
    count = 31
    for index in range(count):
        result = estimator.process(frames(RIG, index))
        assert [hand.handedness for hand in result.hands] == ['right']
    assert method.searches <= 1 + (count - 1) * PERIOD_NS * 1e-9 / SEARCH_PERIOD_S


def test_a_method_for_one_hand_says_so():
    with pytest.raises(ConfigError, match='follows one hand.*landmarks'):
        build_estimator(EstimatorSettings(method='jump_hand', handedness='both'), ())
    with pytest.raises(ConfigError, match='handedness'):
        EstimatorSettings(handedness='either')
