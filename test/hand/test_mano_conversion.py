"""Conversion of MANO pickles: true files pass, hostile ones are refused and run nothing.

The true format, as MANO_RIGHT.pkl has it: Python 2, protocol 2, byte strings; `shapedirs` a
chumpy.reordering.Select over a chumpy.ch.Ch of (778, 3, 20); `J_regressor` a scipy.sparse.csc.csc_matrix.
It is written here opcode by opcode with the stand-in's numbers.
"""

import hashlib
import io
import os
import pickle
import struct

import numpy as np
import pytest

from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.mano_conversion import convert_mano
from hand_unc_ros.hand.model import ARRAY_SHAPES, read_arrays
from hand_unc_ros.hand.standin import build_standin


class Python2Pickle:
    """Writes protocol 2 as Python 2's cPickle did: str as byte strings, old module names."""

    def __init__(self):
        self.out = io.BytesIO()
        self.out.write(b'\x80\x02')

    def text(self, data):
        data = data.encode('latin1') if isinstance(data, str) else data
        self.out.write(b'U' + bytes([len(data)]) if len(data) < 256 else b'T' + struct.pack('<i', len(data)))
        self.out.write(data)

    def name(self, module, name):
        self.out.write(f'c{module}\n{name}\n'.encode())

    def value(self, value):
        if isinstance(value, bool):
            self.out.write(b'\x88' if value else b'\x89')
        elif value is None:
            self.out.write(b'N')
        elif isinstance(value, int):
            self.out.write(b'J' + struct.pack('<i', value))
        elif isinstance(value, (str, bytes)):
            self.text(value)
        elif isinstance(value, tuple):
            self.out.write(b'(')
            for item in value:
                self.value(item)
            self.out.write(b't')
        elif isinstance(value, dict):
            self.out.write(b'}(')
            for key, item in value.items():
                self.value(key)
                self.value(item)
            self.out.write(b'u')
        elif isinstance(value, np.ndarray):
            self.array(value)
        else:
            value(self)

    def array(self, array):
        fortran = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
        self.name('numpy.core.multiarray', '_reconstruct')
        self.name('numpy', 'ndarray')
        self.out.write(b'K\x00\x85')
        self.text(b'b')
        self.out.write(b'\x87R(K\x01')
        self.value(array.shape)
        self.name('numpy', 'dtype')
        self.value((array.dtype.str[1:], 0, 1))
        self.out.write(b'R')
        self.value((3, array.dtype.str[0], None, None, None, -1, -1, 0))
        self.out.write(b'b')
        self.value(fortran)
        self.text(array.tobytes(order='F' if fortran else 'C'))
        self.out.write(b'tb')

    def instance(self, module, name, state):
        self.name(module, name)
        self.out.write(b')\x81')
        self.value(state)
        self.out.write(b'b')

    def finish(self):
        return self.out.getvalue() + b'.'


def empty_set(writer):
    writer.name('__builtin__', 'set')
    writer.out.write(b']\x85R')


def chumpy(name, **state):
    module = 'chumpy.reordering' if name == 'Select' else 'chumpy.ch'
    return lambda writer: writer.instance(module, name, {'_dirty_vars': empty_set, **state})


def csc(dense):
    columns = [np.flatnonzero(column) for column in dense.T]
    state = {
        '_shape': dense.shape, 'maxprint': 50,
        'indptr': np.concatenate([[0], np.cumsum([len(c) for c in columns])]).astype(np.int32),
        'indices': np.concatenate(columns).astype(np.int32),
        'data': np.concatenate([dense[rows, c] for c, rows in enumerate(columns)]),
    }
    return lambda writer: writer.instance('scipy.sparse.csc', 'csc_matrix', state)


def mano_content(hand, **changes):
    wide = np.concatenate([hand['shapedirs'], np.ones((778, 3, 10))], axis=2)
    chosen = np.arange(wide.size).reshape(wide.shape)[:, :, :10].ravel()
    parents = hand['kintree_table'].copy()
    parents[0, 0] = 4294967295
    content = {
        'hands_components': hand['hands_components'], 'f': hand['f'].astype(np.uint32),
        'J_regressor': csc(hand['J_regressor']), 'kintree_table': parents, 'J': np.zeros((16, 3)),
        'weights': np.asfortranarray(hand['weights']), 'posedirs': hand['posedirs'],
        'v_template': chumpy('Ch', x=hand['v_template'].astype('>f8')),
        'bs_style': 'lbs', 'bs_type': 'lrotmin',
        'shapedirs': chumpy('Select', a=chumpy('Ch', x=wide), idxs=chosen, preferred_shape=(778, 3, 10)),
        'hands_mean': hand['hands_mean'], 'hands_coeffs': np.zeros((20, 45)), **changes,
    }
    writer = Python2Pickle()
    writer.value({key: value for key, value in content.items() if value is not None})
    return writer.finish()


@pytest.fixture(scope='module')
def hand():
    return build_standin('right')


@pytest.fixture(scope='module')
def true_content(hand):
    return mano_content(hand)


