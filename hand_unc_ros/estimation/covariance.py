"""The published covariance in its stages: propagated or learned, map, filter, floor, error of the camera calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hand_unc_ros.estimation.covariance_map import FLOOR, CovarianceMap
from hand_unc_ros.estimation.tracks import Track
from hand_unc_ros.geometry.calibration_uncertainty import calibration_covariance
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.methods.contract import Fused


@dataclass(frozen=True)
class Published:
    """joints: (21, 3) metres and velocity: (21, 3) m/s, None without the filter; covariance: (63, 63) m². NaN where
    unknown."""

    joints: np.ndarray
    velocity: np.ndarray | None
    covariance: np.ndarray


@dataclass(frozen=True)
class CovarianceStages:
    """covariance_map: fitted on held-out data, None to go without.  filtered: let the track's filter smooth the
    joints."""

    covariance_map: CovarianceMap | None = None
    filtered: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether what is published went through a fitted map; the filter's output needs factors of its own."""
        return self.covariance_map is not None and (not self.filtered or bool(self.covariance_map.filtered))

    def publish(self, track: Track, stamp_ns: int, fused: Fused, rig: CameraRig, variance_px2: np.ndarray) -> Published:
        """What a fused hand is published as; moves the filters of `track` on.

        rig: the cameras of the V views that were fused.  variance_px2: (V, 21, 2) of their 2D joints.
        """
        triangulation = fused.triangulation
        contributes = np.isfinite(triangulation.reprojection_px)
        views = contributes.sum(axis=0)
        joints, velocity, covariance = fused.joints, None, fused.covariance
        track.follower.update(stamp_ns, joints, block_diagonal(triangulation.covariance) + FLOOR ** 2 * np.eye(63))
        if self.covariance_map is not None:
            covariance = self.covariance_map.apply(covariance, views)
        if self.filtered:
            smooth = track.smoother.update(stamp_ns, joints, covariance)
            joints, velocity, covariance = smooth.joints, smooth.velocity, smooth.covariance
            if self.covariance_map is not None:
                covariance = self.covariance_map.apply_filtered(covariance, views)
        # These errors stay as they are from frame to frame, so that no filter lessens them.
        covariance = covariance + FLOOR ** 2 * np.eye(63)
        of_cameras = calibration_covariance(triangulation.joints, triangulation.propagated, rig, contributes,
                                            variance_px2, joints)
        return Published(joints, velocity, covariance if of_cameras is None else covariance + of_cameras)
