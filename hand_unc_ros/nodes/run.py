"""`hand-unc run`: starts the nodes that a ROS parameter file names as processes, without `launch`."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import yaml

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.nodes.shared_memory import remove_dead_segments, use_large_shared_memory
from hand_unc_ros.nodes.stop_signals import StopSignals

# Nodes that can be started, and what goes before the ROS arguments.
NODES: dict[str, tuple[str, ...]] = {
    'multiview': ('hand_unc_ros.nodes.multiview', '--autostart'),
    'synthetic_rig': ('hand_unc_ros.nodes.synthetic_rig',),
    'viewer': ('hand_unc_ros.nodes.viewer',),
}
# Where a section `/**/multiview`, which fits any namespace, has its node started: as the launch files do.
DEFAULT_NAMESPACE = '/hand'
_POLL_S = 0.1
_GRACE_S = 10.0
# A node that dies sooner than this after its start would only be started in a circle.
_RESPAWN_MIN_LIFE_S = 5.0


class NodeSpec(NamedTuple):
    """A node to start: its name, one of NODES, and its namespace."""

    name: str
    namespace: str

    def command(self, params: Path) -> list[str]:
        module, *options = NODES[self.name]
        return [sys.executable, '-m', module, *options, '--ros-args', '--params-file', str(params),
                '-r', f'__ns:={self.namespace}']


class Program(Protocol):
    """What `supervise` starts: its name, and its command line for a ROS parameter file."""

    @property
    def name(self) -> str: ...

    def command(self, params: Path) -> list[str]: ...


def nodes_of(params: Path) -> list[NodeSpec]:
    """The nodes that a ROS parameter file (YAML) has sections for; `/hand/multiview` is multiview in /hand,
    and so is `/**/multiview`.

    Raises ConfigError when the file cannot be read, names no node, or one that is not ours.
    """
    try:
        content = yaml.safe_load(params.read_text())
    except OSError as error:
        raise ConfigError(f'{params}: {error.strerror}; give a ROS parameter file') from error
    except yaml.YAMLError as error:
        raise ConfigError(f'{params} is not YAML: {error}') from error
    if not isinstance(content, dict):
        raise ConfigError(f'{params} is no ROS parameter file: it has no sections by node name')
    specs = []
    for key, section in content.items():
        if not isinstance(section, dict) or not isinstance(section.get('ros__parameters', None), dict):
            raise ConfigError(f"{params}: section '{key}' has no ros__parameters below it")
        namespace, _, name = str(key).rpartition('/')
        if '*' in name:
            continue
        if name not in NODES:
            raise ConfigError(f"{params}: section '{key}' is for a node that is not here; "
                              f"known: {', '.join(NODES)}")
        specs.append(NodeSpec(name, DEFAULT_NAMESPACE if '*' in namespace else '/' + namespace.strip('/')))
    if not specs:
        raise ConfigError(f'{params} names no node; give it a section such as /hand/multiview')
    return specs


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
        print(f'hand-unc run: {self.program.name} ended with status {status} after {lived_s:.0f} s',
              file=sys.stderr)
        if not self._respawn or lived_s < _RESPAWN_MIN_LIFE_S:
            return True
        remove_dead_segments()
        self._start()
        return False


def supervise(programs: Sequence[Program], params: Path, respawn: bool = False,
              stop: Callable[[], bool] = lambda: False) -> int:
    """Run the programs until Ctrl-C (status 0), until `stop()` holds (0), or until one dies (1).

    The others are then interrupted too, and killed when they do not end within ten seconds.
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
        _end([each.process for each in running])
        signals.restore()


def _end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    deadline_s = time.monotonic() + _GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run_nodes(args: argparse.Namespace) -> int:
    """The command: `args.params` names the file, `args.respawn` whether dead nodes are started again."""
    return supervise(nodes_of(args.params), args.params.resolve(), args.respawn)
