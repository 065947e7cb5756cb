"""One number: the standard deviation of a dot's place, in pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ToyNetwork(nn.Module):
    """σ of the error of a dot."""

    def __init__(self) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.zeros(1))

    def forward(self) -> Tensor:
        return self.log_sigma.exp()
