"""Live multi-view hand joints with a covariance that can be trusted."""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

# The generated message modules live in the ROS install space under the same package name;
# without this, running from the source root would hide `hand_unc_ros.msg`, and the other way round.
__path__ = pkgutil.extend_path(__path__, __name__)

from hand_unc_ros.threads import prepare_libraries  # noqa: E402

# Before anything of the package imports NumPy or torch.
prepare_libraries()

__version__ = '0.1.0'

if TYPE_CHECKING:
    from hand_unc_ros.api import *  # noqa: F403

# Named here so that importing the package loads neither NumPy nor torch: the first use of a name imports `api`.
__all__ = [
    'CalibrationUncertainty', 'Camera', 'CameraRig', 'FrameResult', 'HandEstimate', 'HandTracker', 'RecordedHand',
    'RecordedSet', 'Recording', 'load_bag', 'load_rig', 'project', 'triangulate']


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module('hand_unc_ros.api'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
