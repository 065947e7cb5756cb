"""A hand in front of a rig, and what perfect or noisy 2D networks would say of it."""

from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from hand_cases import regressed

from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.geometry.rig_cache import RigCache
from hand_unc_ros.hand.crops import box_around, reach_box
from hand_unc_ros.hand.joints import FINGERS
from hand_unc_ros.hand.standin import build_standin
from hand_unc_ros.methods.contract import HANDEDNESS, Detection, MethodOptions, View, ViewReading
from hand_unc_ros.methods.cropping import whole_image
from hand_unc_ros.methods.geometric_fusion import fuse, with_refinement
from hand_unc_ros.methods.view_gaussians import ViewGaussians, stack

IMAGE = np.zeros((4, 4, 3), np.uint8)
PERIOD_NS = 66_666_667
START_NS = 1_700_000_000_000_000_000
# Numbers that measurements should not have.
EXTREMES = np.array([0.0, -0.0, 1e-308, 5e-324, -1e-308, 1e-160, 1e-20, 1e-6, 1e6, 1e20, 1e160, 1e308, -1e308,
                     np.inf, -np.inf, np.nan])


def rotation(axis_angle):
    angle = np.linalg.norm(axis_angle)
    x, y, z = np.asarray(axis_angle) / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


REST = {side: regressed(arrays, arrays['v_template'])
        for side, arrays in ((side, build_standin(side)) for side in ('right', 'left'))}


def hand(turn=(0.5, -0.3, 0.8), place=(0.0, 0.0, 0.0), side='right', curl=0.5):
    """Joints (21, 3) of the stand-in, fingers curled by `curl` rad a joint, the palm's middle at `place`."""
    return curled(side, curl) @ rotation(turn).T + place


@lru_cache(maxsize=256)
def curled(side, curl):
    """Joints (21, 3) of the stand-in, unturned, the palm's middle at the origin."""
    joints = REST[side].copy()
    palm = np.cross(joints[5] - joints[0], joints[17] - joints[0]) * (1 if side == 'right' else -1)
    for finger in range(1, len(FINGERS)):
        first = 1 + 4 * finger
        bone = joints[first + 1] - joints[first]
        axis = np.cross(bone, palm)
        bend = rotation(curl * axis / np.linalg.norm(axis))
        for joint in range(first, first + 3):
            joints[joint + 1 : first + 4] = (joints[joint + 1 : first + 4] - joints[joint]) @ bend.T + joints[
                joint
            ]
    return joints - joints[[0, 5, 9, 13, 17]].mean(axis=0)


def project(rig, joints):
    """(V, 21, 2) pixels."""
    with torch.inference_mode():
        return rig.project(torch.from_numpy(np.ascontiguousarray(joints)))[0].numpy()


def see(rig, joints, sigma_px=1.0, noise=0.0, seed=0, hidden=()):
    """The 2D estimate of a rig's cameras: claimed deviation, share of it that is really added.

    hidden: (view, joint) pairs without a value; a joint of None hides all of a view's.
    """
    px = project(rig, joints)
    variance = np.broadcast_to(np.asarray(sigma_px, float) ** 2, px.shape).copy()
    rng = np.random.default_rng(seed)
    boxes = box_around(px)
    px = px + noise * np.sqrt(variance) * rng.standard_normal(px.shape)
    valid = np.isfinite(px).all(-1)
    for view, joint in hidden:
        valid[view, slice(None) if joint is None else joint] = False
    px[~valid] = np.nan
    variance[~valid] = np.nan
    return ViewGaussians(rig.names, px, variance, valid, np.where(valid.any(1), 0.9, 0.0), boxes)


def readings_of(estimate, stamp_ns=START_NS, handedness='right'):
    """The readings, by camera, that are stacked in `estimate`."""
    return {camera: ViewReading(camera, stamp_ns, *(vars(estimate)[name][row] for name in (
        'joints_px', 'variance_px2', 'valid')), float(estimate.score[row]), handedness, estimate.boxes_px[row])
        for row, camera in enumerate(estimate.cameras)}


