"""`hand-unc train`: from a configuration to weights with a card."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import torch
import yaml
from torch import Tensor, nn

from hand_unc_ros.errors import TrainingError
from hand_unc_ros.estimation.network_front_end import choose_precision
from hand_unc_ros.files import write_file
from hand_unc_ros.networks.weights import save_network
from hand_unc_ros.training import covariance, hand_finder, jump_hand, start
from hand_unc_ros.training.card import write_card
from hand_unc_ros.training.checkpoints import WholeCheckpoints, newest_checkpoint
from hand_unc_ros.training.config import TrainingConfig, parse_config
from hand_unc_ros.training.keeper import Feed, Keeper
from hand_unc_ros.training.module import TrainingModule
from hand_unc_ros.training.sources import held_out, training_stream
from hand_unc_ros.training.streams import BatchStream

CONFIG = 'config.yaml'
# What may change when a run goes on: it alters when things happen, or how much there is to do, but not the steps done.
MAY_CHANGE = ('out', 'steps', 'log_every', 'checkpoint_every', 'tensorboard', 'licence')


class Task(NamedTuple):
    """What differs between the networks. weights: the name of the file.  part: the submodule that is stored in it, ''
    for the whole network.  frozen: submodules that stay as they are."""

    network: nn.Module
    losses: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]]
    validate: Callable[[nn.Module, Iterable[dict[str, Tensor]]], dict[str, float]]
    stream: BatchStream
    held_out: Callable[[], list[dict[str, Tensor]]]
    weights: str
    part: str = ''
    frozen: tuple[str, ...] = ()


def make_task(config: TrainingConfig) -> Task:
    """The network, where it starts from, its losses and its data."""
    if config.task == 'finder':
        return Task(start.finder(config), hand_finder.finder_losses, hand_finder.evaluate_finder,
                    hand_finder.FrameStream(config.seed, config.data.crops), partial(hand_finder.held_out, config),
                    'hand_finder')
    stream, held = training_stream(config), partial(held_out, config)
    if config.task == 'covariance':
        return Task(start.covariance(config), covariance.losses, covariance.validate, stream, held, 'covariance',
                    'head', ('jump_hand',))
    network = start.jump_hand(config)
    if config.stage == 'views':
        rest = tuple(name for name, _ in network.named_children() if name != 'view')
        return Task(network, partial(jump_hand.view_losses, weights=config.losses), jump_hand.validate_views, stream,
                    held, 'gaussian_2d', 'view', rest)
    losses = partial(jump_hand.jump_hand_losses, weights=config.losses, fused_share=config.fused_share)
    return Task(network, losses, jump_hand.validate, stream, held, 'jump_hand', frozen=config.freeze)


def train(config: TrainingConfig) -> Path:
    """Run the training that `config` describes, or go on with it where its folder holds a checkpoint; the path of the
    weights. Raises TrainingError when it cannot go on, ConfigError and DatasetError for what it cannot begin with.

    Ctrl-C, a kill or a loss of power cost the steps since the last checkpoint; the same call goes on from there.
    """
    _quieten()
    out = config.folder
    begun = newest_checkpoint(out)
    if begun is not None:
        _check_unchanged(config, out / CONFIG)
    torch.manual_seed(config.seed)
    task = make_task(config)
    module = TrainingModule(task.network, task.losses, task.stream.name, config.optimiser, config.seed, config.steps,
                            config.average, task.frozen)
    feed = Feed(task.stream, config.steps, config.data.workers)
    keeper = Keeper(config, feed, task.held_out, task.validate)
    trainer = feed.trainer = _trainer(config, keeper)
    if trainer.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        write_file(out / CONFIG, yaml.safe_dump(config.to_dict(), sort_keys=False))
    try:
        trainer.fit(module, train_dataloaders=feed, ckpt_path=begun, weights_only=True)
    except SystemExit as error:
        # So Lightning ends after Ctrl-C, with its cause.
        raise KeyboardInterrupt from error
    path = out / f'{task.weights}.safetensors'
    if trainer.is_global_zero:
        stored = module.average.get_submodule(task.part)
        settings = stored.config.to_dict() if hasattr(stored, 'config') else {}
        save_network(path, stored, settings)
        write_card(path, config, stored, keeper.metrics, keeper.totals, trainer.world_size)
    return path


def _trainer(config: TrainingConfig, keeper: Keeper) -> pl.Trainer:
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
    # Without one of these losses a part of the network has no gradient, for which DDP would wait.
    losses = config.losses
    whole = config.task != 'jump_hand' or min(losses.nll, losses.joints, losses.vertices, losses.reprojection) > 0
    strategy = 'auto' if machine.devices == 1 else 'ddp' if whole else 'ddp_find_unused_parameters_true'
    return pl.Trainer(accelerator=accelerator, devices=machine.devices, strategy=strategy,
                      precision='bf16-mixed' if bf16 else '32-true', max_steps=config.steps, max_epochs=-1,
                      callbacks=[keeper], plugins=[WholeCheckpoints()], logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
                      default_root_dir=config.folder)


def _check_unchanged(config: TrainingConfig, path: Path) -> None:
    """Raises TrainingError when a run would go on with other settings than it began with."""
    try:
        before = parse_config(yaml.safe_load(path.read_text())).to_dict()
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
