"""Public datasets by name. Each reader reads the format in which its dataset is published; see docs/datasets.md."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

from hand_unc_ros.data.samples import SampleSource
from hand_unc_ros.errors import ConfigError

# name: (module of this package, class). A module is imported when its dataset is opened.
DATASETS: dict[str, tuple[str, str]] = {
    'dexycb': ('dexycb', 'DexYcb'),
    'ho3d': ('ho3d', 'Ho3d'),
    'ho3d_single': ('ho3d_single', 'Ho3dSingle'),
    'oakink': ('oakink', 'OakInk'),
    'arctic': ('arctic', 'Arctic'),
    'interhand': ('interhand', 'InterHand'),
    'hanco': ('hanco', 'HanCo'),
    'freihand': ('freihand', 'FreiHand'),
    'rhd': ('rhd', 'RenderedHands'),
}


def open_dataset(name: str, root: Path | str, split: str, **options: Any) -> SampleSource:
    """Open the dataset `name` whose files lie under `root`.

    split: one of the reader's splits ('train', 'test', ...).  options: the reader's further arguments.
    Raises ConfigError for an unknown name or option, DatasetError for files that are missing or of another version.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset '{name}'; known: {', '.join(DATASETS)}")
    module, reader = DATASETS[name]
    opener = getattr(import_module(f'{__name__}.{module}'), reader)
    known = [option for option in inspect.signature(opener).parameters if option not in ('root', 'split')]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ConfigError(f"dataset '{name}' has no option '{unknown[0]}'; known: {', '.join(known) or 'none'}")
    return opener(Path(root), split, **options)