class TruthMethod:
    """A method that knows where the hand is, and triangulates.

    motion: seconds since `start_ns` → joints (21, 3).  alter: changes the readings of each set, stacked.  lost: blind
    cameras.  refine: joints, covariance, used → Refinement, of what is triangulated.  holds: hold what is not refined to
    the lengths of the track's bones; its noise is independent, so that the covariance is then too large.
    `calls` holds (stamp, predicted) of every hand that was fused, `resets` counts.
    """

    name, min_views, window, crop_size, surface = 'truth', 2, 1, None, ''
    crop_box = staticmethod(reach_box)

    def __init__(self, motion, sigma_px=1.0, noise=0.0, lost=(), alter=None, start_ns=START_NS, refine=None,
                 holds=False):
        self.motion, self.sigma_px, self.noise, self.lost, self.alter = motion, sigma_px, noise, set(lost), alter
        self.start_ns, self.refine, self.holds = start_ns, refine, holds
        self.options = MethodOptions()
        self.calls, self.resets, self._rigs = [], 0, RigCache()

    def look(self, rig, stamp_ns):
        """What is seen of the hand by the cameras of a rig, stacked."""
        hidden = [(row, None) for row, name in enumerate(rig.names) if name in self.lost]
        estimate = see(rig, self.motion((stamp_ns - self.start_ns) * 1e-9), self.sigma_px, self.noise,
                       stamp_ns % 2**31, hidden)
        return self.alter(estimate) if self.alter else estimate

    def find(self, views):
        return [[Detection(whole_image(view, side).box_px, side, 1.0) for side in HANDEDNESS]
                for view in views.values()]

    def read(self, crops):
        if not crops:
            return []
        stamp_ns = crops[0].view.stamp_ns
        estimate = self.look(self._rigs.of([crop.camera for crop in crops]), stamp_ns)
        return list(readings_of(estimate, stamp_ns, crops[0].handedness).values())

    def fuse(self, window, rig, track):
        readings = list(window[-1].values())
        self.calls.append((readings[0].stamp_ns, track.predicted))
        found = fuse(stack(readings), rig, self.options.triangulation, self.options.min_views)
        refined = None if self.refine is None else self.refine(found.joints, found.covariance, found.used)
        return with_refinement(found, refined, {'fusion': 0.5, 'refinement': 0.25},
                               track.bones if self.holds else None)

    def reset(self):
        self.resets += 1

    def close(self):
        pass


class Refused(NamedTuple):
    """A set without a hand."""

    stamp_ns: int
    reason: str


class OneHand:
    """An estimator that follows one hand: `process` gives the hand, or Refused; `result` is all of the last set."""

    def __init__(self, estimator):
        self.estimator, self.result = estimator, None

    def process(self, frame_set):
        self.result = self.estimator.process(frame_set)
        assert len(self.result.hands) + len(self.result.reasons) == 1
        assert self.result.stamp_ns == frame_set.stamp_ns
        return self.result.hands[0] if self.result.hands else Refused(frame_set.stamp_ns, self.result.reasons[0])

    @property
    def last_views(self):
        """The readings of the hand, stacked, with their gate; None where nothing was read."""
        if self.result is None or not self.result.readings:
            return None
        readings, = self.result.readings
        return SimpleNamespace(**vars(readings.gaussians), gate=readings.gate)

    @property
    def track(self):
        track, = self.estimator.tracks
        return track

    def reset(self):
        self.estimator.reset()


def frames(rig, index=0, cameras=None, stamp_ns=None):
    """The frame set number `index` of a 15 Hz stream; cameras: those that deliver."""
    stamp = START_NS + index * PERIOD_NS if stamp_ns is None else stamp_ns
    views = {name: View(rig[name], IMAGE, stamp) for name in (rig.names if cameras is None else cameras)}
    return FrameSet(stamp, views, rig.names)
