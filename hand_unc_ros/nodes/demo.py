"""`hand-unc demo`: a synthetic rig, the estimator and the browser view as separate processes, measured live."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

from hand_unc_ros import __version__
from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.files import write_file
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.methods import AUTOMATIC, known_hand
from hand_unc_ros.msg import HandJointsWithCovariance
from hand_unc_ros.nodes.messages import stamp_from_message
from hand_unc_ros.nodes.process import node_of_its_own
from hand_unc_ros.processes.supervise import Program, supervise
from hand_unc_ros.resources import resource
from hand_unc_ros.settings.node_specs import nodes_of

NAMESPACE = '/hand'
# Sets of the first seconds are not measured: processes start one after the other.
WARM_UP_S = 2.0
# A machine that has shown no hand for so long is said to be slow, and waited for.
PATIENCE_S = 90.0
# So many sets of images without a hand, and none with one, are no matter of time.
FRUITLESS_SETS = 40
TELL_EVERY_S = 10.0
LIFELIKE_MAP = 'models/lifelike.covariance_map.json'
# Time for the last sets to come out after the cameras have stopped counting.
DRAIN_S = 1.0


class Collector(Node):
    """Pairs estimates with the truth by their stamps. All times are this machine's, nanoseconds."""

    def __init__(self, context: Context) -> None:
        super().__init__('demo_collector', context=context)
        self.truths: dict[int, np.ndarray] = {}
        self.estimates: dict[int, tuple[HandJointsWithCovariance, int]] = {}
        self.stage_ms: dict[str, list[float]] = {}
        self.statuses: dict[str, str] = {}
        self.fruitless_sets = 0
        depth = QoSProfile(depth=50)
        self.create_subscription(HandJointsWithCovariance, f'{NAMESPACE}/ground_truth', self._take_truth, depth)
        self.create_subscription(HandJointsWithCovariance, f'{NAMESPACE}/joints_with_covariance',
                                 self._take_estimate, depth)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._take_diagnostics, depth)

    def _take_truth(self, message: HandJointsWithCovariance) -> None:
        self.truths[stamp_from_message(message.header.stamp)] = _points(message)

    def _take_estimate(self, message: HandJointsWithCovariance) -> None:
        self.estimates[stamp_from_message(message.header.stamp)] = (message, time.time_ns())

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.statuses[status.name] = status.message
            self.fruitless_sets = max([self.fruitless_sets, *(
                int(item.value) for item in status.values if item.key in ('sets_without_hand', 'sets_failed'))])
            for item in status.values:
                if item.key.startswith('stage_ms/'):
                    self.stage_ms.setdefault(item.key.removeprefix('stage_ms/'), []).append(float(item.value))

    def report(self, begin_ns: int, end_ns: int) -> dict:
        """Measurements over the sets whose capture stamps lie in [begin, end)."""
        sent = sorted(stamp for stamp in self.truths if begin_ns <= stamp < end_ns)
        published = [stamp for stamp in sent if stamp in self.estimates]
        report: dict = {'sets_sent': len(sent), 'sets_published': len(published),
                        'rate_hz': len(published) / ((end_ns - begin_ns) / 1e9)}
        latency_ms = [(self.estimates[stamp][1] - stamp) / 1e6 for stamp in published]
        report['latency_ms'] = {f'p{p}': float(np.percentile(latency_ms, p)) if latency_ms else None
                                for p in (50, 95, 99)}
        errors, blocks = [], []
        for stamp in published:
            message, _ = self.estimates[stamp]
            errors.append(np.where(np.array(message.valid)[:, None], _points(message) - self.truths[stamp], np.nan))
            blocks.append(np.array(message.covariance).reshape(21, 3, 3))
        report |= {'mpjpe_mm': None, 'coverage95': None, 'valid_joints': None}
        if published:
            error, covariance = np.concatenate(errors), np.concatenate(blocks)
            known = np.isfinite(error).all(axis=1)
            distance2 = mahalanobis_squared(error[known], covariance[known])
            report |= {'mpjpe_mm': 1e3 * float(np.linalg.norm(error[known], axis=1).mean()),
                       'coverage95': float((distance2 <= chi2_quantile(0.95, 3)).mean()),
                       'valid_joints': float(known.mean())}
        report['stage_ms'] = {name: float(np.median(values)) for name, values in self.stage_ms.items()}
        return report


def _points(message: HandJointsWithCovariance) -> np.ndarray:
    return np.array([(point.x, point.y, point.z) for point in message.joints])


def run_demo(args: Namespace) -> int:
    """Run until `args.duration` is over, Ctrl-C, or a node dies. Returns the exit status.

    args: headless, duration (s or None), report and record (paths or None), cameras, rate (Hz), seed, port.
    """
    if args.cameras < 2:
        raise ConfigError(f'--cameras is {args.cameras}; depth is observable from 2 cameras on')
    if args.report is not None and not args.report.absolute().parent.is_dir():
        raise ConfigError(f'--report: there is no folder {args.report.absolute().parent}')
    if args.report is not None and args.report.is_dir():
        raise ConfigError(f'--report: {args.report} is a folder; name a file')
    if args.report is not None and not args.duration:
        raise ConfigError('--report needs --duration: a report is written at the end')
    if args.record is not None and args.record.exists():
        raise ConfigError(f'--record: {args.record} is there already; name a new folder')
    with node_of_its_own(Collector) as collector, tempfile.TemporaryDirectory() as folder:
        params = _write_params(args, Path(folder))
        programs: list[Program] = [*nodes_of(params)]
        if args.record is not None:
            programs.append(_Recorder(args.record))
        executor = SingleThreadedExecutor(context=collector.context)
        executor.add_node(collector)
        # In a thread of its own, so that arrival times are those of the messages.
        spinner = threading.Thread(target=executor.spin, daemon=True)
        spinner.start()
        try:
            watch = _Watch(args, collector)
            status = supervise(programs, params, stop=watch.over)
            return status or watch.finish()
        finally:
            executor.shutdown()
            spinner.join(timeout=0.5)