def test_true_format_converts(tmp_path, hand, true_content):
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(true_content)
    out = convert_mano(source, tmp_path / 'sub' / 'mano_right.npz')
    arrays = read_arrays(out)
    for key in ARRAY_SHAPES:
        expected = hand[key].copy()
        if key == 'kintree_table':
            expected[0, 0] = 4294967295
        np.testing.assert_array_equal(arrays[key], expected.astype(arrays[key].dtype), err_msg=key)
        assert arrays[key].dtype == (np.int64 if key in ('f', 'kintree_table') else np.float32)
    assert str(arrays['side']) == 'right'
    assert str(arrays['source_sha256']) == hashlib.sha256(true_content).hexdigest()
    assert [path.name for path in out.parent.iterdir()] == ['mano_right.npz']


def test_converted_file_is_a_hand(tmp_path, true_content):
    pytest.importorskip('smplx')
    import torch

    from hand_unc_ros.hand.model import load_hand_model
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(true_content)
    assert convert_mano(source) == tmp_path / 'MANO_RIGHT.npz'
    pose = torch.full((1, 48), 0.2)
    got = load_hand_model(tmp_path / 'MANO_RIGHT.npz')(pose)
    np.testing.assert_allclose(got.vertices.numpy(), load_hand_model()(pose).vertices.numpy(), atol=1e-6)


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_files_saved_again_by_python_3_convert(tmp_path, hand, protocol):
    source = tmp_path / 'left_again.pkl'
    data = {**hand, 'posedirs': np.asfortranarray(hand['posedirs'])}
    source.write_bytes(pickle.dumps(data, protocol=protocol))
    arrays = read_arrays(convert_mano(source))
    for key in ('weights', 'posedirs'):
        np.testing.assert_array_equal(arrays[key], hand[key].astype(np.float32))
    assert str(arrays['side']) == 'left'


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def stack_global(module, name, argument):
    """Protocol 4 with a dotted name, which pickle resolves attribute by attribute."""
    def short(text):
        return b'\x8c' + bytes([len(text)]) + text.encode()
    return b'\x80\x04' + short(module) + short(name) + b'\x93' + short(argument) + b'\x85R.'


def hostile_pickles(canary):
    command = f'touch {canary}'
    code = f"open({str(canary)!r}, 'w').close()"
    numpy_gadget = b'\x80\x02cnumpy.testing._private.utils\nrunstring\n(X' + struct.pack('<I', len(code)) \
        + code.encode() + b'}tR.'
    build_on_class = (b'\x80\x02cnumpy\nndarray\n(N}X\x0c\x00\x00\x00__setstate__cbuiltins\neval\nstb'
                      b'X\x01\x00\x00\x001b.')
    return {
        'os.system': pickle.dumps({'v_template': Calls(os.system, command)}, protocol=2),
        'builtins.eval': pickle.dumps(Calls(eval, code)),
        'builtins.exec': pickle.dumps(Calls(exec, code), protocol=0),
        'numpy.load': pickle.dumps(Calls(np.load, str(canary), None, True), protocol=2),
        'numpy runstring': numpy_gadget,
        'dotted name': stack_global('numpy', 'ndarray.__class__.__subclasses__', command),
        'dotted os': stack_global('os', 'path.os.system', command),
        'dotted from a listed module': stack_global('_codecs', 'encode.__self__.lookup', 'utf-8'),
        'getattr': pickle.dumps(Calls(getattr, 'a', 'upper'), protocol=4),
        'INST opcode': b'(S' + repr(command).encode() + b'\nios\nsystem\n.',
        'OBJ opcode': b'(cos\nsystem\nS' + repr(command).encode() + b'\no.',
        'after a whole model': None,
        'BUILD on a class': build_on_class,
        'extension code': b'\x80\x02\x82\x01.',
        'persistent id': b'Psomething\n.',
        'ctypes through numpy': stack_global('numpy', 'ctypeslib.ctypes.CDLL', 'libc.so.6'),
        'scipy elsewhere': stack_global('scipy.sparse', 'csc.csc_matrix', 'x'),
        'unlisted chumpy class': b'\x80\x02cchumpy.ch\nChLambda\n)\x81.',
        '_reconstructor of a foreign class': b'ccopy_reg\n_reconstructor\n(S"a"\nS"b"\nNtR.',
        'foreign encoding': pickle.dumps(Calls(__import__('_codecs').encode, 'abc', 'rot13')),
    }


@pytest.mark.parametrize('kind', sorted(hostile_pickles('x')))
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path, true_content, kind):
    canary = tmp_path / 'canary'
    content = hostile_pickles(canary)[kind]
    if content is None:
        # The dict is complete on the stack, then a call follows.
        content = true_content[:-1] + b'cos\nsystem\nU' + bytes([len(f'touch {canary}')]) \
            + f'touch {canary}'.encode() + b'\x85R0.'
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(content)
    with pytest.raises(HandModelError) as refusal:
        convert_mano(source, tmp_path / 'out.npz')
    assert 'refused' in str(refusal.value), refusal.value
    assert not canary.exists() and not (tmp_path / 'out.npz').exists()


