"""A conditional normalising flow of affine couplings: RealNVP (Dinh et al. 2017, Density Estimation using Real NVP)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A layer scales by exp(±this) at most, so that the flow and its inverse stay well conditioned.
LOG_SCALE_LIMIT = 1.5


class CouplingFlow(nn.Module):
    """x = f(z; c), and z = f⁻¹(x; c) with its log-determinant, for z and x of `dims` ≥ 2 numbers.

    Layer i leaves every other coordinate as it is and shifts and scales the others by functions of these and of the
    condition: x' = x · exp(s) + t. At the start it is the identity, whatever the condition is.
    """

    def __init__(self, dims: int, condition: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        # What the condition gives all layers, once for any number of samples.
        self.context = nn.Linear(condition, layers * hidden)
        self.kept = nn.ModuleList(nn.Linear(dims, hidden, bias=False) for _ in range(layers))
        self.change = nn.ModuleList(nn.Linear(hidden, 2 * dims) for _ in range(layers))
        for change in self.change:
            nn.init.zeros_(change.weight)
            nn.init.zeros_(change.bias)
        places = torch.arange(dims) % 2
        self.register_buffer('masks', torch.stack([places == layer % 2 for layer in range(layers)]).float(),
                             persistent=False)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """z: (..., D), its leading dimensions broadcast with those of condition: (..., C)."""
        contexts = self.context(condition).chunk(self.layers, -1)
        for layer in range(self.layers):
            log_scale, shift = self._change(layer, z, contexts[layer])
            z = z * log_scale.exp() + shift
        return z

    def inverse(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., D), and log |det ∂z/∂x| (...)."""
        contexts = self.context(condition).chunk(self.layers, -1)
        log_determinant = x.new_zeros(())
        for layer in reversed(range(self.layers)):
            log_scale, shift = self._change(layer, x, contexts[layer])
            x = (x - shift) * (-log_scale).exp()
            log_determinant = log_determinant - log_scale.sum(-1)
        return x, log_determinant

    def log_density(self, x: Tensor, condition: Tensor, huber: float = math.inf) -> Tensor:
        """log p(x | c) (...), of z ~ N(0, I) (UST-Hand, Eq. 7).

        huber: beyond this length of z the density falls as exp(−huber |z|), so that a label that is far off pulls no
        harder than one there; it is then no longer normalised.
        """
        z, log_determinant = self.inverse(x, condition)
        if math.isinf(huber):
            energy = 0.5 * z.square().sum(-1)
        else:
            length = (z.square().sum(-1) + 1e-12).sqrt()
            energy = torch.where(length < huber, 0.5 * length.square(), huber * (length - 0.5 * huber))
        return log_determinant - energy - 0.5 * z.shape[-1] * math.log(2 * math.pi)

    def _change(self, layer: int, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of scales, and shifts, (..., D); zero for what the layer keeps."""
        mask = self.masks[layer]
        hidden = F.leaky_relu(self.kept[layer](x * mask) + context, 0.1)
        log_scale, shift = self.change[layer](hidden).chunk(2, -1)
        free = 1 - mask
        return free * LOG_SCALE_LIMIT * torch.tanh(log_scale / LOG_SCALE_LIMIT), free * shift
