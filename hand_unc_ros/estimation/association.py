"""Which of the hands that the cameras show are the same hand, and which followed hand each one is.

First across views, by geometry: every pair of views, and every followed hand, proposes where a hand's joints are;
the hands that lie there in the other views support it. The best supported proposals that share no hand are taken
(Fischler and Bolles, Random sample consensus, 1981, with all pairs instead of samples). Then across time: the hands
found are assigned to the followed ones by Mahalanobis distance and handedness (Kuhn, The Hungarian method, 1955).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.triangulation import (
    covariance_from_pixels,
    inverse_variance_weights,
    propagate_covariance,
    refine_reprojection,
    triangulate_dlt,
)
from hand_unc_ros.hand.joints import JOINT_COUNT, MIDDLE_MCP, WRIST

# Claimed variances of detectors are too small on images that they find hard, by up to this factor (in σ).
SIGMA_FACTOR = 3.0
# Distance (RMS over the joints, in σ times that factor) above which a view's hand is another one.
GATE = 2.0
# Squared distances of single joints count up to this much: a hand with one wrong finger is still that hand.
JOINT_CAP = 16.0
# Nobody's word on left or right weighs more than this, as a probability.
HANDEDNESS_LIMIT = 0.9
# Fewest joints that two views must share to be compared.
MIN_JOINTS = 8
# Wrist to middle knuckle of what may be a hand, metres.
PALM_RANGE = (0.04, 0.16)
# Two hands are nowhere closer than this, as the median over their joints, metres.
MIN_APART = 0.03
# A followed hand is given up for another place beyond this distance (RMS in σ, 3D): at a cost that no pair within it has.
TRACK_GATE, IMPOSSIBLE = 3.0, 1e3


@dataclass(frozen=True)
class ImageHands:
    """The hands in the images of a set, over all its cameras; H of them.

    view: (H,) index of the camera in the rig.  joints_px: (H, 21, 2) and variance_px2: (H, 21, 2), NaN where unknown.
    right: (H,) probability that it is a right hand.
    """

    view: np.ndarray
    joints_px: np.ndarray
    variance_px2: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        return len(self.view)


@dataclass(frozen=True)
class ExpectedHand:
    """A followed hand at the time of the set. joints: (21, 3) metres, world, NaN where unknown.  covariance:
    (21, 3, 3) m².  right: probability that it is a right hand."""

    joints: np.ndarray
    covariance: np.ndarray
    right: float


@dataclass(frozen=True)
class AssociatedHand:
    """One hand in the world.

    members: camera's index in the rig → index of its hand in ImageHands.  joints: (21, 3) metres and covariance:
    (21, 3, 3) m², triangulated from them, NaN where unknown.  right: probability that it is a right hand.
    expected: index of the followed hand that it is, None for a new one.
    """

    members: Mapping[int, int]
    joints: np.ndarray
    covariance: np.ndarray
    right: float
    expected: int | None = None


class _Rays(NamedTuple):
    """Of H hands: normalised coordinates (H, 21, 2), their covariances (H, 21, 2, 2) and poses (H, 3, 4)."""

    xy: torch.Tensor
    spread: torch.Tensor
    poses: torch.Tensor


def associate(hands: ImageHands, rig: CameraRig, expected: Sequence[ExpectedHand] = (), max_hands: int = 2,
              min_views: int = 2) -> list[AssociatedHand]:
    """The hands in the world that the images show, the best supported first.

    expected: the hands that are followed, at this time.  max_hands: most hands to give.  min_views: fewest views of
    one.
    """
    rays = _rays(hands, rig)
    joints, covariance = _proposals(hands, rays, expected)
    distance = distances(hands, rig, joints, covariance)
    found: list[AssociatedHand] = []
    free = np.ones(len(hands), bool)
    known: dict[tuple[int, ...], tuple[AssociatedHand, float] | None] = {}
    while len(found) < max_hands:
        groups = set(_supporters(hands.view, np.where(free, distance, np.inf)))
        groups = {group for group in groups if len(group) >= min_views}
        known |= _scored(hands, rig, rays, sorted(groups - known.keys()))
        support = [known[group] for group in sorted(groups) if known[group] is not None]
        support = [pair for pair in support if all(_apart(pair[0], other) >= MIN_APART for other in found)]
        if not support:
            break
        found.append(max(support, key=lambda pair: pair[1])[0])
        free[list(found[-1].members.values())] = False
    return _identified(found, expected)


def distances(hands: ImageHands, rig: CameraRig, joints: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """(N, H) RMS over the joints of the distance, in σ × SIGMA_FACTOR, of each hand in its image from N hands in the
    world; infinite where they share too few joints.

    joints: (N, 21, 3) metres.  covariance: (N, 21, 3, 3) m².
    """
    count = len(joints)
    points = torch.from_numpy(np.ascontiguousarray(joints.reshape(-1, 3)))
    px, jacobian = (part.numpy().reshape(len(rig), count, JOINT_COUNT, *part.shape[2:])[hands.view].swapaxes(0, 1)
                    for part in rig.project_with_jacobian(points))
    spread = jacobian @ covariance[:, None] @ jacobian.swapaxes(-1, -2)
    spread = spread + hands.variance_px2[..., None] * np.eye(2)
    residual = px - hands.joints_px
    known = np.isfinite(residual).all(-1) & np.isfinite(spread).all((-2, -1))
    spread = np.where(known[..., None, None], spread, np.eye(2))
    residual = np.where(known[..., None], residual, 0.0)
    squared = (residual * np.linalg.solve(spread, residual[..., None])[..., 0]).sum(-1) / (2 * SIGMA_FACTOR ** 2)
    shared = known.sum(-1)
    rms = np.sqrt(np.minimum(squared, JOINT_CAP).sum(-1) / np.maximum(shared, 1))
    return np.where(shared >= MIN_JOINTS, rms, np.inf)


def _proposals(hands: ImageHands, rays: _Rays, expected: Sequence[ExpectedHand]) -> tuple[np.ndarray, np.ndarray]:
    """Joints (N, 21, 3) and covariances (N, 21, 3, 3) where hands may be."""
    joints = [hand.joints for hand in expected]
    covariance = [hand.covariance for hand in expected]
    pairs = [pair for pair in combinations(range(len(hands)), 2) if hands.view[pair[0]] != hands.view[pair[1]]]
    if pairs:
        points, spread = _triangulate(rays, pairs)
        joints += list(points)
        covariance += list(spread)
    if not joints:
        return np.zeros((0, 21, 3)), np.zeros((0, 21, 3, 3))
    plausible = _plausible(np.stack(joints))
    return np.stack(joints)[plausible], np.stack(covariance)[plausible]


def _rays(hands: ImageHands, rig: CameraRig) -> _Rays:
    px = np.full((len(rig), len(hands), JOINT_COUNT, 2), np.nan)
    px[hands.view, np.arange(len(hands))] = hands.joints_px
    xy, jacobian = rig.normalise_with_jacobian(torch.from_numpy(px).flatten(1, 2))
    own = torch.from_numpy(hands.view), torch.arange(len(hands))
    xy, jacobian = (part.unflatten(1, (len(hands), JOINT_COUNT))[own] for part in (xy, jacobian))
    spread = covariance_from_pixels(torch.from_numpy(hands.variance_px2), jacobian)
    return _Rays(xy, spread, rig.camera_from_world[hands.view])


def _triangulate(rays: _Rays, groups: Sequence[tuple[int, ...]], refine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Joints (G, 21, 3) and covariances (G, 21, 3, 3) of G groups of as many hands in images of different cameras."""
    xy, spread, poses = (part[torch.tensor(groups)] for part in rays)
    first = triangulate_dlt(xy, poses)
    points = triangulate_dlt(xy, poses, inverse_variance_weights(first.points, spread, poses)).points
    if refine:
        refined = refine_reprojection(points, xy, spread, poses)
        return refined.points.numpy(), refined.covariance.numpy()
    return points.numpy(), propagate_covariance(points, spread, poses).numpy()


