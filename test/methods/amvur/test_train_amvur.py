"""Short runs of every algorithm, and the configurations that are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from amvur_cases import SIZES, crops, tiny_amvur
from landmark_cases import feature_batch
from repository import ROOT
from train_cases import rows, shared_set, train

from hand_unc_ros.data.feature_shards import FeatureSet, begin_features, write_features
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.amvur.config import AmvurConfig
from hand_unc_ros.methods.amvur.network import Amvur, load_amvur
from hand_unc_ros.methods.amvur.task import AmvurTraining, build_network
from hand_unc_ros.methods.amvur.texture import TextureConfig, TexturedAmvur, TextureNet, photometric
from hand_unc_ros.methods.tasks import load_config, parse_config
from hand_unc_ros.networks.weights import read_weights, save_network

PRINTS = {'trunk': 'a', 'variance_head': 'b'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of hands of one shape in one pose, turned at random."""
    path = tmp_path_factory.mktemp('features')
    for number in begin_features(path, FeatureSet('made for a test', 1, PRINTS, {})):
        write_features(path, number, feature_batch(16, 3, seed=number))
    return path


def configured(folder: Path, out: Path, **changes) -> AmvurTraining:
    source = {'source': 'features', 'path': str(folder)}
    values = {'task': 'amvur', 'out': str(out), 'steps': 16, 'network': SIZES, 'losses': {'vertices': 1.0},
              'data': source | {'crops': 24, 'workers': 0},
              'validation': source | {'samples': 8, 'views': 3, 'every': 16},
              'optimiser': {'warmup': 0, 'lr': 3e-3}, 'average': 0.9, 'log_every': 4, 'checkpoint_every': 16,
              'machine': {'accelerator': 'cpu', 'precision': 'float32'}}
    return parse_config(values | changes)


@pytest.mark.parametrize(('changes', 'term'), [
    ({}, 'offset'), ({'labels': '2d'}, 'loss'), ({'divergence': 'l2'}, 'joints'), ({'stage': 'prior'}, 'joints'),
    ({'stage': 'amvur', 'network': SIZES | {'positions': 'template'}}, 'joints_2d')],
    ids=['supervised', 'weak', 'l2', 'prior', 'amvur'])
def test_a_short_run_learns(folder: Path, tmp_path: Path, changes: dict, term: str) -> None:
    path = train(configured(folder, tmp_path / 'run', **changes))
    losses = [float(row[term]) for row in rows(tmp_path / 'run' / 'train.csv')]
    assert min(losses[1:]) < losses[0]
    last = rows(tmp_path / 'run' / 'validation.csv')[-1]
    assert all(float(last[name]) > 0 for name in ('mpjpe_mm', 'pa_mpjpe_mm', 'nees_per_dof', 'depth_sigma_ratio'))
    network = load_amvur(path)
    assert (network.config.trunk, network.config.variance_head) == ('a', 'b')


