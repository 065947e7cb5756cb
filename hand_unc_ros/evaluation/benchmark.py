"""`hand-unc evaluate`: a JumpHand on a set or dataset, with fewer and more of its views, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hand_unc_ros.data.batches import NO_AUGMENTATION, collate, crop_sample, hand_box
from hand_unc_ros.data.datasets import DATASETS, open_dataset
from hand_unc_ros.data.samples import Sample, SampleSource
from hand_unc_ros.data.shards import open_shards
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.covariance_map import FLOOR, CovarianceMap
from hand_unc_ros.estimation.estimator import EstimatorSettings, calibration_of, files_of
from hand_unc_ros.estimation.network_front_end import choose_device, choose_precision
from hand_unc_ros.estimation.types import block_diagonal
from hand_unc_ros.evaluation import metrics, uncertainty
from hand_unc_ros.files import write_file
from hand_unc_ros.hand.joints import FINGERTIPS, JOINT_COUNT
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, cells_to_pixels
from hand_unc_ros.networks.joint_covariance import JointCovariance, load_joint_covariance, propagated_covariance
from hand_unc_ros.networks.jump_hand import JumpHand, JumpHandOutput, load_jump_hand

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


class Answers(NamedTuple):
    """What a network said of N samples, NumPy, metres and crop pixels.

    joints, coarse, target: (N, 21, 3).  vertices, surface: (N, 778, 3).  gate: (N, V, 21).  sigma_px, error_px:
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
        root, _, split = rest.partition(':')
        split = split or 'test'
        said = ''.join(f', {option} {value}' for option, value in options.items())
        return open_dataset(name, root, split, **options), f'{name}, split {split}{said}'
    if colon and not Path(data).exists():
        raise ConfigError(f"no dataset is called {name!r}; give a folder made by `hand-unc synth`, or "
                          f"dataset:root[:split] with one of {', '.join(DATASETS)}")
    if options:
        raise ConfigError(f'{data} is a folder of `hand-unc synth`; options are for the readers of public datasets')
    source = open_shards(Path(data))
    return source, source.description


def evaluate(
    network: JumpHand, source: SampleSource, counts: Sequence[int], *, reference: JumpHand | None = None,
    head: JointCovariance | None = None, calibration: CovarianceMap | None = None,
    auc_range: metrics.AucRange = metrics.POEM_AUC, device: str = 'auto', precision: str = 'auto',
) -> list[dict[str, Any]]:
    """A row of numbers for each number of views: the first ones of every sample, in the order of the set.

    reference: the network whose 2D error decides which tenth of the samples is hard; the network itself by default.
    head: makes the covariance of the joints; without one it is that of the triangulated joints, propagated from the
    views.  calibration: a map that is applied to it.
    A sample with fewer cameras is left out and counted, as is one of which fewer than two of these views delivered an
    image with the hand. Raises ConfigError when nothing is left for one of the numbers, before anything is run.
    """
    if min(counts) < 2:
        raise ConfigError(f'{min(counts)} view was asked for; depth is observable from 2 on')
    shows = [_shows_hand(source[index]) for index in tqdm(range(len(source)), desc='samples', leave=False)]
    chosen = {count: [index for index, views in enumerate(shows) if len(views) >= count] for count in counts}
    usable = {count: [index for index in chosen[count] if sum(shows[index][:count]) >= 2] for count in counts}
    for count in counts:
        if not usable[count]:
            raise ConfigError(f'no sample has {count} views of which two deliver an image of the hand; '
                              f'there are at most {max(map(len, shows), default=0)} cameras')
    rows = []
    for count in counts:
        answers = look(network, source, usable[count], count, device, precision, head)
        hardest = answers if reference is None else look(reference, source, usable[count], count, device, precision)
        rows.append({'views': count, **scores(answers, hardest, auc_range),
                     **covariance_scores(answers, calibration), 'samples': len(usable[count]),
                     'fewer_cameras': len(source) - len(chosen[count]),
                     'not_observable': len(chosen[count]) - len(usable[count])})
    return rows


