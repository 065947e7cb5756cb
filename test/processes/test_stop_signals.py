"""SIGINT and SIGTERM end a loop, whenever they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hand_unc_ros.processes.stop_signals import StopSignals

# Asks as often as it can, so that a signal comes at any point of the asking.
ROUNDS = 50
ASKING = f"""
from hand_unc_ros.processes.stop_signals import StopSignals
for _ in range({ROUNDS}):
    signals = StopSignals()
    print('asking', flush=True)
    while not signals.came:
        pass
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_the_flag_and_the_handlers_of_before_come_back(number: int) -> None:
    before = signal.getsignal(number)
    signals = StopSignals()
    try:
        assert not signals.came
        os.kill(os.getpid(), number)
        assert signals.came
    finally:
        signals.restore()
    assert signal.getsignal(number) is before


def test_signals_at_any_moment_end_the_loop() -> None:
    program = subprocess.Popen([sys.executable, '-c', ASKING], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(ROUNDS):
            assert program.stdout.readline() == 'asking\n'
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                program.send_signal(number)
        assert program.wait(30) == 0
    finally:
        program.kill()
