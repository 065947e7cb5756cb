"""Metrics against cases worked out by hand, and properties that hold for any hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.evaluation.metrics import (
    ALIGNMENTS, FREIHAND_AUC, POEM_AUC, AucRange, align, auc, f_scores, finite_mean, hard_subset, mean_error, pck,
    pearson, pixel_errors, point_errors, score_points, view_weight_entropy,
)

SEEDS = st.integers(0, 2 ** 32 - 1)


def hands(seed, count=3, points=21):
    """Truth and a prediction that is about 10 mm off, metres."""
    rng = np.random.default_rng(seed)
    target = rng.normal(0.0, 0.05, (count, points, 3)) + rng.normal(0.0, 0.3, (count, 1, 3))
    return target + rng.normal(0.0, 0.006, target.shape), target


def orthogonal(rng):
    """Rotation or reflection, both likely."""
    return np.linalg.qr(rng.normal(size=(3, 3)))[0]


# Errors and alignments

def test_errors_without_alignment():
    target = np.zeros((1, 2, 3))
    points = np.array([[[0.003, 0.004, 0.0], [0.0, 0.0, -0.002]]])
    np.testing.assert_allclose(point_errors(points, target), [[0.005, 0.002]])
    score = score_points(points, target)
    assert score.mean_mm == pytest.approx(3.5)
    assert (score.samples, score.points, score.missing_target, score.missing_points) == (1, 2, 0, 0)


def test_root_alignment_moves_the_wrists_together():
    target = np.zeros((1, 21, 3))
    points = np.full((1, 21, 3), 0.1)
    points[0, 5] += (0.0, 0.003, 0.004)
    errors = point_errors(points, target, 'root')[0]
    assert errors[5] == pytest.approx(0.005)
    np.testing.assert_allclose(np.delete(errors, 5), 0.0, atol=1e-15)


def test_scale_translation_does_not_rotate():
    """Joint j is at j cm on the x axis in truth, at 2 j cm on the y axis and shifted in the prediction: after scaling
    by a half and shifting, the error of joint j is √2 j cm; the mean of j is 10."""
    steps = 0.01 * np.arange(21)
    target = np.stack([steps, 0 * steps, 0 * steps], axis=1)[None]
    points = np.stack([0 * steps, 2 * steps, 0 * steps], axis=1)[None] + 0.7
    assert score_points(points, target, 'scale_translation').mean_mm == pytest.approx(100 * math.sqrt(2))
    assert score_points(points, target, 'procrustes').mean_mm == pytest.approx(0.0, abs=1e-12)


def test_procrustes_by_hand():
    """Cross of arms 1 and 1 from one of arms a = 1, b = 2: no rotation helps, and the best scale is
    (a + b) / (a² + b²) = 0.6, which leaves arms 0.6 and 1.2, so errors 0.4, 0.4, 0.2, 0.2."""
    target = np.array([[[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]])
    points = target * (1.0, 2.0, 1.0) + 5.0
    np.testing.assert_allclose(point_errors(points, target, 'procrustes'), [[0.4, 0.4, 0.2, 0.2]], atol=1e-12)


def test_procrustes_has_no_guard_against_reflections():
    points, target = hands(0)
    assert score_points(target * (-1.0, 1.0, 1.0), target, 'procrustes').mean_mm < 1e-10
    assert score_points(target * (-1.0, 1.0, 1.0), target, 'root').mean_mm > 10


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.floats(0.2, 5.0))
def test_procrustes_does_not_see_a_similarity(seed, scale):
    points, target = hands(seed)
    rng = np.random.default_rng(seed)
    moved = scale * points @ orthogonal(rng) + rng.normal(0.0, 1.0, 3)
    np.testing.assert_allclose(point_errors(moved, target, 'procrustes'), point_errors(points, target, 'procrustes'),
                               atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_each_alignment_takes_away_only_what_it_may(seed):
    """Procrustes has the least squared error of all; the others ignore a shift, and the HO3D one also the size."""
    points, target = hands(seed)
    squared = {name: (point_errors(points, target, name) ** 2).sum(1) for name in ALIGNMENTS}
    for name in ALIGNMENTS:
        assert (squared['procrustes'] <= squared[name] + 1e-15).all()
    for name in ('root', 'scale_translation'):
        shifted = point_errors(points + 0.3, target, name)
        np.testing.assert_allclose(shifted, point_errors(points, target, name), atol=1e-13)
    np.testing.assert_allclose(point_errors(3.0 * points, target, 'scale_translation'),
                               point_errors(points, target, 'scale_translation'), atol=1e-13)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_in_millimetres_everything_is_a_thousand_times_larger(seed):
    """No alignment has a length of its own hidden in it."""
    points, target = hands(seed)
    for name in ALIGNMENTS:
        in_mm = point_errors(1e3 * points, 1e3 * target, name)
        np.testing.assert_allclose(in_mm, 1e3 * point_errors(points, target, name), atol=1e-9)


def test_unknown_alignment_and_wrong_shapes_are_refused():
    points, target = hands(0)
    with pytest.raises(ConfigError, match='scale_translation'):
        point_errors(points, target, 'umeyama')
    with pytest.raises(ValueError, match=r'\(3, 21, 3\).*\(3, 20, 3\)'):
        point_errors(points, target[:, :20])


# Degenerate input

@pytest.mark.parametrize('place', [0.0, 0.1, -37.3])
def test_points_that_all_coincide(place):
    """Procrustes leaves them on the centroid of the truth, HO3D's alignment on its wrist."""
    target = hands(0)[1]
    points = np.full_like(target, place)
    to_centre = np.linalg.norm(target - target.mean(1, keepdims=True), axis=-1)
    np.testing.assert_allclose(point_errors(points, target, 'procrustes'), to_centre, atol=1e-12)
    to_wrist = np.linalg.norm(target - target[:, :1], axis=-1)
    np.testing.assert_allclose(point_errors(points, target, 'scale_translation'), to_wrist, atol=1e-12)


