"""A recording without a hand: the remedy is one for what happened to most of its images."""

import pytest

from hand_unc_ros.estimation.no_hand_remedy import Traffic, clocks_apart, no_hand_remedy

USED = Traffic(20, {}, 0.004)


def remedy(left=USED, right=USED, reasons=(), handedness='right'):
    return no_hand_remedy({'left': left, 'right': right}, dict(reasons), 0.016, handedness)


def test_stamps_of_zero():
    text = remedy(Traffic(20, {'zero_stamp': 20}, 1.6e9), Traffic(20, {'zero_stamp': 20}, 1.6e9))
    assert '40 of 40 images have the stamp 0' in text and 'drivers of left, right' in text


def test_clocks_that_are_apart():
    text = remedy(Traffic(20, {'unmatched': 20}, 0.004), Traffic(20, {'unmatched': 20}, 1577836488.004))
    assert 'the clock of right is 1577836488.000 s behind that of left' in text
    text = remedy(Traffic(20, {'unmatched': 20}, 3.504), Traffic(20, {'unmatched': 15, 'late': 5}, 0.004))
    assert 'the clock of left is 3.500 s behind that of right' in text and 'calibration' not in text


def test_one_clock_and_other_times():
    text = remedy(Traffic(20, {'unmatched': 20}, 0.004), Traffic(20, {'unmatched': 20}, 0.006))
    assert 'within 16 ms' in text and 'sync.tolerance' in text


def test_images_that_cannot_be_decoded():
    assert 'see above for right' in remedy(Traffic(5, {}, 0.0), Traffic(20, {'undecodable': 20}, 0.0))


@pytest.mark.parametrize('reasons, words', [
    ({'the palm would be 950 mm long; are the units …': 15, 'the views disagree by 30 % …': 5}, 'metres'),
    ({'20 of 20 bones have impossible lengths': 20}, 'metres'),
    ({'0 of 2 views show a hand, 2 are needed: depth is not observable': 20}, '--handedness left'),
    ({'the views disagree by 30 % of the hand (…)': 20}, 'of this recording'),
    ({'1 of 2 cameras came in time, 2 are needed: depth is not observable': 20}, 'lack cameras'),
    ({}, 'check')])
def test_sets_without_a_hand(reasons, words):
    assert words in remedy(reasons=reasons)


def test_the_other_hand_is_that_which_is_not_looked_for():
    assert '--handedness right' in remedy(reasons={'0 of 2 views show a hand': 9}, handedness='left')


def test_views_that_disagree_because_of_their_clocks():
    text = remedy(Traffic(20, {}, 0.019), reasons={'the views disagree by 30 % of the hand': 9})
    assert 'left is 15 ms behind that of right' in text


def test_a_single_camera_has_no_other_clock():
    assert clocks_apart({'left': USED}) is None
