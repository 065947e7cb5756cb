"""Arrays out of a pickle, without running anything that the pickle asks for.

Unpickling would import and call whatever a file names. Here every name on a short list (numpy's arrays, scipy's sparse
matrices, chumpy's and torch's tensors) becomes an inert holder of our own, which keeps its arguments and its state and
does nothing; any other name is refused. Arrays are then read from the holders' bytes.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable

import numpy as np

from hand_unc_ros.hand.pickle_limits import REFUSED_OPCODES, PickleError, check_opcodes, check_tree, one_line

_MAX_ELEMENTS = 2 ** 24
_MAX_TOTAL_ELEMENTS = 2 ** 26
_MAX_DENSE = 2 ** 22
# Elements of a tensor that repeats its storage by strides of 0.
_MAX_REPEATED = 2 ** 20
_MAX_DIMENSIONS = 32
_MAX_DEPTH = 20
_DTYPES = {'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1'}
# torch's storages, in little-endian numpy.
_STORAGE_DTYPES = {'FloatStorage': '<f4', 'DoubleStorage': '<f8', 'IntStorage': '<i4', 'LongStorage': '<i8'}


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


class _Tensor(_Holder):
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)."""

    __slots__ = ()


class _Storage(_Holder):
    """torch.storage._load_from_bytes(what torch.save wrote)."""

    __slots__ = ()


class _Other(_Holder):
    """A harmless class whose content is not needed: set, object, OrderedDict, numpy's scalars."""

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
            raise PickleError('refused: the pickle builds an object of an unlisted class')
        return wanted()


class _EncodedBytes(_Holder):
    """Python 3 writes bytes in protocol 2 as _codecs.encode(text, 'latin1')."""

    __slots__ = ()

    def __new__(cls, text: object = None, encoding: object = None) -> bytes:
        if not isinstance(text, str) or encoding != 'latin1':
            raise PickleError('refused: the pickle encodes text other than as latin1')
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
    ('collections', 'OrderedDict'): _Other,
    ('torch._utils', '_rebuild_tensor_v2'): _Tensor,
    ('torch.storage', '_load_from_bytes'): _Storage,
}


class _InertUnpickler(pickle.Unpickler):
    """Resolves listed names to inert holders and refuses every other name before anything is imported."""

    def find_class(self, module: str, name: str) -> type:
        try:
            return _LISTED[module, name]
        except KeyError:
            asked = one_line(f'{module}.{name}')
            raise PickleError(f'refused: the pickle asks for {asked}, which no file of this kind needs; '
                              f'nothing was run') from None


class _StorageUnpickler(pickle.Unpickler):
    """Reads the head of one stored torch.Storage: (name of its class, number of elements)."""

    def find_class(self, module: str, name: str) -> str:
        if module != 'torch' or name not in _STORAGE_DTYPES:
            raise PickleError(f'refused: the tensor asks for {one_line(f"{module}.{name}")}')
        return name

    def persistent_load(self, token: tuple) -> tuple[str, int]:
        kind, name, _, _, count = token[:5]
        if kind != 'storage' or name not in _STORAGE_DTYPES or type(count) is not int:
            raise ValueError('its storage is malformed')
        return name, count


def load_inert(content: bytes, times: int = 1) -> object:
    """What the pickle `content` holds, with inert holders for all objects: give those to `numbers` or `plain`.

    times: by how much it may hold more than the limits of pickle_limits.py.
    Raises PickleError for anything but a whole pickle of plain values, arrays and tensors.
    """
    check_opcodes(io.BytesIO(content), REFUSED_OPCODES, times)
    check_tree(content, times)
    try:
        return _InertUnpickler(io.BytesIO(content), encoding='latin1').load()
    except PickleError:
        raise
    except Exception as error:
        # A malformed pickle can raise nearly any exception from within the unpickler.
        raise PickleError(f'not a readable pickle ({one_line(error)})') from error


def plain(value: object, name: str) -> object:
    """`value` with all arrays and tensors in its dicts, lists and tuples as numpy arrays; other holders become None,
    arrays of objects flat lists.

    Raises PickleError naming the place under `name`.
    """
    return _Plain().convert(value, name, 0)


class _Plain:
    """State: the arrays made so far, by holder, so that one that is used often is made once; the containers around
    the present place; and the elements that may still be made."""

    def __init__(self) -> None:
        self.arrays: dict[int, np.ndarray] = {}
        self.around: set[int] = set()
        self.left = _MAX_TOTAL_ELEMENTS

    def convert(self, value: object, name: str, depth: int) -> object:
        if depth > _MAX_DEPTH or id(value) in self.around:
            raise PickleError(f'{name} is nested too deep')
        if isinstance(value, _Other):
            return None
        if isinstance(value, _Array) and _objects(value) is not None:
            return self._inside(value, lambda: self.convert(_objects(value), name, depth + 1))
        if isinstance(value, dict):
            return self._inside(value, lambda: {
                key: self.convert(item, f'{name}[{_shortened(key)}]', depth + 1) for key, item in value.items()})
        if isinstance(value, (list, tuple)):
            return self._inside(value, lambda: type(value)(
                self.convert(item, f'{name}[{place}]', depth + 1) for place, item in enumerate(value)))
        return self._array(value, name) if isinstance(value, _Holder) else value

    def _inside(self, value: object, convert: Callable[[], object]) -> object:
        self.around.add(id(value))
        try:
            return convert()
        finally:
            self.around.remove(id(value))

    def _array(self, holder: _Holder, name: str) -> np.ndarray:
        if id(holder) not in self.arrays:
            self.arrays[id(holder)] = numbers(holder, name)
            self.left -= self.arrays[id(holder)].size
            if self.left < 0:
                raise PickleError(f'{name}: all arrays together have more elements than {_MAX_TOTAL_ELEMENTS}')
        return self.arrays[id(holder)]


