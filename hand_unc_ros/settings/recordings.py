"""How a recording is to be read: by a node's parameter file, without ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.settings.estimator import estimator_settings
from hand_unc_ros.settings.parameter_files import estimator_parameters
from hand_unc_ros.settings.parameters import TABLE, unknown_names


@dataclass(frozen=True)
class BagSettings:
    """The choices of a user.

    rig: rig file; None takes rig.yaml in the bag's folder, else CameraInfo and /tf_static in the bag.
    cameras: those to use; empty for all that have images.  image_topic: where they are, {camera} stands for the name.
    world_frame: of the poses in /tf_static.  period_s: of the cameras, 0 to take it from the stamps.  tolerance_s,
    deadline_s: as the node's, 0 for half a period and one period.
    """

    estimator: EstimatorSettings = EstimatorSettings()
    rig: Path | None = None
    cameras: tuple[str, ...] = ()
    image_topic: str = '/{camera}/image_raw'
    world_frame: str = 'world'
    period_s: float = 0.0
    tolerance_s: float = 0.0
    deadline_s: float = 0.0


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
