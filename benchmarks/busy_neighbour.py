"""What one other busy process costs the live node: `python benchmarks/busy_neighbour.py [--bag DIR] [--repeats 3]`.

The demo (4 synthetic cameras, 640×480, no browser) on the idle machine and beside one spinning process, in turns: share
of the sets that were published, and latency. With --bag, `hand-unc evaluate --bag` with `threads: 0` as well, in seconds.
The machine must otherwise be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLI = (sys.executable, '-m', 'hand_unc_ros.cli')


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, '-c', 'while True: pass']) if busy else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def demo(rate_hz: float, duration_s: float) -> dict:
    """Share of the sets that were published, and p50 and p95 of the latency in ms."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / 'report.json'
        subprocess.run([*CLI, 'demo', '--headless', '--rate', str(rate_hz), '--duration', str(duration_s),
                        '--report', str(report)], check=True, stdout=subprocess.DEVNULL)
        measured = json.loads(report.read_text())
    # A rig that renders on the same cores sends fewer sets itself: the share is of those that were to be sent.
    return {'share': measured['sets_published'] / (rate_hz * duration_s),
            'of_sent': measured['sets_published'] / max(1, measured['sets_sent']),
            'p50_ms': measured['latency_ms']['p50'], 'p95_ms': measured['latency_ms']['p95']}


def evaluation(bag: Path, options: list[str], limit_s: float) -> dict:
    started = time.perf_counter()
    try:
        subprocess.run([*CLI, 'evaluate', '--bag', str(bag), *options], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {'seconds': float('inf')}
    return {'seconds': time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rate', type=float, default=15.0)
    parser.add_argument('--duration', type=float, default=20.0)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--bag', type=Path)
    parser.add_argument('--bag-option', action='append', default=[], help='of `hand-unc evaluate`, e.g. --rig=rig.yaml')
    parser.add_argument('--limit', type=float, default=300.0, help='seconds after which an evaluation is given up')
    args = parser.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    measured: dict[str, list[dict]] = {'idle': [], 'busy': []}
    for _ in range(args.repeats):
        for name, results in measured.items():
            with neighbour(name == 'busy'):
                result = demo(args.rate, args.duration)
                if args.bag:
                    result |= evaluation(args.bag, args.bag_option, args.limit)
            results.append(result)
    medians = {name: {key: round(statistics.median(result[key] for result in results), 3) for key in results[0]}
               for name, results in measured.items()}
    print(json.dumps(medians | {'share_busy_to_idle': round(medians['busy']['share'] / medians['idle']['share'], 3)}))


if __name__ == '__main__':
    main()
