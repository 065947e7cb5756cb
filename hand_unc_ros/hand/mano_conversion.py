"""Conversion of MANO's pickles to an npz, without running anything that the pickle asks for.

MANO_RIGHT.pkl and MANO_LEFT.pkl are Python 2 pickles that name numpy, scipy and chumpy. Unpickling
would import and call whatever a file names, so here every name on a short list becomes an inert holder
of our own, which keeps its arguments and its state and does nothing; any other name is refused. Arrays
are then read from the holders' bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import pickletools
from pathlib import Path

import numpy as np

from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.model import ARRAY_SHAPES, check_arrays

# MANO's files have 4 MB and a few hundred opcodes.
_MAX_BYTES = 64 * 2 ** 20
_MAX_OPCODES = 200_000
_MAX_ELEMENTS = 2 ** 24
_REFUSED_OPCODES = {
    'EXT1', 'EXT2', 'EXT4', 'PERSID', 'BINPERSID', 'INST', 'OBJ', 'NEXT_BUFFER', 'READONLY_BUFFER',
}
_MEMO_OPCODES = {'PUT', 'BINPUT', 'LONG_BINPUT'}
_DTYPES = {'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1'}


class _Sealed(type):
    """Class that a pickle's BUILD cannot change."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise TypeError(f'{cls.__name__} is sealed')


class _Holder(metaclass=_Sealed):
    """Keeps what a pickle passes to a constructor and to `__setstate__`, and does nothing with it."""

    __slots__ = ('arguments', 'state')

    def __new__(cls, *arguments: object) -> _Holder:
        holder = object.__new__(cls)
        holder.arguments, holder.state = arguments, None
        return holder

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array(_Holder):
    __slots__ = ()


class _Dtype(_Holder):
    __slots__ = ()


class _Sparse(_Holder):
    __slots__ = ()


class _Csc(_Sparse):
    __slots__ = ()


class _Csr(_Sparse):
    __slots__ = ()


class _Ch(_Holder):
    __slots__ = ()


class _Select(_Holder):
    __slots__ = ()


class _Other(_Holder):
    """A harmless class whose content is not needed: set, object, numpy's scalars."""

    __slots__ = ()


class _ReconstructArray(_Holder):
    __slots__ = ()

    def __new__(cls, *arguments: object) -> _Array:
        return _Array()


class _ArrayFromBuffer(_Holder):
    """numpy's constructor of protocol 5: (bytes, dtype, shape, order)."""

    __slots__ = ()

    def __new__(cls, raw: object, dtype: object, shape: object, order: object) -> _Array:
        array = _Array()
        array.state = (1, shape, dtype, order == 'F', raw)
        return array


class _Reconstructor(_Holder):
    """copyreg's constructor of protocols 0 and 1: an empty object of a listed class."""

    __slots__ = ()

    def __new__(cls, wanted: object = None, *_: object) -> _Holder:
        if not (isinstance(wanted, _Sealed) and issubclass(wanted, _Holder)):
            raise HandModelError('refused: the pickle builds an object of an unlisted class')
        return wanted()


class _EncodedBytes(_Holder):
    """Python 3 writes bytes in protocol 2 as _codecs.encode(text, 'latin1')."""

    __slots__ = ()

    def __new__(cls, text: object = None, encoding: object = None) -> bytes:
        if not isinstance(text, str) or encoding != 'latin1':
            raise HandModelError('refused: the pickle encodes text other than as latin1')
        return text.encode('latin1')


_LISTED: dict[tuple[str, str], type] = {
    ('numpy', 'ndarray'): _Array,
    ('numpy', 'dtype'): _Dtype,
    ('numpy.core.multiarray', '_reconstruct'): _ReconstructArray,
    ('numpy._core.multiarray', '_reconstruct'): _ReconstructArray,
    ('numpy.core.multiarray', 'scalar'): _Other,
    ('numpy._core.multiarray', 'scalar'): _Other,
    ('scipy.sparse.csc', 'csc_matrix'): _Csc,
    ('scipy.sparse._csc', 'csc_matrix'): _Csc,
    ('scipy.sparse.csr', 'csr_matrix'): _Csr,
    ('scipy.sparse._csr', 'csr_matrix'): _Csr,
    ('chumpy.ch', 'Ch'): _Ch,
    ('chumpy.reordering', 'Select'): _Select,
    ('numpy.core.numeric', '_frombuffer'): _ArrayFromBuffer,
    ('numpy._core.numeric', '_frombuffer'): _ArrayFromBuffer,
    ('__builtin__', 'set'): _Other,
    ('builtins', 'set'): _Other,
    ('__builtin__', 'object'): _Other,
    ('builtins', 'object'): _Other,
    ('copy_reg', '_reconstructor'): _Reconstructor,
    ('copyreg', '_reconstructor'): _Reconstructor,
    ('_codecs', 'encode'): _EncodedBytes,
}


