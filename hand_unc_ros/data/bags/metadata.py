"""metadata.yaml of a bag, of which little is believed: what a recording holds is in its files.

Of split bags, reindexed ones and those that somebody renamed, duration, start, counts and names there are often wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

LARGEST_TEXT = 1 << 24
"""Bytes of metadata.yaml that are read."""

NAME = 'metadata.yaml'


@dataclass(frozen=True)
class Metadata:
    """files: names of the storage files.  count: messages, None where it is not given.  compression: 'file', 'message'
    or ''.  custom: what the recorder added.  fault: why the file cannot be used, '' where it can."""

    files: tuple[str, ...] = ()
    count: int | None = None
    compression: str = ''
    custom: dict[str, str] = field(default_factory=dict)
    fault: str = ''


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases, which a few lines may multiply to any size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError('it has aliases')
        return super().compose_node(parent, index)


def load_plain_yaml(text: str) -> Any:
    """The content of a YAML text. Raises ValueError with a reason for one that is none, has aliases or is too deep."""
    try:
        return yaml.load(text, _PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(f'not valid YAML: {" ".join(str(error).split())}') from error
    except RecursionError as error:
        raise ValueError('nested too deeply') from error


def read_metadata(folder: Path) -> Metadata | None:
    """The metadata of a bag's folder, None where it has none; `fault` says why a file there is of no use."""
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise ValueError(f'larger than {LARGEST_TEXT} bytes')
        content = load_plain_yaml(path.read_text(encoding='utf-8'))
        information = content['rosbag2_bagfile_information'] if isinstance(content, dict) else None
        if not isinstance(information, dict):
            raise ValueError('no rosbag2_bagfile_information in it')
        return _of(information)
    except (OSError, ValueError, KeyError) as error:
        reason = f'{error} is missing' if isinstance(error, KeyError) else str(error)
        return Metadata(fault=reason)


def _of(information: dict[str, Any]) -> Metadata:
    names = information['relative_file_paths']
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError('relative_file_paths names no files')
    mode = str(information.get('compression_mode') or '').lower()
    count = information.get('message_count')
    custom = information.get('custom_data')
    return Metadata(tuple(PurePath(name).name for name in names), count if isinstance(count, int) else None,
                    '' if mode == 'none' else mode,
                    {str(key): str(value) for key, value in custom.items()} if isinstance(custom, dict) else {})
