"""Readers with limits: files that would expand, recurse or allocate without end are refused by the limit's name."""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from repository import ROOT
from safetensors.torch import save

from hand_unc_ros import bounded
from hand_unc_ros.bounded import MalformedError, parse_json, parse_yaml, read_npz, read_text
from hand_unc_ros.errors import ConfigError, HandModelError
from hand_unc_ros.estimation.covariance_map import CovarianceMap
from hand_unc_ros.hand.inert_pickle import load_inert, plain
from hand_unc_ros.hand.model import read_arrays
from hand_unc_ros.hand.pickle_limits import PickleError
from hand_unc_ros.hand.standin import build_standin
from hand_unc_ros.methods.tasks import load_config
from hand_unc_ros.networks.stored import build_stored
from hand_unc_ros.networks.weights import read_weights

# Of processor time: other tests keep the machine busy.
SECONDS = 5.0


class soon:
    """What runs inside ends soon and takes little memory."""

    def __init__(self, most_bytes=2 ** 28):
        self.most_bytes = most_bytes

    def __enter__(self):
        self.begun = time.process_time()
        tracemalloc.start()

    def __exit__(self, *_):
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert time.process_time() - self.begun < SECONDS and peak < self.most_bytes


# --- YAML and JSON ----------------------------------------------------------------------------------------

def laughs(levels, ways=10):
    lines = ['a0: &a0 [x, x]']
    lines += [f'a{n}: &a{n} [{", ".join([f"*a{n - 1}"] * ways)}]' for n in range(1, levels)]
    return '\n'.join(lines)


@pytest.mark.parametrize('text, complaint', [
    (laughs(30), 'MAX_YAML_NODES'),
    ('[' * 100_000, 'MAX_YAML_DEPTH'),
    ('{a: ' * 1000, 'MAX_YAML_DEPTH'),
    ('a: &x [*x]', 'part of'),
    ('a: *b', 'not YAML|names nothing'),
    ('a: ' + ':'.join(['1'] * 400_000), 'MAX_YAML_PLAIN'),
    ('a: ' + '9' * 400_000, 'MAX_YAML_PLAIN'),
    ('a: 2020-99-99', 'not YAML'),
    ('a: !!timestamp x', 'not YAML'),
    ('a: !!int ""', 'not YAML'),
    ('a: !!bool x', 'not YAML'),
    ('a: !!python/object/apply:os.system [touch /tmp/x]', 'not YAML'),
    ('? {a: b}\n: c', 'not YAML'),
    ('a: b: c', 'not YAML .line 1'),
    ('a: \x07', 'not YAML'),
    ('--- a\n--- b', 'not YAML'),
])
def test_yaml_beyond_limits_is_refused_in_one_line(text, complaint):
    with soon(), pytest.raises(MalformedError, match=complaint) as error:
        parse_yaml(text)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300


def test_yaml_with_aliases_and_values_of_all_kinds_is_read():
    assert parse_yaml(laughs(3, 3))['a2'][0][0] == ['x', 'x']
    assert parse_yaml('a: &k {b: 1.5}\nc: *k\nd: [true, null, "x"]') == {
        'a': {'b': 1.5}, 'c': {'b': 1.5}, 'd': [True, None, 'x']}
    assert parse_yaml('') is None


def test_json_without_end_is_refused():
    for text in ('[' * 10 ** 6, '{"a": ' * 10 ** 5, '1' * 10 ** 5, '{"a": 1', b'\xff', ''):
        with soon(), pytest.raises(MalformedError, match='not JSON'):
            parse_json(text)


def test_texts_are_utf_8_and_of_bounded_size(tmp_path):
    path = tmp_path / 'a.yaml'
    path.write_bytes('\ufeffa: ä'.encode())
    assert read_text(path) == 'a: ä'
    path.write_bytes(b'a: \xe4')
    with pytest.raises(MalformedError, match='byte 3 is 0xe4'):
        read_text(path)
    with path.open('wb') as file:
        file.truncate(2 ** 40)
    with soon(), pytest.raises(MalformedError, match='MAX_TEXT_BYTES'):
        read_text(path)


