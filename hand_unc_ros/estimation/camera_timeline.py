"""One camera's messages that are not used yet, its time line, and what was counted of it."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

DROP_REASONS = ('zero_stamp', 'future', 'duplicate', 'out_of_order', 'late', 'surplus', 'unmatched', 'reset')
"""Why a message was not used.

zero_stamp: stamp not positive.  future: ahead of `now` by more than `future_s`.  duplicate: stamp seen
before.  out_of_order: older than its camera's newest.  late: its set had gone out.  surplus: a nearer message
of the same camera was used.  unmatched: fewer than `min_views` cameras had a message near it.  reset: thrown
away as the time line started anew.
"""


class Message(NamedTuple):
    stamp_ns: int
    arrival_ns: int
    payload: Any


@dataclass
class CameraStatistics:
    """Counts of one camera since the start or the last `reset()`.

    offset_ns: stamp of its newest used message minus that of the set.  awaited: whether sets wait for it.
    """

    received: int = 0
    used: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    last_stamp_ns: int | None = None
    last_arrival_ns: int | None = None
    offset_ns: int | None = None
    awaited: bool = True


class CameraTimeline:
    """State of one camera.

    head_ns: its newest stamp in order.  rewound: its time line was wound back and has not caught up with the
    output.
    """

    def __init__(self, name: str, period_ns: int) -> None:
        self.name = name
        self.ring: deque[Message] = deque()
        self.statistics = CameraStatistics()
        self.misses = 0
        self._nominal_period_ns = period_ns
        self.forget()

    def forget(self) -> None:
        """Forget the time line; the ring and the counts stay."""
        self.head_ns: int | None = None
        self.half_period_ns = self._nominal_period_ns // 2
        self.shortest_interval_ns = 0
        self.rewound = False
        self.in_last_set = False
        self.older_run = 0
        self._older_stamp_ns = 0
        self._recent: deque[int] = deque(maxlen=17)

    def advance(self, stamp_ns: int) -> None:
        """Note the newest stamp in order and what it says about the camera's period."""
        self.head_ns = stamp_ns
        self.older_run = 0
        self._recent.append(stamp_ns)
        if len(self._recent) < 4:
            return
        stamps = list(self._recent)
        intervals = [b - a for a, b in zip(stamps[:-1], stamps[1:])]
        # The median shrugs off lost frames; the shortest never overstates how long the next one may take.
        last = sorted(intervals[-5:])
        self.half_period_ns = last[len(last) // 2] // 2
        self.shortest_interval_ns = min(intervals)

    def is_duplicate(self, stamp_ns: int) -> bool:
        """Whether a message with this stamp has come before."""
        return stamp_ns in self._recent

    def note_older(self, stamp_ns: int) -> None:
        """Note a message that is not newer than the head; ascending ones in a row are counted."""
        ascending = self.older_run and stamp_ns > self._older_stamp_ns
        self.older_run = self.older_run + 1 if ascending else 1
        self._older_stamp_ns = stamp_ns
