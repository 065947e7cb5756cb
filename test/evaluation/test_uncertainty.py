"""Scores of covariances: cases worked out by hand, and Gaussian samples whose covariance is known."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.stats import chi2

from hand_unc_ros.evaluation.metrics import pearson
from hand_unc_ros.evaluation.uncertainty import (
    NOMINAL, ause_stereo, calibration_error, coordinate_correlation, coverage, energy_score,
    expected_distance, hand_distances, hand_energy_score, joint_correlation, joint_distances, nees_band,
    negative_log_likelihood, per_joint, reliability, sparsification, summary,
)
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import JOINT_COUNT

SEEDS = st.integers(0, 2 ** 32 - 1)
SIZE = 3 * JOINT_COUNT
# Five standard deviations: one test in two million fails by chance, and with fixed seeds none.
SURE = 5.0


def calibrated(count, seed=0, spread=2.0, rank=80):
    """Errors (N, 21, 3) m drawn from covariances (N, 63, 63) m², which are all different: 2 to 8 mm per axis."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(count, SIZE, rank)) * rng.uniform(1 / spread, spread, (count, 1, 1))
    covariances = 0.004 ** 2 / rank * root @ root.swapaxes(1, 2)
    errors = 0.004 / math.sqrt(rank) * (root @ rng.normal(size=(count, rank, 1)))
    return errors.reshape(count, JOINT_COUNT, 3), covariances


def numbers(tree):
    """All numbers of a summary, by dotted name."""
    out = {}
    for name, value in tree.items():
        nested = numbers(value) if isinstance(value, dict) else {'': value}
        out.update({f'{name}.{key}'.rstrip('.'): number for key, number in nested.items()})
    return out


# Order

def test_sparsification_by_hand():
    """Four points, errors 4, 1, 2, 3 mm, from the most to the least certain: up to 49 % one of them is kept, the count
    being rounded down but at least 1; then two, three and, at 100 %, four."""
    told = sparsification(np.array([[0.003, 0.004], [0.002, 0.001]]), np.array([[0.9, 0.1], [0.3, 0.2]]))
    kept = np.maximum(1, np.arange(2, 101, 2) // 25)
    np.testing.assert_array_equal(told.kept_percent, np.arange(2, 101, 2))
    np.testing.assert_allclose(told.curve_mm, np.array([4.0, 2.5, 7 / 3, 2.5])[kept - 1])
    np.testing.assert_allclose(told.oracle_mm, np.array([1.0, 1.5, 2.0, 2.5])[kept - 1])


def test_area_is_in_percent():
    """Of a constant the area is its value times 98, the width of 2 to 100 %."""
    assert sparsification(np.full(50, 0.007), np.arange(50.0)).ausc == pytest.approx(7.0 * 98)
    # 100 errors 1 … 100 in order: the mean of the first p is (p + 1) / 2, a straight line, which Simpson's rule
    # integrates exactly: (100² − 2²) / 4 + 98 / 2.
    rising = np.arange(1.0, 101.0)
    best, worst = sparsification(rising / 1e3, rising), sparsification(rising / 1e3, -rising)
    assert best.ausc == pytest.approx((100 ** 2 - 2 ** 2) / 4 + 98 / 2)
    assert best.ause == 0.0
    # The worst order: the mean of the last p is 101 − (p + 1) / 2.
    assert worst.ause == pytest.approx(100 * 98 - (100 ** 2 - 2 ** 2) / 2)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 300))
def test_oracle_is_perfect_and_no_order_is_better(seed, count):
    rng = np.random.default_rng(seed)
    errors, other = rng.gamma(2.0, 0.003, (2, count))
    told, perfect = sparsification(errors, other), sparsification(errors, errors ** 2)
    assert perfect.ause == pytest.approx(0.0, abs=1e-9)
    assert (told.curve_mm >= told.oracle_mm - 1e-9).all()
    assert told.ausc - perfect.ausc == pytest.approx(told.ause, abs=1e-8)


