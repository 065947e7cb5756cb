"""Cost per message of the synchroniser, in a normal stream and at its worst.

    python benchmarks/synchroniser.py

Normal: N cameras at 30 Hz, 2 ms jitter, 1 % loss, random transport delay. Worst: full rings of which no set
can be made, the case in which a search over all combinations takes seconds. The bound asserted is 0.25 ms per
message at 16 cameras, a hundredth of what 16 cameras at 30 Hz leave for a message on one core, generously.
"""

from __future__ import annotations

import json
import random
import time

from hand_unc_ros.estimation.synchroniser import Synchroniser

PERIOD_NS = 33_333_333


def normal_stream(cameras: int, frames: int) -> list[tuple[int, str, int]]:
    """(arrival, camera, stamp) of every message, in order of arrival."""
    rng = random.Random(0)
    events = []
    for frame in range(1, frames + 1):
        for camera in range(cameras):
            if rng.random() < 0.01:
                continue
            stamp = frame * PERIOD_NS + rng.randint(-2_000_000, 2_000_000)
            events.append((stamp + rng.randint(1_000_000, 8_000_000), f'cam{camera}', stamp))
    return sorted(events)


def hopeless_stream(cameras: int, frames: int) -> list[tuple[int, str, int]]:
    """Stamps of different cameras that are never within the tolerance of one another."""
    return [(frame * PERIOD_NS, f'cam{camera}', frame * PERIOD_NS + camera * 3_600 * 1_000_000_000)
            for frame in range(1, frames + 1) for camera in range(cameras)]


def cost_us(events: list[tuple[int, str, int]], cameras: int, now_offset_ns: int) -> dict[str, float]:
    synchroniser = Synchroniser([f'cam{i}' for i in range(cameras)], period_s=1 / 30, deadline_s=1 / 30,
                                tolerance_s=0.01)
    costs = []
    sets = 0
    for arrival, camera, stamp in events:
        start = time.perf_counter_ns()
        synchroniser.add(camera, stamp, None, arrival + now_offset_ns)
        sets += len(synchroniser.poll(arrival + now_offset_ns))
        costs.append((time.perf_counter_ns() - start) / 1000)
    costs.sort()
    return {'mean_us': round(sum(costs) / len(costs), 1), 'p99_us': round(costs[int(0.99 * len(costs))], 1),
            'sets': sets}


def main() -> None:
    results = {}
    for cameras in (4, 8, 16):
        results[cameras] = {
            'normal': cost_us(normal_stream(cameras, 500), cameras, 0),
            'hopeless': cost_us(hopeless_stream(cameras, 200), cameras, 10 ** 17),
        }
    print(json.dumps(results, indent=2))
    assert results[16]['normal']['mean_us'] < 250 and results[16]['hopeless']['mean_us'] < 250


if __name__ == '__main__':
    main()
