"""The paper's loss for each kind of covariance head, and the likelihood that sees W."""

from __future__ import annotations

from torch import Tensor

from hand_unc_ros.networks.covariance_heads import JointGaussian, diagonal_nll, full_nll

# Variance in HAND_UNIT² that `likelihood_loss` adds to Σ: 1 mm.
FLOOR = 1e-4


def sample_mse(gaussian: JointGaussian, target: Tensor, samples: int) -> Tensor:
    """E‖y − ŷ‖² (B,) over samples through W, Eq. 6. Its expectation is ‖y − μ‖² + tr Σ: alone it only shrinks Σ."""
    return (gaussian.sample(samples) - target).square().sum(2).mean(0)


def paper_loss(gaussian: JointGaussian, target: Tensor, *, samples: int = 25, nll_weight: float = 5e-4,
               mse_weight: float = 5e-4) -> Tensor:
    """Eq. 7 (B,): the L1 distance to target (B, 63) as the deterministic term, the likelihood of the kind, and the
    sampled error for the two kinds that are sampled from."""
    loss = (gaussian.mean - target).abs().sum(1)
    if gaussian.precision_factor is not None:
        return loss + nll_weight * full_nll(gaussian, target)
    if gaussian.log_variance is None:
        return loss
    loss = loss + nll_weight * diagonal_nll(gaussian, target)
    return loss + mse_weight * sample_mse(gaussian, target, samples) if mse_weight else loss


def likelihood_loss(gaussian: JointGaussian, target: Tensor, nll_weight: float = 5e-4) -> Tensor:
    """(B,): the deterministic term and the likelihood of N(μ, W diag(σ²) Wᵀ + floor·I), which sees W."""
    return (gaussian.mean - target).abs().sum(1) + nll_weight * full_nll(gaussian, target, FLOOR)
