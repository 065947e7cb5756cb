"""The covariance map: factors of joints, by the number of views."""

import json

import numpy as np
import pytest

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.covariance_map import CovarianceMap, Curve, fit_factor, fit_map
from hand_unc_ros.geometry.gaussians import coverage, is_psd


def gaussian_errors(count, factor, seed=0):
    """Errors (N, 3) of covariance factor · Σ with Σ (N, 3, 3), all different and far from round."""
    rng = np.random.default_rng(seed)
    shapes = rng.normal(0, 1, (count, 3, 3)) * np.array([0.01, 0.002, 0.0005])
    covariances = shapes @ shapes.transpose(0, 2, 1) + 1e-8 * np.eye(3)
    roots = np.linalg.cholesky(covariances)
    return np.sqrt(factor) * (roots @ rng.standard_normal((count, 3, 1)))[..., 0], covariances


@pytest.mark.parametrize('factor', (0.3, 1.0, 2.25))
@pytest.mark.parametrize('probability', (0.5, 0.95))
def test_a_known_factor_is_recovered(factor, probability):
    errors, covariances = gaussian_errors(20_000, factor)
    found = fit_factor(errors, covariances, probability)
    # Deviation of a sample quantile, √(p(1−p)/n)/f(q): 0.9 % at 95 %, 0.7 % at 50 % for χ²₃; four of them.
    assert found == pytest.approx(factor, rel=0.04)
    assert coverage(errors, found * covariances, probability) == pytest.approx(probability, abs=1e-3)


def spread_hands(count, factors, seed=0):
    """Errors (count, 21, 3) of covariances that are too small by factors (21,), and these covariances."""
    errors, covariances = gaussian_errors(count * 21, 1.0, seed)
    errors = errors.reshape(count, 21, 3) * np.sqrt(factors)[:, None]
    return errors, covariances.reshape(count, 21, 3, 3)


def test_factors_are_interpolated_and_constant_beyond():
    sigma = np.full((6, 21), 0.01)
    views = np.repeat([[0], [1], [2], [3], [4], [9]], 21, axis=1)
    scale = CovarianceMap('scalar', {4: 2.0, 2: 1.0})
    np.testing.assert_allclose(scale.factors(views, sigma)[:, 5], [1, 1, 1, 1.5, 2, 2])
    np.testing.assert_allclose(CovarianceMap('scalar', {3: 1.7}).factors(views, sigma), 1.7)
    joint = CovarianceMap('joint', {2: tuple(np.arange(1, 22.0)), 4: tuple(np.arange(3, 24.0))})
    np.testing.assert_allclose(joint.factors(views[3], sigma[3]), np.arange(2, 23.0))
    curve = CovarianceMap('isotonic', {2: Curve((0.01, 0.02), (1.0, 3.0))})
    np.testing.assert_allclose(curve.factors(views[0, :4], np.array([0.0, 0.01, 0.015, 0.5])), [1, 1, 2, 3])


def test_applied_the_map_keeps_correlations_and_positive_semi_definiteness():
    rng = np.random.default_rng(3)
    root = rng.normal(0, 0.01, (63, 70))
    covariance = root @ root.T
    scale = CovarianceMap('joint', {2: tuple(np.linspace(0.5, 4, 21))}, filtered={2: 3.0})
    views = np.full(21, 2)
    applied = scale.apply(covariance, views)
    assert is_psd(applied)
    np.testing.assert_allclose(np.trace(applied[60:, 60:]), 4 * np.trace(covariance[60:, 60:]))
    np.testing.assert_allclose(correlation(applied), correlation(covariance), atol=1e-12)
    np.testing.assert_allclose(scale.apply_filtered(covariance, views), 3 * covariance)
    np.testing.assert_array_equal(CovarianceMap('scalar', {2: 2.0}).apply_filtered(covariance, views), covariance)
    # A joint that is not known stays unknown and takes nothing of the others with it.
    covariance[3:6] = covariance[:, 3:6] = np.nan
    assert np.isfinite(scale.apply(covariance, views)[6:, 6:]).all()


def correlation(covariance):
    sigma = np.sqrt(np.diag(covariance))
    return covariance / np.outer(sigma, sigma)


def test_each_kind_finds_what_is_wrong():
    factors = np.linspace(0.5, 3, 21)
    errors, covariances = spread_hands(4000, factors)
    views = np.full((4000, 21), 3)
    errors[::50, 4] = np.nan
    found = fit_map('joint', errors, covariances, views).views[3]
    # A 95 % quantile of 4000 χ²₃ is off by 2 % (see above); four of them.
    np.testing.assert_allclose(found, factors, rtol=0.08)
    scalar = fit_map('scalar', errors, covariances, views)
    applied = scalar.views[3] * covariances
    assert coverage(errors.reshape(-1, 3), applied.reshape(-1, 3, 3)) == pytest.approx(0.95, abs=1e-3)


