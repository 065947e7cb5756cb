"""A hand model's pose, shape and place fitted to estimated joints, weighted by their covariance.

An analytic start (the palm by Kabsch, then the fingers bone by bone), then damped Gauss-Newton steps on

    |W (x - model)|^2 + prior on the joints' angles + prior on the shape,    W^T W = inverse covariance.

What joints leave open the priors decide.  A turn about a bone does not move the joint at its end, and what it does to
the next bone an abduction of the next joint does too: each joint is therefore described by its flexion,
abduction and twist about the anatomical axes of `limits.FlexionAxes`, and the turns that it does not have in
anatomy (twist everywhere but at the thumb's base, abduction of hinges) are held near zero.  What a fit says of
them is the prior's word, not a measurement, unless vertices are given too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dtrtri
from scipy.spatial.transform import Rotation

from hand_unc_ros.errors import HandModelError
from hand_unc_ros.geometry.alignment import best_rotation
from hand_unc_ros.hand.joints import FINGERS, JOINT_COUNT, ORDERS, PARENTS
from hand_unc_ros.hand.limits import ANGLE_LIMITS, ANGLE_PLACES, FlexionAxes
from hand_unc_ros.hand.model import check_arrays, hand_arrays, joint_rows
from hand_unc_ros.hand.skinned_points import JOINTS16, PlacedPoints, SkinnedPoints
from hand_unc_ros.hand.skinning import skinning_to_joints, vertex_variance

# Added to every joint's standard deviation: no model's bones meet in a person's joints.
MODEL_SIGMA_M = 0.001
# The wrist and the knuckles move together: they give the turn of the palm.
PALM = (0, 1, 5, 9, 13, 17)
# Deviation from zero of the turns that anatomy does not give a joint.
STIFF_SIGMA_RAD = np.deg2rad(5.0)
# How far a track's shape may go from one hand to the next, in the model's standard deviations.
SHAPE_STEP_SIGMA = 0.1
# More change the joints by less than a tenth of a millimetre on average, also under 12 mm of noise.
MAX_STEPS = 8
# The steps end with one that promises to lower the sum of squared deviations by less: it moves no parameter by more
# than a tenth of its own deviation.
_TOLERANCE = 1e-2
# So many vertices, about, stand for the surface: every 8th of MANO's. Together they weigh as much as 21 points.
_SURFACE_SAMPLE = 97


@dataclass(frozen=True)
class HandFit:
    """A fitted hand, in the frame of the joints.

    pose: (48,) rad, absolute axis-angles as `HandModel` takes them.  shape: (10,).  translation: (3,) metres.
    vertices (N, 3), joints (21, 3) in public order: metres, all finite.
    residual_m: root mean squared distance of the joints used, unweighted.
    whitened_residual: root mean square of their residuals in standard deviations; below 1 where the
    covariance is true, for the parameters take up part of the noise.  iterations: steps tried.
    """

    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray
    side: str
    vertices: np.ndarray
    joints: np.ndarray
    residual_m: float
    whitened_residual: float
    iterations: int


class _State(NamedTuple):
    """orientation (3, 3), angles (15, 3) of joints by flexion, abduction and twist, shape (10,),
    translation (3,)."""

    orientation: np.ndarray
    angles: np.ndarray
    shape: np.ndarray
    translation: np.ndarray

    def moved(self, step: np.ndarray) -> _State:
        """step: (61,): turn in the hand's own frame, angles, shape, translation."""
        return _State(self.orientation @ Rotation.from_rotvec(step[:3]).as_matrix(),
                      self.angles + step[3:48].reshape(15, 3), self.shape + step[48:58],
                      self.translation + step[58:])


class _Prior(NamedTuple):
    """Independent normal distributions of angles and shape: mean and weight (1 / deviation), (55,) each."""

    mean: np.ndarray
    weight: np.ndarray

    def residuals(self, state: _State) -> np.ndarray:
        return (np.concatenate([state.angles.ravel(), state.shape]) - self.mean) * self.weight


class _Target(NamedTuple):
    """points: (N, 3) to meet, joints first, then vertices; of the model's points `rows`.

    whitening: (3J, 3J), of the J joints: its transpose times itself is their inverse covariance.
    weights: (3 (N - J),) of the vertices' coordinates, 1 / deviation.
    """

    model: SkinnedPoints
    rows: np.ndarray
    points: np.ndarray
    whitening: np.ndarray
    weights: np.ndarray

    def residuals(self, placed: PlacedPoints) -> np.ndarray:
        points = np.concatenate([placed.joints, placed.points])[self.rows]
        return self._whitened((points - self.points).reshape(-1, 1))[:, 0]

    def slopes(self, turns: np.ndarray, axes: np.ndarray, placed: PlacedPoints) -> np.ndarray:
        """Of the residuals, (3N, 61)."""
        return self._whitened(self.model.jacobian(turns, axes, placed)[self.rows].reshape(3 * len(self.rows), -1))

    def _whitened(self, rows: np.ndarray) -> np.ndarray:
        count = len(self.whitening)
        return np.concatenate([self.whitening @ rows[:count], self.weights[:, None] * rows[count:]])


