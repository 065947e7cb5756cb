"""Fixtures for tests with real ROS nodes."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A process of the tests runs on every core: threads of their own would only wait for each other, in the kernel.
for _variable in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
    os.environ.setdefault(_variable, '1')

# Examples of property tests are drawn from a seed that is the test's own, so that a run finds what the last one found.
settings.register_profile('repeatable', derandomize=True)
settings.load_profile('repeatable')

# A shell that starts the tests in the background lets them ignore SIGINT, and so would the nodes that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Domains whose ports stay below the ephemeral range on Linux; 0 is left to the user.
DOMAINS = range(1, 101)


def _claim_domain() -> tuple[int, object]:
    """A domain id that no other test process on this machine uses, and the open lock file that holds it."""
    folder = Path(tempfile.gettempdir()) / 'hand_unc_ros_domains'
    folder.mkdir(mode=0o777, exist_ok=True)
    for domain in DOMAINS:
        lock = (folder / str(domain)).open('w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return domain, lock
    pytest.fail(f'all {len(DOMAINS)} ROS domains are taken by other tests (locks in {folder})')


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """A ROS domain of the test's own, on this host alone, in its environment and that of processes it starts.

    Skips where there is no ROS, or where the messages of this package are not built.
    """
    pytest.importorskip('rclpy', reason='no ROS 2 here')
    pytest.importorskip('hand_unc_ros.msg', reason='the messages are not built')
    from hand_unc_ros.processes.shared_memory import PROFILE_VARIABLE
    from hand_unc_ros.resources import resource

    domain, lock = _claim_domain()
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'ros_log'))
    monkeypatch.setenv(PROFILE_VARIABLE, str(resource('config/fastdds.xml')))
    yield domain
    lock.close()


def pytest_make_parametrize_id(config: pytest.Config, val: Any, argname: str) -> str | None:
    """Bytes by their length: pickles hold addresses, and all processes of a test run must agree on the names."""
    return f'{argname}-{len(val)}-bytes' if isinstance(val, bytes) else None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The skipped ones are listed with their reasons by pytest itself (-ra); those that were not asked for are not."""
    if config.getoption('markexpr') == 'not slow':
        terminalreporter.write_line('Tests marked slow were left out: `make test-slow` runs them as well.')
