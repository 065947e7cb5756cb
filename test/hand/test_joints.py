"""The public joint order and the named orders."""

import numpy as np
import pytest

from hand_unc_ros.hand.joints import (BONES, FINGERS, FINGERTIPS, JOINT_COUNT, JOINT_NAMES, ORDERS, PARENTS,
                                      from_public, to_public)


def test_names_and_tree_agree():
    assert len(JOINT_NAMES) == len(PARENTS) == JOINT_COUNT == 21
    assert len(BONES) == 20
    for parent, child in BONES:
        finger = JOINT_NAMES[child].split('_')[0]
        assert JOINT_NAMES[parent] == 'wrist' or JOINT_NAMES[parent].startswith(finger)
        assert parent < child
    assert [JOINT_NAMES[tip] for tip in FINGERTIPS] == [f'{finger}_tip' for finger in FINGERS]


@pytest.mark.parametrize('order', sorted(ORDERS))
def test_orders_are_permutations_and_invert(order):
    assert sorted(ORDERS[order]) == list(range(21))
    joints = np.arange(2 * 21 * 3.0).reshape(2, 21, 3)
    np.testing.assert_array_equal(to_public(from_public(joints, order), order), joints)


def test_smplx_order_by_name():
    """smplx.MANO: wrist, then index, middle, little, ring, thumb, three each, then tips thumb to little."""
    smplx = ['wrist']
    for finger in ('index', 'middle', 'little', 'ring'):
        smplx += [f'{finger}_{joint}' for joint in ('mcp', 'pip', 'dip')]
    smplx += ['thumb_cmc', 'thumb_mcp', 'thumb_ip'] + [f'{finger}_tip' for finger in FINGERS]
    assert tuple(smplx[i] for i in ORDERS['smplx']) == JOINT_NAMES


def test_unknown_order_names_the_known_ones():
    for function in (to_public, from_public):
        with pytest.raises(KeyError, match='mediapipe'):
            function(np.zeros((21, 3)), 'nonsense')
