"""Joints as fixed weighted means of vertices: the matrix B of mesh networks, for any hand model.

The 21 public joints of a hand model are joints of its skeleton, vertices, or points that are skinned as vertices are;
no matrix gives them exactly in every pose. B holds, for each, those non-negative weights of sum 1 over vertices near it
whose mean is nearest to it over random poses and shapes. Weights of sum 1 turn and move with the hand.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls

from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.model import HandModel

# Vertices near a joint, in the rest pose, that may have a weight; poses that decide the weights.
REACH, POSES = 100, 120
# Standard deviation of a joint's turn, rad.
TURN = 0.45
# Of the condition that the weights add up to 1, in metres: far above any error.
SUM_WEIGHT = 10.0


def random_hands(model: HandModel, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (count, N, 3) and joints (count, 21, 3), metres, of random poses and shapes about the wrist."""
    rng = np.random.default_rng((seed, 7110))
    pose = rng.normal(0, TURN, (count, 48))
    pose[:, :3] = 0.0
    with torch.no_grad():
        surface = model(torch.from_numpy(pose).float(), torch.from_numpy(rng.normal(0, 1, (count, 10))).float())
    return surface.vertices.double().numpy(), surface.joints.double().numpy()


def fit_joint_regressor(model: HandModel) -> np.ndarray:
    """B (21, N): rows of sum 1, without negative weights."""
    vertices, joints = random_hands(model, POSES, 0)
    rest = model(torch.zeros(1, 48)).vertices[0].double().numpy()
    at_rest = model.rest_joints()
    B = np.zeros((JOINT_COUNT, len(rest)))
    for joint in range(JOINT_COUNT):
        near = np.argsort(np.linalg.norm(rest - at_rest[joint], axis=1), kind='stable')[:REACH]
        # About the joint, so that the sum of the weights matters to its own condition alone.
        offsets = (vertices[:, near] - joints[:, joint, None]).swapaxes(1, 2).reshape(-1, REACH)
        weights, _ = nnls(np.vstack([offsets, np.full(REACH, SUM_WEIGHT)]),
                          np.append(np.zeros(len(offsets)), SUM_WEIGHT), maxiter=30 * REACH)
        B[joint, near] = weights / weights.sum()
    return B
