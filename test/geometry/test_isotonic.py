"""Isotonic regression against SciPy's and against its definition."""

import numpy as np
import pytest

from hand_unc_ros.geometry.isotonic import isotonic_regression


@pytest.mark.parametrize('seed', range(20))
def test_agrees_with_scipy(seed):
    optimize = pytest.importorskip('scipy.optimize')
    if not hasattr(optimize, 'isotonic_regression'):
        pytest.skip('SciPy 1.12 has it')
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=40).cumsum() if seed % 2 else rng.normal(size=40), rng.uniform(0.1, 9, 40)
    expected = optimize.isotonic_regression(values, weights=weights).x
    np.testing.assert_allclose(isotonic_regression(values, weights), expected, rtol=1e-13, atol=1e-13)


def test_rising_values_are_left_and_falling_ones_averaged():
    rising = np.array([0.1, 0.2, 0.2, 3.0])
    assert np.array_equal(isotonic_regression(rising, np.ones(4)), rising)
    assert np.array_equal(isotonic_regression(np.array([3.0, 1.0]), np.array([1, 3])), [1.5, 1.5])
    assert isotonic_regression(np.array([5.0]), np.ones(1)).tolist() == [5.0]