def test_equal_uncertainties_do_not_depend_on_order():
    rng = np.random.default_rng(1)
    errors, uncertainty = rng.gamma(2.0, 3.0, 200), rng.integers(0, 5, 200).astype(float)
    order = rng.permutation(200)
    np.testing.assert_allclose(sparsification(errors, uncertainty).curve_mm,
                               sparsification(errors[order], uncertainty[order]).curve_mm)
    # Without an order every subset is expected to have the mean error.
    np.testing.assert_allclose(sparsification(errors, np.ones(200)).curve_mm, 1e3 * errors.mean())


def test_missing_points_have_no_place_in_the_order():
    found = sparsification(np.array([[1.0, np.nan, 3.0], [2.0, 5.0, 4.0]]),
                           np.array([[1.0, 0.0, 3.0], [2.0, np.nan, 4.0]]))
    np.testing.assert_allclose(found, sparsification(np.arange(1.0, 5.0), np.arange(4.0)))


def test_stereo_ause_by_hand():
    """Two points, errors 0 and 1 mm, the wrong one more certain: both remain where nothing is removed, one at all later
    shares, none at the end. Curve 1/2, 1 … 1, 0 less oracle 1/2, 0 … 0, 0: 49 of 50 points of height 1.
    The other sample has the right order."""
    errors, uncertainty = np.array([[0.0, 0.001], [0.0, 0.001]]), np.array([[2.0, 1.0], [1.0, 2.0]])
    assert ause_stereo(errors, uncertainty) == pytest.approx(0.5 * 49 / 50)
    assert ause_stereo(errors[1:], uncertainty[1:]) == 0.0
    # A single point has no order.
    assert ause_stereo(errors, np.array([[2.0, 1.0], [np.nan, 2.0]])) == pytest.approx(49 / 50)
    assert math.isnan(ause_stereo(errors * np.nan, uncertainty))


def test_stereo_ause_by_subsets():
    """Straight from its definition, with missing points and equal uncertainties."""
    rng = np.random.default_rng(13)
    errors, uncertainty = rng.gamma(2.0, 0.003, (40, 21)), rng.integers(1, 15, (40, 21)).astype(float)
    errors[rng.random(errors.shape) < 0.2] = np.nan

    def area(length, by):
        # The 2·k-th percentile of n values is at the place (n − 1) · k / 50 of their order, rounded up here.
        ordered = np.sort(-by)
        limits = [ordered[math.ceil(Fraction(k * (len(by) - 1), 50))] for k in range(50)]
        return trapezoid([length[-by >= limit].mean() for limit in limits] + [0.0], dx=1 / 50)

    areas = []
    for length, by in zip(errors, uncertainty):
        known = np.isfinite(length)
        areas.append(area(length[known], by[known]) - area(length[known], length[known]))
    assert ause_stereo(errors, uncertainty) == pytest.approx(1e3 * np.mean(areas))


# Size

def test_calibrated_covariances_are_found_to_be_calibrated():
    """NEES of n degrees of freedom is χ² of mean 1 and variance 2/n per degree. The 21 joints of a hand are correlated
    here, so that only hands are counted as independent."""
    count = 800
    found = summary(*calibrated(count))
    assert found['points'] == found['judged_points'] == count * JOINT_COUNT
    assert found['judged_hands'] == count and found['undefined_points'] == 0
    assert found['nees_63_per_dof'] == pytest.approx(1.0, abs=SURE * math.sqrt(2 / (SIZE * count)))
    assert found['nees_per_dof'] == pytest.approx(1.0, abs=SURE * math.sqrt(2 / (3 * count)))
    for name, share in found['coverage_63'].items():
        p = float(name) / 100
        assert share == pytest.approx(p, abs=SURE * math.sqrt(p * (1 - p) / count))
        assert found['coverage'][name] == pytest.approx(p, abs=SURE * math.sqrt(p * (1 - p) / count))
    # Mean |empirical − nominal| is below the largest, by Dvoretzky, Kiefer and Wolfowitz √(ln(2/α) / 2n).
    assert found['calibration_error'] < math.sqrt(math.log(2 / 1e-6) / (2 * count))


