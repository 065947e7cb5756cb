"""Each view's 2D joints against what the others, without it, say of them: the one check that needs no truth.

The method's fusing side is run anew for the other views, so that what is tested, and calibrated, is what would be
published without that camera.

What it cannot see: an error that all views share. A joint that every view takes to be 5 mm too far out moves with all
of them, and the left-out view agrees. Errors of views that point the same way make the left-out error smaller than the
error of the joint, so that a factor found here is a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from hand_unc_ros.estimation.covariance_map import CovarianceMap
from hand_unc_ros.estimation.types import HandReadings
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.contract import HandPrior, Method, NotFused, Triangulation
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.methods.view_gaussians import ViewGaussians

# Numbers of other views that calibration tries, besides all of them.
SIZES = (2, 3, 4, 6, 8, 12)


class Answer(NamedTuple):
    """Joints (21, 3) metres, world, their covariance (21, 3, 3) m² before any covariance map, and how many views gave
    each (21,); NaN and 0 where unknown."""

    joints: np.ndarray
    covariance: np.ndarray
    views: np.ndarray


class LeftOut(NamedTuple):
    """R checks of one view by others, or of many sets. error_px: (R, 21, 2).  own_px2: (R, 21, 2), the variance that
    the view claims.  fused_px2: (R, 21, 2, 2), the others' covariance, projected.  covariance: (R, 21, 3, 3) and views:
    (R, 21), of the others.  camera: (R,) index of the view.  NaN and 0 where a check says nothing."""

    error_px: np.ndarray
    own_px2: np.ndarray
    fused_px2: np.ndarray
    covariance: np.ndarray
    views: np.ndarray
    camera: np.ndarray

    def distance2(self, factors: np.ndarray | float = 1.0, own: np.ndarray | float = 1.0) -> np.ndarray:
        """Squared Mahalanobis distances (R, 21) of the errors under own · S + factors · J Σ Jᵀ; both of (R, 21) or one
        number."""
        return mahalanobis_squared(self.error_px, self.total_px2(factors, own))

    def total_px2(self, factors: np.ndarray | float = 1.0, own: np.ndarray | float = 1.0) -> np.ndarray:
        """own · S + factors · J Σ Jᵀ (R, 21, 2, 2), px²; both of (R, 21) or one number."""
        factors, own = (np.broadcast_to(np.asarray(value, float), self.views.shape) for value in (factors, own))
        covariance = factors[..., None, None] * self.fused_px2
        return covariance + (own[..., None] * self.own_px2)[..., None] * np.eye(2)

    def published_factors(self, covariance_map: CovarianceMap | None) -> np.ndarray:
        """The factors (R, 21) that a covariance map puts on the others' covariances; 1 without one.

        The floor of half a millimetre, and what the rig's own uncertainty adds, are not in the comparison: it says a
        little too often that the covariance is too small.
        """
        if covariance_map is None:
            return np.ones(self.views.shape)
        sigma = np.sqrt(np.trace(self.covariance, axis1=-2, axis2=-1) / 3)
        return covariance_map.factors(self.views, np.nan_to_num(sigma))

    def as_errors(self) -> np.ndarray:
        """3D errors (R, 21, 3) metres that are as surprising under `covariance` as the errors in pixels are.

        The model is one factor on the variances of all views, the left-out one's too, and so on Σ and on the whole
        S + J Σ Jᵀ: the 2D distances then scale as the 3D ones do.  They are moved from two degrees of freedom to three
        so that the quantiles of 95 % meet.
        """
        stretch = chi2_quantile(0.95, 3) / chi2_quantile(0.95, 2)
        length = np.sqrt(stretch * self.distance2())
        known = np.isfinite(length) & np.isfinite(self.covariance).all((-2, -1))
        root = np.linalg.cholesky(np.where(known[..., None, None], self.covariance, np.eye(3)))
        return np.where(known[..., None], length[..., None] * root[..., 0], np.nan)


# Which (V,) views may be used → the hand that they alone give.
Answers = Callable[[np.ndarray], Answer]


def answers_of(method: Method, readings: HandReadings, rig: CameraRig) -> Answers:
    """Those of a method that reads one set at a time, for the hand of `readings`; `rig` has its cameras."""
    prior = readings.prior or HandPrior(readings.handedness)

    def answer(chosen: np.ndarray) -> Answer:
        views = {name: replace(reading, valid=reading.valid & used)
                 for used, (name, reading) in zip(chosen, readings.views.items())}
        fused = method.fuse([views], rig, prior)
        # A map is not put on hands whose refinement was declined, so none is fitted to them or judged by them.
        if isinstance(fused, NotFused) or fused.declined:
            return Answer(np.full((21, 3), np.nan), np.full((21, 3, 3), np.nan), np.zeros(21, int))
        return Answer(fused.joints, joint_blocks(fused.covariance), _counts(fused.triangulation))

    return answer


def geometric_answers(views: ViewGaussians, rig: CameraRig, triangulation: str = 'refined') -> Answers:
    """Those of triangulation alone."""
    def answer(chosen: np.ndarray) -> Answer:
        part = replace(views, valid=views.valid & chosen[:, None])
        found = fuse(part, rig, triangulation)
        return Answer(found.joints, found.covariance, _counts(found))

    return answer


def _counts(triangulation: Triangulation) -> np.ndarray:
    """How many views gave each joint (21,)."""
    return np.isfinite(triangulation.reprojection_px).sum(0) * triangulation.valid


def check(views: ViewGaussians, rig: CameraRig, answers: Answers, sizes: Sequence[int] | None = None) -> LeftOut | None:
    """Every view that has joints against the others that have some; None where there are fewer than three.

    answers: of the hand that `views` read.  sizes: the numbers of other views to check by, the next ones in a circle;
    None for all of them.
    """
    seeing = np.flatnonzero(views.valid.any(1))
    if len(seeing) < 3:
        return None
    rows: list[tuple] = []
    for place, view in enumerate(seeing):
        others = np.roll(seeing, -place)[1:]
        for size in sorted({min(size, len(others)) for size in sizes or (len(others),)}):
            chosen = np.zeros(len(views.cameras), bool)
            chosen[others[:size]] = True
            rows.append(_compared(views, rig, int(view), answers(chosen)))
    return LeftOut(*(np.array(part) for part in zip(*rows)))


def subsets(views: ViewGaussians) -> Iterator[np.ndarray]:
    """Masks (V,) of two, three … all views that have joints: of every size each circle's, as in `check`."""
    seeing = np.flatnonzero(views.valid.any(1))
    for size in sorted({size for size in (*SIZES, len(seeing)) if 2 <= size <= len(seeing)}):
        for place in range(len(seeing) if size < len(seeing) else 1):
            chosen = np.zeros(len(views.cameras), bool)
            chosen[np.roll(seeing, -place)[:size]] = True
            yield chosen


def _compared(views: ViewGaussians, rig: CameraRig, view: int, others: Answer) -> tuple:
    """The row of LeftOut of one view."""
    points = torch.from_numpy(np.ascontiguousarray(others.joints))
    jacobian = rig.projection_jacobian(points).numpy()[view]
    known = views.valid[view] & (others.views > 0)
    error = np.where(known[:, None], views.joints_px[view] - rig.project(points)[0].numpy()[view], np.nan)
    fused = jacobian @ others.covariance @ jacobian.swapaxes(-1, -2)
    return (error, np.where(known[:, None], views.variance_px2[view], np.nan), fused, others.covariance,
            np.where(known, others.views, 0), view)
