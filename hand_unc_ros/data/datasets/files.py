"""Reading a dataset's files: each error names the file, what was expected there, and the remedy.

`remedy` is a phrase that tells the user where the right files come from, with the version, such as
'unpack DexYCB v1 from https://dex-ycb.github.io'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.bounded import MalformedError, parse_json, parse_yaml, read_npz
from hand_unc_ros.errors import CalibrationError, DatasetError
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand.inert_pickle import load_inert, plain
from hand_unc_ros.hand.pickle_limits import PickleError

# Calibration files carry rotations with few digits or in float32; within this they are moved to the nearest rotation.
_ROUNDING = 1e-3
_LARGEST_PICKLE = 64 * 2 ** 20


def choose(value: str, options: Sequence[str], what: str) -> str:
    """`value` if it is one of `options`; raises DatasetError naming them otherwise."""
    if value not in options:
        raise DatasetError(f"unknown {what} '{value}'; known: {', '.join(options)}")
    return value


def required_dir(path: Path, what: str, remedy: str) -> Path:
    """`path` if it is a directory; raises DatasetError otherwise. what: its content, as in 'the calibration'."""
    if not path.is_dir():
        raise DatasetError(f'{path}: no such directory; expected {what} there; {remedy}')
    return path


def required_file(path: Path, what: str, remedy: str) -> Path:
    """`path` if it is a file; raises DatasetError otherwise."""
    if not path.is_file():
        raise DatasetError(f'{path}: no such file; expected {what} there; {remedy}')
    return path


def read_bytes(path: Path, what: str, remedy: str) -> bytes:
    """Content of a file. Raises DatasetError."""
    required_file(path, what, remedy)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f'{path} cannot be read ({error.strerror}); expected {what}; {remedy}') from error


def read_text(path: Path, what: str, remedy: str) -> str:
    """UTF-8 text of a file. Raises DatasetError."""
    try:
        return read_bytes(path, what, remedy).decode('utf-8')
    except UnicodeDecodeError as error:
        raise DatasetError(f'{path} is not text; expected {what}; {remedy}') from error


def read_json(path: Path, what: str, remedy: str) -> Any:
    """Content of a JSON file. Raises DatasetError."""
    try:
        return parse_json(read_bytes(path, what, remedy))
    except MalformedError as error:
        raise DatasetError(f'{path} is not whole JSON ({error}); expected {what}; {remedy}') from error


def read_yaml(path: Path, what: str, remedy: str) -> dict:
    """Mapping of a YAML file, read without running anything it names. Raises DatasetError."""
    try:
        content = parse_yaml(read_text(path, what, remedy))
    except MalformedError as error:
        raise DatasetError(f'{path} is not whole YAML ({error}); expected {what}; {remedy}') from error
    if not isinstance(content, dict):
        raise DatasetError(f'{path} holds no table of keys; expected {what}; {remedy}')
    return content


def read_npz_no_pickle(path: Path, keys: Sequence[str], what: str, remedy: str) -> dict[str, np.ndarray]:
    """The arrays `keys` of an npz; nothing is unpickled, other arrays are not read. Raises DatasetError."""
    required_file(path, what, remedy)
    try:
        return read_npz(path, keys)
    except KeyError as error:
        raise DatasetError(f"{path} lacks '{error.args[0]}' (it has {', '.join(error.args[1])}); "
                           f'expected {what}; {remedy}') from error
    except (OSError, MalformedError) as error:
        raise DatasetError(f'{path} is not a whole npz ({error}); expected {what}; {remedy}') from error


def read_pickle(path: Path, what: str, remedy: str, times: int = 1) -> Any:
    """Content of a pickle of plain values, numpy arrays and torch tensors (as arrays); nothing it names is run.

    times: by how much it may be larger than the annotation of one frame may be. Raises DatasetError.
    """
    content = read_bytes(path, what, remedy)
    if len(content) > times * _LARGEST_PICKLE:
        raise DatasetError(f'{path} is larger than {times * _LARGEST_PICKLE >> 20} MiB; expected {what}; {remedy}')
    try:
        return plain(load_inert(content, times), 'content')
    except PickleError as error:
        raise DatasetError(f'{path}: {error}; expected {what}; {remedy}') from error


def entry(table: Any, key: Any, where: Path | str, remedy: str) -> Any:
    """table[key]; raises DatasetError naming the file `where` if `table` is no mapping or lacks the key."""
    if not isinstance(table, Mapping) or key not in table:
        raise DatasetError(f"{where}: no entry '{key}' where one was expected; {remedy}")
    return table[key]


def array(value: Any, shape: tuple[int, ...], where: str, remedy: str) -> np.ndarray:
    """float64 array of `shape`; -1 in `shape` allows any length.

    where: file and key, for the message. Raises DatasetError for what is not numbers of that shape; NaN is let through.
    """
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f'{where}: not an array of numbers; {remedy}') from error
    if numbers.ndim != len(shape) or any(n not in (-1, m) for n, m in zip(shape, numbers.shape)):
        raise DatasetError(f'{where}: shape {numbers.shape}, expected {shape}; {remedy}')
    return numbers


def rigid(value: Any, where: str, remedy: str) -> np.ndarray:
    """(4, 4) rigid transform, metres, from a (4, 4) or (3, 4) matrix, its rotation moved to the nearest one.

    Raises DatasetError for what is not rigid up to rounding.
    """
    rows = len(value) if isinstance(value, (np.ndarray, list, tuple)) else 0
    matrix = np.eye(4)
    matrix[:rows if rows == 3 else 4] = array(value, (3, 4) if rows == 3 else (4, 4), where, remedy)
    rotation = matrix[:3, :3]
    if not np.isfinite(matrix).all() or np.abs(matrix[3] - (0, 0, 0, 1)).max() > _ROUNDING:
        raise DatasetError(f'{where}: not a transform whose last row is 0 0 0 1; {remedy}')
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _ROUNDING or np.linalg.det(rotation) < 0:
        raise DatasetError(f'{where}: its rotation is not orthonormal and right-handed; {remedy}')
    u, _, vt = np.linalg.svd(rotation)
    matrix[:3, :3], matrix[3] = u @ vt, (0, 0, 0, 1)
    return matrix


def camera(name: str, size: tuple[int, int], K: np.ndarray, world_from_camera: np.ndarray, where: str,
           remedy: str, model: str = 'none', D: Sequence[float] = ()) -> Camera:
    """A Camera of `size` (width, height); raises DatasetError naming the calibration file `where`."""
    try:
        return Camera(name, *size, K, model, np.asarray(D, dtype=np.float64), world_from_camera)
    except CalibrationError as error:
        raise DatasetError(f'{where}: {error}; {remedy}') from error
