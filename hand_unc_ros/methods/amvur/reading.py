"""Batches of several views to single crops: their evidence and their labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hand_unc_ros.geometry.single_view import RayFrame
from hand_unc_ros.methods.amvur.evidence import Evidence, landmark_evidence, pooled_evidence
from hand_unc_ros.methods.amvur.losses import Labels
from hand_unc_ros.methods.amvur.network import Amvur
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks, LandmarkMaps

# Where the landmark network sees no hand, there is nothing to learn from.
LEAST_PRESENCE = 0.5


class CropReader:
    """frozen: the networks by which images are read, None where a ResNet does, or where what they said was kept."""

    def __init__(self, frozen: FrozenLandmarks | None) -> None:
        self.frozen = frozen

    def __call__(self, network: Amvur, batch: Mapping[str, Tensor]) -> tuple[Evidence, Tensor]:
        """The evidence of the crops of a batch (data.batches.collate) that show a hand, and which they are (B·V,) bool.
        The first crop is among them where none does, so that there is a batch; it has no labels then."""
        rows = (batch['view_mask'] & batch['present']).flatten()
        K = batch['K'].flatten(0, 1)
        if network.config.features != 'landmarks':
            rows = _at_least_one(rows)
            whole = network.pooled(image_tensor(batch['images']).flatten(0, 1)[rows])
            with torch.autocast(K.device.type, enabled=False):
                return pooled_evidence(whole, K[rows]), rows
        if 'images' in batch:
            maps = self.frozen(image_tensor(batch['images']).flatten(0, 1), 0)
        else:
            maps = LandmarkMaps(*(batch[name].flatten(0, 1) for name in LandmarkMaps._fields[:5]), [])
        rows = _at_least_one(rows & (maps.presence > LEAST_PRESENCE))
        with torch.autocast(K.device.type, enabled=False):
            return landmark_evidence(LandmarkMaps(*(part[rows] for part in maps[:5]), []), K[rows]), rows


def labels_of(batch: Mapping[str, Tensor], frame: RayFrame, rows: Tensor, vertices: int) -> Labels:
    """The labels of those crops (B·V,) of a batch, in their ray frames. vertices: of the network's surface; those of
    another one are no labels for it."""
    views = batch['view_mask'].shape[1]
    pose = batch['camera_from_world'].flatten(0, 1)[rows]

    def seen(points: Tensor) -> Tensor:
        owned = points.repeat_interleave(views, 0)[rows]
        return frame.from_camera(owned @ pose[..., :3].mT + pose[:, None, :, 3])

    known = (batch['view_mask'] & batch['present']).flatten()[rows]
    surface = batch['vertices']
    if surface.shape[1] != vertices:
        surface = surface.new_full((len(surface), vertices, 3), torch.nan)
    joints, surface = (torch.where(known[:, None, None], seen(points), torch.nan)
                       for points in (batch['joints'], surface))
    tangents = frame.tangents(batch['K'].flatten(0, 1)[rows], batch['joints_px'].flatten(0, 1)[rows])
    mask = batch['joint_mask'].flatten(0, 1)[rows] & known[:, None]
    return Labels(joints, surface, torch.where(mask[..., None], tangents / frame.reach[:, None, None], 0.0), mask)


def _at_least_one(rows: Tensor) -> Tensor:
    first = torch.zeros_like(rows)
    first[0] = ~rows.any()
    return rows | first
