"""Conversion of MANO's pickles to an npz, without running anything that the pickle asks for.

MANO_RIGHT.pkl and MANO_LEFT.pkl are Python 2 pickles that name numpy, scipy and chumpy; `inert_pickle` reads them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from hand_unc_ros.errors import HandModelError
from hand_unc_ros.files import replace_file
from hand_unc_ros.hand.inert_pickle import load_inert, numbers
from hand_unc_ros.hand.pickle_limits import PickleError
from hand_unc_ros.hand.model import ARRAY_SHAPES, check_arrays

# MANO's files have 4 MB.
_MAX_BYTES = 64 * 2 ** 20


def convert_mano(pkl_path: Path | str, out_path: Path | str | None = None, side: str | None = None) -> Path:
    """Write the MANO pickle at `pkl_path` as an npz of float32 arrays and return its path.

    out_path: default beside the pickle, with the ending .npz. side: 'right' or 'left'; read from the file's
    name when None. The npz holds the keys of `model.ARRAY_SHAPES`, `side` and `source_sha256`, and loads
    without pickle. It appears complete or not at all. Raises HandModelError for anything that is not a
    MANO pickle.
    """
    path = Path(pkl_path)
    out = Path(out_path) if out_path is not None else path.with_suffix('.npz')
    if out.suffix != '.npz':
        raise HandModelError(f'the output {out} must end in .npz')
    content = _content(path)
    side = side or _side_of(path)
    if side not in ('right', 'left'):
        raise HandModelError(f"side must be 'right' or 'left', got {side!r}")
    try:
        data = load_inert(content)
        if not isinstance(data, dict):
            raise HandModelError(f'{path} does not hold a MANO model (a dict of arrays)')
        arrays = {}
        for key in ARRAY_SHAPES:
            if key in data:
                array = numbers(data[key], repr(key))
                arrays[key] = array.astype(np.int64 if key in ('f', 'kintree_table') else np.float32)
    except PickleError as error:
        raise HandModelError(f'{path}: {error}; download MANO again from https://mano.is.tue.mpg.de') from error
    check_arrays(arrays, str(path))
    arrays['side'] = np.array(side)
    arrays['source_sha256'] = np.array(hashlib.sha256(content).hexdigest())
    _write(out, arrays)
    return out


def _side_of(path: Path) -> str:
    name = path.stem.lower()
    sides = [side for side in ('right', 'left') if side in name]
    if len(sides) != 1:
        raise HandModelError(f'the name of {path} does not say which hand it is; give the side (--side right, or left)')
    return sides[0]


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise HandModelError(f'{path} not found; MANO is at https://mano.is.tue.mpg.de (mano_v1_2.zip, '
                             f'models/MANO_RIGHT.pkl)')
    if path.stat().st_size > _MAX_BYTES:
        raise HandModelError(f'{path} is larger than {_MAX_BYTES >> 20} MiB: not a MANO pickle')
    try:
        return path.read_bytes()
    except OSError as error:
        raise HandModelError(f'{path} cannot be read: {error.strerror}') from error


def _write(out: Path, arrays: dict[str, np.ndarray]) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HandModelError(f'{out} cannot be written: {error.strerror}') from error
    with replace_file(out, HandModelError) as file:
        np.savez(file, **arrays)