# --- npz --------------------------------------------------------------------------------------------------

def header(shape, dtype='<f4'):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    text += ' ' * (63 - (len(text) + 10) % 64) + '\n'
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text.encode()


def packed(path, content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, 'w', method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def test_npz_arrays_come_back_as_numpy_reads_them(tmp_path):
    path = tmp_path / 'a.npz'
    arrays = {'a': np.arange(12.0).reshape(3, 4).T, 'b': np.array('right'), 'c': np.zeros((0, 3), np.int64),
              'd': np.array([True, False]), 'e': np.array(3, '>i4')}
    for write in (np.savez, np.savez_compressed):
        write(path, **arrays)
        got = read_npz(path)
        for key, array in arrays.items():
            np.testing.assert_array_equal(got[key], array)
            assert got[key].dtype == array.dtype and got[key].flags.writeable
        assert list(read_npz(path, ['d'])) == ['d']
    with pytest.raises(KeyError, match='absent'):
        read_npz(path, ['absent'])


def test_an_npz_that_inflates_is_refused_before_it_does(tmp_path):
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open('a.npy', 'w', force_zip64=True) as file:
            file.write(header((2 ** 26,)))
            for _ in range(256):
                file.write(bytes(2 ** 20))
    with soon(), pytest.raises(MalformedError, match='MAX_NPZ_BYTES'):
        read_npz(path, most_bytes=2 ** 26)
    with soon(), pytest.raises(HandModelError, match='MAX_NPZ_BYTES'):
        read_arrays(path)


@pytest.mark.parametrize('content, complaint', [
    ({'a.npy': header((2 ** 40,))}, 'claims'),
    ({'a.npy': header((2 ** 62, 2 ** 62))}, 'claims'),
    ({'a.npy': header((1,) * 40) + bytes(4)}, 'claims 40 dimensions'),
    ({'a.npy': header((2,)) + bytes(4)}, 'claims|length'),
    ({'a.npy': header((1,)) + bytes(400)}, 'another length'),
    ({'a.npy': header((-1,)) + bytes(400)}, 'not a whole npz|length'),
    ({'a.npy': header((1,), '|O') + pickle.dumps([1])}, 'nothing is unpickled'),
    ({'a.npy': b'\x93NUMPY\x02\x00' + struct.pack('<I', 2 ** 31)}, 'no plain array'),
    ({'a.npy': b'no array'}, 'not a whole npz'),
    ({f'{n}.npy': b'' for n in range(bounded.MAX_NPZ_ARRAYS + 1)}, 'MAX_NPZ_ARRAYS'),
])
def test_npz_files_that_lie_are_refused(tmp_path, content, complaint):
    packed(tmp_path / 'a.npz', content)
    with soon(), pytest.raises(MalformedError, match=complaint):
        read_npz(tmp_path / 'a.npz')


def test_an_npz_that_understates_its_size_is_refused(tmp_path):
    """The directory of the archive says 300 bytes, the packed data hold a gigabyte of zeros."""
    path = tmp_path / 'a.npz'
    packed(path, {'a.npy': header((50,)) + bytes(10 ** 7)})
    content = path.read_bytes()
    size = struct.pack('<I', 10 ** 7 + len(header((50,))))
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, struct.pack('<I', len(header((50,))) + 200)))
    with soon(), pytest.raises(MalformedError):
        read_npz(path)


def test_npz_of_other_packing_is_refused(tmp_path):
    packed(tmp_path / 'a.npz', {'a.npy': header((1,)) + bytes(4)}, zipfile.ZIP_LZMA)
    with pytest.raises(MalformedError, match='packed'):
        read_npz(tmp_path / 'a.npz')


# --- pickles ----------------------------------------------------------------------------------------------

def shared(levels, pair):
    value = pair((1,), (2,))
    for _ in range(levels):
        value = pair(value, value)
    return value