def test_an_isotonic_map_finds_an_error_that_depends_on_sigma():
    rng = np.random.default_rng(5)
    sigma = np.exp(rng.uniform(np.log(0.002), np.log(0.05), (3000, 21)))
    true = 0.004 * (sigma / 0.004) ** 0.5
    errors = rng.standard_normal((3000, 21, 3)) * true[..., None]
    covariances = sigma[..., None, None] ** 2 * np.eye(3)
    curve = fit_map('isotonic', errors, covariances, np.full((3000, 21), 2))
    for value in (0.004, 0.01, 0.03):
        # Bins of 5250 errors each have a quantile off by 2 %; half a bin's width in log σ, 13 %, shifts it by as much.
        expected = (0.004 * (value / 0.004) ** 0.5 / value) ** 2
        assert curve.factors(np.full(21, 2), np.full(21, value))[0] == pytest.approx(expected, rel=0.2)
    # The calibrated σ never falls with the predicted one.
    knots = curve.views[2]
    assert (np.diff(np.array(knots.factor) * np.array(knots.sigma_m) ** 2) >= -1e-12).all()


def test_numbers_of_views_that_hardly_occur_are_left_out():
    errors, covariances = spread_hands(400, np.ones(21))
    views = np.full((400, 21), 4)
    views[0, :3] = 3
    assert set(fit_map('scalar', errors, covariances, views).views) == {4}
    # Where there is nothing else they are all there is.
    assert set(fit_map('scalar', errors[:1, :3], covariances[:1, :3], views[:1, :3]).views) == {3}


def test_nothing_to_fit_is_said():
    errors, covariances = spread_hands(2, np.ones(21))
    with pytest.raises(ConfigError, match='no joint'):
        fit_map('scalar', np.full_like(errors, np.nan), covariances, np.full((2, 21), 2))
    with pytest.raises(ConfigError, match='quadratic.*isotonic'):
        fit_map('quadratic', errors, covariances, np.full((2, 21), 2))


@pytest.mark.parametrize('entry', (
    {2: 1.6, 4: 2.25}, {2: tuple(np.arange(1, 22.0))}, {3: Curve((0.001, 0.02), (1.5, 0.75))}))
def test_files_come_back(tmp_path, entry):
    path = tmp_path / 'factors.json'
    kind = {float: 'scalar', tuple: 'joint', Curve: 'isotonic'}[type(next(iter(entry.values())))]
    saved = CovarianceMap(kind, entry, filtered={2: 1.5}, head='abc')
    saved.save(path, data='24 scenes', probability=0.95)
    assert CovarianceMap.load(path) == saved
    assert json.loads(path.read_text())['data'] == '24 scenes'


@pytest.mark.parametrize(
    'content',
    (
        '',
        '{',
        '[]',
        '3',
        'null',
        '{}',
        '{"factors": {"2": 1.0}}',
        '{"kind": "cubic", "factors": {"2": 1.0}}',
        '{"kind": "scalar", "factors": null}',
        '{"kind": "scalar", "factors": [1, 2]}',
        '{"kind": "scalar", "factors": {}}',
        '{"kind": "scalar", "factors": {"two": 1.0}}',
        '{"kind": "scalar", "factors": {"2": "much"}}',
        '{"kind": "scalar", "factors": {"2": null}}',
        '{"kind": "scalar", "factors": {"2": 0}}',
        '{"kind": "scalar", "factors": {"2": -1.0}}',
        '{"kind": "scalar", "factors": {"2": NaN}}',
        '{"kind": "scalar", "factors": {"2": Infinity}}',
        '{"kind": "scalar", "factors": {"0": 1.0}}',
        '{"kind": "scalar", "factors": {"2": 1.0}, "filtered": {"2": -1}}',
        '{"kind": "joint", "factors": {"2": [1.0, 2.0]}}',
        '{"kind": "isotonic", "factors": {"2": {"sigma_m": [0.2, 0.1], "factor": [1, 1]}}}',
        '{"kind": "isotonic", "factors": {"2": {"sigma_m": [0.1], "factor": [1, 1]}}}',
        '{"kind": "isotonic", "factors": {"2": {"sigma_m": [], "factor": []}}}',
    ),
)
def test_files_that_are_no_calibration_are_refused_by_name(tmp_path, content):
    path = tmp_path / 'factors.json'
    path.write_text(content)
    with pytest.raises(ConfigError, match='factors.json'):
        CovarianceMap.load(path)


def test_missing_and_unreadable_files_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match='nowhere.json.*empty'):
        CovarianceMap.load(tmp_path / 'nowhere.json')
    with pytest.raises(ConfigError, match=str(tmp_path)):
        CovarianceMap.load(tmp_path)
    (tmp_path / 'binary.json').write_bytes(b'\xff\xfe\x00\x80')
    with pytest.raises(ConfigError, match='binary.json'):
        CovarianceMap.load(tmp_path / 'binary.json')
