"""A frame set by each method and runtime on a recording: `python benchmarks/methods.py BAG [--sets 60] [--repeats 3]`.

The same sets go through `jump_hand`, `landmarks` on torch and `landmarks` on OpenVINO in turns, on the machine as it is
and beside one spinning process. Printed, one JSON line each: median and 95th percentile of the time from images to the
estimate, ms, over sets in which a hand was followed, its ratio to `jump_hand`, and the share of sets with a hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
from busy_neighbour import neighbour

from hand_unc_ros import HandTracker, load_bag

VARIANTS = (('jump_hand', 'none'), ('landmarks', 'none'), ('landmarks', 'openvino'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bag', type=Path)
    parser.add_argument('--sets', type=int, default=60)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--threads', type=int, default=0)
    arguments = parser.parse_args()
    recording = load_bag(arguments.bag)
    sets = [(frames.images, frames.stamp_ns) for frames in itertools.islice(recording, arguments.sets)]
    trackers = [HandTracker(recording.rig, method=method, acceleration=acceleration, threads=arguments.threads)
                for method, acceleration in VARIANTS]
    for busy in (False, True):
        followed: list[list[float]] = [[] for _ in trackers]
        found = [0] * len(trackers)
        with neighbour(busy):
            for _ in range(arguments.repeats):
                for row, tracker in enumerate(trackers):
                    tracker.reset()
                    before = False
                    for images, stamp_ns in sets:
                        started = time.perf_counter()
                        here = bool(tracker.process(images, stamp_ns).hands)
                        if here and before:
                            followed[row].append(1e3 * (time.perf_counter() - started))
                        found[row], before = found[row] + here, here
        for (method, acceleration), times, count in zip(VARIANTS, followed, found):
            print(json.dumps({
                'method': method, 'acceleration': acceleration, 'busy': busy, 'views': len(recording.cameras),
                'p50_ms': round(float(np.median(times)), 2), 'p95_ms': round(float(np.percentile(times, 95)), 2),
                'to_jump_hand': round(float(np.median(times) / np.median(followed[0])), 3),
                'with_hand': round(count / len(sets) / arguments.repeats, 3)}), flush=True)


if __name__ == '__main__':
    main()
