"""The log of a run: CSV files that a resumed run goes on with as if it had never stopped, and TensorBoard events."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hand_unc_ros.errors import MissingDependencyError


class CsvLog:
    """Rows with the key 'step' in one CSV file. State: nothing but the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep_until(self, step: int) -> None:
        """Drop what was written after the step to which a run goes back, and a row that was cut off by a kill."""
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        columns = lines[0].count(',') if lines else 0
        kept = lines[:1] + [line for line in lines[1:] if line.endswith('\n') and line.count(',') == columns
                            and int(line.partition(',')[0]) <= step]
        new = self.path.with_suffix('.new')
        new.write_text(''.join(kept) if kept and kept[0].endswith('\n') else '')
        new.replace(self.path)

    def append(self, row: dict[str, float]) -> None:
        """row: 'step' first, the same names every time. Numbers are written with six digits, NaN as nothing."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        if not self.path.exists() or not self.path.stat().st_size:
            writer.writerow(row)
        writer.writerow([_number(value) for value in row.values()])
        with self.path.open('a') as file:
            file.write(text.getvalue())


class TensorBoardLog:
    """Scalars as TensorBoard events, from step `first` on."""

    def __init__(self, folder: Path, first: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise MissingDependencyError("tensorboard: true needs tensorboardX; pip install 'hand_unc_ros[train]'"
                                         ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first)

    def append(self, group: str, row: dict[str, float]) -> None:
        """Write a row as scalars at its step."""
        for name, value in row.items():
            if name != 'step':
                self._writer.add_scalar(f'{group}/{name}', value, row['step'])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def _number(value: float) -> str:
    if value != value:
        return ''
    return str(value) if isinstance(value, int) else f'{value:.6g}'
