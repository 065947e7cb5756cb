"""Chosen vertices and the 21 public joints of a hand model, differentiable: what a network needs of a posed hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hand_unc_ros.hand.blend_skinning import BlendSkinning
from hand_unc_ros.hand.model import HandSurface, joint_rows


class PosedPoints(nn.Module):
    """arrays: as `model.check_arrays` wants them.  vertices: indices (M,) of those that are posed.
    tips: a key of model.TIP_VERTICES, for models without joints of their own."""

    def __init__(self, arrays: dict[str, np.ndarray], vertices: Sequence[int] | np.ndarray,
                 tips: str = 'smplx') -> None:
        super().__init__()
        rows = joint_rows(arrays, tips)
        self._count, self._order = len(vertices), rows.order
        self._layer = BlendSkinning(rows.arrays, np.concatenate([np.asarray(vertices, np.int64), rows.points]))

    def forward(self, pose: Tensor, betas: Tensor) -> HandSurface:
        """Chosen vertices (B, M, 3) and joints (B, 21, 3), metres, for pose (B, 48) rad and betas (B, 10), as
        HandModel gives them."""
        points, joints = self._layer(pose, betas, pose.new_zeros(len(pose), 3))
        return HandSurface(points[:, :self._count],
                           torch.cat([joints, points[:, self._count:]], 1)[:, self._order])
