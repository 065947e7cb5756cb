"""What competes with the estimator in use: the same with an error head and a covariance map of the rig.

A network that is trained on the rig's recordings is made in trained.py.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2
from tqdm import tqdm

from hand_unc_ros.adaptation.plan import Part, content_hash, estimator_content, rig_content
from hand_unc_ros.adaptation.refit import refit_errors
from hand_unc_ros.bounded import MalformedError, parse_json, read_npz, read_text
from hand_unc_ros.data.feature_shards import DESCRIPTION
from hand_unc_ros.errors import DatasetError, RecordingError
from hand_unc_ros.estimation.build import covariance_map_of, files_of
from hand_unc_ros.estimation.covariance_map import PROBABILITY, CovarianceMap
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.recordings.calibrate import FEWEST_ERRORS, errors_by_views, fit_by_views
from hand_unc_ros.evaluation.recordings.evaluate import evaluate_bag
from hand_unc_ros.files import replace_file, write_file
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.networks.landmark_errors import load_landmark_errors
from hand_unc_ros.networks.weights import fingerprint, save_network

log = logging.getLogger(__name__)

# Seconds of the parts to learn from that a covariance map is fitted to, spread evenly.
MAPPED_S = 180.0
HEAD = 'landmark_errors.safetensors'
MAP_SUFFIX = '.covariance_map.json'


@dataclass(frozen=True)
class Candidate:
    """name: in reports.  settings: of its estimator.  files: setting → its file, as estimation/adapted.py takes them.
    notes: how it was made."""

    name: str
    settings: EstimatorSettings
    files: dict[str, Path]
    notes: dict[str, Any] = field(default_factory=dict)


def refitted_errors(parts: Sequence[Part], features: Path, settings: EstimatorSettings, work: Path) -> Candidate:
    """The estimator in use with an error head and a covariance map of the rig. parts: to learn from.  features: their
    sequences.  Raises RecordingError where they are too few."""
    in_use = files_of(settings)['covariance_head']
    key = content_hash({'features': read_text(features / DESCRIPTION), 'head': fingerprint(in_use)})[:16]
    folder = work / f'head-{key}'
    folder.mkdir(parents=True, exist_ok=True)
    path, notes = folder / HEAD, folder / 'refit.json'
    if not (path.is_file() and notes.is_file()):
        found = refit_errors(features, load_landmark_errors(in_use))
        save_network(path, found.head, found.head.config.to_dict())
        content = {'head': found.kind, 'nll_of_pairs': found.nll, 'scale': found.scale, 'pairs': found.pairs}
        write_file(notes, json.dumps(content, indent=1) + '\n')
    about = parse_json(read_text(notes))
    log.info('error head: %s (nats a landmark: %s)', about['head'],
             ', '.join(f'{kind} {value:.3f}' for kind, value in about['nll_of_pairs'].items()))
    candidate = replace(settings, covariance_head=str(path), covariance_map='')
    with_map(parts, candidate, settings, path.with_suffix(MAP_SUFFIX), work)
    return Candidate('error head and map of the rig', candidate, {'covariance_head': path}, about)


def with_map(parts: Sequence[Part], settings: EstimatorSettings, in_use: EstimatorSettings, path: Path,
             work: Path) -> None:
    """Fit the covariance map of an estimator to parts of recordings and write it to `path`, where it is not there yet:
    by views that are left out or, with two cameras, by the distances across the epipolar lines. What all views get
    wrong alike is in neither, so that joints do not get smaller covariances in the (geometric) mean than those that the
    estimator in use gives them; of another one in use, the map is another."""
    compared_with = content_hash(estimator_content(in_use))
    if path.is_file() and parse_json(read_text(path)).get('compared_with') == compared_with:
        return
    chosen = list(parts)
    total_s = sum(part.part_s[1] - part.part_s[0] for part in chosen)
    if total_s > MAPPED_S:
        count = max(1, round(len(chosen) * MAPPED_S / total_s))
        chosen = [chosen[place] for place in np.unique(np.linspace(0, len(chosen) - 1, count).round().astype(int))]
    two = all(len(part.source.cameras) == 2 for part in chosen)
    errors, before = (
        [_cached_errors(part, replace(estimator, covariance_map='none', filter=False), work / 'errors', two)
         for part in tqdm(chosen, desc=name, unit='part', disable=None)]
        for estimator, name in ((settings, 'covariance map'), (in_use, 'covariance in use')))
    files = files_of(replace(settings, covariance_map='none'))
    head_hash = fingerprint(files['covariance_head']) if 'covariance_head' in files else ''
    lowest = _not_narrower(errors, before, covariance_map_of(in_use))
    if two:
        ratio = np.concatenate([part['nis'] for part in errors]) / chi2.ppf(PROBABILITY, 1)
        if len(ratio) < FEWEST_ERRORS:
            raise RecordingError(f'the recordings gave only {len(ratio)} joints to fit a covariance map to, '
                                 f'{FEWEST_ERRORS} are needed; record the hand for longer, in many poses')
        factor = max(1.0, float(np.quantile(ratio, PROBABILITY)), lowest.get(2, 1.0))
        fitted = CovarianceMap('scalar', {2: factor}, head=head_hash)
        by = 'distances across the epipolar lines of two views: one factor on both variances; depth is not checked'
    else:
        parts_of = [(part['errors'], part['covariances'], part['views']) for part in errors if len(part['errors'])]
        fitted = fit_by_views(parts_of, chosen[0].source.path, head_hash, lowest)
        by = 'leave-one-view-out: one factor on the variances of all views'
    fitted.save(path, fitted_to=by, not_below={str(views): round(factor, 4) for views, factor in lowest.items()},
                compared_with=compared_with, parts=[[part.source.path.name, *part.part_s] for part in chosen])


def _not_narrower(errors: Sequence[dict[str, np.ndarray]], before: Sequence[dict[str, np.ndarray]],
                  map_before: CovarianceMap | None) -> dict[int, float]:
    """For each number of views, the factor that makes the covariances of `errors` as large as those of `before` with
    their map, in the geometric mean; both as _cached_errors gives them."""
    def sizes(parts: Sequence[dict[str, np.ndarray]], applied: CovarianceMap | None) -> dict[int, float]:
        views = np.concatenate([part['views'] for part in parts])
        variance = np.concatenate([np.trace(part['covariances'], axis1=-2, axis2=-1) / 3 for part in parts])
        if applied is not None:
            variance = variance * applied.factors(views, np.sqrt(variance))
        known = np.isfinite(variance)
        return {int(number): float(np.log(variance[known & (views == number)]).mean())
                for number in np.unique(views[known & (views > 0)])}

    now, then = sizes(errors, None), sizes(before, map_before)
    return {views: float(np.exp(then[views] - now[views])) for views in sorted(now.keys() & then.keys())}


def _cached_errors(part: Part, settings: EstimatorSettings, cache: Path, two: bool) -> dict[str, np.ndarray]:
    """Of a part: errors (R, 21, 3), covariances (R, 21, 3, 3) and views (R, 21), or of two cameras nis (R,), the
    covariances of the joints (N, 21, 3, 3) and views (N, 21)."""
    cache.mkdir(parents=True, exist_ok=True)
    key = content_hash({'estimator': estimator_content(settings), 'rig': rig_content(part.source.rig),
                        'part_s': part.part_s, 'two': two})[:16]
    path = cache / f'{part.name}-{key}.npz'
    if path.is_file():
        try:
            return read_npz(path)
        except (MalformedError, OSError):
            log.warning('%s is damaged and made again', path)
    of_part = replace(part.settings, estimator=settings)
    if two:
        arrays = _across(part, of_part)
    else:
        found, _ = errors_by_views(part.source.path, of_part)
        sizes = ((21, 3), (21, 3, 3), (21,))
        arrays = {name: np.concatenate([row[place] for row in found]) if found else np.zeros((0, *size))
                  for place, (name, size) in enumerate(zip(('errors', 'covariances', 'views'), sizes))}
    with replace_file(path, DatasetError) as file:
        np.savez_compressed(file, **arrays)
    return arrays


def _across(part: Part, settings: Any) -> dict[str, np.ndarray]:
    found = evaluate_bag(part.source.path, settings, 'none')
    agreement, covariances = found.agreement, found.estimates.covariances
    blocks = np.stack([joint_blocks(one) for one in covariances]) if len(covariances) else np.zeros((0, 21, 3, 3))
    nis = np.zeros(0) if agreement is None else agreement.nis[(agreement.dof == 1) & np.isfinite(agreement.nis)]
    return {'nis': nis, 'covariances': blocks, 'views': np.full(blocks.shape[:2], 2)}


def copy_files(candidate: Candidate, out: Path) -> dict[str, str]:
    """Put a candidate's files, with what lies beside them, into a folder; their names there by setting."""
    names = {}
    for setting, path in candidate.files.items():
        for file in path.parent.glob(f'{path.stem}.*'):
            shutil.copyfile(file, out / file.name)
        names[setting] = path.name
    return names


def described(candidate: Candidate) -> dict[str, Any]:
    """For a report: notes, and the estimator's settings."""
    return {'name': candidate.name, **candidate.notes, 'estimator': asdict(candidate.settings)}
