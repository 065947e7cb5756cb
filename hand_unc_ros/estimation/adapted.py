"""Folders that `hand-unc adapt` writes, as `weights:` takes them: one file says which method, weights and head.

A covariance map lies beside weights or head, as everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from hand_unc_ros.bounded import MalformedError, parse_json, read_text
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.files import write_file
from hand_unc_ros.methods import AUTOMATIC, automatic, live_methods

NAME = 'adapted.json'
FORMAT = 1
# Settings that name a file of the folder.
FILES = ('weights', 'covariance_head')


@dataclass(frozen=True)
class Adapted:
    """method: live one.  files: setting → name of a file in the folder, of FILES; those that are absent are the
    package's own.  better: the verdict on it."""

    method: str
    files: dict[str, str]
    better: bool


def save_adapted(folder: Path, adapted: Adapted) -> None:
    """Write the file of a folder."""
    content = {'format': FORMAT, 'method': adapted.method, 'files': adapted.files, 'better': adapted.better}
    write_file(folder / NAME, json.dumps(content, indent=1) + '\n')


def load_adapted(folder: Path) -> Adapted:
    """Raises ConfigError for a folder that `hand-unc adapt` has not finished, or that is damaged."""
    path = Path(folder) / NAME
    try:
        content = parse_json(read_text(path))
    except FileNotFoundError as error:
        raise ConfigError(f'weights {folder} is a folder without {NAME}: name a .safetensors file in it, or finish '
                          '`hand-unc adapt`, which writes such folders') from error
    except (OSError, MalformedError) as error:
        raise ConfigError(f'{path} cannot be read ({error}); run `hand-unc adapt` again') from error
    if not isinstance(content, dict) or content.get('format') != FORMAT:
        raise ConfigError(f'{path} is not of format {FORMAT}; run `hand-unc adapt` of this version')
    method, files, better = (content.get(name) for name in ('method', 'files', 'better'))
    if method not in live_methods() or type(better) is not bool or not isinstance(files, dict):
        raise ConfigError(f'{path} is damaged: method, files or better is wrong; run `hand-unc adapt` again')
    for setting, name in files.items():
        if setting not in FILES or not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f'{path} is damaged: {setting!r} is no file of the folder; run `hand-unc adapt` again')
        if not (Path(folder) / name).is_file():
            raise ConfigError(f'{path} names {name}, which is not there; copy the whole folder')
    return Adapted(method, dict(files), better)


def with_folder(settings: EstimatorSettings) -> EstimatorSettings:
    """The settings with the files of the folder that `weights` names; as they are where it names none. What is set
    beside it goes before the folder's. Raises ConfigError for a folder that is none of `hand-unc adapt`, that was
    judged not to be better, or that is of another method than the one that is asked for."""
    folder = Path(settings.weights)
    if not settings.weights or not folder.is_dir():
        return settings
    adapted = load_adapted(folder)
    if not adapted.better:
        raise ConfigError(f'weights {folder} were judged not to be better than those in use (report.json in it); leave '
                          'weights empty, or adapt anew with more recordings')
    # A head for landmarks serves all methods that triangulate them.
    fits = ('landmarks', 'amvur') if adapted.method == 'landmarks' else (adapted.method,)
    if settings.method not in (AUTOMATIC, *fits):
        raise ConfigError(f'weights {folder} are of the method {adapted.method}, not {settings.method}; leave method '
                          'empty or name that one')
    files = {setting: str(folder / name) for setting, name in adapted.files.items()}
    asked = settings.method
    if asked == AUTOMATIC:
        asked = automatic(replace(settings, weights='').method_options)
    return replace(settings, method=asked if asked in fits else adapted.method, weights=files.get('weights', ''),
                   covariance_head=settings.covariance_head or files.get('covariance_head', ''))
