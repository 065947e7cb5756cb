"""The verdict: gains of known size are found, and what became worse counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from view_cases import hand

from hand_unc_ros.adaptation.judging import DEGREES, Judged, compare, numbers

HANDS, CAMERAS = 60, 3


def judged(noise: float = 1.0, claimed: float = 1.0, seed: int = 0, dof: int = 2, hands: int = HANDS) -> Judged:
    """Errors of `noise` px an axis under a claimed σ, at 10 hands a second, of bones that do not change."""
    rng = np.random.default_rng(seed)
    rows = CAMERAS * hands
    error = noise * rng.standard_normal((rows, 21, dof))
    distance2 = np.square(error / claimed).sum(-1)
    nll = dof * np.log(claimed) + 0.5 * (DEGREES + dof) * np.log1p(distance2 / DEGREES)
    stamps = np.repeat(np.arange(hands) * 10**8, CAMERAS)
    joints = np.broadcast_to(hand(), (hands, 21, 3)) + 1e-4 * np.random.default_rng(5).standard_normal((hands, 21, 3))
    return Judged(stamps, np.zeros(rows, bool), np.tile(np.arange(CAMERAS), hands), nll, distance2,
                  np.linalg.norm(error, axis=-1), np.ones((hands, 21)), np.ones((hands, 21), int),
                  np.ones((hands, CAMERAS, 21)), joints, np.broadcast_to(1e-6 * np.eye(63), (hands, 63, 63)),
                  np.zeros(hands, bool), np.array([dof]), np.array([hands]))


@pytest.mark.parametrize('dof', [1, 2])
def test_the_gain_is_the_share_by_which_the_scale_shrinks(dof: int) -> None:
    """Errors and claims that are both a fifth smaller: a gain of 20 %, whatever the number of dimensions."""
    found = compare(judged(dof=dof), judged(0.8, 0.8, dof=dof))
    assert found['gain_percent'] == pytest.approx(20, abs=1e-6) and found['better'] and not found['against']


def test_a_covariance_that_is_right_is_better_than_one_that_is_too_small() -> None:
    found = compare(judged(claimed=0.4), judged(claimed=1.0))
    assert found['better'] and found['interval_percent'][0] > 5
    assert numbers(judged(claimed=0.4))['left_out']['factor'] == pytest.approx(6.25, rel=0.1)
    back = compare(judged(claimed=1.0), judged(claimed=0.4))
    assert not back['better'] and 'not larger than chance' in back['against'][0]


def test_chance_is_no_gain() -> None:
    for seed in range(1, 6):
        found = compare(judged(seed=0), judged(seed=seed))
        assert abs(found['gain_percent']) < 2 and not (found['better'] and found['gain_percent'] > 1)
    assert not compare(judged(), judged())['better']


def test_what_became_worse_counts_against_a_better_score() -> None:
    after = judged(0.8, 0.8)
    rng = np.random.default_rng(2)
    worse = {
        'bone lengths vary more': replace(after, joints=after.joints + 0.003 * rng.standard_normal((HANDS, 21, 3))),
        'farther from what the views show': replace(after, error_px=2 * after.error_px),
        'fewer hands': replace(after, joints=after.joints[:50], covariances=after.covariances[:50],
                               hand_left=after.hand_left[:50])}
    for reason, candidate in worse.items():
        found = compare(judged(), candidate)
        assert not found['better'] and reason in found['against'][0] and found['gain_percent'] > 19


def test_few_hands_give_no_verdict() -> None:
    found = compare(judged(hands=20), judged(0.5, 0.5, hands=20))
    assert not found['better'] and found['gain_percent'] is None and '30 are needed' in found['against'][0]


def test_only_what_both_know_is_compared() -> None:
    """Rows in another order, and some that the other lacks."""
    after = judged(0.8, 0.8)
    order = np.random.default_rng(0).permutation(len(after.stamp_ns))[:-20]
    shuffled = replace(after, **{name: vars(after)[name][order] for name in (
        'stamp_ns', 'left', 'camera', 'nll', 'distance2', 'error_px')})
    assert compare(judged(), shuffled)['gain_percent'] == pytest.approx(20, abs=1e-6)
