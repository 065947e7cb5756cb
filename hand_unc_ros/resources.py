"""Files that are no Python: what comes with the package (config/, launch/, models/) and what its user fetched."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from hand_unc_ros.errors import ConfigError

_PACKAGE = 'hand_unc_ros'


def _roots() -> Iterator[Path]:
    """Where the files may lie, best first: the source tree, then `share/` of the prefix of installation."""
    here = Path(__file__)
    source = here.resolve().parents[1]
    if (source / 'package.xml').is_file():
        yield source
    for prefix in (*here.absolute().parents, Path(sys.prefix)):
        yield prefix / 'share' / _PACKAGE


def resource(relative: str | Path) -> Path:
    """The path of a file or folder of the package, e.g. `resource('config/fastdds.xml')`.

    Works in the source tree, after `pip install`, and in an ament install space.
    Raises ConfigError when it is nowhere.
    """
    for root in _roots():
        path = root / relative
        if path.exists():
            return path
    raise ConfigError(f'{relative} is missing from this installation of {_PACKAGE}; install it again')


def user_models() -> Path:
    """The folder of models that the user fetched: $HAND_UNC_MODELS, else by the XDG Base Directory Specification."""
    named = os.environ.get('HAND_UNC_MODELS')
    if named:
        return Path(named).expanduser()
    data = os.environ.get('XDG_DATA_HOME')
    base = Path(data) if data and Path(data).is_absolute() else Path.home() / '.local' / 'share'
    return base / _PACKAGE / 'models'
