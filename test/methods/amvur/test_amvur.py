"""AMVUR's network: where it puts joints and mesh, what its losses are, and its weights on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from amvur_cases import SIZES, TINY, crops, tiny_amvur
from landmark_cases import feature_batch
from torch.distributions import Normal, kl_divergence

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.amvur import losses
from hand_unc_ros.methods.amvur.config import CONFIGS, AmvurConfig
from hand_unc_ros.methods.amvur.network import camera_of, load_amvur, root_of
from hand_unc_ros.methods.amvur.reading import CropReader, labels_of
from hand_unc_ros.networks.mesh_attention import MeshGaussian
from hand_unc_ros.networks.weights import save_network

RESNET = AmvurConfig.from_dict(SIZES | {'features': 'resnet', 'positions': 'template', 'token': 0, 'coarse': []})


def gaussian(seed: int, *shape: int) -> MeshGaussian:
    generator = torch.Generator().manual_seed(seed)
    return MeshGaussian(*(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)))


def distribution(gaussian: MeshGaussian) -> Normal:
    return Normal(gaussian.mean, (gaussian.log_variance / 2).exp())


def test_losses_are_those_of_gaussians() -> None:
    one, other = gaussian(0, 4, 7, 3), gaussian(1, 4, 7, 3)
    target = gaussian(2, 4, 7, 3).mean
    expected = kl_divergence(distribution(one), distribution(other))
    torch.testing.assert_close(losses.gaussian_divergence(one, other), expected)
    torch.testing.assert_close(losses.gaussian_nll(one, target), -distribution(one).log_prob(target))
    torch.testing.assert_close(losses.gaussian_divergence(one, other, 'l2'), (one.mean - other.mean).square())
    root = torch.randn(3, 63, 63, dtype=torch.float64)
    covariance = 1e-5 * (root @ root.mT + torch.eye(63))
    joints, truth = (1e-2 * torch.randn(3, 21, 3, dtype=torch.float64) for _ in range(2))
    whole = torch.distributions.MultivariateNormal(
        joints.flatten(1) / HAND_UNIT, (covariance + losses.PLACED_FLOOR * torch.eye(63)) / HAND_UNIT ** 2)
    torch.testing.assert_close(losses.placed_nll(joints, covariance, truth),
                               -whole.log_prob(truth.flatten(1) / HAND_UNIT) / 63)
    truth[1, 4] = torch.nan
    assert torch.isfinite(losses.placed_nll(joints, covariance, truth)).tolist() == [True, False, True]


def test_joint_variances_follow_from_vertices() -> None:
    """As sampled vertices show, where these err independently; σ_J = B σ where they err alike."""
    network = tiny_amvur(replace(TINY, vertex_errors='independent'))
    vertices = MeshGaussian(torch.randn(1, 778, 3), 0.5 * torch.randn(1, 778, 3))
    joints = network.joints_of(vertices)
    noise = torch.randn(4000, 1, 778, 3, generator=torch.Generator().manual_seed(0))
    drawn = network.regressor @ vertices.sample(noise)
    torch.testing.assert_close(drawn.mean(0), joints.mean, atol=0.08, rtol=0)
    # Of 4000 draws a variance is known to 2.2 %.
    torch.testing.assert_close(drawn.var(0), joints.log_variance.exp(), rtol=0.12, atol=0)
    alike = tiny_amvur().joints_of(vertices)
    torch.testing.assert_close((alike.log_variance / 2).exp(),
                               network.regressor @ (vertices.log_variance / 2).exp())
    assert (alike.log_variance >= joints.log_variance - 1e-5).all()


def test_projection_is_that_of_the_camera_to_first_order() -> None:
    network = tiny_amvur()
    evidence, labels = crops(network)
    out = network(evidence)
    reach = evidence.frame.reach
    seen = losses.projected(out.joints, out.root, reach)
    points = HAND_UNIT * out.joints.mean + out.root[:, None]
    torch.testing.assert_close(seen.mean, points[..., :2] / points[..., 2:] / reach[:, None, None])
    step = 1e-3
    moved = losses.projected(MeshGaussian(out.joints.mean + step * torch.tensor([1.0, 0, 0]), out.joints.log_variance),
                             out.root, reach)
    slope = (moved.mean - seen.mean)[..., 0] / step
    torch.testing.assert_close((seen.log_variance - out.joints.log_variance[..., :2])[..., 0], 2 * slope.log(),
                               atol=1e-2, rtol=0)
    # The labels of 3D joints project to the labels of 2D joints.
    truth = labels.joints[..., :2] / labels.joints[..., 2:] / reach[:, None, None]
    torch.testing.assert_close(truth[labels.seen], labels.places[labels.seen], atol=1e-4, rtol=1e-4)


def test_the_placed_hand_projects_onto_its_landmarks() -> None:
    network = tiny_amvur()
    evidence, _ = crops(network)
    out = network(evidence)
    # Landmarks of about this shape, which no network with random weights sees in random features.
    points = HAND_UNIT * out.joints.mean + torch.tensor([0.02, -0.03, 0.5])
    tangents = points[..., :2] / points[..., 2:] + 0.01 * torch.randn_like(evidence.tangents)
    sharp = evidence._replace(tangents=tangents, sigma=torch.full_like(evidence.sigma, 1e-4))
    placed = network.placed(out, sharp)
    tangents = placed.joints[..., :2] / placed.joints[..., 2:]
    torch.testing.assert_close(tangents.float(), sharp.tangents, atol=2e-3, rtol=0)
    mesh = network.placed_vertices(out, placed)
    regressed = network.regressor @ mesh
    assert (regressed - placed.joints.float()).norm(dim=-1).mean() < 0.02
    # An image does not show how large a hand is; who knows it knows the depth.
    assert (out.shared[:, 0] >= network.config.size_sigma).all()
    sure = out._replace(joints=MeshGaussian(out.joints.mean, torch.full_like(out.joints.mean, -10.0)),
                        shared=out.shared * torch.tensor([1.0, 0.1, 0.1, 0.1]))
    known, open_ = (network.placed(sure, sharp, size).covariance for size in (torch.full((len(out.root),), 1e-3), None))
    depth, loose = (part[:, 2::3, 2::3].diagonal(dim1=1, dim2=2).sqrt().mean() for part in (known, open_))
    assert depth < 0.5 * loose


def test_the_mesh_is_the_same_without_the_priors_variance() -> None:
    network = tiny_amvur()
    evidence, _ = crops(network)
    with torch.inference_mode():
        whole, alone = network(evidence), network(evidence, with_prior=False)
    assert whole.prior is not None and alone.prior is None
    assert torch.equal(whole.vertices.mean, alone.vertices.mean) and torch.equal(whole.shared, alone.shared)


def test_camera_and_root_are_each_others_inverse() -> None:
    root = torch.tensor([[0.02, -0.03, 0.5], [-0.1, 0.05, 1.2]])
    reach = torch.tensor([0.2, 0.1])
    torch.testing.assert_close(root_of(camera_of(root, reach), reach), root)
    # A hand that spans half of the crop is at the depth of zero.
    assert abs(camera_of(torch.tensor([[0.0, 0, 0.5]]), torch.tensor([0.2]))[0, 2]) < 1e-6


@pytest.mark.parametrize('term', [losses.supervised_losses, losses.weak_losses, losses.prior_losses])
def test_every_algorithm_trains_on_what_is_known(term) -> None:
    """Finite terms and gradients, with labels that are missing (here: of the surface, and of one whole crop)."""
    network = tiny_amvur().train()
    evidence, labels = crops(network)
    assert torch.isnan(labels.vertices).all()
    labels.joints[1] = torch.nan
    if term is losses.weak_losses:
        labels = labels._replace(joints=None, vertices=None)
    terms = term(network, evidence, labels)
    sum(terms.values()).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    assert any(name.startswith('prior.') for name in gradients)
    assert any(name.startswith('blocks.') for name in gradients) == (term is not losses.prior_losses)


def test_the_network_of_the_paper_reads_images() -> None:
    network = tiny_amvur(RESNET)
    batch = feature_batch(1, 2)
    batch['images'] = torch.randint(0, 255, (1, 2, 224, 224, 3), dtype=torch.uint8)
    evidence, rows = CropReader(None)(network, batch)
    labels = labels_of(batch, evidence.frame, rows, 778)
    assert evidence.whole.shape == (2, 2048) and evidence.tangents is None
    terms = losses.vertex_losses(network, evidence, labels)
    assert set(terms) == {'vertices', 'camera', 'joints_2d'}
    out = network(evidence)
    placed = network.placed(out, evidence)
    assert (torch.linalg.eigvalsh(placed.covariance) > 0).all() and (out.root[:, 2] > 0).all()
    torch.testing.assert_close(placed.joints.float(), HAND_UNIT * out.joints.mean + out.root[:, None])
    paper = CONFIGS['paper']
    assert (paper.outputs, paper.hidden, paper.coarse, paper.surface) == ((512, 128), (1024, 256, 64), (), 'mano')


def test_weights_come_back_from_disk(tmp_path: Path) -> None:
    network = tiny_amvur()
    path = tmp_path / 'amvur.safetensors'
    save_network(path, network, network.config.to_dict())
    loaded = load_amvur(path)
    assert loaded.config == network.config
    evidence, _ = crops(network)
    for one, other in zip(network(evidence).vertices, loaded(evidence).vertices):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)
    save_network(path, network, network.config.to_dict() | {'hidden': [16, 4]})
    with pytest.raises(ConfigError, match='does not fit the Amvur'):
        load_amvur(path)
    save_network(path, network, network.config.to_dict() | {'depth': 3})
    with pytest.raises(ConfigError, match='does not fit this version'):
        load_amvur(path)


@pytest.mark.parametrize(('choices', 'words'), [
    ({'features': 'vgg'}, 'features'), ({'hidden': (8,)}, 'outputs'), ({'heads': 3}, 'heads'),
    ({'coarse': (2,)}, 'coarse'), ({'coarse': (90, 30)}, 'rise'), ({'surface': 'mano'}, 'template'),
    ({'dropout': 1.0}, 'dropout')])
def test_choices_that_make_no_sense_are_refused(choices: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(TINY, **choices)
