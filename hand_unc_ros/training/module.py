"""One training step as Lightning runs it: losses, gradient, checks, optimiser, moving average."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from hand_unc_ros.errors import TrainingError
from hand_unc_ros.training.config import TrainingConfig
from hand_unc_ros.training.schedule import learning_rate
from hand_unc_ros.training.task import TrainingSetup


class TrainingModule(pl.LightningModule):
    """A network, its moving average, and how both change. terms, norm: of the last step, for the log."""

    def __init__(self, setup: TrainingSetup, config: TrainingConfig) -> None:
        super().__init__()
        self.network = setup.network.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.losses, self.name, self.frozen = setup.losses, setup.stream.name, setup.frozen
        self.settings, self.seed, self.steps, self.decay = config.optimiser, config.seed, config.steps, config.average
        self.terms: dict[str, Tensor] = {}
        self.norm = torch.zeros(())
        self._batch: dict[str, Tensor] = {}
        # Lightning leaves the modes as it finds them.
        self.train()

    def train(self, mode: bool = True) -> TrainingModule:
        """Neither the average nor what is frozen ever gathers statistics."""
        super().train(mode)
        self.average.eval()
        for name, part in self.network.named_children():
            if name in self.frozen:
                part.eval()
        return self

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser of all parameters that are trained."""
        kind = {'adamw': torch.optim.AdamW, 'adam': torch.optim.Adam}[self.settings.name]
        moving = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return kind(moving, lr=self.settings.lr, weight_decay=self.settings.weight_decay, fused=True)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the step and set its learning rate."""
        step = self.global_step
        # Decided by the step, so that a resumed run draws what an uninterrupted one does.
        torch.manual_seed(((self.seed * 1_000_003 + step) * 1009 + self.global_rank) % 2 ** 63)
        for group in self.optimizers().param_groups:
            group['lr'] = learning_rate(step, self.steps, self.settings)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Sum of the loss terms of a batch, ()."""
        self._batch = batch
        terms = self.losses(self.network, batch)
        total = sum(terms.values())
        self.terms = {name: term.detach() for name, term in terms.items()}
        return total

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, gradient_clip_val: Any = None,
                                    gradient_clip_algorithm: Any = None) -> None:
        """Clips, and raises TrainingError before a non-finite number reaches the weights."""
        moving = [parameter for group in optimizer.param_groups for parameter in group['params']]
        self.norm = nn.utils.clip_grad_norm_(moving, self.settings.clip)
        if not math.isfinite(self.norm + sum(self.terms.values())):
            raise TrainingError(self._blame())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the averaged weights follow."""
        super().optimizer_step(*args, **kwargs)
        # Short in the beginning, so that the random start is soon forgotten.
        self._follow(min(self.decay, (self.global_step + 1) / (self.global_step + 10)))

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        for kept, new in zip(self.average.state_dict().values(), self.network.state_dict().values()):
            if kept.dtype.is_floating_point:
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)

    def _blame(self) -> str:
        """Which samples of the batch give a non-finite loss or gradient by themselves, in words."""
        terms = ', '.join(f'{name} {value.item():.4g}' for name, value in self.terms.items())
        what = f'step {self.global_step}: the loss or its gradient is not finite ({terms})'
        guilty = [number for place, number in enumerate(self._batch['index'].tolist()) if not self._sound(place)]
        keep = 'The checkpoint from before it is kept.'
        if guilty and (len(guilty) < len(self._batch['index']) or len(guilty) == 1):
            names = ', '.join(self.name(number) for number in guilty)
            return f'{what}. Samples that do this alone: {names}. Mend them or leave them out. {keep}'
        names = ', '.join(self.name(number) for number in self._batch['index'].tolist())
        return (f'{what}. No sample stands out among those of this process ({names}); a smaller optimiser.lr may help. '
                f'{keep}')

    def _sound(self, place: int) -> bool:
        self.network.zero_grad(set_to_none=True)
        with torch.enable_grad(), self.trainer.precision_plugin.forward_context():
            terms = self.losses(self.network, {name: value[place:place + 1] for name, value in self._batch.items()})
            total = sum(terms.values())
        if not torch.isfinite(total):
            return False
        total.backward()
        return all(bool(torch.isfinite(parameter.grad).all()) for parameter in self.network.parameters()
                   if parameter.grad is not None)
