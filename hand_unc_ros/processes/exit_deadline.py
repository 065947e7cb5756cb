"""A deadline for the end of a process that holds whatever native code is stuck in.

Fast DDS 3.2 can spin for ever while a participant is destroyed: `DomainParticipant::set_listener` waits for a listener
callback whose end it misses, mostly when other participants come and go. rclpy calls it with the interpreter's lock
held, so no Python thread, no signal handler and no `atexit` function runs any more. The deadline is therefore a timer of
the C library that calls `_exit` in a thread of its own, without Python.
"""

from __future__ import annotations

import ctypes
import os
import time

# A process is gone so long after it was asked to end, whatever it was doing.
LEAVE_S = 3.0
# What the end of ROS objects may take where everything else has been finished before; usually some ten milliseconds.
DESTROY_S = 1.0

_SIGEV_THREAD = 2


class _Sigevent(ctypes.Structure):
    """`struct sigevent` of Linux on 64-bit machines."""

    _fields_ = [('value', ctypes.c_void_p), ('signo', ctypes.c_int), ('notify', ctypes.c_int),
                ('function', ctypes.c_void_p), ('attributes', ctypes.c_void_p), ('padding', ctypes.c_byte * 32)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [('interval_s', ctypes.c_long), ('interval_ns', ctypes.c_long),
                ('value_s', ctypes.c_long), ('value_ns', ctypes.c_long)]


_libc = ctypes.CDLL(None, use_errno=True)


class ExitDeadline:
    """From its making on, the process ends with `status` after `seconds`, unless `cancel` is called before.

    Nothing of Python runs then: no `finally`, no `atexit`, no flush. Raises OSError where the system gives no timer.
    """

    def __init__(self, seconds: float, status: int) -> None:
        event = _Sigevent(value=status, notify=_SIGEV_THREAD,
                          function=ctypes.cast(_libc._exit, ctypes.c_void_p).value)
        self._timer: ctypes.c_void_p | None = ctypes.c_void_p()
        _check(_libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)))
        whole_s, part_s = divmod(seconds, 1.0)
        spec = _Itimerspec(value_s=int(whole_s), value_ns=max(1, int(part_s * 1e9)))
        _check(_libc.timer_settime(self._timer, 0, ctypes.byref(spec), None))

    def cancel(self) -> None:
        """Let the process live on; safe to call twice."""
        if self._timer is not None:
            _check(_libc.timer_delete(self._timer))
            self._timer = None


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
