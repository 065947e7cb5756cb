"""The published covariance in its stages: propagated or learned, map, filter, floor, error of the camera calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hand_unc_ros.estimation.covariance_map import FLOOR, CovarianceMap
from hand_unc_ros.estimation.filter import Motion
from hand_unc_ros.estimation.tracks import Track
from hand_unc_ros.geometry.calibration_uncertainty import calibration_covariance
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.measurement_range import is_estimated
from hand_unc_ros.hand.covariance_blocks import block_diagonal, joint_blocks
from hand_unc_ros.methods.contract import Fused


@dataclass(frozen=True)
class Published:
    """joints: (21, 3) metres and velocity: (21, 3) m/s, None without the filter; covariance: (63, 63) m². NaN where
    unknown.  calibrated: whether a covariance map that was fitted to such joints was applied.  motion: the filter's.
    """

    joints: np.ndarray
    velocity: np.ndarray | None
    covariance: np.ndarray
    calibrated: bool
    motion: Motion | None = None


@dataclass(frozen=True)
class CovarianceStages:
    """covariance_map: fitted on held-out data, None to go without.  filtered: let the track's filter smooth the
    joints."""

    covariance_map: CovarianceMap | None = None
    filtered: bool = False

    def publish(self, track: Track, stamp_ns: int, fused: Fused, rig: CameraRig, variance_px2: np.ndarray) -> Published:
        """What a fused hand is published as; moves the filters of `track` on.

        A joint whose standard deviation exceeds MAX_SIGMA in some direction, at any stage, is unknown.  The map is left
        out where the method declined to refine the joints; the filter's output needs factors of its own.
        rig: the cameras of the V views that were fused.  variance_px2: (V, 21, 2) of their 2D joints.
        """
        fitted = None if fused.declined else self.covariance_map
        triangulation = fused.triangulation
        contributes = np.isfinite(triangulation.reprojection_px)
        views = contributes.sum(axis=0)
        joints, velocity, covariance, motion = fused.joints, None, fused.covariance, None
        track.follower.update(stamp_ns, joints, block_diagonal(triangulation.covariance) + FLOOR ** 2 * np.eye(63))
        if fitted is not None:
            covariance = fitted.apply(covariance, views)
        joints, covariance = estimated(joints, covariance)
        if self.filtered:
            smooth = track.smoother.update(stamp_ns, joints, covariance)
            joints, velocity, covariance, motion = smooth.joints, smooth.velocity, smooth.covariance, smooth.motion
            if fitted is not None:
                covariance = fitted.apply_filtered(covariance, views)
        # These errors stay as they are from frame to frame, so that no filter lessens them.
        covariance = covariance + FLOOR ** 2 * np.eye(63)
        of_cameras = calibration_covariance(triangulation.joints, triangulation.propagated, rig, contributes,
                                            variance_px2, joints)
        joints, covariance = estimated(joints, covariance if of_cameras is None else covariance + of_cameras)
        if velocity is not None:
            velocity = np.where(np.isfinite(joints), velocity, np.nan)
        calibrated = fitted is not None and (not self.filtered or bool(fitted.filtered))
        return Published(joints, velocity, covariance, calibrated, motion)


def estimated(joints: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (21, 3) metres and their covariance (63, 63) m² within the range of geometry.measurement_range; NaN where
    a joint is beyond it, its rows and columns too."""
    known = is_estimated(joints, joint_blocks(covariance))
    if known.all():
        return joints, covariance
    rows = np.repeat(known, 3)
    return np.where(known[:, None], joints, np.nan), np.where(rows[:, None] & rows, covariance, np.nan)
