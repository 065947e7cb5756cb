"""Loss terms of the 2D stage and of the finder against closed forms."""

import math

import pytest
import torch

from hand_unc_ros.networks.gaussian_2d_losses import gaussian_nll, heatmap_cross_entropy
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH, Finder

torch.set_num_threads(1)


# --- losses -----------------------------------------------------------------------------------------------

def draw(seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    mean, target = (32 * torch.rand(batch, 21, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    variance = torch.rand(batch, 21, 2, generator=generator, dtype=torch.float64) + 0.1
    mask = torch.rand(batch, 21, generator=generator) < 0.7
    return mean, variance, target, mask


def test_nll_is_the_gaussians_up_to_its_constant():
    mean, variance, target, mask = draw()
    expected = -torch.distributions.Normal(mean, variance.sqrt()).log_prob(target) - 0.5 * math.log(
        2 * math.pi
    )
    torch.testing.assert_close(gaussian_nll(mean, variance, target, mask), expected.sum(2)[mask].mean())


def test_nll_gradients():
    mean, variance, target, mask = draw(1)
    assert torch.autograd.gradcheck(lambda m, v: gaussian_nll(m, v, target, mask),
                                    (mean.requires_grad_(), variance.requires_grad_()))


def test_nll_is_least_for_the_true_variance():
    """Over errors e the minimiser of ½ log v + ē²/2v is v = ē²; the gradient vanishes only there."""
    errors = torch.randn(4000, 21, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 1.7
    best = errors.square().mean((0, 1))
    mask = torch.ones(4000, 21, dtype=torch.bool)
    for factor, sign in ((1.0, 0), (0.8, -1), (1.25, 1)):
        variance = (factor * best).requires_grad_()
        gaussian_nll(torch.zeros_like(errors), variance.expand_as(errors), errors, mask).backward()
        assert (variance.grad.abs() < 1e-12).all() if sign == 0 else (variance.grad.sign() == sign).all()
    # 84,000 squared errors of a Gaussian: relative deviation √(2/84,000) = 0.5 %.
    torch.testing.assert_close(best, torch.full((2,), 1.7 ** 2, dtype=torch.float64), rtol=0.02, atol=0)


def test_cross_entropy_gradients():
    logits = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    target = torch.tensor([[[4.2, 20.0], [31.0, 0.0], [15.5, 8.1]]], dtype=torch.float64)
    mask = torch.tensor([[True, False, True]])

    def loss(logits):
        log_p = logits.flatten(2).log_softmax(2).unflatten(2, (32, 32))
        return heatmap_cross_entropy(log_p, target, mask)

    assert torch.autograd.gradcheck(loss, logits.requires_grad_(), fast_mode=True)


def test_cross_entropy_is_least_for_a_gaussian_round_the_target_with_x_along_columns():
    target = torch.tensor([[[9.0, 22.0]]], dtype=torch.float64).expand(1, 21, 2)
    mask = torch.ones(1, 21, dtype=torch.bool)
    v, u = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing='ij')

    def log_heatmap(x, y, sigma):
        logits = (-((u - x) ** 2 + (v - y) ** 2) / (2 * sigma ** 2)).double()
        return logits.flatten().log_softmax(0).reshape(1, 1, 32, 32).expand(1, 21, 32, 32)

    best = heatmap_cross_entropy(log_heatmap(9, 22, 1.0), target, mask)
    # The entropy of an isotropic Gaussian of one cell, which the grid samples finely enough.
    assert best.item() == pytest.approx(1 + math.log(2 * math.pi), abs=1e-3)
    for other in ((22, 9, 1.0), (9.5, 22, 1.0), (9, 21.5, 1.0), (9, 22, 0.8), (9, 22, 1.25)):
        assert heatmap_cross_entropy(log_heatmap(*other), target, mask) > best + 0.01


def test_masked_joints_count_for_nothing():
    mean, variance, target, mask = draw(4)
    spoilt = torch.where(mask[..., None], target, torch.nan)
    mean.requires_grad_()
    loss = gaussian_nll(mean, variance, spoilt, mask)
    torch.testing.assert_close(loss, gaussian_nll(mean, variance, target, mask))
    loss.backward()
    assert (mean.grad[~mask] == 0).all() or mean.grad[~mask].isnan().all()
    nobody = torch.zeros_like(mask)
    assert gaussian_nll(mean, variance, target, nobody) == 0
    log_p = torch.full((2, 21, 32, 32), -math.log(1024), dtype=torch.float64)
    assert heatmap_cross_entropy(log_p, target, nobody) == 0


# --- the finder -------------------------------------------------------------------------------------------

def test_finder_losses_want_what_decode_reads():
    """The answer that `decode` turns into the box has a smaller loss in every term than shifted ones."""
    from test_networks import finder_maps

    from hand_unc_ros.methods.jump_hand.finder_task import finder_losses

    box = torch.tensor([[61.0, 70.0, 55.0, 0.7], [math.nan] * 4])
    batch = {'image': torch.zeros(2, FRAME_HEIGHT, FRAME_WIDTH, 3, dtype=torch.uint8), 'box': box}

    def losses(centre, side, roll):
        maps = finder_maps(centre, side, roll)
        empty = Finder(torch.full_like(maps.heatmap, -9.0), maps.log_side, maps.direction)
        both = Finder(*(torch.cat(pair).float() for pair in zip(maps, empty)))
        return {name: term.item() for name, term in finder_losses(lambda images: both, batch).items()}

    best = losses((61, 70), 55, 0.7)
    assert best['side'] < 1e-5 and best['direction'] < 1e-5
    assert losses((65, 70), 55, 0.7)['centre'] > 2 * best['centre']
    assert losses((61, 66), 55, 0.7)['centre'] > 2 * best['centre']
    assert losses((61, 70), 60, 0.7)['side'] == pytest.approx(0.3 * math.log(60 / 55), rel=1e-3)
    assert losses((61, 70), 55, -0.7)['direction'] > 0.1


def test_a_batch_without_any_hand_has_a_finite_loss():
    pytest.importorskip('numba')
    from hand_unc_ros.methods.jump_hand.finder_task import finder_losses
    from hand_unc_ros.networks.hand_finder import HandFinder

    batch = {'image': torch.zeros(2, FRAME_HEIGHT, FRAME_WIDTH, 3, dtype=torch.uint8),
             'box': torch.full((2, 4), math.nan)}
    terms = finder_losses(HandFinder(), batch)
    assert terms['side'] == terms['direction'] == 0 and 0 < terms['centre'] < math.inf
    sum(terms.values()).backward()
