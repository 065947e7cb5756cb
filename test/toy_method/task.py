"""Training of the toy method on errors that are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from toy_method.network import ToyNetwork

from hand_unc_ros.training.config import TrainingConfig, parse
from hand_unc_ros.training.strict import setting
from hand_unc_ros.training.task import TrainingSetup, TrainingTask


@dataclass(frozen=True)
class ToyTraining(TrainingConfig):
    """noise_px: standard deviation of the errors."""

    noise_px: float = setting(2.0, above=0)


class Errors:
    """Endless batches of errors (8, 21, 2) px."""

    chunk_batches = 1

    def __init__(self, seed: int, noise_px: float) -> None:
        self.seed, self.noise_px = seed, noise_px

    def chunk(self, index: int) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        error = self.noise_px * torch.randn(8, 21, 2, generator=generator)
        return [{'error_px': error, 'index': torch.arange(8) + 8 * index}]

    def name(self, index: int) -> str:
        return f'error {index}'


def losses(network: ToyNetwork, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The negative log-likelihood."""
    sigma = network()
    return {'nll': (sigma.log() + 0.5 * (batch['error_px'] / sigma).square()).mean()}


def validate(network: ToyNetwork, batches: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """σ, and the loss on the batches."""
    values = [losses(network, batch)['nll'].item() for batch in batches]
    return {'sigma_px': network().item(), 'nll': sum(values) / len(values)}


def set_up(config: ToyTraining) -> TrainingSetup:
    """A run on errors of noise_px."""
    held_out = Errors(config.validation.seed, config.noise_px)
    return TrainingSetup(ToyNetwork(), losses, validate, Errors(config.seed, config.noise_px),
                         lambda: held_out.chunk(0), 'toy')


TASK = TrainingTask(partial(parse, ToyTraining(task='toy', out='.')), set_up)
