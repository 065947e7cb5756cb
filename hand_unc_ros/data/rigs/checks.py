"""Whether the poses of a rig are in metres and map the way that the file's format says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hand_unc_ros.errors import CalibrationError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.optical_axes import inverted, meeting_point

# No hand is watched by cameras this far apart, nor by cameras this near each other: the file is in another unit.
_LARGEST_RIG_M = 50.0
_SMALLEST_RIG_M = 0.005
# From wrist to fingertip. In fewer pixels no network finds it.
_HAND_M = 0.18
_FEWEST_PX = 8.0


def check_unit(path: Path, rig: CameraRig, unit_given: bool, remedy: str) -> None:
    """Raise CalibrationError for positions that are not in metres, or all in one place as the poses are inverted.

    remedy: how this format names its unit.  A rig whose file names the unit is believed to see small hands.
    """
    centres = np.stack([camera.centre for camera in rig])
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    first, far = (int(row) for row in np.unravel_index(distance.argmax(), distance.shape))
    extent = float(distance.max())
    names = f"'{rig.names[first]}' and '{rig.names[far]}'"
    if extent > _LARGEST_RIG_M:
        raise CalibrationError(f'{path}: cameras {names} are {extent:.0f} m apart; positions are in metres. {remedy}')
    if 0 < extent < _SMALLEST_RIG_M:
        # World to camera, cameras around a hand are all in one place.
        if (doubt := inversion_doubt(rig)) is not None:
            raise CalibrationError(f'{path}: {doubt}')
        raise CalibrationError(f'{path}: cameras {names} are {1e3 * extent:.2g} mm apart and no others farther; '
                               f'positions are in metres. {remedy}')
    if unit_given or len(rig) < 2:
        return
    meeting = meeting_point(rig)
    away = extent / 2 if meeting is None else max(extent / 2, float(np.median(meeting.depths)))
    focal_px = float(np.median([camera.K[[0, 1], [0, 1]].mean() for camera in rig]))
    hand_px = focal_px * _HAND_M / away if away > 0 else np.inf
    if hand_px < _FEWEST_PX:
        raise CalibrationError(f'{path}: where the cameras look, {away:.1f} m away, a hand is {hand_px:.1f} px long: '
                               f'the positions seem to be in another unit than metres (squares of the calibration '
                               f'board, millimetres). {remedy}')


def inversion_doubt(rig: CameraRig) -> str | None:
    """Why the poses seem to map the other way, or None: the optical axes meet in front of the cameras only when each
    pose is inverted."""
    if len(rig) < 2 or meeting_point(rig) is not None:
        return None
    meeting = meeting_point(inverted(rig))
    if meeting is None:
        return None
    return ('the cameras do not look at a common place as given, and with every pose inverted they all look at '
            f'one {np.median(meeting.depths):.2f} m in front of them; are the poses inverted (camera_from_world where '
            'world_from_camera is expected, or the other way round)?')