def look(network: JumpHand, source: SampleSource, indices: Sequence[int], count: int, device: str = 'auto',
         precision: str = 'auto', head: JointCovariance | None = None) -> Answers:
    """Run a network on the first `count` views of the samples with these indices, crops around the true hand."""
    place = choose_device(device)
    dtype = choose_precision(precision, place)
    network = network.to(place).eval()
    parts: list[Answers] = []
    for batch in tqdm(_batches(network, source, indices, count), desc=f'{count} views', leave=False,
                      total=-(-len(indices) // BATCH)):
        batch = {name: value.to(place) for name, value in batch.items()}
        images = batch['images'].permute(0, 1, 4, 2, 3).float() / 255
        with torch.inference_mode(), torch.autocast(place.type, dtype=dtype, enabled=dtype != torch.float32):
            seen = network.see(images)
            # What an outside detector would give, for the gate that asks for it: here the peak of the heatmap.
            peak = seen.log_heatmap.flatten(3).amax(-1)
            out = network.join(seen, batch['K'], batch['camera_from_world'], batch['view_mask'], confidence=peak)
        pixels = network.config.view.image_size / HEATMAP_SIZE
        error = (cells_to_pixels(out.mean, network.config.view.image_size) - batch['joints_px']).norm(dim=-1)
        hidden = ~batch['joint_mask']
        coarse = torch.where(out.coarse_valid[..., None], out.coarse, torch.nan)
        # A batch's origin is the true hand: what the network gives where it knows nothing must not count.
        placed = out.coarse_valid.any(1)[:, None, None]
        joints = coarse if network.decoder is None else out.joints[-1].where(placed, torch.nan)
        propagated = propagated_covariance(network, out, coarse, batch['K'], batch['camera_from_world'],
                                           batch['view_mask']).double().cpu()
        parts.append(Answers(*(value.float().cpu().numpy() for value in (
            joints, coarse, batch['joints'], out.vertices[-1].where(placed, torch.nan), batch['vertices'], out.gate,
            (out.variance.mean(-1).sqrt() * pixels).masked_fill(hidden, torch.nan),
            error.masked_fill(hidden, torch.nan), batch['view_mask'].sum(1))), _covariance(head, out, propagated)))
    return Answers(*(np.concatenate(values) for values in zip(*parts)))


def scores(answers: Answers, reference: Answers, auc_range: metrics.AucRange) -> dict[str, Any]:
    """The numbers of a row, mm where the key says so; view_error_px is a list."""
    joints = metrics.score_points(answers.joints, answers.target, 'none', auc_range)
    vertices = metrics.score_points(answers.vertices, answers.surface, 'none', auc_range)
    errors = metrics.point_errors(answers.joints, answers.target)
    found = errors[np.isfinite(errors)]
    hard = metrics.hard_subset(_mean_over(reference.error_px), HARD_SHARE)
    known = np.isfinite(answers.surface).all((1, 2))
    first, second = (metrics.finite_mean(metrics.f_scores(answers.vertices[known], answers.surface[known], threshold))
                     for threshold in metrics.F_SCORE_THRESHOLDS)
    return {
        'mpjpe_mm': joints.mean_mm, 'median_mm': 1e3 * float(np.median(found)) if len(found) else np.nan,
        'pa_mpjpe_mm': metrics.score_points(answers.joints, answers.target, 'procrustes').mean_mm,
        'rr_mpjpe_mm': metrics.score_points(answers.joints, answers.target, 'root').mean_mm,
        'st_mpjpe_mm': metrics.score_points(answers.joints, answers.target, 'scale_translation').mean_mm,
        'fingertips_mm': 1e3 * metrics.mean_error(errors[:, list(FINGERTIPS)]),
        'coarse_mpjpe_mm': metrics.score_points(answers.coarse, answers.target).mean_mm,
        'hard_mpjpe_mm': 1e3 * metrics.mean_error(errors[hard]), 'auc_j': joints.auc,
        'mpvpe_mm': vertices.mean_mm,
        'pa_mpvpe_mm': metrics.score_points(answers.vertices, answers.surface, 'procrustes').mean_mm,
        'auc_v': vertices.auc, 'f5': first, 'f15': second,
        'error_px': metrics.finite_mean(answers.error_px),
        'view_error_px': _mean_over(answers.error_px.swapaxes(0, 1)).tolist(),
        'pearson': metrics.pearson(answers.sigma_px, answers.error_px),
        'gate_entropy': metrics.finite_mean(metrics.view_weight_entropy(answers.gate)),
        'ln_views': float(np.log(answers.delivered).mean()),
        'missing_points': joints.missing_points}


def errors_of(network: JumpHand, head: JointCovariance | None, source: SampleSource,
              count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors (N, 21, 3) metres, covariances (N, 63, 63) before a map, and how many views gave each joint (N, 21), of
    the samples of which at least two of the first `count` views deliver the hand."""
    usable = [index for index in range(len(source)) if sum(_shows_hand(source[index])[:count]) >= 2]
    if not usable:
        size = 3 * JOINT_COUNT
        return np.zeros((0, JOINT_COUNT, 3)), np.zeros((0, size, size)), np.zeros((0, JOINT_COUNT))
    answers = look(network, source, usable, count, head=head)
    errors = answers.joints.astype(np.float64) - answers.target
    return errors, answers.covariance, _views(answers)


def covariance_scores(answers: Answers, calibration: CovarianceMap | None) -> dict[str, Any]:
    """What `uncertainty.summary` says of the covariance, with the map applied and the floor added as in the live
    estimator."""
    covariance = answers.covariance
    if calibration is not None:
        covariance = np.stack([calibration.apply(one, many) for one, many in zip(covariance, _views(answers))])
    covariance = covariance + FLOOR ** 2 * np.eye(covariance.shape[-1])
    said = uncertainty.summary(answers.joints.astype(np.float64) - answers.target, covariance)
    return said | {'coverage95': said['coverage']['95']}


def protocol(network: JumpHand, data: str, auc_range: metrics.AucRange, reference: str, precision: str,
             covariance: str) -> str:
    """How the numbers are to be read, in words. reference: whose 2D error says what is hard.  covariance: its
    origin."""
    config = network.config
    return (
        f'{data}; the first N views of each sample, crops of {config.view.image_size} px around the true hand; '
        f'gate {config.gate}, triangulation {config.triangulation}, {config.layers} decoder layers, {precision}; '
        'mm without alignment, except PA: Procrustes with scale (FreiHAND), RR: wrists moved together, ST: scale and '
        f'translation (HO3D); means over points of the means over samples; AUC {auc_range}; F-scores of vertices at 5 '
        f'and 15 mm, without alignment; coarse: triangulated joints; hard: the {HARD_SHARE:.0%} with the largest 2D '
        f'error of {reference}; 2D in pixels of the crop; Pearson of σ and 2D error over all joints and views; entropy '
        f'of the gates in nats, at most ln V of the views that show the hand; covariance: {covariance}; AUSC and AUSE '
        'in mm·%, joints of all samples pooled and sorted by the trace of their covariance, 2 to 100 % in steps of 2, '
        'Simpson; ρ 3D: Pearson of that trace and the 3D error; NEES per degree of freedom of single joints; energy '
        'score in mm')


def run(model: Path, data: str, views: Sequence[int], *, gate: str = '', triangulation: str = '',
        reference: Path | None = None, covariance_head: str = '', calibration: str = '', auc_mm: float = 20.0,
        device: str = 'auto', precision: str = 'auto', options: Mapping[str, Any] | None = None,
        output: Path | None = None) -> list[dict]:
    """Evaluate a stored network and print the table; `output` gets the rows as JSON. covariance_head, calibration: as
    in EstimatorSettings."""
    if auc_mm <= 0:
        raise ConfigError(f'the AUC needs a range above 0 mm, not {auc_mm:g}')
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise ConfigError(f'there is no folder {Path(output).parent} to write {Path(output).name} into; make it first')
    network = load_jump_hand(model)
    choices = {name: value for name, value in (('gate', gate), ('triangulation', triangulation)) if value}
    network.with_choices(**choices)
    settings = EstimatorSettings(weights=str(model), covariance_head=covariance_head, calibration=calibration)
    head_path, covariance_map = files_of(settings).get('covariance_head'), calibration_of(settings)
    head = None if head_path is None else load_joint_covariance(head_path, model).double()
    source, words = open_source(data, options)
    auc_range = metrics.AucRange(auc_mm / 1e3, metrics.POEM_AUC.steps)
    used = str(choose_precision(precision, choose_device(device))).removeprefix('torch.')
    rows = evaluate(network, source, views, reference=load_jump_hand(reference) if reference else None, head=head,
                    calibration=covariance_map, auc_range=auc_range, device=device, precision=precision)
    origin = ('propagated from the variances of the views' if head_path is None else f'head {head_path.name}') + (
        ', no map' if covariance_map is None else f', {covariance_map.kind} map')
    about = protocol(network, words, auc_range, Path(reference or model).name, used, origin)
    rows = [row | {'model': Path(model).name, 'protocol': about} for row in rows]
    print(table(rows))
    for row in rows:
        if row['fewer_cameras'] or row['not_observable'] or row['missing_points']:
            print(f"{row['views']} views: left out are {row['fewer_cameras']} samples with fewer cameras, "
                  f"{row['not_observable']} with fewer than two images of the hand, and {row['missing_points']} joints "
                  'that were not placed')
    print(about)
    if output is not None:
        write_file(output, json.dumps(_without_nan(rows), indent=2) + '\n')
    return rows


def table(rows: Sequence[dict]) -> str:
    """The rows as aligned text, one line each."""
    lines = [list(COLUMNS.values())]
    for row in rows:
        lines.append([_number(name, row[name]) for name in COLUMNS])
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines)


def _covariance(head: JointCovariance | None, out: JumpHandOutput, propagated: Tensor) -> np.ndarray:
    """(B, 63, 63), NaN where a joint was not triangulated."""
    blocks = propagated.numpy()
    if head is None:
        return np.stack([block_diagonal(one) for one in blocks])
    with torch.inference_mode():
        covariance = head(out.features.double().cpu(), propagated, out.joints[-1].double().cpu()).numpy().copy()
    lost = np.repeat(~np.isfinite(blocks).all((2, 3)), 3, axis=1)
    covariance[lost] = np.nan
    covariance.swapaxes(1, 2)[lost] = np.nan
    return covariance


def _views(answers: Answers) -> np.ndarray:
    """(N, 21), how many views gave each joint."""
    return np.repeat(answers.delivered.astype(int)[:, None], JOINT_COUNT, axis=1)


def _number(name: str, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f'{value:.2f}' if name.endswith(('_mm', '_px')) else f'{value:.3f}'


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: what cannot be said is null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _shows_hand(sample: Sample) -> list[bool]:
    """Of each view, whether it delivered an image that a crop can be cut from (as crop_sample decides it)."""
    return [view.image is not None and bool(np.isfinite(hand_box(sample.joints, view.camera)).all())
            for view in sample.views]


def _batches(
    network: JumpHand, source: SampleSource, indices: Sequence[int], count: int,
) -> Iterator[dict[str, Tensor]]:
    size = network.config.view.image_size
    for start in range(0, len(indices), BATCH):
        part = indices[start:start + BATCH]
        yield collate([crop_sample(source[index], size, NO_AUGMENTATION, views=range(count)) for index in part], part)


def _mean_over(errors: np.ndarray) -> np.ndarray:
    """Mean (N,) of each item of (N, …), NaN where it has no finite entry."""
    return np.array([metrics.finite_mean(item) for item in errors])
