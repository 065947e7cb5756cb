"""Where the networks for landmarks of real hands are stored; light enough for `hand-unc doctor`."""

from __future__ import annotations

from pathlib import Path

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.resources import resource, user_models

HAND_FILE, PALM_FILE = 'hand_landmark_full.safetensors', 'palm_detection_full.safetensors'
# The variance head that comes with the package; it goes with MediaPipe's weights and with no others.
VARIANCE_HEAD = 'models/landmark_variance.safetensors'


def landmark_folder() -> Path:
    """Where `hand-unc models get landmarks` writes."""
    return user_models() / 'landmarks'


def landmark_models() -> tuple[Path, Path] | None:
    """The stored landmark network and palm detector, None where they were not fetched."""
    files = landmark_folder() / HAND_FILE, landmark_folder() / PALM_FILE
    return files if all(file.is_file() for file in files) else None


def shipped_head() -> Path | None:
    """The variance head of the package, None in an installation without it."""
    try:
        return resource(VARIANCE_HEAD)
    except ConfigError:
        return None
