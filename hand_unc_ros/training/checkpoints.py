"""The two checkpoints of a run: the last one and, in case that is damaged, the one before."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hand_unc_ros.errors import TrainingError
from hand_unc_ros.files import replace_file

LAST, BEFORE = 'last.ckpt', 'before.ckpt'


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, with files that are whole or not there.

    Writing LAST keeps what was there as BEFORE; a kill or a full disk at any moment leaves one of them whole.
    """

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises TrainingError where the disk is full."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path, TrainingError) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch's archive writer hides the reason that the disk gives.
                raise TrainingError(f'{path} cannot be written ({str(error).splitlines()[0]}); make room; the same '
                                    'command goes on from the checkpoint before') from error
            file.flush()
            os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                os.replace(path, path.with_name(BEFORE))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of `folder` that is whole, None where there is none at all.

    A damaged one is named on the standard error.  Raises TrainingError where all that there are are damaged.
    """
    there = [path for path in (folder / LAST, folder / BEFORE) if path.exists()]
    damaged: list[str] = []
    for path in there:
        fault = _fault(path)
        if fault is None:
            if damaged:
                print(f'{damaged[0]}; going on from the one before, {path}', file=sys.stderr)
            return path
        damaged.append(f'checkpoint {path} is damaged ({fault})')
    if damaged:
        raise TrainingError(f'{"; ".join(damaged)}; delete {"them" if len(damaged) > 1 else "it"} to begin anew')
    return None


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, None for a whole one. Every part of the archive is read and its sum compared."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        return str(error)
    return None if part is None else f'{part} has another checksum than it says'
