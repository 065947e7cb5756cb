"""SIGINT and SIGTERM as a flag that a loop looks at."""

from __future__ import annotations

import signal
from typing import Any

from hand_unc_ros.processes.exit_deadline import ExitDeadline

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """From its making on, SIGINT and SIGTERM do nothing but set `came`; made in the main thread only.

    A KeyboardInterrupt would be swallowed where it is raised inside a destructor. A `threading.Event` takes a lock to
    be set, and a handler that interrupts its own thread inside that lock waits for ever: the flag is a plain one.

    leave_s: the process is gone so long after the first signal, with status 0, whatever it does; None: it decides itself.
    """

    def __init__(self, leave_s: float | None = None) -> None:
        self.came = False
        self._leave_s = leave_s
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def _note(self, *_: Any) -> None:
        if not self.came and self._leave_s is not None:
            ExitDeadline(self._leave_s, status=0)
        self.came = True

    def restore(self) -> None:
        """The handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
