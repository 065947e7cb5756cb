"""JUMP-Hand's loss terms and validation on cases whose numbers can be had by hand."""

import math

import numpy as np
import pytest
import torch
from fusion_cases import SIZE, fused
from network_cases import TINY, tiny_network

from hand_unc_ros.hand.joints import FINGERTIPS
from hand_unc_ros.methods.jump_hand.losses import (
    LossWeights,
    fused_terms,
    jump_hand_losses,
    view_losses,
    view_terms,
)
from hand_unc_ros.methods.jump_hand.network import JumpHandOutput
from hand_unc_ros.methods.jump_hand.validation import validate, validate_views
from hand_unc_ros.networks.gaussian_2d import pixels_to_cells
from hand_unc_ros.networks.images import image_tensor

torch.set_num_threads(1)

ONES = LossWeights(*[1.0] * 8)
CELL = SIZE / 32


def answered(scene):
    """A perfect answer of two layers, and the truth it is measured by."""
    batch = {'joints': scene.joints.clone(), 'vertices': scene.joints.repeat(1, 38, 1)[:, :778], 'K': scene.K,
             'camera_from_world': scene.camera_from_world, 'view_mask': scene.view_mask,
             'joints_px': scene.joints_px.clone(),
             'joint_mask': torch.ones(scene.joints_px.shape[:3], dtype=torch.bool), 'present': scene.view_mask.clone(),
             'index': torch.arange(len(scene.joints)),
             'images': torch.randint(0, 256, (*scene.view_mask.shape, SIZE, SIZE, 3), dtype=torch.uint8,
                                     generator=torch.Generator().manual_seed(0))}
    out = JumpHandOutput(*scene.seen[:4], torch.full(scene.seen.mean.shape[:3], 0.5), scene.joints.clone(),
                         torch.ones(scene.joints.shape[:2], dtype=torch.bool), scene.joints.repeat(3, 1, 1, 1),
                         batch['vertices'].repeat(3, 1, 1, 1), scene.seen.pooled.mean(1))
    return out, batch


@pytest.fixture
def perfect():
    return answered(fused(2, noise_cells=0.0))


def numbers(terms):
    return {name: value.item() for name, value in terms.items()}


# --- the fused stage --------------------------------------------------------------------------------------

def test_a_perfect_answer_costs_nothing(perfect):
    out, batch = perfect
    # float32 pixels: 1e-4 cells.
    assert numbers(fused_terms(out, batch, SIZE)) == pytest.approx(
        {'joints': 0, 'vertices': 0, 'reprojection': 0, 'coarse': 0, 'harm': 0}, abs=1e-3)


def test_every_layer_counts_alike_and_the_coarse_stage_on_its_own(perfect):
    """One joint of 42 is 30 mm off in x: (0.3 + 0 + 0)/3 of a unit, a 42nd of it in the mean."""
    out, batch = perfect
    for layer, expected in ((0, 0.0), (1, 0.5), (2, 0.5)):
        joints = out.joints.clone()
        joints[layer, 1, 4, 0] += 0.03
        terms = fused_terms(out._replace(joints=joints), batch, SIZE)
        assert terms['joints'].item() == pytest.approx(0.1 / 42 * expected, abs=1e-8)
        assert terms['coarse'] == 0
        # Only the answer is projected.
        assert (terms['reprojection'] > 1e-3).item() == (layer == 2)
    coarse = out.coarse.clone()
    coarse[0, 7] += torch.tensor([0.01, 0.0, -0.02])
    assert fused_terms(out._replace(coarse=coarse), batch, SIZE)['coarse'].item() == pytest.approx(0.1 / 42, rel=1e-4)


def test_without_a_decoder_the_coarse_stage_is_the_answer(perfect):
    out, batch = perfect
    joints = out.joints[:1].clone()
    joints[0, 1, 4, 0] += 0.03
    alone = out._replace(joints=joints, vertices=out.vertices[:1])
    assert fused_terms(alone, batch, SIZE)['joints'].item() == pytest.approx(0.1 / 42, rel=1e-4)


