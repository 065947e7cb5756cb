"""JUMP-Hand as two ONNX graphs, the per-view stage and the fused stage, compared with torch before they are written."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from hand_unc_ros.errors import ExportError, MissingDependencyError
from hand_unc_ros.files import adopt_file
from hand_unc_ros.hand.joints import JOINT_COUNT, JOINT_NAMES
from hand_unc_ros.methods.jump_hand.network import JumpHand, ViewStage, load_jump_hand
from hand_unc_ros.networks.gaussian_2d import pixels_to_cells
from hand_unc_ros.networks.landmark_gaussians import random_maps

VIEWS_FILE, FUSED_FILE = 'views.onnx', 'fused.onnx'
# The first that torch's exporter writes; sampling features needs 16.
OPSET = 18
# Largest difference to torch: metres for METRES, else a share of the output's largest number (of 1 at least).
AGREEMENT = 1e-3
MAX_BATCH, MAX_VIEWS = 1024, 64
METRES = ('joints', 'vertices', 'coarse')
FUSED_OUTPUTS = (*METRES, 'coarse_valid', 'gate')
CHECK_SEED = 8300
# Of the cameras that the fused stage is compared with, metres.
CAMERA_DISTANCE = 0.5


class PerView(nn.Module):
    """images: (N, 3, S, S) RGB in [0, 1] to the parts of ViewStage, with N in place of (B, V)."""

    def __init__(self, network: JumpHand) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        stage = self.network.view(images)
        return (*stage[:5], *stage.levels)


class FusedStage(nn.Module):
    """The inputs named by `fused_names`, (B, V, …) each, to FUSED_OUTPUTS of the last layer; see JumpHand.fuse."""

    def __init__(self, network: JumpHand) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        named = dict(zip(fused_names(self.network), inputs))
        levels = [tensor for name, tensor in named.items() if name.startswith('level_')]
        # Heatmaps and presence would only be passed on.
        mean = named['mean_cells']
        stage = ViewStage(mean, named['variance_cells2'], mean, mean, named['pooled'], levels)
        out = self.network.fuse(stage, named['K'], named['camera_from_world'], named['view_mask'],
                                named.get('confidence'))
        return out.joints[-1], out.vertices[-1], out.coarse, out.coarse_valid, out.gate


def run(model: Path, folder: Path, views: Sequence[int]) -> None:
    """The command: export the network stored at `model`, and print what was written and how far it is from torch."""
    differences = export_onnx(load_jump_hand(model), folder, views)
    print(f'largest differences between ONNX Runtime on the CPU and torch, {", ".join(map(str, views))} views:')
    for name, value in differences.items():
        print(f'  {name:<17}{value:.1e}{" m" if name in METRES else ""}')
    for name in (VIEWS_FILE, FUSED_FILE):
        path = Path(folder) / name
        print(f'{path} ({path.stat().st_size / 1e6:.1f} MB)')


def export_onnx(network: JumpHand, folder: Path, views: Sequence[int] = (2, 4, 8)) -> dict[str, float]:
    """Write VIEWS_FILE and FUSED_FILE into `folder` and return the largest difference to torch of every output.

    Batch and number of views stay variable.  views: numbers of views at which the fused stage is compared.  Raises
    ExportError, with nothing written, where ONNX Runtime on the CPU differs from torch by more than AGREEMENT;
    MissingDependencyError without the packages of the extra 'export'.
    """
    absent = [name for name in ('onnx', 'onnxruntime', 'onnxscript') if find_spec(name) is None]
    if absent:
        raise MissingDependencyError(f"the export needs {', '.join(absent)}: pip install 'hand_unc_ros[export]'")
    if network.config.landmarks is not None:
        raise ExportError('these weights are projections and a decoder on a landmark network that is not ours to export;'
                          ' export one with a 2D stage of its own')
    folder, network = Path(folder), network.cpu().float().eval()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix='.unchecked-') as unchecked, torch.no_grad():
        paths = [Path(unchecked) / name for name in (VIEWS_FILE, FUSED_FILE)]
        differences: dict[str, float] = {}
        with tqdm(total=4, desc='export', unit='step', leave=False, disable=None) as bar:
            for step in (lambda: write_views(network, paths[0]), lambda: write_fused(network, paths[1]),
                         lambda: check_views(network, paths[0]), lambda: check_fused(network, paths[1], views)):
                differences |= step() or {}
                bar.update()
        wrong = ', '.join(f'{name} by {value:.1e}' for name, value in differences.items() if value > AGREEMENT)
        if wrong:
            raise ExportError(f'ONNX Runtime and torch differ in {wrong} (allowed: {AGREEMENT:g}), so nothing was'
                              ' written; install the versions that requirements/constraints.txt names')
        for path in paths:
            adopt_file(path, folder / path.name)
    return differences


def write_views(network: JumpHand, path: Path) -> None:
    """The per-view stage, for any number of images."""
    images = _images(3, network.config.image_size, torch.Generator().manual_seed(CHECK_SEED))
    axes = {0: torch.export.Dim('images', min=1, max=MAX_BATCH * MAX_VIEWS)}
    _write(PerView(network), {'images': images}, (axes,), view_names(network), path)


def write_fused(network: JumpHand, path: Path) -> None:
    """The fused stage, for any batch and number of views."""
    inputs = fused_inputs(network, batch=2, views=3)
    axes = {0: torch.export.Dim('batch', min=1, max=MAX_BATCH), 1: torch.export.Dim('views', min=1, max=MAX_VIEWS)}
    _write(FusedStage(network), inputs, ((axes,) * len(inputs),), FUSED_OUTPUTS, path)


def check_views(network: JumpHand, path: Path) -> dict[str, float]:
    """Largest difference to torch of every output of the per-view stage, as AGREEMENT counts it."""
    generator = torch.Generator().manual_seed(CHECK_SEED + 1)
    cases = ({'images': _images(count, network.config.image_size, generator)} for count in (1, 4))
    return _differences(path, PerView(network), view_names(network), cases)


def check_fused(network: JumpHand, path: Path, views: Sequence[int]) -> dict[str, float]:
    """The same of the fused stage, for each number of views; where there are three or more one of them is masked."""
    def cases() -> Iterator[dict[str, Tensor]]:
        for count in views:
            inputs = fused_inputs(network, 2, count, CHECK_SEED + count)
            inputs['view_mask'][1, 2:3] = False
            yield inputs

    return _differences(path, FusedStage(network), FUSED_OUTPUTS, cases())


def view_names(network: JumpHand) -> tuple[str, ...]:
    """Names of the per-view stage's outputs; `level_0` and the following are its features, fine to coarse."""
    levels = (f'level_{i}' for i in range(network.config.per_view.level_count))
    return ('mean_cells', 'variance_cells2', 'log_heatmap', 'presence_logit', 'pooled', *levels)


