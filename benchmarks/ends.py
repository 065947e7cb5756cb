"""How long processes take to end while others end: `python benchmarks/ends.py [--ends 2000]`.

Four publishers and a subscriber start together, talk, and are interrupted together, over and over: the moment at which
Fast DDS 3.2 now and then spins for ever in `DomainParticipant::set_listener`. Each is a process with a node run by
`run_node`, forked from this one, which has everything imported; each ends through the C library's `exit`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import time

import numpy as np
import rclpy  # noqa: F401 (loaded once, before the forks)
from rclpy.node import Node
from std_msgs.msg import String

from hand_unc_ros.nodes.process import run_node

PUBLISHERS = 4
# The promise, and after how long a process that does not end is killed.
PROMISED_S, LOST_S = 5.0, 15.0


class Talker(Node):
    """Publishes on a topic of its own, or listens to all of them, and says through a pipe that it is up."""

    def __init__(self, number: int, ready: int) -> None:
        super().__init__(f'talker{number}')
        self._ready = ready
        self._messages = 0
        if number < PUBLISHERS:
            words = self.create_publisher(String, f'words{number}', 5)
            self.create_timer(0.02, lambda: words.publish(String(data='word')))
            os.write(ready, b'.')
        else:
            for other in range(PUBLISHERS):
                self.create_subscription(String, f'words{other}', self._take, 5)

    def _take(self, _: String) -> None:
        self._messages += 1
        if self._messages == PUBLISHERS:
            os.write(self._ready, b'.')


def start(number: int, ready: int) -> int:
    process = os.fork()
    if process:
        return process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = run_node(f'talker{number}', lambda: Talker(number, ready), [])
    ctypes.CDLL(None).exit(status)
    raise AssertionError('exit has returned')


def end_round() -> list[tuple[float, int]]:
    """Seconds from the interrupt to the end and the status of each process; the time is infinite for a killed one."""
    here, there = os.pipe()
    processes = [start(number, there) for number in range(PUBLISHERS + 1)]
    os.close(there)
    up = 0
    while up < len(processes):
        up += len(os.read(here, len(processes)))
    os.close(here)
    begin = time.monotonic()
    for process in processes:
        os.kill(process, signal.SIGINT)
    ends: dict[int, tuple[float, int]] = {}
    while len(ends) < len(processes):
        for process in set(processes) - set(ends):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                ends[process] = (time.monotonic() - begin, os.waitstatus_to_exitcode(status))
            elif time.monotonic() - begin > LOST_S:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                ends[process] = (float('inf'), -signal.SIGKILL)
        time.sleep(0.002)
    return list(ends.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ends', type=int, default=2000)
    args = parser.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    ends: list[tuple[float, int]] = []
    while len(ends) < args.ends:
        ends += end_round()
    seconds = np.array([duration for duration, _ in ends])
    print(json.dumps({
        'ends': len(ends), 'above_5_s': int((seconds > PROMISED_S).sum()), 'above_1_s': int((seconds > 1.0).sum()),
        'killed': int(np.isinf(seconds).sum()), 'status_not_0': sum(status != 0 for _, status in ends),
        'p50_s': round(float(np.median(seconds)), 3), 'p99_s': round(float(np.quantile(seconds, 0.99)), 3),
        'max_s': round(float(seconds.max()), 2)}))


if __name__ == '__main__':
    main()