def _plausible(joints: np.ndarray) -> np.ndarray:
    """Which of N hands (N, 21, 3) have enough joints and, where it is known, a palm of possible length."""
    palm = np.linalg.norm(joints[:, MIDDLE_MCP] - joints[:, WRIST], axis=1)
    possible = ~np.isfinite(palm) | ((palm > PALM_RANGE[0]) & (palm < PALM_RANGE[1]))
    return possible & (np.isfinite(joints).all(-1).sum(1) >= MIN_JOINTS)


def _supporters(view: np.ndarray, distance: np.ndarray) -> list[tuple[int, ...]]:
    """For each of N proposals, the nearest hand of every view that is inside the gate.

    view: (H,).  distance: (N, H).
    """
    supporters: list[list[int]] = [[] for _ in distance]
    for index in np.unique(view) if len(distance) else ():
        own = np.flatnonzero(view == index)
        nearest = own[distance[:, own].argmin(1)]
        for row in np.flatnonzero(distance[np.arange(len(distance)), nearest] < GATE):
            supporters[row].append(int(nearest[row]))
    return list(map(tuple, supporters))


def _scored(hands: ImageHands, rig: CameraRig, rays: _Rays,
            groups: list[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[AssociatedHand, float] | None]:
    """The hand and the score of each group of hands in images; None for one that does not agree with itself."""
    scored: dict[tuple[int, ...], tuple[AssociatedHand, float] | None] = dict.fromkeys(groups)
    for size in {len(group) for group in groups}:
        same = [group for group in groups if len(group) == size]
        joints, covariance = _triangulate(rays, same, refine=True)
        gaps = np.take_along_axis(distances(hands, rig, joints, covariance), np.array(same), 1)
        good = _plausible(joints) & (gaps < GATE).all(1)
        for row in np.flatnonzero(good):
            group, right = same[row], hands.right[list(same[row])]
            score = _score(gaps[row], right)
            if score > 0:
                probability = float(1 / (1 + np.exp(-_log_odds(right).sum())))
                members = {int(hands.view[member]): member for member in group}
                scored[group] = AssociatedHand(members, joints[row], covariance[row], probability), score
    return scored


def _score(distance: np.ndarray, right: np.ndarray) -> float:
    """Log-likelihood ratio against hands that have nothing to do with each other, of members at `distance` (M,) whose
    probabilities of being a right hand are `right` (M,)."""
    odds = _log_odds(right)
    # That all are right, or all left, against each being what it most likely is.
    agree = max(-np.logaddexp(0, -odds).sum(), -np.logaddexp(0, odds).sum()) + np.logaddexp(0, -np.abs(odds)).sum()
    return float((GATE ** 2 - distance ** 2).sum() / 2 + agree)


def _log_odds(right: np.ndarray | float) -> np.ndarray:
    right = np.clip(right, 1 - HANDEDNESS_LIMIT, HANDEDNESS_LIMIT)
    return np.log(right / (1 - right))


def _apart(hand: AssociatedHand, other: AssociatedHand) -> float:
    """Median distance of their joints, metres; infinite where they share none."""
    gap = np.linalg.norm(hand.joints - other.joints, axis=1)
    return float(np.nanmedian(gap)) if np.isfinite(gap).any() else np.inf


def _identified(found: list[AssociatedHand], expected: Sequence[ExpectedHand]) -> list[AssociatedHand]:
    """The hands found, each with the followed hand that it is."""
    if not found or not expected:
        return found
    cost = np.array([[_track_cost(hand, other) for other in expected] for hand in found])
    rows, columns = linear_sum_assignment(cost)
    owner = {row: column for row, column in zip(rows, columns) if cost[row, column] < IMPOSSIBLE}
    return [AssociatedHand(hand.members, hand.joints, hand.covariance, hand.right, owner.get(row))
            for row, hand in enumerate(found)]


def _track_cost(hand: AssociatedHand, expected: ExpectedHand) -> float:
    """−2 times the log-likelihood, up to a constant, that a hand is an expected one, by its place, the mean over its
    joints, which move together, and by its handedness; IMPOSSIBLE beyond the gate."""
    spread = hand.covariance * SIGMA_FACTOR ** 2 + expected.covariance
    change = hand.joints - expected.joints
    known = np.isfinite(change).all(1) & np.isfinite(spread).all((1, 2))
    if known.sum() < MIN_JOINTS:
        return IMPOSSIBLE
    spread, change = spread[known], change[known]
    squared = (change * np.linalg.solve(spread, change[..., None])[..., 0]).sum(1).mean()
    if squared > 3 * TRACK_GATE ** 2:
        return IMPOSSIBLE
    # What makes a view take a right hand for a left one, a posture or the other hand, others often see as well.
    right = np.clip(hand.right, 1 - HANDEDNESS_LIMIT, HANDEDNESS_LIMIT)
    same = right * expected.right + (1 - right) * (1 - expected.right)
    return float(squared + np.linalg.slogdet(spread)[1].mean() - 2 * np.log(same))
