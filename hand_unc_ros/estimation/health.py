"""What is counted of each camera and of the output while a stream runs live."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from hand_unc_ros.estimation.types import ViewReport

# Over which the rate of a camera is taken.
RATE_WINDOW_S = 3.0


@dataclass
class CameraHealth:
    """What is known of one camera besides the synchroniser's counts.

    image_fault: why its newest image cannot be decoded.  subscription_fault: why none can arrive (wrong type
    or QoS, nobody publishes).  uncalibrated: images thrown away for want of a camera calibration.
    reprojection_px: running mean of the median residual of its joints.  view: how its joints agree with those of the
    other cameras, None where that is not watched.
    """

    topic: str
    transport: str
    received: int = 0
    uncalibrated: int = 0
    image_fault: str | None = None
    subscription_fault: str | None = None
    reprojection_px: float | None = None
    view: ViewReport | None = None
    started_s: float = 0.0
    drops_before: Counter[str] = field(default_factory=Counter)
    received_before: int = 0
    _arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=1000))

    def arrived(self, now_s: float) -> None:
        """Note an image that has arrived."""
        self.received += 1
        self._arrivals_s.append(now_s)

    def age_s(self, now_s: float) -> float:
        """Since the last image, or since the start."""
        return now_s - (self._arrivals_s[-1] if self._arrivals_s else self.started_s)

    def rate_hz(self, now_s: float) -> float:
        """Images per second over the last seconds."""
        window = min(RATE_WINDOW_S, max(now_s - self.started_s, 1e-3))
        return sum(arrival > now_s - window for arrival in self._arrivals_s) / window

    def note_reprojection(self, residual_px: float) -> None:
        """Note the residual of a fused hand in this camera; NaN changes nothing, others a running mean."""
        if math.isfinite(residual_px):
            old = self.reprojection_px
            self.reprojection_px = residual_px if old is None else old + 0.1 * (residual_px - old)

    def recent(self, drops: Counter[str]) -> tuple[Counter[str], int]:
        """What of the drops, and how many images, came since the last call."""
        recent, arrivals = drops - self.drops_before, self.received - self.received_before
        self.drops_before, self.received_before = Counter(drops), self.received
        return recent, arrivals


@dataclass
class OutputHealth:
    """What became of the frame sets."""

    started_s: float = 0.0
    taken: int = 0
    skipped: int = 0
    published: int = 0
    no_hand: int = 0
    failures: int = 0
    no_hand_reason: str = ''
    failure: str | None = None
    last_set_s: float | None = None
    last_published_s: float | None = None
    interval_s: float = 0.0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    stage_ms: dict[str, float] = field(default_factory=dict)

    def note_published(self, now_s: float, latency_ms: float) -> None:
        """Note a published hand. latency_ms: from its stamp to its publication."""
        if self.last_published_s is not None:
            step_s = min(now_s - self.last_published_s, 1.0)
            before_s = self.interval_s or step_s
            self.interval_s = before_s + 0.1 * (step_s - before_s)
        self.published += 1
        self.last_published_s = now_s
        self.latencies_ms.append(latency_ms)
        self.failure = None

    def note_stages(self, stage_ms: Mapping[str, float]) -> None:
        """Running means of the time that each stage takes."""
        for stage, value in stage_ms.items():
            self.stage_ms[stage] = self.stage_ms.get(stage, value) * 0.9 + value * 0.1
