"""Programs that run together: started, watched, started again, and ended within seconds."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from hand_unc_ros.processes.exit_deadline import LEAVE_S
from hand_unc_ros.processes.shared_memory import remove_dead_segments, use_large_shared_memory
from hand_unc_ros.processes.stop_signals import StopSignals

_POLL_S = 0.05
# A node that dies sooner than this after its start would only be started in a circle.
_RESPAWN_MIN_LIFE_S = 5.0
# Signals that ask a process to end, and how long each is given. Ours leave by themselves LEAVE_S after the first one; the
# rest keeps a parent that has something of its own to end below five seconds.
_ESCALATION = ((signal.SIGINT, LEAVE_S + 0.3), (signal.SIGTERM, 0.3))


class Program(Protocol):
    """A process for `supervise`: its name, and its command line for a ROS parameter file."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def command(self, params: Path) -> list[str]:
        """The command line with the parameter file `params`."""
        ...


class _Running:
    """One program's process, started again when it dies, where that is wanted."""

    def __init__(self, program: Program, params: Path, respawn: bool) -> None:
        self.program = program
        self._command = program.command(params)
        self._respawn = respawn
        self._start()

    def _start(self) -> None:
        self._started_s = time.monotonic()
        # In a session of its own, so that Ctrl-C reaches it once, through us.
        self.process = subprocess.Popen(self._command, start_new_session=True)

    def dead(self) -> bool:
        """Whether it has ended for good; one that is to be started again is started here."""
        status = self.process.poll()
        if status is None:
            return False
        lived_s = time.monotonic() - self._started_s
        print(f'{self.program.name} ended with status {status} after {lived_s:.0f} s', file=sys.stderr)
        if not self._respawn or lived_s < _RESPAWN_MIN_LIFE_S:
            return True
        remove_dead_segments()
        self._start()
        return False


def supervise(programs: Sequence[Program], params: Path, respawn: bool = False,
              stop: Callable[[], bool] = lambda: False) -> int:
    """Run the programs until Ctrl-C (status 0), until `stop()` holds (0), or until one dies (1).

    The others are then ended too (`end_processes`), and their shared memory is given back.
    """
    use_large_shared_memory()
    # What nodes left behind that were killed in an earlier run.
    remove_dead_segments()
    running: list[_Running] = []
    signals = StopSignals()
    try:
        for program in programs:
            running.append(_Running(program, params, respawn))
        while not signals.came and not stop():
            if any([each.dead() for each in running]):
                return 1
            time.sleep(_POLL_S)
        return 0
    finally:
        end_processes({each.program.name: each.process for each in running})
        remove_dead_segments(min_age_s=0.0)
        signals.restore()


def end_processes(processes: Mapping[str, subprocess.Popen]) -> list[str]:
    """Interrupt the processes, by name, as Ctrl-C would. Whichever does not end is terminated, then killed, and named on
    stderr. Returns the names of the killed ones, within four seconds."""
    left = dict(processes)
    for number, patience_s in _ESCALATION:
        for name, process in left.items():
            if number != signal.SIGINT:
                print(f'{name} does not end; sending {number.name}', file=sys.stderr)
            process.send_signal(number)
        deadline_s = time.monotonic() + patience_s
        left = {name: process for name, process in left.items() if not _ended(process, deadline_s)}
    for name, process in left.items():
        print(f'{name} does not end; killing it', file=sys.stderr)
        process.kill()
        process.wait()
    return list(left)


def _ended(process: subprocess.Popen, deadline_s: float) -> bool:
    try:
        process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True