@pytest.mark.parametrize('factor', (0.25, 4.0))
def test_nees_and_coverage_of_a_scaled_covariance(factor):
    """With factor · Σ the squared distances shrink by it, so that the 95 % region holds χ² ≤ factor · quantile."""
    errors, covariances = calibrated(500, seed=2)
    right, scaled = summary(errors, covariances), summary(errors, factor * covariances)
    assert scaled['nees_per_dof'] == pytest.approx(right['nees_per_dof'] / factor)
    assert scaled['nees_63_per_dof'] == pytest.approx(right['nees_63_per_dof'] / factor)
    share = chi2.cdf(factor * chi2.ppf(0.95, 3), 3)
    assert scaled['coverage']['95'] == pytest.approx(share, abs=SURE * math.sqrt(share * (1 - share) / 500))
    assert scaled['sharpness_mm'] == pytest.approx(math.sqrt(factor) * right['sharpness_mm'])
    assert scaled['predicted_rmse_mm'] == pytest.approx(math.sqrt(factor) * right['predicted_rmse_mm'])
    # Order does not see the scale.
    for name in ('ausc', 'ause', 'ause_stereo', 'pearson_3d', 'pearson_3d_sigma'):
        assert scaled[name] == pytest.approx(right[name])


@pytest.mark.parametrize('factor', (0.25, 0.5, 2.0, 4.0))
def test_proper_scores_prefer_the_true_covariance(factor):
    errors, covariances = calibrated(300, seed=3)
    right, scaled = summary(errors, covariances), summary(errors, factor * covariances)
    for name in ('nll', 'nll_63_per_dof', 'energy_score_mm', 'calibration_error'):
        assert right[name] < scaled[name]


def test_correlations_count_in_the_likelihood_of_the_hand():
    """The blocks alone are right for every joint, and wrong for the hand."""
    errors, covariances = calibrated(300, seed=4, rank=66)
    alone = covariances * np.kron(np.eye(JOINT_COUNT), np.ones((3, 3)))
    with_correlation, without = summary(errors, covariances), summary(errors, alone)
    assert with_correlation['nll_63_per_dof'] < without['nll_63_per_dof']
    for name in ('nll', 'nees_per_dof', 'energy_score_mm'):
        assert with_correlation[name] == pytest.approx(without[name])


def test_one_joint_by_hand():
    """One joint with 1, 2 and 3 mm along the axes of σ = 1, 2 and 2 mm: 1 + 1 + 9/4."""
    errors, covariances = np.full((1, JOINT_COUNT, 3), np.nan), np.full((1, SIZE, SIZE), np.nan)
    errors[0, 4] = 0.001, 0.002, 0.003
    covariances[0, 12:15, 12:15] = np.diag([1e-6, 4e-6, 4e-6])
    found = summary(errors, covariances)
    assert (found['points'], found['judged_points'], found['judged_hands']) == (1, 1, 1)
    assert found['nees_per_dof'] == found['nees_63_per_dof'] == pytest.approx(4.25 / 3)
    assert found['rmse_mm'] == pytest.approx(math.sqrt(14))
    assert found['predicted_rmse_mm'] == pytest.approx(3.0)
    # The sphere of radius r has the volume of the ellipsoid 1 × 2 × 2 mm.
    assert found['sharpness_mm'] == pytest.approx(4 ** (1 / 3))
    # ½ (4.25 + ln 16 + 3 ln 2π), with lengths in mm.
    assert found['nll'] == pytest.approx((4.25 + math.log(16) + 3 * math.log(2 * math.pi)) / 2)
    assert found['nll_63_per_dof'] == pytest.approx(found['nll'] / 3)
    # P(χ²₃ ≤ 4.25) = 0.764.
    assert found['coverage'] == {'50': 0.0, '68': 0.0, '90': 1.0, '95': 1.0, '99': 1.0} == found['coverage_63']
    assert math.isnan(found['pearson_3d'])