class HandFitter:
    """name: 'stand-in', 'anny' or 'mano'.  side.  faces: (F, 3) vertex indices."""

    def __init__(self, arrays: dict[str, np.ndarray], side: str, name: str) -> None:
        """Raises HandModelError for bad arrays or side."""
        check_arrays(arrays, name)
        if side not in ('right', 'left'):
            raise HandModelError(f"side of the hand model must be 'right' or 'left', got {side!r}")
        self.name, self.side = name, side
        self.faces = np.asarray(arrays['f'], dtype=np.int64)
        count = len(arrays['v_template'])
        self._skinning = skinning_to_joints(arrays['weights'])
        arrays, points, self._order = joint_rows(arrays)
        self._sample = np.arange(0, count, round(count / _SURFACE_SAMPLE))
        # The points of joints come first, as `_Target` wants them.
        self._surface = SkinnedPoints(arrays, [*points, *range(count)])
        self._skeleton = SkinnedPoints(arrays, points)
        self._sampled = SkinnedPoints(arrays, [*points, *self._sample])
        self._point_count = len(points)
        self._rest, self._rest_shapes = (part[self._order] for part in self._skeleton.at_rest())
        axes = FlexionAxes.from_rest_joints(self._rest, side)
        self._axes = np.stack([axes.flexion, axes.abduction, axes.twist], axis=1)
        self._angle_mean, self._angle_sigma = _angle_prior()

    def fit(self, joints: np.ndarray, covariance: np.ndarray, valid: np.ndarray | None = None,
            previous: HandFit | None = None, vertices: np.ndarray | None = None,
            variance: np.ndarray | None = None) -> HandFit | None:
        """The hand at `joints` (21, 3), public order, metres; None when the palm is not known.

        The palm is known when the wrist and three knuckles are.  Joints that are not `valid` (21,), and those
        whose place or covariance is not finite, are not used; where a finger lacks joints the prior bends it.

        covariance: (21, 3, 3) or (63, 63) m².
        previous: an earlier fit of the same hand; its shape takes the place of the mean hand's in the prior,
        with `SHAPE_STEP_SIGMA`.  None at a track's start.
        vertices, variance: (N, 3) metres and m², both or neither: a surface to meet as well; rows that are
        not finite are not used.
        Raises ValueError for a wrong shape or a covariance that is not positive semi-definite.
        """
        joints, covariance = np.asarray(joints, np.float64), _full_covariance(covariance)
        if joints.shape != (JOINT_COUNT, 3):
            raise ValueError(f'expected joints (21, 3), got {joints.shape}')
        if (vertices is None) != (variance is None):
            raise ValueError('vertices and their variance go together')
        known = np.isfinite(joints).all(1) & np.isfinite(np.diagonal(covariance)).reshape(-1, 3).all(1)
        known &= True if valid is None else np.asarray(valid, bool)
        palm = _known_palm(known)
        if palm is None:
            return None
        target = self._target(joints, covariance, known, vertices, variance)
        shape_mean, shape_weight = (np.zeros(10), 1.0) if previous is None else (
            previous.shape, 1 / SHAPE_STEP_SIGMA)
        prior = _Prior(np.concatenate([self._angle_mean.ravel(), shape_mean]),
                       np.concatenate([1 / self._angle_sigma.ravel(), np.full(10, shape_weight)]))
        state, iterations = self._refine(self._start(joints, known, palm, shape_mean), target, prior)
        return self._answer(state, joints, known, target, iterations)

    def vertex_variance(self, covariance: np.ndarray) -> np.ndarray:
        """(N, 3) m²: the skinning-weighted mean of the joints' variances, NaN where a joint it needs is.

        covariance: (63, 63) m².  A tip's own uncertainty counts for the bone it ends, half and half with
        that bone's joint.
        """
        return vertex_variance(self._skinning, covariance)

    def _target(self, joints: np.ndarray, covariance: np.ndarray, known: np.ndarray,
                vertices: np.ndarray | None, variance: np.ndarray | None) -> _Target:
        rows = np.array(self._order)[known]
        whitening = _whitening(covariance, known)
        if vertices is None:
            return _Target(self._skeleton, rows, joints[known], whitening, np.empty(0))
        vertices, variance = np.asarray(vertices, np.float64), np.asarray(variance, np.float64)
        count = len(self._skinning)
        if vertices.shape != (count, 3) or variance.shape != vertices.shape:
            raise ValueError(f'expected vertices and variance ({count}, 3), '
                             f'got {vertices.shape}, {variance.shape}')
        seen = np.isfinite(vertices + variance)[self._sample].all(1)
        picked = self._sample[seen]
        spread = (variance[picked] + MODEL_SIGMA_M ** 2) * (len(self._sample) / JOINT_COUNT)
        first = JOINTS16 + self._point_count
        return _Target(self._sampled, np.concatenate([rows, first + np.flatnonzero(seen)]),
                       np.concatenate([joints[known], vertices[picked]]), whitening, spread.ravel() ** -0.5)

    def _start(self, joints: np.ndarray, known: np.ndarray, palm: list[int], shape: np.ndarray) -> _State:
        """The palm by Kabsch, then each bone by the flexion and abduction that point it at its end.

        Over unknown joints to a known one the finger bends towards the palm, two sides of a triangle.
        """
        rest = self._rest + self._rest_shapes @ shape
        orientation = best_rotation(rest[palm], joints[palm])
        translation = (joints[palm] - (rest[palm] - rest[0]) @ orientation.T).mean(axis=0) - rest[0]
        angles = self._angle_mean.copy()
        places = (rest[_BASES] - rest[0]) @ orientation.T + rest[0] + translation
        world = np.broadcast_to(orientation, (5, 3, 3))
        bones = rest - rest[list(PARENTS)]
        lengths = np.linalg.norm(bones, axis=1)
        for step in range(3):
            here, public = _POSE_BASES + step, _BASES + step
            places = np.where(known[public, None], joints[public], places)
            # The next known joint of each finger, and how much finger lies between.
            ahead = known[public[:, None] + np.arange(1, 4 - step)]
            skipped = ahead.argmax(axis=1)
            wanted = joints[public + 1 + skipped] - places
            wanted = (world.swapaxes(1, 2) @ wanted[:, :, None])[..., 0]
            first = lengths[public + 1]
            rest_of_it = np.array([lengths[j + 2:j + 2 + n].sum() for j, n in zip(public, skipped)])
            apart = np.maximum(np.linalg.norm(wanted, axis=1), 1e-9)
            cosine = (first ** 2 + apart ** 2 - rest_of_it ** 2) / (2 * first * apart)
            # Across the bone and the abduction axis lies the flexion axis, up to its sign.
            axes, bone = self._axes[here], bones[public + 1] / first[:, None]
            sideways = np.einsum('ni,ni->n', np.cross(axes[:, 1], bone), axes[:, 0])
            along, raised, across = (np.einsum('ni,ni->n', wanted, v) for v in (
                bone, np.cross(axes[:, 0], bone), axes[:, 0]))
            flexion = np.arctan2(raised, along) - np.arccos(np.clip(cosine, -1.0, 1.0))
            abduction = np.arctan2(across * sideways, np.hypot(raised, along))
            # Noise must not start a finger from a turn that no joint makes: the steps may not come back.
            mean, slack = self._angle_mean[here, :2], self._angle_sigma[here, :2] + np.deg2rad(20)
            pointed = np.clip(np.stack([flexion, abduction], axis=1), mean - slack, mean + slack)
            angles[here, :2] = np.where(ahead.any(axis=1)[:, None], pointed, mean)
            world = world @ self._turns(angles)[0][here + 1]
            places = places + (world @ bones[public + 1][:, :, None])[..., 0]
        return _State(orientation, angles, shape, translation)

    def _refine(self, state: _State, target: _Target, prior: _Prior) -> tuple[_State, int]:
        """Levenberg-Marquardt; returns the state and the number of steps tried."""
        damping, iterations = 1e-4, 0
        turns, axes, placed, residuals, cost = self._evaluate(state, target, prior)
        while iterations < MAX_STEPS:
            slopes = target.slopes(turns, axes, placed)
            gradient = slopes.T @ residuals
            hessian = slopes.T @ slopes
            gradient[3:58] += prior.weight * prior.residuals(state)
            diagonal = np.einsum('ii->i', hessian)
            diagonal[3:58] += prior.weight ** 2
            undamped = diagonal.copy()
            accepted = False
            while not accepted and iterations < MAX_STEPS:
                iterations += 1
                diagonal[:] = undamped * (1 + damping)
                step = -cho_solve(cho_factor(hessian, check_finite=False), gradient, check_finite=False)
                promised = -(gradient @ step)
                moved = state.moved(step)
                values = self._evaluate(moved, target, prior)
                accepted = values[-1] < cost
                damping = damping / 10 if accepted else damping * 10
                if not accepted and promised < _TOLERANCE:
                    return state, iterations
            if not accepted:
                break
            state = moved
            turns, axes, placed, residuals, cost = values
            if promised < _TOLERANCE:
                break
        return state, iterations

    def _evaluate(self, state: _State, target: _Target, prior: _Prior,
                  ) -> tuple[np.ndarray, np.ndarray, PlacedPoints, np.ndarray, float]:
        turns, axes = self._turns(state.angles)
        turns[0] = state.orientation
        placed = target.model.place(turns, state.shape, state.translation)
        residuals, off = target.residuals(placed), prior.residuals(state)
        return turns, axes, placed, residuals, float(residuals @ residuals + off @ off)

    def _turns(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turns (16, 3, 3), the wrist's the identity, and the axes of their small changes with the angles.

        Flexion first, abduction about the turned axis, twist about the bone, as `limits.pose_from_angles`.
        The axes (16, 3, 3) are what `SkinnedPoints.jacobian` takes.
        """
        parts = Rotation.from_rotvec((self._axes * angles[:, :, None]).reshape(45, 3)).as_matrix()
        flexion, abduction, twist = parts.reshape(15, 3, 3, 3).swapaxes(0, 1)
        turns, axes = np.empty((2, 16, 3, 3))
        turns[0] = axes[0] = np.eye(3)
        after = abduction @ twist
        turns[1:] = flexion @ after
        axes[1:, :, 0] = (self._axes[:, None, 0] @ after)[:, 0]
        axes[1:, :, 1] = (self._axes[:, None, 1] @ twist)[:, 0]
        axes[1:, :, 2] = self._axes[:, 2]
        return turns, axes

    def _answer(self, state: _State, joints: np.ndarray, known: np.ndarray, target: _Target,
                iterations: int) -> HandFit:
        turns = self._turns(state.angles)[0]
        turns[0] = state.orientation
        surface = self._surface.place(turns, state.shape, state.translation)
        points, vertices = np.split(surface.points, [self._point_count])
        placed = np.concatenate([surface.joints, points])[self._order]
        misses = (placed - joints)[known]
        whitened = target.whitening @ misses.ravel()
        return HandFit(
            pose=Rotation.from_matrix(turns).as_rotvec().ravel(), shape=state.shape,
            translation=state.translation, side=self.side, vertices=vertices, joints=placed,
            residual_m=float(np.sqrt((misses ** 2).sum(axis=1).mean())),
            whitened_residual=float(np.sqrt((whitened ** 2).mean())), iterations=iterations)


def load_hand_fitter(model: str, side: str) -> HandFitter:
    """model: 'stand-in', 'anny', or the path of an npz made by `hand-unc mano convert`. Raises HandModelError."""
    arrays, name = hand_arrays(model, side)
    return HandFitter(arrays, side, name)


# First joints of the fingers, thumb to little, in the public order and among the 15 of a pose.
_BASES = np.array([1 + 4 * finger for finger in range(len(FINGERS))])
_POSE_BASES = np.array(ORDERS['smplx'])[_BASES] - 1


def _known_palm(known: np.ndarray) -> list[int] | None:
    """The palm's joints among the `known` (21,) ones; None without the wrist and three more."""
    palm = [j for j in PALM if known[j]]
    return palm if known[0] and len(palm) >= 4 else None


def _angle_prior() -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation (15, 3) rad: the middle and half of an angle's anatomical range, stiff without one.

    Half the range as the deviation is weak: a uniform distribution over it has 0.58 of that.
    """
    mean, sigma = np.zeros((15, 3)), np.full((15, 3), STIFF_SIGMA_RAD)
    for place, (low, high) in zip(ANGLE_PLACES, ANGLE_LIMITS):
        mean[place], sigma[place] = (low + high) / 2, (high - low) / 2
    return mean, sigma


def _full_covariance(covariance: np.ndarray) -> np.ndarray:
    """(63, 63) from blocks (21, 3, 3) or itself."""
    covariance = np.asarray(covariance, np.float64)
    if covariance.shape == (3 * JOINT_COUNT,) * 2:
        return covariance
    if covariance.shape != (JOINT_COUNT, 3, 3):
        raise ValueError(f'expected a covariance (21, 3, 3) or (63, 63), got {covariance.shape}')
    full = np.zeros((JOINT_COUNT, 3, JOINT_COUNT, 3))
    full[np.arange(JOINT_COUNT), :, np.arange(JOINT_COUNT)] = covariance
    return full.reshape(3 * JOINT_COUNT, -1)


def _whitening(covariance: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(3N, 3N) lower triangular, of the N known joints: turns their errors into uncorrelated unit ones."""
    rows = np.repeat(known, 3)
    used = covariance[rows][:, rows] + MODEL_SIGMA_M ** 2 * np.eye(rows.sum())
    try:
        factor = np.linalg.cholesky(used)
    except np.linalg.LinAlgError as error:
        raise ValueError('the covariance of the joints is not positive semi-definite') from error
    # solve_triangular wakes OpenBLAS's threads for this, which costs 8 ms and more where cores are busy.
    return dtrtri(factor, lower=1)[0]