class _InertUnpickler(pickle.Unpickler):
    """Resolves listed names to inert holders and refuses every other name before anything is imported."""

    def find_class(self, module: str, name: str) -> type:
        try:
            return _LISTED[module, name]
        except KeyError:
            raise HandModelError(
                f'refused: the pickle asks for {module}.{name}, which no MANO file needs; nothing was run. '
                f'Download MANO again from https://mano.is.tue.mpg.de') from None


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
    side = side or _side_of(path)
    if side not in ('right', 'left'):
        raise HandModelError(f"side must be 'right' or 'left', got {side!r}")
    content = _content(path)
    _check_opcodes(content, path)
    try:
        data = _InertUnpickler(io.BytesIO(content), encoding='latin1').load()
    except HandModelError as error:
        raise HandModelError(f'{path}: {error}') from None
    except Exception as error:
        # A malformed pickle can raise nearly any exception from within the unpickler.
        raise HandModelError(f'{path} is not a readable pickle ({error}); download MANO again') from error
    if not isinstance(data, dict):
        raise HandModelError(f'{path} does not hold a MANO model (a dict of arrays)')
    arrays = {}
    for key in ARRAY_SHAPES:
        if key in data:
            array = _numbers(data[key], f'{path}: {key!r}')
            arrays[key] = array.astype(np.int64 if key in ('f', 'kintree_table') else np.float32)
    check_arrays(arrays, str(path))
    arrays['side'] = np.array(side)
    arrays['source_sha256'] = np.array(hashlib.sha256(content).hexdigest())
    _write(out, arrays)
    return out


def _side_of(path: Path) -> str:
    name = path.stem.lower()
    sides = [side for side in ('right', 'left') if side in name]
    if len(sides) != 1:
        raise HandModelError(f'the name of {path} does not say which hand it is; give the side')
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


def _check_opcodes(content: bytes, path: Path) -> None:
    """Refuse a pickle that is cut short, too long, or uses opcodes no MANO file needs."""
    count = 0
    try:
        for opcode, argument, _ in pickletools.genops(content):
            count += 1
            if opcode.name in _REFUSED_OPCODES:
                raise HandModelError(f'{path}: refused: the pickle uses the opcode {opcode.name}; '
                                     f'nothing was run')
            # A memo slot of a huge number would make the unpickler allocate all slots before it.
            if count > _MAX_OPCODES or (opcode.name in _MEMO_OPCODES and argument > _MAX_OPCODES):
                raise HandModelError(f'{path}: refused: far more objects than a MANO pickle holds')
    except HandModelError:
        raise
    except Exception as error:
        # genops raises ValueError, UnicodeDecodeError and others on bytes that are no pickle.
        raise HandModelError(f'{path} is not a whole pickle ({error}); download MANO again') from error


def _numbers(value: object, name: str, depth: int = 0) -> np.ndarray:
    """Array of a holder. Raises HandModelError naming `name`."""
    if depth > 4:
        raise HandModelError(f'{name} is nested too deep')
    try:
        if isinstance(value, _Array):
            return _plain_array(value.state)
        if isinstance(value, _Ch):
            return _numbers(value.state['x'], name, depth + 1)
        if isinstance(value, _Select):
            # chumpy.reordering.Select: a.ravel()[idxs].reshape(preferred_shape).
            flat = _numbers(value.state['a'], name, depth + 1).ravel()
            chosen = flat[_numbers(value.state['idxs'], name, depth + 1)]
            shape = value.state.get('preferred_shape')
            return chosen if shape is None else chosen.reshape(_shape(shape))
        if isinstance(value, _Sparse):
            return _dense(value, name, depth)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, UnicodeEncodeError) as error:
        raise HandModelError(f'{name} is malformed ({error})') from error
    raise HandModelError(f'{name} is a {type(value).__name__.strip("_")}, expected an array')


def _shape(value: object) -> tuple[int, ...]:
    if isinstance(value, _Array):
        value = tuple(int(n) for n in _plain_array(value.state))
    if not isinstance(value, (tuple, list)) or not all(type(n) is int and 0 <= n for n in value):
        raise ValueError(f'bad shape {value!r}')
    if int(np.prod(value, dtype=object)) > _MAX_ELEMENTS:
        raise ValueError(f'shape {value!r} is too large')
    return tuple(value)


def _plain_array(state: object) -> np.ndarray:
    """Array from numpy's pickled state (version, shape, dtype, Fortran order, bytes)."""
    _, shape, dtype, fortran, raw = state
    if not isinstance(dtype, _Dtype):
        raise ValueError('no dtype')
    code, order = dtype.arguments[0], '|' if dtype.state is None else dtype.state[1]
    if code not in _DTYPES or order not in ('<', '>', '=', '|'):
        raise ValueError(f'dtype {code!r} {order!r} is not a plain number')
    # With encoding latin1 the bytes of Python 2 arrive as text.
    if isinstance(raw, str):
        raw = raw.encode('latin1')
    if not isinstance(raw, (bytes, bytearray)):
        raise ValueError('no bytes')
    flat = np.frombuffer(raw, dtype=np.dtype(order + code))
    return flat.reshape(_shape(shape), order='F' if fortran else 'C')


def _dense(value: _Sparse, name: str, depth: int) -> np.ndarray:
    """Dense array of scipy's compressed rows or columns."""
    state = value.state
    rows, columns = _shape(state['_shape'] if '_shape' in state else state['shape'])
    outer = columns if isinstance(value, _Csc) else rows
    data, inner, pointer = (_numbers(state[key], name, depth + 1) for key in ('data', 'indices', 'indptr'))
    counts = np.diff(pointer.astype(np.int64))
    if (counts.shape != (outer,) or inner.shape != data.shape or pointer[0] != 0 or pointer[-1] != len(data)
            or (counts < 0).any() or (inner < 0).any()):
        raise ValueError('its sparse indices do not fit together')
    along = np.repeat(np.arange(outer), counts)
    dense = np.zeros((rows, columns))
    np.add.at(dense, (inner, along) if isinstance(value, _Csc) else (along, inner), data)
    return dense


def _write(out: Path, arrays: dict[str, np.ndarray]) -> None:
    part = out.with_name(out.name + '.part')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with part.open('wb') as file:
            np.savez(file, **arrays)
        os.replace(part, out)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise HandModelError(f'{out} cannot be written: {error.strerror}') from error
