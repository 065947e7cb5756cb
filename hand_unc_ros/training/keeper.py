"""The housekeeping between the steps of a run: log, validation, checkpoint, progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from tqdm import tqdm

from hand_unc_ros.errors import HandUncError
from hand_unc_ros.training.checkpoints import LAST
from hand_unc_ros.training.config import TrainingConfig
from hand_unc_ros.training.module import TrainingModule
from hand_unc_ros.training.run_log import CsvLog, TensorBoardLog
from hand_unc_ros.training.streams import BatchStream, batches

Batch = dict[str, Tensor]


class Feed:
    """The batches of the steps still to come, and how long they were waited for. `trainer` is set before use."""

    def __init__(self, stream: BatchStream, steps: int, workers: int) -> None:
        self.stream, self.steps, self.workers = stream, steps, workers
        self.trainer: pl.Trainer | None = None
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        trainer = self.trainer
        made = batches(self.stream, trainer.global_step, self.steps, self.workers, trainer.global_rank,
                       trainer.world_size)
        while True:
            started = monotonic()
            try:
                batch = next(made)
            except StopIteration:
                return
            except HandUncError as error:
                raise _plainly(error) from error
            self.waited_s += monotonic() - started
            yield batch


def _plainly(error: HandUncError) -> HandUncError:
    """An error out of a worker process without the traceback that PyTorch writes into its message."""
    text = str(error)
    if not text.startswith('Caught '):
        return error
    return type(error)(text.strip().splitlines()[-1].partition(': ')[2])


class Keeper(pl.Callback):
    """Writes the log, validates the average and stores checkpoints, in this order, after the steps when each is due:
    what the log holds at a checkpoint is what it holds when a run goes on from there.

    State: sums over the steps since the last row of the log, and totals over the run.
    """

    def __init__(self, config: TrainingConfig, feed: Feed, held_out: Callable[[], list[Batch]],
                 validate: Callable[[torch.nn.Module, Iterable[Batch]], dict[str, float]]) -> None:
        self.config, self.feed, self.make_held_out, self.validate = config, feed, held_out, validate
        self.logs = {name: CsvLog(config.folder / f'{name}.csv') for name in ('train', 'validation')}
        self.events: TensorBoardLog | None = None
        self.held_out: list[Batch] = []
        self.metrics: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.totals = {'seconds': 0.0, 'waited_s': 0.0, 'samples': 0}
        self.progress: tqdm | None = None
        self._row_seconds = self._row_waited_s = self._since = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Sums and metrics, for Lightning's checkpoints."""
        return {'sums': {name: value.cpu() for name, value in self.sums.items()}, 'count': self.count,
                'totals': dict(self.totals), 'metrics': dict(self.metrics)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.sums, self.count = dict(state['sums']), state['count']
        self.totals, self.metrics = dict(state['totals']), dict(state['metrics'])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Cut the log files off after the step from which the run goes on, and load the validation set."""
        self.sums = {name: value.to(module.device) for name, value in self.sums.items()}
        self._start_row()
        if trainer.is_global_zero:
            for log in self.logs.values():
                log.keep_until(trainer.global_step)
            if self.config.tensorboard:
                self.events = TensorBoardLog(self.config.folder / 'tensorboard', trainer.global_step + 1)
            self.held_out = self.make_held_out()
            self.progress = tqdm(total=self.config.steps, initial=trainer.global_step, unit='step', dynamic_ncols=True,
                                 mininterval=1)
        self._start_row()

    def on_train_batch_end(self, trainer: pl.Trainer, module: TrainingModule, outputs: Any, batch: Batch,
                           batch_idx: int) -> None:
        """Add up the loss terms; write rows and checkpoints when they are due."""
        step = trainer.global_step
        last = step == self.config.steps
        for name, value in {**module.terms, 'gradient_norm': module.norm}.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1
        self.totals['samples'] += len(batch['index']) * trainer.world_size
        if self.progress is not None:
            self.progress.update()
        if step % self.config.log_every == 0 or last:
            self._log(trainer, module, step)
        if trainer.is_global_zero and (step % self.config.validation.every == 0 or last):
            self._validate(trainer, module, step)
        if step % self.config.checkpoint_every == 0 or last:
            self._store(trainer)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Close the log files."""
        self._close()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Close the log files."""
        self._close()

    def _close(self) -> None:
        if self.progress is not None:
            self.progress.close()
        if self.events is not None:
            self.events.close()

    def _start_row(self) -> None:
        self._since, self._row_waited_s = monotonic(), self.feed.waited_s

    def _log(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        """A row: the mean of each term since the last one, over all processes."""
        means = trainer.strategy.reduce(torch.stack(list(self.sums.values())) / self.count, reduce_op='mean')
        terms = dict(zip(self.sums, means.tolist()))
        self.sums, self.count = {}, 0
        seconds, waited = self._clock()
        norm = terms.pop('gradient_norm')
        row = {'step': step, 'loss': sum(terms.values()), **terms, 'gradient_norm': norm,
               'learning_rate': module.optimizers().param_groups[0]['lr'], 'samples': self.totals['samples'],
               'seconds': seconds, 'data_wait': waited / max(seconds, 1e-9)}
        if trainer.is_global_zero:
            self._write('train', row)
            self.progress.set_postfix(loss=f'{row["loss"]:.3f}', data_wait=f'{row["data_wait"]:.0%}')

    def _clock(self) -> tuple[float, float]:
        """Seconds since the last call, and how many of them went into waiting for data."""
        seconds, waited = monotonic() - self._since, self.feed.waited_s - self._row_waited_s
        self.totals['seconds'] += seconds
        self.totals['waited_s'] += waited
        self._start_row()
        return seconds, waited

    def _validate(self, trainer: pl.Trainer, module: TrainingModule, step: int) -> None:
        self._clock()
        moved = ({name: value.to(module.device) for name, value in batch.items()} for batch in self.held_out)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            self.metrics = self.validate(module.average, moved)
        row = {'step': step, **self.metrics}
        self._write('validation', row)
        known = (f'{name} {value:.4g}' for name, value in row.items() if not math.isnan(value))
        self.progress.write(', '.join(known))
        self._since = monotonic()

    def _write(self, name: str, row: dict[str, float]) -> None:
        self.logs[name].append(row)
        if self.events is not None:
            self.events.append(name, row)

    def _store(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.config.folder / LAST)
