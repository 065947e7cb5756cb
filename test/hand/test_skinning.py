"""Skinning weights on the public joints."""

import numpy as np
import pytest

from hand_unc_ros.hand.joints import FINGERTIPS, ORDERS
from hand_unc_ros.hand.skinning import skinning_on_bones, skinning_to_joints, vertex_variance
from hand_unc_ros.hand.standin import build_standin

DISTAL = [tip - 1 for tip in FINGERTIPS]


@pytest.fixture(scope='module')
def weights():
    return build_standin('right')['weights']


def test_rows_sum_to_one_also_for_rounded_weights(weights):
    np.testing.assert_allclose(skinning_to_joints(weights).sum(axis=1), 1, atol=1e-15)
    rounded = weights.astype(np.float32) * np.float32(1 + 1e-6)
    np.testing.assert_allclose(skinning_to_joints(rounded).sum(axis=1), 1, atol=1e-15)


def test_every_weight_arrives_at_its_public_joint(weights):
    """Against ORDERS read the other way round: public joint of each smplx joint."""
    joints, bones = skinning_to_joints(weights), skinning_on_bones(weights)
    assert joints.shape == bones.shape == (778, 21) and (joints >= 0).all()
    for other in range(16):
        public = ORDERS['smplx'].index(other)
        np.testing.assert_array_equal(bones[:, public], weights[:, other])
        half = public in DISTAL
        np.testing.assert_allclose(joints[:, public], weights[:, other] / (2 if half else 1), atol=1e-15)
        if half:
            np.testing.assert_array_equal(joints[:, public + 1], joints[:, public])
    assert (bones[:, list(FINGERTIPS)] == 0).all()


def test_other_shapes_are_refused():
    for shape in ((778, 21), (16, 778), (16,)):
        with pytest.raises(ValueError, match=r'\(N, 16\)'):
            skinning_to_joints(np.ones(shape))


def test_variance_is_carried_over_axis_by_axis(weights):
    rng = np.random.default_rng(0)
    skinning, variances = skinning_to_joints(weights), rng.uniform(1e-6, 1e-4, (21, 3))
    covariance = np.diag(variances.ravel()) + 1e-7 * (1 - np.eye(63))
    np.testing.assert_allclose(vertex_variance(skinning, covariance), skinning @ variances, rtol=1e-12)
    covariance[27, 27] = np.nan
    lost = np.isnan(vertex_variance(skinning, covariance))
    np.testing.assert_array_equal(lost, np.repeat(skinning[:, 9:10] > 0, 3, axis=1))
    assert 0 < lost.sum() < lost.size