@pytest.mark.parametrize('place', [0.0, 0.1, -37.3])
def test_truth_that_all_coincides(place):
    points = hands(0)[0]
    assert point_errors(points, np.full_like(points, place), 'procrustes').max() < 1e-12


def test_points_on_a_line():
    steps = 0.01 * np.arange(21.0)[:, None]
    line, other = steps * (1.0, 0.0, 0.0), steps[::-1] * (0.0, 0.6, 0.8) + 0.3
    assert score_points(line[None], other[None], 'procrustes').mean_mm < 1e-9
    bent = hands(0)[1]
    for points, target in ((np.stack([line] * 3), bent), (bent, np.stack([line] * 3))):
        for name in ALIGNMENTS:
            assert np.isfinite(point_errors(points, target, name)).all()


# Missing points

def test_missing_points_are_counted_and_left_out():
    points, target = hands(0, count=4)
    target[1, 3] = np.nan
    target[2] = np.nan
    points[0, 5, 1] = np.nan
    points[1, 3] = np.inf
    score = score_points(points, target)
    assert (score.samples, score.points, score.missing_target, score.missing_points) == (3, 84 - 1 - 21 - 1, 22, 1)
    assert math.isfinite(score.mean_mm) and math.isfinite(score.auc)


def test_mean_is_over_points_of_the_means_over_samples():
    """Point means 2 and 5, so 3.5; the mean of all three errors would be 3."""
    assert mean_error(np.array([[1.0, np.nan], [3.0, 5.0]])) == 3.5
    assert mean_error(np.array([[1.0, np.nan], [3.0, np.nan]])) == 2.0


def test_nothing_left_is_nan():
    empty = np.full((2, 21, 3), np.nan)
    for name in ALIGNMENTS:
        score = score_points(empty, hands(0, count=2)[1], name)
        assert math.isnan(score.mean_mm) and math.isnan(score.auc)
        assert (score.samples, score.points, score.missing_points) == (0, 0, 42)
    none = score_points(np.zeros((0, 21, 3)), np.zeros((0, 21, 3)), 'procrustes')
    assert math.isnan(none.mean_mm) and none.samples == 0


@pytest.mark.parametrize('joint, name, defined', [
    (0, 'root', False), (0, 'scale_translation', False), (9, 'scale_translation', False), (9, 'root', True),
    (0, 'procrustes', True), (7, 'scale_translation', True),
])
@pytest.mark.parametrize('which', ['points', 'target'])
def test_an_alignment_without_its_joints_is_not_defined(joint, name, defined, which):
    points, target = hands(0)
    (points if which == 'points' else target)[1, joint] = np.nan
    known = np.isfinite(point_errors(points, target, name))
    assert known.sum(1).tolist() == [21, 20 if defined else 0, 21]


