"""The factor on the covariance per number of views."""

import json

import numpy as np
import pytest

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.covariance_scale import CovarianceScale, fit_factor
from hand_unc_ros.geometry.gaussians import coverage


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


def test_factors_are_interpolated_and_constant_beyond():
    scale = CovarianceScale({4: 2.0, 2: 1.0})
    np.testing.assert_allclose(scale.factor(np.array([[0, 1, 2], [3, 4, 9]])), [[1, 1, 1], [1.5, 2, 2]])
    np.testing.assert_allclose(CovarianceScale({3: 1.7}).factor(np.array([2, 3, 4])), 1.7)


def test_files_come_back(tmp_path):
    path = tmp_path / 'factors.json'
    CovarianceScale({4: 2.25, 2: 1.6}).save(path, data='24 scenes', probability=0.95)
    assert CovarianceScale.load(path).factors == {2: 1.6, 4: 2.25}
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
        '{"factors": null}',
        '{"factors": [1, 2]}',
        '{"factors": {}}',
        '{"factors": {"two": 1.0}}',
        '{"factors": {"2": "much"}}',
        '{"factors": {"2": null}}',
        '{"factors": {"2": 0}}',
        '{"factors": {"2": -1.0}}',
        '{"factors": {"2": NaN}}',
        '{"factors": {"2": Infinity}}',
        '{"factors": {"0": 1.0}}',
    ),
)
def test_files_that_are_no_calibration_are_refused_by_name(tmp_path, content):
    path = tmp_path / 'factors.json'
    path.write_text(content)
    with pytest.raises(ConfigError, match='factors.json'):
        CovarianceScale.load(path)


def test_missing_and_unreadable_files_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match='nowhere.json.*empty'):
        CovarianceScale.load(tmp_path / 'nowhere.json')
    with pytest.raises(ConfigError, match=str(tmp_path)):
        CovarianceScale.load(tmp_path)
    (tmp_path / 'binary.json').write_bytes(b'\xff\xfe\x00\x80')
    with pytest.raises(ConfigError, match='binary.json'):
        CovarianceScale.load(tmp_path / 'binary.json')
