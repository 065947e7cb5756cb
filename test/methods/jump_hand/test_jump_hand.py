"""The whole network: views in any order and number, a world turned at will, degenerate views, and what it refuses."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion_cases import SIZE, fused
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import TINY, tiny_network
from view_cases import rotation

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.weighted_triangulation import TRIANGULATIONS
from hand_unc_ros.hand.standin import build_standin
from hand_unc_ros.hand.topology import VERTEX_COUNT
from hand_unc_ros.methods.jump_hand.network import (
    CONFIGS,
    JumpHand,
    JumpHandConfig,
    load_jump_hand,
    save_jump_hand,
)
from hand_unc_ros.networks.vertex_queries import nearest_mean, spread_out
from hand_unc_ros.networks.gaussian_2d import cells_to_pixels, pixels_to_cells
from hand_unc_ros.networks.view_fusion import GATES

torch.set_num_threads(1)

# Metres: rounding of float32 over the network, far below what any hand can tell.
SAME = dict(rtol=0, atol=1e-5)


@pytest.fixture(scope='module')
def network():
    return tiny_network()


def trained(config=TINY):
    """One whose linear map to the surface is no longer the average that it begins as."""
    network = tiny_network(config)
    with torch.no_grad():
        network.lift.weight.add_(0.05 * torch.randn(network.lift.weight.shape))
    return network


def joined(network, scene, confidence=None, start=None):
    with torch.no_grad():
        return network.fuse(*scene.inputs, confidence, start)


def scores(views, seed=9):
    return torch.randn(2, views, 21, generator=torch.Generator().manual_seed(seed))


def answers(out):
    return {name: getattr(out, name) for name in ('coarse', 'coarse_valid', 'joints', 'vertices', 'features')}


# --- order, number and absence of views -------------------------------------------------------------------

CHOICES = [('uncertainty', method) for method in TRIANGULATIONS] + [(kind, 'ug_dlt') for kind in GATES[1:]]


@pytest.mark.parametrize('kind, method', CHOICES)
@pytest.mark.parametrize('views', range(1, 9))
def test_an_absent_view_is_one_that_was_never_there_and_order_does_not_matter(network, views, kind, method):
    """`views` present ones of views + 2, whose rest is masked, against those alone in another order."""
    network.with_choices(gate=kind, triangulation=method)
    scene, confidence = fused(views + 2, seed=views), scores(views + 2)
    rng = np.random.default_rng(views)
    kept = torch.from_numpy(rng.permutation(views + 2)[:views])
    mask = torch.zeros(2, views + 2, dtype=torch.bool)
    mask[:, kept] = True
    everything = joined(network, scene._replace(view_mask=mask), confidence)
    alone = joined(network, scene.views(kept), confidence[:, kept])
    assert everything.coarse_valid.all().item() == (views > 1) == everything.coarse_valid.any().item()
    for name, value in answers(everything).items():
        torch.testing.assert_close(value, answers(alone)[name], **SAME)
    torch.testing.assert_close(everything.gate[:, kept], alone.gate, **SAME)
    # The decoder has moved the joints: there is something to compare.
    assert (everything.joints[-1] - everything.joints[0]).abs().max() > 1e-3


@pytest.mark.parametrize('layers', (0, 2))
def test_what_an_absent_view_holds_does_not_matter(layers):
    network = trained(replace(TINY, layers=layers))
    scene = fused(4)
    scene.view_mask[:, 2] = scene.view_mask[1, 0] = False
    expected = joined(network, scene)
    gone = ~scene.view_mask

    def spoilt(part, value):
        return torch.where(gone.reshape(*gone.shape, *[1] * (part.dim() - 2)), value, part)

    seen = scene.seen
    other = scene._replace(
        seen=seen._replace(mean=spoilt(seen.mean, 0.0), variance=spoilt(seen.variance, 1e-3),
                           pooled=spoilt(seen.pooled, 50.0), levels=[spoilt(level, -50.0) for level in seen.levels]),
        K=spoilt(scene.K, torch.eye(3)), camera_from_world=spoilt(scene.camera_from_world, torch.eye(4)[:3]))
    for name, value in answers(joined(network, other)).items():
        torch.testing.assert_close(value, answers(expected)[name], **SAME)


def test_images_go_the_same_way(network):
    """From pixels on: a black image that is masked, and views in another order."""
    network.with_choices(gate='uncertainty', triangulation='vanilla')
    scene = fused(4, noise_cells=0.0)
    images = torch.rand(2, 4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    # What an untrained network sees need not meet in a point; the decoder is given the joints.
    with torch.no_grad():
        seen = network.encode(images)
        expected = network.fuse(seen, scene.K, scene.camera_from_world, scene.view_mask, start=scene.joints)
        order = torch.tensor([2, 0, 3, 1])
        more = torch.cat([images[:, order], torch.zeros(2, 1, 3, SIZE, SIZE)], 1)
        mask = torch.tensor([[True] * 4 + [False]] * 2)
        cameras = [torch.cat([part[:, order], part[:, :1]], 1) for part in (scene.K, scene.camera_from_world)]
        found = network.fuse(network.encode(more), *cameras, mask, start=scene.joints)
        whole = network(more, *cameras, mask)
    torch.testing.assert_close(found.joints, expected.joints, **SAME)
    torch.testing.assert_close(found.vertices, expected.vertices, **SAME)
    torch.testing.assert_close(whole.mean[:, :4], seen.mean[:, order], rtol=1e-4, atol=1e-4)
    assert whole.joints.shape == (3, 2, 21, 3) and whole.vertices.shape == (3, 2, VERTEX_COUNT, 3)
    assert whole.features.shape == (2, 21, TINY.width) and whole.gate.shape == (2, 5, 21)


# --- a world that is turned and moved ---------------------------------------------------------------------

@pytest.mark.parametrize('layers', (0, 2))
@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(-1, 1)] * 3), st.integers(0, 99))
def test_the_answer_turns_and_moves_with_the_world(layers, turn, shift, seed):
    network = trained(replace(TINY, layers=layers))
    scene = fused(3, seed=seed)
    R, t = torch.from_numpy(rotation(np.array(turn))).float(), torch.tensor(shift)
    pose = scene.camera_from_world
    moved = torch.cat([pose[..., :3] @ R.T, pose[..., 3:] - pose[..., :3] @ R.T @ t[:, None]], -1)
    expected, found = joined(network, scene), joined(network, scene._replace(camera_from_world=moved))
    assert expected.coarse_valid.all()
    # Half a unit in the last place of coordinates up to 2.6 m is 1.2e-7; projected, 2e-4 px at 0.4 m.
    for name in ('coarse', 'joints', 'vertices'):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name) @ R.T + t, rtol=0, atol=3e-5)
    torch.testing.assert_close(found.features, expected.features, rtol=0, atol=2e-3)


# --- from joints to the surface ---------------------------------------------------------------------------

def test_the_coarse_surface_starts_as_the_average_of_its_bones(network):
    assert network.skinning.shape == network.lift.weight.shape == (VERTEX_COUNT, 21)
    torch.testing.assert_close(network.skinning.sum(1), torch.ones(VERTEX_COUNT))
    out = joined(network, fused(3, noise_cells=0.0))
    torch.testing.assert_close(out.vertices[0], network.skinning @ out.coarse, rtol=0, atol=1e-6)


@pytest.mark.parametrize('count', (1, 24, 64, VERTEX_COUNT))
def test_vertices_follow_the_queries_on_their_bones(count):
    arrays = build_standin('right')
    skinning = JumpHand(replace(TINY, vertex_queries=24)).skinning.numpy()
    picked = spread_out(arrays['v_template'], count)
    assert len(set(picked)) == count
    weights = nearest_mean(arrays['v_template'], picked, skinning).numpy()
    assert weights.shape == (VERTEX_COUNT, count) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    # A picked vertex is itself.
    np.testing.assert_allclose(weights[picked], np.eye(count), atol=1e-6)
    if 1 < count < VERTEX_COUNT:
        gaps = np.linalg.norm(arrays['v_template'][:, None] - arrays['v_template'][picked], axis=-1).min(1)
        others = np.linalg.norm(arrays['v_template'][picked][:, None] - arrays['v_template'][picked], axis=-1)
        # Farthest points: no vertex is farther from the chosen than these from each other.
        assert gaps.max() <= others[~np.eye(count, dtype=bool)].min() + 1e-9


# --- nothing that is not finite ---------------------------------------------------------------------------

def degenerate(kind):
    scene = fused(3)
    if kind == 'one view':
        scene.view_mask[:, 1:] = False
    elif kind == 'no view':
        scene.view_mask[:] = False
    elif kind == 'one place':
        return scene.views(torch.tensor([0, 0, 0]))
    elif kind == 'behind':
        scene.camera_from_world[..., 2, 3] -= 2.0
    elif kind == 'in the camera':
        scene.camera_from_world[..., 3] = 0.0
    elif kind == 'alike':
        scene.seen.mean[:] = 16.0
        scene.seen.variance[:] = 1.0
    elif kind == 'sure of nothing':
        scene.seen.variance[:] *= 1e6
    elif kind == 'mixed':
        scene.view_mask[0, :2] = False
    return scene


@pytest.mark.parametrize('kind', ('good', 'one view', 'no view', 'one place', 'behind', 'in the camera', 'alike',
                                  'sure of nothing', 'mixed'))
@pytest.mark.parametrize('method', TRIANGULATIONS)
def test_outputs_and_gradients_are_finite(kind, method):
    network = trained(replace(TINY, triangulation=method)).train()
    scene = degenerate(kind)
    seen = scene.seen
    leaves = [part.requires_grad_() for part in (seen.mean, seen.variance, seen.pooled, *seen.levels)]
    out = network.fuse(*scene.inputs)
    assert all(part.isfinite().all() for part in (out.gate, out.coarse, out.joints, out.vertices, out.features))
    assert (out.coarse[~out.coarse_valid] == 0).all()
    # Parallel rays leave nothing to triangulate, as less than two views do.
    if kind in ('one view', 'no view', 'one place', 'behind'):
        assert not out.coarse_valid.any()
    if kind == 'mixed':
        assert not out.coarse_valid[0].any() and out.coarse_valid[1].all()
    (out.joints.square().sum() + out.vertices.square().sum() + out.coarse.square().sum()).backward()
    parameters = [value for name, value in network.named_parameters() if not name.startswith('view.')]
    gradients = [value.grad for value in (*leaves, *parameters) if value.grad is not None]
    assert len(gradients) > 50 and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('known', (0, 1, 20))
def test_joints_to_refine_may_be_unknown(network, known):
    scene = fused(2)
    start = scene.joints.clone()
    start[:, known:] = math.nan
    out = joined(network, scene, start=start)
    assert torch.equal(out.coarse_valid, start.isfinite().all(-1))
    assert out.joints.isfinite().all() and out.vertices.isfinite().all()
    torch.testing.assert_close(out.coarse[:, :known], scene.joints[:, :known], rtol=0, atol=0)


def test_half_precision_stays_near(network):
    """Under autocast geometry and triangulation stay in single precision: only the decoder's steps are rounded."""
    network.with_choices(gate='uncertainty', triangulation='refined')
    scene = fused(3)
    expected = joined(network, scene)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = joined(network, scene)
    torch.testing.assert_close(found.coarse, expected.coarse, rtol=0, atol=1e-7)
    assert found.joints.dtype == found.vertices.dtype == torch.float32
    # bfloat16 has 8 bits; the steps of this network are centimetres.
    assert (found.joints - expected.joints).abs().max() < 5e-3


