"""`hand-unc evaluate`: a method on a set or dataset, with fewer and more of its views, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hand_unc_ros.data.batches import NO_AUGMENTATION, collate, crop_sample
from hand_unc_ros.data.coverage import Coverage
from hand_unc_ros.data.datasets import DATASETS, open_dataset
from hand_unc_ros.data.samples import Sample, SampleSource
from hand_unc_ros.data.shards import open_shards
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.build import covariance_map_of, files_of
from hand_unc_ros.estimation.covariance_map import FLOOR, CovarianceMap
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation import metrics, uncertainty
from hand_unc_ros.files import write_file
from hand_unc_ros.hand.joints import FINGERTIPS, JOINT_COUNT
from hand_unc_ros.hand.pinhole_crops import hand_box
from hand_unc_ros.methods import DEFAULT, build_predictor, fewest_views
from hand_unc_ros.methods.predictions import Predictor, PredictorOptions
from hand_unc_ros.networks.placement import choose_device, choose_precision

BATCH = 8
HARD_SHARE = 0.1
# Keys of a row in the order of the table, and its headings.
COLUMNS = {
    'views': 'views', 'mpjpe_mm': 'MPJPE', 'pa_mpjpe_mm': 'PA-J', 'rr_mpjpe_mm': 'RR-J', 'st_mpjpe_mm': 'ST-J',
    'fingertips_mm': 'tips', 'coarse_mpjpe_mm': 'coarse', 'hard_mpjpe_mm': 'hard', 'auc_j': 'AUC-J',
    'mpvpe_mm': 'MPVPE', 'pa_mpvpe_mm': 'PA-V', 'auc_v': 'AUC-V', 'f5': 'F@5', 'f15': 'F@15', 'error_px': '2D px',
    'pearson': 'Pearson', 'gate_entropy': 'entropy', 'ln_views': 'ln V', 'ausc': 'AUSC', 'ause': 'AUSE',
    'pearson_3d': 'ρ 3D', 'nees_per_dof': 'NEES', 'coverage95': 'cov 95', 'energy_score_mm': 'energy',
    'samples': 'samples'}


class Results(NamedTuple):
    """Predictions for N samples and the truth, NumPy, metres and crop pixels.

    joints, coarse, target: (N, 21, 3).  vertices, surface: (N, M, 3).  gate: (N, V, 21).  sigma_px, error_px:
    (N, V, 21), NaN where a joint is not annotated or lies outside of its crop.  delivered: (N,) views that show the
    hand.  covariance: (N, 63, 63) of joints, before a map is applied.
    """

    joints: np.ndarray
    coarse: np.ndarray
    target: np.ndarray
    vertices: np.ndarray
    surface: np.ndarray
    gate: np.ndarray
    sigma_px: np.ndarray
    error_px: np.ndarray
    delivered: np.ndarray
    covariance: np.ndarray


def open_source(data: str, options: Mapping[str, Any] | None = None) -> tuple[SampleSource, str]:
    """The samples that `data` names, a folder of `hand-unc synth` or dataset:root[:split], and what they are in words.
    options: of the dataset's reader. Raises ConfigError and DatasetError."""
    options = dict(options or {})
    name, colon, rest = data.partition(':')
    if colon and name in DATASETS:
        root, split = dataset_place(rest)
        chosen = ''.join(f', {option} {value}' for option, value in options.items())
        return open_dataset(name, root, split, **options), f'{name}, split {split}{chosen}'
    if colon and not Path(data).exists():
        raise ConfigError(f"no dataset is called {name!r}; give a folder made by `hand-unc synth`, or "
                          f"dataset:root[:split] with one of {', '.join(DATASETS)}")
    if options:
        raise ConfigError(f'{data} is a folder of `hand-unc synth`; options are for the readers of public datasets')
    source = open_shards(Path(data))
    return source, source.description


def dataset_place(rest: str) -> tuple[str, str]:
    """Root and split of root[:split], behind the name of a dataset; the split test by default."""
    root, _, split = rest.partition(':')
    return root, split or 'test'


