"""Arrays and torch tensors out of pickles; tensors that lie about their storage are refused."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from hand_unc_ros.hand.inert_pickle import PickleError, load_inert, plain


def read(value, protocol=4):
    return plain(load_inert(pickle.dumps(value, protocol=protocol)), 'content')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_values_arrays_and_tensors_come_back(protocol):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    values = {
        'view': base.T[1:5:2], 'double': torch.eye(3, dtype=torch.float64), 'scalar': torch.tensor(7),
        'int': torch.tensor([1, -2], dtype=torch.int32), 'gradient': torch.ones(2, requires_grad=True),
        'empty': torch.zeros(0, 3),
    }
    array, rest = np.arange(6.0).reshape(2, 3).T, [None, 'ü', 2.5, (1, True)]
    got = read({'tensors': values, 'array': array, 'rest': rest}, protocol)
    for name, tensor in values.items():
        expected = tensor.detach().numpy()
        np.testing.assert_array_equal(got['tensors'][name], expected, err_msg=name)
        assert got['tensors'][name].dtype == expected.dtype
    np.testing.assert_array_equal(got['array'], array)
    assert got['rest'] == rest


def test_arrays_of_objects_are_lists():
    table = np.empty((), dtype=object)
    table[()] = {'pose': np.arange(3.0)}
    (got,) = read(table)
    np.testing.assert_array_equal(got['pose'], np.arange(3.0))
    assert read(np.array([['a', 1], [None, 2.5]], dtype=object)) == ['a', 1, None, 2.5]


class Rebuilt:
    """Pickles as torch pickles a tensor, with a storage and a geometry of our choice."""

    def __init__(self, stored, offset=0, size=(3,), stride=(1,)):
        self.arguments = (Stored(stored), offset, size, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


class Stored:
    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.content,)


def stored(values=(1.0, 2.0, 3.0)):
    """The bytes of a storage, as torch writes them."""
    _, (storage, *_) = torch.tensor(values).__reduce_ex__(2)
    function, (content,) = storage.__reduce__()
    assert function is torch.storage._load_from_bytes
    return content


def test_the_forged_tensor_is_sound_when_it_is_honest():
    np.testing.assert_array_equal(read(Rebuilt(stored())), [1, 2, 3])
    np.testing.assert_array_equal(read(Rebuilt(stored(), 1, (2, 2), (1, 0))), [[2, 2], [3, 3]])


@pytest.mark.parametrize('geometry', [
    {'size': (4,)}, {'offset': 1}, {'offset': -1}, {'stride': (2,)}, {'stride': (-1,)}, {'size': (3, 1)},
    {'size': (2 ** 40,), 'stride': (0,)}, {'offset': '0'},
])
def test_tensors_beyond_their_storage_are_refused(geometry):
    with pytest.raises(PickleError, match='malformed'):
        read(Rebuilt(stored(), **geometry))


@pytest.mark.parametrize('content', [
    b'', stored()[:-1], stored()[:40], stored().replace(b'FloatStorage', b'ChairStorage'), b'PK\x03\x04 a zip archive',
    stored().replace(b'little_endianq\x02\x88', b'little_endianq\x02\x89'), stored() + b'more',
])
def test_damaged_storages_are_refused(content):
    with pytest.raises(PickleError):
        read(Rebuilt(content))


def test_a_storage_that_calls_is_refused_and_runs_nothing(tmp_path):
    canary = tmp_path / 'canary'

    class Calls:
        def __reduce__(self):
            return os.system, (f'touch {canary}',)

    for content in (pickle.dumps(Calls()), stored()[:-1] + pickle.dumps(Calls())):
        with pytest.raises(PickleError):
            read(Rebuilt(content))
    hidden = stored()
    with pytest.raises(PickleError, match='refused'):
        read(Rebuilt(pickle.dumps(0x1950a86a20f9469cfc6c) + pickle.dumps(Calls()) + hidden))
    assert not canary.exists()


def test_nesting_has_a_limit():
    deep = []
    for _ in range(50):
        deep = [deep]
    with pytest.raises(PickleError, match='too deep'):
        read(deep)