def test_the_surface_may_be_another_hands(tmp_path):
    """Anny's has 1609 vertices; its weights are loaded without being told."""
    network = JumpHand(replace(TINY, surface='anny', vertex_queries=24)).eval()
    assert joined(network, fused(3, noise_cells=0.0)).vertices.shape[-2:] == (1609, 3)
    save_jump_hand(tmp_path / 'w.safetensors', network)
    loaded = load_jump_hand(tmp_path / 'w.safetensors')
    assert loaded.config.surface == 'anny' and loaded.skinning.shape == (1609, 21)
    # Weights are stored in float16.
    torch.testing.assert_close(loaded.lift.weight, network.lift.weight, rtol=0, atol=1e-3)


# --- configuration and weights ----------------------------------------------------------------------------

@pytest.mark.parametrize('values, message', (
    ({'gate': 'loud'}, "gate 'loud' is unknown; choose one of uncertainty, average"),
    ({'triangulation': 'svd'}, "triangulation 'svd' is unknown; choose one of refined"),
    ({'width': 30, 'heads': 4}, 'width 30 is not a multiple of heads 4'),
    ({'vertex_queries': 0}, r'vertex_queries is 0; it must be in 1 … 778'),
    ({'vertex_queries': 779}, r'vertex_queries is 779'),
    ({'surface': 'glove'}, "surface 'glove' is unknown; choose one of stand-in, anny, mano"),
    ({'top_k': 0}, 'top_k is 0; the gate must keep at least 1 view'),
    ({'levels': 4}, 'levels is 4; crops of 256 px give features at 1 … 3'),
    ({'levels': 0}, 'levels is 0'),
))
def test_impossible_configurations_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        JumpHandConfig(**values)