def evaluate(
    predictor: Predictor, source: SampleSource, counts: Sequence[int], *, reference: Predictor | None = None,
    covariance_map: CovarianceMap | None = None, auc_range: metrics.AucRange = metrics.POEM_AUC, least: int = 2,
) -> list[dict[str, Any]]:
    """A row of numbers for each number of views: the first ones of every sample, in the order of the set.

    reference: whose 2D error decides which tenth of the samples is hard; the predictor's own by default.
    covariance_map: the map that is applied to its covariance.
    In place of more views than any sample has, as many are taken as there are; `views` of the row says how many.
    A sample with fewer cameras is left out and counted, as is one of which fewer than `least` of these views, which the
    method needs, delivered an image with the hand. Raises ConfigError when nothing is left for one of the
    numbers, before anything is run.
    """
    if min(counts) < least:
        raise ConfigError(f'{min(counts)} view was asked for; depth is observable from {least} on by this method')
    coverage, shows = Coverage(), []
    for index in tqdm(range(len(source)), desc='samples', leave=False, disable=None):
        sample = source[index]
        coverage.add(sample)
        shows.append(_shows_hand(sample))
    most = max(map(len, shows), default=0)
    counts = list(dict.fromkeys(min(count, most) for count in counts))
    chosen = {count: [index for index, views in enumerate(shows) if len(views) >= count] for count in counts}
    usable = {count: [index for index in chosen[count] if sum(shows[index][:count]) >= least] for count in counts}
    for count in counts:
        if not usable[count]:
            raise ConfigError(f'no sample has {count} views of which {least} deliver an image of the hand; '
                              f'there are at most {most} cameras')
    rows = []
    for count in counts:
        results = predict(predictor, source, usable[count], count)
        hardest = results if reference is None else predict(reference, source, usable[count], count)
        rows.append({'views': count, **scores(results, hardest, auc_range),
                     **covariance_scores(results, covariance_map), 'samples': len(usable[count]),
                     'fewer_cameras': len(source) - len(chosen[count]),
                     'not_observable': len(chosen[count]) - len(usable[count]),
                     'joints_outside_image': coverage.outside, 'cameras_without_annotation': coverage.left_out})
    return rows