def test_texture_is_learned_from_images() -> None:
    """Of one image: the colours of the mesh come to be those of the pixels that it covers, and the mesh stays."""
    network = tiny_amvur()
    torch.manual_seed(0)
    texture = TextureNet(TextureConfig(width=16, layers=1, heads=2, coarse=60, render_size=56), network)
    model = load_hand_model(None)
    textured = TexturedAmvur(network, texture, model.faces)
    evidence, _ = crops(network, 1)
    out = network(evidence)
    points = HAND_UNIT * out.joints.mean + torch.tensor([0.0, 0.0, 0.6])
    evidence = evidence._replace(tangents=points[..., :2] / points[..., 2:])
    K = torch.diag_embed(torch.tensor([[700.0, 700.0, 1.0]])).repeat(2, 1, 1)
    K[:, :2, 2] = 111.5
    gradient = torch.linspace(0.1, 0.9, 224).expand(224, 224)
    images = torch.stack([gradient, gradient.T, torch.full_like(gradient, 0.3)]).repeat(2, 1, 1, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.Adam([p for p in textured.parameters() if p.requires_grad], 0.01)
    values = []
    for _ in range(15):
        rendered = textured(images, K, evidence)
        assert rendered.raster.mask.float().mean() > 0.02
        value = photometric(rendered, images)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_a_resnet_50_begins_with_torchvisions_weights_and_is_trained(
        tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From a file as torchvision's, with its classifier; a step moves the first of its weights as well as the last."""
    network = SIZES | {'features': 'resnet', 'positions': 'template', 'token': 0}
    torch.manual_seed(1)
    state = Amvur(AmvurConfig.from_dict(network)).backbone.state_dict()
    assert state['layer3.5.conv3.weight'].shape == (1024, 256, 1, 1)
    torch.save(state | {'fc.weight': torch.zeros(1000, 2048), 'fc.bias': torch.zeros(1000)}, tmp_path / 'resnet50.pth')
    source = {'source': 'shards', 'path': str(shared_set(tmp_path_factory)), 'augmentation': {}}
    config = configured(tmp_path, tmp_path / 'run', network=network, init_backbone=str(tmp_path / 'resnet50.pth'),
                        data=source | {'samples': 2, 'workers': 0}, steps=1, log_every=1, average=0.0,
                        validation=source | {'samples': 2, 'views': 2, 'every': 1})
    started = build_network(config).backbone.state_dict()
    assert all(torch.equal(started[name], value) for name, value in state.items())
    trained = load_amvur(train(config)).backbone.state_dict()
    for name in ('conv1.weight', 'layer2.0.downsample.0.weight', 'layer4.2.conv3.weight'):
        assert not torch.equal(trained[name], state[name]) and torch.isfinite(trained[name]).all(), name
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(ConfigError, match='other.pth'):
        build_network(replace(config, init_backbone=str(tmp_path / 'other.pth')))


@pytest.mark.slow
def test_texture_runs_on_samples_with_images(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A ResNet reads them, so that no landmark network is needed."""
    sizes = SIZES | {'features': 'resnet', 'positions': 'template', 'token': 0}
    base = tiny_amvur(AmvurConfig.from_dict(sizes))
    save_network(tmp_path / 'base.safetensors', base, base.config.to_dict())
    source = {'source': 'shards', 'path': str(shared_set(tmp_path_factory)), 'augmentation': {}}
    config = configured(tmp_path, tmp_path / 'run', stage='texture', base=str(tmp_path / 'base.safetensors'), steps=2,
                        network=sizes, data=source | {'samples': 2, 'workers': 0}, log_every=1,
                        validation=source | {'samples': 2, 'views': 2, 'every': 2},
                        texture={'width': 8, 'layers': 1, 'heads': 2, 'coarse': 50, 'render_size': 56})
    values, state = read_weights(train(config), 'TextureNet')
    assert len(values['base']) == 64 and all(not name.startswith('amvur') for name in state)
    assert float(rows(tmp_path / 'run' / 'validation.csv')[-1]['covered']) >= 0


def test_configurations_that_make_no_sense_are_refused(folder: Path, tmp_path: Path) -> None:
    resnet = SIZES | {'features': 'resnet', 'positions': 'template'}
    for changes, words in (({'network': SIZES | {'size': 'huge'}}, 'network.size'), ({'stage': 'amvur'}, 'positions'),
                           ({'stage': 'texture'}, 'no images'), ({'base': 'a.safetensors'}, 'base'),
                           ({'network': resnet}, 'no images'), ({'hand_model': 'anny'}, 'surface'),
                           ({'init_backbone': 'resnet50.pth'}, 'init_backbone'), ({'divergence': 'l1'}, 'divergence'),
                           ({'losses': {'vertexes': 1}}, 'vertices')):
        with pytest.raises(ConfigError, match=words):
            configured(folder, tmp_path, **changes)


def test_the_papers_configuration_has_its_backbone_and_blocks() -> None:
    config = load_config(ROOT / 'config' / 'train' / 'amvur_paper.yaml')
    blocks = (config.network.outputs, config.network.hidden, config.network.layers, config.network.heads)
    assert config.network.features == 'resnet' and blocks == ((512, 128), (1024, 256, 64), 4, 4)
    assert (config.stage, config.labels, config.divergence) == ('both', '3d', 'kl')


def test_the_configuration_that_comes_along_is_the_lite_one() -> None:
    config = load_config(ROOT / 'config' / 'train' / 'amvur_lite.yaml')
    assert config.network.surface == 'anny' and config.network.coarse == (98,) and config.stage == 'both'
