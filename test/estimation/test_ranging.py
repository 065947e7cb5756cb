"""The distance of a hand that one view shows: what lasts of its error is told from motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from estimator_cases import RIG, STILL, still
from test_one_camera import ALONG, OneViewMethod
from view_cases import OneHand, frames

from hand_unc_ros.estimation import ranging
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.ranging import LASTING_S, WHITE_SHARE, Ranging, ranged
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.contract import Fused

PERIOD_NS = 66_666_667
PERIOD_S = PERIOD_NS * 1e-9
SIGMA, DISTANCE = 0.06, 0.7
AHEAD = np.array([0.0, 0.6, 0.8])
CENTRE = np.array([0.1, -0.2, 0.05])


def away(distance: float) -> np.ndarray:
    return distance * AHEAD


def test_errors_of_its_own_model_are_as_large_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 courses of 15 readings drawn from the model: NEES over all of them, whose mean has a standard deviation below
    √(2/400) for courses that err as a whole. The walk is a calm one, or some hands would pass through the camera."""
    rng, walk = np.random.default_rng(0), 0.05
    monkeypatch.setattr(ranging, 'WALK', walk)
    claimed = SIGMA / DISTANCE
    lasting, kept = (1 - WHITE_SHARE) ** 0.5 * claimed, np.exp(-PERIOD_S / LASTING_S)
    squared = []
    for _ in range(400):
        s, b = np.log(DISTANCE), lasting * rng.normal()
        known = Ranging.begun('cam', 0, away(DISTANCE * np.exp(0.02 * rng.normal())), 0.02 * DISTANCE, SIGMA)
        for step in range(1, 16):
            s += walk * PERIOD_S ** 0.5 / np.exp(s) * rng.normal()
            b = kept * b + (1 - kept ** 2) ** 0.5 * lasting * rng.normal()
            z = np.exp(s + b + WHITE_SHARE ** 0.5 * claimed * rng.normal())
            known = known.read(step * PERIOD_NS, away(z), claimed * z)
            squared.append((known.state[0] - s) ** 2 / known.spread[0, 0])
    assert np.mean(squared) == pytest.approx(1.0, abs=3 * (2 / 400) ** 0.5)


def test_where_nothing_is_known_a_reading_is_taken_as_it_is() -> None:
    known = Ranging.begun('cam', 0, away(2 * DISTANCE), 10 * DISTANCE, 2 * SIGMA).read(0, away(DISTANCE), SIGMA)
    assert known.distance == pytest.approx(DISTANCE, rel=1e-3) and known.sigma == pytest.approx(SIGMA, rel=1e-3)


def test_an_error_that_lasts_is_found_by_what_was_known() -> None:
    """Readings that are one and a half of their standard deviations too far away, of a hand at rest for a third of a
    second: most of it is told to be error at once, and what may be motion grows with time."""
    known, off = Ranging.begun('cam', 0, away(DISTANCE), 0.01, SIGMA), []
    for step in range(1, 6):
        known = known.read(step * PERIOD_NS, away(DISTANCE + 1.5 * SIGMA), SIGMA)
        off.append(abs(known.distance - DISTANCE))
        assert off[-1] < 1.5 * known.sigma
    assert off[0] < off[-1] < 0.75 * 1.5 * SIGMA


def test_a_gross_error_is_found_to_be_another_one() -> None:
    """One reading that is six standard deviations off, and right ones after it."""
    known = Ranging.begun('cam', 0, away(DISTANCE), 0.01, SIGMA).read(PERIOD_NS, away(DISTANCE), SIGMA)
    known = known.read(2 * PERIOD_NS, away(DISTANCE + 6 * SIGMA), SIGMA)
    assert abs(known.distance - DISTANCE) < 0.75 * 6 * SIGMA
    for step in (3, 4):
        known = known.read(step * PERIOD_NS, away(DISTANCE), SIGMA)
    assert abs(known.distance - DISTANCE) < 1.5 * SIGMA


