"""A hand before cameras all around, and what a per-view network could say of their crops."""

from typing import NamedTuple

import numpy as np
import torch
from rig_cases import look_at
from torch import Tensor
from view_cases import hand

from hand_unc_ros.methods.jump_hand.network import ViewStage
from hand_unc_ros.networks.gaussian_2d import pixels_to_cells

torch.set_num_threads(1)

SIZE = 128
LEVEL_SIZES = (32, 16, 8, 4)


class Fused(NamedTuple):
    """Inputs of the fused stage in the order of its arguments, and the truth: joints (B, 21, 3), joints_px
    (B, V, 21, 2)."""

    seen: ViewStage
    K: Tensor
    camera_from_world: Tensor
    view_mask: Tensor
    joints: Tensor
    joints_px: Tensor

    @property
    def inputs(self):
        return self[:4]

    def views(self, chosen):
        """The same scene with these views, in this order."""
        seen = ViewStage(*(part[:, chosen] for part in self.seen[:5]), [level[:, chosen] for level in self.seen.levels])
        return Fused(seen, self.K[:, chosen], self.camera_from_world[:, chosen], self.view_mask[:, chosen], self.joints,
                     self.joints_px[:, chosen])

    def with_seen(self, **parts):
        return self._replace(seen=self.seen._replace(**parts))


def fused(views, batch=2, noise_cells=0.5, seed=0, channels=16, sizes=LEVEL_SIZES):
    """Crops of SIZE px that hold the hand, each rolled by some angle; the 2D means are `noise_cells` off the truth."""
    rng = np.random.default_rng(seed)
    K, poses, joints = np.zeros((batch, views, 3, 3)), np.zeros((batch, views, 3, 4)), np.zeros((batch, 21, 3))
    for b in range(batch):
        joints[b] = hand(rng.normal(0, 1, 3), rng.uniform(-0.05, 0.05, 3), curl=rng.uniform(0, 0.8))
        for v in range(views):
            # Evenly round the hand, at distances of a rig.
            angle = 2 * np.pi * (v + rng.uniform(-0.2, 0.2)) / max(views, 3)
            pose = look_at(rng.uniform(0.4, 0.8) * np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.5, 0.5)]))
            poses[b, v] = np.linalg.inv(pose)[:3]
            distance = np.linalg.norm(pose[:3, 3])
            focal, roll = 0.32 * SIZE * distance / 0.1, rng.uniform(-0.5, 0.5)
            c, s = focal * np.cos(roll), focal * np.sin(roll)
            K[b, v] = [[c, -s, 64.0], [s, c, 63.0], [0, 0, 1]]
    K, poses, joints = (torch.from_numpy(value).float() for value in (K, poses, joints))
    px = project(K, poses, joints)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    mean = pixels_to_cells(px, SIZE) + noise_cells * draw(batch, views, 21, 2)
    seen = ViewStage(mean, draw(batch, views, 21, 2).exp(), draw(batch, views, 21, 32, 32), draw(batch, views),
                     draw(batch, views, 21, channels), [draw(batch, views, channels, size, size) for size in sizes])
    return Fused(seen, K, poses, torch.ones(batch, views, dtype=torch.bool), joints, px)


def project(K, camera_from_world, points):
    """Crop pixels (B, V, N, 2) of points (B, N, 3)."""
    local = torch.einsum('bvij,bnj->bvni', camera_from_world[..., :3], points) + camera_from_world[:, :, None, :, 3]
    px = torch.einsum('bvij,bvnj->bvni', K, local)
    return px[..., :2] / px[..., 2:]
