"""Files are replaced whole: a reader finds the old content or the new one, whatever happens to the writer.

A file is written beside its place, synchronised to the disk and renamed over the old one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hand_unc_ros.errors import HandUncError

# Seconds after which a part is no longer being written: its writer was killed.
_ABANDONED_S = 3600.0


@contextlib.contextmanager
def replace_file(path: Path | str, error: type[HandUncError] = HandUncError) -> Iterator[BinaryIO]:
    """An open binary file whose content stands at `path` once the block ends without an exception.

    Whatever fails, a full disk included, leaves the file that was at `path` as it was and nothing beside it.  The part
    has a name that nobody can guess and is created, never opened, so that no planted link is followed; a link at `path`
    is replaced, not followed.  Devices and pipes (/dev/stdout) are written in place.  error: what is raised for an
    OSError, with the path, the reason and the remedy.
    """
    path = Path(path)
    try:
        with _opened_in_place(path) if _is_stream(path) else _replacement(path) as file:
            yield file
    except OSError as reason:
        remedy = ('make room or choose another place' if reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
                  else 'choose another place')
        raise error(f'{path} cannot be written ({reason.strerror or reason}); {remedy}') from reason


def write_file(path: Path | str, content: bytes | str, error: type[HandUncError] = HandUncError) -> None:
    """`replace_file` with all content at once; text is written as UTF-8."""
    with replace_file(path, error) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def adopt_file(part: Path, path: Path) -> None:
    """Rename the finished file `part` over `path` in the same file system, both synchronised. Raises OSError."""
    descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(part, path)
    _synchronise(path.parent)


def _is_stream(path: Path) -> bool:
    """Whether `path` names a device or a pipe, which is not to be replaced by a file."""
    if str(path.absolute()).startswith(('/dev/', '/proc/')):
        return not str(path.absolute()).startswith('/dev/shm/')
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@contextlib.contextmanager
def _opened_in_place(path: Path) -> Iterator[BinaryIO]:
    with path.open('wb') as file:
        yield file


@contextlib.contextmanager
def _replacement(path: Path) -> Iterator[BinaryIO]:
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    _remove_abandoned(path)
    part = path.with_name(f'.{path.name[:200]}.{secrets.token_hex(8)}.part')
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, 'wb') as file:
            if path.is_file() and not path.is_symlink():
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _synchronise(path.parent)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed writers of the same file have left."""
    prefix = f'.{path.name[:200]}.'
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            if entry.name.startswith(prefix) and entry.name.endswith('.part'):
                token = entry.name[len(prefix):-len('.part')]
                if (len(token) == 16 and set(token) <= set('0123456789abcdef')
                        and time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_S):
                    os.unlink(entry.path)


def _synchronise(folder: Path) -> None:
    """A rename outlives a loss of power once its folder is on the disk; some file systems cannot say so."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