def test_the_surface_of_every_layer_counts_and_the_coarse_one_up_to_its_limit(perfect):
    out, batch = perfect
    for layer, shift, expected in ((0, 0.03, 0.1), (0, 0.5, 1 / 3), (1, 0.03, 0.1), (2, 0.5, 5 / 3)):
        vertices = out.vertices.clone()
        vertices[layer, 0, 100, 1] += shift
        terms = fused_terms(out._replace(vertices=vertices), batch, SIZE)
        assert terms['vertices'].item() == pytest.approx(expected / (3 * 2 * 778), rel=1e-4)
    # From joints of which one was not triangulated nothing can be lifted: two layers and one more of the other sample.
    vertices, valid = out.vertices.clone(), out.coarse_valid.clone()
    vertices[0, 0], valid[0, 3] = 9.0, False
    vertices[1, 0, 100, 1] += 0.03
    terms = fused_terms(out._replace(vertices=vertices, coarse_valid=valid), batch, SIZE)
    assert terms['vertices'].item() == pytest.approx(0.1 / (5 * 778), rel=1e-4)


def test_reprojection_is_in_cells_and_limited(perfect):
    out, batch = perfect
    pixels = batch['joints_px']
    pixels[0, 1, 5] += torch.tensor([2 * CELL, -CELL])
    expected = 3.0 / (2 * 2 * 21)
    assert fused_terms(out, batch, SIZE)['reprojection'].item() == pytest.approx(expected, rel=1e-3)
    pixels[0, 1, 5, 0] += 1e4
    assert fused_terms(out, batch, SIZE)['reprojection'].item() == pytest.approx((16 + 1) / 84, rel=1e-3)
    batch['joint_mask'][0, 1, 5] = False
    assert fused_terms(out, batch, SIZE)['reprojection'].item() == pytest.approx(0, abs=1e-3)


def test_coarse_joints_far_off_pull_no_longer_and_unknown_ones_never(perfect):
    out, batch = perfect
    coarse = out.coarse.clone().requires_grad_()
    with torch.no_grad():
        coarse[0, 3, 0] += 5.0
        coarse[1, 2, 0] += 0.05
        coarse[1, 9] = 77.0
    valid = out.coarse_valid.clone()
    valid[1, 9] = False
    loss = fused_terms(out._replace(coarse=coarse, coarse_valid=valid), batch, SIZE)['coarse']
    assert loss.item() == pytest.approx((1.0 + 0.5) / 3 / 41, rel=1e-4)
    loss.backward()
    assert coarse.grad[0, 3, 0] == 0 and (coarse.grad[1, 9] == 0).all()
    # 1 / 0.1 m, the mean over three coordinates of 41 joints.
    assert coarse.grad[1, 2, 0].item() == pytest.approx(10 / 3 / 41, rel=1e-4)


@pytest.mark.parametrize('unknown', ('some joints', 'every joint', 'vertices', 'everything'))
def test_what_is_not_annotated_costs_nothing_and_its_gradients_are_finite(perfect, unknown):
    out, batch = perfect
    leaves = {name: getattr(out, name).clone().requires_grad_() for name in ('joints', 'vertices', 'coarse')}
    out = out._replace(**leaves)
    if unknown in ('vertices', 'everything'):
        batch['vertices'][:] = math.nan
    if unknown in ('every joint', 'everything'):
        batch['joints'][:] = math.nan
        batch['joint_mask'][:] = False
        batch['joints_px'][:] = 0
    if unknown == 'some joints':
        batch['joints'][0, 4:9] = math.nan
        # Where these are believed to be does not matter.
        with torch.no_grad():
            out.joints[:, 0, 4:9] = 5.0
            out.coarse[0, 4:9] = 5.0
        batch['joint_mask'][0, :, 4:9] = False
    terms = fused_terms(out, batch, SIZE)
    assert all(abs(value) < 1e-3 for value in numbers(terms).values())
    sum(terms.values()).backward()
    assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves.values())
    if unknown in ('vertices', 'everything'):
        assert terms['vertices'] == 0 and (out.vertices.grad == 0).all()


def test_an_answer_beside_a_camera_has_a_finite_projection(perfect):
    out, batch = perfect
    centre = -(batch['camera_from_world'][:, 0, :, :3].mT @ batch['camera_from_world'][:, 0, :, 3:])[..., 0]
    joints = (out.joints * 0 + centre[None, :, None]).requires_grad_()
    loss = fused_terms(out._replace(joints=joints), batch, SIZE)['reprojection']
    loss.backward()
    assert loss.isfinite() and joints.grad.isfinite().all()