def fused_names(network: JumpHand) -> tuple[str, ...]:
    """Names of the fused stage's inputs: of the features those that the decoder looks at; confidences where the gate
    is of them."""
    levels = (f'level_{i}' for i in range(network.config.levels if network.config.layers else 0))
    outside = ('confidence',) if network.config.gate == 'confidence' else ()
    return ('mean_cells', 'variance_cells2', 'pooled', *levels, 'K', 'camera_from_world', 'view_mask', *outside)


def fused_inputs(network: JumpHand, batch: int, views: int, seed: int = CHECK_SEED) -> dict[str, Tensor]:
    """Plausible inputs by name: 21 points of a hand's size before cameras all around, whose 2D means are half a cell
    off; features of random images."""
    size, generator = network.config.image_size, torch.Generator().manual_seed(seed)
    inputs = {name: part.unflatten(0, (batch, views))
              for name, part in zip(view_names(network), _features(network, batch * views, generator))}
    angles = (torch.arange(views) + 0.4 * torch.rand(batch, views, generator=generator)) * (2 * math.pi / max(views, 3))
    forward = F.normalize(torch.stack([angles.cos(), angles.sin(), 0.4 * (2 * angles).cos()], -1), dim=-1)
    right = F.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0]).expand_as(forward)), dim=-1)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], -2)
    away = torch.tensor([0.0, 0.0, CAMERA_DISTANCE]).expand(batch, views, 3)
    points = 0.03 * torch.randn(batch, 1, JOINT_COUNT, 3, generator=generator) @ rotation.mT + away[:, :, None]
    middle, focal = (size - 1) / 2, 3.5 * size * CAMERA_DISTANCE
    px = points[..., :2] / points[..., 2:] * focal + middle
    inputs['mean_cells'] = pixels_to_cells(px, size) + 0.5 * torch.randn(px.shape, generator=generator)
    inputs['variance_cells2'] = torch.randn(px.shape, generator=generator).exp()
    inputs['K'] = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1]]).expand(batch, views, 3, 3)
    inputs['camera_from_world'] = torch.cat([rotation, away[..., None]], -1)
    inputs['view_mask'] = torch.ones(batch, views, dtype=torch.bool)
    inputs['confidence'] = torch.rand(px.shape[:3], generator=generator)
    return {name: inputs[name].contiguous() for name in fused_names(network)}


def _features(network: JumpHand, count: int, generator: torch.Generator) -> Sequence[Tensor]:
    """The per-view stage of `count` random images; of random features, where that takes these."""
    if network.config.landmarks is None:
        return PerView(network)(_images(count, network.config.image_size, generator))
    stage = network.view.stage(random_maps(count, generator))
    # In place of a heatmap, which nobody reads.
    return (*stage[:2], stage.mean, *stage[3:5], *stage.levels)


def _images(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, 3, size, size) in [0, 1], smooth with some noise."""
    images = F.interpolate(torch.rand(count, 3, 9, 9, generator=generator), (size, size), mode='bilinear')
    return (images + 0.05 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _write(module: PerView | FusedStage, inputs: dict[str, Tensor], axes: tuple, outputs: Sequence[str],
           path: Path) -> None:
    with _quiet():
        program = torch.onnx.export(module.eval(), tuple(inputs.values()), dynamo=True, opset_version=OPSET,
                                    verbose=False, input_names=list(inputs), output_names=list(outputs),
                                    dynamic_shapes=axes)
    program.model.metadata_props.update({'network': 'JumpHand', 'config': json.dumps(module.network.config.to_dict()),
                                         'joints': ','.join(JOINT_NAMES)})
    program.save(path, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on operators that are not used here."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def _differences(path: Path, module: nn.Module, outputs: Sequence[str],
                 cases: Iterable[dict[str, Tensor]]) -> dict[str, float]:
    """Largest difference over all cases between the graph at `path` and the module, by output."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    largest = dict.fromkeys(outputs, 0.0)
    with torch.no_grad():
        for inputs in cases:
            found = session.run(list(outputs), {name: tensor.numpy() for name, tensor in inputs.items()})
            for name, ours, theirs in zip(outputs, module(*inputs.values()), found):
                largest[name] = max(largest[name], _difference(name, ours.numpy(), theirs))
    return largest


def _difference(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return math.inf
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
    return float(difference if name in METRES else difference / max(1.0, np.abs(ours).max()))
