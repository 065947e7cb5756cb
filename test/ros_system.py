"""Processes and a listener for tests with real nodes: all waits are for conditions, none for a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from repository import TESTS
from visualization_msgs.msg import MarkerArray

from hand_unc_ros.msg import HandJointsWithCovariance, ViewEstimate
from hand_unc_ros.processes.shared_memory import remove_dead_segments
from hand_unc_ros.processes.supervise import end_processes

# For what takes milliseconds on an idle machine; a process start takes seconds on a busy one.
PATIENCE_S = 30.0
LEAVING_S = 1.0


class Process:
    """A child process whose output is kept for the report of a failure."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open('ab') as output:
            self._process = subprocess.Popen([sys.executable, *map(str, arguments)], stdin=subprocess.PIPE,
                                             stdout=output, stderr=subprocess.STDOUT, text=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, **settings: Any) -> None:
        self._process.stdin.write(json.dumps(settings) + '\n')
        self._process.stdin.flush()

    def kill(self) -> None:
        """As a crash would: no goodbye."""
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        """As Ctrl-C."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        try:
            return self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f'{self.log.name} did not end:\n{self.log.read_text()[-3000:]}') from None


def end(processes: Sequence[Process]) -> None:
    """End the living ones as the package ends what it starts. Fails where one had to be killed."""
    killed = end_processes({f'{process.log.name} ({process.pid})': process._process for process in processes})
    assert not killed, f'{", ".join(killed)} did not end'


def take_down(context: rclpy.Context, *nodes: Node) -> None:
    """Destroy nodes of this process, and their context, when the other participants have left.

    Fast DDS 3.2 may hang where others come and go at that moment (see processes/exit_deadline.py), and this process has
    other tests to run. Those that were killed are not seen to leave. Safe to call twice.
    """
    if not context.ok():
        return
    own = {(node.get_name(), node.get_namespace()) for node in nodes}
    end_s = time.monotonic() + LEAVING_S
    while nodes and time.monotonic() < end_s and set(nodes[0].get_node_names_and_namespaces()) - own:
        time.sleep(0.01)
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


class Listener:
    """Collects the node's topics: (arrival by the monotonic clock, message)."""

    def __init__(self, namespace: str = '/hand') -> None:
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=int(os.environ['ROS_DOMAIN_ID']))
        self.node = Node('listener', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.hands: list[tuple[float, HandJointsWithCovariance]] = []
        self.markers: list[tuple[float, MarkerArray]] = []
        self.views: list[tuple[float, ViewEstimate]] = []
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.status_count = 0
        best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        for kind, topic, store, qos in (
                (HandJointsWithCovariance, 'joints_with_covariance', self.hands, 10),
                (MarkerArray, 'markers', self.markers, 10),
                (ViewEstimate, 'view_estimates', self.views, best_effort)):
            def take(message: Any, store: list = store) -> None:
                store.append((time.monotonic(), message))

            self.node.create_subscription(kind, f'{namespace}/{topic}', take, qos)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._take_diagnostics, 10)

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses = {status.name.removeprefix('hand_unc_ros: '): status for status in message.status}
        self.status_count += 1

    def close(self) -> None:
        self._executor.shutdown()
        take_down(self._context, self.node)

    def until(self, condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> float:
        """Take messages until the condition holds; returns the seconds it took, fails after `patience_s`."""
        begin = time.monotonic()
        while not condition():
            if time.monotonic() - begin > patience_s:
                told = {name: (status.level[0], status.message) for name, status in self.statuses.items()}
                raise AssertionError(f'{what}: not within {patience_s:g} s; {len(self.hands)} hands, {told}')
            self._executor.spin_once(timeout_sec=0.02)
        return time.monotonic() - begin

    def hands_after(self, count: int, used: int | None = None, patience_s: float = PATIENCE_S) -> list[Any]:
        """The next `count` hands, or the next that use `used` views, in a row."""
        begin = len(self.hands)

        def there() -> bool:
            recent = self.hands[begin:][-count:]
            return len(recent) == count and (used is None or all(sum(m.view_used) == used for _, m in recent))

        self.until(there, f'{count} hands with {used or "any number of"} views', patience_s)
        return [message for _, message in self.hands[begin:][-count:]]

    def until_status(self, name: str, level: bytes, *words: str,
                     patience_s: float = PATIENCE_S) -> DiagnosticStatus:
        """Wait for a diagnostic of that level with these words in its message."""
        self.until(lambda: name in self.statuses and self.statuses[name].level == level
                   and all(word in self.statuses[name].message for word in words),
                   f'diagnostic {name} at level {level[0]} with {words}', patience_s)
        return self.statuses[name]

    def value(self, status: str, key: str) -> str:
        """A value of the newest diagnostic, '' when it is not there."""
        pairs = self.statuses[status].values if status in self.statuses else ()
        return next((pair.value for pair in pairs if pair.key == key), '')

    def until_count(self, status: str, key: str, least: int) -> None:
        self.until(lambda: int(self.value(status, key) or 0) >= least, f'{key} of {status} at least {least}')


class System:
    """Dot cameras and a `multiview` node as processes, and a listener."""

    def __init__(self, folder: Path, cameras: int, rate_hz: float) -> None:
        from dots import dot_rig, draw
        import numpy as np

        from hand_unc_ros.data.rigs import save_rig

        self._folder = folder
        self.rate_hz = rate_hz
        self.period_s = 1 / rate_hz
        self.rig = dot_rig(cameras)
        self.rig_file = folder / 'rig.yaml'
        save_rig(self.rig, self.rig_file)
        for camera in self.rig.cameras:
            np.save(folder / f'{camera.name}.npy', draw(camera))
        self.node = [TESTS / 'dot_multiview.py']
        self.processes: list[Process] = []
        self.cameras: dict[str, Process] = {}
        self.listener = Listener()

    def start_cameras(self, *names: str) -> None:
        for name in names or self.rig.names:
            self.cameras[name] = self._start([TESTS / 'dot_camera.py', name, self._folder / f'{name}.npy',
                                              self.rig_file, self.rate_hz], f'{name}.log')

    def start_node(self, **parameters: Any) -> Process:
        """The node in the namespace /hand; parameters with __ for a dot."""
        given = {'rig.file': str(self.rig_file), 'sync.period': self.period_s, 'diagnostics.period': 0.2}
        given.update({name.replace('__', '.'): value for name, value in parameters.items()})
        arguments = ['--autostart', '--ros-args', '-r', '__ns:=/hand']
        for name, value in given.items():
            arguments += ['-p', f'{name}:={json.dumps(value)}']
        return self._start([*self.node, *arguments], 'multiview.log')

    def show(self, rig: Any, images: dict[str, Any]) -> None:
        """Let the cameras of another rig show these images, and the shipped network look at them."""
        import numpy as np

        from hand_unc_ros.data.rigs import save_rig

        self.rig = rig
        save_rig(rig, self.rig_file)
        for name, image in images.items():
            np.save(self._folder / f'{name}.npy', image)
        self.node = ['-m', 'hand_unc_ros.nodes.multiview']

    def _start(self, arguments: Sequence[Any], log: str) -> Process:
        process = Process(arguments, self._folder / log)
        self.processes.append(process)
        return process

    def close(self) -> None:
        try:
            end(self.processes)
        finally:
            self.listener.close()
            # A killed process leaves its shared memory behind.
            remove_dead_segments()


@contextmanager
def system(folder: Path, cameras: int = 4, rate_hz: float = 15.0) -> Iterator[System]:
    running = System(folder, cameras, rate_hz)
    try:
        yield running
    except AssertionError as error:
        logs = '\n'.join(f'--- {path.name}\n{path.read_text()[-2000:]}'
                         for path in sorted(folder.glob('*.log')))
        raise AssertionError(f'{error}\n{logs}') from error
    finally:
        running.close()
