"""The covariance head is trained by the same command, on a JumpHand that stays as it is."""

import numpy as np
import pytest
import torch

pytest.importorskip('lightning')
pytest.importorskip('numba')

from landmark_cases import CONFIG, feature_batch, network_on  # noqa: E402
from train_cases import rows, shared_set, tiny, train  # noqa: E402

from hand_unc_ros.data.feature_shards import FeatureSet, begin_features, write_features  # noqa: E402
from hand_unc_ros.errors import ConfigError  # noqa: E402
from hand_unc_ros.methods.jump_hand.covariance_task import losses, validate  # noqa: E402
from hand_unc_ros.methods.jump_hand.network import JumpHand, load_jump_hand, save_jump_hand  # noqa: E402
from hand_unc_ros.methods.tasks import parse_config, set_up  # noqa: E402
from hand_unc_ros.networks.joint_covariance import load_joint_covariance  # noqa: E402
from hand_unc_ros.networks.label_adaptation import adapted  # noqa: E402
from hand_unc_ros.networks.view_consensus import project_into_crops  # noqa: E402
from hand_unc_ros.networks.weights import fingerprint  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return shared_set(tmp_path_factory)


@pytest.fixture(scope='module')
def init(tmp_path_factory, data):
    """A JumpHand that has learned nothing but sees a hand in everything."""
    torch.manual_seed(3)
    network = JumpHand(tiny(data.parent, data).network).eval()
    torch.nn.init.constant_(network.view.presence.bias, 8.0)
    path = tmp_path_factory.mktemp('init') / 'jump_hand.safetensors'
    save_jump_hand(path, network)
    return path


def covariance_run(out, data, init, **changes):
    return tiny(out, data, task='covariance', init=str(init), **changes)


def test_a_run_leaves_the_head_and_the_network_as_it_was(data, init, tmp_path):
    before = fingerprint(init)
    path = train(covariance_run(tmp_path / 'run', data, init))
    assert path.name == 'covariance.safetensors' and path.with_suffix('.card.json').exists()
    head = load_joint_covariance(path, init)
    assert head.config.kind == 'correlated' and head.config.network == before == fingerprint(init)
    log = rows(tmp_path / 'run' / 'validation.csv')
    assert {'coverage95', 'nees_per_dof', 'nees_63_per_dof', 'coverage95_2_views'} <= log[-1].keys()
    assert all(np.isfinite(float(row['loss'])) for row in rows(tmp_path / 'run' / 'train.csv'))


def test_only_the_head_is_in_the_optimiser_and_all_of_it_learns(data, init, tmp_path):
    setup = set_up(covariance_run(tmp_path, data, init))
    moving = {name for name, parameter in setup.network.named_parameters() if parameter.requires_grad}
    assert moving == {'head.head.linear.weight', 'head.head.mix.weight'}
    losses(setup.network, setup.stream.chunk(0)[0])['nll'].backward()
    for name, parameter in setup.network.named_parameters():
        assert (parameter.grad is not None and (parameter.grad != 0).any()) == (name in moving), name


def test_training_finds_how_large_the_errors_are(data, init, tmp_path):
    """The tiny network is wrong by centimetres and says millimetres; the head learns it from the errors."""
    batches = set_up(covariance_run(tmp_path, data, init)).held_out()
    untrained = validate(set_up(covariance_run(tmp_path / 'a', data, init)).network, batches)
    path = train(covariance_run(tmp_path / 'b', data, init, steps=40, average=0.0, optimiser={'lr': 0.02, 'warmup': 0},
                                validation={'every': 40}, checkpoint_every=40))
    setup = set_up(covariance_run(tmp_path / 'b', data, init))
    setup.network.head = load_joint_covariance(path, init)
    trained = validate(setup.network, batches)
    assert trained['mpjpe_mm'] == untrained['mpjpe_mm']
    # Of four samples of the set itself: not calibration, but most of the way from wherever the network begins.
    assert abs(np.log(trained['nees_per_dof'])) < 0.5 * abs(np.log(untrained['nees_per_dof']))


def test_what_does_not_fit_is_refused(data, init, tmp_path):
    with pytest.raises(ConfigError, match='init'):
        tiny(tmp_path, data, task='covariance')
    with pytest.raises(ConfigError, match='jump_hand.safetensors holds another network'):
        set_up(covariance_run(tmp_path, data, init, network={'width': 32}))
    with pytest.raises(ConfigError, match="unknown key 'freeze'"):
        covariance_run(tmp_path, data, init, freeze=['view'])


