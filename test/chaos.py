"""Chaos: real cameras' faults at random against the real node, under an observer that knows nothing of them.

    python test/chaos.py --minutes 15 --seed 0 --report chaos.json

Cameras, node and observer are processes over DDS on this machine: three synthetic cameras (chaos_camera.py) that give
their CameraInfo live, the node `multiview` with the network and the stand-in's mesh, and the observer
(chaos_observer.py), which checks every message. This process injects the faults of `DECK` in a random order, up to two
at a time, and starts what it kills. Exit status 0: no message broke an invariant, and output came back after every
fault.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from chaos_camera import FAULTS, INFOS
from ros_system import Process

from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.processes.discovery import keep_to_this_machine
from hand_unc_ros.processes.shared_memory import remove_dead_segments, use_large_shared_memory

HERE = Path(__file__).parent
CAMERAS, RATE_HZ, SIZE, FRAMES = 3, 8.0, (320, 240), 40
FAULTS_PER_MINUTE = 7.0
HOLD_S = (1.0, 6.0)
START_S = 120.0
# What a node may take to start again, on a busy machine, before the output counts as lost.
RECOVERY_S = 60.0
# The output may go back as long after a clock has.
BACK_S = 10.0
IMAGES = ('truncated', 'empty', 'garbage', 'noise', 'wrong_size', 'huge_size', 'wrong_step', 'encoding')
STAMPS = ('zero', 'future', 'duplicate', 'backwards')
# Kinds of faults, by how many of them are in a deck. `info` and `image` go through their own in turn.
DECK = {'info': 8, 'image': 8, 'stamps': 4, 'drop': 2, 'reorder': 2, 'kill camera': 2, 'stop camera': 2,
        'step camera': 2, 'kill node': 2, 'stop node': 2, 'clocks back': 2, 'clocks ahead': 1, 'blackout': 1,
        'noise everywhere': 1}
ALL = 'all'


@dataclass
class Fault:
    """What was done to whom, from when until when, seconds since 1970."""

    kind: str
    detail: str
    target: str
    begin_s: float
    until_s: float
    undo: Callable[[], None] = field(repr=False, default=lambda: None)


class Chaos:
    """The processes, and the faults that are under way."""

    def __init__(self, folder: Path, seed: int, transport: str = 'raw',
                 parameters: dict[str, Any] | None = None) -> None:
        self.folder, self.transport, self.seed = folder, transport, seed
        self.random = random.Random(seed)
        self.rig = ring_of_cameras(CAMERAS, size=SIZE, focal_px=0.875 * SIZE[0], seed=3)
        save_rig(self.rig, folder / 'rig.yaml')
        self._film()
        self.parameters = {
            'rig.file': str(folder / 'rig.yaml'), 'rig.intrinsics': 'camera_info', 'sync.period': 1 / RATE_HZ,
            'transport': transport, 'method': 'jump_hand', 'device': 'cpu', 'hand_model': 'stand-in',
            'publish.full_covariance': True, **(parameters or {})}
        self.active: list[Fault] = []
        self.faults: list[Fault] = []
        self.deaths: list[str] = []
        self.life = 0
        self.observer = Process([HERE / 'chaos_observer.py', folder / 'result.json', *self.rig.names],
                                folder / 'observer.log')
        self.cameras = {name: self._camera(name) for name in self.rig.names}
        self.node = self._node()
        self._deck: list[str] = []
        self._turns = {'info': 0, 'image': 0, 'stamps': 0}

    def _film(self) -> None:
        scene = Scene(load_hand_model(None), self.rig, 3)
        frames = [scene.images(index / RATE_HZ) for index in range(FRAMES)]
        for name in self.rig.names:
            np.save(self.folder / f'{name}.npy', np.stack([frame[name] for frame in frames]))

    def _camera(self, name: str) -> Process:
        return Process([HERE / 'chaos_camera.py', name, self.folder / f'{name}.npy', self.folder / 'rig.yaml', RATE_HZ,
                        self.transport, self.random.randrange(2 ** 31)], self.folder / f'{name}.log')

    def _node(self) -> Process:
        arguments = ['-m', 'hand_unc_ros.nodes.multiview', '--autostart', '--ros-args', '-r', '__ns:=/hand']
        for name, value in self.parameters.items():
            arguments += ['-p', f'{name}:={json.dumps(value)}']
        return Process(arguments, self.folder / 'node.log')

    # --- faults

    def inject(self) -> None:
        """The next fault of the deck, on a camera or the node that has none."""
        if not self._deck:
            self._deck = [kind for kind, count in DECK.items() for _ in range(count)]
            self.random.shuffle(self._deck)
        busy = {fault.target for fault in self.active}
        for place in reversed(range(len(self._deck))):
            target = self._target(self._deck[place], busy)
            if target is not None:
                self._begin(self._deck.pop(place), target)
                return

    def _target(self, kind: str, busy: set[str]) -> str | None:
        if kind.endswith('node'):
            return None if 'node' in busy else 'node'
        if kind in ('clocks back', 'clocks ahead', 'blackout', 'noise everywhere'):
            return None if busy - {'node'} else ALL
        free = [name for name in self.cameras if name not in busy and ALL not in busy]
        return self.random.choice(free) if free else None

    def _begin(self, kind: str, target: str) -> None:
        now_s = time.time()
        fault = Fault(kind, '', target, now_s, now_s + self.random.uniform(*HOLD_S))
        self.active.append(fault)
        self.faults.append(fault)
        self.observer.tell(calm=False)
        if kind in ('kill camera', 'kill node'):
            fault.undo = self._kill(target)
        elif kind in ('stop camera', 'stop node'):
            fault.undo = self._stop(target)
        else:
            settings = self._settings(kind)
            fault.detail = ', '.join(f'{name}: {value}' for name, value in settings.items())
            if kind == 'clocks back':
                self.observer.tell(back_until=fault.until_s + BACK_S)
            names = list(self.cameras) if target == ALL else [target]
            right = {name: FAULTS[name] for name in settings}
            for name in names:
                self.cameras[name].tell(**settings)
            fault.undo = lambda: [self.cameras[name].tell(**right) for name in names]

    def _settings(self, kind: str) -> dict[str, Any]:
        turns = {'info': tuple(INFOS), 'image': IMAGES, 'stamps': STAMPS}
        if kind in turns:
            self._turns[kind] += 1
            return {kind: turns[kind][self._turns[kind] % len(turns[kind])]}
        back_s, ahead_s = -self.random.uniform(1, 60), self.random.uniform(1, 60)
        return {'drop': {'drop': self.random.uniform(0.1, 0.9)}, 'reorder': {'reorder': self.random.uniform(0.2, 0.7)},
                'step camera': {'shift_s': self.random.choice([back_s, ahead_s])}, 'clocks back': {'shift_s': back_s},
                'clocks ahead': {'shift_s': ahead_s}, 'blackout': {'drop': 1.0},
                'noise everywhere': {'image': 'noise'}}[kind]

    def _kill(self, target: str) -> Callable[[], None]:
        if target == 'node':
            self.node.kill()
            # What is still on its way is of the old life.
            time.sleep(0.5)
            self.life += 1
            self.observer.tell(life=self.life)
        else:
            self.cameras[target].kill()

        def start() -> None:
            remove_dead_segments()
            if target == 'node':
                self.node = self._node()
            else:
                self.cameras[target] = self._camera(target)
        return start

    def _stop(self, target: str) -> Callable[[], None]:
        pid = (self.node if target == 'node' else self.cameras[target]).pid
        os.kill(pid, signal.SIGSTOP)
        return lambda: os.kill(pid, signal.SIGCONT)

    def end_due(self, now_s: float) -> None:
        """Undo the faults whose time is over."""
        due = [fault for fault in self.active if fault.until_s <= now_s]
        self.active = [fault for fault in self.active if fault.until_s > now_s]
        for fault in due:
            fault.undo()
            fault.until_s = time.time()
        if due:
            self.observer.tell(calm=not self.active)

    # --- the run

    def result(self) -> dict[str, Any]:
        try:
            return json.loads((self.folder / 'result.json').read_text())
        except FileNotFoundError:
            return {'arrivals_s': [], 'violations': []}

    def wait_for_hand(self) -> None:
        end_s = time.monotonic() + START_S
        while not self.result()['arrivals_s']:
            self._watch()
            if time.monotonic() > end_s or self.deaths:
                raise AssertionError(f'no hand to begin with: {self.deaths}, {self._said("node")[-3000:]}')
            time.sleep(0.2)

    def run(self, seconds: float) -> None:
        """Inject faults for so long, then let the last of them end."""
        begin_s = time.time()
        next_s = begin_s
        while (now_s := time.time()) < begin_s + seconds or self.active:
            self.end_due(now_s)
            if now_s >= next_s and now_s < begin_s + seconds and len(self.active) < 2:
                self.inject()
                next_s = now_s + self.random.uniform(0.5, 1.5) * 60.0 / FAULTS_PER_MINUTE
            self._watch()
            time.sleep(0.05)

    def _watch(self) -> None:
        """Nothing dies that was not killed."""
        down = {fault.target for fault in self.active if fault.kind.startswith('kill')}
        for name, process in {'node': self.node, 'observer': self.observer, **self.cameras}.items():
            if name not in down and (status := process.poll()) is not None:
                death = f'{name} ended by itself with status {status}'
                if death not in self.deaths:
                    self.deaths.append(death)

    def settle(self) -> None:
        """Wait until output has come back after the last fault, at most RECOVERY_S."""
        last_s, end_s = time.time(), time.time() + RECOVERY_S
        while time.time() < end_s and not any(arrival > last_s + 2.0 for arrival in self.result()['arrivals_s'][-3:]):
            time.sleep(0.5)

    def close(self) -> None:
        for fault in self.active:
            if fault.kind.startswith('stop'):
                fault.undo()
        for processes in ([self.observer], [self.node, *self.cameras.values()]):
            for process in processes:
                process.interrupt()
            for process in processes:
                try:
                    process.wait()
                except AssertionError as error:
                    # A violation like others, which must not cost the report.
                    self.deaths.append(str(error))
        remove_dead_segments()

    def _said(self, name: str) -> str:
        log = self.folder / f'{name}.log'
        return log.read_text(errors='replace') if log.exists() else ''

    def report(self) -> dict[str, Any]:
        """Counts, violations and how long the output was away after each fault; once everything has ended."""
        result = self.result()
        arrivals_s = np.array(result.pop('arrivals_s'))
        recoveries = {}
        for fault in self.faults:
            others = [other for other in self.faults if other.begin_s <= fault.until_s < other.until_s]
            after = arrivals_s[arrivals_s > fault.until_s]
            if not others:
                later_s = [other.begin_s for other in self.faults if other.begin_s > fault.until_s]
                away_s = float(after[0] - fault.until_s) if len(after) else np.inf
                if not later_s or away_s <= RECOVERY_S < np.inf and fault.until_s + away_s < min(later_s):
                    recoveries.setdefault(fault.kind, []).append(round(away_s, 2))
        violations = [*result.pop('violations'), *self.deaths]
        violations += [f'no output for {RECOVERY_S:.0f} s after {kind}' for kind, values in recoveries.items()
                       if max(values) > RECOVERY_S]
        violations += [f'{name}: Traceback in its log' for name in ('node', 'observer', *self.cameras)
                       if 'Traceback' in self._said(name)]
        return {**result, 'seed': self.seed, 'transport': self.transport, 'faults': len(self.faults),
                'faults_by_kind': dict(Counter(fault.kind for fault in self.faults)),
                'recovery_s': {kind: {'most': max(values), 'median': float(np.median(values)), 'times': len(values)}
                               for kind, values in sorted(recoveries.items())},
                'violations': violations,
                'injected': [{'kind': fault.kind, 'detail': fault.detail, 'target': fault.target,
                              'begin_s': fault.begin_s, 'until_s': fault.until_s} for fault in self.faults]}


def run_chaos(folder: Path, seconds: float, seed: int, transport: str = 'raw',
              parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """A chaos run whose logs and films go to `folder`; its report. parameters: of the node, beside its own."""
    chaos = Chaos(folder, seed, transport, parameters)
    try:
        chaos.wait_for_hand()
        chaos.run(seconds)
        chaos.settle()
    finally:
        chaos.close()
    return chaos.report()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=15.0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--transport', choices=('raw', 'compressed'), default='raw')
    parser.add_argument('--domain', type=int, default=99, help='ROS domain (default 99)')
    parser.add_argument('--report', type=Path, metavar='FILE', help='write the whole report as JSON')
    parser.add_argument('--logs', type=Path, metavar='DIR', help='keep the logs there')
    args = parser.parse_args()
    os.environ['ROS_DOMAIN_ID'] = str(args.domain)
    keep_to_this_machine()
    use_large_shared_memory()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = run_chaos(folder, 60 * args.minutes, args.seed, args.transport)
    if args.report is not None:
        args.report.write_text(json.dumps(report, indent=2) + '\n')
    print(json.dumps({name: value for name, value in report.items() if name != 'injected'}, indent=2))
    return 1 if report['violations'] else 0


if __name__ == '__main__':
    sys.exit(main())
