"""`hand-unc evaluate --bag`: scores of the hands of a recording and of their covariances, with and without truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hand_unc_ros import __version__
from hand_unc_ros.data.bags.reader import Bag, open_bag, storage_files
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.estimation.build import build_estimator, files_of
from hand_unc_ros.estimation.covariance_map import fit_factor
from hand_unc_ros.evaluation import metrics, uncertainty
from hand_unc_ros.evaluation.recordings import without_truth as alone
from hand_unc_ros.evaluation.recordings.by_hand import SidedChecks, by_hand
from hand_unc_ros.evaluation.recordings.estimates import estimates_topic, read_estimates
from hand_unc_ros.evaluation.recordings.left_out import LeftOut, answers_of, check, geometric_answers
from hand_unc_ros.evaluation.recordings.overlays import Pictures
from hand_unc_ros.evaluation.recordings.replay import (
    Collector,
    Estimates,
    Replay,
    find_calibration,
    find_images,
)
from hand_unc_ros.evaluation.recordings.singular import Singular, find_singular
from hand_unc_ros.evaluation.recordings.truth import MATCHING, Truth, load_truth
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import FINGERTIPS, JOINT_NAMES
from hand_unc_ros.networks.weights import fingerprint
from hand_unc_ros.settings.recordings import BagSettings

# Keys that need the truth; null without it.
OF_TRUTH = ('ausc', 'ause', 'pearson_3d', 'nees_per_dof', 'nees_63_per_dof', 'coverage', 'energy_score_mm', 'nll')
IMAGES = 'none'


@dataclass(frozen=True)
class Evaluation:
    """summary: every number that is told, as JSON can say it; `timing` alone differs from run to run.  errors:
    (N, 21, 3) metres, NaN where the truth is not known, None without one.  agreement: None without a rig or views.
    left_out: None with fewer than three views.  pictures: None where none were wanted, or the images not read.
    checks: of which hands and sets `left_out` is; None where the images were not read."""

    summary: dict[str, Any]
    estimates: Estimates
    agreement: alone.Agreement | None
    left_out: LeftOut | None
    left_out_factors: np.ndarray | None
    errors: np.ndarray | None
    pictures: Pictures | None = None
    checks: SidedChecks | None = None


def evaluate_bag(path: Path, settings: BagSettings = BagSettings(), estimates: str = '',
                 truth: str = '', draw: bool = False) -> Evaluation:
    """Everything that can be had from a bag.

    estimates: the topic of recorded estimates; empty for the ones that the bag holds, or, where it holds none, and for
    'none', the pipeline on its images.  truth: a topic or a file.  draw: keep pictures of hands.
    Raises HandUncError with the remedy.
    """
    with open_bag(path, settings.part_s) as bag:
        true = load_truth(truth, bag) if truth else None
        topic = '' if estimates == IMAGES else estimates_topic(bag, estimates, truth)
        if topic:
            told, left_out, factors = _recorded(bag, topic, settings)
            files: dict[str, Path] = {}
            checks, pictures = None, None
        else:
            pictures = Pictures() if draw else None
            told, checks, factors, files = _replayed(bag, settings, pictures)
            left_out = None if checks is None else checks.published
    seen = told.rig is not None and np.isfinite(told.joints_px).any()
    agreement = alone.agreement(told, settings.estimator.triangulation) if seen else None
    errors = None if true is None else _errors(told, true)
    singular = find_singular(told.covariances, errors)
    summary = {
        'bag': path.name, 'source': f'recorded on {topic}' if topic else 'the pipeline on the images of the bag',
        'sets': told.sets, 'hands': len(told.stamps_ns), 'no_hand': dict(told.reasons.most_common()),
        'duration_s': float(np.ptp(told.stamps_ns) / 1e9), 'period_s': told.period_s,
        'views': len(told.cameras), 'covariance_calibrated': told.calibrated,
        'sigma_mm': _sigma_mm(told), **_against_truth(told, true, errors, singular),
        'singular': singular.summary(np.isfinite(told.joints).all(-1)),
        'reprojection': _reprojection(agreement), 'leave_one_view_out': _leave_one_out(left_out, factors, bool(topic)),
        'bones': alone.bones(told.joints, told.covariances), 'jitter': alone.jitter(told),
        'by_hand': by_hand(told, agreement, checks, factors), 'cameras': _cameras(told, agreement, left_out, factors),
        'latency_ms': None if told.latency_ms is None else alone.percentiles(told.latency_ms),
        'protocol': _protocol(told, topic, true), **_identity(path, settings, told, files, topic, truth),
        'timing': None if told.processing_ms is None else {'processing_ms': alone.percentiles(told.processing_ms)}}
    return Evaluation(_plain(summary), told, agreement, left_out, factors, errors, pictures, checks)


def _replayed(bag: Bag, settings: BagSettings, pictures: Pictures | None,
              ) -> tuple[Estimates, SidedChecks | None, np.ndarray | None, dict[str, Path]]:
    """The estimates of the pipeline on the images, and the files that took part in it."""
    calibrated = find_calibration(bag, settings)
    cameras = tuple(find_images(bag, calibrated, settings))
    estimator = build_estimator(settings.estimator, cameras)
    try:
        replay = Replay(bag, calibrated, settings, estimator)
        collector, checks, before, sides, stamps, rigs = Collector(cameras), [], [], [], [], {}
        for processed in replay:
            collector.add(processed.result)
            for hand in processed.result.hands:
                readings = processed.result.readings_of(hand)
                views = readings.gaussians
                rig = rigs.setdefault(views.cameras, replay.rig.subset(list(views.cameras)))
                found = check(views, rig, answers_of(estimator.method, readings, rig))
                if found is not None:
                    index = np.array([cameras.index(name) for name in views.cameras])
                    checks.append(found._replace(camera=index[found.camera]))
                    before.append(check(views, rig, geometric_answers(views, rig, settings.estimator.triangulation)))
                    sides += [hand.handedness] * len(found.camera)
                    stamps += [hand.stamp_ns] * len(found.camera)
                if pictures is not None:
                    pictures.add(processed.frames, hand, readings, rig)
        told = collector.estimates(replay, settings)
    finally:
        estimator.close()
    left_out = _joined(checks)
    sided = None if left_out is None else SidedChecks(np.array(sides), np.array(stamps), left_out, _joined(before))
    files = files_of(settings.estimator)
    covariance_map = estimator.stages.covariance_map
    if covariance_map is None:
        files.pop('covariance_map', None)
    factors = None if left_out is None else left_out.published_factors(covariance_map)
    return told, sided, factors, files


def _recorded(bag: Bag, topic: str, settings: BagSettings) -> tuple[Estimates, LeftOut | None, np.ndarray | None]:
    try:
        calibrated = find_calibration(bag, settings)
    except RecordingError:
        # Without a rig the bones, the jitter and the truth can still be told.
        if settings.rig is not None:
            raise
        calibrated = None
    told = read_estimates(bag, topic, calibrated, settings)
    left_out = None
    if told.rig is not None:
        each = []
        for views in map(told.views_of, range(len(told.stamps_ns))):
            answers = geometric_answers(views, told.rig, settings.estimator.triangulation)
            each.append(check(views, told.rig, answers))
        left_out = _joined([found for found in each if found is not None])
    return told, left_out, None if left_out is None else np.ones(left_out.views.shape)


def _joined(checks: list[LeftOut]) -> LeftOut | None:
    return LeftOut(*(np.concatenate(parts) for parts in zip(*checks))) if checks else None


def _errors(told: Estimates, true: Truth) -> np.ndarray:
    if true.frame_id and told.frame_id and true.frame_id.strip('/') != told.frame_id.strip('/'):
        raise RecordingError(f'the truth ({true.source}) is in frame {true.frame_id!r} and the estimates are in '
                             f'{told.frame_id!r}; give the truth in the world frame of the rig')
    errors = told.joints - true.at(told.stamps_ns)
    if not np.isfinite(errors).any():
        raise RecordingError(f'the truth ({true.source}) covers none of the estimates: it is from '
                             f'{true.stamps_ns[0] / 1e9:.3f} s to {true.stamps_ns[-1] / 1e9:.3f} s, and they are from '
                             f'{told.stamps_ns[0] / 1e9:.3f} s to {told.stamps_ns[-1] / 1e9:.3f} s')
    return errors


def _against_truth(told: Estimates, true: Truth | None, errors: np.ndarray | None,
                   singular: Singular) -> dict[str, Any]:
    if errors is None:
        return {**dict.fromkeys(OF_TRUTH), 'truth': None}
    target = told.joints - errors
    matched = np.isfinite(target).all(-1).any(-1)
    blocks = joint_blocks(told.covariances)
    known = np.isfinite(errors).all(-1) & np.isfinite(blocks).all((-2, -1)) & ~singular.singular
    numbers = uncertainty.summary(errors, told.covariances)
    outside = int(singular.contradicted.sum())
    if outside:
        # An error where none is claimed lies outside every ellipsoid.
        share = known.sum() / (known.sum() + outside)
        numbers['coverage'] = {level: share * (0.0 if np.isnan(inside) else inside)
                               for level, inside in numbers['coverage'].items()}
    length = 1e3 * np.linalg.norm(errors, axis=-1)
    return {
        **{name: numbers.get(name) for name in OF_TRUTH},
        'truth': {
            'source': true.source, 'matched': int(matched.sum()), 'unmatched': int((~matched).sum()),
            'mpjpe_mm': metrics.finite_mean(length), 'median_mm': float(np.nanmedian(length)),
            'pa_mpjpe_mm': metrics.score_points(told.joints, target, 'procrustes').mean_mm,
            'rr_mpjpe_mm': metrics.score_points(told.joints, target, 'root').mean_mm,
            'fingertips_mm': metrics.finite_mean(length[:, list(FINGERTIPS)]),
            'factor': fit_factor(errors[known], blocks[known]) if known.any() else None,
            'joints': _by_joint(uncertainty.per_joint(errors, told.covariances)),
            'bias_mm': (1e3 * np.nanmean(errors.reshape(-1, 3), axis=0)).tolist()}}


def _by_joint(table: uncertainty.PerJoint) -> list[dict[str, Any]]:
    return [{'joint': name, **dict(zip(table._fields, row))} for name, row in zip(JOINT_NAMES, zip(*table))]


def _reprojection(agreement: alone.Agreement | None) -> dict[str, Any] | None:
    if agreement is None:
        return None
    told = alone.spread_summary(agreement.nis, agreement.dof)
    return None if told is None else {**told, 'published': alone.pixels(agreement.published_px)}


def _leave_one_out(left_out: LeftOut | None, factors: np.ndarray | None, recorded: bool) -> dict[str, Any] | None:
    if left_out is None:
        return None
    told = alone.spread_summary(left_out.distance2(factors), 2)
    if told is None:
        return None
    return {**told, 'error': alone.pixels(np.linalg.norm(left_out.error_px, axis=-1)),
            'of': 'the fusion of the other views, neither refined nor calibrated' if recorded
                  else 'what is published without the view'}


def _cameras(told: Estimates, agreement: alone.Agreement | None, left_out: LeftOut | None,
             factors: np.ndarray | None) -> dict[str, Any]:
    table = {}
    for row, camera in enumerate(told.cameras):
        entry: dict[str, Any] = {'seen': None, 'reprojection': None, 'innovation': None, 'left_out': None}
        if agreement is not None:
            entry['seen'] = float(np.isfinite(told.joints_px[:, row]).all(-1).any(-1).mean())
            entry['reprojection'] = alone.pixels(agreement.published_px[:, row])
            entry['innovation'] = alone.spread_summary(agreement.innovation[:, row], agreement.innovation_dof[:, row])
        if left_out is not None and (left_out.camera == row).any():
            mine = left_out.camera == row
            entry['left_out'] = {
                **(alone.spread_summary(left_out.distance2(factors)[mine], 2) or {}),
                **(alone.pixels(np.linalg.norm(left_out.error_px[mine], axis=-1)) or {})}
        if camera in told.traffic:
            traffic = told.traffic[camera]
            entry |= {**asdict(traffic), 'drops': None if traffic.drops is None else dict(traffic.drops)}
        table[camera] = entry
    return table


def _sigma_mm(told: Estimates) -> float:
    """Median of what the covariances claim, per axis."""
    variance = np.trace(joint_blocks(told.covariances), axis1=-2, axis2=-1) / 3
    return 1e3 * float(np.sqrt(np.nanmedian(variance)))


def _protocol(told: Estimates, topic: str, true: Truth | None) -> str:
    left = ('leave-one-view-out: each view against the others, squared Mahalanobis distance under the variance of the '
            'view and the projected covariance of the others, two degrees of freedom' if len(told.cameras) > 2 else
            'leave-one-view-out needs three views')
    return '; '.join([
        f'{len(told.cameras)} views, ' + ('estimates as recorded' if topic else 'every set of images was worked on'),
        *(() if told.correlated else ('the covariance between joints was not recorded and is taken for 0',)),
        'reprojection: squared whitened distances of 2D joints from their fusion, 2V−3 degrees of freedom', left,
        'innovation: each view against the fusion of the others to first order, with one other only across the '
        'epipolar line', 'factor: what the covariance must be multiplied with for 95 % to lie inside their regions',
        'bones: median deviation of the length over time against the covariance to first order',
        f'jitter: σ per axis from second differences, at rest below {1e3 * alone.REST_SPEED:g} mm/s',
        f'with truth, no alignment unless it says so: {MATCHING}' if true else 'no truth was given'])


def _identity(path: Path, settings: BagSettings, told: Estimates, files: Mapping[str, Path], topic: str,
              truth: str) -> dict[str, Any]:
    """Hashes of all that the numbers depend on, the configuration in full, and the software."""
    content = asdict(settings.estimator)
    for name in ('weights', 'finder_weights', 'covariance_head', 'covariance_map', 'hand_model'):
        content.pop(name)
    configuration = {
        'estimator': None if topic else content, 'triangulation': settings.estimator.triangulation,
        'period_s': told.period_s, 'tolerance_s': settings.tolerance_s or told.period_s / 2,
        'deadline_s': settings.deadline_s or told.period_s, 'estimates': topic, 'cameras': list(told.cameras),
        **settings.part_notes,
        'rig': None if told.rig is None else _rig_content(told.rig)}
    text = json.dumps(_plain(configuration), sort_keys=True)
    hashes: dict[str, Any] = {'bag': bag_fingerprint(path), 'configuration': hashlib.sha256(text.encode()).hexdigest(),
                              'files': {name: fingerprint(file) for name, file in files.items()}}
    if truth and Path(truth).is_file():
        hashes['truth'] = fingerprint(Path(truth))
    software = {'hand_unc_ros': __version__, 'torch': torch.__version__, 'numpy': np.__version__}
    return {'hashes': hashes, 'configuration': configuration, 'software': software}


def bag_fingerprint(path: Path) -> str:
    """SHA-256 of the storage files of a bag, one after the other by name; of one file, that of the file."""
    digest = hashlib.sha256()
    for file in sorted(storage_files(path)):
        with file.open('rb') as content:
            while part := content.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


def _rig_content(rig: CameraRig) -> list[dict[str, Any]]:
    return [{'name': camera.name, 'size': [camera.width, camera.height], 'K': camera.K.tolist(),
             'model': camera.distortion_model, 'D': np.asarray(camera.D).tolist(),
             'world_from_camera': camera.world_from_camera.tolist(),
             'uncertainty': None if camera.uncertainty is None else asdict(camera.uncertainty)} for camera in rig]


def _plain(value: Any) -> Any:
    """Plain values for JSON; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
