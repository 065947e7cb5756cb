"""The methods, one folder for each paper, and the table of their names.

`docs/new_method.md` walks through adding one: a folder here, a line in METHODS, a configuration in config/train/.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hand_unc_ros.errors import ConfigError

if TYPE_CHECKING:
    from hand_unc_ros.methods.contract import Method, MethodOptions


@dataclass(frozen=True)
class Entry:
    """Where the parts of a method are.

    live: module with `build(options, cameras) -> Method` and `files(options) -> dict[str, Path]`, the files that decide
    its numbers; None for a method that is only trained and compared.  training_task: name of the method's task for
    `hand-unc train`, None where it is not trained here.
    """

    live: str | None = None
    training_task: str | None = None


METHODS: dict[str, Entry] = {
    'jump_hand': Entry(live='hand_unc_ros.methods.jump_hand.live', training_task='jump_hand'),
    'correlated_uncertainty': Entry(training_task='correlated_uncertainty'),
    'landmarks': Entry(live='hand_unc_ros.methods.landmarks.live'),
}
DEFAULT = 'jump_hand'


def live_methods() -> tuple[str, ...]:
    """Names of the methods that the estimator can run."""
    return tuple(name for name, entry in METHODS.items() if entry.live is not None)


def build_method(name: str, options: MethodOptions, cameras: tuple[str, ...]) -> Method:
    """Load a method for the named cameras. Raises ConfigError for an unknown name, HandUncError with the remedy."""
    return importlib.import_module(_live(name)).build(options, cameras)


def method_files(name: str, options: MethodOptions) -> dict[str, Path]:
    """The files that decide the numbers of a method, by the names of their settings; only those that are used."""
    return importlib.import_module(_live(name)).files(options)


def _live(name: str) -> str:
    if name not in live_methods():
        raise ConfigError(f'method {name!r} is unknown; choose one of {", ".join(live_methods())}')
    return METHODS[name].live