# --- the per-view stage -----------------------------------------------------------------------------------

def test_view_terms_by_hand(perfect):
    out, batch = perfect
    seen = fused(2, noise_cells=0.0).seen
    mean = seen.mean.clone()
    mean[0, 0, 3] += torch.tensor([3.0, -1.0])
    seen = seen._replace(mean=mean, variance=torch.full_like(seen.variance, 2.0), log_heatmap=torch.full_like(
        seen.log_heatmap, -math.log(1024)), presence=torch.zeros_like(seen.presence))
    terms = numbers(view_terms(seen, batch, SIZE))
    # Of 84 joints one is off by (3, −1): Σ ½ ln 2 + e²/4; a uniform heatmap has the entropy ln 1024, a logit of 0 costs
    # ln 2.
    assert terms == pytest.approx({'nll': math.log(2) + 10 / 4 / 84, 'l1': 4 / 84, 'heatmap': math.log(1024),
                                   'presence': math.log(2)}, rel=1e-4)
    batch['joint_mask'][0, 0, 3] = False
    terms = numbers(view_terms(seen, batch, SIZE))
    assert terms['nll'] == pytest.approx(math.log(2), rel=1e-4) and terms['l1'] == pytest.approx(0, abs=1e-4)


def test_presence_is_learnt_from_crops_that_are_there(perfect):
    _, batch = perfect
    seen = fused(2).seen
    logits = torch.tensor([[5.0, -3.0], [1.0, 2.0]])
    batch['present'] = torch.tensor([[True, False], [False, True]])
    batch['view_mask'] = torch.tensor([[True, True], [True, False]])
    expected = (math.log1p(math.exp(-5)) + math.log1p(math.exp(-3)) + math.log1p(math.exp(1))) / 3
    found = view_terms(seen._replace(presence=logits), batch, SIZE)['presence']
    assert found.item() == pytest.approx(expected, rel=1e-5)


# --- all together -----------------------------------------------------------------------------------------

def test_terms_are_weighted_and_left_out_where_they_weigh_nothing(perfect):
    _, batch = perfect
    network = tiny_network()
    with torch.no_grad():
        plain = jump_hand_losses(network, batch, ONES)
        weights = LossWeights(0.1, 1.0, 1.0, 1.0, 10.0, 0.0, 0.5, 0.0)
        weighted = jump_hand_losses(network, batch, weights)
        alone = view_losses(network, batch, weights)
    for terms, given in ((plain, ONES), (weighted, weights)):
        assert list(terms) == [name for name, weight in given.to_dict().items() if weight]
    assert list(alone) == ['nll', 'heatmap']
    for name, value in weighted.items():
        assert value.item() == pytest.approx(weights.to_dict()[name] * plain[name].item(), rel=1e-5)
    assert alone['nll'].item() == pytest.approx(weighted['nll'].item(), rel=1e-5)


def test_the_papers_weights_are_the_default():
    published = {'nll': 0.1, 'joints': 1.0, 'vertices': 1.0, 'reprojection': 1.0, 'coarse': 10.0}
    assert published.items() <= LossWeights().to_dict().items()


def test_of_a_part_of_the_samples_the_fused_terms_are_those_of_the_first(perfect):
    _, batch = perfect
    network = tiny_network()
    with torch.no_grad():
        part = jump_hand_losses(network, batch, ONES, fused_share=0.5)
        first = jump_hand_losses(network, {name: value[:1] for name, value in batch.items()}, ONES)
        both = jump_hand_losses(network, batch, ONES)
    for name in ('joints', 'vertices', 'reprojection', 'coarse'):
        assert part[name].item() == pytest.approx(first[name].item(), rel=1e-4)
        assert part[name].item() != pytest.approx(both[name].item(), rel=1e-4)
    for name in ('nll', 'l1', 'heatmap', 'presence'):
        assert part[name].item() == pytest.approx(both[name].item(), rel=1e-5)


