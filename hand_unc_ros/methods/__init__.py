"""The methods, one folder for each paper, and the table of their names.

`docs/new_method.md` walks through adding one: a folder here, a line in METHODS, a configuration in config/train/.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.networks.landmark_models import landmark_models

if TYPE_CHECKING:
    from hand_unc_ros.methods.contract import Method, MethodOptions
    from hand_unc_ros.methods.predictions import Predictor, PredictorOptions


@dataclass(frozen=True)
class Entry:
    """Where the parts of a method are; the modules are imported when they are used.

    live: module with `build(options, cameras) -> Method` and `files(options) -> dict[str, Path]`, the files that decide
    its numbers; None for a method that is only trained and compared.
    min_views: fewest views that the live method makes a hand of, as it says itself.
    tasks: module with `TASK: TrainingTask` for each name of a task of `hand-unc train`.
    evaluation: module with `build_predictor(options: PredictorOptions) -> Predictor` for `hand-unc evaluate --model`.
    export: module with `run(model, folder, views)` for `hand-unc export`.
    """

    live: str | None = None
    min_views: int = 2
    tasks: Mapping[str, str] = field(default_factory=dict)
    evaluation: str | None = None
    export: str | None = None


METHODS: dict[str, Entry] = {
    'jump_hand': Entry(
        live='hand_unc_ros.methods.jump_hand.live',
        tasks={'jump_hand': 'hand_unc_ros.methods.jump_hand.task',
               'finder': 'hand_unc_ros.methods.jump_hand.finder_task',
               'covariance': 'hand_unc_ros.methods.jump_hand.covariance_task'},
        evaluation='hand_unc_ros.methods.jump_hand.evaluation',
        export='hand_unc_ros.methods.jump_hand.export'),
    'correlated_uncertainty': Entry(
        tasks={'correlated_uncertainty': 'hand_unc_ros.methods.correlated_uncertainty.task'}),
    'landmarks': Entry(live='hand_unc_ros.methods.landmarks.live',
                       evaluation='hand_unc_ros.methods.landmarks.evaluation'),
    'ust_hand': Entry(
        live='hand_unc_ros.methods.ust_hand.live',
        tasks={'ust_hand': 'hand_unc_ros.methods.ust_hand.task'}),
    'amvur': Entry(
        live='hand_unc_ros.methods.amvur.live',
        min_views=1,
        tasks={'amvur': 'hand_unc_ros.methods.amvur.task'},
        evaluation='hand_unc_ros.methods.amvur.evaluation'),
}
# The method whose networks are trained, exported and evaluated on samples where none is named.
DEFAULT = 'jump_hand'
# Of the live pipeline: AUTOMATIC takes what reads real hands where the networks of landmarks were fetched.
AUTOMATIC = 'auto'


def live_methods() -> tuple[str, ...]:
    """Names of the methods that the estimator can run."""
    return tuple(name for name, entry in METHODS.items() if entry.live is not None)


def fewest_views(choice: str) -> int:
    """Fewest views of a method that a user can choose for the live pipeline; of AUTOMATIC without weights of the user."""
    return METHODS[automatic() if choice == AUTOMATIC else choice].min_views


def single_view_methods() -> tuple[str, ...]:
    """Names of the methods that can be measured on samples of one view."""
    return tuple(name for name, entry in METHODS.items() if entry.evaluation is not None and entry.min_views == 1)


def live_choices() -> tuple[str, ...]:
    """What a user can choose for the live pipeline."""
    return (AUTOMATIC, *live_methods())


def automatic(options: MethodOptions | None = None) -> str:
    """What AUTOMATIC stands for on this machine: what several views say is the same by amvur and landmarks, and the first
    also gives a mesh and keeps a hand by one view; crops are read twice by the second alone. Weights that a user brings
    are those of a trained method."""
    if landmark_models() is None or (options is not None and (options.weights or options.finder_weights)):
        return DEFAULT
    return 'landmarks' if options is not None and options.read_twice else 'amvur'


def known_hand() -> str:
    """Name of the synthetic hand that AUTOMATIC knows on this machine: lifelike ones are real hands to the landmarks."""
    return ANNY if landmark_models() is not None else STANDIN


def build_method(name: str, options: MethodOptions, cameras: tuple[str, ...]) -> Method:
    """Load a method for the named cameras. Raises ConfigError for an unknown name, HandUncError with the remedy."""
    return importlib.import_module(_live(name)).build(options, cameras)


def method_files(name: str, options: MethodOptions) -> dict[str, Path]:
    """The files that decide the numbers of a method, by the names of their settings; only those that are used."""
    return importlib.import_module(_live(name)).files(options)


def build_predictor(name: str, options: PredictorOptions) -> Predictor:
    """Load a method to be measured on samples. Raises ConfigError for a method that cannot be, and for its files."""
    return importlib.import_module(_part(name, 'evaluation')).build_predictor(options)


def export_onnx(name: str, model: Path, folder: Path, views: Sequence[int]) -> None:
    """Write the network stored at `model` as ONNX files into `folder`, compared with torch at numbers of views."""
    importlib.import_module(_part(name, 'export')).run(model, folder, views)


def _part(name: str, part: str) -> str:
    modules = {method: vars(entry)[part] for method, entry in METHODS.items() if vars(entry)[part] is not None}
    if name not in modules:
        raise ConfigError(f'method {name!r} has no {part}; choose one of {", ".join(modules)}')
    return modules[name]


def _live(name: str) -> str:
    if name not in live_methods():
        raise ConfigError(f'method {name!r} is unknown; choose one of {", ".join(live_methods())}')
    return METHODS[name].live