@pytest.mark.parametrize('content', [
    # DUP and TUPLE2; Python itself would hash the key for ever.
    pytest.param(b'\x80\x04})' + b'2\x86' * 60 + b'K\x01s.', id='tuples as keys'),
    pytest.param(pickle.dumps(shared(60, lambda a, b: [a, b])), id='lists'),
    pytest.param(pickle.dumps(shared(60, lambda a, b: {'a': a, 'b': b})), id='dicts'),
    pytest.param(pickle.dumps(shared(17, lambda a, b: [a] * 10)), id='wide lists'),
])
def test_values_that_share_without_end_are_refused(content):
    with soon(), pytest.raises(PickleError, match='MAX_VALUES|too deep'):
        plain(load_inert(content), 'content')


def test_lists_that_hold_themselves_are_refused():
    value = []
    value += [value, value, value]
    with soon(), pytest.raises(PickleError, match='too deep'):
        plain(load_inert(pickle.dumps(value)), 'content')


def test_tuples_nested_without_end_are_refused():
    """Their hash would recurse in C, beyond the stack."""
    content = b'\x80\x04}(' + b')' + b'\x85' * 60_000 + b'K\x01u.'
    with soon(), pytest.raises(PickleError, match='MAX_NESTING'):
        load_inert(content)


def array_state(shape):
    """A pickled array whose shape is of our choice: numpy's, with its tuple of dimensions exchanged."""
    class Forged:
        def __reduce__(self):
            build, arguments, state = np.zeros(4).__reduce__()
            return build, arguments, (state[0], shape, *state[2:])
    return pickle.dumps(Forged())


@pytest.mark.parametrize('shape', [
    pytest.param((10 ** 400,) * 20_000, id='20,000 dimensions of 400 digits'),
    pytest.param((10 ** 5000,), id='5,000 digits'), pytest.param((2 ** 23, 2 ** 23), id='too large'),
    pytest.param((0,) * 40, id='40 dimensions'), pytest.param(('x' * 10 ** 6,), id='text'),
    pytest.param(tuple([[[1] * 100] * 100]), id='lists'),
])
def test_absurd_shapes_are_refused_in_one_line(shape):
    with soon(), pytest.raises(PickleError, match='malformed') as error:
        plain(load_inert(array_state(shape)), 'content')
    assert len(str(error.value)) < 400


def test_tensors_that_repeat_their_storage_are_bounded():
    one = torch.ones(1)
    assert plain(load_inert(pickle.dumps(one.expand(1000))), 'content').shape == (1000,)
    with soon(), pytest.raises(PickleError, match='repeats'):
        plain(load_inert(pickle.dumps(one.expand(2 ** 22))), 'content')
    many = [torch.ones(1).expand(2 ** 20) for _ in range(100)]
    with soon(2 ** 30), pytest.raises(PickleError, match='all arrays together'):
        plain(load_inert(pickle.dumps(many)), 'content')


def test_an_array_that_is_used_often_is_made_once():
    array = np.ones(10 ** 5)
    with soon():
        got = plain(load_inert(pickle.dumps([array] * 5000)), 'content')
    assert len(got) == 5000 and got[0] is got[-1]


# --- weights ----------------------------------------------------------------------------------------------

ABOUT = {'format': '1', 'network': 'Net', 'config': '{"width": 3}'}


def weights(path, state, about=None):
    path.write_bytes(save(state, ABOUT | (about or {})))
    return path


@pytest.mark.parametrize('state, about, complaint', [
    ({'a': torch.tensor([1.0, float('nan')])}, {}, "'a' holds numbers that are not finite"),
    ({'a': torch.tensor([1.0, float('inf')]).half()}, {}, 'not finite'),
    ({'a': torch.zeros(2, dtype=torch.float64)}, {}, 'float64'),
    ({'a': torch.zeros(2, dtype=torch.uint8)}, {}, 'uint8'),
    ({'a': torch.zeros(2)}, {'config': '[1]'}, 'not a table'),
    ({'a': torch.zeros(2)}, {'config': '[' * 10 ** 5}, 'does not say how'),
])
def test_absurd_weights_are_refused(tmp_path, state, about, complaint):
    with soon(), pytest.raises(ConfigError, match=complaint):
        read_weights(weights(tmp_path / 'net.safetensors', state, about), 'Net')


