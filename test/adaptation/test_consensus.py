"""Labels are what the views agree on, and their σ says how closely."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rig_cases import mixed_rig, ring
from view_cases import hand, project, see

from hand_unc_ros.adaptation.consensus import LEAST_SHARE, consensus, rigid, triangulated
from hand_unc_ros.data.pseudo_labels import PseudoLabels

RIG = mixed_rig()
HAND = hand()
TRUTH = project(RIG, HAND)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.integers(1, 20), st.floats(0, 2 * np.pi))
def test_a_view_that_is_wrong_alone_is_outvoted(view: int, joint: int, angle: float) -> None:
    """A fingertip taken for another one in one of four views, 60 px off: the label there is the others' joint."""
    views = see(RIG, HAND, 1.0, 1.0, 3)
    px = views.joints_px.copy()
    px[view, joint] += 60 * np.array([np.cos(angle), np.sin(angle)])
    joints, labels, sigma = consensus(replace(views, joints_px=px), RIG)
    # Three views of σ 1 px and a robust weight of the fourth: two or three pixels at most.
    assert np.linalg.norm(labels[view, joint] - TRUTH[view, joint]) < 5
    assert np.linalg.norm(joints[joint] - HAND[joint]) < 0.008 and np.isfinite(sigma[view, joint]).all()


def test_sigma_is_that_of_the_labels() -> None:
    """Of 40 noisy looks, the errors in units of σ: below 1, since a label claims no less than what a joint means."""
    errors = []
    for seed in range(40):
        _, labels, sigma = consensus(see(RIG, HAND, 3.0, 1.0, seed), RIG)
        errors.append((labels - TRUTH) / sigma)
    # 40 · 4 · 21 · 2 numbers, of which those of a joint depend on each other: known to about 4 %.
    assert 0.6 < np.nanstd(errors) < 1.05
    assert np.isfinite(errors).mean() > 0.95
    _, labels, sigma = consensus(see(RIG, HAND), RIG)
    np.testing.assert_allclose(labels, TRUTH, atol=1e-3)
    assert (sigma >= LEAST_SHARE * 50).all()


def test_what_two_of_four_views_show_is_no_label() -> None:
    views = see(RIG, HAND, hidden=[(0, 8), (1, 8), (2, 4)])
    joints, _, sigma = consensus(views, RIG)
    assert np.isnan(joints[8]).all() and np.isinf(sigma[:, 8]).all()
    # Three views show the thumb's tip, and the fourth gets a label of it.
    assert np.isfinite(joints[4]).all() and np.isfinite(sigma[2, 4]).all()


def test_with_two_cameras_both_must_agree() -> None:
    pair = ring((10, 100))
    views = see(pair, HAND, 1.0, 1.0, 2)
    px = views.joints_px.copy()
    # Across the epipolar lines; of which direction these have, one of the two shifts is off by enough.
    for joint, step in ((6, (40, 0)), (7, (0, 40))):
        px[0, joint] += step
    joints, _, sigma = consensus(replace(views, joints_px=px), pair)
    assert np.isnan(joints[[6, 7]]).any() and np.isfinite(joints[[0, 5, 9, 13, 17]]).all()
    assert np.isinf(sigma[:, np.isnan(joints).any(1)]).all()


def recording(joints: np.ndarray) -> PseudoLabels:
    count = len(joints)
    px = np.stack([project(RIG, each) for each in joints])
    stamps = np.arange(count) * 10**8
    return PseudoLabels(RIG.names, stamps, np.repeat(stamps[:, None], 4, 1), np.zeros(count, bool),
                        np.ones(count, int), px, np.ones(px.shape), joints)


def test_a_bone_that_the_hand_does_not_have_ends_in_no_label() -> None:
    joints = np.stack([hand(turn=(0.1 * i, 0.2, 0.3)) for i in range(30)])
    joints[7, 8] += 1.2 * (joints[7, 8] - joints[7, 7])
    found = rigid(recording(joints))
    bad = ~found.trusted.any(1)
    assert [tuple(place) for place in np.argwhere(bad)] == [(7, 8)]
    assert np.isnan(found.joints[7, 8]).all() and np.isfinite(found.joints[7, 7]).all()


def test_labels_from_elsewhere_are_triangulated() -> None:
    mine = recording(np.stack([HAND, HAND + [0.01, 0.02, 0.0]]))
    found = triangulated(replace(mine, joints=np.full_like(mine.joints, np.nan)), RIG)
    np.testing.assert_allclose(found.joints, mine.joints, atol=1e-6)