def test_the_network_is_never_changed_by_a_step(data, init, tmp_path):
    setup = set_up(covariance_run(tmp_path, data, init))
    before = {name: value.clone() for name, value in load_jump_hand(init).state_dict().items()}
    losses(setup.network, setup.stream.chunk(0)[0])
    for name, value in setup.network.jump_hand.state_dict().items():
        assert torch.equal(value, before[name]), name


# --- on the frozen landmark network ---------------------------------------------------------------------------

PRINTS = {'trunk': 'a', 'variance_head': 'b'}
NOISE_PX = 0.5


@pytest.fixture(scope='module')
def landmarks(tmp_path_factory):
    """Features of a landmark network that means points 8 mm off the labels, and reads them to NOISE_PX, and a JumpHand
    on it that moves nothing."""
    folder = tmp_path_factory.mktemp('landmarks')
    batch = feature_batch(48, 4)
    away = torch.randn((21, 3), generator=torch.Generator().manual_seed(0))
    bias = 8e-3 * torch.nn.functional.normalize(away, dim=-1)
    px, *_ = project_into_crops(adapted(batch['joints'], bias), batch['K'], batch['camera_from_world'])
    noise = NOISE_PX * torch.randn(px.shape, generator=torch.Generator().manual_seed(1))
    batch |= {'landmarks': px + noise, 'log_sigma': torch.full_like(batch['log_sigma'], float(np.log(NOISE_PX)))}
    begin_features(folder / 'features', FeatureSet('made for a test', 1, PRINTS, {}))
    write_features(folder / 'features', 0, batch)
    save_jump_hand(folder / 'jump_hand.safetensors', network_on(PRINTS))
    return folder


def on_landmarks(out, folder, **changes):
    source = {'source': 'features', 'path': str(folder / 'features')}
    network = {'size': 'landmarks', 'width': CONFIG.width, 'heads': CONFIG.heads, 'points': CONFIG.points,
               'ffn': CONFIG.ffn, 'layers': CONFIG.layers, 'vertex_queries': CONFIG.vertex_queries,
               'landmarks': {'channels': CONFIG.landmarks.channels}, 'appearance_dropout': 0.0}
    values = {'task': 'covariance', 'init': str(folder / 'jump_hand.safetensors'), 'out': str(out), 'network': network,
              'steps': 4, 'data': source | {'crops': 32, 'fewest_views': 4, 'workers': 0},
              'validation': source | {'samples': 16, 'views': 4, 'every': 4}, 'log_every': 2, 'checkpoint_every': 4,
              'machine': {'accelerator': 'cpu', 'precision': 'float32'}}
    return parse_config(values | changes)


def test_errors_are_what_joints_are_off_from_what_the_landmarks_mean(landmarks, tmp_path):
    """Half a pixel is a third of a millimetre here. By the labels as they are, all of 8 mm would be uncertainty."""
    numbers, nll = {}, {}
    for adapts in (True, False):
        setup = set_up(on_landmarks(tmp_path, landmarks, adapt_labels=adapts))
        assert not setup.network.jump_hand.training
        numbers[adapts] = setup.validate(setup.network, setup.held_out())
        nll[adapts] = setup.losses(setup.network, setup.stream.chunk(0)[0])['nll'].item()
    assert numbers[True]['mpjpe_mm'] < 1.0 and 7.5 < numbers[False]['mpjpe_mm'] < 8.5
    assert 0.5 < numbers[True]['nees_per_dof'] < 1.5 and numbers[False]['nees_per_dof'] > 20
    assert nll[True] < nll[False]


def test_a_head_is_trained_on_the_frozen_landmark_network(landmarks, tmp_path):
    path = train(on_landmarks(tmp_path / 'run', landmarks))
    head = load_joint_covariance(path, landmarks / 'jump_hand.safetensors')
    assert head.config.kind == 'correlated'
    assert 0.3 < float(rows(tmp_path / 'run' / 'validation.csv')[-1]['nees_per_dof']) < 3


def test_features_of_other_frozen_networks_are_refused(landmarks, tmp_path):
    other = tmp_path / 'other'
    begin_features(other, FeatureSet('of another network', 1, {'trunk': 'x', 'variance_head': 'b'}, {}))
    write_features(other, 0, feature_batch(2, 4))
    source = {'source': 'features', 'path': str(other), 'samples': 2, 'views': 4, 'every': 4}
    with pytest.raises(ConfigError, match='of other frozen networks'):
        set_up(on_landmarks(tmp_path, landmarks, validation=source))
    with pytest.raises(ConfigError, match='network.size'):
        on_landmarks(tmp_path, landmarks, network={'size': 'lite'})