def predict(predictor: Predictor, source: SampleSource, indices: Sequence[int], count: int) -> Results:
    """Run a method on the first `count` views of the samples with these indices, crops around the true hand."""
    parts: list[Results] = []
    for batch in tqdm(_batches(predictor, source, indices, count), desc=f'{count} views', leave=False,
                      disable=None, total=-(-len(indices) // BATCH)):
        found = predictor.predict(batch)
        batch = {name: value.to(found.joints.device) for name, value in batch.items()}
        error = (found.mean_px - batch['joints_px']).norm(dim=-1)
        hidden = ~batch['joint_mask']
        # Samples may have no surface, or that of another hand model than the network's.
        surface = batch['vertices']
        if surface.shape != found.vertices.shape:
            surface = torch.full_like(found.vertices, torch.nan)
        parts.append(Results(*(value.float().cpu().numpy() for value in (
            found.joints, found.coarse, batch['joints'], found.vertices, surface, found.gate,
            found.sigma_px.masked_fill(hidden, torch.nan), error.masked_fill(hidden, torch.nan),
            batch['view_mask'].sum(1))), found.covariance))
    return Results(*(np.concatenate(values) for values in zip(*parts)))


def scores(results: Results, reference: Results, auc_range: metrics.AucRange) -> dict[str, Any]:
    """The numbers of a row, mm where the key says so; view_error_px is a list."""
    joints = metrics.score_points(results.joints, results.target, 'none', auc_range)
    vertices = metrics.score_points(results.vertices, results.surface, 'none', auc_range)
    errors = metrics.point_errors(results.joints, results.target)
    found = errors[np.isfinite(errors)]
    hard = metrics.hard_subset(_mean_over(reference.error_px), HARD_SHARE)
    known = np.isfinite(results.surface).all((1, 2))
    first, second = (metrics.finite_mean(metrics.f_scores(results.vertices[known], results.surface[known], threshold))
                     for threshold in metrics.F_SCORE_THRESHOLDS)
    return {
        'mpjpe_mm': joints.mean_mm, 'median_mm': 1e3 * float(np.median(found)) if len(found) else np.nan,
        'pa_mpjpe_mm': metrics.score_points(results.joints, results.target, 'procrustes').mean_mm,
        'rr_mpjpe_mm': metrics.score_points(results.joints, results.target, 'root').mean_mm,
        'st_mpjpe_mm': metrics.score_points(results.joints, results.target, 'scale_translation').mean_mm,
        'fingertips_mm': 1e3 * metrics.mean_error(errors[:, list(FINGERTIPS)]),
        'coarse_mpjpe_mm': metrics.score_points(results.coarse, results.target).mean_mm,
        'hard_mpjpe_mm': 1e3 * metrics.mean_error(errors[hard]), 'auc_j': joints.auc,
        'mpvpe_mm': vertices.mean_mm,
        'pa_mpvpe_mm': metrics.score_points(results.vertices, results.surface, 'procrustes').mean_mm,
        'auc_v': vertices.auc, 'f5': first, 'f15': second,
        'error_px': metrics.finite_mean(results.error_px),
        'view_error_px': _mean_over(results.error_px.swapaxes(0, 1)).tolist(),
        'pearson': metrics.pearson(results.sigma_px, results.error_px),
        'gate_entropy': metrics.finite_mean(metrics.view_weight_entropy(results.gate)),
        'ln_views': float(np.log(results.delivered).mean()),
        'missing_points': joints.missing_points}


def errors_of(predictor: Predictor, source: SampleSource, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors (N, 21, 3) metres, covariances (N, 63, 63) before a map, and how many views gave each joint (N, 21), of
    the samples of which at least two of the first `count` views deliver the hand."""
    usable = [index for index in range(len(source)) if sum(_shows_hand(source[index])[:count]) >= 2]
    if not usable:
        size = 3 * JOINT_COUNT
        return np.zeros((0, JOINT_COUNT, 3)), np.zeros((0, size, size)), np.zeros((0, JOINT_COUNT))
    results = predict(predictor, source, usable, count)
    return results.joints.astype(np.float64) - results.target, results.covariance, _views(results)


def covariance_scores(results: Results, covariance_map: CovarianceMap | None) -> dict[str, Any]:
    """The numbers of `uncertainty.summary`, with the map applied and the floor added as in the live estimator."""
    covariance = results.covariance
    if covariance_map is not None:
        covariance = np.stack([covariance_map.apply(one, many) for one, many in zip(covariance, _views(results))])
    covariance = covariance + FLOOR ** 2 * np.eye(covariance.shape[-1])
    summary = uncertainty.summary(results.joints.astype(np.float64) - results.target, covariance)
    return summary | {'coverage95': summary['coverage']['95']}


def protocol(predictor: Predictor, data: str, auc_range: metrics.AucRange, reference: str, precision: str,
             covariance: str) -> str:
    """How the numbers are to be read, in words. reference: whose 2D error decides which samples are hard.
    covariance: its origin."""
    return (
        f'{data}; the first N views of each sample, crops of {predictor.image_size} px around the true hand; '
        f'{predictor.description}, {precision}; '
        'mm without alignment, except PA: Procrustes with scale (FreiHAND), RR: wrists moved together, ST: scale and '
        f'translation (HO3D); means over points of the means over samples; AUC {auc_range}; F-scores of vertices at 5 '
        f'and 15 mm, without alignment; coarse: triangulated joints; hard: the {HARD_SHARE:.0%} with the largest 2D '
        f'error of {reference}; 2D in pixels of the crop; Pearson of σ and 2D error over all joints and views; entropy '
        f'of the gates in nats, at most ln V of the views that show the hand; covariance: {covariance}; AUSC and AUSE '
        'in mm·%, joints of all samples pooled and sorted by the trace of their covariance, 2 to 100 % in steps of 2, '
        'Simpson; ρ 3D: Pearson of that trace and the 3D error; NEES per degree of freedom of single joints; energy '
        'score in mm')


@dataclass(frozen=True)
class Request:
    """The request of `hand-unc evaluate --data`.

    model: weights; those of the package by default.  views: numbers of views.  reference: the weights whose 2D error
    decides which samples are hard; the model's by default.  gate, triangulation: in place of the model's own.
    covariance_head, covariance_map: as in EstimatorSettings.  auc_mm: range of the AUC.  options: of the dataset's
    reader.  output: JSON file to write.
    """

    model: Path | None
    data: str
    views: Sequence[int]
    method: str = DEFAULT
    gate: str = ''
    triangulation: str = ''
    reference: Path | None = None
    covariance_head: str = ''
    covariance_map: str = ''
    auc_mm: float = 20.0
    device: str = 'auto'
    precision: str = 'auto'
    options: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None

    def __post_init__(self) -> None:
        if self.auc_mm <= 0:
            raise ConfigError(f'the AUC needs a range above 0 mm, not {self.auc_mm:g}')
        if self.output is not None and not Path(self.output).absolute().parent.is_dir():
            raise ConfigError(f'there is no folder {Path(self.output).parent} to write {Path(self.output).name} into; '
                              'make it first')


def run(request: Request) -> list[dict]:
    """Evaluate stored weights and print the table; `output` gets the rows as JSON."""
    settings = EstimatorSettings(method=request.method, weights=str(request.model or ''),
                                 covariance_head=request.covariance_head, covariance_map=request.covariance_map)
    files = files_of(settings)
    model = files['weights']
    least = fewest_views(request.method)
    # A method for one view may have a head that judges several: samples are predicted without, unless one was named.
    head = files.get('covariance_head') if least > 1 or request.covariance_head else None
    options = PredictorOptions(model, head, request.gate, request.triangulation, request.device, request.precision)
    predictor = build_predictor(request.method, options)
    covariance_map = covariance_map_of(settings)
    source, words = open_source(request.data, request.options)
    auc_range = metrics.AucRange(request.auc_mm / 1e3, metrics.POEM_AUC.steps)
    used = str(choose_precision(request.precision, choose_device(request.device))).removeprefix('torch.')
    reference = None
    if request.reference is not None:
        reference = build_predictor(request.method, PredictorOptions(Path(request.reference), device=request.device,
                                                                     precision=request.precision))
    rows = evaluate(predictor, source, request.views, reference=reference, covariance_map=covariance_map,
                    auc_range=auc_range, least=least)
    origin = ('propagated from the variances of the views' if head is None else f'head {head.name}') + (
        ', no map' if covariance_map is None else f', {covariance_map.kind} map')
    about = protocol(predictor, words, auc_range, Path(request.reference or model).name, used, origin)
    rows = [row | {'model': model.name, 'protocol': about} for row in rows]
    print(table(rows))
    more = [count for count in request.views if count not in {row['views'] for row in rows}]
    if more:
        print(f'{", ".join(map(str, more))} views: no sample has as many; taken are the '
              f'{max(row["views"] for row in rows)} that there are')
    for row in rows:
        if row['fewer_cameras'] or row['not_observable'] or row['missing_points']:
            print(f"{row['views']} views: left out are {row['fewer_cameras']} samples with fewer cameras, "
                  f"{row['not_observable']} with too few images of the hand, and {row['missing_points']} joints "
                  'that were not placed')
    if rows[0]['joints_outside_image'] or rows[0]['cameras_without_annotation']:
        print(f"of all views, {rows[0]['joints_outside_image']} joints outside of the image are not counted in 2D, and "
              f"{rows[0]['cameras_without_annotation']} cameras without an annotation are left out")
    print(about)
    if request.output is not None:
        write_file(Path(request.output), json.dumps(_without_nan(rows), indent=2) + '\n')
    return rows


def table(rows: Sequence[dict]) -> str:
    """The rows as aligned text, one line each."""
    lines = [list(COLUMNS.values())]
    for row in rows:
        lines.append([_number(name, row[name]) for name in COLUMNS])
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def _views(results: Results) -> np.ndarray:
    """(N, 21), how many views gave each joint."""
    return np.repeat(results.delivered.astype(int)[:, None], JOINT_COUNT, axis=1)


def _number(name: str, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f'{value:.2f}' if name.endswith(('_mm', '_px')) else f'{value:.3f}'


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: unknown numbers are null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _shows_hand(sample: Sample) -> list[bool]:
    """Of each view, whether it delivered an image that a crop can be cut from (as crop_sample decides it)."""
    return [view.image is not None and bool(np.isfinite(hand_box(sample.joints, view.camera)).all())
            for view in sample.views]


def _batches(predictor: Predictor, source: SampleSource, indices: Sequence[int],
             count: int) -> Iterator[dict[str, Tensor]]:
    for start in range(0, len(indices), BATCH):
        part = indices[start:start + BATCH]
        yield collate([crop_sample(source[index], predictor.image_size, NO_AUGMENTATION, views=range(count),
                                   rule=predictor.crop_box) for index in part], part)


def _mean_over(errors: np.ndarray) -> np.ndarray:
    """Mean (N,) of each item of (N, …), NaN where it has no finite entry."""
    return np.array([metrics.finite_mean(item) for item in errors])
