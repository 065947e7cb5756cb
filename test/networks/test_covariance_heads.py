"""The covariance heads: sizes, likelihoods, and whether known correlations are found."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods.correlated_uncertainty.losses import paper_loss, sample_mse
from hand_unc_ros.networks.covariance_heads import (
    COORDINATES,
    KINDS,
    CovarianceHead,
    JointGaussian,
    diagonal_nll,
    full_nll,
)

SPREAD = [kind for kind in KINDS if kind != 'deterministic']


def head_of(kind, features=8, mean=True, seed=0):
    """A head in double precision with weights far from where it begins."""
    torch.manual_seed(seed)
    head = CovarianceHead(kind, features, mean).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3 / features ** 0.5)
    if head.mix is not None:
        head.mix.weight.data += torch.eye(COORDINATES)
    return head


@pytest.mark.parametrize('kind, count', (
    ('deterministic', 64_512), ('diagonal', 129_024), ('full', 4_128_768), ('correlated', 132_993)))
def test_sizes_are_those_of_table_1(kind, count):
    # d_f = 1024, d_o = 63: 0.065, 0.129, 4.129 and 0.133 million.
    assert sum(parameter.numel() for parameter in CovarianceHead(kind, 1024).parameters()) == count


@pytest.mark.parametrize('kind', SPREAD)
def test_every_parameter_learns(kind):
    head = head_of(kind)
    features, target = torch.randn(4, 8).double(), torch.randn(4, 63).double()
    full_nll(head(features), target).sum().backward()
    moved = torch.optim.AdamW(head.parameters()).param_groups[0]['params']
    assert {id(parameter) for parameter in head.parameters()} == {id(parameter) for parameter in moved}
    for name, parameter in head.named_parameters():
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize('kind', SPREAD)
@pytest.mark.parametrize('mean', (True, False))
def test_the_covariance_is_symmetric_and_positive_definite(kind, mean):
    # A precision factor of large entries is singular to working precision; the structured kinds take any feature.
    size = 0.3 if kind == 'full' else 10.0
    gaussian = head_of(kind, mean=mean)(size * torch.randn(16, 8).double())
    covariance = gaussian.covariance
    assert (covariance - covariance.mT).abs().max() <= 1e-9 * covariance.abs().max()
    assert torch.linalg.eigvalsh(covariance).min() > 0
    assert mean or not gaussian.mean.any()


@pytest.mark.parametrize('kind', ('diagonal', 'correlated'))
def test_the_covariance_of_any_feature_is_finite(kind):
    for scale in (0.0, 1e6, -1e6):
        covariance = head_of(kind)(torch.full((1, 8), scale).double()).covariance
        assert torch.isfinite(covariance).all() and covariance.diagonal(dim1=1, dim2=2).min() > 0


@pytest.mark.parametrize('kind', SPREAD)
def test_the_full_likelihood_is_that_of_torch(kind):
    gaussian = head_of(kind)(torch.randn(5, 8).double())
    target = torch.randn(5, 63).double()
    constant = COORDINATES / 2 * torch.log(torch.tensor(2 * torch.pi))
    expected = -MultivariateNormal(gaussian.mean, gaussian.covariance).log_prob(target) - constant
    torch.testing.assert_close(full_nll(gaussian, target), expected, rtol=1e-6, atol=1e-6)


def test_the_floor_is_added_to_the_covariance():
    gaussian = head_of('correlated')(torch.randn(3, 8).double())
    flat = JointGaussian(gaussian.mean, gaussian.log_variance, 0 * gaussian.mix)
    # With W = 0 only the floor is left: N(mean, 0.04 I).
    target = gaussian.mean + 0.2
    expected = 0.5 * COORDINATES * (1 + torch.log(torch.tensor(0.04).double()))
    torch.testing.assert_close(full_nll(flat, target, floor=0.04), expected.expand(3))


def test_the_diagonal_likelihood_is_that_of_torch_and_does_not_see_the_mixing():
    gaussian = head_of('correlated')(torch.randn(5, 8).double())
    target = torch.randn(5, 63).double()
    constant = COORDINATES / 2 * torch.log(torch.tensor(2 * torch.pi))
    expected = -Normal(gaussian.mean, (gaussian.log_variance / 2).exp()).log_prob(target).sum(1) - constant
    torch.testing.assert_close(diagonal_nll(gaussian, target), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(diagonal_nll(gaussian._replace(mix=2 * gaussian.mix), target), diagonal_nll(gaussian, target))


@pytest.mark.parametrize('kind', ('diagonal', 'correlated'))
def test_samples_have_the_covariance_and_the_sampled_error_its_expectation(kind):
    gaussian = head_of(kind)(torch.randn(1, 8).double())
    torch.manual_seed(1)
    samples = gaussian.sample(200_000)[:, 0]
    covariance = gaussian.covariance[0]
    # The relative error of a sample covariance in the Frobenius norm is about √(d/N) = 1.8 %.
    assert (torch.cov(samples.T) - covariance).norm() <= 0.04 * covariance.norm()
    target = torch.randn(1, 63).double()
    expected = (target - gaussian.mean).square().sum() + covariance.trace()
    # The spread of one squared distance is of the order of its mean: 0.3 % over 200,000, some of it common.
    assert sample_mse(gaussian, target, 200_000).item() == pytest.approx(expected.item(), rel=0.01)


def known_correlations(count, seed):
    """Features (count, 4) and errors (count, 63) of covariance W diag(σ²(x)) Wᵀ, and that covariance as a function."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    mixing = torch.eye(63) + 0.6 * torch.randn(63, 63, generator=fixed) / 63 ** 0.5
    slope = 0.5 * torch.randn(63, 4, generator=fixed)
    features = torch.randn(count, 4, generator=generator)
    sigma = (features @ slope.T / 2).exp()
    errors = (torch.randn(count, 63, generator=generator) * sigma) @ mixing.T

    def covariance(x):
        return (mixing * (x @ slope.T).exp()[:, None]) @ mixing.T

    return features, errors, covariance


