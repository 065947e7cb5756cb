"""Weights on disk: what comes back, and what is refused by name."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_networks import TINY, randomised

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.networks.gaussian_2d import Gaussian2DConfig, Gaussian2DNet
from hand_unc_ros.networks.weights import read_weights, save_network

torch.set_num_threads(1)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(5)
    network = randomised(Gaussian2DNet(TINY), 6)
    path = tmp_path / 'tiny.safetensors'
    save_network(path, network, TINY.to_dict())
    return path, network


def test_weights_come_back_to_half_precision(weights):
    path, network = weights
    config, state = read_weights(path, 'Gaussian2DNet')
    assert Gaussian2DConfig(**config | {'blocks': tuple(config['blocks'])}) == TINY
    assert state.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert state[name].dtype == value.dtype
        # Half precision has 11 bits; below 6e-5 it has fewer.
        torch.testing.assert_close(state[name], value, rtol=2 ** -11, atol=1e-7)
    Gaussian2DNet(TINY).load_state_dict(state)
    assert path.stat().st_size < 2.2 * sum(value.numel() for value in network.parameters()) + 40_000


def test_missing_foreign_and_broken_weights_are_refused_by_name(weights, tmp_path):
    path, network = weights
    cases = {
        'missing.safetensors': None,
        'empty.safetensors': b'',
        'noise.safetensors': bytes(range(256)) * 9,
        'cut.safetensors': path.read_bytes()[:-1000],
        'header.safetensors': path.read_bytes()[:50],
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            read_weights(tmp_path / name, 'Gaussian2DNet')
    with pytest.raises(ConfigError, match='tiny.safetensors holds Gaussian2DNet.*expected HandFinder'):
        read_weights(path, 'HandFinder')
    with pytest.raises(ConfigError, match=str(tmp_path)):
        read_weights(tmp_path, 'Gaussian2DNet')


def test_weights_without_or_with_wrong_metadata_are_refused(weights, tmp_path):
    state = load_file(weights[0])
    for number, metadata in enumerate((None, {'format': '1'}, {'format': '1', 'network': 'Gaussian2DNet'},
                                       {'format': '9', 'network': 'Gaussian2DNet', 'config': '{}'},
                                       {'format': '1', 'network': 'Gaussian2DNet', 'config': '{"blocks": '})):
        path = tmp_path / f'other{number}.safetensors'
        save_file(state, path, metadata)
        with pytest.raises(ConfigError, match=path.name):
            read_weights(path, 'Gaussian2DNet')


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.mark.parametrize('writer', (pickle.dump, torch.save))
def test_pickles_are_refused_and_not_run(writer, tmp_path):
    path, mark = tmp_path / 'hostile.safetensors', tmp_path / 'it_ran'
    with path.open('wb') as file:
        writer(Trap(mark), file)
    with pytest.raises(ConfigError, match='hostile.safetensors'):
        read_weights(path, 'Gaussian2DNet')
    assert not mark.exists()
