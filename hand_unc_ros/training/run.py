"""`hand-unc train`: from a configuration to weights with a card."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
import yaml

from hand_unc_ros.errors import TrainingError
from hand_unc_ros.networks.placement import choose_precision
from hand_unc_ros.networks.weights import save_network
from hand_unc_ros.training.card import write_card
from hand_unc_ros.training.config import C, TrainingConfig
from hand_unc_ros.training.keeper import CHECKPOINT, Feed, Keeper
from hand_unc_ros.training.module import TrainingModule
from hand_unc_ros.training.task import TrainingTask

CONFIG = 'config.yaml'
# What may change when a run goes on: it alters when things happen, or how much there is to do, but not the steps done.
MAY_CHANGE = ('out', 'steps', 'log_every', 'checkpoint_every', 'tensorboard', 'licence')


def train(task: TrainingTask[C], config: C) -> Path:
    """Run the training of a task that `config` describes, or go on with it where its folder holds a checkpoint; the
    path of the weights. Raises TrainingError when it cannot go on, ConfigError and DatasetError for what it cannot
    begin with.

    Ctrl-C, a kill or a loss of power cost the steps since the last checkpoint; the same call goes on from there.
    """
    _quieten()
    out = config.folder
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        _check_unchanged(task, config, out / CONFIG)
    torch.manual_seed(config.seed)
    setup = task.set_up(config)
    module = TrainingModule(setup, config)
    feed = Feed(setup.stream, config.steps, config.data.workers)
    keeper = Keeper(config, feed, setup.held_out, setup.validate)
    trainer = feed.trainer = _trainer(config, keeper, setup.unused_parameters)
    if trainer.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    begun = checkpoint if checkpoint.exists() else None
    try:
        trainer.fit(module, train_dataloaders=feed, ckpt_path=begun, weights_only=True)
    except SystemExit as error:
        # So Lightning ends after Ctrl-C, with its cause.
        raise KeyboardInterrupt from error
    path = out / f'{setup.weights}.safetensors'
    if trainer.is_global_zero:
        stored = module.average.get_submodule(setup.part)
        save_network(path, stored, dict(setup.settings))
        write_card(path, config, stored, keeper.metrics, keeper.totals, trainer.world_size)
    return path


def _trainer(config: TrainingConfig, keeper: Keeper, unused_parameters: bool) -> pl.Trainer:
    machine = config.machine
    accelerator = machine.accelerator
    if accelerator == 'auto':
        accelerator = 'gpu' if torch.cuda.is_available() else 'cpu'
    device = torch.device('cuda' if accelerator == 'gpu' else 'cpu')
    if accelerator == 'gpu' and torch.cuda.device_count() < machine.devices:
        raise TrainingError(f'machine.devices is {machine.devices}, but there are {torch.cuda.device_count()} GPUs;'
                            ' set machine.accelerator=cpu or fewer devices')
    bf16 = machine.precision == 'bf16' or machine.precision == 'auto' and (
        torch.cuda.is_bf16_supported() if device.type == 'cuda' else choose_precision('auto', device) == torch.bfloat16)
    # DDP waits for every gradient unless it looks for those that do not come.
    several = 'ddp_find_unused_parameters_true' if unused_parameters else 'ddp'
    strategy = 'auto' if machine.devices == 1 else several
    return pl.Trainer(accelerator=accelerator, devices=machine.devices, strategy=strategy,
                      precision='bf16-mixed' if bf16 else '32-true', max_steps=config.steps, max_epochs=-1,
                      callbacks=[keeper], logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
                      default_root_dir=config.folder)


def _check_unchanged(task: TrainingTask[C], config: C, path: Path) -> None:
    """Raises TrainingError when a run would go on with other settings than it began with."""
    try:
        before = task.parse(yaml.safe_load(path.read_text())).to_dict()
    except OSError as error:
        raise TrainingError(f'{path.parent} has a checkpoint but no {CONFIG}; choose another folder as out') from error
    now = config.to_dict()
    changed = [key for key in now if key not in MAY_CHANGE and now[key] != before[key]]
    if changed:
        details = '; '.join(f'{key} was {before[key]!r} and is {now[key]!r}' for key in changed)
        raise TrainingError(f'the run in {path.parent} was begun with other settings ({details}); choose another folder'
                            ' as out, or give those again')


def _quieten() -> None:
    """Lightning's advice is about its own loaders and loggers, which are not used."""
    logging.getLogger('lightning.pytorch').setLevel(logging.WARNING)
    warnings.filterwarnings('ignore', module='lightning')
