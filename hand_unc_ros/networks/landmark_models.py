"""Where the networks for landmarks of real hands are stored; light enough for `hand-unc doctor`."""

from __future__ import annotations

from pathlib import Path

from hand_unc_ros.resources import user_models

HAND_FILE, PALM_FILE = 'hand_landmark_full.safetensors', 'palm_detection_full.safetensors'


def landmark_folder() -> Path:
    """Where `hand-unc models get landmarks` writes."""
    return user_models() / 'landmarks'


def landmark_models() -> tuple[Path, Path] | None:
    """The stored landmark network and palm detector, None where they were not fetched."""
    files = landmark_folder() / HAND_FILE, landmark_folder() / PALM_FILE
    return files if all(file.is_file() for file in files) else None
