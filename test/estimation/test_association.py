"""Hands of several images and of several moments put together: two hands at random places, seen by noisy detectors."""

from __future__ import annotations

import numpy as np
import pytest
from rig_cases import ring
from view_cases import hand, project

from hand_unc_ros.estimation.association import ExpectedHand, ImageHands, associate, distances

SIGMA_PX = 2.0
RIG = ring((10, 75, 170, 260))


def scene(rng: np.random.Generator, rig=RIG, apart: float = 0.12) -> list[np.ndarray]:
    """Joints (21, 3) of a right and a left hand whose wrists are at least `apart` from each other."""
    while True:
        places = rng.uniform(-0.12, 0.12, (2, 3))
        if np.linalg.norm(places[0] - places[1]) > apart:
            break
    return [hand(rng.normal(0, 1, 3), place, side, rng.uniform(0, 0.8))
            for place, side in zip(places, ('right', 'left'))]


def seen_by(rig, joints, rng, *, dropped: float = 0.0, confused: float = 0.0, clutter: int = 0):
    """The images' hands in random order, and which of `joints` each one is (-1 for clutter).

    dropped: share of hands that a view overlooks.  confused: share of views that take right for left.
    """
    entries = []
    for index, points in enumerate(joints):
        pixels = project(rig, points)
        for view in range(len(rig)):
            if rng.random() >= dropped:
                right = 0.95 if (index == 0) != (rng.random() < confused) else 0.05
                entries.append((view, pixels[view] + rng.normal(0, SIGMA_PX, (21, 2)), right, index))
    for _ in range(clutter):
        view = rng.integers(len(rig))
        pixels = project(rig, hand(rng.normal(0, 1, 3), rng.uniform(-0.15, 0.15, 3)))[view]
        entries.append((view, pixels, rng.uniform(0.1, 0.9), -1))
    order = rng.permutation(len(entries))
    view, pixels, right, truth = ([entries[row][column] for row in order] for column in range(4))
    pixels = np.array(pixels).reshape(-1, 21, 2)
    hands = ImageHands(np.array(view, int), pixels, np.full(pixels.shape, SIGMA_PX ** 2), np.array(right, float))
    return hands, np.array(truth, int)


def owners(found, truth):
    """For each hand found, the set of true hands that its members are."""
    return [{int(truth[member]) for member in one.members.values()} for one in found]


@pytest.mark.parametrize('views', [2, 3, 4])
def test_every_view_of_two_hands_finds_its_hand(views: int) -> None:
    rng = np.random.default_rng(views)
    rig = RIG.subset(RIG.names[:views])
    for _ in range(20):
        joints = scene(rng)
        hands, truth = seen_by(rig, joints, rng)
        found = associate(hands, rig)
        assert sorted(map(tuple, owners(found, truth))) == [(0,), (1,)]
        for one, owner in zip(found, owners(found, truth)):
            assert len(one.members) == views
            index = owner.pop()
            assert (one.right > 0.5) == (index == 0)
            assert np.median(np.linalg.norm(one.joints - joints[index], axis=1)) < 0.01


def test_views_are_hardly_ever_mixed() -> None:
    """A fifth of the hands overlooked, a tenth of the sides confused, a false hand in some view."""
    rng = np.random.default_rng(11)
    mixed = complete = possible = 0
    for _ in range(100):
        joints = scene(rng)
        hands, truth = seen_by(RIG, joints, rng, dropped=0.2, confused=0.1, clutter=1)
        owner = owners(associate(hands, RIG), truth)
        mixed += sum(len(one) > 1 for one in owner)
        for index in range(2):
            if len(set(hands.view[truth == index])) >= 2:
                possible += 1
                complete += {index} in owner
    assert mixed <= 4
    assert complete >= 0.97 * possible


def test_the_order_of_the_hands_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    hands, _ = seen_by(RIG, scene(rng), rng, dropped=0.1, confused=0.1, clutter=1)
    groups = {frozenset(one.members.values()) for one in associate(hands, RIG)}
    order = rng.permutation(len(hands))
    shuffled = ImageHands(hands.view[order], hands.joints_px[order], hands.variance_px2[order], hands.right[order])
    assert {frozenset(order[list(one.members.values())]) for one in associate(shuffled, RIG)} == groups


def test_hidden_joints_and_few_hands_are_no_trouble() -> None:
    rng = np.random.default_rng(4)
    joints = scene(rng)
    hands, truth = seen_by(RIG, joints, rng)
    hands.joints_px[rng.random(hands.joints_px.shape[:2]) < 0.3] = np.nan
    assert sorted(map(tuple, owners(associate(hands, RIG), truth))) == [(0,), (1,)]
    for rows in ([], [0], list(np.flatnonzero(hands.view == 1))):
        few = ImageHands(hands.view[rows], hands.joints_px[rows], hands.variance_px2[rows], hands.right[rows])
        assert associate(few, RIG) == []
    assert len(associate(hands, RIG, max_hands=1)) == 1


def test_distances_are_in_sigma() -> None:
    rng = np.random.default_rng(5)
    joints = scene(rng)
    hands, truth = seen_by(RIG, joints, rng)
    gaps = distances(hands, RIG, np.stack(joints), np.zeros((2, 21, 3, 3)))
    own = gaps[truth, np.arange(len(hands))]
    np.testing.assert_allclose(own, 1 / 3, rtol=0.3, err_msg='detectors that keep their word')
    assert (gaps[1 - truth, np.arange(len(hands))] > 3 * own).all()


def follow(found, expected, velocity):
    """The next set's expected hands, by constant velocity; a hand that was not found keeps going and grows unsure."""
    following = []
    for index, old in enumerate(expected):
        own = [one for one in found if one.expected == index]
        joints, covariance = old.joints + velocity[index], old.covariance + 3e-5 * np.eye(3)
        if own:
            velocity[index] = 0.5 * velocity[index] + 0.5 * (own[0].joints - old.joints)
            joints, covariance = own[0].joints + velocity[index], own[0].covariance + 1e-4 * np.eye(3)
        following.append(ExpectedHand(joints, covariance, old.right))
    return following


@pytest.mark.parametrize('seed', range(2))
def test_hands_that_cross_keep_their_identities(seed: int) -> None:
    """Five times past each other at 4 cm, one of them hidden from all views for 0.1 s where they are closest."""
    rng = np.random.default_rng(seed)
    turns = rng.normal(0, 1, (2, 3))

    def moment(time: float) -> list[np.ndarray]:
        x = 0.15 * np.cos(np.pi * time)
        return [hand(turns[0], (x, 0.02, 0.0), 'right'), hand(turns[1], (-x, -0.02, 0.0), 'left')]

    expected = [ExpectedHand(joints, np.tile(1e-5 * np.eye(3), (21, 1, 1)), right)
                for joints, right in zip(moment(0), (0.95, 0.05))]
    velocity = np.zeros((2, 21, 3))
    switches = taken = 0
    for step in range(1, 150):
        hands, truth = seen_by(RIG, moment(step / 30), rng, dropped=0.1, confused=0.1)
        if 14 <= step % 30 <= 16:
            rows = truth != 1
            hands = ImageHands(hands.view[rows], hands.joints_px[rows], hands.variance_px2[rows], hands.right[rows])
            truth = truth[rows]
        found = associate(hands, RIG, expected)
        for one, owner in zip(found, owners(found, truth)):
            taken += 1
            switches += one.expected is not None and owner != {one.expected}
        expected = follow(found, expected, velocity)
    assert switches == 0
    assert taken > 275
