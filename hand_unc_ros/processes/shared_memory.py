"""Fast DDS's shared memory: segments large enough for images, and those that killed processes left behind."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from hand_unc_ros.processes.discovery import within_this_machine
from hand_unc_ros.resources import resource

PROFILE_VARIABLE = 'FASTDDS_DEFAULT_PROFILES_FILE'

_FOLDER = Path('/dev/shm')
_PREFIX, _LOCK_SUFFIX = 'fastdds_', '_el'
# A participant's own segment; those of ports are shared with other processes.
_OWN_LOCK = re.compile(r'fastdds_[0-9a-f]{16}_el')
# A process that is just starting has made its lock file and may not have locked it yet.
_MIN_AGE_S = 10.0


def shipped_profile() -> Path:
    """The profile of Fast DDS that suits the range of DDS in the environment: `config/fastdds_localhost.xml`, which
    binds to this machine alone, where no other machine is to be reached, else `config/fastdds.xml`."""
    return resource('config/fastdds_localhost.xml' if within_this_machine() else 'config/fastdds.xml')


def use_large_shared_memory() -> Path:
    """Point Fast DDS at `shipped_profile()`, unless the user has named a profile; returns the one in force.

    To be called before the first node of a process is made. Without it most raw images between two processes are lost
    (the default segment holds half an image).
    """
    return Path(os.environ.setdefault(PROFILE_VARIABLE, str(shipped_profile())))


def remove_dead_segments(folder: Path = _FOLDER, min_age_s: float = _MIN_AGE_S) -> int:
    """Remove the segments of processes that are gone; returns how many bytes that freed.

    A process that is killed cannot remove its segment, which stays until the machine is started again: a node
    that crashes now and then would fill /dev/shm. Every segment `fastdds_X` has a file `fastdds_X_el` that its
    owner holds locked while it lives, which is what Fast DDS's own `fastdds shm clean` looks at.
    """
    freed = 0
    for lock in folder.glob(f'{_PREFIX}*{_LOCK_SUFFIX}'):
        segment = lock.with_name(lock.name.removesuffix(_LOCK_SUFFIX))
        try:
            if time.time() - lock.stat().st_ctime < min_age_s:
                continue
            with lock.open('rb') as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size = segment.stat().st_size if segment.exists() else 0
                segment.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
                freed += size
        except OSError:
            # Locked by its living owner, somebody else's, or removed meanwhile.
            continue
    return freed


def own_segments(process: int | str = 'self') -> set[Path]:
    """The segments that participants of this process, or of another one of the same user, have made."""
    found = set()
    for descriptor in Path(f'/proc/{process}/fd').iterdir():
        try:
            lock = Path(os.readlink(descriptor))
        except OSError:
            # Closed meanwhile.
            continue
        if lock.parent == _FOLDER and _OWN_LOCK.fullmatch(lock.name):
            found.add(lock.with_name(lock.name.removesuffix(_LOCK_SUFFIX)))
    return found


def unlink_segments(segments: Iterable[Path]) -> None:
    """Remove segments of this process, so that leaving at once leaves nothing behind. Whoever has opened one keeps it;
    nobody opens it any more, so the process must have nothing left to publish."""
    for segment in segments:
        segment.unlink(missing_ok=True)
        segment.with_name(segment.name + _LOCK_SUFFIX).unlink(missing_ok=True)
