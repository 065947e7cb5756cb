"""The hand model: MANO's function on the stand-in hand, by our own skinning, or on a user's MANO, by smplx."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hand_unc_ros.bounded import MalformedError, read_npz
from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.blend_skinning import BlendSkinning
from hand_unc_ros.hand.joints import ORDERS
from hand_unc_ros.hand.smplx_layer import SmplxLayer
from hand_unc_ros.hand.standin import STANDIN, build_standin
from hand_unc_ros.hand.topology import FACE_COUNT, VERTEX_COUNT

# A converted MANO has 3 MB.
MAX_BYTES = 64 * 2 ** 20
# Vertices taken for the tips thumb, index, middle, ring, little; projects differ by a vertex or two.
TIP_VERTICES: dict[str, tuple[int, int, int, int, int]] = {
    'smplx': (744, 320, 443, 554, 671),
    'freihand': (744, 320, 443, 555, 672),
    'ho3d': (744, 333, 444, 555, 672),
    'manopth': (745, 317, 444, 556, 673),
}
# Keys and shapes of a hand model's arrays; MANO's names.
ARRAY_SHAPES: dict[str, tuple[int, ...]] = {
    'v_template': (VERTEX_COUNT, 3), 'shapedirs': (VERTEX_COUNT, 3, 10), 'posedirs': (VERTEX_COUNT, 3, 135),
    'J_regressor': (16, VERTEX_COUNT), 'weights': (VERTEX_COUNT, 16), 'kintree_table': (2, 16),
    'f': (FACE_COUNT, 3), 'hands_components': (45, 45), 'hands_mean': (45,),
}


class HandSurface(NamedTuple):
    """vertices (B, 778, 3) and joints (B, 21, 3) in public order, metres, in the frame of the pose."""

    vertices: torch.Tensor
    joints: torch.Tensor


class HandModel(torch.nn.Module):
    """MANO's function on given arrays.

    A pose is absolute: zeros are the flat rest pose, `hands_mean` is not added (smplx's
    `flat_hand_mean=True`) and there is no PCA.
    """

    def __init__(self, arrays: dict[str, np.ndarray], side: str = 'right', tips: str = 'smplx',
                 by_smplx: bool = False) -> None:
        """tips: a key of TIP_VERTICES.  by_smplx: pose by smplx, as users of MANO expect, not by `BlendSkinning`.

        Raises HandModelError for bad arrays, side or tip table, MissingDependencyError where smplx is asked for and
        not installed.
        """
        super().__init__()
        check_arrays(arrays, 'the hand model')
        if side not in ('right', 'left'):
            raise HandModelError(f"side of the hand model must be 'right' or 'left', got {side!r}")
        if tips not in TIP_VERTICES:
            raise HandModelError(f'unknown tip vertices {tips!r}; known: {", ".join(sorted(TIP_VERTICES))}')
        self.side = side
        arrays = {key: arrays[key] for key in ARRAY_SHAPES}
        self._layer = SmplxLayer(arrays, side) if by_smplx else BlendSkinning(arrays)
        faces = torch.as_tensor(np.asarray(arrays['f'], dtype=np.int64))
        self.register_buffer('faces', faces, persistent=False)
        self._tips = list(TIP_VERTICES[tips])
        self._order = list(ORDERS['smplx'])

    def forward(self, pose: torch.Tensor, betas: torch.Tensor | None = None,
                translation: torch.Tensor | None = None) -> HandSurface:
        """Surface and joints for `pose` (B, 48) rad, `betas` (B, 10) and `translation` (B, 3) metres.

        The first three of a pose turn the whole hand about its wrist, the others the 15 joints in
        smplx's order. Missing betas and translation are zeros. Differentiable.
        """
        batch = pose.shape[0]
        if pose.ndim != 2 or pose.shape[1] != 48:
            raise ValueError(f'expected pose (B, 48), got {tuple(pose.shape)}')
        betas = pose.new_zeros(batch, 10) if betas is None else betas
        translation = pose.new_zeros(batch, 3) if translation is None else translation
        if betas.shape != (batch, 10) or translation.shape != (batch, 3):
            raise ValueError(f'expected betas ({batch}, 10) and translation ({batch}, 3), '
                             f'got {tuple(betas.shape)} and {tuple(translation.shape)}')
        vertices, joints = self._layer(pose, betas, translation)
        joints = torch.cat([joints, vertices[:, self._tips]], dim=1)
        return HandSurface(vertices, joints[:, self._order])

    def rest_joints(self) -> np.ndarray:
        """Joints (21, 3) metres, public order, of the mean shape in the rest pose."""
        with torch.no_grad():
            zeros = torch.zeros(1, 48, device=self.faces.device)
            return self.forward(zeros).joints[0].double().cpu().numpy()


def load_hand_model(path: Path | str | None = None, side: str = 'right', tips: str = 'smplx') -> HandModel:
    """The hand model in the npz at `path` (made by `hand-unc mano convert`), or the stand-in for None.

    Raises HandModelError when the file is missing, malformed or of the other side, MissingDependencyError
    when there is a file and smplx is missing.
    """
    arrays, name = hand_arrays(STANDIN if path is None else path, side)
    return HandModel(arrays, side, tips, by_smplx=name != STANDIN)


def hand_arrays(model: Path | str, side: str) -> tuple[dict[str, np.ndarray], str]:
    """Arrays and name ('stand-in' or 'mano') of the hand that `model` names.

    model: 'stand-in', or the path of an npz made by `hand-unc mano convert`.  Raises HandModelError when the file is
    missing, malformed or of the other side.
    """
    if side not in ('right', 'left'):
        raise HandModelError(f"side of the hand model must be 'right' or 'left', got {side!r}")
    if model == STANDIN:
        return build_standin(side), STANDIN
    arrays = read_arrays(Path(model))
    stored = str(arrays.get('side', side))
    if stored != side:
        raise HandModelError(f'{model} holds a {stored} hand, asked for was the {side} one; '
                             f'give the other file or side')
    return arrays, 'mano'


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a converted model, checked; nothing is unpickled. Raises HandModelError."""
    if not path.is_file():
        raise HandModelError(f'hand model {path} not found; make one from your MANO file with '
                             f'`hand-unc mano convert MANO_RIGHT.pkl -o {path}`, or name none '
                             f'for the stand-in')
    if path.suffix == '.pkl':
        raise HandModelError(f'{path} is a pickle, which is never read at run time; convert it once with '
                             f'`hand-unc mano convert {path}`')
    try:
        arrays = read_npz(path, most_bytes=MAX_BYTES)
    except (OSError, MalformedError) as error:
        raise HandModelError(f'{path} is not a hand model npz ({error}); make it again with '
                             f'`hand-unc mano convert`') from error
    check_arrays(arrays, str(path))
    return arrays


def check_arrays(arrays: dict[str, np.ndarray], name: str) -> None:
    """Raise HandModelError naming the first key of `arrays` that is missing, misshapen or not finite."""
    for key, shape in ARRAY_SHAPES.items():
        if key not in arrays:
            raise HandModelError(f'{name} lacks {key!r}; it is not a MANO model: convert MANO_RIGHT.pkl or '
                                 f'MANO_LEFT.pkl with `hand-unc mano convert`')
        array = np.asarray(arrays[key])
        if array.shape != shape or array.dtype.kind not in 'fiu':
            raise HandModelError(f'{name}: {key!r} is {array.dtype} {array.shape}, expected numbers {shape}')
        if not np.isfinite(array).all():
            raise HandModelError(f'{name}: {key!r} holds values that are not finite; convert the model again')
    faces, parents = np.asarray(arrays['f']), np.asarray(arrays['kintree_table'])[0, 1:]
    if faces.min() < 0 or faces.max() >= VERTEX_COUNT:
        raise HandModelError(f"{name}: 'f' names vertices outside 0..{VERTEX_COUNT - 1}")
    if (parents < 0).any() or (parents >= np.arange(1, 16)).any():
        raise HandModelError(f"{name}: 'kintree_table' is not a tree of 16 joints")
