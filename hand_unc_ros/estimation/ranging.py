"""How far away a hand is that one view alone shows, by what was known of that before.

One view tells a hand's distance by its size, and what it is wrong by lasts about as long as the hand's posture.  So a
hand that several views have just shown, and that moves on before one, is known better than by each reading by itself.
Of the logarithm s of the distance of its middle from the camera a reading says

    s + b + w,

with b an Ornstein–Uhlenbeck process of time constant LASTING_S and w white, whose variances add up to what the reading
claims.  s is a random walk, whose steps are as long as those across the ray, which are seen.  A Kalman filter of (s, b)
tells motion from error.  A reading that surprises by more than RENEWED standard deviations has found another error, of
which nothing is known: a finger that is taken for the thumb.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hand_unc_ros.estimation.types import HandEstimate
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.contract import Fused

# By lifelike synthetic scenes and a hand before one camera of handpose3d: with 4 s in place of 2, σ is too small.
LASTING_S, WHITE_SHARE = 2.0, 0.1
# m/√s along the ray of a hand that does not move across it: calm ones ask for less, and would then lag when moved.
WALK = 0.15
# From how many standard deviations on a reading surprises, and how large such an error is, over what readings claim.
RENEWED, GROSS = 3.0, 5.0
# Standard deviation of the logarithm of a distance of which nothing is known; and the least distance, metres.
UNKNOWN, _NEAREST = 10.0, 0.01


@dataclass(frozen=True)
class Ranging:
    """camera: its name.  direction: (3,) unit, world, from there to the hand's middle.  state: (2,) of (s, b) at a time;
    spread: (2, 2), their covariance."""

    camera: str
    stamp_ns: int
    direction: np.ndarray
    state: np.ndarray
    spread: np.ndarray

    @classmethod
    def begun(cls, camera: str, stamp_ns: int, place: np.ndarray, sigma: float, claimed: float) -> Ranging:
        """Where no reading was compared yet. place: (3,) metres from the camera to the hand's middle, with the standard
        deviation sigma of its distance.  claimed: standard deviation of readings."""
        distance = float(np.linalg.norm(place))
        return cls(camera, stamp_ns, place / distance, np.array([np.log(distance), 0.0]),
                   np.diag([sigma ** 2, (1 - WHITE_SHARE) * claimed ** 2]) / distance ** 2)

    def read(self, stamp_ns: int, place: np.ndarray, sigma: float) -> Ranging:
        """With a reading (3,) metres, and the standard deviation that it claims for its distance."""
        distance = float(np.linalg.norm(place))
        direction = place / distance
        seconds = (stamp_ns - self.stamp_ns) * 1e-9
        claimed = (sigma / distance) ** 2
        lasting, white = (1 - WHITE_SHARE) * claimed, WHITE_SHARE * claimed
        kept = np.diag([1.0, np.exp(-seconds / LASTING_S)])
        # Two axes are across, one along.
        step = WALK ** 2 * seconds / distance ** 2 + np.square(direction - self.direction).sum() / 2
        state = kept @ self.state
        spread = kept @ self.spread @ kept + np.diag([step, (1 - kept[1, 1] ** 2) * lasting])
        off = np.log(distance) - state.sum()
        if off ** 2 > RENEWED ** 2 * (spread.sum() + white):
            state, spread = state * (1, 0), np.diag([spread[0, 0], GROSS ** 2 * lasting])
            off = np.log(distance) - state[0]
        gain = spread.sum(axis=1) / (spread.sum() + white)
        keep = np.eye(2) - gain[:, None]
        return Ranging(self.camera, stamp_ns, direction, state + gain * off,
                       keep @ spread @ keep.T + white * np.outer(gain, gain))

    @property
    def distance(self) -> float:
        """Metres."""
        return float(np.exp(self.state[0]))

    @property
    def sigma(self) -> float:
        """Standard deviation of the distance, metres."""
        return self.distance * float(np.sqrt(self.spread[0, 0]))


def ranged(fused: Fused, camera: str, centre: np.ndarray, stamp_ns: int, before: Ranging | None,
           expected: HandEstimate | None) -> tuple[Fused, Ranging]:
    """A hand that one camera shows, at the distance that is likely, and what is known of that then.

    centre: (3,) of the camera, metres, world.  before: what was known, None where this camera did not show the hand by
    itself.  expected: then, the hand as it was known before, at the time of this set; None where it was not.
    The hand is moved along the ray to its middle; of its covariance, that of the middle along that ray is changed.
    """
    valid = np.isfinite(fused.joints).all(axis=1)
    place = fused.joints[valid].mean(axis=0) - centre
    distance = float(np.linalg.norm(place))
    ray = place / distance
    sigma = _sigma(fused.covariance, valid, ray)
    if before is None:
        known = valid & (np.zeros_like(valid) if expected is None else np.isfinite(expected.joints).all(axis=1))
        if known.any():
            further = (expected.joints - fused.joints)[known].mean(axis=0) @ ray
            before = Ranging.begun(camera, stamp_ns, max(distance + further, _NEAREST) * ray,
                                   _sigma(expected.covariance, known, ray), sigma)
        else:
            before = Ranging.begun(camera, stamp_ns, place, UNKNOWN * distance, sigma)
    now = before.read(stamp_ns, place, sigma)
    shift = (now.distance - distance) * ray
    share = 1 - now.sigma / sigma
    together = np.kron(np.outer(valid, valid) / valid.sum(), np.outer(ray, ray))
    change = np.eye(len(together)) - share * together
    covariance = np.full_like(fused.covariance, np.nan)
    rows = np.ix_(np.repeat(valid, 3), np.repeat(valid, 3))
    covariance[rows] = (change @ np.nan_to_num(fused.covariance) @ change.T)[rows]
    joints = fused.joints + shift
    triangulation = replace(fused.triangulation, joints=fused.triangulation.joints + shift,
                            covariance=joint_blocks(covariance), propagated=joint_blocks(covariance))
    vertices = None if fused.vertices is None else fused.vertices + shift
    return replace(fused, joints=joints, covariance=covariance, triangulation=triangulation, vertices=vertices), now


def _sigma(covariance: np.ndarray, known: np.ndarray, ray: np.ndarray) -> float:
    """Standard deviation, metres, along a ray (3,) of the middle of the joints `known` (21,)."""
    along = (np.kron(known, np.ones(3)) * np.tile(ray, len(known)))[np.repeat(known, 3)]
    rows = np.ix_(np.repeat(known, 3), np.repeat(known, 3))
    return float(np.sqrt(along @ covariance[rows] @ along)) / int(known.sum())
