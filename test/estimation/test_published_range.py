"""What is published after map and filter lies within the range, and counts as calibrated only where a map fits it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from estimator_cases import RIG, STILL, estimator_of, still
from rig_cases import mixed_rig, ring
from test_refinement import Correction
from view_cases import EXTREMES, PERIOD_NS, START_NS, Refused, TruthMethod, frames, hand, see

from hand_unc_ros.estimation.covariance_map import FLOOR, CovarianceMap, Curve
from hand_unc_ros.geometry.gaussians import is_psd
from hand_unc_ros.geometry.measurement_range import MAX_DISTANCE, MAX_SIGMA
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.geometric_fusion import TRIANGULATIONS, Refinement

torch.set_num_threads(1)

FACTOR = 4.0
MAP = CovarianceMap('scalar', {2: FACTOR}, filtered={2: 2.0})


# --- declined refinement ----------------------------------------------------------------------------------

class Reluctant(TruthMethod):
    """Refines the joints, or declines in those sets whose places are `declines`."""

    def __init__(self, declines, **options):
        super().__init__(still, **options)
        self.declines, self.fused = set(declines), 0

    def fuse(self, window, rig, track):
        declines = self.fused in self.declines
        self.fused += 1
        self.refine = None if declines else Correction()
        return replace(super().fuse(window, rig, track), declined=declines)


@pytest.mark.parametrize('smooth', (False, True))
def test_the_map_of_refined_joints_is_not_put_on_others(smooth):
    mapped = estimator_of(Reluctant({1}), MAP, filter=smooth)
    plain = estimator_of(Reluctant({1}), filter=smooth)
    floor = FLOOR ** 2 * np.eye(63)
    for index in range(3):
        got, expected = mapped.process(frames(RIG, index)), plain.process(frames(RIG, index))
        assert got.covariance_calibrated == (index != 1) and not expected.covariance_calibrated
        if not smooth:
            factor = 1.0 if index == 1 else FACTOR
            np.testing.assert_allclose(got.covariance - floor, factor * (expected.covariance - floor), rtol=1e-6,
                                       atol=1e-15)


# --- the range --------------------------------------------------------------------------------------------

def sound(result, smooth):
    """Raises AssertionError where a hand breaks the promise."""
    valid = result.valid
    assert valid.any() and np.array_equal(np.isfinite(result.joints).all(1), valid)
    assert np.isnan(result.joints[~valid]).all() and (np.abs(result.joints[valid]) <= MAX_DISTANCE).all()
    rows = np.repeat(valid, 3)
    covariance = result.covariance[np.ix_(rows, rows)]
    assert np.isfinite(covariance).all() and is_psd(covariance)
    assert np.isnan(result.covariance[~rows]).all() and np.isnan(result.covariance[:, ~rows]).all()
    sigma2 = np.linalg.eigvalsh(joint_blocks(result.covariance)[valid])[:, -1]
    assert (sigma2 <= MAX_SIGMA ** 2 * (1 + 1e-9)).all()
    assert np.isfinite(result.view_weights).all() and 0 <= result.score <= 1
    if smooth:
        assert np.array_equal(np.isfinite(result.velocity).all(1), valid)


@pytest.mark.parametrize('smooth', (False, True))
def test_a_map_that_makes_joints_unknown_takes_them_out(smooth):
    """Two views of one joint only, for which the map has a factor beyond all bounds."""
    rare = TruthMethod(still, alter=lambda e: see(RIG, STILL, 1.0, hidden=[(2, 8), (3, 8)]))
    for factor in (1e9, 1e300):
        estimator = estimator_of(rare, CovarianceMap('scalar', {2: factor, 4: 1.0}), filter=smooth)
        for index in range(3):
            result = estimator.process(frames(RIG, index))
            assert np.flatnonzero(~result.valid).tolist() == [8]
            sound(result, smooth)


def test_a_hand_of_which_no_joint_is_known_is_not_published():
    estimator = estimator_of(covariance_map=CovarianceMap('scalar', {2: 1e9}))
    for index in range(2):
        result = estimator.process(frames(RIG, index))
        assert isinstance(result, Refused) and '1 m' in result.reason


def test_the_filter_takes_out_what_its_prediction_no_longer_knows():
    """A fingertip that two views know to 0.97 m once, and that is then only predicted."""
    def seen(sigma_px):
        variance = np.where(np.arange(21)[:, None] == 8, sigma_px ** 2, 1.0)
        return TruthMethod(still, alter=lambda e: replace(see(RIG, STILL, hidden=[(2, 8), (3, 8)]), variance_px2=np.tile(
            variance, (4, 1, 2))))

    def worst(result):
        return np.linalg.eigvalsh(joint_blocks(result.covariance)[8])[-1] ** 0.5

    front = seen(100.0 * 0.97 / worst(estimator_of(seen(100.0)).process(frames(RIG))))
    estimator = estimator_of(front, filter=True)
    known = []
    for index in range(5):
        result = estimator.process(frames(RIG, index))
        sound(result, True)
        assert np.delete(result.valid, 8).all()
        known.append(bool(result.valid[8]))
        front.alter = lambda estimate: see(RIG, STILL, hidden=[(view, 8) for view in range(4)])
    # 0.94 m² + (1 m/s t)² + 5 m²/s³ t³ reaches 1 m² after 0.17 s, less than the filter's memory.
    assert known == [True, True, True, False, False]


# --- any input --------------------------------------------------------------------------------------------

RIGS = (mixed_rig(), ring((10, 75, 170, 260)), ring((0, 90)), ring((0, 0.05, 0.1)), ring((30, 30, 30)))
MAPS = (None, MAP, CovarianceMap('joint', {2: tuple(np.linspace(0.3, 30, 21)), 4: (1e4,) * 21}, filtered={3: 50.0}),
        CovarianceMap('isotonic', {2: Curve((0.001, 0.1), (9.0, 0.5)), 3: Curve((0.002,), (2.0,))}))


class Wild(TruthMethod):
    """Readings and refinements with numbers of any size in any place."""

    def __init__(self, rng):
        super().__init__(lambda t: hand(place=(0.2 * t, 0.0, 0.0)), sigma_px=rng.choice([0.1, 1.0, 30.0]), noise=1.0,
                         holds=True)
        self.rng = rng

    def _exchanged(self, values):
        share = self.rng.choice([0.0, 0.0, 0.0, 0.02, 0.3, 1.0])
        extreme = np.where(self.rng.random(values.shape) < 0.5, self.rng.choice(EXTREMES, values.shape),
                           10.0 ** self.rng.uniform(-308, 308, values.shape))
        return np.where(self.rng.random(values.shape) < share, extreme, values)

    def look(self, rig, stamp_ns):
        estimate = super().look(rig, stamp_ns)
        return replace(estimate, joints_px=self._exchanged(estimate.joints_px),
                       variance_px2=self._exchanged(estimate.variance_px2),
                       boxes_px=self._exchanged(estimate.boxes_px))

    def fuse(self, window, rig, track):
        self.refine = self._refined if self.rng.random() < 0.5 else None
        return replace(super().fuse(window, rig, track), declined=bool(self.rng.random() < 0.2))

    def _refined(self, joints, covariance, used):
        """A method vouches for a covariance that is positive semi-definite and finite; its size is not known."""
        factor = self.rng.standard_normal((63, self.rng.integers(1, 64))) * 10.0 ** self.rng.uniform(-12, 4)
        joints = np.where(np.isfinite(joints), joints, 0.0) * 10.0 ** self.rng.uniform(-3, 6)
        return Refinement(joints, np.zeros((778, 3)), np.zeros((len(used), 21)), factor @ factor.T)


def check(count, seed):
    """Processes `count` sets of several hands' streams; returns how many gave a hand."""
    rng = np.random.default_rng(seed)
    published = 0
    for start in range(0, count, 5):
        rig, smooth = RIGS[rng.integers(len(RIGS))], bool(rng.random() < 0.5)
        estimator = estimator_of(Wild(rng), MAPS[rng.integers(len(MAPS))], filter=smooth,
                                 triangulation=TRIANGULATIONS[rng.integers(len(TRIANGULATIONS))],
                                 down_weight=bool(rng.random() < 0.3))
        stamp = START_NS
        for _ in range(min(5, count - start)):
            stamp += int(rng.choice([1, PERIOD_NS, PERIOD_NS, 10 * PERIOD_NS, -PERIOD_NS]))
            with np.errstate(all='ignore'):
                result = estimator.process(frames(rig, stamp_ns=stamp))
            if isinstance(result, Refused):
                assert result.reason
                continue
            published += 1
            sound(result, smooth)
    return published


def test_any_input_gives_sound_hands_or_none():
    assert check(150, 1) > 12


@pytest.mark.slow
@pytest.mark.parametrize('part', range(20))
def test_a_hundred_thousand_inputs_give_sound_hands_or_none(part):
    assert check(5_000, 100 + part) > 500
