"""Readings of images that were not taken at one moment, as they would be at the time of their set.

Cameras without a common trigger show a hand up to half a period apart, and a hand at 1 m/s moves 16 mm in half a period
of 30 Hz. The joints of each image are moved on by what the hand moves in the time between, and become less certain by
what is not known of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from hand_unc_ros.estimation.tracks import Track
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods.contract import ViewReading
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.methods.view_gaussians import stack

# Nothing moves in less.
SHORTEST_NS = 500_000


def simultaneous(readings: Mapping[str, ViewReading], rig: CameraRig, track: Track, stamp_ns: int,
                 delays_ns: Mapping[str, int]) -> Mapping[str, ViewReading]:
    """The readings at the time of their set, each joint moved on by its velocity, whose uncertainty adds to its variance.
    The velocity is the track's with this set taken as it is: by the sets before alone it would come a set late.

    readings: by camera, in the order of `rig`.  track: of the hand, up to the set before; where it has none, the
    readings are given as they are.  delays_ns: by how much images are older than their stamps, by camera.
    """
    elapsed_ns = np.array([stamp_ns - reading.stamp_ns + delays_ns.get(name, 0) for name, reading in readings.items()])
    if track.seen_ns is None or (np.abs(elapsed_ns) < SHORTEST_NS).all():
        return readings
    plain = fuse(stack(readings.values()), rig)
    velocity, spread = track.velocity(stamp_ns, plain.joints, plain.covariance)
    slopes = rig.project_with_jacobian(torch.from_numpy(np.nan_to_num(plain.joints)))[1].numpy()
    moved = {}
    for elapsed, slope, (name, reading) in zip(elapsed_ns * 1e-9, slopes, readings.items()):
        shift = elapsed * np.einsum('jai,ji->ja', slope, velocity)
        variance = elapsed ** 2 * np.einsum('jai,jik,jak->ja', slope, spread, slope)
        known = (np.isfinite(shift) & np.isfinite(variance)).all(axis=1, keepdims=True)
        moved[name] = replace(reading, stamp_ns=stamp_ns, joints_px=reading.joints_px + np.where(known, shift, 0.0),
                              variance_px2=reading.variance_px2 + np.where(known, variance, 0.0))
    return moved
