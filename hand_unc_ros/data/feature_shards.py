"""What frozen networks say of samples, on disk: computed once, drawn from as often as a training likes.

A folder holds `features.json` (see FeatureSet) and `shard-00000.safetensors`, …. A shard is a batch as
`data.batches.collate` makes it, of N samples with V views, without images; in their place stand the networks' outputs,
(N, V, …) each, in half precision where that suffices. V is the same within a shard. Of sequences, every entry has an
axis of frames behind that of samples or of views, and `stamps_s` (N, F) says when these were. A shard is whole or
absent, so making a set can stop and go on anywhere, by any number of processes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hand_unc_ros.bounded import MalformedError, parse_json, read_text
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.files import write_file

FORMAT = 1
DESCRIPTION = 'features.json'
# Files of a set that are held open; reading is by memory map.
OPEN_SHARDS = 256
# Entries of a batch that are of a sample and not of each of its views, and those of a sequence and not of its frames.
OF_SAMPLES = ('joints', 'vertices', 'index', 'stamps_s', 'hand')
WITHOUT_FRAMES = ('index', 'hand')
REMEDY = 'delete it and run the command that made the set again: it makes what is missing'


@dataclass(frozen=True)
class FeatureSet:
    """What `features.json` says: all that decides the content of the shards.

    description: in words, for cards.  shards: their number.  networks: fingerprints of the frozen networks, by name.
    settings: of what made the samples.
    """

    description: str
    shards: int
    networks: dict[str, str]
    settings: dict[str, Any]
    format: int = FORMAT


def begin_features(folder: Path, content: FeatureSet) -> list[int]:
    """Begin a set in `folder`, or go on with it: the numbers of the shards that are missing. Raises DatasetError where
    the folder holds anything else."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / DESCRIPTION).exists():
            if any(folder.iterdir()):
                raise DatasetError(f'{folder} is not empty and holds no {DESCRIPTION}; choose another folder')
            write_file(folder / DESCRIPTION, json.dumps(asdict(content), indent=1), DatasetError)
    except OSError as error:
        raise DatasetError(f'{folder} cannot be made a folder ({error.strerror}); choose another one') from error
    there = _read_description(folder)
    ours, theirs = asdict(content), asdict(there)
    for name in ours:
        # The number of shards may change: a set can be prolonged.
        if name not in ('shards', 'description') and ours[name] != theirs[name]:
            raise DatasetError(f'{folder} holds another set: its {name} is {theirs[name]!r}, not {ours[name]!r}; choose'
                               ' another folder or delete this one')
    if there != content:
        write_file(folder / DESCRIPTION, json.dumps(ours, indent=1), DatasetError)
    return [number for number in range(content.shards) if not _path(folder, number).is_file()]


def write_features(folder: Path, number: int, batch: Mapping[str, Tensor]) -> None:
    """Write shard `number`, whole or not at all."""
    write_file(_path(folder, number), save({name: value.contiguous() for name, value in batch.items()}), DatasetError)


class FeatureShards:
    """The samples of a set on disk, by shard and row. State: files held open; a copy in another process opens them
    anew.

    Shards that are not there yet are left out, so that a training can begin before a set is finished.
    Raises DatasetError for a folder without a set or without shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.content = _read_description(self.folder)
        self._open: OrderedDict[int, Any] = OrderedDict()
        # Rows of samples with as many views, (N, 2) shard and row, by that number.
        self.rows: dict[int, np.ndarray] = {}
        parts: dict[int, list[np.ndarray]] = {}
        for number in range(self.content.shards):
            if _path(self.folder, number).is_file():
                count, views = self._guarded(number, lambda file: file.get_slice('view_mask').get_shape()[:2])
                parts.setdefault(views, []).append(np.column_stack([np.full(count, number), np.arange(count)]))
        self.rows = {views: np.concatenate(arrays) for views, arrays in sorted(parts.items())}
        if not self.rows:
            raise DatasetError(f'{self.folder} has no shards yet; run the command that makes the set')

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {'_open': OrderedDict()}

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    @property
    def crops(self) -> int:
        """How many crops all samples have."""
        return sum(views * len(rows) for views, rows in self.rows.items())

    def batch(self, rows: Sequence[tuple[int, int]], views: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The samples of these shards and rows as one batch. views: which views of each, equally many.
        Raises DatasetError naming a damaged file."""
        samples = [self._guarded(int(number), lambda file, row=int(row), chosen=list(chosen): {
            name: self._value(file, name, row, chosen) for name in file.keys()})
            for (number, row), chosen in zip(rows, views)]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    @staticmethod
    def _value(file: Any, name: str, row: int, chosen: list[int]) -> Tensor:
        value = file.get_slice(name)[row:row + 1][0]
        return value if name in OF_SAMPLES else value[chosen]

    def _guarded(self, number: int, use: Any) -> Any:
        try:
            if number not in self._open:
                self._open[number] = safe_open(_path(self.folder, number), framework='pt')
                if len(self._open) > OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(number)
            return use(self._open[number])
        except (SafetensorError, OSError, ValueError, KeyError, IndexError) as error:
            raise DatasetError(f'{_path(self.folder, number)} is damaged ({error}); {REMEDY}') from error


def _path(folder: Path, number: int) -> Path:
    return Path(folder) / f'shard-{number:05d}.safetensors'


def _read_description(folder: Path) -> FeatureSet:
    path = Path(folder) / DESCRIPTION
    try:
        values = parse_json(read_text(path))
    except OSError as error:
        raise DatasetError(f'{path} cannot be read ({error.strerror}); give the folder of a set of features') from error
    except MalformedError as error:
        raise DatasetError(f'{path} is damaged ({error}); make the set again') from error
    if not isinstance(values, dict) or values.get('format') != FORMAT:
        raise DatasetError(f'{path} describes no set of format {FORMAT}; make the set again')
    try:
        return FeatureSet(**values)
    except TypeError as error:
        raise DatasetError(f'{path} is no description of a set ({error}); make the set again') from error
