"""Live multi-view hand joints with a covariance that can be trusted."""

import pkgutil

# The generated message modules live in the ROS install space under the same package name;
# without this, running from the source root would hide `hand_unc_ros.msg`, and the other way round.
__path__ = pkgutil.extend_path(__path__, __name__)

from hand_unc_ros.threads import prepare_libraries  # noqa: E402

# Before anything of the package imports NumPy or torch.
prepare_libraries()

__version__ = '0.1.0'