def _objects(array: _Array) -> list | None:
    """Content of an array of objects, in C order; None for one of numbers."""
    last = array.state[-1] if isinstance(array.state, tuple) and array.state else None
    return last if isinstance(last, list) else None


def numbers(value: object, name: str, depth: int = 0) -> np.ndarray:
    """The array in a holder (numpy's, scipy's, chumpy's or torch's). Raises PickleError naming `name`."""
    if depth > 4:
        raise PickleError(f'{name} is nested too deep')
    try:
        if isinstance(value, _Array):
            return _plain_array(value.state)
        if isinstance(value, _Ch):
            return numbers(value.state['x'], name, depth + 1)
        if isinstance(value, _Select):
            # chumpy.reordering.Select: a.ravel()[idxs].reshape(preferred_shape).
            flat = numbers(value.state['a'], name, depth + 1).ravel()
            chosen = flat[numbers(value.state['idxs'], name, depth + 1)]
            shape = value.state.get('preferred_shape')
            return chosen if shape is None else chosen.reshape(_shape(shape))
        if isinstance(value, _Sparse):
            return _dense(value, name, depth)
        if isinstance(value, _Tensor):
            return _tensor(*value.arguments[:4])
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, UnicodeEncodeError, EOFError,
            pickle.UnpicklingError) as error:
        raise PickleError(f'{name} is malformed ({one_line(error)})') from error
    raise PickleError(f'{name} is a {type(value).__name__.strip("_")}, expected an array')


def _shape(value: object) -> tuple[int, ...]:
    if isinstance(value, _Array):
        value = tuple(int(n) for n in _plain_array(value.state))
    if not isinstance(value, (tuple, list)) or len(value) > _MAX_DIMENSIONS or not all(
            type(n) is int and 0 <= n <= _MAX_ELEMENTS for n in value):
        raise ValueError(f'bad shape {_shortened(value)}')
    if math.prod(value) > _MAX_ELEMENTS:
        raise ValueError(f'shape {tuple(value)} is too large')
    return tuple(value)


def _shortened(value: object) -> str:
    """repr of a value out of a pickle, whose lists may hold each other a million times, only where it is plain."""
    if isinstance(value, (str, bytes)):
        return one_line(repr(value[:60]))
    if isinstance(value, (tuple, list)) and len(value) <= 8 and all(type(n) is int for n in value):
        return f'({", ".join(map(_shortened, value))})'
    if isinstance(value, int):
        return str(value) if abs(value) < 2 ** 63 else 'a number of too many digits'
    return f'of kind {type(value).__name__.strip("_")}'


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
    if rows * columns > _MAX_DENSE:
        raise ValueError(f'shape ({rows}, {columns}) is too large for a sparse matrix')
    outer = columns if isinstance(value, _Csc) else rows
    data, inner, pointer = (numbers(state[key], name, depth + 1) for key in ('data', 'indices', 'indptr'))
    counts = np.diff(pointer.astype(np.int64))
    if (counts.shape != (outer,) or inner.shape != data.shape or pointer[0] != 0 or pointer[-1] != len(data)
            or (counts < 0).any() or (inner < 0).any()):
        raise ValueError('its sparse indices do not fit together')
    along = np.repeat(np.arange(outer), counts)
    dense = np.zeros((rows, columns))
    np.add.at(dense, (inner, along) if isinstance(value, _Csc) else (along, inner), data)
    return dense


def _tensor(storage: object, offset: object, size: object, stride: object) -> np.ndarray:
    """Array of a torch tensor. Its storage is what torch.save writes in the format before zip archives: pickles of a
    magic number, the format's version, the byte order, the storage's head and its keys, then the count and the data."""
    if not isinstance(storage, _Storage) or not isinstance(storage.arguments[0], bytes):
        raise ValueError('no storage')
    content = io.BytesIO(storage.arguments[0])
    parts = []
    for _ in range(5):
        start = content.tell()
        check_opcodes(content, REFUSED_OPCODES - {'BINPERSID'})
        content.seek(start)
        parts.append(_StorageUnpickler(content).load())
        # The unpickler reads ahead.
        content.seek(start)
        check_opcodes(content, set())
    if parts[1] != 1001 or parts[2].get('little_endian') is not True or len(parts[4]) != 1:
        raise ValueError('its storage is of an unknown version')
    name, count = parts[3]
    raw = content.read()
    dtype = np.dtype(_STORAGE_DTYPES[name])
    if int.from_bytes(raw[:8], 'little') != count or len(raw) != 8 + count * dtype.itemsize:
        raise ValueError('its storage has another length than it says')
    flat = np.frombuffer(raw, dtype, offset=8)
    shape, steps = _shape(size), _shape(stride)
    last = sum((n - 1) * step for n, step in zip(shape, steps))
    if len(shape) != len(steps) or type(offset) is not int or offset < 0 or offset + last >= max(count, 1):
        raise ValueError('its strides leave its storage')
    if math.prod(shape) > max(count, _MAX_REPEATED):
        raise ValueError('it repeats its storage too often')
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, [step * flat.itemsize for step in steps]).copy()
