"""Anatomical joint angles, their limits, and the axes that they turn about.

`ANGLE_LIMITS` are rounded from clinical tables of healthy adults' active motion; abduction is narrowed to what
fingers do while others move. The prior of fits is made of them. `REACH_LIMITS` are wider: what hands reach as well,
pressed by a surface or by another finger. Angles are radians; zero is the model's rest pose, the flat hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hand_unc_ros.hand.joints import FINGERS

_FINGER_ANGLES = ('mcp_flexion', 'mcp_abduction', 'pip_flexion', 'dip_flexion')
_THUMB_ANGLES = ('cmc_flexion', 'cmc_abduction', 'cmc_pronation', 'mcp_flexion', 'ip_flexion')
_LIMITS_DEG = {
    'mcp_flexion': (-20.0, 90.0), 'pip_flexion': (0.0, 105.0), 'dip_flexion': (0.0, 80.0),
    'index_mcp_abduction': (-15.0, 15.0), 'middle_mcp_abduction': (-10.0, 10.0),
    'ring_mcp_abduction': (-12.0, 12.0), 'little_mcp_abduction': (-18.0, 18.0),
    'thumb_cmc_flexion': (-15.0, 40.0), 'thumb_cmc_abduction': (-25.0, 30.0),
    'thumb_cmc_pronation': (-10.0, 40.0), 'thumb_mcp_flexion': (-5.0, 55.0),
    'thumb_ip_flexion': (-10.0, 80.0),
}

# Kapandji, "The Physiology of the Joints", vol. 1: knuckles flex by 90° and, towards the little finger, more, and
# overextend by 30–40°; interphalangeal joints flex the more the nearer they are to the little finger, proximal ones
# beyond 90°, distal ones by about 90°; pressed from below these overextend by up to 30°; fingers spread by 30° each.
# Thumb: flexion 53°, abduction 42° at its base (Cooney et al. 1981), where the turn of the whole column in opposition
# is one number here, `cmc_pronation`; lax thumbs overextend by 20° in the middle and 35° in the last joint.
_REACH_DEG = {
    'mcp_flexion': (-30.0, 100.0), 'pip_flexion': (-15.0, 110.0), 'dip_flexion': (-30.0, 105.0),
    'index_mcp_abduction': (-20.0, 20.0), 'middle_mcp_abduction': (-17.0, 17.0),
    'ring_mcp_abduction': (-19.0, 19.0), 'little_mcp_abduction': (-27.0, 27.0),
    'thumb_cmc_flexion': (-25.0, 45.0), 'thumb_cmc_abduction': (-32.0, 36.0),
    'thumb_cmc_pronation': (-40.0, 75.0), 'thumb_mcp_flexion': (-20.0, 60.0),
    'thumb_ip_flexion': (-35.0, 85.0),
}


def _angle_names() -> tuple[str, ...]:
    names = [f'thumb_{angle}' for angle in _THUMB_ANGLES]
    return tuple(names + [f'{finger}_{angle}' for finger in FINGERS[1:] for angle in _FINGER_ANGLES])


# Flexion bends towards the palm. Abduction moves a finger towards the thumb's side, the thumb away
# from the palm; pronation turns the thumb's pad towards the other fingers.
ANGLE_NAMES = _angle_names()
ANGLE_COUNT = len(ANGLE_NAMES)


def _in_order(degrees: dict[str, tuple[float, float]]) -> np.ndarray:
    return np.deg2rad([degrees[name] if name in degrees else degrees[name.split('_', 1)[1]] for name in ANGLE_NAMES])


# (21, 2) rad each, lowest and highest of each angle.
ANGLE_LIMITS, REACH_LIMITS = _in_order(_LIMITS_DEG), _in_order(_REACH_DEG)
# First joint, among smplx.MANO's 15 hand joints (wrist not counted), of each finger.
FIRST_POSE_JOINT = {'index': 0, 'middle': 3, 'little': 6, 'ring': 9, 'thumb': 12}
# Places in (15, 3) angles, of joints by flexion, abduction and twist, of the angles in ANGLE_NAMES.
ANGLE_PLACES = tuple(
    (FIRST_POSE_JOINT[finger] + {'cmc': 0, 'mcp': int(finger == 'thumb'), 'pip': 1, 'dip': 2, 'ip': 2}[joint],
     ('flexion', 'abduction', 'pronation').index(turn))
    for finger, joint, turn in (name.split('_') for name in ANGLE_NAMES))
# Position in the public order of each finger's first joint.
_FIRST_PUBLIC = {'thumb': 1, 'index': 5, 'middle': 9, 'ring': 13, 'little': 17}


def fingers_of(weights: np.ndarray) -> np.ndarray:
    """(N,) index into FINGERS of vertices with skin weights (N, 16), −1 for the palm, its thenar and the arm."""
    shares = np.zeros((len(weights), len(FINGERS)))
    for number, name in enumerate(FINGERS):
        first = 1 + FIRST_POSE_JOINT[name] + (name == 'thumb')
        shares[:, number] = weights[:, first:1 + FIRST_POSE_JOINT[name] + 3].sum(axis=1)
    return np.where(shares.max(axis=1) > 0.5, shares.argmax(axis=1), -1)


@dataclass(frozen=True)
class FlexionAxes:
    """Unit axes in the model's frame, at rest, for MANO's 15 hand joints, each (15, 3).

    A positive turn about `flexion` bends towards the palm, about `abduction` moves a finger towards
    the thumb's side (the thumb: away from the palm), about `twist`, which lies along the bone, turns the
    pad towards the little finger's side and on to the back of the hand (the thumb: pronation).
    """

    flexion: np.ndarray
    abduction: np.ndarray
    twist: np.ndarray
    side: str

    @staticmethod
    def from_rest_joints(joints: np.ndarray, side: str) -> FlexionAxes:
        """Axes from the rest joints (21, 3) in public order of any hand model; scale does not matter.

        A finger's pad faces along the palm normal; the thumb's pad faces a point in front of the
        little finger's knuckle, across the palm. Raises ValueError on a bad shape, side or on joints
        that coincide.
        """
        joints = np.asarray(joints, dtype=np.float64)
        if joints.shape != (21, 3) or side not in ('right', 'left'):
            raise ValueError(f"expected joints (21, 3) and side 'right' or 'left', "
                             f'got {joints.shape}, {side!r}')
        hand = 1.0 if side == 'right' else -1.0
        across = joints[5] - joints[17]
        palm_normal = hand * _unit(np.cross(across, joints[9] - joints[0]))
        flexion, abduction, twist = np.zeros((3, 15, 3))
        for finger in FINGERS:
            first = _FIRST_PUBLIC[finger]
            for k in range(3):
                bone = _unit(joints[first + k + 1] - joints[first + k])
                if finger == 'thumb':
                    toward = joints[17] - joints[2] + 0.6 * np.linalg.norm(across) * palm_normal
                else:
                    toward = palm_normal
                pad = _unit(toward - bone * (toward @ bone))
                j = FIRST_POSE_JOINT[finger] + k
                flexion[j] = _unit(np.cross(bone, pad))
                # The hands are mirror images: about mirrored axes they turn oppositely.
                abduction[j] = -hand * pad
                twist[j] = -hand * bone
        return FlexionAxes(flexion, abduction, twist, side)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    if not length > 1e-9:
        raise ValueError('rest joints coincide or lie on one line: no flexion axis')
    return vector / length