def test_sizes_that_a_weights_file_claims_are_not_believed(tmp_path):
    path = tmp_path / 'net.safetensors'
    path.write_bytes(struct.pack('<Q', 2 ** 40) + b'{}')
    with soon(), pytest.raises(ConfigError, match='MAX_HEADER_BYTES'):
        read_weights(path, 'Net')
    text = json.dumps({'a': {'dtype': 'F32', 'shape': [2 ** 40], 'data_offsets': [0, 2 ** 42]}}).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text)
    with soon(), pytest.raises(ConfigError, match='net.safetensors'):
        read_weights(path, 'Net')
    with path.open('wb') as file:
        file.truncate(2 ** 40)
    with soon(), pytest.raises(ConfigError, match='MAX_FILE_BYTES'):
        read_weights(path, 'Net')


def test_a_network_of_absurd_size_is_not_built():
    made = []
    with soon(), pytest.raises(ConfigError, match='net.safetensors: .*far larger'):
        build_stored(lambda: made.append(torch.nn.Linear(2 ** 20, 2 ** 20)), {}, 'net.safetensors')
    network = build_stored(lambda: torch.nn.Linear(2, 3), torch.nn.Linear(2, 3).state_dict(), 'net.safetensors')
    assert network.weight.shape == (3, 2)


# --- mutants ----------------------------------------------------------------------------------------------

def mutated(content, draw):
    """A file with some bytes exchanged, removed, doubled or put in, or cut short."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(('set', 'flip', 'drop', 'double', 'insert', 'cut', 'extreme')))
        if kind == 'set' and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == 'flip' and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == 'drop':
            del data[at:at + draw(st.integers(1, 40))]
        elif kind == 'double':
            data[at:at] = data[at:at + draw(st.integers(1, 200))]
        elif kind == 'insert':
            data[at:at] = draw(st.binary(min_size=1, max_size=12))
        elif kind == 'cut':
            del data[at:]
        else:
            data[at:at + 8] = draw(st.sampled_from((b'\xff' * 8, b'\x00' * 8, b'\xff' * 7 + b'\x7f', b'99999999')))
    return bytes(data)


def small_npz():
    file = io.BytesIO()
    np.savez(file, a=np.arange(6.0), side=np.array('right'))
    return file.getvalue()


def small_hand():
    file = io.BytesIO()
    np.savez_compressed(file, **build_standin('right'))
    return file.getvalue()


def small_pickle():
    return pickle.dumps({'a': np.arange(6.0), 'b': [torch.ones(2), ('x', 1.5)], 'c': {(1, 2): None}}, protocol=2)


READERS = {
    'npz': (small_npz(), lambda path: read_npz(path), (MalformedError, OSError)),
    'hand model': (small_hand(), lambda path: read_arrays(path.rename(path.with_suffix('.npz'))), HandModelError),
    'pickle': (small_pickle(), lambda path: plain(load_inert(path.read_bytes()), 'content'), PickleError),
    'weights': (save({'a': torch.zeros(3, 2), 'b': torch.ones(2).half()}, ABOUT),
                lambda path: read_weights(path, 'Net'), ConfigError),
    'training': ((ROOT / 'config/train/jump_hand_lite.yaml').read_bytes(), load_config, ConfigError),
    'covariance map': (json.dumps({'kind': 'scalar', 'factors': {'2': 1.5, '3': 1.25}, 'filtered': {'2': 1.2},
                                   'head': 'abc'}).encode(), CovarianceMap.load, ConfigError),
}


def fuzz(name, folder, count):
    content, reader, refusals = READERS[name]

    @settings(max_examples=count, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data):
        path = folder / 'mutant'
        path.write_bytes(mutated(content, data.draw))
        begun = time.process_time()
        try:
            reader(path)
        except refusals as error:
            assert len(str(error).splitlines()) <= 1 and len(str(error)) < 1500
        assert time.process_time() - begun < SECONDS

    run()


@pytest.mark.parametrize('name', READERS)
def test_mutants_are_read_or_refused(name, tmp_path):
    fuzz(name, tmp_path, 150)


@pytest.mark.slow
@pytest.mark.parametrize('name', READERS)
def test_ten_thousand_mutants_are_read_or_refused(name, tmp_path):
    fuzz(name, tmp_path, 10_000)
