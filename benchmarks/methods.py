"""A frame set by each method and runtime: `python benchmarks/methods.py BAG [--sets 60] [--repeats 3]`.

The same sets go through `jump_hand` and `landmarks`, each on torch and on OpenVINO, and `landmarks` with both hands, in
turns, on the machine as it is and beside one spinning process. Printed, one JSON line each: median and 95th percentile
of the time from images to the estimate, and median of the process's own processor time, which others on the machine
touch less, ms, over sets in which all hands were followed; the ratio to `jump_hand` on torch; the share of sets with all
hands, and with any.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from busy_neighbour import neighbour

from hand_unc_ros import HandTracker, load_bag

VARIANTS = (('jump_hand', 'none', 'right'), ('jump_hand', 'openvino', 'right'), ('landmarks', 'none', 'right'),
            ('landmarks', 'openvino', 'right'), ('landmarks', 'none', 'both'), ('landmarks', 'openvino', 'both'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bag', type=Path)
    parser.add_argument('--sets', type=int, default=60)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=0)
    arguments = parser.parse_args()
    recording = load_bag(arguments.bag)
    sets = [(frames.images, frames.stamp_ns) for frames in itertools.islice(recording, arguments.sets)]
    trackers = [HandTracker(recording.rig, method=method, acceleration=acceleration, handedness=hands,
                            threads=arguments.threads) for method, acceleration, hands in VARIANTS]
    for busy in (False, True):
        measured: list[list[tuple[int, int, float, float]]] = [[] for _ in trackers]
        with neighbour(busy):
            for _ in range(arguments.repeats):
                for times, tracker in zip(measured, trackers):
                    tracker.reset()
                    times += run(tracker, sets)
        first = None
        for (method, acceleration, hands), rows in zip(VARIANTS, measured):
            line = summary(rows, 2 if hands == 'both' else 1)
            first = first or line
            print(json.dumps({'method': method, 'acceleration': acceleration, 'hands': hands, 'busy': busy,
                              'views': len(recording.cameras), **line,
                              'to_jump_hand': ratio(line['p50_ms'], first['p50_ms'])}), flush=True)


def run(tracker: HandTracker, sets: Sequence[tuple]) -> list[tuple[int, int, float, float]]:
    """Of each set: hands in it and in the set before, ms by the clock and of the processor."""
    rows, before = [], 0
    for images, stamp_ns in sets:
        started = time.perf_counter(), time.process_time()
        here = len(tracker.process(images, stamp_ns).hands)
        rows.append((here, before, 1e3 * (time.perf_counter() - started[0]), 1e3 * (time.process_time() - started[1])))
        before = here
    return rows


def ratio(ms: float | None, first_ms: float | None) -> float | None:
    return round(ms / first_ms, 3) if ms and first_ms else None


def summary(rows: Sequence[tuple[int, int, float, float]], hands: int) -> dict[str, float | None]:
    """hands: those that were looked for.  None where they were never followed."""
    here, before, clock, processor = np.array(rows).T
    followed = (here == hands) & (before == hands)
    if not followed.any():
        return {'p50_ms': None, 'p95_ms': None, 'processor_ms': None, 'with_all': 0.0,
                'with_hand': round(float((here > 0).mean()), 3)}
    return {'p50_ms': round(float(np.median(clock[followed])), 2),
            'p95_ms': round(float(np.percentile(clock[followed], 95)), 2),
            'processor_ms': round(float(np.median(processor[followed])), 2),
            'with_all': round(float((here == hands).mean()), 3), 'with_hand': round(float((here > 0).mean()), 3)}


if __name__ == '__main__':
    main()
