"""MANO's function by smplx, the package of MANO's makers, for a user's MANO.

smplx is needed for this alone (extra `hand`; its licence is non-commercial, as MANO's is) and is imported nowhere else.
"""

from __future__ import annotations

import contextlib
import io

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.errors import MissingDependencyError


class SmplxLayer(torch.nn.Module):
    """What `BlendSkinning` is, by smplx.MANO."""

    def __init__(self, arrays: dict[str, np.ndarray], side: str) -> None:
        """arrays: as `model.check_arrays` wants them.  Raises MissingDependencyError without smplx."""
        super().__init__()
        try:
            # smplx prints hints about optional packages when it is imported and built.
            with contextlib.redirect_stdout(io.StringIO()):
                import smplx
                from smplx.utils import Struct
        except ImportError as error:
            raise MissingDependencyError("a MANO hand is posed by smplx (non-commercial licence): "
                                         "pip install 'hand_unc_ros[hand]'") from error
        numbers = {key: np.asarray(array, dtype=np.int64 if key in ('f', 'kintree_table') else np.float32)
                   for key, array in arrays.items()}
        with contextlib.redirect_stdout(io.StringIO()):
            layer = smplx.MANO(
                model_path='', data_struct=Struct(**numbers), is_rhand=side == 'right', use_pca=False,
                num_pca_comps=45, flat_hand_mean=True, create_hand_pose=False, create_betas=False,
                create_global_orient=False, create_transl=False, batch_size=1)
        self._layer = layer.requires_grad_(False)

    def forward(self, pose: Tensor, betas: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
        """Vertices (B, N, 3) and joints (B, 16, 3), metres, of what `BlendSkinning.forward` takes."""
        output = self._layer(betas=betas, global_orient=pose[:, :3], hand_pose=pose[:, 3:], transl=translation)
        return output.vertices, output.joints
