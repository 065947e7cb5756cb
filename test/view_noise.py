"""2D errors as the shipped network makes them, without the network: what matters for telling bias from a moved camera.

The numbers were measured on 9000 sets of four views of 20 synthetic scenes that the network had not seen: a claimed σ
whose logarithm varies between views (slowly) and between joints, and errors that a view's joints share and that last.
"""

from dataclasses import dataclass, replace

import numpy as np
from view_cases import hand, project, see

SIGMA_PX = 5.3
# Standard deviations of log σ: of a view over time, and of a joint within it.
VIEW_LOG, JOINT_LOG = 0.40, 0.64
# Errors in claimed σ: of each joint, and of all joints of a view together (in the root of the harmonic mean variance).
JOINT_ERROR, COMMON_ERROR = 0.89, 0.38
# Correlation of each from one set to the next at 15 Hz.
VIEW_KEEPS, JOINT_KEEPS, COMMON_KEEPS = 0.95, 0.87, 0.75


@dataclass
class Wandering:
    """Unit normal numbers that forget slowly: an autoregressive process of first order."""

    value: np.ndarray
    keeps: float

    def step(self, rng):
        self.value = self.keeps * self.value + np.sqrt(1 - self.keeps ** 2) * rng.standard_normal(self.value.shape)
        return self.value


class NetworkNoise:
    """Draws one set of views after the other of the hand that `motion(t)` gives, as V cameras see it."""

    def __init__(self, views, seed):
        self.rng = np.random.default_rng(seed)
        normal = self.rng.standard_normal
        self.view_log = Wandering(normal((views, 1, 1)), VIEW_KEEPS)
        self.joint_log = Wandering(normal((views, 21, 1)), JOINT_KEEPS)
        self.joint = Wandering(normal((views, 21, 2)), JOINT_KEEPS)
        self.common = Wandering(normal((views, 1, 2)), COMMON_KEEPS)

    def look(self, rig, joints):
        """The next ViewEstimate of a rig's cameras."""
        estimate = see(rig, joints)
        log_sigma = VIEW_LOG * self.view_log.step(self.rng) + JOINT_LOG * self.joint_log.step(self.rng)
        sigma = np.broadcast_to(SIGMA_PX * np.exp(log_sigma), estimate.joints_px.shape)
        harmonic = 1 / np.sqrt(np.mean(1 / sigma ** 2, axis=1, keepdims=True))
        error = (JOINT_ERROR * sigma * self.joint.step(self.rng)
                 + COMMON_ERROR * harmonic * self.common.step(self.rng))
        return replace(estimate, joints_px=project(rig, joints) + error, variance_px2=sigma ** 2)


def waving(t):
    """Joints (21, 3) of a hand that turns and travels in front of the rig."""
    return hand((0.5 + np.sin(1.3 * t), np.sin(0.7 * t), 0.8 + np.cos(0.9 * t)),
                0.05 * np.array([np.sin(1.1 * t), np.cos(0.8 * t), np.sin(0.5 * t)]), curl=0.5 + 0.4 * np.sin(2 * t))
