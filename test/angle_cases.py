"""Anatomical angles measured on joints, by geometry alone, so that drawn and real hands are measured alike."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.geometry.alignment import best_rotation
from hand_unc_ros.hand.joints import FINGERS
from hand_unc_ros.hand.limits import ANGLE_COUNT, ANGLE_NAMES, FIRST_POSE_JOINT, FlexionAxes

PALM = [0, 5, 9, 13, 17]
# Of the thumb, five angles from the directions of three bones, which say nothing of pronation where it is straight:
# a weak prior (rad, and its weight against the unit directions; detected bones are known to about 0.1) decides there.
THUMB_MEAN, THUMB_WEIGHT = np.deg2rad([6.0, 2.0, 18.0, 15.0, 20.0]), np.array([0.1, 0.1, 0.3, 0.1, 0.1])


def measured_angles(joints: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(N, 21) rad in the order ANGLE_NAMES, of a right hand's `joints` (N, 21, 3) in public order, any scale.

    rest: (21, 3) joints of a flat hand that gives the zero and the axes. The palm is aligned by Kabsch; a finger's
    bones then give its angles one after the other.
    """
    axes = FlexionAxes.from_rest_joints(rest, 'right')
    palms = Rotation.from_matrix(np.stack([best_rotation(rest[PALM], hand[PALM]) for hand in joints]))
    angles = np.zeros((len(joints), ANGLE_COUNT))
    for finger in FINGERS[1:]:
        first, place, world = 1 + 4 * FINGERS.index(finger), FIRST_POSE_JOINT[finger], palms
        for k, name in enumerate(('mcp', 'pip', 'dip')):
            bone = _unit(rest[first + k + 1] - rest[first + k])
            flexion, abduction = axes.flexion[place + k], axes.abduction[place + k]
            seen = world.inv().apply(_unit(joints[:, first + k + 1] - joints[:, first + k]))
            raised, along, aside = seen @ np.cross(flexion, bone), seen @ bone, seen @ flexion
            bent = np.arctan2(raised, along)
            turned = np.arctan2(aside * (np.cross(abduction, bone) @ flexion), np.hypot(raised, along))
            angles[:, ANGLE_NAMES.index(f'{finger}_{name}_flexion')] = bent
            if k == 0:
                angles[:, ANGLE_NAMES.index(f'{finger}_mcp_abduction')] = turned
            world = world * _about(flexion, bent) * _about(abduction, turned)
    seen = np.stack([palms.inv().apply(_unit(joints[:, k + 1] - joints[:, k])) for k in (1, 2, 3)], axis=1)
    angles[:, :5] = _thumb_angles(seen.reshape(-1, 9), rest, axes)
    return angles


def _thumb_angles(seen: np.ndarray, rest: np.ndarray, axes: FlexionAxes) -> np.ndarray:
    """(N, 5) by Gauss-Newton from the directions (N, 9) of its bones in the palm's frame."""
    bones, j = [_unit(rest[k + 1] - rest[k]) for k in (1, 2, 3)], FIRST_POSE_JOINT['thumb']

    def directions(angles: np.ndarray) -> np.ndarray:
        world = (_about(axes.flexion[j], angles[:, 0]) * _about(axes.abduction[j], angles[:, 1])
                 * _about(axes.twist[j], angles[:, 2]))
        found = [world.apply(bones[0])]
        for k in (1, 2):
            world = world * _about(axes.flexion[j + k], angles[:, 2 + k])
            found.append(world.apply(bones[k]))
        return np.concatenate(found, axis=1)

    angles = np.tile(THUMB_MEAN, (len(seen), 1))
    for _ in range(20):
        now = directions(angles)
        residuals = np.concatenate([now - seen, (angles - THUMB_MEAN) * THUMB_WEIGHT], axis=1)
        slopes = np.tile(np.concatenate([np.zeros((9, 5)), np.diag(THUMB_WEIGHT)]), (len(seen), 1, 1))
        for c in range(5):
            slopes[:, :9, c] = (directions(angles + 1e-5 * np.eye(5)[c]) - now) / 1e-5
        step = np.linalg.solve(slopes.swapaxes(1, 2) @ slopes + 1e-4 * np.eye(5),
                               slopes.swapaxes(1, 2) @ residuals[..., None])
        angles = angles - np.clip(step[..., 0], -0.3, 0.3)
    return angles


def _about(axis: np.ndarray, angle: np.ndarray) -> Rotation:
    return Rotation.from_rotvec(angle[:, None] * axis)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
