"""One hand's memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np

from hand_unc_ros.estimation.carried import carried
from hand_unc_ros.estimation.filter import ConstantVelocityFilter
from hand_unc_ros.estimation.ranging import Ranging, ranged
from hand_unc_ros.estimation.types import FrameSet, HandEstimate
from hand_unc_ros.hand.bone_lengths import BoneLengths
from hand_unc_ros.hand.covariance_blocks import block_diagonal, joint_blocks
from hand_unc_ros.hand.fitting import HandFit
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST
from hand_unc_ros.methods.contract import Fused, ViewReading

# A hand not seen for this long is searched for anew and gets a new track id.
TRACK_MEMORY_S = 0.5
# A hand of the same side that appears within this distance, and what a hand moves since it was seen, is the same one.
REUNION_M, REUNION_SPEED = 0.05, 1.5
# The follower allows for the quickest hands. A calm one is expected as narrowly as it has kept to its predictions, in
# the mean over about as many sets, but not below a share of the follower's variance.
CALM_SETS, LEAST_CALM = 5, 0.05


@dataclass
class Track:
    """A hand that is followed, or, with track_id 0, one that is searched for.

    follower: filter of the joints as the views give them, by which the next crops are cut: a covariance head that is
    wrong on images unlike those it was trained on must not lose the hand.  smoother: filter of what is published.
    readings: of the last sets, oldest first, as many as the method's window needs.  fit: the hand model's parameters of
    the last set.  bones: their lengths, as far as the hand has shown them.  seen_ns: stamp of the last set that gave
    the hand.  calm: squared errors of the predictions, as a share of the variance that the follower gave them.
    several_ns: of the last one in which several views did.  shown: the hand as the last set gave it.  ranging: its
    distance from the one camera that showed it last; None after several.
    """

    track_id: int
    handedness: str
    follower: ConstantVelocityFilter = field(default_factory=ConstantVelocityFilter)
    smoother: ConstantVelocityFilter = field(default_factory=ConstantVelocityFilter)
    readings: deque[Mapping[str, ViewReading]] = field(default_factory=lambda: deque(maxlen=0))
    fit: HandFit | None = None
    bones: BoneLengths = field(default_factory=BoneLengths)
    seen_ns: int | None = None
    several_ns: int | None = None
    calm: float = 1.0
    shown: HandEstimate | None = None
    ranging: Ranging | None = None

    def predict(self, stamp_ns: int) -> np.ndarray | None:
        """Joints (21, 3) metres, world, expected at a time, NaN where unknown; None where the palm is not known."""
        predicted = self.follower.predict(stamp_ns)
        if predicted is None or not np.isfinite(predicted[[WRIST, MIDDLE_MCP]]).all():
            return None
        return predicted

    def expected_covariance(self, stamp_ns: int) -> np.ndarray:
        """Covariances (21, 3, 3) m² of what `predict` gives, as wide as this hand's motion of late asks for."""
        return self._width * self.follower.predicted_covariance(stamp_ns)

    def velocity(self, stamp_ns: int, joints: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Velocities (21, 3) m/s of the joints with a measurement of now, NaN where unknown, and their covariances
        (21, 3, 3) m²/s², as wide as this hand's motion of late asks for.

        joints: (21, 3) metres, NaN where there is none.  covariance: (21, 3, 3) m².
        """
        with_now = deepcopy(self.follower).update(stamp_ns, joints, block_diagonal(covariance))
        return with_now.velocity, self._width * joint_blocks(with_now.motion.spread)

    @property
    def _width(self) -> float:
        return min(max(self.calm, LEAST_CALM), 1.0)

    def learn_calm(self, stamp_ns: int, joints: np.ndarray) -> None:
        """Compare joints (21, 3) metres, NaN where unknown, with what was predicted for their time, before the follower
        takes them: a surprise counts at once, calm only little by little (Mehra, 1970)."""
        predicted = self.follower.predict(stamp_ns)
        if predicted is None:
            return
        off = joints - predicted
        known = np.isfinite(off).all(axis=1)
        if known.any():
            spread, off = self.follower.predicted_covariance(stamp_ns)[known], off[known]
            share = float((off * np.linalg.solve(spread, off[..., None])[..., 0]).mean()) / 3
            self.calm = max(share, self.calm + (share - self.calm) / CALM_SETS)

    def is_again(self, joints: np.ndarray, stamp_ns: int) -> bool:
        """Whether joints (21, 3) metres, world, NaN where unknown, can be of this hand, which was lost a moment ago."""
        if self.seen_ns is None or self.ended(stamp_ns):
            return False
        apart = np.linalg.norm(joints - self.follower.joints, axis=1)
        reach = REUNION_M + REUNION_SPEED * (stamp_ns - self.seen_ns) * 1e-9
        return bool(np.isfinite(apart).any() and np.nanmedian(apart) < reach)

    def shown_by_several(self, stamp_ns: int) -> bool:
        """Whether several views gave the hand a moment ago."""
        return self.several_ns is not None and stamp_ns - self.several_ns <= TRACK_MEMORY_S * 1e9

    def ranged(self, fused: Fused, cameras: Sequence[str], frames: FrameSet) -> Fused:
        """A hand that one of the cameras alone shows is as far away as this and what was known of it before make
        likely; as it is where several do."""
        if fused.triangulation.used.sum() != 1:
            self.ranging = None
            return fused
        name = cameras[int(fused.triangulation.used.argmax())]
        before, expected = self.ranging, None
        if before is None or before.camera != name:
            before, expected = None, None if self.shown is None else carried(self.shown, self.follower, frames)
        fused, self.ranging = ranged(fused, name, frames.views[name].camera.centre, frames.stamp_ns, before, expected)
        return fused

    def resume(self, lost: Track) -> None:
        """Go on as a hand that was lost a moment ago: with its number, its bones, and what is known of its place and
        motion."""
        self.track_id, self.bones, self.calm = lost.track_id, lost.bones, lost.calm
        self.follower, self.smoother, self.seen_ns = lost.follower, lost.smoother, lost.seen_ns
        self.several_ns, self.shown, self.ranging = lost.several_ns, lost.shown, lost.ranging

    def ended(self, stamp_ns: int) -> bool:
        """Whether the hand cannot be followed to a time: it lies before the last one, or too long after it."""
        if self.seen_ns is None:
            return False
        gap_ns = stamp_ns - self.seen_ns
        return gap_ns <= 0 or gap_ns > TRACK_MEMORY_S * 1e9
