"""Quaternions: their signs, and read-only input."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hand_unc_ros.geometry.quaternions import quaternions_xyzw


def test_matrices_come_back_with_the_canonical_sign():
    matrices = Rotation.random(500, random_state=1).as_matrix().reshape(50, 10, 3, 3)
    matrices.flags.writeable = False
    got = quaternions_xyzw(matrices)
    assert got.shape == (50, 10, 4) and (got[..., 3] > 0).all()
    np.testing.assert_allclose(Rotation.from_quat(got.reshape(-1, 4)).as_matrix(), matrices.reshape(-1, 3, 3), atol=1e-14)
    assert quaternions_xyzw(np.eye(3)).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize('axis', np.eye(3).tolist() + (-np.eye(3)).tolist() + [[0.6, -0.8, 0], [-0.6, 0.8, 0]])
def test_half_turns_have_one_sign(axis):
    got = quaternions_xyzw(2 * np.outer(axis, axis) - np.eye(3))
    assert got[np.flatnonzero(np.abs(got) > 1e-12)[0]] > 0 and abs(got[3]) < 1e-12


def test_agrees_with_scipy_where_it_has_a_canonical_sign():
    matrices = Rotation.random(500, random_state=2).as_matrix()
    try:
        expected = Rotation.from_matrix(matrices).as_quat(canonical=True)
    except TypeError:
        pytest.skip('SciPy 1.11 has it')
    assert np.array_equal(quaternions_xyzw(matrices), expected)
