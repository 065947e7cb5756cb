"""Hands moved on to the time of publication: as the motion model says, and no surer than it allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_filter import NOISE, STEP_NS, alike, simulate

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.ahead import AHEAD_S, ahead
from hand_unc_ros.estimation.filter import ConstantVelocityFilter
from hand_unc_ros.estimation.types import HandEstimate
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.settings.parameters import TABLE, check_together


def estimate(stamp_ns, filtered):
    known = np.isfinite(filtered.joints).all(axis=1)
    return HandEstimate(stamp_ns, 'right', 1.0, filtered.joints, filtered.covariance, known, ('a', 'b'),
                        np.ones(2, bool), np.full((2, 21), 0.5), np.zeros((2, 21)), velocity=filtered.velocity,
                        motion=filtered.motion, vertices=np.zeros((4, 3)))


def test_errors_of_a_hand_moved_on_are_as_large_as_its_covariance_says():
    """Two steps ahead, motion drawn from the model: the mean NEES of 21 joints in 60 steps is 3 but for chance; those
    of single steps are correlated over about five, so 250 independent ones, whose mean has a deviation of 0.15."""
    truth, measured, _ = simulate(64, 7, alike(NOISE))
    smoother, nees, still = ConstantVelocityFilter(), [], []
    for step in range(62):
        hand = estimate(step * STEP_NS, smoother.update(step * STEP_NS, measured[step], alike(NOISE)))
        later = ahead(hand, (step + 2) * STEP_NS)
        assert later.stamp_ns == (step + 2) * STEP_NS and later.vertices is None and is_psd(later.covariance)
        if step < 4:
            continue
        error = truth[step + 2] - later.joints
        blocks = np.einsum('jajb->jab', later.covariance.reshape(21, 3, 21, 3))
        nees.append(np.einsum('ja,jab,jb->j', error, np.linalg.inv(blocks), error))
        still.append(np.linalg.norm(truth[step + 2] - hand.joints, axis=1).mean()
                     / np.linalg.norm(error, axis=1).mean())
    assert np.mean(nees) == pytest.approx(3.0, abs=0.5)
    # At a metre a second 67 ms are 6 cm, of which the model leaves its own acceleration.
    assert np.mean(still) > 2


def test_it_agrees_with_the_filter_s_own_prediction():
    _, measured, _ = simulate(8, 3, alike(NOISE))
    smoother = ConstantVelocityFilter()
    for step in range(8):
        filtered = smoother.update(step * STEP_NS, measured[step], alike(NOISE))
    later = ahead(estimate(7 * STEP_NS, filtered), 7 * STEP_NS + STEP_NS // 2)
    np.testing.assert_allclose(later.joints, smoother.predict(7 * STEP_NS + STEP_NS // 2), atol=1e-9)
    np.testing.assert_allclose(np.einsum('jajb->jab', later.covariance.reshape(21, 3, 21, 3)),
                               smoother.predicted_covariance(7 * STEP_NS + STEP_NS // 2), rtol=1e-6, atol=1e-12)


def test_what_cannot_be_moved_on_stays_and_what_is_late_is_moved_no_farther_than_the_limit():
    _, measured, _ = simulate(3, 3, alike(NOISE))
    smoother = ConstantVelocityFilter()
    measured[2, 4] = np.nan
    for step in range(3):
        hand = estimate(step * STEP_NS, smoother.update(step * STEP_NS, measured[step], alike(NOISE)))
    assert ahead(hand, hand.stamp_ns) is hand and ahead(hand, hand.stamp_ns - STEP_NS) is hand
    assert ahead(replace(hand, motion=None), hand.stamp_ns + STEP_NS).stamp_ns == hand.stamp_ns
    assert ahead(hand, hand.stamp_ns + 10 ** 10).stamp_ns == hand.stamp_ns + round(1e9 * AHEAD_S)
    # The joint that was not measured is predicted from before, and is less well known.
    spread = np.trace(ahead(hand, hand.stamp_ns + STEP_NS).covariance.reshape(21, 3, 21, 3).diagonal(0, 0, 2))
    assert spread.argmax() == 4


def test_without_a_filter_it_is_refused():
    values = {name: parameter.default for name, parameter in TABLE.items()} | {'cameras': ['a', 'b']}
    values |= {'rig.intrinsics': 'camera_info', 'rig.extrinsics': 'tf', 'publish.predict_to_now': True}
    with pytest.raises(ConfigError, match='filter.enabled'):
        check_together(values)
    check_together(values | {'filter.enabled': True})