def test_configurations_survive_json():
    for config in (*CONFIGS.values(), TINY):
        assert JumpHandConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match='does not fit this version.*depth'):
        JumpHandConfig.from_dict(CONFIGS['lite'].to_dict() | {'depth': 3})
    with pytest.raises(ConfigError, match="gate 'loud'"):
        tiny_network().with_choices(gate='loud')


def test_the_named_sizes_have_the_parameters_they_should(monkeypatch):
    """On the published ResNet-34, 21.28 M without its classifier, `full` has a 2D stage of 25.1 M and a decoder of
    7.1 M; `lite` is a tenth of it."""
    for random in ('kaiming_normal_', 'kaiming_uniform_'):
        monkeypatch.setattr(torch.nn.init, random, lambda tensor, *args, **kwargs: tensor)
    counts = {}
    for name, config in CONFIGS.items():
        network = JumpHand(config)
        counts[name] = tuple(sum(value.numel() for value in part.parameters() if value.requires_grad)
                             for part in (network, network.view, network.decoder))
    assert counts == {'full': (32_221_949, 25_079_384, 7_125_970), 'lite': (3_364_855, 3_053_432, 245_228),
                      'landmarks': (436_671, 124_736, 245_740)}


def test_saved_and_loaded_it_says_the_same(tmp_path):
    config = replace(TINY, gate='top-k', top_k=3, triangulation='inverse_variance')
    network = trained(config)
    save_jump_hand(tmp_path / 'tiny.safetensors', network)
    loaded = load_jump_hand(tmp_path / 'tiny.safetensors')
    assert loaded.config == config and not loaded.training
    assert torch.equal(loaded.picked, network.picked)
    for name, value in network.state_dict().items():
        # Half precision has 11 bits; below 6e-5 it has fewer.
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=2 ** -11, atol=1e-7)
    scene = fused(4)
    expected, found = joined(network, scene), joined(loaded, scene)
    torch.testing.assert_close(found.coarse, expected.coarse, rtol=0, atol=0)
    # 11 bits of steps of centimetres, and of a surface that spans 0.1 m.
    assert (found.joints - expected.joints).norm(dim=-1).max() < 2e-4
    assert (found.vertices - expected.vertices).norm(dim=-1).max() < 5e-4


def test_weights_of_another_configuration_are_named(tmp_path):
    path = tmp_path / 'odd.safetensors'
    network = tiny_network()
    network.config = replace(TINY, width=32)
    save_jump_hand(path, network)
    with pytest.raises(ConfigError, match=r'odd\.safetensors does not fit the JumpHand of this version'):
        load_jump_hand(path)


def test_cells_of_the_means_are_pixels_of_the_crop():
    scene = fused(2, noise_cells=0.0)
    torch.testing.assert_close(cells_to_pixels(scene.seen.mean, SIZE), scene.joints_px, rtol=0, atol=1e-4)
    torch.testing.assert_close(pixels_to_cells(scene.joints_px, SIZE), scene.seen.mean, rtol=0, atol=1e-5)
