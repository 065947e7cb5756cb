"""How regularly estimates arrive, and what that says of the last one."""

from __future__ import annotations

import statistics
from collections import deque

STATES = ('waiting', 'live', 'stale', 'gone')
# Shorter gaps are the scheduler's, not a fault.
MIN_STALE_S = 0.2
GONE_AFTER_STALE_S = 1.5


class ArrivalStatistics:
    """Arrival times in seconds of one clock, and latencies in seconds; keeps the last 150."""

    def __init__(self, period_s: float):
        """period_s: expected time between estimates until enough have come to measure it."""
        self._expected_s = period_s
        self._arrivals: deque[float] = deque(maxlen=150)
        self._latencies: deque[float] = deque(maxlen=150)

    def add(self, now: float, latency_s: float | None) -> None:
        """Count one arrival."""
        if self._arrivals and now - self._arrivals[-1] > 2.0:
            self._arrivals.clear()
            self._latencies.clear()
        self._arrivals.append(now)
        if latency_s is not None:
            self._latencies.append(latency_s)

    def clear(self) -> None:
        """Forget all arrivals."""
        self._arrivals.clear()
        self._latencies.clear()

    @property
    def period_s(self) -> float:
        """Median time between arrivals, or the expected one before five have come."""
        if len(self._arrivals) < 5:
            return self._expected_s
        times = list(self._arrivals)
        return min(1.0, statistics.median(b - a for a, b in zip(times, times[1:])))

    def age_s(self, now: float) -> float | None:
        """Seconds since the last arrival."""
        return now - self._arrivals[-1] if self._arrivals else None

    def state(self, now: float) -> str:
        """'live' within three periods of the last arrival, then 'stale', then 'gone'; 'waiting' before
        the first."""
        age = self.age_s(now)
        if age is None:
            return 'waiting'
        limit = max(MIN_STALE_S, 3.0 * self.period_s)
        if age <= limit:
            return 'live'
        return 'stale' if age <= limit + GONE_AFTER_STALE_S else 'gone'

    def rate_hz(self, now: float) -> float | None:
        """Arrivals per second over the last three seconds; None with fewer than two."""
        recent = [time for time in self._arrivals if now - time <= 3.0]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return None
        return (len(recent) - 1) / (recent[-1] - recent[0])

    def latency_s(self, quantile: float) -> float | None:
        """Quantile (nearest rank) of the latencies."""
        if not self._latencies:
            return None
        ordered = sorted(self._latencies)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
