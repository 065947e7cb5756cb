"""Fast DDS's shared memory: segments large enough for images, and those that killed processes left behind."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from hand_unc_ros.resources import resource

PROFILE_VARIABLE = 'FASTDDS_DEFAULT_PROFILES_FILE'

_FOLDER = Path('/dev/shm')
_PREFIX, _LOCK_SUFFIX = 'fastdds_', '_el'
# A process that is just starting has made its lock file and may not have locked it yet.
_MIN_AGE_S = 10.0


def use_large_shared_memory() -> Path:
    """Point Fast DDS at the profile in `config/fastdds.xml`, unless the user has named one; returns the one in force.

    To be called before the first node of a process is made. Without it most raw images between two processes are lost
    (the default segment holds half an image).
    """
    profile = os.environ.setdefault(PROFILE_VARIABLE, str(resource('config/fastdds.xml')))
    return Path(profile)


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
