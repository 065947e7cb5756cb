"""From the newest estimate and diagnostics to what the panel says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hand_unc_ros.viewer import shapes
from hand_unc_ros.viewer.arrivals import ArrivalStatistics
from hand_unc_ros.viewer.panel import CameraReadout, HandReadout

if TYPE_CHECKING:
    from hand_unc_ros.estimation.types import HandEstimate

_IMAGE_STALE_S = 1.0


def hand_readout(
    estimate: HandEstimate | None, arrivals: ArrivalStatistics, cameras: int, probability: float, now: float
) -> HandReadout:
    """cameras: number of those that are known.  probability: that an ellipsoid holds its joint.
    now: seconds of the clock of `arrivals`."""
    state = arrivals.state(now)
    if estimate is None or state not in ('live', 'stale'):
        return HandReadout(state, arrivals.age_s(now))
    drawn = shapes.ellipsoids(estimate.joints, estimate.covariance, estimate.valid, probability)
    p50, p95 = (arrivals.latency_s(quantile) for quantile in (0.5, 0.95))
    return HandReadout(
        state=state,
        age_s=arrivals.age_s(now),
        rate_hz=arrivals.rate_hz(now),
        latency_p50_ms=None if p50 is None else 1e3 * p50,
        latency_p95_ms=None if p95 is None else 1e3 * p95,
        radius_mm=1e3 * float(np.median(drawn.scales[drawn.shown, 0])) if drawn.shown.any() else None,
        views_used=int(np.count_nonzero(estimate.view_used)),
        views_known=max(len(estimate.cameras), cameras),
        calibrated=estimate.covariance_calibrated,
        handedness=estimate.handedness,
        joints_valid=int(np.count_nonzero(estimate.valid)),
    )


def camera_readout(
    name: str, reported: CameraReadout, live: HandEstimate | None, image_age_s: float | None, fault: str
) -> CameraReadout:
    """What diagnostics report of a camera, completed by what is seen here.

    live: the estimate, unless it is stale.  image_age_s: of the newest image here, None before the first.
    fault: why that image cannot be decoded, or empty.
    """
    level, message, used = reported.level, reported.message, reported.used
    if live is not None and name in live.cameras:
        used = bool(live.view_used[live.cameras.index(name)])
    if image_age_s is not None and image_age_s > _IMAGE_STALE_S and level != 'error':
        # Where diagnostics call the camera good, it is the way to this view that loses its images.
        level = 'warn' if level in ('ok', 'warn') else 'error'
        message = f'no image here for {image_age_s:.0f} s'
    elif fault:
        level, message = 'error', fault
    elif level == 'idle' and image_age_s is not None:
        level = 'ok'
    age_ms = reported.age_ms if reported.age_ms is not None or image_age_s is None else 1e3 * image_age_s
    return replace(reported, level=level, message=message, used=used, age_ms=age_ms)
