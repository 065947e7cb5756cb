"""Frame sets from cameras that jitter, drop, die, come back, run free or loop.

Rules, in the order in which they matter:

- Every camera has a bounded ring of messages that are not used yet, in stamp order. A message is used at
  most once.
- A set is built round an *anchor*: the oldest unused message of the leading camera that nothing older has to
  precede. Every other camera gives its message nearest to the anchor, within the tolerance and not nearer to
  the next anchor; so evenly staggered, free-running cameras give full sets when the tolerance is half a
  period. The set's stamp is the anchor's.
- A set goes out once no awaited camera can improve it, or `deadline_s` after its first message *arrived* (not
  after its stamp: stamps may be old by a transport delay, or by years in a recording) with what is there, if
  that is `min_views`. Sets go out in the order of their stamps.
- A camera for which `patience` sets in a row had to wait in vain is not awaited any more, so that a dead
  camera costs a few deadlines and not one per set. It is awaited again as soon as a message of it comes in
  time, or would have come in time had it been waited for.
- A message not newer than its camera's newest is a duplicate or out of order, and dropped. Two messages in a
  row, ascending, more than `jump_s` older (five in a row when less) mean that this camera's time line was
  wound back. When that holds for most of the cameras that speak, or `now` itself jumps back, the output time
  line starts anew; a lone camera with a wrong clock stays late and is reported, and a lone wrong stamp
  changes nothing.

No clock is read and no thread is used here; the caller passes `now_ns` and serialises the calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hand_unc_ros.estimation.camera_timeline import CameraStatistics, CameraTimeline, Message

_NS = 1_000_000_000
_REWIND_RUN = 2
_SMALL_REWIND_RUN = 5


@dataclass(frozen=True)
class MatchedSet:
    """Messages of one moment.

    stamp_ns: stamp of the anchor.  items: camera -> (stamp_ns, payload), every stamp within the tolerance of
    `stamp_ns`.  opened_ns: when, on the caller's clock, the first of them arrived.  complete: no camera is
    missing.
    """

    stamp_ns: int
    items: dict[str, tuple[int, Any]]
    opened_ns: int
    complete: bool


@dataclass
class Statistics:
    """Counts of the synchroniser; `sets_unclaimed` were pushed out because nobody polled."""

    cameras: dict[str, CameraStatistics]
    sets_complete: int = 0
    sets_partial: int = 0
    sets_unclaimed: int = 0
    resets: int = 0


class _Candidate(NamedTuple):
    anchor_ns: int
    due_ns: int
    members: list[tuple[CameraTimeline, Message]]


class Synchroniser:
    """Matches the messages of several cameras by their stamps; see the module for the rules.

    cameras: names, the first one leads (any other takes over when it dies).
    period_s: nominal period of the cameras.
    deadline_s: longest wait between the arrival of a set's first message and its output.
    tolerance_s: largest distance of a message's stamp from the set's.
    min_views: fewest cameras of a set.
    ring: messages held per camera; a full ring sends the oldest set out at once.
    future_s: how far ahead of `now` a stamp may be, for clocks that differ a little.
    jump_s: a step back by more than this is taken for a loop or a seek after two messages.
    patience: sets that wait in vain for a camera before it is not awaited any more.

    Raises ValueError on an empty or ambiguous list of cameras and on values out of range.
    """

    def __init__(self, cameras: Sequence[str], *, period_s: float, deadline_s: float, tolerance_s: float,
                 min_views: int = 2, ring: int = 8, future_s: float = 0.2, jump_s: float = 0.5,
                 patience: int = 2) -> None:
        if not cameras or len(set(cameras)) != len(cameras):
            raise ValueError(f'cameras must be distinct names, at least one; got {list(cameras)}')
        if not 1 <= min_views <= len(cameras):
            raise ValueError(f'min_views must be from 1 to {len(cameras)} (all cameras); got {min_views}')
        if period_s <= 0 or deadline_s < 0 or tolerance_s < 0 or ring < 2 or patience < 1:
            raise ValueError('period_s must be positive, deadline_s and tolerance_s not negative, '
                             'ring at least 2 and patience at least 1')
        self._deadline_ns = round(deadline_s * _NS)
        self._tolerance_ns = round(tolerance_s * _NS)
        self._future_ns = round(future_s * _NS)
        self._jump_ns = round(jump_s * _NS)
        self._period_ns = round(period_s * _NS)
        # Two sets closer than this would show one moment twice, once by the cameras that came late.
        self._spacing_ns = min(self._tolerance_ns, round(0.4 * self._period_ns))
        self._min_views = min_views
        self._ring = ring
        self._patience = patience
        self._names = tuple(cameras)
        self.reset()

    def reset(self) -> None:
        """Forget every message, time line and count."""
        self._timelines = {name: CameraTimeline(name, self._period_ns) for name in self._names}
        self._order = list(self._timelines.values())  # by rank: the first with messages leads
        self._now_ns: int | None = None
        self._last_set_ns: int | None = None
        self._recent_sets: deque[tuple[int, int]] = deque(maxlen=32)  # anchor, opened
        self._ready: deque[MatchedSet] = deque()
        self._next_deadline_ns: int | None = None
        self.statistics = Statistics({c.name: c.statistics for c in self._order})

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, in the order of the rig."""
        return self._names

    @property
    def min_views(self) -> int:
        """Views with which an incomplete set goes out at its deadline."""
        return self._min_views

    @property
    def next_deadline_ns(self) -> int | None:
        """When, on the caller's clock, the open set closes if nothing more arrives; None if none is open."""
        return self._next_deadline_ns

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> None:
        """Take one message that arrived at `now_ns`; raises KeyError for an unknown camera.

        A `now_ns` of 0 or less stands for a clock that does not run yet: stamps are then not held against it.
        """
        state = self._timelines[camera]
        now_ns = self._advance_clock(now_ns)
        state.statistics.received += 1
        reason = self._refuse(state, stamp_ns, now_ns)
        state.statistics.last_arrival_ns = now_ns
        if reason is not None:
            state.statistics.drops[reason] += 1
            return
        if not state.statistics.awaited:
            self._await_again(state)
        while len(state.ring) >= self._ring:
            self._resolve(now_ns, force=True)
        state.ring.append(Message(stamp_ns, now_ns, payload))
        self._resolve(now_ns)

    def poll(self, now_ns: int) -> list[MatchedSet]:
        """Sets that are complete or at their deadline, oldest first; each is given once."""
        self._resolve(self._advance_clock(now_ns))
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def _advance_clock(self, now_ns: int) -> int:
        if self._now_ns is not None and now_ns < self._now_ns - self._jump_ns:
            for state in self._order:
                self._drop_ring(state, 'reset')
                state.forget()
                state.statistics.last_arrival_ns = None
            self._start_anew()
        elif self._now_ns is not None:
            now_ns = max(now_ns, self._now_ns)
        self._now_ns = now_ns
        return now_ns

    def _refuse(self, state: CameraTimeline, stamp_ns: int, now_ns: int) -> str | None:
        """The reason for which a message is dropped on arrival, or None; keeps the camera's time line."""
        if stamp_ns <= 0:
            return 'zero_stamp'
        if 0 < now_ns < stamp_ns - self._future_ns:
            return 'future'
        if state.head_ns is not None and stamp_ns <= state.head_ns:
            state.note_older(stamp_ns)
            far = state.head_ns - stamp_ns > self._jump_ns
            if state.older_run < (_REWIND_RUN if far else _SMALL_REWIND_RUN):
                return 'duplicate' if state.is_duplicate(stamp_ns) else 'out_of_order'
            self._drop_ring(state, 'reset')
            state.forget()
            state.rewound = True
        state.advance(stamp_ns)
        state.statistics.last_stamp_ns = stamp_ns
        if state.rewound and self._most_rewound(state, now_ns):
            self._start_anew()
        if self._last_set_ns is None:
            return None
        if state.in_last_set:
            reason = 'surplus' if stamp_ns <= self._last_set_ns else None
        else:
            reason = 'late' if stamp_ns <= self._last_set_ns + self._spacing_ns else None
        if reason is None:
            state.rewound = False
        elif not state.statistics.awaited and any(
                abs(stamp_ns - anchor_ns) <= self._tolerance_ns and now_ns <= opened_ns + self._deadline_ns
                for anchor_ns, opened_ns in self._recent_sets):
            self._await_again(state)
        return reason

    def _most_rewound(self, speaking: CameraTimeline, now_ns: int) -> bool:
        horizon_ns = now_ns - max(_NS, 4 * self._period_ns)
        rewound = others = 0
        for state in self._order:
            arrival_ns = state.statistics.last_arrival_ns
            if state is speaking or (arrival_ns is not None and arrival_ns >= horizon_ns):
                rewound += state.rewound
                others += not state.rewound
        return rewound > others

    def _start_anew(self) -> None:
        """Start a new output time line; what still belongs to the old one is thrown away."""
        for state in self._order:
            if not state.rewound:
                self._drop_ring(state, 'reset')
                # A camera that went silent long ago may come back at any stamp of the new time line.
                if not state.statistics.awaited:
                    state.forget()
            state.rewound = False
            state.in_last_set = False
        self._last_set_ns = None
        self._recent_sets.clear()
        self._next_deadline_ns = None
        self.statistics.resets += 1

    def _await_again(self, state: CameraTimeline) -> None:
        state.statistics.awaited = True
        state.misses = 0

    @staticmethod
    def _drop_ring(state: CameraTimeline, reason: str) -> None:
        state.statistics.drops[reason] += len(state.ring)
        state.ring.clear()

    def _candidate(self) -> _Candidate | None:
        """The oldest set that the rings can give, whatever its number of views."""
        states = [state for state in self._order if state.ring]
        if not states:
            return None
        tolerance_ns = self._tolerance_ns
        latest_anchor_ns = min(state.ring[0].stamp_ns for state in states) + tolerance_ns
        later_anchors_ns = []
        for leader in states:
            anchor_ns = leader.ring[0].stamp_ns
            if anchor_ns <= latest_anchor_ns:
                break
            later_anchors_ns.append(anchor_ns)
        if len(leader.ring) > 1:
            later_anchors_ns.append(leader.ring[1].stamp_ns)
        next_anchor_ns = min(later_anchors_ns, default=None)

        members = []
        for state in states:
            best: Message | None = None
            best_gap_ns = tolerance_ns + 1
            for message in state.ring:
                gap_ns = message.stamp_ns - anchor_ns
                if next_anchor_ns is not None and next_anchor_ns - message.stamp_ns < gap_ns:
                    break
                if abs(gap_ns) < best_gap_ns:
                    best, best_gap_ns = message, abs(gap_ns)
            if best is not None:
                members.append((state, best))
        # Sets go out in order, so this one must not hold up a message behind it that arrived before it did.
        due_ns = min(state.ring[0].arrival_ns for state in states) + self._deadline_ns
        return _Candidate(anchor_ns, due_ns, members)

    def _may_improve(self, state: CameraTimeline, anchor_ns: int) -> bool:
        """Whether the camera's next message can be nearer to the anchor than what it has given."""
        if state.head_ns is None:
            return True
        if state.head_ns >= anchor_ns:
            return False
        near_ns = min(self._tolerance_ns, state.half_period_ns)
        if state.ring and anchor_ns - state.ring[-1].stamp_ns <= near_ns:
            return False
        # A slower camera is not due yet; a quarter period is left for jitter.
        due_ns = state.head_ns + state.shortest_interval_ns - self._period_ns // 4
        return due_ns <= anchor_ns + self._tolerance_ns

    def _resolve(self, now_ns: int, force: bool = False) -> None:
        """Close every set that is ready; `force` closes the oldest one whether it is ready or not."""
        while True:
            candidate = self._candidate()
            if candidate is None:
                self._next_deadline_ns = None
                return
            waiting = [state for state in self._order
                       if state.statistics.awaited and self._may_improve(state, candidate.anchor_ns)]
            if waiting and now_ns < candidate.due_ns and not force:
                self._next_deadline_ns = candidate.due_ns
                return
            force = False
            self._close(candidate, waiting)

    def _close(self, candidate: _Candidate, waiting: list[CameraTimeline]) -> None:
        """Send the candidate out, or drop its messages, and count who was waited for in vain."""
        for state in waiting:
            state.misses += 1
            if state.misses >= self._patience:
                state.statistics.awaited = False
                self._order.remove(state)
                self._order.append(state)
        anchor_ns, _, members = candidate
        again = self._last_set_ns is not None and anchor_ns <= self._last_set_ns + self._spacing_ns
        if again or len(members) < self._min_views:
            for state, message in members:
                reason = 'unmatched' if not again else 'surplus' if state.in_last_set else 'late'
                self._discard_until(state, message.stamp_ns, reason)
            return

        chosen = {state.name: message for state, message in members}
        for state in self._order:
            message = chosen.get(state.name)
            state.in_last_set = message is not None
            if message is None:
                self._discard_until(state, anchor_ns, 'unmatched')
                continue
            self._discard_until(state, message.stamp_ns - 1, 'surplus')
            state.ring.popleft()
            state.misses = 0
            state.statistics.used += 1
            state.statistics.offset_ns = message.stamp_ns - anchor_ns
        complete = len(members) == len(self._names)
        if complete:
            self.statistics.sets_complete += 1
        else:
            self.statistics.sets_partial += 1
        self._last_set_ns = anchor_ns
        opened_ns = min(message.arrival_ns for message in chosen.values())
        self._recent_sets.append((anchor_ns, opened_ns))
        if len(self._ready) >= self._ring:
            self._ready.popleft()
            self.statistics.sets_unclaimed += 1
        items = {name: (chosen[name].stamp_ns, chosen[name].payload)
                 for name in self._names if name in chosen}
        self._ready.append(MatchedSet(anchor_ns, items, opened_ns, complete))

    @staticmethod
    def _discard_until(state: CameraTimeline, stamp_ns: int, reason: str) -> None:
        while state.ring and state.ring[0].stamp_ns <= stamp_ns:
            state.ring.popleft()
            state.statistics.drops[reason] += 1
