"""What passes into and out of the live pipeline. SI units; stamps in integer nanoseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hand_unc_ros.methods.contract import HandPrior, View, ViewReading
from hand_unc_ros.methods.view_gaussians import ViewGaussians, stack

if TYPE_CHECKING:
    from hand_unc_ros.estimation.filter import Motion
    from hand_unc_ros.hand.fitting import HandFit


@dataclass(frozen=True)
class FrameSet:
    """Views that came in time, one per camera; a missing view is absent.

    stamp_ns: capture stamp of the set.  expected: names of all cameras of the rig.
    """

    stamp_ns: int
    views: dict[str, View]
    expected: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the expected cameras without a view."""
        return tuple(name for name in self.expected if name not in self.views)


@dataclass(frozen=True)
class HandReadings:
    """The readings of one hand by the cameras of a set.

    track_id: of the hand, 0 where they gave none.  views: by camera, in the order of the set, at the time of the set.
    seen: the same as each image shows the hand, at its own time.
    gate: (V, 21) weights of the views, each joint's sum to 1, or to 0 where no view was used; None where they gave no
    hand.  prior: what was known of the hand before; None where they gave no hand.
    """

    track_id: int
    handedness: str
    views: Mapping[str, ViewReading]
    seen: Mapping[str, ViewReading]
    gate: np.ndarray | None = None
    prior: HandPrior | None = None

    @property
    def gaussians(self) -> ViewGaussians:
        """The readings, stacked."""
        return stack(self.views.values())


@dataclass(frozen=True)
class ViewReport:
    """How one camera has agreed with the others over the last seconds; NaN where nothing is known.

    innovation: joint group → squared innovation (against the fusion of the other views) per degree of freedom, 1 where
    the variances that the views claim hold.  shift_px: length of the shift of all its joints that fits best.
    strength: that shift in claimed σ.  suspects: cameras of which one has moved, this among them; empty where this
    one is good.  left_out: share of sets from which its view was left out for disagreeing with the others.
    disagrees: whether that is too many.  delay_s: how much later its images are than their stamps say, by the motion of
    the hand; negative where they are earlier.  late: cameras of which one's stamps are wrong by that, this among them;
    empty where this one is good.
    """

    innovation: dict[str, float]
    shift_px: float
    strength: float
    suspects: tuple[str, ...]
    left_out: float
    disagrees: bool
    delay_s: float = float('nan')
    late: tuple[str, ...] = ()


@dataclass(frozen=True)
class HandEstimate:
    """A fused hand in the world frame.

    joints: (21, 3) metres, NaN where invalid.  covariance: (63, 63) m², joint-major
    (x0 y0 z0 x1 …), symmetric positive semi-definite; rows and columns of invalid joints are NaN.
    valid: (21,) bool.  velocity: (21, 3) m/s and motion: its covariance, or None without the filter.
    vertices: (N, 3) metres or None.  vertex_colours: (N, 3) uint8 sRGB of them, or None.
    view_weights: (V, 21) for the cameras in `cameras`; each column sums to 1, or to 0 where the
    joint is invalid or only predicted by the filter.  view_used: (V,) bool, all False with a score of 0 for a hand that
    is only expected there (see `carried`).  covariance_calibrated: whether a map fitted on held-out data was applied.
    reprojection_px: (V, 21) residual norms, NaN where unused.  fit: the hand
    model's parameters that give the vertices, where one is fitted.  track_id: stays the same while the hand is
    followed.
    """

    stamp_ns: int
    handedness: str
    score: float
    joints: np.ndarray
    covariance: np.ndarray
    valid: np.ndarray
    cameras: tuple[str, ...]
    view_used: np.ndarray
    view_weights: np.ndarray
    reprojection_px: np.ndarray
    covariance_calibrated: bool = False
    velocity: np.ndarray | None = None
    motion: Motion | None = None
    vertices: np.ndarray | None = None
    vertex_variance: np.ndarray | None = None
    vertex_colours: np.ndarray | None = None
    fit: HandFit | None = None
    track_id: int = 0


@dataclass(frozen=True)
class FrameResult:
    """Everything that the estimator makes of a frame set.

    hands: those that were found, none, one or more.  readings: of each hand that was looked for, found or not; empty
    where the views were too few to be read.  reasons: why hands are not there, in words fit for diagnostics.
    view_reports: one for each camera of the rig, empty where their health is not watched and without a hand.
    stage_ms: stage → milliseconds, over all hands.
    """

    stamp_ns: int
    hands: tuple[HandEstimate, ...] = ()
    readings: tuple[HandReadings, ...] = ()
    reasons: tuple[str, ...] = ()
    view_reports: tuple[ViewReport, ...] = ()
    stage_ms: Mapping[str, float] = field(default_factory=dict)

    def readings_of(self, hand: HandEstimate) -> HandReadings:
        """The readings that one of `hands` was made of."""
        return next(readings for readings in self.readings if readings.track_id == hand.track_id)
