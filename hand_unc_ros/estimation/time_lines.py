"""Which messages can be right by their stamps, and when the time line of most cameras was wound back.

A message not newer than its camera's newest is a duplicate or out of order. Two messages in a row, ascending, more than
`jump_s` older (five in a row when less) mean that this camera's time line was wound back. When that holds for most of
the cameras that speak, or `now` itself jumps back, the output time line starts anew; a lone camera with a wrong clock
stays late and is reported, and a lone wrong stamp changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from hand_unc_ros.estimation.camera_timeline import CameraTimeline

FUTURE_S = 0.2
JUMP_S = 0.5
_NS = 1_000_000_000
_REWIND_RUN = 2
_SMALL_REWIND_RUN = 5


class TimeLines:
    """The time lines of all cameras, and the clock of their arrivals.

    cameras: names.  period_ns: nominal period.  future_s: how far ahead of `now` a stamp may be, for clocks that differ
    a little.  jump_s: a step back by more than this is taken for a loop or a seek after two messages.
    of: name → its time line.
    """

    def __init__(self, cameras: Sequence[str], period_ns: int, future_s: float, jump_s: float) -> None:
        self.of = {name: CameraTimeline(name, period_ns) for name in cameras}
        self._period_ns = period_ns
        self._future_ns = round(future_s * _NS)
        self._jump_ns = round(jump_s * _NS)
        self._now_ns: int | None = None

    def advance_clock(self, now_ns: int) -> tuple[int, bool]:
        """The clock, which never steps back a little, and whether it has jumped back: then nothing is known any more,
        and the caller starts anew."""
        jumped = self._now_ns is not None and now_ns < self._now_ns - self._jump_ns
        if jumped:
            for line in self.of.values():
                line.drop_ring('reset')
                line.forget()
                line.statistics.last_arrival_ns = None
        elif self._now_ns is not None:
            now_ns = max(now_ns, self._now_ns)
        self._now_ns = now_ns
        return now_ns, jumped

    def refuse(self, line: CameraTimeline, stamp_ns: int, now_ns: int) -> str | None:
        """The reason for which a message is dropped on arrival, or None; keeps the camera's time line.

        A `now_ns` of 0 or less stands for a clock that does not run yet: stamps are then not held against it.
        """
        if stamp_ns <= 0:
            return 'zero_stamp'
        if 0 < now_ns < stamp_ns - self._future_ns:
            return 'future'
        if line.head_ns is not None and stamp_ns <= line.head_ns:
            line.note_older(stamp_ns)
            far = line.head_ns - stamp_ns > self._jump_ns
            if line.older_run < (_REWIND_RUN if far else _SMALL_REWIND_RUN):
                return 'duplicate' if line.is_duplicate(stamp_ns) else 'out_of_order'
            line.drop_ring('reset')
            line.forget()
            line.rewound = True
        line.advance(stamp_ns)
        line.statistics.last_stamp_ns = stamp_ns
        return None

    def wound_back(self, speaking: CameraTimeline, now_ns: int) -> bool:
        """Whether, with the message that `speaking` has just given, most cameras have gone back in time."""
        if not speaking.rewound:
            return False
        horizon_ns = now_ns - max(_NS, 4 * self._period_ns)
        rewound = others = 0
        for line in self.of.values():
            arrival_ns = line.statistics.last_arrival_ns
            if line is speaking or (arrival_ns is not None and arrival_ns >= horizon_ns):
                rewound += line.rewound
                others += not line.rewound
        return rewound > others

    def start_anew(self) -> None:
        """What still belongs to the old time line is thrown away."""
        for line in self.of.values():
            if not line.rewound:
                line.drop_ring('reset')
                # A camera that went silent long ago may come back at any stamp of the new time line.
                if not line.statistics.awaited:
                    line.forget()
            line.rewound = False
            line.in_last_set = False