@pytest.mark.parametrize('speed, sideways', [(0.2, 0.0), (0.5, 0.0), (0.5, 0.5)])
def test_a_hand_that_is_moved_is_followed(speed: float, sideways: float) -> None:
    """For half a second along the ray, by m/s, before a camera that errs by nothing, which is not known: it lags by little
    more than σ."""
    known = Ranging.begun('cam', 0, away(DISTANCE), 0.01, SIGMA)
    for step in range(1, 9):
        place = away(DISTANCE + step * PERIOD_S * speed) + (step * PERIOD_S * sideways, 0, 0)
        distance = np.linalg.norm(place)
        known = known.read(step * PERIOD_NS, place, SIGMA / DISTANCE * distance)
        assert abs(known.distance - distance) < 1.3 * known.sigma


@pytest.fixture(scope='module')
def seen() -> Fused:
    """A hand that the first camera shows alone."""
    front = OneViewMethod(still)
    estimator = HandEstimator(front, EstimatorSettings(method='amvur', min_views=1))
    shown: list[Fused] = []
    fuse = front.fuse
    front.fuse = lambda *arguments: shown.append(fuse(*arguments)) or shown[-1]
    estimator.process(frames(RIG, 0, RIG.names[:1]))
    return shown[-1]


def test_it_moves_along_its_ray_and_that_is_what_becomes_more_certain(seen: Fused) -> None:
    ray = seen.joints.mean(axis=0) - CENTRE
    distance = np.linalg.norm(ray)
    ray /= distance
    before = Ranging.begun('cam', 0, (distance - 0.1) * ray, 0.005, 0.05)
    hand, now = ranged(seen, 'cam', CENTRE, 0, before, None)
    np.testing.assert_allclose(hand.joints - seen.joints, np.tile((now.distance - distance) * ray, (21, 1)), atol=1e-12)
    assert is_psd(hand.covariance) and hand.triangulation.joints == pytest.approx(hand.joints)
    np.testing.assert_array_equal(hand.triangulation.covariance, joint_blocks(hand.covariance))
    middle = np.tile(np.eye(3), 21) / 21
    was, is_now = (middle @ covariance @ middle.T for covariance in (seen.covariance, hand.covariance))
    assert (ray @ is_now @ ray) ** 0.5 == pytest.approx(now.sigma) and now.sigma < 0.3 * (ray @ was @ ray) ** 0.5
    across = np.eye(3) - np.outer(ray, ray)
    np.testing.assert_allclose(across @ is_now @ across, across @ was @ across, atol=1e-12)
    # What the joints differ by has nothing to do with the distance of all.
    differences = np.kron(np.eye(21) - 1 / 21, np.eye(3))
    np.testing.assert_allclose(differences @ hand.covariance @ differences.T, differences @ seen.covariance @ differences.T,
                               atol=1e-12)


def test_unknown_joints_stay_unknown(seen: Fused) -> None:
    joints, covariance = seen.joints.copy(), seen.covariance.copy()
    joints[8], covariance[24:27], covariance[:, 24:27] = np.nan, np.nan, np.nan
    hand, now = ranged(replace(seen, joints=joints, covariance=covariance), 'cam', CENTRE, 0, None, None)
    assert np.isfinite(hand.joints).all(axis=1).tolist() == [joint != 8 for joint in range(21)]
    assert np.isnan(hand.covariance).sum() == 63 ** 2 - 60 ** 2 and now.sigma > 0


def test_a_hand_that_several_views_have_shown_stays_where_it_is() -> None:
    """The one that is left errs by ALONG, one standard deviation, all the time."""
    tracker = OneHand(HandEstimator(OneViewMethod(still), EstimatorSettings(method='amvur')))
    for index in range(4):
        tracker.process(frames(RIG, index))
    off = [np.linalg.norm(tracker.process(frames(RIG, index, RIG.names[:1])).joints - STILL, axis=1).mean()
           for index in range(4, 9)]
    assert max(off) < ALONG / 2 and off[0] < ALONG / 4
    assert tracker.estimator.tracks[0].ranging.camera == RIG.names[0]
    # Another camera errs along another ray, and sees how far away the hand is from there.
    other = tracker.process(frames(RIG, 9, RIG.names[1:2]))
    assert np.linalg.norm(other.joints - STILL, axis=1).mean() < ALONG / 2
    assert tracker.estimator.tracks[0].ranging.camera == RIG.names[1]
    tracker.process(frames(RIG, 10))
    assert tracker.estimator.tracks[0].ranging is None

