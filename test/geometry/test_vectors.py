"""Products of single vectors against NumPy's."""

import numpy as np

from hand_unc_ros.geometry.vectors import cross, unit


def test_the_cross_product_is_numpys():
    rng = np.random.default_rng(0)
    for one, other in rng.normal(size=(50, 2, 3)):
        np.testing.assert_array_equal(cross(one, other), np.cross(one, other))
    np.testing.assert_array_equal(cross(np.eye(3)[0], np.eye(3)[1]), np.eye(3)[2])
    np.testing.assert_allclose(unit(np.array([3.0, 0.0, 4.0])), [0.6, 0.0, 0.8])
