"""A node's parameter file for work on recordings, without ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.evaluation.recordings.replay import BagSettings
from hand_unc_ros.nodes.parameter_files import estimator_parameters
from hand_unc_ros.nodes.parameters import TABLE, unknown_names
from hand_unc_ros.nodes.settings import estimator_settings


def bag_settings(params: Path | None, rig: Path | None, changes: dict[str, Any]) -> BagSettings:
    """Settings for a bag: those of the file's estimator, or the defaults; `rig` and `changes`, parameters by name, go
    before it.

    The period of the cameras is taken from their stamps where the file does not give it.  Raises ConfigError.
    """
    given = estimator_parameters(params)[1] if params is not None else {}
    strange = unknown_names(list(given))
    if strange:
        raise ConfigError(f'{params}: {"; ".join(strange)}')
    values = {name: parameter.default for name, parameter in TABLE.items()} | given | changes
    for name, value in changes.items():
        TABLE[name].check(value)
    file = rig or (Path(values['rig.file']) if values['rig.file'] else None)
    return BagSettings(
        estimator_settings(values), file, tuple(name for name in values['cameras'] if name), values['image_topic'],
        values['world_frame'], given.get('sync.period', 0.0), values['sync.tolerance'], values['sync.deadline'])
