"""Readers with limits: no file makes them allocate, expand or recurse without end.

Each limit has a name, and the error of a file beyond it holds the name and the number.  What is malformed in any way
ends as MalformedError with one line; callers add the file and the remedy.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

# What a text file of this package may hold: the largest, calibrations and configurations, have thousands of values.
MAX_TEXT_BYTES = 16 * 2 ** 20
MAX_YAML_NODES = 2_000_000
MAX_YAML_DEPTH = 64
# Length of an unquoted value: numbers in base 60 take a time that grows with its square.
MAX_YAML_PLAIN = 10_000
# What an npz may inflate to: a hand model has 4 MB, the largest annotations some hundreds.
MAX_NPZ_BYTES = 2 ** 30
MAX_NPZ_ARRAYS = 10_000
_FASTEST = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


class MalformedError(ValueError):
    """A file that is malformed or beyond a limit. One line, without the name of the file."""


def read_text(path: Path, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """UTF-8 text of a file. Raises MalformedError, and OSError for a file that cannot be read."""
    with Path(path).open('rb') as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise MalformedError(f'larger than MAX_TEXT_BYTES, {most_bytes}')
    try:
        return content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise MalformedError(f'not UTF-8 text: byte {error.start} is {content[error.start]:#04x}') from error


def parse_json(text: str | bytes) -> Any:
    """Content of JSON. Raises MalformedError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f'not JSON ({_line(error)})') from error


def parse_yaml(text: str, loader: type = _FASTEST, most_nodes: int = MAX_YAML_NODES) -> Any:
    """Content of one YAML document, read by a safe loader. Raises MalformedError.

    Aliases count as often as they are used, so that what comes back can be walked through, copied and printed.
    """
    try:
        _check_yaml(text, most_nodes)
        return yaml.load(text, Loader=loader)
    except MalformedError:
        raise
    except yaml.MarkedYAMLError as error:
        where = f'line {error.problem_mark.line + 1}: ' if error.problem_mark else ''
        raise MalformedError(f'not YAML ({where}{_line(error.problem or error.context or error)})') from error
    except Exception as error:
        # Dates that do not exist, digits without end, tags without a value: PyYAML raises what it stumbles over.
        raise MalformedError(f'not YAML ({_line(error)})') from error


def _check_yaml(text: str, most_nodes: int) -> None:
    """Count nodes and depth by the parser's events, before anything is built."""
    sizes: dict[str, int] = {}
    # Of each open collection: its anchor, and nodes in it so far. The first entry is the document.
    open_: list[tuple[str | None, int]] = [(None, 0)]

    def add(anchor: str | None, size: int) -> None:
        if anchor is not None:
            sizes[anchor] = size
        above, count = open_[-1]
        open_[-1] = above, count + size
        if open_[-1][1] > most_nodes:
            raise MalformedError(f'more values, aliases counted as often as used, than MAX_YAML_NODES, {most_nodes}')

    for event in yaml.parse(text, Loader=_FASTEST):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in {anchor for anchor, _ in open_} or event.anchor not in sizes:
                raise MalformedError(f'alias *{event.anchor} names nothing, or what it is part of')
            add(None, sizes[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            if not event.style and len(event.value) > MAX_YAML_PLAIN:
                raise MalformedError(f'an unquoted value is longer than MAX_YAML_PLAIN, {MAX_YAML_PLAIN}')
            add(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
            if len(open_) > MAX_YAML_DEPTH:
                raise MalformedError(f'nested deeper than MAX_YAML_DEPTH, {MAX_YAML_DEPTH}')
        elif isinstance(event, yaml.CollectionEndEvent):
            add(*open_.pop())


def read_npz(path: Path, keys: Sequence[str] | None = None, most_bytes: int = MAX_NPZ_BYTES) -> dict[str, np.ndarray]:
    """The arrays `keys` of an npz, all by default; nothing is unpickled and other arrays are not read.

    Sizes are compared before anything is inflated or allocated.  Raises MalformedError, KeyError with the names that
    are there for a key that is not, and OSError for a file that cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename.removesuffix('.npy'): info for info in archive.infolist()
                       if info.filename.endswith('.npy')}
            wanted = list(entries if keys is None else keys)
            absent = [key for key in wanted if key not in entries]
            if absent:
                raise KeyError(absent[0], sorted(entries)[:50])
            _check_sizes([entries[key] for key in wanted], most_bytes)
            return {key: _array(archive, entries[key]) for key in wanted}
    except (MalformedError, KeyError, OSError):
        raise
    except Exception as error:
        # zipfile, zlib and numpy raise what they stumble over.
        raise MalformedError(f'not a whole npz ({_line(error)})') from error


def _check_sizes(entries: list[zipfile.ZipInfo], most_bytes: int) -> None:
    if len(entries) > MAX_NPZ_ARRAYS:
        raise MalformedError(f'more arrays than MAX_NPZ_ARRAYS, {MAX_NPZ_ARRAYS}')
    total = sum(entry.file_size for entry in entries)
    if total > most_bytes:
        raise MalformedError(f'its arrays have {total} bytes, more than MAX_NPZ_BYTES, {most_bytes}')
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise MalformedError(f'{entry.filename!r} is packed in a way that numpy does not write')


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise MalformedError(f'{entry.filename!r} is no plain array')
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or dtype.names or dtype.kind not in 'biufcSU' or not dtype.itemsize:
            raise MalformedError(f'{entry.filename!r} holds {dtype}, not plain values; nothing is unpickled')
        size = math.prod(shape) * dtype.itemsize
        if size > entry.file_size or len(shape) > 32:
            raise MalformedError(f'{entry.filename!r} claims {len(shape)} dimensions and {_short(size)} bytes, '
                                 f'and holds {entry.file_size}')
        data = file.read(size)
        if len(data) != size or file.read(1):
            raise MalformedError(f'{entry.filename!r} has another length than it says')
    flat = np.frombuffer(bytearray(data), dtype=dtype)
    return flat.reshape(shape, order='F' if fortran else 'C')


def _short(number: int) -> str:
    return str(number) if number < 2 ** 63 else 'more than 2^63'


def _line(error: object) -> str:
    """An error on one line of bounded length that no terminal obeys: files put their own text into errors."""
    text = ' '.join(str(error)[:400].split()) or type(error).__name__
    text = ''.join(char if char.isprintable() else '?' for char in text)
    return text if len(text) <= 200 else f'{text[:200]} …'
