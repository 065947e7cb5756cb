"""From anatomical joint angles to MANO's axis-angles."""

from __future__ import annotations

import numpy as np
import torch

from hand_unc_ros.hand.joints import FINGERS
from hand_unc_ros.hand.limits import ANGLE_COUNT, ANGLE_NAMES, FIRST_POSE_JOINT, FlexionAxes


def pose_from_angles(angles: torch.Tensor, axes: FlexionAxes) -> torch.Tensor:
    """MANO hand pose (B, 45) axis-angle from anatomical `angles` (B, 21) rad in the order ANGLE_NAMES.

    At a knuckle the turns are applied as the ISB recommends (Wu et al. 2005, hand section): flexion about
    the fixed axis, then abduction about the turned one, then pronation about the bone.
    """
    if angles.ndim != 2 or angles.shape[1] != ANGLE_COUNT:
        raise ValueError(f'expected angles (B, {ANGLE_COUNT}), got {tuple(angles.shape)}')
    quaternions = [None] * 15
    column = {name: angles[:, i] for i, name in enumerate(ANGLE_NAMES)}
    for finger in FINGERS:
        j = FIRST_POSE_JOINT[finger]
        root, middle, last = ('cmc', 'mcp', 'ip') if finger == 'thumb' else ('mcp', 'pip', 'dip')
        turn = _quaternion(axes.flexion[j], column[f'{finger}_{root}_flexion'])
        turn = _multiply(turn, _quaternion(axes.abduction[j], column[f'{finger}_{root}_abduction']))
        if finger == 'thumb':
            turn = _multiply(turn, _quaternion(axes.twist[j], column['thumb_cmc_pronation']))
        quaternions[j] = turn
        quaternions[j + 1] = _quaternion(axes.flexion[j + 1], column[f'{finger}_{middle}_flexion'])
        quaternions[j + 2] = _quaternion(axes.flexion[j + 2], column[f'{finger}_{last}_flexion'])
    return _axis_angle(torch.stack(quaternions, dim=1)).flatten(1)


def _quaternion(axis: np.ndarray, angle: torch.Tensor) -> torch.Tensor:
    """Quaternions (B, 4), scalar first, of turns by `angle` (B,) about a fixed unit `axis` (3,)."""
    direction = torch.as_tensor(axis, dtype=angle.dtype, device=angle.device)
    return torch.cat([torch.cos(angle / 2)[:, None], torch.sin(angle / 2)[:, None] * direction], dim=1)


def _multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Hamilton product (B, 4): the turn `b` first, then `a`, both about fixed axes."""
    scalar = a[:, :1] * b[:, :1] - (a[:, 1:] * b[:, 1:]).sum(1, keepdim=True)
    vector = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + torch.linalg.cross(a[:, 1:], b[:, 1:])
    return torch.cat([scalar, vector], dim=1)


def _axis_angle(quaternion: torch.Tensor) -> torch.Tensor:
    """Axis-angles (..., 3), smooth at zero, from unit quaternions (..., 4) with turns below half a turn."""
    scalar, vector = quaternion[..., :1], quaternion[..., 1:]
    sine2 = (vector ** 2).sum(-1, keepdim=True)
    small = sine2 < 1e-12
    sine = torch.sqrt(torch.where(small, torch.ones_like(sine2), sine2))
    return vector * torch.where(small, 2.0 / scalar, 2.0 * torch.atan2(sine, scalar) / sine)
