"""How a recording is to be read: by a node's parameter file, without ROS."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hand_unc_ros.data.bags.reader import WHOLE
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.settings.estimator import estimator_settings
from hand_unc_ros.settings.parameter_files import estimator_parameters
from hand_unc_ros.settings.parameters import TABLE, unknown_names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagSettings:
    """The choices of a user.

    rig: rig file; None takes rig.yaml in the bag's folder, else CameraInfo and /tf_static in the bag.
    cameras: those to use; empty for all that have images.  image_topic: where they are, {camera} stands for the name.
    world_frame: of the poses in /tf_static.  period_s: of the cameras, 0 to take it from the stamps.  tolerance_s,
    deadline_s: as the node's, 0 for half a period and one period.  part_s: from and to, seconds after the bag's start.
    """

    estimator: EstimatorSettings = EstimatorSettings()
    rig: Path | None = None
    cameras: tuple[str, ...] = ()
    image_topic: str = '/{camera}/image_raw'
    world_frame: str = 'world'
    period_s: float = 0.0
    tolerance_s: float = 0.0
    deadline_s: float = 0.0
    part_s: tuple[float, float] = WHOLE

    @property
    def part_notes(self) -> dict[str, list[float | None]]:
        """The part as JSON can say it; empty for the whole bag."""
        return {} if self.part_s == WHOLE else {'part_s': [None if math.isinf(end) else end for end in self.part_s]}


def bag_settings(params: Path | None, rig: Path | None, changes: dict[str, Any],
                 part_s: tuple[float, float] = WHOLE) -> BagSettings:
    """Settings for a bag, or a part of it: those of the file's estimator, or the defaults; `rig` and `changes`,
    parameters by name, go before it.

    The period of the cameras is taken from their stamps where the file does not give it.  Raises ConfigError.
    """
    given = estimator_parameters(params)[1] if params is not None else {}
    strange = unknown_names(list(given))
    if strange:
        raise ConfigError(f'{params}: {"; ".join(strange)}')
    values = {name: parameter.default for name, parameter in TABLE.items()} | given | changes
    for name, value in changes.items():
        TABLE[name].check(value)
    if values['sync.policy'] != 'deadline':
        log.warning('%s: sync.policy %s is of the live node alone; the recording is read with sync.policy deadline',
                    params, values['sync.policy'])
    file = rig or (Path(values['rig.file']) if values['rig.file'] else None)
    return BagSettings(
        estimator_settings(values), file, tuple(name for name in values['cameras'] if name), values['image_topic'],
        values['world_frame'], given.get('sync.period', 0.0), values['sync.tolerance'], values['sync.deadline'], part_s)
