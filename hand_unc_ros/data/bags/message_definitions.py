"""The text that says what a ROS message holds, read from installed .msg files: bags carry it for their readers."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from hand_unc_ros.errors import RecordingError

_PRIMITIVES = {'bool', 'byte', 'char', 'float32', 'float64', 'string', 'wstring',
               *(f'{sign}int{bits}' for sign in ('', 'u') for bits in (8, 16, 32, 64))}
# Names of ROS packages and messages: nothing in a bag makes a path or a module of anything else.
_KIND = re.compile(r'[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*')
_FIELD = re.compile(r'^\s*([A-Za-z][\w/]*)(?:<=\d+)?(?:\[[^\]]*\])?\s+[A-Za-z]')


def message_definition(kind: str) -> str:
    """The definition of a message type, e.g. 'sensor_msgs/msg/Image', as MCAP's encoding `ros2msg` has it.

    The .msg file itself, then those of all messages it is made of, each behind a line of 80 '=' and its name.
    Raises RecordingError for a type that is not installed here.
    """
    seen = {kind: _text(kind)}
    waiting = [kind]
    while waiting:
        holder = waiting.pop(0)
        for part in _parts(holder, seen[holder]):
            if part not in seen:
                seen[part] = _text(part)
                waiting.append(part)
    main, *others = seen.items()
    return main[1] + ''.join(f'\n{"=" * 80}\nMSG: {name.replace("/msg/", "/")}\n{text}' for name, text in others)


def _parts(holder: str, text: str) -> list[str]:
    """Full names of the messages that the fields of one are of."""
    names = [match.group(1) for match in map(_FIELD.match, text.splitlines()) if match]
    package = holder.partition('/')[0]
    full = []
    for name in names:
        if name not in _PRIMITIVES:
            owner, _, base = name.rpartition('/')
            full.append(f'{owner.partition("/")[0] or package}/msg/{base}')
    return full


def is_installed(kind: str) -> bool:
    """Whether a message type is installed here, by its .msg file."""
    return _file(kind) is not None


def _text(kind: str) -> str:
    path = _file(kind)
    if path is None:
        package, _, name = kind.partition('/msg/')
        raise RecordingError(f'the definition of {kind} is not installed here (share/{package}/msg/{name}.msg in '
                             f'{", ".join(_prefixes())}); install its package, or source the workspace that has it')
    return path.read_text(encoding='utf-8')


def _file(kind: str) -> Path | None:
    if not _KIND.fullmatch(kind):
        return None
    package, _, name = kind.partition('/msg/')
    paths = (Path(prefix, 'share', package, 'msg', f'{name}.msg') for prefix in _prefixes())
    return next((path for path in paths if path.is_file()), None)


def _prefixes() -> list[str]:
    return [*filter(None, os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)), sys.prefix]
