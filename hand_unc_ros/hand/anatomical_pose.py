"""From anatomical joint angles to MANO's axis-angles."""

from __future__ import annotations

import numpy as np
import torch

from hand_unc_ros.hand.joints import FINGERS
from hand_unc_ros.hand.limits import ANGLE_COUNT, ANGLE_PLACES, FIRST_POSE_JOINT, FlexionAxes

# Joints among MANO's 15: the first ones of thumb … little, and where each joint's turn is in (5 first ones, all 15).
_FIRST = [FIRST_POSE_JOINT[finger] for finger in FINGERS]
_ORDER = [_FIRST.index(j) if j in _FIRST else len(_FIRST) + j for j in range(15)]
# Columns of `angles`.
_FLEXIONS = [ANGLE_PLACES.index((j, 0)) for j in range(15)]
_ABDUCTIONS = [ANGLE_PLACES.index((j, 1)) for j in _FIRST]
_PRONATION = [ANGLE_PLACES.index((_FIRST[0], 2))]


def pose_from_angles(angles: torch.Tensor, axes: FlexionAxes) -> torch.Tensor:
    """MANO hand pose (B, 45) axis-angle from anatomical `angles` (B, 21) rad in the order ANGLE_NAMES.

    At a knuckle the turns are applied as the ISB recommends (Wu et al. 2005, hand section): flexion about
    the fixed axis, then abduction about the turned one, then pronation about the bone.
    """
    if angles.ndim != 2 or angles.shape[1] != ANGLE_COUNT:
        raise ValueError(f'expected angles (B, {ANGLE_COUNT}), got {tuple(angles.shape)}')
    flexion = _quaternion(axes.flexion, angles[:, _FLEXIONS])
    # Hinges only flex; the first joint of each finger abducts as well, the thumb's turns about its bone.
    first = _multiply(flexion[:, _FIRST], _quaternion(axes.abduction[_FIRST], angles[:, _ABDUCTIONS]))
    thumb = _multiply(first[:, :1], _quaternion(axes.twist[_FIRST[:1]], angles[:, _PRONATION]))
    joined = torch.cat([thumb, first[:, 1:], flexion], dim=1)
    return _axis_angle(joined[:, _ORDER]).flatten(1)


def _quaternion(axis: np.ndarray, angle: torch.Tensor) -> torch.Tensor:
    """Quaternions (B, N, 4), scalar first, of turns by `angle` (B, N) about fixed unit axes (N, 3)."""
    direction = torch.as_tensor(axis, dtype=angle.dtype, device=angle.device)
    return torch.cat([torch.cos(angle / 2)[..., None], torch.sin(angle / 2)[..., None] * direction], dim=-1)


def _multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Hamilton product (..., 4): the turn `b` first, then `a`, both about fixed axes."""
    scalar = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdim=True)
    vector = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + torch.linalg.cross(a[..., 1:], b[..., 1:])
    return torch.cat([scalar, vector], dim=-1)


def _axis_angle(quaternion: torch.Tensor) -> torch.Tensor:
    """Axis-angles (..., 3), smooth at zero, from unit quaternions (..., 4) with turns below half a turn."""
    scalar, vector = quaternion[..., :1], quaternion[..., 1:]
    sine2 = (vector ** 2).sum(-1, keepdim=True)
    small = sine2 < 1e-12
    sine = torch.sqrt(torch.where(small, torch.ones_like(sine2), sine2))
    return vector * torch.where(small, 2.0 / scalar, 2.0 * torch.atan2(sine, scalar) / sine)