def fitted(loss, steps=1000, batch=512, lr=0.02):
    torch.manual_seed(0)
    head = CovarianceHead('correlated', 4, mean=False)
    features, errors, _ = known_correlations(40_000, 1)
    optimiser = torch.optim.Adam(head.parameters(), lr=lr)
    for step in range(steps):
        rows = torch.randint(len(features), (batch,))
        for group in optimiser.param_groups:
            group['lr'] = lr * (1 - step / steps)
        optimiser.zero_grad()
        loss(head(features[rows]), errors[rows]).mean().backward()
        optimiser.step()
    return head


def test_known_correlations_are_found():
    head = fitted(full_nll)
    x, _, covariance = known_correlations(200, 2)
    with torch.no_grad():
        found, true = head(x).covariance, covariance(x)
    relative = (found - true).norm(dim=(1, 2)) / true.norm(dim=(1, 2))
    # The sampling error of 40,000 errors alone is √(63/40,000) = 4 %.
    assert relative.mean() <= 0.10
    # Without the correlations, the diagonal alone would be off by far more.
    diagonal = torch.diag_embed(true.diagonal(dim1=1, dim2=2))
    assert ((diagonal - true).norm(dim=(1, 2)) / true.norm(dim=(1, 2))).mean() > 0.3
    # W has not collapsed: it keeps all its directions.
    values = torch.linalg.svdvals(head.mix.weight.detach())
    assert values.min() > 0.05 and values.max() < 20


def test_the_papers_loss_alone_shrinks_the_mixing():
    # E‖y − ŷ‖² = ‖y − μ‖² + tr(W D Wᵀ), and the likelihood of the paper does not see W: it can only shrink.
    head = fitted(lambda gaussian, target: paper_loss(gaussian, target, samples=5, nll_weight=1.0, mse_weight=1.0),
                  steps=150)
    assert head.mix.weight.detach().norm() < 0.3 * 63 ** 0.5


def test_the_papers_loss_is_the_sum_of_its_terms():
    gaussian = head_of('diagonal')(torch.randn(3, 8).double())
    target = torch.randn(3, 63).double()
    l1 = (target - gaussian.mean).abs().sum(1)
    plain = paper_loss(gaussian, target, mse_weight=0.0)
    torch.testing.assert_close(plain, l1 + 5e-4 * diagonal_nll(gaussian, target))
    torch.manual_seed(3)
    sampled = paper_loss(gaussian, target, samples=25)
    torch.manual_seed(3)
    torch.testing.assert_close(sampled, plain + 5e-4 * sample_mse(gaussian, target, 25))
    deterministic = head_of('deterministic')(torch.randn(3, 8).double())
    torch.testing.assert_close(paper_loss(deterministic, target), (target - deterministic.mean).abs().sum(1))
    full = head_of('full')(torch.randn(3, 8).double())
    torch.testing.assert_close(paper_loss(full, target),
                               (target - full.mean).abs().sum(1) + 5e-4 * full_nll(full, target))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match='lowrank.*diagonal'):
        CovarianceHead('lowrank', 8)
    with pytest.raises(ConfigError, match='deterministic'):
        CovarianceHead('deterministic', 8, mean=False)
    with pytest.raises(ValueError, match='sampled'):
        head_of('full')(torch.randn(1, 8).double()).sample(2)
