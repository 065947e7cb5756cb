"""A hand in front of a rig, and what perfect or noisy 2D networks would say of it."""

import numpy as np
import torch
from hand_cases import regressed

from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.geometric_fusion import ViewGaussians
from hand_unc_ros.hand.crops import box_around
from hand_unc_ros.hand.joints import FINGERS
from hand_unc_ros.hand.standin import build_standin

IMAGE = np.zeros((4, 4, 3), np.uint8)
PERIOD_NS = 66_666_667
START_NS = 1_700_000_000_000_000_000


def rotation(axis_angle):
    angle = np.linalg.norm(axis_angle)
    x, y, z = np.asarray(axis_angle) / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


REST = {side: regressed(arrays, arrays['v_template'])
        for side, arrays in ((side, build_standin(side)) for side in ('right', 'left'))}


def hand(turn=(0.5, -0.3, 0.8), place=(0.0, 0.0, 0.0), side='right', curl=0.5):
    """Joints (21, 3) of the stand-in, fingers curled by `curl` rad a joint, the palm's middle at `place`."""
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
    centred = joints - joints[[0, 5, 9, 13, 17]].mean(axis=0)
    return centred @ rotation(turn).T + place


def project(rig, joints):
    """(V, 21, 2) pixels."""
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


class TruthFrontEnd:
    """A front end that knows where the hand is.

    motion: seconds since `start_ns` → joints (21, 3).  alter: changes each estimate.  lost: blind cameras.
    `calls` holds (stamp, predicted) of every call, `resets` counts.
    """

    def __init__(self, motion, sigma_px=1.0, noise=0.0, lost=(), alter=None,
                 start_ns=START_NS):
        self.motion, self.sigma_px, self.noise, self.lost, self.alter = (
            motion,
            sigma_px,
            noise,
            set(lost),
            alter,
        )
        self.start_ns = start_ns
        self.calls, self.resets = [], 0

    def estimate(self, views, predicted=None):
        from hand_unc_ros.geometry.cameras import CameraRig

        rig = CameraRig([view.camera for view in views.values()])
        stamp = next(iter(views.values())).stamp_ns
        self.calls.append((stamp, predicted))
        hidden = [(row, None) for row, name in enumerate(rig.names) if name in self.lost]
        estimate = see(
            rig, self.motion((stamp - self.start_ns) * 1e-9), self.sigma_px, self.noise, stamp % 2**31, hidden
        )
        return self.alter(estimate) if self.alter else estimate

    def reset(self):
        self.resets += 1

    def close(self):
        pass


def frames(rig, index=0, cameras=None, stamp_ns=None):
    """The frame set number `index` of a 15 Hz stream; cameras: those that deliver."""
    stamp = START_NS + index * PERIOD_NS if stamp_ns is None else stamp_ns
    views = {name: View(rig[name], IMAGE, stamp) for name in (rig.names if cameras is None else cameras)}
    return FrameSet(stamp, views, rig.names)
