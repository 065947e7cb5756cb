"""Frame sets by `message_filters`, with what it lacks put round it.

The Python synchronisers of message_filters need a message of every topic: they give nothing once one camera is dead,
and nothing after a recording has been played again while their queues are full of the newer stamps of before; they
don't count what they throw away. So here

- stamps that cannot be right are dropped before they get there, and a time line that was wound back starts them anew,
  by the rules of `estimation.time_lines`;
- when no set came for a few periods, they are set up anew for the largest group of cameras whose stamps do match, if
  those are `min_views`, and again when another one matches again;
- a set that is not newer than the one before is thrown away;
- every message is counted as used or by the reason of its drop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.camera_timeline import Message
from hand_unc_ros.estimation.stream import FrameSynchroniser
from hand_unc_ros.estimation.synchroniser import MatchedSet, Statistics, Synchroniser
from hand_unc_ros.estimation.time_lines import FUTURE_S, JUMP_S, TimeLines
from hand_unc_ros.methods import fewest_views

_NS = 1_000_000_000
# Messages of a camera that wait for the others. The approximate policy tries the combinations of all that are near.
_RING = 8
# Periods without a set after which the cameras that do not match are left out.
_STALL_PERIODS = 5


def build_synchroniser(values: Mapping[str, Any], cameras: Sequence[str]) -> FrameSynchroniser:
    """By the policy that the parameters ask for; raises ConfigError where it cannot be had."""
    period_s, policy, min_views = values['sync.period'], values['sync.policy'], values['min_views']
    if values['one_view_fallback'] and fewest_views(values['method']) == 1:
        min_views = 1
    tolerance_s = values['sync.tolerance'] or 0.5 * period_s
    if policy == 'deadline':
        return Synchroniser(cameras, period_s=period_s, tolerance_s=tolerance_s,
                            deadline_s=values['sync.deadline'] or period_s, min_views=min_views)
    return FilterSynchroniser(cameras, exact=policy == 'exact', period_s=period_s, tolerance_s=tolerance_s,
                              min_views=min_views)


class FilterSynchroniser:
    """Takes and gives what `estimation.synchroniser.Synchroniser` does; payloads are ROS messages with a header.

    exact: stamps of a set are equal; otherwise their spread is less than `tolerance_s`.
    Raises ConfigError, with the remedy, where message_filters is not installed.
    """

    next_deadline_ns = None
    """Sets are complete or not there: nothing is waited for."""

    def __init__(self, cameras: Sequence[str], *, exact: bool, period_s: float, tolerance_s: float,
                 min_views: int = 2) -> None:
        try:
            import message_filters
        except ImportError:
            policy = 'exact' if exact else 'approximate'
            raise ConfigError(f"parameter sync.policy is '{policy}', and message_filters is not installed here: "
                              'install it (apt install ros-$ROS_DISTRO-message-filters), or set sync.policy: deadline, '
                              'which needs nothing') from None
        self._filters = message_filters
        self._exact = exact
        self._tolerance_s = tolerance_s
        # The spread of a set is less than that.
        self._spread_ns = 1 if exact else round(tolerance_s * _NS)
        self._period_ns = round(period_s * _NS)
        self.cameras = tuple(cameras)
        self.min_views = min_views
        self._lines = TimeLines(self.cameras, self._period_ns, FUTURE_S, JUMP_S)
        self.statistics = Statistics({name: line.statistics for name, line in self._lines.of.items()})
        self._ready: deque[MatchedSet] = deque()
        self._start_anew()

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> None:
        """Take one message that arrived at `now_ns`; raises KeyError for an unknown camera."""
        line = self._lines.of[camera]
        now_ns = self._advance_clock(now_ns)
        statistics = line.statistics
        statistics.received += 1
        head_ns = line.head_ns
        reason = self._lines.refuse(line, stamp_ns, now_ns)
        statistics.last_arrival_ns = now_ns
        if reason is not None:
            statistics.drops[reason] += 1
            return
        if head_ns is not None and stamp_ns <= head_ns:
            # Wound back: message_filters would keep the messages of before and throw away those that come now.
            self._set_up(self._members)
        if self._lines.wound_back(line, now_ns):
            self._restart()
        if self._since_ns is None:
            self._since_ns = stamp_ns
        self._put(camera, Message(stamp_ns, now_ns, payload))
        self._regroup(stamp_ns)

    def poll(self, now_ns: int) -> list[MatchedSet]:
        """Sets, oldest first; each is given once."""
        self._advance_clock(now_ns)
        ready = list(self._ready)
        self._ready.clear()
        return ready

    def _advance_clock(self, now_ns: int) -> int:
        now_ns, jumped = self._lines.advance_clock(now_ns)
        if jumped:
            self._restart()
        return now_ns

    def _restart(self) -> None:
        self._lines.start_anew()
        self.statistics.resets += 1
        self._start_anew()

    def _start_anew(self) -> None:
        self._last_set_ns: int | None = None
        self._recent_sets_ns: deque[int] = deque(maxlen=4 * _RING)
        self._since_ns: int | None = None
        self._set_up(self.cameras)

    def _set_up(self, members: tuple[str, ...]) -> None:
        """Synchronise these cameras, with the messages of theirs that were not used yet."""
        self._members = members
        for name, line in self._lines.of.items():
            line.statistics.awaited = name in members
            if name not in members:
                # It matches again by what comes from here on.
                line.drop_ring('unmatched')
        self._inputs = {name: self._filters.SimpleFilter() for name in members}
        if self._exact:
            synchroniser = self._filters.TimeSynchronizer(list(self._inputs.values()), _RING)
        else:
            synchroniser = self._filters.ApproximateTimeSynchronizer(
                list(self._inputs.values()), _RING, self._tolerance_s)
        synchroniser.registerCallback(self._take_set)
        waiting = [(message, name) for name in members for message in self._lines.of[name].ring]
        for name in members:
            self._lines.of[name].ring.clear()
        for message, name in sorted(waiting, key=lambda item: item[0].stamp_ns):
            self._put(name, message)

    def _put(self, camera: str, message: Message) -> None:
        ring = self._lines.of[camera].ring
        ring.append(message)
        if len(ring) > _RING:
            # As message_filters does: it throws away the oldest of its own.
            ring.popleft()
            self._lines.of[camera].statistics.drops['unmatched'] += 1
        if camera in self._inputs:
            self._inputs[camera].signalMessage(message.payload)

    def _take_set(self, *payloads: Any) -> None:
        """Called by message_filters with one message of each member."""
        chosen: dict[str, Message] = {}
        for name, payload in zip(self._members, payloads):
            ring = self._lines.of[name].ring
            index = next(i for i, message in enumerate(ring) if message.payload is payload)
            chosen[name] = ring[index]
            del ring[index]
        stamp_ns = chosen[self._members[0]].stamp_ns
        if self._last_set_ns is not None and stamp_ns <= self._last_set_ns:
            for name in chosen:
                self._lines.of[name].statistics.drops['late'] += 1
            return
        for name, message in chosen.items():
            statistics = self._lines.of[name].statistics
            statistics.used += 1
            statistics.offset_ns = message.stamp_ns - stamp_ns
        complete = len(chosen) == len(self.cameras)
        if complete:
            self.statistics.sets_complete += 1
        else:
            self.statistics.sets_partial += 1
        self._last_set_ns = self._since_ns = stamp_ns
        self._recent_sets_ns.append(stamp_ns)
        if len(self._ready) >= _RING:
            self._ready.popleft()
            self.statistics.sets_unclaimed += 1
        self._ready.append(MatchedSet(
            stamp_ns, {name: (message.stamp_ns, message.payload) for name, message in chosen.items()},
            min(message.arrival_ns for message in chosen.values()), complete))

    def _regroup(self, stamp_ns: int) -> None:
        """Leave out the cameras for want of which no set comes, and take in those that match again."""
        back = {name for name, line in self._lines.of.items() if name not in self._members and any(
            abs(message.stamp_ns - set_ns) < self._spread_ns for message in line.ring
            for set_ns in self._recent_sets_ns)}
        if back:
            members = {*self._members, *back}
        elif stamp_ns - self._since_ns > _STALL_PERIODS * self._period_ns:
            members = self._largest_group()
            self._since_ns = stamp_ns
        else:
            return
        if len(members) >= self.min_views and members != set(self._members):
            self.statistics.regroups += 1
            self._set_up(tuple(name for name in self.cameras if name in members))

    def _largest_group(self) -> set[str]:
        """The cameras that could give a set after the last one, if the others were not needed."""
        stamps_ns = {name: [message.stamp_ns for message in line.ring
                            if self._last_set_ns is None or message.stamp_ns > self._last_set_ns]
                     for name, line in self._lines.of.items()}
        groups = [{name for name, others in stamps_ns.items()
                   if any(0 <= other_ns - first_ns < self._spread_ns for other_ns in others)}
                  for of_camera in stamps_ns.values() for first_ns in of_camera]
        return max(groups, key=len, default=set())
