"""SIGINT and SIGTERM as a flag that a loop looks at."""

from __future__ import annotations

import signal
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """From its making on, SIGINT and SIGTERM do nothing but set `came`; made in the main thread only.

    A KeyboardInterrupt would be swallowed where it is raised inside a destructor. A `threading.Event` takes a lock to
    be set, and a handler that interrupts its own thread inside that lock waits for ever: the flag is a plain one.
    """

    def __init__(self) -> None:
        self.came = False
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def _note(self, *_: Any) -> None:
        self.came = True

    def restore(self) -> None:
        """The handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