@pytest.mark.parametrize('unknown', ('vertices', 'joints', 'views'))
def test_gradients_of_every_parameter_are_finite_whatever_is_missing(perfect, unknown):
    _, batch = perfect
    if unknown == 'views':
        batch['view_mask'][:, 1:] = False
        batch['joint_mask'][:, 1:] = batch['present'][:, 1:] = False
    else:
        batch[unknown][:] = math.nan
    network = tiny_network().train()
    terms = jump_hand_losses(network, batch, ONES)
    assert all(value.isfinite() for value in terms.values())
    if unknown == 'vertices':
        assert terms['vertices'] == 0
    if unknown == 'joints':
        assert terms['joints'] == terms['coarse'] == 0
    sum(terms.values()).backward()
    gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    assert len(gradients) > 100 and all(value.isfinite().all() for value in gradients.values())


# --- validation -------------------------------------------------------------------------------------------

class Told:
    """A network that gives a prepared answer."""

    def __init__(self, out, seen):
        self.out, self.seen, self.config = out, seen, TINY

    def fuse(self, *inputs):
        return self.out

    def encode_batch(self, batch):
        return self.seen


# Of equal variances there is no correlation.
@pytest.mark.filterwarnings('ignore:invalid value encountered')
def test_validation_by_hand(perfect):
    out, batch = perfect
    joints, coarse, vertices, valid = (getattr(out, name).clone()
                                       for name in ('joints', 'coarse', 'vertices', 'coarse_valid'))
    joints[-1, :, list(FINGERTIPS)] += torch.tensor([0.003, 0.0, 0.004])
    joints[:-1] = coarse[1, 0] = vertices[0] = 99.0
    valid[1, 0] = False
    vertices[-1, 0] += torch.tensor([0.0, 0.002, 0.0])
    batch['vertices'][1] = math.nan
    # Half of the 2D errors are (2, 0), half (0, 0); their variances agree with them in order.
    mean, variance = pixels_to_cells(batch['joints_px'], SIZE), torch.ones_like(out.variance)
    mean[0, ..., 0] += 2.0
    variance[0] = 4.0
    variance[1] = 0.25
    out = out._replace(joints=joints, coarse=coarse, vertices=vertices, coarse_valid=valid, mean=mean,
                       variance=variance)
    result = validate(Told(out, None), [batch])
    expected = {'mpjpe_mm': 5.0 * 5 / 21, 'mpjpe_median_mm': 0.0, 'fingertips_mm': 5.0, 'mpvpe_mm': 2.0,
                'coarse_mpjpe_mm': 0.0, 'error_cells': 1.0,
                'error_median_cells': 0.0, 'pearson': 1.0, 'coverage95': 1.0}
    assert result == pytest.approx(expected, abs=2e-3)
    # The same over two batches is the same.
    assert validate(Told(out, None), [batch, batch]) == pytest.approx(expected, abs=2e-3)
    # At 1.96 σ = 1.386 cells an error of 2 lies outside: a quarter of the coordinates, since y is exact.
    narrow = out._replace(variance=torch.full_like(variance, 0.5))
    assert validate(Told(narrow, None), [batch])['coverage95'] == pytest.approx(0.75)
    views = validate_views(Told(None, fused(2).seen._replace(mean=mean, variance=variance)), [batch])
    assert views == pytest.approx({name: expected[name] for name in views}, abs=2e-3) and len(views) == 4


@pytest.mark.filterwarnings('ignore:invalid value encountered')
def test_validation_of_what_nobody_knows_is_nan(perfect):
    out, batch = perfect
    batch['joints'][:] = batch['vertices'][:] = math.nan
    result = validate(Told(out, None), [batch])
    assert all(np.isnan(result[name]) for name in ('mpjpe_mm', 'fingertips_mm', 'mpvpe_mm', 'coarse_mpjpe_mm'))
    assert result['error_cells'] == pytest.approx(0, abs=1e-3)


def test_images_become_tensors_of_colours():
    images = torch.arange(2 * 3 * 4 * 4 * 3, dtype=torch.int64).remainder(256).byte().reshape(2, 3, 4, 4, 3)
    tensor = image_tensor(images)
    assert tensor.shape == (2, 3, 3, 4, 4) and tensor.dtype == torch.float32
    assert torch.equal((tensor * 255).round().byte(), images.permute(0, 1, 4, 2, 3))
    assert tensor.max() <= 1.0
