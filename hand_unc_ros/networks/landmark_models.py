"""Where the networks for landmarks of real hands are stored; light enough for `hand-unc doctor`."""

from __future__ import annotations

from pathlib import Path

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.resources import resource, user_models

HAND_FILE, PALM_FILE = 'hand_landmark_full.safetensors', 'palm_detection_full.safetensors'
# The error heads that come with the package; they go with MediaPipe's weights and with no others. The first is that of the
# method landmarks; the other one, which knows no shifts, that of networks which were trained with it.
ERROR_HEADS = 'models/landmark_errors.safetensors', 'models/landmark_variance.safetensors'


def landmark_folder() -> Path:
    """Where `hand-unc models get landmarks` writes."""
    return user_models() / 'landmarks'


def landmark_models() -> tuple[Path, Path] | None:
    """The stored landmark network and palm detector, None where they were not fetched."""
    files = landmark_folder() / HAND_FILE, landmark_folder() / PALM_FILE
    return files if all(file.is_file() for file in files) else None


def shipped_heads() -> list[Path]:
    """The error heads of the package, first that of the method landmarks; fewer in an installation without them."""
    heads = []
    for name in ERROR_HEADS:
        try:
            heads.append(resource(name))
        except ConfigError:
            continue
    return heads
