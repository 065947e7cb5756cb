"""What passes between the stages of the live pipeline. SI units; stamps in integer nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.hand.fitting import HandFit
from hand_unc_ros.hand.joints import JOINT_COUNT


@dataclass(frozen=True)
class View:
    """One camera's contribution to a frame set.

    image: (H, W, 3) uint8 RGB, read-only.  stamp_ns: this image's own capture stamp.
    """

    camera: Camera
    image: np.ndarray
    stamp_ns: int


class RigCache:
    """The cameras of a set's views as stacked tensors; kept, because the same ones come again and again."""

    def __init__(self) -> None:
        self._rigs: dict[tuple, CameraRig] = {}

    def of(self, views: dict[str, View]) -> CameraRig:
        key = tuple((name, id(view.camera)) for name, view in views.items())
        if key not in self._rigs:
            if len(self._rigs) > 64:
                self._rigs.clear()
            self._rigs[key] = CameraRig([view.camera for view in views.values()])
        return self._rigs[key]


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
        return tuple(name for name in self.expected if name not in self.views)


@dataclass(frozen=True)
class ViewEstimate:
    """2D joints of V views, in the pixels of the full, distorted images.

    cameras: V names.  joints_px: (V, 21, 2).  variance_px2: (V, 21, 2).  valid: (V, 21) bool.
    score: (V,) in [0, 1], how sure the view is that it shows a hand.
    Entries with valid False are NaN.
    boxes_px: (V, 4) centre x, centre y, side, roll (rad) of the crop that was used, in the pixels of the same camera
    without its lens distortion; NaN where none.
    gate: (V, 21) JUMP-Hand's weights of the views, each joint's sum to 1, or to 0 where no view was fused; None before
    fusion.
    """

    cameras: tuple[str, ...]
    joints_px: np.ndarray
    variance_px2: np.ndarray
    valid: np.ndarray
    score: np.ndarray
    boxes_px: np.ndarray
    gate: np.ndarray | None = None


@dataclass(frozen=True)
class Refinement:
    """What a network makes of fused joints. joints: (21, 3) and vertices: (778, 3) metres, world.  gate: (V, 21).
    covariance: (63, 63) m² of these joints, where a head has learned their errors."""

    joints: np.ndarray
    vertices: np.ndarray
    gate: np.ndarray
    covariance: np.ndarray | None = None


@dataclass(frozen=True)
class ViewReport:
    """How one camera has agreed with the others over the last seconds; NaN where nothing is known.

    innovation: joint group → squared innovation (against the fusion of the other views) per degree of freedom, 1 where
    the variances that the views claim hold.  shift_px: length of the shift of all its joints that fits best.
    strength: that shift in claimed σ.  suspects: cameras of which one has moved, this among them; empty where this
    one is good.  left_out: share of sets from which its view was left out for disagreeing with the others.
    disagrees: whether that is too many.
    """

    innovation: dict[str, float]
    shift_px: float
    strength: float
    suspects: tuple[str, ...]
    left_out: float
    disagrees: bool


@dataclass(frozen=True)
class HandEstimate:
    """A fused hand in the world frame.

    joints: (21, 3) metres, NaN where invalid.  covariance: (63, 63) m², joint-major
    (x0 y0 z0 x1 …), symmetric positive semi-definite; rows and columns of invalid joints are NaN.
    valid: (21,) bool.  velocity: (21, 3) m/s or None.  vertices: (778, 3) metres or None.
    view_weights: (V, 21) for the cameras in `cameras`; each column sums to 1, or to 0 where the
    joint is invalid or only predicted by the filter.  view_used: (V,) bool.  covariance_calibrated: whether a map
    fitted on held-out data was applied.  reprojection_px: (V, 21) residual norms, NaN where unused.  fit: the hand
    model's parameters that give the vertices, where one is fitted.  view_reports: one for each of `cameras`, empty
    where their health is not watched.
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
    vertices: np.ndarray | None = None
    vertex_variance: np.ndarray | None = None
    fit: HandFit | None = None
    view_reports: tuple[ViewReport, ...] = ()
    track_id: int = 0
    stage_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NoHand:
    """Why a frame set gave no hand, in words fit for diagnostics."""

    stamp_ns: int
    reason: str
    stage_ms: dict[str, float] = field(default_factory=dict)


def joint_blocks(covariance: np.ndarray) -> np.ndarray:
    """The 3×3 diagonal blocks (..., 21, 3, 3) of joint-major covariances (..., 63, 63)."""
    parts = covariance.reshape(*covariance.shape[:-2], JOINT_COUNT, 3, JOINT_COUNT, 3)
    return np.einsum('...jajb->...jab', parts)


def block_diagonal(blocks: np.ndarray) -> np.ndarray:
    """(63, 63) from (21, 3, 3), symmetrised; rows and columns of a NaN block are NaN."""
    full = np.zeros((JOINT_COUNT, 3, JOINT_COUNT, 3))
    joint = np.arange(JOINT_COUNT)
    full[joint, :, joint, :] = (blocks + np.swapaxes(blocks, 1, 2)) / 2
    lost = ~np.isfinite(blocks).all(axis=(1, 2))
    full[lost] = np.nan
    full[:, :, lost] = np.nan
    return full.reshape(3 * JOINT_COUNT, 3 * JOINT_COUNT)
