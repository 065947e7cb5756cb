"""The rate that a machine can render at."""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 9
# With this much to spare over the time of rendering, since others work on the machine as well.
_HEADROOM = 1.5
# The rate that was asked for comes back when rendering takes less than this part of its period.
_RETURN = 0.8


class RenderingPace:
    """Time between two images, nanoseconds: the one that was asked for, or a longer one where rendering takes longer."""

    def __init__(self, asked_ns: int) -> None:
        self.asked_ns = self.period_ns = asked_ns
        self.rendering_ns = 0
        self._spent_ns: deque[int] = deque(maxlen=WINDOW)

    @property
    def lowered(self) -> bool:
        """Whether the rate is below the one that was asked for."""
        return self.period_ns > self.asked_ns

    def add(self, spent_ns: int) -> None:
        """Take account of one image of all cameras. A single slow one, as a machine has now and then, changes nothing:
        the median of the last WINDOW counts."""
        self._spent_ns.append(spent_ns)
        if len(self._spent_ns) < WINDOW // 2 + 1:
            return
        self.rendering_ns = round(median(self._spent_ns))
        if self.rendering_ns > self.asked_ns or (self.lowered and self.rendering_ns > _RETURN * self.asked_ns):
            self.period_ns = max(self.asked_ns, round(_HEADROOM * self.rendering_ns))
        else:
            self.period_ns = self.asked_ns
