"""The training tasks of all methods, by the names that `task:` of a training configuration takes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods import DEFAULT, METHODS
from hand_unc_ros.training.config import TrainingConfig, read_values
from hand_unc_ros.training.task import TrainingSetup, TrainingTask


def training_task(name: str) -> TrainingTask:
    """Raises ConfigError naming the known tasks."""
    modules = {task: module for entry in METHODS.values() for task, module in entry.tasks.items()}
    if name not in modules:
        raise ConfigError(f'task is {name!r}; choose one of {", ".join(modules)}')
    return importlib.import_module(modules[name]).TASK


def parse_config(values: Mapping[str, Any]) -> TrainingConfig:
    """The configuration in a nested mapping, of the class of its task. Raises ConfigError naming the key."""
    return training_task(values.get('task', DEFAULT)).parse(values)


def load_config(path: Path, changes: Sequence[str] = ()) -> TrainingConfig:
    """The configuration in a YAML file, with 'key.of.it=value' changes. Raises ConfigError naming file and key."""
    values = read_values(path, changes)
    try:
        return parse_config(values)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error


def set_up(config: TrainingConfig) -> TrainingSetup:
    """The run that a configuration describes."""
    return training_task(config.task).set_up(config)