def _write_params(args: Namespace, folder: Path) -> Path:
    rig_file = folder / 'rig.yaml'
    save_rig(ring_of_cameras(args.cameras, seed=args.seed), rig_file)
    # Raw images would be a gigabyte in half a minute.
    transport = {} if args.record is None else {'transport': 'compressed'}
    common = {'rig.file': str(rig_file), 'sync.period': 1.0 / args.rate, **transport}
    nodes = {
        'synthetic_rig': {'cameras': args.cameras, 'rate': float(args.rate), 'seed': args.seed,
                          'hand_model': known_hand(), **transport},
        'multiview': common | {'method': AUTOMATIC, 'hand_model': known_hand(), **_covariance_map(),
                               'publish.full_covariance': args.record is not None},
    }
    if not args.headless:
        nodes['viewer'] = common | {'port': args.port}
    params = folder / 'demo.yaml'
    write_file(params, yaml.safe_dump({f'{NAMESPACE}/{name}': {'ros__parameters': values}
                                       for name, values in nodes.items()}))
    return params


def _covariance_map() -> dict[str, str]:
    """The map that was fitted to lifelike synthetic hands, whose joints are not quite those that the networks were taught
    on photographs; the map that comes with the networks is for these."""
    return {'covariance_map': str(resource(LIFELIKE_MAP))} if known_hand() == ANNY else {}


class _Recorder(NamedTuple):
    """`hand-unc bag record` of the demo, with the truth."""

    output: Path
    name: str = 'recorder'

    def command(self, params: Path) -> list[str]:
        return [sys.executable, '-m', 'hand_unc_ros.cli', 'bag', 'record', '-o', str(self.output),
                '--params', str(params), '--topic', 'ground_truth']


class _Watch:
    """Tells how the demo goes, and when it is over."""

    def __init__(self, args: Namespace, collector: Collector) -> None:
        self.args = args
        self.collector = collector
        self.started_ns = self.told_ns = time.time_ns()
        self.begin_ns: int | None = None
        self.end_ns: int | None = None
        self.failed = self.waited = False
        print('starting the synthetic rig, the estimator' + ('' if args.headless else ' and the viewer')
              + '; the first start on a machine compiles the renderer, which takes a minute …', flush=True)

    def over(self) -> bool:
        now_ns = time.time_ns()
        if self.begin_ns is None:
            if self.collector.estimates:
                self._begin(now_ns)
            elif now_ns - self.started_ns > PATIENCE_S * 1e9:
                self._wait_on()
            return self.failed
        if now_ns - self.told_ns > TELL_EVERY_S * 1e9:
            print(_line(self.collector.report(max(self.begin_ns, self.told_ns), now_ns)), flush=True)
            self.told_ns = now_ns
        return self.end_ns is not None and now_ns > self.end_ns + DRAIN_S * 1e9

    def _wait_on(self) -> None:
        """Give up only where somebody waits for the end, and sets without a hand show that time does not help."""
        said = f'the nodes say: {self.collector.statuses or "nothing"}'
        if self.args.duration and self.collector.fruitless_sets >= FRUITLESS_SETS:
            print(f'no hand in {self.collector.fruitless_sets} sets of images; {said}', flush=True)
            self.failed = True
        elif not self.waited:
            self.waited = True
            page = '' if self.args.headless else f' at http://127.0.0.1:{self.args.port}'
            print(f'no hand after {PATIENCE_S:.0f} s: this machine is slow or busy, the demo goes on{page}; {said}',
                  flush=True)

    def _begin(self, now_ns: int) -> None:
        self.begin_ns = now_ns + int(WARM_UP_S * 1e9)
        self.told_ns = self.begin_ns
        if self.args.duration:
            self.end_ns = self.begin_ns + int(self.args.duration * 1e9)
        if not self.args.headless:
            print(f'the hand is at http://127.0.0.1:{self.args.port}  (Ctrl-C ends the demo)', flush=True)

    def finish(self) -> int:
        """Write the report that was asked for; the exit status."""
        if self.failed:
            return 1
        if self.end_ns is None or time.time_ns() < self.end_ns:
            return 0  # ended by Ctrl-C
        args = self.args
        report = self.collector.report(self.begin_ns, self.end_ns)
        print(_line(report))
        if args.report is not None:
            about = {'cameras': args.cameras, 'rate_requested_hz': args.rate, 'seed': args.seed,
                     'duration_s': args.duration, 'data': 'synthetic', 'alignment': 'none', 'version': __version__,
                     'processor': f'{platform.machine()}, {os.cpu_count()} cores'}
            write_file(args.report, json.dumps(report | about, indent=2) + '\n')
        return 0


def _line(report: dict) -> str:
    if not report['sets_published']:
        return f'no hand in {report["sets_sent"]} sets of images'
    latency = report['latency_ms']
    return (f'{report["sets_published"]} of {report["sets_sent"]} sets, {report["rate_hz"]:.1f} Hz, latency '
            f'{latency["p50"]:.0f} ms (p95 {latency["p95"]:.0f}), error {report["mpjpe_mm"]:.1f} mm, '
            f'{100 * report["coverage95"]:.0f} % inside their 95 % ellipsoids')
