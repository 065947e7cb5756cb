"""The official prediction file of a test split whose truth a server keeps: FreiHAND, HO-3D versions 2 and 3.

Both servers take a zip of pred.json, [joints, vertices] of all images in the order of the dataset, metres in the
camera's frame: FreiHAND's in the public order of joints and optical axes (https://github.com/lmb-freiburg/freihand,
pred.py), HO-3D's in smplx's order and OpenGL axes (https://github.com/shreyashampali/ho3d, pred.py).
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from hand_unc_ros.data.batches import collate, crop_sample
from hand_unc_ros.data.samples import Sample, SampleSource
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.build import files_of
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.benchmark import BATCH, dataset_place, open_source
from hand_unc_ros.files import replace_file
from hand_unc_ros.hand.joints import JOINT_COUNT, from_public
from hand_unc_ros.hand.pinhole_crops import hand_box
from hand_unc_ros.hand.topology import VERTEX_COUNT
from hand_unc_ros.methods import build_predictor, single_view_methods
from hand_unc_ros.methods.predictions import Predictor, PredictorOptions

MANO = 'mano'
# A hand is looked for under the published box turned by these, rad; the turn under which its joints are known best is
# taken, and the crop drawn anew around the joints found, so often.
TURNS = (0.0, np.pi / 2, np.pi, -np.pi / 2)
REDRAWN = 2
# Numbers are written to a micrometre.
DIGITS = 6
FILE_IN_ZIP = 'pred.json'


class Official(NamedTuple):
    """order: of the joints, a key of hand/joints.py.  axes: (3,) signs from the optical frame to that of the file.
    counts: what test sets have so many images."""

    order: str
    axes: tuple[float, float, float]
    counts: Mapping[int, str]


OFFICIAL = {
    'freihand': Official('openpose', (1.0, 1.0, 1.0), {3960: 'FreiHAND'}),
    'ho3d_single': Official('smplx', (1.0, -1.0, -1.0), {11524: 'HO-3D version 2', 20137: 'HO-3D version 3'}),
}


@dataclass(frozen=True)
class Request:
    """The request of `hand-unc evaluate --submission`.

    model: weights; those of the package by default.  data: dataset:root[:test].  output: .zip or .json.
    device, precision, options: as of benchmark.Request.
    """

    model: Path | None
    data: str
    method: str
    output: Path
    device: str = 'auto'
    precision: str = 'auto'
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name, _, rest = self.data.partition(':')
        if name not in OFFICIAL:
            raise ConfigError(f'a submission is for the test set of a dataset with a server, not {self.data!r}; give'
                              f' dataset:root with one of {", ".join(OFFICIAL)}')
        if dataset_place(rest)[1] != 'test':
            raise ConfigError(f'a submission is for the split test, not {self.data!r}; leave the split out')
        if self.method not in single_view_methods():
            raise ConfigError(f'the method {self.method} makes no hand of one view; choose --method'
                              f' {" or ".join(single_view_methods())}')
        if self.output.suffix not in ('.zip', '.json'):
            raise ConfigError(f'a submission is a .zip, as servers take it, or a .json, not {self.output.name!r}; give'
                              ' it one of these endings')
        if not self.output.absolute().parent.is_dir() or self.output.is_dir():
            raise ConfigError(f'{self.output} is no file in a folder that exists; choose another place')


class Hands(NamedTuple):
    """Of N images: joints (N, 21, 3) public order, and vertices (N, 778, 3) of MANO's surface, metres, optical frame of
    the camera; NaN where no hand was found, and no vertices (N, 0, 3) of another surface."""

    joints: np.ndarray
    vertices: np.ndarray


def run(request: Request) -> Hands:
    """Predict the hands of a test set, write them, and print what was written. Raises ConfigError and DatasetError."""
    settings = EstimatorSettings(method=request.method, weights=str(request.model or ''))
    options = PredictorOptions(files_of(settings)['weights'], device=request.device, precision=request.precision)
    predictor = build_predictor(request.method, options)
    source, words = open_source(request.data, request.options)
    official = OFFICIAL[request.data.partition(':')[0]]
    hands = single_view_hands(predictor, source)
    write_submission(request.output, hands, official)
    print(f'{request.output}: {len(hands.joints)} hands of {words}, by {options.weights.name}, {predictor.description};'
          ' images were cropped around the published box first and around the hand found then, without any truth')
    for caution in cautions(hands, official, predictor.surface):
        print(f'ATTENTION: {caution}')
    return hands


def cautions(hands: Hands, official: Official, surface: str) -> list[str]:
    """What a reader of a server's scores has to know of a file, in words. surface: name of the vertices' hand model."""
    found, count = [], len(hands.joints)
    if surface != MANO:
        found.append(f'the network predicts no MANO surface ({surface or "none at all"}): the vertices in the file are'
                     ' zeros, as the format asks for some, and the scores of meshes (mesh error, F-scores) mean'
                     ' nothing; those of joints stand. For both, train a network with network.surface: mano')
    lost = int((~np.isfinite(hands.joints).all((1, 2))).sum())
    if lost:
        found.append(f'in {lost} of {count} images no hand was found; they are written as zeros, and count as errors'
                     ' of the distance of the hand')
    if count not in official.counts:
        sizes = ', '.join(f'{size} ({name})' for size, name in official.counts.items())
        found.append(f'the file has {count} images, test sets have {sizes}: a server refuses it; complete your copy')
    return found


def single_view_hands(predictor: Predictor, source: SampleSource) -> Hands:
    """The hands in the first view of every sample, by a method that one view is enough for; the samples' own joints have
    no part in it, but the boxes of their views have."""
    parts = []
    for start in tqdm(range(0, len(source), BATCH), desc='images', leave=False, disable=None):
        blind = [_blind(source[index]) for index in range(start, min(start + BATCH, len(source)))]
        boxes = [[sample.views[0].box_px + (0.0, 0.0, 0.0, turn) for turn in TURNS] for sample in blind]
        hands, sigma = _look(predictor, blind, boxes)
        hands = _better(_look(predictor, blind, [[own[turn]] for own, turn in zip(boxes, sigma.argmin(1))])[0], hands)
        for _ in range(REDRAWN):
            around = [[hand_box(joints, sample.views[0].camera, rule=predictor.crop_box)]
                      for joints, sample in zip(hands.joints, blind)]
            hands = _better(_look(predictor, blind, around)[0], hands)
        parts.append(hands)
    return Hands(*(np.concatenate(values) for values in zip(*parts)))


def write_submission(path: Path, hands: Hands, official: Official) -> None:
    """Write hands as [joints, vertices] in an official order and frame, zeros for what there is not. Raises ConfigError
    where the file cannot be written."""
    axes, vertices = np.array(official.axes), hands.vertices
    if not vertices.shape[1]:
        vertices = np.broadcast_to(np.float32(0), (len(vertices), VERTEX_COUNT, 3))
    with replace_file(path, ConfigError) as file, _inside(file, path.suffix == '.zip') as content:
        content.write(b'[')
        _write_list(content, from_public(hands.joints, official.order), axes)
        content.write(b',')
        _write_list(content, vertices, axes)
        content.write(b']\n')


@contextlib.contextmanager
def _inside(file: BinaryIO, zipped: bool) -> Iterator[BinaryIO]:
    """The file itself, or pred.json within the zip that it is."""
    if not zipped:
        yield file
        return
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive, \
            archive.open(FILE_IN_ZIP, 'w', force_zip64=True) as content:
        yield content


def _write_list(content: BinaryIO, points: np.ndarray, axes: np.ndarray) -> None:
    """points: (N, M, 3), one image after the other, so that no text of all is held."""
    content.write(b'[')
    for number, own in enumerate(points):
        # Added, a zero loses the sign that the axes give it.
        rows = np.round(np.nan_to_num(own.astype(np.float64)) * axes, DIGITS) + 0.0
        content.write((',' if number else '').encode() + json.dumps(rows.tolist(), separators=(',', ':')).encode())
    content.write(b']')


def _blind(sample: Sample) -> Sample:
    """The first view of a sample, read, in its camera's frame, without what is known of the hand but the view's box."""
    view = sample.views[0]
    if view.box_px is None:
        raise ConfigError(f'{sample.name}: nothing but its joints says where the hand is; this dataset has no test set'
                          ' without truth')
    camera = replace(view.camera, world_from_camera=np.eye(4))
    unknown = np.full((JOINT_COUNT, 2), np.nan)
    view = replace(view, camera=camera, image=view.read(), joints_px=unknown, visible=np.zeros(JOINT_COUNT, bool))
    return Sample(sample.name, (view,), np.full((JOINT_COUNT, 3), np.nan), side=sample.side)


def _look(predictor: Predictor, samples: Sequence[Sample],
          boxes: Sequence[Sequence[np.ndarray]]) -> tuple[Hands, np.ndarray]:
    """The hands that a predictor finds in blind samples under boxes (4,) of each, and the mean standard deviation of
    the joints under each box (N, B) in pixels of its crop, infinite where the method cannot tell."""
    looks = [replace(sample, views=tuple(replace(sample.views[0], box_px=box) for box in own))
             for sample, own in zip(samples, boxes)]
    found = predictor.predict(collate([crop_sample(look, predictor.image_size) for look in looks]))
    # Left hands are read in the mirror.
    flip = np.array([[[-1, 1, 1] if sample.side == 'left' else [1, 1, 1]] for sample in samples], np.float32)
    joints, vertices = (part.float().cpu().numpy() * flip for part in (found.joints, found.vertices))
    sigma = found.sigma_px.float().mean(-1).cpu().numpy()
    return Hands(joints, vertices if predictor.surface == MANO else vertices[:, :0]), np.nan_to_num(sigma, nan=np.inf)


def _better(hands: Hands, before: Hands) -> Hands:
    """Those that were found, in place of those before."""
    found = np.isfinite(hands.joints).all((1, 2))[:, None, None]
    return Hands(*(np.where(found, *both) for both in zip(hands, before)))