def test_missing_joints_are_left_out_of_the_hand():
    """Equal to the sub-vector of the joints that are there, taken by itself."""
    errors, covariances = calibrated(4, seed=5)
    errors[1, [0, 7]] = np.nan
    errors[2, 3, 1] = np.inf
    lost = slice(3 * 9, 3 * 10)
    covariances[2, lost] = covariances[2, :, lost] = np.nan
    errors[3] = np.nan
    found, joints = hand_distances(errors, covariances), joint_distances(errors, joint_blocks(covariances))[0]
    np.testing.assert_array_equal(found.dof, [63, 57, 57, 0])
    for index, gone in enumerate(([], [0, 7], [3, 9])):
        there = np.setdiff1d(np.arange(JOINT_COUNT), gone)
        axes = (3 * there[:, None] + np.arange(3)).ravel()
        error, part = errors[index, there].ravel(), covariances[index][np.ix_(axes, axes)]
        assert found.squared[index] == pytest.approx(error @ np.linalg.solve(part, error))
        assert found.log_det[index] == pytest.approx(np.linalg.slogdet(part)[1])
        np.testing.assert_array_equal(np.isfinite(joints[index]), np.isin(np.arange(JOINT_COUNT), there))
    assert np.isnan(found.squared[3]) and np.isnan(found.log_det[3])


def test_singular_covariances_are_counted_and_left_out():
    errors, covariances = calibrated(30, seed=6)
    flat = covariances.copy()
    # Joint 2 of the first hand has no variance along z; the second hand's last joints go exactly together.
    flat[0, 8] = flat[0, :, 8] = 0.0
    flat[1, 60:] = flat[1, 57:60]
    flat[1, :, 60:] = flat[1, :, 57:60]
    found = summary(errors, flat)
    assert (found['undefined_points'], found['judged_points'], found['judged_hands']) == (1, 30 * JOINT_COUNT - 1, 28)
    rest = summary(errors[2:], flat[2:])
    assert found['nees_63_per_dof'] == pytest.approx(rest['nees_63_per_dof'])
    assert found['nll_63_per_dof'] == pytest.approx(rest['nll_63_per_dof'])
    assert found['points'] == 30 * JOINT_COUNT and math.isfinite(found['energy_score_mm'])


def test_rounding_is_no_variance():
    """63 coordinates of 62 sources: with every joint fine, no hand is. Cholesky takes about half of these matrices, and
    leaves pivots far above rounding."""
    errors, covariances = calibrated(60, seed=18, rank=SIZE - 1)
    found = summary(errors, covariances)
    assert (found['judged_points'], found['judged_hands']) == (60 * JOINT_COUNT, 0)
    assert math.isnan(found['nees_63_per_dof'])


@pytest.mark.parametrize('count', (0, 1, 3))
@pytest.mark.parametrize('error, variance', ((np.nan, 1e-6), (0.001, np.nan), (0.0, 0.0), (0.001, 0.0), (0.001, -1e-6),
                                             (0.0, 1e-6)))
@pytest.mark.filterwarnings('error')
def test_degenerate_input_never_raises(count, error, variance):
    errors = np.full((count, JOINT_COUNT, 3), error)
    covariances = np.tile(np.where(np.eye(SIZE), variance, 0.0), (count, 1, 1))
    found = summary(errors, covariances)
    known = count * JOINT_COUNT if np.isfinite([error, variance]).all() else 0
    counts = {'points': known, 'judged_points': known if variance > 0 else 0,
              'judged_hands': count if known and variance > 0 else 0,
              'undefined_points': 0 if variance == 1e-6 or not np.isfinite(error) else count * JOINT_COUNT}
    assert {name: found[name] for name in counts} == counts
    if not known:
        assert all(math.isnan(value) for name, value in numbers(found).items() if name not in counts)
    assert per_joint(errors, covariances).points.tolist() == [counts['judged_points'] / JOINT_COUNT] * JOINT_COUNT
    assert joint_correlation(errors, covariances).predicted.shape == (JOINT_COUNT, JOINT_COUNT)
    assert hand_energy_score(errors, covariances).shape == (count,)


