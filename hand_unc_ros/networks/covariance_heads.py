"""Heads that turn a feature into a Gaussian over the 63 joint coordinates, four ways behind one interface.

Correlation-aware aleatoric uncertainty, Section 3 and Table 1: deterministic, diagonal, full, and Σ = W diag(σ²) Wᵀ
with one bias-free linear layer W that all images share.  A head sits on any backbone that gives one vector per hand.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.joints import JOINT_COUNT

KINDS = ('deterministic', 'diagonal', 'full', 'correlated')
COORDINATES = 3 * JOINT_COUNT
# Keeps exp() and its gradient finite: σ between 1/400 and 400 units.
LOG_VARIANCE_LIMIT = 12.0


class JointGaussian(NamedTuple):
    """N(mean, Σ) of B hands in the head's unit, coordinates joint-major (x0 y0 z0 x1 …).

    mean: (B, 63), zeros where the head gives none.  log_variance: (B, 63), of 'diagonal' and 'correlated'.
    mix: (63, 63), W of 'correlated'.  precision_factor: (B, 63, 63), lower triangular L of 'full', Σ = (L Lᵀ)⁻¹.
    What a kind does not have is None.
    """

    mean: Tensor
    log_variance: Tensor | None = None
    mix: Tensor | None = None
    precision_factor: Tensor | None = None

    @property
    def covariance(self) -> Tensor:
        """(B, 63, 63); zeros for 'deterministic'."""
        if self.precision_factor is not None:
            factor = torch.linalg.solve_triangular(
                self.precision_factor, torch.eye(COORDINATES).to(self.precision_factor), upper=False)
            return factor.mT @ factor
        if self.log_variance is None:
            return torch.zeros(*self.mean.shape, COORDINATES, dtype=self.mean.dtype, device=self.mean.device)
        if self.mix is None:
            return torch.diag_embed(self.log_variance.exp())
        return (self.mix * self.log_variance.exp()[:, None]) @ self.mix.T

    def sample(self, count: int) -> Tensor:
        """(count, B, 63) samples through W, Eq. 5; differentiable. Raises ValueError for a kind without variances."""
        if self.log_variance is None:
            raise ValueError("only 'diagonal' and 'correlated' are sampled from")
        noise = torch.randn(count, *self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)
        offset = noise * (self.log_variance / 2).exp()
        return self.mean + (offset if self.mix is None else offset @ self.mix.T)


class CovarianceHead(nn.Module):
    """One linear layer without bias from features (B, F) to a JointGaussian, and W where the kind has one.

    kind: one of KINDS.  mean: whether the head gives the mean too, as in the paper; without, it only judges the error
    of a mean that comes from elsewhere.  Parameters (Table 1, with mean): F·63, 2·F·63, F·(63 + 63²), 2·F·63 + 63².
    """

    def __init__(self, kind: str, features: int, mean: bool = True) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f'covariance head {kind!r} is unknown; choose one of {", ".join(KINDS)}')
        if kind == 'deterministic' and not mean:
            raise ConfigError('a deterministic head without a mean gives nothing; choose another kind')
        self.kind, self.features, self.gives_mean = kind, features, mean
        spread = {'deterministic': 0, 'diagonal': COORDINATES, 'full': COORDINATES ** 2, 'correlated': COORDINATES}
        self.linear = nn.Linear(features, mean * COORDINATES + spread[kind], bias=False)
        self.mix = None
        if kind == 'correlated':
            self.mix = nn.Linear(COORDINATES, COORDINATES, bias=False)
            nn.init.eye_(self.mix.weight)
        with torch.no_grad():
            # Every hand begins with about the unit covariance.
            self.linear.weight[mean * COORDINATES:] *= 0.1

    def forward(self, features: Tensor) -> JointGaussian:
        """features: (B, F)."""
        out = self.linear(features)
        start = self.gives_mean * COORDINATES
        mean = out[:, :start] if start else torch.zeros_like(out[:, :COORDINATES])
        spread = out[:, start:]
        if self.kind == 'deterministic':
            return JointGaussian(mean)
        if self.kind == 'full':
            return JointGaussian(mean, precision_factor=_precision_factor(spread.unflatten(1, (COORDINATES, -1))))
        return JointGaussian(mean, _bounded(spread), None if self.mix is None else self.mix.weight)


def diagonal_nll(gaussian: JointGaussian, target: Tensor) -> Tensor:
    """Negative log-likelihood (B,) of target (B, 63) under N(mean, diag σ²), Eq. 2, without its constant; it does not
    see W."""
    error2 = (target - gaussian.mean).square()
    return 0.5 * (error2 * (-gaussian.log_variance).exp() + gaussian.log_variance).sum(1)


def full_nll(gaussian: JointGaussian, target: Tensor, floor: float = 0.0) -> Tensor:
    """Negative log-likelihood (B,) of target (B, 63) under N(mean, Σ + floor·I), Eq. 4, without its constant.

    floor: variance in the head's unit², which keeps a Σ of lower rank invertible.  'full' is positive definite by
    itself and takes none.
    """
    error = target - gaussian.mean
    if gaussian.precision_factor is not None:
        whitened = (error[:, None] @ gaussian.precision_factor)[:, 0]
        return 0.5 * whitened.square().sum(1) - gaussian.precision_factor.diagonal(dim1=1, dim2=2).log().sum(1)
    if gaussian.mix is not None and not floor:
        # W⁻¹ makes the error's coordinates independent: one 63×63 solve for all hands.
        error = torch.linalg.solve(gaussian.mix, error.T).T
        unmixed = JointGaussian(torch.zeros_like(error), gaussian.log_variance)
        return diagonal_nll(unmixed, error) + torch.linalg.slogdet(gaussian.mix).logabsdet
    covariance = gaussian.covariance
    factor = torch.linalg.cholesky(covariance + floor * torch.eye(COORDINATES).to(covariance))
    whitened = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    return 0.5 * whitened.square().sum(1) + factor.diagonal(dim1=1, dim2=2).log().sum(1)


def _bounded(log_variance: Tensor) -> Tensor:
    """Within ±LOG_VARIANCE_LIMIT, with the slope 1 at zero and a gradient everywhere."""
    return LOG_VARIANCE_LIMIT * torch.tanh(log_variance / LOG_VARIANCE_LIMIT)


def _precision_factor(outputs: Tensor) -> Tensor:
    """Lower triangular (B, 63, 63) with a positive diagonal of 63² outputs: the triangles are added, so all count."""
    lower = (outputs.tril(-1) + outputs.triu(1).mT) / math.sqrt(2)
    return lower + torch.diag_embed(_bounded(outputs.diagonal(dim1=1, dim2=2)).exp())
