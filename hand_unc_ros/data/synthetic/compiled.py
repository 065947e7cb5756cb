"""numba, which rendering needs, or the remedy.

Kernels take `error_model='numpy'`: Python's own checks every division, which keeps loops from vector instructions.
"""

from __future__ import annotations

from hand_unc_ros.errors import MissingDependencyError

try:
    from numba import njit  # noqa: F401
except ImportError as error:  # pragma: no cover - exercised where numba is absent
    raise MissingDependencyError(
        "Rendering synthetic scenes needs numba: pip install 'hand_unc_ros[synthetic]'") from error
