"""Threads of the numerical libraries on machines that do other work as well."""

from __future__ import annotations

import os
from pathlib import Path

# More threads do not make a set of crops faster, and every one of them must be running for any to go on.
_MOST_THREADS = 8
_CGROUP_QUOTA = Path('/sys/fs/cgroup/cpu.max')


def prepare_libraries() -> None:
    """Set what OpenMP and OpenBLAS read when they are loaded; to be called before NumPy and torch are imported. What the
    user has set stays.

    OpenMP's threads spin while they wait for each other, by default. Beside any other busy process they then wait for a
    core that a waiting thread occupies, and everything becomes ten times slower. OpenBLAS wakes a thread per core for
    matrices as small as those of a hand, which costs more than it saves.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')


def available_cores() -> int:
    """Cores that this process may use: those of its affinity, fewer where the container has a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores


def live_threads() -> int:
    """Threads for a network that runs beside cameras, middleware and a viewer: half of the cores."""
    return max(1, min(_MOST_THREADS, available_cores() // 2))
