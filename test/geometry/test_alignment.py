"""Alignments recover what they are allowed to remove, and nothing else."""

import numpy as np
import pytest

from hand_unc_ros.geometry.alignment import (
    align_rigid,
    align_root,
    align_scale_translation,
    align_similarity,
    best_rotation,
)


def random_rotation(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q * np.linalg.det(q)


@pytest.fixture
def hands():
    """Target (5, 21, 3) and the rotations, scales and shifts that disturb it."""
    rng = np.random.default_rng(0)
    target = rng.normal(0.0, 0.05, (5, 21, 3))
    rotation = np.stack([random_rotation(rng) for _ in range(5)])
    return target, rotation, rng.uniform(0.7, 1.4, 5)[:, None, None], rng.normal(0.0, 0.4, (5, 1, 3))


def error(points, target):
    return np.linalg.norm(points - target, axis=-1)


def test_root_removes_translation_alone(hands):
    target, rotation, scale, shift = hands
    np.testing.assert_allclose(align_root(target + shift, target), target, atol=1e-15)
    aligned = align_root(scale * target + shift, target, root=9)
    np.testing.assert_allclose(aligned[:, 9], target[:, 9])
    np.testing.assert_allclose(aligned - aligned[:, 9:10], scale * (target - target[:, 9:10]), atol=1e-14)


def test_rigid_removes_rotation_and_translation(hands):
    target, rotation, scale, shift = hands
    moved = target @ rotation.swapaxes(-1, -2) + shift
    np.testing.assert_allclose(align_rigid(moved, target), target, atol=1e-14)
    # A hand that is 10 % too large stays so: each point keeps a tenth of its distance from the centre.
    centred = target - target.mean(1, keepdims=True)
    np.testing.assert_allclose(error(align_rigid(1.1 * moved, target), target),
                               0.1 * np.linalg.norm(centred, axis=-1), atol=1e-14)


def test_the_best_rotation_is_the_one_made_and_never_a_reflection(hands):
    target, rotation, scale, shift = hands
    np.testing.assert_allclose(best_rotation(target, scale * target @ rotation.swapaxes(-1, -2) + shift), rotation,
                               atol=1e-13)
    np.testing.assert_allclose(np.linalg.det(best_rotation(target, target * [-1, 1, 1])), 1, atol=1e-13)


def test_similarity_removes_scale_too(hands):
    target, rotation, scale, shift = hands
    moved = scale * (target @ rotation.swapaxes(-1, -2)) + shift
    np.testing.assert_allclose(align_similarity(moved, target), target, atol=1e-14)


def test_scale_translation_is_ho3ds(hands):
    target, rotation, scale, shift = hands
    np.testing.assert_allclose(align_scale_translation(scale * target + shift, target), target, atol=1e-14)
    turned = align_scale_translation(target @ rotation.swapaxes(-1, -2), target)
    np.testing.assert_allclose(turned[:, 0], target[:, 0], atol=1e-15)
    assert error(turned, target).mean() > 0.01
    collapsed = align_scale_translation(np.zeros_like(target), target)
    np.testing.assert_allclose(collapsed, np.broadcast_to(target[:, :1], target.shape))


@pytest.mark.parametrize('align', [align_rigid, align_similarity])
def test_alignment_is_the_least_squares_optimum(hands, align):
    """No small rotation, shift or (for similarity) scale of the aligned points lowers the squared error."""
    target = hands[0]
    rng = np.random.default_rng(1)
    aligned = align(target + rng.normal(0.0, 0.01, target.shape), target)
    best = (error(aligned, target) ** 2).sum(-1)
    for _ in range(20):
        turn = rng.normal(0.0, 1e-3, 3)
        skew = np.array([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]])
        rotation = np.linalg.svd(np.eye(3) + skew)
        rotation = rotation[0] @ rotation[2]
        stretch = 1 + (rng.normal(0.0, 1e-3) if align is align_similarity else 0.0)
        mean = aligned.mean(1, keepdims=True)
        other = stretch * (aligned - mean) @ rotation.T + mean + rng.normal(0.0, 1e-4, 3)
        assert ((error(other, target) ** 2).sum(-1) > best).all()


@pytest.mark.parametrize('align', [align_rigid, align_similarity])
def test_a_mirrored_hand_does_not_align_unless_allowed(hands, align):
    target = hands[0]
    mirrored = target * (-1.0, 1.0, 1.0)
    assert error(align(mirrored, target), target).mean() > 0.005
    np.testing.assert_allclose(align(mirrored, target, allow_reflection=True), target, atol=1e-14)


@pytest.mark.parametrize('align', [align_rigid, align_similarity, align_root, align_scale_translation])
def test_nan_stays_in_its_own_hand(hands, align):
    target = hands[0]
    spoiled = target.copy()
    spoiled[2] = np.nan
    aligned = align(spoiled, target)
    assert np.isnan(aligned[2]).all() and np.isfinite(aligned[[0, 1, 3, 4]]).all()


@pytest.mark.parametrize('align', [align_rigid, align_similarity])
def test_a_single_place_is_only_moved(align):
    aligned = align(np.zeros((21, 3)), np.random.default_rng(0).normal(size=(21, 3)))
    assert np.isfinite(aligned).all() and np.ptp(aligned, axis=0).max() < 1e-12
