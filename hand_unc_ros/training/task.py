"""The contract of a training task: how a method reads its configuration, and the parts of its run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from torch import Tensor, nn

from hand_unc_ros.training.config import C
from hand_unc_ros.training.streams import BatchStream

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingSetup:
    """A run before its first step.

    network: loaded with what it starts from; parameters that stay as they are need no gradient.
    losses: named terms of a batch, already weighted; their sum is minimised.
    validate: numbers by name of the network on held-out batches.
    stream: the training batches by number.
    held_out: makes the batches to validate on.
    weights: name of the stored file, without its ending.
    settings: configuration that is stored with the weights.
    part: the submodule that is stored, '' for the whole network.
    frozen: names of submodules that stay as they are, with their statistics.
    unused_parameters: whether a step may leave a moving parameter without a gradient, for which DDP has to look.
    """

    network: nn.Module
    losses: Callable[[nn.Module, Batch], dict[str, Tensor]]
    validate: Callable[[nn.Module, Iterable[Batch]], dict[str, float]]
    stream: BatchStream
    held_out: Callable[[], list[Batch]]
    weights: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    part: str = ''
    frozen: tuple[str, ...] = ()
    unused_parameters: bool = False


@dataclass(frozen=True)
class TrainingTask(Generic[C]):
    """One thing that `hand-unc train` can train.

    parse: the configuration in a nested mapping; raises ConfigError naming the key.
    set_up: the run that a configuration describes; raises ConfigError and DatasetError for what it cannot begin with.
    """

    parse: Callable[[Mapping[str, Any]], C]
    set_up: Callable[[C], TrainingSetup]