def test_what_is_infinite_is_missing():
    errors, covariances = calibrated(5, seed=17)
    infinite, nothing = (errors.copy(), covariances.copy()), (errors.copy(), covariances.copy())
    for value, (some, matrices) in ((np.inf, infinite), (np.nan, nothing)):
        some[1, 3, 0] = some[4] = value
        matrices[2, :3] = matrices[2, :, :3] = value
    assert numbers(summary(*infinite)) == pytest.approx(numbers(summary(*nothing)))


@pytest.mark.parametrize('errors, covariances', (((2, 21, 3), (2, 21, 3, 3)), ((2, 21, 3), (3, 63, 63)),
                                                 ((2, 63), (2, 63, 63))))
def test_other_shapes_are_refused(errors, covariances):
    with pytest.raises(ValueError, match='N, 21, 3'):
        summary(np.zeros(errors), np.zeros(covariances))


def test_reliability_by_hand():
    """Probabilities 0.1, 0.2, 0.3 and 0.9: 3/4 of them are at most 0.5, all at most 0.95."""
    pit = np.array([0.1, 0.2, np.nan, 0.3, 0.9])
    diagram = dict(zip(NOMINAL.round(2).tolist(), reliability(pit)))
    assert [diagram[p] for p in (0.09, 0.1, 0.5, 0.89, 0.9, 0.99)] == [0.0, 0.25, 0.75, 0.75, 1.0, 1.0]
    assert coverage(pit) == {'50': 0.75, '68': 0.75, '90': 1.0, '95': 1.0, '99': 1.0}
    # The diagram of a uniform distribution, less half a step.
    assert calibration_error(np.linspace(0.0, 1.0, 10001)) < 1e-3
    # Of errors that are always at the middle: mean of 1 − p.
    assert calibration_error(np.zeros(3)) == pytest.approx(0.5)


@pytest.mark.parametrize('points', (1, 40))
def test_band_of_the_mean_nees(points):
    low, high = nees_band(points)
    assert chi2.cdf([low * 3 * points, high * 3 * points], 3 * points) == pytest.approx([0.025, 0.975])
    assert nees_band(0) == (0.0, math.inf)


def test_pearson_is_of_the_trace_and_of_its_root():
    errors, covariances = calibrated(40, seed=7)
    trace = np.einsum('njaja->nj', covariances.reshape(40, JOINT_COUNT, 3, JOINT_COUNT, 3))
    norm = np.linalg.norm(errors, axis=-1)
    found = summary(errors, covariances)
    assert found['pearson_3d'] == pytest.approx(pearson(trace, norm))
    assert found['pearson_3d_sigma'] == pytest.approx(pearson(np.sqrt(trace), norm))
    assert found['pearson_3d'] != found['pearson_3d_sigma']


def test_rows_per_joint_are_the_summary_of_that_joint():
    errors, covariances = calibrated(60, seed=8)
    errors[:10, 5] = np.nan
    rows = per_joint(errors, covariances)
    alone = np.full_like(errors, np.nan)
    alone[:, 5] = errors[:, 5]
    one = summary(alone, covariances)
    assert rows.points.tolist() == [60] * 5 + [50] + [60] * 15
    assert rows.sharpness_mm[5] == pytest.approx(one['sharpness_mm'])
    assert rows.nees_per_dof[5] == pytest.approx(one['nees_per_dof'])
    assert rows.coverage95[5] == pytest.approx(one['coverage']['95'])
    assert rows.error_mm[5] == pytest.approx(1e3 * np.linalg.norm(errors[10:, 5], axis=-1).mean())