def test_refusal_names_the_global(tmp_path):
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(pickle.dumps(Calls(os.system, 'true'), protocol=2))
    with pytest.raises(HandModelError, match=r'posix\.system|os\.system'):
        convert_mano(source)


def test_a_pickle_cannot_change_the_converter(tmp_path, hand, true_content):
    """BUILD with a slot state on a listed class would set attributes for all later conversions."""
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(b'\x80\x02cnumpy\nndarray\nN}U\x05stateU\x01xs\x86b.')
    with pytest.raises(HandModelError):
        convert_mano(source)
    source.write_bytes(true_content)
    arrays = read_arrays(convert_mano(source))
    np.testing.assert_array_equal(arrays['posedirs'], hand['posedirs'].astype(np.float32))


@pytest.mark.parametrize('share', [0.0, 0.001, 0.3, 0.999])
def test_truncated_files_are_named(tmp_path, true_content, share):
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(true_content[:int(share * len(true_content))])
    with pytest.raises(HandModelError, match='not a whole pickle.*download'):
        convert_mano(source)


def test_memory_bombs_are_refused(tmp_path):
    source = tmp_path / 'MANO_RIGHT.pkl'
    huge_memo = b'\x80\x02]r' + struct.pack('<I', 2 ** 31 - 1) + b'.'
    many = b'\x80\x02' + b']' * 300_000 + b'.'
    for content in (huge_memo, many):
        source.write_bytes(content)
        with pytest.raises(HandModelError, match='far more objects'):
            convert_mano(source)
    source.write_bytes(b'\x80\x04\x8e' + struct.pack('<Q', 2 ** 40) + b'abc.')
    with pytest.raises(HandModelError, match='not a whole pickle'):
        convert_mano(source)
    with source.open('wb') as file:
        file.truncate(65 * 2 ** 20)
    with pytest.raises(HandModelError, match='larger than'):
        convert_mano(source)


def sparse_with(hand, **changes):
    def write(writer):
        dense = hand['J_regressor']
        state = {'_shape': dense.shape, 'indptr': np.zeros(779, np.int32), 'indices': np.zeros(0, np.int32),
                 'data': np.zeros(0)}
        writer.instance('scipy.sparse.csc', 'csc_matrix', {**state, **changes})
    return write


@pytest.mark.parametrize('changes, complaint', [
    ({'weights': None}, "lacks 'weights'"),
    ({'weights': np.zeros((778, 24))}, r"'weights'.*\(778, 24\)"),
    ({'posedirs': 'text'}, "'posedirs' is a str"),
    ({'posedirs': np.full((778, 3, 135), np.nan)}, "'posedirs'.*finite"),
    ({'v_template': lambda w: w.instance('chumpy.ch', 'Ch', {'y': 1})}, "'v_template' is malformed"),
    ({'v_template': lambda w: w.instance('chumpy.ch', 'Ch', 5)}, "'v_template' is malformed"),
    ({'hands_mean': lambda w: w.name('numpy', 'ndarray')}, "'hands_mean' is a"),
])
def test_wrong_content_is_named(tmp_path, hand, changes, complaint):
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(mano_content(hand, **changes))
    with pytest.raises(HandModelError, match=complaint):
        convert_mano(source)


ONE_ENTRY = {'indptr': np.r_[0, np.ones(778)].astype(np.int32), 'data': np.ones(1)}


@pytest.mark.parametrize('changes', [
    {'indptr': np.arange(779, dtype=np.int32)}, {'indptr': np.zeros(5, np.int32)},
    {'_shape': (2 ** 30, 2 ** 30)}, {'_shape': (16, -1)},
    {**ONE_ENTRY, 'indices': np.array([99], np.int32)}, {**ONE_ENTRY, 'indices': np.array([-1], np.int32)},
])
def test_inconsistent_sparse_matrices_are_refused(tmp_path, hand, changes):
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(mano_content(hand, J_regressor=sparse_with(hand, **changes)))
    with pytest.raises(HandModelError, match="'J_regressor' is malformed"):
        convert_mano(source)


def test_other_pickles_and_paths(tmp_path, true_content):
    source = tmp_path / 'MANO_RIGHT.pkl'
    source.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(HandModelError, match='does not hold a MANO model'):
        convert_mano(source)
    with pytest.raises(HandModelError, match='not found'):
        convert_mano(tmp_path / 'absent_right.pkl')
    with pytest.raises(HandModelError, match='give the side'):
        convert_mano(tmp_path / 'hand.pkl')
    with pytest.raises(HandModelError, match=r'\.npz'):
        convert_mano(source, tmp_path / 'out.pkl')
    with pytest.raises(HandModelError, match='side'):
        convert_mano(source, side='middle')
    source.write_bytes(true_content)
    blocked = tmp_path / 'file'
    blocked.write_text('')
    with pytest.raises(HandModelError, match='cannot be written'):
        convert_mano(source, blocked / 'out.npz')
    unnamed = tmp_path / 'hand.pkl'
    unnamed.write_bytes(true_content)
    assert str(read_arrays(convert_mano(unnamed, side='left'))['side']) == 'left'
