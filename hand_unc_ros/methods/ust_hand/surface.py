"""A hand's surface out of its joints: a linear map in the palm's frame, fitted to a hand model once and for all."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hand_unc_ros.hand.anatomical_pose import pose_from_angles
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.limits import ANGLE_LIMITS, FlexionAxes
from hand_unc_ros.hand.model import HandModel
from hand_unc_ros.hand.palm_frame import palm_frame

FITTED_HANDS = 1500
# Of the least squares: joints that hardly vary in the palm's frame decide nothing.
RIDGE = 1e-3


class LinearSurface(nn.Module):
    """Vertices (B, N, 3) of joints (B, 21, 3), metres, world; see `fit`. It needs no 3D label but a hand model."""

    def __init__(self, vertices: int) -> None:
        super().__init__()
        self.register_buffer('map', torch.zeros(3 * JOINT_COUNT, 3 * vertices))
        self.register_buffer('rest', torch.zeros(3 * vertices))

    def forward(self, joints: Tensor) -> Tensor:
        """See LinearSurface."""
        frame = palm_frame(joints)
        local = frame.from_world(joints).flatten(1) @ self.map + self.rest
        return frame.to_world(local.unflatten(1, (-1, 3)))

    @torch.no_grad()
    def fit(self, model: HandModel, seed: int = 0) -> float:
        """Fit it to hands of any shape and posture within limits that the model makes; the root mean square error over
        vertices, metres."""
        rng = np.random.default_rng((seed, 7061))
        axes = FlexionAxes.from_rest_joints(model.rest_joints(), model.side)
        angles = rng.uniform(*ANGLE_LIMITS.T, (FITTED_HANDS, len(ANGLE_LIMITS)))
        pose = torch.cat([torch.zeros(FITTED_HANDS, 3), pose_from_angles(torch.as_tensor(angles).float(), axes)], 1)
        shape = torch.as_tensor(rng.normal(0, 1, (FITTED_HANDS, 10)).clip(-2, 2)).float()
        joints, vertices = [], []
        for part in torch.arange(FITTED_HANDS).split(250):
            made = model(pose[part], shape[part], torch.zeros(len(part), 3))
            frame = palm_frame(made.joints)
            joints.append(frame.from_world(made.joints).flatten(1))
            vertices.append(frame.from_world(made.vertices).flatten(1))
        joints, vertices = torch.cat(joints).double(), torch.cat(vertices).double()
        centre, rest = joints.mean(0), vertices.mean(0)
        offsets = joints - centre
        normal = offsets.T @ offsets / len(joints)
        found = torch.linalg.solve(normal + RIDGE * 1e-2 * torch.eye(len(normal)).to(normal),
                                   offsets.T @ (vertices - rest) / len(joints))
        self.map.copy_(found)
        self.rest.copy_(rest - centre @ found)
        error = (offsets @ found + rest - vertices).unflatten(1, (-1, 3))
        return 0.1 * error.square().sum(-1).mean().sqrt().item()