def test_procrustes_uses_the_common_points_and_needs_three():
    points, target = hands(0)
    points[0, 4] = target[0, 8] = np.nan
    rest = [j for j in range(21) if j not in (4, 8)]
    alone = point_errors(points[:1, rest], target[:1, rest], 'procrustes')
    np.testing.assert_array_equal(point_errors(points, target, 'procrustes')[:1, rest], alone)
    points[1, 3:] = np.nan
    assert np.isfinite(point_errors(points, target, 'procrustes')[1]).sum() == 3
    points[1, 2] = np.nan
    assert np.isnan(point_errors(points, target, 'procrustes')[1]).all()


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_missing_sample_equals_one_that_was_never_there(seed):
    points, target = hands(seed)
    absent = np.full((1, 21, 3), np.nan)
    for name in ALIGNMENTS:
        plain, more = (score_points(p, t, name) for p, t in (
            (points, target), (np.concatenate([points, absent]), np.concatenate([target, absent]))))
        assert more == plain._replace(missing_target=21)


# PCK and AUC

def test_auc_of_one_error():
    """The curve of one error e steps from 0 to 1 at the first threshold ≥ e, number k of 0 … n; of n intervals, n − k
    are wholly under it and one by half.  25 mm of 50: k = 50 of 99.  5 mm of 20: k = 5 of 19."""
    assert auc(np.array([[0.025]]), FREIHAND_AUC) == pytest.approx(0.5)
    assert auc(np.array([[0.005]]), POEM_AUC) == pytest.approx(14.5 / 19)
    assert auc(np.array([[0.0]]), FREIHAND_AUC) == 1.0
    assert auc(np.array([[0.050]]), FREIHAND_AUC) == pytest.approx(0.5 / 99)
    assert auc(np.array([[0.051]]), FREIHAND_AUC) == 0.0


def test_an_error_equal_to_the_threshold_counts():
    np.testing.assert_array_equal(pck(np.array([[0.25]]), np.array([0.2, 0.25, 0.3])), [0.0, 1.0, 1.0])


def test_pck_is_the_mean_of_the_points_shares():
    """Shares 1 of 1 and 1 of 2, so 0.75, not 2 of 3."""
    np.testing.assert_allclose(pck(np.array([[0.1, 0.1], [np.nan, 0.9]]), np.array([0.5])), [0.75])


def test_auc_range_says_what_it_is():
    assert str(POEM_AUC) == '0–20 mm, 20 thresholds' and str(FREIHAND_AUC) == '0–50 mm, 100 thresholds'


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.floats(0.0, 0.01))
def test_auc_falls_as_errors_grow(seed, more):
    errors = np.random.default_rng(seed).uniform(0.0, 0.03, (4, 21))
    fine = AucRange(0.020, 1001)
    assert 0.0 <= auc(errors + more, POEM_AUC) <= auc(errors, POEM_AUC) <= 1.0
    # With ever more thresholds it goes to the mean of 1 − e / maximum; it is off by less than one interval.
    assert auc(errors, fine) == pytest.approx(np.clip(1 - errors / 0.020, 0.0, None).mean(), abs=1e-3)


# F-score

def test_f_score_by_hand():
    """All four points on the first of four targets: precision 1, recall 1/4, F = 2 · 1/4 / (5/4)."""
    target = np.array([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]]])
    np.testing.assert_allclose(f_scores(np.zeros((1, 4, 3)), target, 0.1), [0.4])
    np.testing.assert_allclose(f_scores(target, np.zeros((1, 4, 3)), 0.1), [0.4])


def test_f_score_takes_only_what_is_closer():
    points, target = np.full((1, 3, 3), (0.25, 0.0, 0.0)), np.zeros((1, 3, 3))
    assert f_scores(points, target, 0.25)[0] == 0.0
    assert f_scores(points, target, np.nextafter(0.25, 1.0))[0] == 1.0
    # One of two points counts, and all of the truth: 2 · 1/2 / (3/2).  The other way round the same.
    both, one = np.array([[[0.0, 0.0, 0.0], [0.25, 0.0, 0.0]]]), np.zeros((1, 1, 3))
    assert f_scores(both, one, 0.25)[0] == f_scores(one, both, 0.25)[0] == pytest.approx(2 / 3)


def test_f_score_of_missing_points():
    points, target = (np.zeros((4, 3, 3)) for _ in range(2))
    points[0, 1:] = np.nan
    points[1] = np.nan
    target[2:] = np.nan
    points[3] = np.nan
    np.testing.assert_array_equal(f_scores(points, target, 0.1), [1.0, 0.0, np.nan, np.nan])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.001, 0.03))
