"""The monocular network: trained by the same command, on a 2D stage that stays as it is or is trained with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip('lightning')
pytest.importorskip('smplx')
pytest.importorskip('numba')

from train_cases import NETWORK, rows, shared_set, train  # noqa: E402

from hand_unc_ros.errors import ConfigError  # noqa: E402
from hand_unc_ros.methods.correlated_uncertainty.network import (  # noqa: E402
    MonocularConfig,
    MonocularHand,
    load_monocular_hand,
)
from hand_unc_ros.methods.tasks import parse_config, set_up  # noqa: E402
from hand_unc_ros.networks.gaussian_2d import Gaussian2DConfig, Gaussian2DNet  # noqa: E402
from hand_unc_ros.networks.weights import save_network  # noqa: E402

torch.set_num_threads(1)

VIEW = Gaussian2DConfig(**NETWORK['view'] | {'blocks': tuple(NETWORK['view']['blocks'])})


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return shared_set(tmp_path_factory)


@pytest.fixture(scope='module')
def view(tmp_path_factory):
    """Weights of a 2D stage."""
    torch.manual_seed(5)
    network = Gaussian2DNet(VIEW)
    path = tmp_path_factory.mktemp('view') / 'gaussian_2d.safetensors'
    save_network(path, network, VIEW.to_dict())
    return path


def config_of(out, data, **changes):
    source = {'source': 'shards', 'path': str(data), 'augmentation': {}}
    network = {'view': NETWORK['view'], 'width': 16} | changes.pop('network', {})
    return parse_config({'task': 'correlated_uncertainty', 'out': str(out), 'steps': 3, 'network': network,
                         'data': source | {'samples': 4, 'workers': 0},
                         'validation': source | {'samples': 4, 'views': 2, 'every': 3},
                         'optimiser': {'warmup': 0}, 'average': 0.0, 'log_every': 1,
                         'machine': {'accelerator': 'cpu', 'precision': 'float32'}, **changes})


@pytest.mark.parametrize('kind, loss', [('correlated', 'paper'), ('correlated', 'likelihood'), ('full', 'paper'),
                                        ('deterministic', 'paper')])
def test_a_run_leaves_the_network(data, view, tmp_path, kind, loss):
    path = train(config_of(tmp_path, data, network={'kind': kind}, loss={'kind': loss}, init_view=str(view)))
    assert path.name == 'correlated_uncertainty.safetensors'
    network = load_monocular_hand(path)
    assert network.config == MonocularConfig(VIEW, 16, kind)
    assert all(np.isfinite(float(row['loss'])) for row in rows(tmp_path / 'train.csv'))
    last = rows(tmp_path / 'validation.csv')[-1]
    assert float(last['mpjpe_mm']) > 0 and (last['coverage95'] == '') == (kind == 'deterministic')
    gaussian = network(torch.rand(2, 3, 128, 128))
    assert gaussian.mean.shape == (2, 63) and gaussian.covariance.shape == (2, 63, 63)


def test_a_given_2d_stage_stays_as_it_is_and_another_learns(data, view, tmp_path):
    for init, moves in ((str(view), False), ('', True)):
        setup = set_up(config_of(tmp_path, data, init_view=init))
        sum(setup.losses(setup.network, setup.stream.chunk(0)[0]).values()).backward()
        learned = [name for name, parameter in setup.network.named_parameters()
                   if parameter.grad is not None and parameter.grad.any()]
        assert any(name.startswith('view.') for name in learned) == moves
        assert any(name.startswith('trunk.') for name in learned)
        assert setup.frozen == (() if moves else ('view',))


def test_errors_are_learned(data, view, tmp_path):
    train(config_of(tmp_path, data, init_view=str(view), steps=60, optimiser={'warmup': 0, 'lr': 0.01}))
    losses = [float(row['loss']) for row in rows(tmp_path / 'train.csv')]
    # Single batches differ by a quarter.
    assert np.mean(losses[-6:]) < 0.7 * losses[0]


def test_what_does_not_fit_is_refused(data, view, tmp_path):
    with pytest.raises(ConfigError, match="kind 'round' is unknown"):
        MonocularConfig(kind='round')
    with pytest.raises(ConfigError, match='network: kind'):
        config_of(tmp_path, data, network={'kind': 'round'})
    with pytest.raises(ConfigError, match='does not fit the network'):
        set_up(config_of(tmp_path, data, network={'view': NETWORK['view'] | {'width': 16}}, init_view=str(view)))


def test_crops_without_a_whole_hand_do_not_count(data, tmp_path):
    setup = set_up(config_of(tmp_path, data))
    network, batch = MonocularHand(MonocularConfig(VIEW, 16, 'deterministic')).eval(), setup.stream.chunk(0)[0]
    batch = {name: value.clone() for name, value in batch.items()}
    batch['joint_mask'][:] = True
    batch['joint_mask'][0, 0, 4] = False
    before = setup.losses(network, batch)['joints']
    batch['images'][0, 0] = 255 - batch['images'][0, 0]
    torch.testing.assert_close(setup.losses(network, batch)['joints'], before)