# Correlation between joints

def test_correlation_of_a_shared_error():
    """e_j = common + own, all of the same size: half of the variance is shared, so the correlation is ½."""
    rng = np.random.default_rng(9)
    count = 4000
    errors = 0.003 * (rng.normal(size=(count, 1, 3)) + rng.normal(size=(count, JOINT_COUNT, 3)))
    block = 0.003 ** 2 * np.eye(3)
    covariance = np.kron(np.ones((JOINT_COUNT, JOINT_COUNT)) + np.eye(JOINT_COUNT), block)
    found = joint_correlation(errors, np.tile(covariance, (count, 1, 1)))
    np.testing.assert_allclose(found.predicted, np.where(np.eye(JOINT_COUNT), 1.0, 0.5))
    # The error of a correlation coefficient is (1 − ρ²) / √n, of 3 n products.
    np.testing.assert_allclose(found.empirical, found.predicted, atol=SURE * 0.75 / math.sqrt(3 * count))
    np.testing.assert_allclose(np.diagonal(found.empirical), 1.0)
    axes = coordinate_correlation(errors, np.tile(covariance, (count, 1, 1)))
    expected = np.kron(np.where(np.eye(JOINT_COUNT), 1.0, 0.5), np.eye(3))
    np.testing.assert_allclose(axes.predicted, expected, atol=1e-12)
    np.testing.assert_allclose(axes.empirical, expected, atol=SURE / math.sqrt(count))


def test_hands_with_large_errors_do_not_outweigh_the_others():
    """Half of the hands have errors a hundred times as large, and no correlation."""
    rng = np.random.default_rng(14)
    count = 3000
    small = np.broadcast_to(0.001 * rng.normal(size=(count, 1, 3)), (count, JOINT_COUNT, 3))
    rigid, loose = 1e-6 * np.kron(np.ones((JOINT_COUNT, JOINT_COUNT)), np.eye(3)), 1e-2 * np.eye(SIZE)
    found = joint_correlation(np.concatenate([small, 0.1 * rng.normal(size=small.shape)]),
                              np.repeat([rigid, loose], count, axis=0))
    np.testing.assert_allclose(found.predicted[0, 1:], 0.5)
    np.testing.assert_allclose(found.empirical[0, 1:], 0.5, atol=SURE / math.sqrt(6 * count))


def test_correlation_is_of_the_samples_that_know_both():
    errors, covariances = calibrated(50, seed=10)
    lost = errors.copy()
    lost[:20, 3] = np.nan
    lost[:, 6] = np.nan
    found, whole = joint_correlation(lost, covariances), joint_correlation(errors, covariances)
    rest = joint_correlation(errors[20:], covariances[20:])
    np.testing.assert_allclose(found.predicted[3, [0, 8]], rest.predicted[3, [0, 8]])
    for one, other in zip(found, whole):
        np.testing.assert_allclose(one[0, 1], other[0, 1])
        np.testing.assert_allclose(one[3, 3], 1.0)
        assert np.isnan(one[6]).all() and np.isnan(one[:, 6]).all()


def test_missing_hands_do_not_weaken_a_correlation():
    """All joints have the same error, of the same size in every hand: the correlation is 1 however many are known."""
    errors = np.full((10, JOINT_COUNT, 3), 0.002)
    errors[::2] *= -1
    errors[:7, 3] = np.nan
    found = joint_correlation(errors, np.tile(np.kron(np.ones((21, 21)), 1e-6 * np.eye(3)), (10, 1, 1)))
    np.testing.assert_allclose(found.predicted, 1.0)
    np.testing.assert_allclose(found.empirical, 1.0)


# Proper scores