def test_f_score_does_not_know_which_is_the_truth(seed, threshold):
    points, target = hands(seed, count=2, points=60)
    scores = f_scores(points, target, threshold)
    np.testing.assert_allclose(scores, f_scores(target, points[:, ::-1], threshold), rtol=1e-12)
    assert ((0 <= scores) & (scores <= 1)).all()


# 2D errors, gates, correlation, hard samples

def test_pixel_errors():
    joints = np.array([[[[3.0, 4.0], [1.0, 1.0], [0.0, 2.0], [np.nan, 0.0]]]])
    errors = pixel_errors(joints, np.zeros((1, 1, 4, 2)), np.array([[[True, False, True, True]]]))
    np.testing.assert_array_equal(errors, [[[5.0, np.nan, 2.0, np.nan]]])
    assert finite_mean(errors) == 3.5 and math.isnan(finite_mean(errors[..., 3]))


def test_view_weight_entropy_by_hand():
    """Uniform: ln 4.  One view: 0.  (1/2, 1/4, 1/4): 1.5 ln 2, also where the sum is 2.  No view: not defined."""
    weights = np.array([[0.25, 1.0, 0.5, 1.0, 0.0], [0.25, 0.0, 0.25, 0.5, 0.0],
                        [0.25, 0.0, 0.25, 0.5, 0.0], [0.25, 0.0, 0.0, 0.0, 0.0]])
    expected = [math.log(4), 0.0, 1.5 * math.log(2), 1.5 * math.log(2), math.nan]
    np.testing.assert_allclose(view_weight_entropy(weights), expected, atol=1e-15)
    assert np.isnan(view_weight_entropy(np.array([[np.nan, -1.0], [0.5, 2.0]]))).all()


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 8))
def test_entropy_lies_between_one_view_and_all_alike(seed, views):
    weights = np.random.default_rng(seed).dirichlet(np.ones(views), 21).T
    entropy = view_weight_entropy(weights)
    assert ((entropy >= 0) & (entropy <= math.log(views) + 1e-12)).all()
    absent = np.concatenate([np.zeros((2, 21)), weights[::-1]])
    np.testing.assert_allclose(view_weight_entropy(absent), entropy, atol=1e-12)


def test_pearson_by_hand():
    """Deviations (−1, 0, 1) and (−1, 1, 0): 1 / √(2 · 2)."""
    assert pearson([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == pytest.approx(0.5)
    pooled = pearson([[1.0, np.nan, 2.0], [3.0, 9.0, np.nan]], [[1.0, 7.0, 3.0], [2.0, np.nan, 1.0]])
    assert pooled == pytest.approx(0.5)
    for sigma, error in (([0.1] * 3, [1.0, 2.0, 4.0]), ([1.0, 2.0], [0.7] * 2), ([1.0], [1.0]), ([], [])):
        assert math.isnan(pearson(sigma, error))


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.floats(0.01, 100.0), st.floats(-10.0, 10.0))
def test_pearson_knows_no_unit(seed, scale, offset):
    x, y = np.random.default_rng(seed).normal(size=(2, 30))
    assert pearson(scale * x + offset, y) == pytest.approx(pearson(x, y), abs=1e-9)
    assert pearson(-x, y) == pytest.approx(-pearson(x, y), abs=1e-12)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)


def test_hard_subset():
    error = np.array([1.0, 9.0, np.nan, 3.0, 9.0, 8.0])
    np.testing.assert_array_equal(np.flatnonzero(hard_subset(error, 0.2)), [1])
    np.testing.assert_array_equal(np.flatnonzero(hard_subset(error, 0.4)), [1, 4])
    np.testing.assert_array_equal(np.flatnonzero(hard_subset(error, 0.5)), [1, 4, 5])
    assert hard_subset(np.arange(30.0)).sum() == 3 and hard_subset(np.arange(31.0)).sum() == 4
    # 0.07 · 100 is a little more than 7 in floating point.
    assert hard_subset(np.arange(100.0), 0.07).sum() == 7
    np.testing.assert_array_equal(np.flatnonzero(hard_subset(np.zeros(100))), np.arange(10))
    assert not hard_subset(np.full(4, np.nan)).any() and hard_subset(np.zeros(0)).shape == (0,)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(ConfigError, match='share'):
            hard_subset(error, share)


def test_align_gives_points_not_errors():
    points, target = hands(0)
    np.testing.assert_allclose(align(points, target, 'root')[:, 0], target[:, 0], atol=1e-15)
    points[0, 3, 2] = np.inf
    assert np.isnan(align(points, target, 'none')[0, 3]).all()