@settings(max_examples=60, deadline=None)
@given(st.floats(1e-4, 1e3), st.floats(1e-4, 1e3))
def test_expected_distance_of_a_round_gaussian(distance, sigma):
    """√(2/π) σ e^{−r²/2} + σ (r + 1/r) erf(r/√2) with r = distance / σ."""
    r = distance / sigma
    # √(8/π) (1 + r²/6) to fourth order in r.
    factor = math.sqrt(8 / math.pi) * (1 + r * r / 6) if r < 1e-3 else (
        math.sqrt(2 / math.pi) * math.exp(-r * r / 2) + (r + 1 / r) * math.erf(r / math.sqrt(2)))
    mean = np.array([[2.0, -1.0, 2.0]]) / 3 * distance
    np.testing.assert_allclose(expected_distance(mean, np.full((1, 3), sigma ** 2)), sigma * factor, rtol=1e-8)


def test_expected_distance_of_what_is_flat():
    """On a line E|x| = √(2/π); in a plane the Rayleigh distribution has √(π/2); a point has its distance."""
    variance = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    mean = np.zeros((4, 3))
    mean[2] = 3.0, 4.0, 0.0
    expected = [math.sqrt(2 / math.pi), math.sqrt(math.pi / 2), 5.0, 0.0]
    np.testing.assert_allclose(expected_distance(mean, variance), expected, rtol=1e-8)


def test_energy_score_against_sampling():
    errors, covariances = calibrated(1, seed=11)
    blocks = joint_blocks(covariances)[0, :6]
    rng = np.random.default_rng(12)
    for error, block, score in zip(errors[0], blocks, energy_score(errors[0, :6], blocks)):
        first, second = rng.normal(size=(2, 100_000, 3)) @ np.linalg.cholesky(block).T
        sampled = np.linalg.norm(first - error, axis=1) - np.linalg.norm(first - second, axis=1) / 2
        assert score == pytest.approx(sampled.mean(), abs=SURE * sampled.std() / math.sqrt(len(sampled)))


def test_energy_score_of_whole_hands_against_sampling():
    """With a missing joint, which takes no part."""
    errors, covariances = calibrated(2, seed=15)
    errors[0, 4] = np.nan
    there = np.repeat(np.arange(JOINT_COUNT) != 4, 3)
    rng = np.random.default_rng(16)
    first, second = rng.normal(size=(2, 20_000, 60)) @ np.linalg.cholesky(covariances[0][np.ix_(there, there)]).T
    sampled = np.linalg.norm(first - errors[0].ravel()[there], axis=1) - np.linalg.norm(first - second, axis=1) / 2
    score = hand_energy_score(errors, covariances)
    assert score[0] == pytest.approx(sampled.mean(), abs=SURE * sampled.std() / math.sqrt(len(sampled)))
    assert np.isnan(hand_energy_score(errors * np.nan, covariances)).all()


def test_energy_score_without_spread_is_the_error():
    errors = np.array([[0.003, 0.004, 0.0], [np.nan, 0.0, 0.0], [0.001, 0.0, 0.0]])
    blocks = np.zeros((3, 3, 3))
    blocks[2] = np.diag([1e-6, 1e-6, -1e-6])
    np.testing.assert_allclose(energy_score(errors, blocks), [0.005, np.nan, np.nan], rtol=1e-8)
    # A joint at the middle of its Gaussian, σ = 1 mm: √(8/π) − √(4/π).
    expected = math.sqrt(8 / math.pi) - math.sqrt(4 / math.pi)
    np.testing.assert_allclose(energy_score(np.zeros((1, 3)), 1e-6 * np.eye(3)[None]), 1e-3 * expected, rtol=1e-8)


def test_likelihood_integrates_to_one():
    """A density per mm, over a line of σ = 2 mm in steps of 1/100 mm."""
    x = np.arange(-20.0, 20.0, 0.01)
    density = np.exp(-negative_log_likelihood(x ** 2 / 4, np.full(len(x), math.log(4e-6)), 1))
    assert density.sum() * 0.01 == pytest.approx(1.0, abs=1e-9)
