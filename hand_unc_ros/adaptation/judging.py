"""Which of two estimators is better on held-out parts of recordings, without truth.

The score is the negative log-likelihood of views that are left out, under Student's t with the covariance that is
claimed for the difference between the view and the published joints of the others: it rewards joints that are nearer to
what the view shows, and a covariance that says how near. It cannot see what all views get wrong alike. With two cameras
none can be left out, and the score is that of the landmarks across each other's epipolar lines: depth is not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hand_unc_ros.adaptation.plan import Part, content_hash, estimator_content, rig_content
from hand_unc_ros.bounded import MalformedError, read_npz
from hand_unc_ros.errors import DatasetError, NoHandError
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.recordings import without_truth as alone
from hand_unc_ros.evaluation.recordings.evaluate import Evaluation, evaluate_bag
from hand_unc_ros.files import replace_file
from hand_unc_ros.methods.contract import HANDEDNESS

# Degrees of freedom of the t, as in networks/landmark_pairs.py.
DEGREES = 5.0
# Frames depend on each other: the bootstrap draws blocks of so many seconds.
BLOCK_S, DRAWS, SEED = 2.0, 2000, 1
# How much worse these may become, as a factor, before a better score counts for nothing: errors of left-out views in
# px, variation of the bone lengths, and hands that are found no more.
WORST_ERROR, WORST_BONES, FEWEST_HANDS = 1.02, 1.05, 0.97
# Hands of the held-out parts below which no verdict is given.
LEAST_HANDS = 30


@dataclass(frozen=True)
class Judged:
    """An estimator on held-out parts, R left-out views (or hands, with two cameras) and N hands.

    stamp_ns, left, camera: (R,), what identifies a row.  nll: (R, 21) nats, distance2: (R, 21), squared whitened, of
    `dof` degrees of freedom, and error_px: (R, 21); NaN where unknown.  nis, nis_dof: (N, 21) of the reprojection.
    reprojection_px: (N, V, 21).  joints: (N, 21, 3) metres.  covariances: (N, 63, 63) m².  hand_left: (N,).
    """

    stamp_ns: np.ndarray
    left: np.ndarray
    camera: np.ndarray
    nll: np.ndarray
    distance2: np.ndarray
    error_px: np.ndarray
    nis: np.ndarray
    nis_dof: np.ndarray
    reprojection_px: np.ndarray
    joints: np.ndarray
    covariances: np.ndarray
    hand_left: np.ndarray
    dof: np.ndarray
    sets: np.ndarray


def judge(parts: Sequence[Part], estimator: EstimatorSettings, cache: Path, name: str) -> Judged:
    """An estimator on held-out parts; what is in `cache` is read, what is missing is computed and kept there.
    name: for the progress bar."""
    cache.mkdir(parents=True, exist_ok=True)
    made_of = {'estimator': estimator_content(estimator)}
    found = []
    for part in tqdm(parts, desc=name, unit='part', disable=None):
        key = content_hash({**made_of, 'rig': rig_content(part.source.rig), 'part_s': part.part_s,
                            'period_s': part.settings.period_s, 'tolerance_s': part.settings.tolerance_s})
        path = cache / f'{part.name}-{key[:16]}.npz'
        judged = _load(path)
        if judged is None:
            judged = judge_part(part, estimator)
            with replace_file(path, DatasetError) as file:
                np.savez_compressed(file, **vars(judged))
        found.append(judged)
    views = max(one.reprojection_px.shape[1] for one in found)
    found = [replace(one, reprojection_px=_filled(one.reprojection_px, views)) for one in found]
    return Judged(**{field: np.concatenate([vars(one)[field] for one in found]) for field in vars(found[0])})


def judge_part(part: Part, estimator: EstimatorSettings) -> Judged:
    """An estimator on one part, as `hand-unc evaluate --bag` runs it."""
    try:
        found = evaluate_bag(part.source.path, replace(part.settings, estimator=estimator), 'none')
    except NoHandError:
        return _nothing(len(part.source.cameras))
    told, agreement = found.estimates, found.agreement
    left = told.sides == HANDEDNESS[1]
    rows = _left_out_rows(found) if len(told.cameras) > 2 else _across_rows(found, left)
    return Judged(*rows, agreement.nis, agreement.dof, agreement.published_px, told.joints,
                  told.covariances.astype(np.float32), left, np.array([2 if len(told.cameras) > 2 else 1]),
                  np.array([told.sets]))


def _left_out_rows(found: Evaluation) -> tuple[np.ndarray, ...]:
    """stamp_ns, left, camera, nll, distance2, error_px of every left-out view."""
    if found.left_out is None:
        return _no_rows()
    total = found.left_out.total_px2(found.left_out_factors)
    distance2 = found.left_out.distance2(found.left_out_factors)
    with np.errstate(invalid='ignore'):
        determinant = np.linalg.det(np.where(np.isfinite(total), total, np.nan))
        nll = 0.5 * np.log(determinant) + 0.5 * (DEGREES + 2) * np.log1p(distance2 / DEGREES)
    return (found.checks.stamps_ns, found.checks.sides == HANDEDNESS[1], found.left_out.camera, nll, distance2,
            np.linalg.norm(found.left_out.error_px, axis=-1))


def _across_rows(found: Evaluation, left: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same of hands of two views, across the epipolar lines. Of equal gradients in both views, which rigs of two
    cameras have to good approximation, the variance there is the mean of both views'."""
    told, nis = found.estimates, np.where(found.agreement.dof == 1, found.agreement.nis, np.nan)
    variance = told.variance_px2.mean(-1).mean(1)
    nll = 0.5 * np.log(variance) + 0.5 * (DEGREES + 1) * np.log1p(nis / DEGREES)
    return told.stamps_ns, left, np.zeros(len(left), int), nll, nis, np.sqrt(nis * variance)


def _no_rows() -> tuple[np.ndarray, ...]:
    return (np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, int), *(np.zeros((0, 21)) for _ in range(3)))


def _nothing(views: int) -> Judged:
    return Judged(*_no_rows(), np.zeros((0, 21)), np.zeros((0, 21), int), np.zeros((0, views, 21)),
                  np.zeros((0, 21, 3)), np.zeros((0, 63, 63), np.float32), np.zeros(0, bool),
                  np.array([2 if views > 2 else 1]), np.zeros(1, int))


def _filled(values: np.ndarray, views: int) -> np.ndarray:
    return np.concatenate([values, np.full((len(values), views - values.shape[1], 21), np.nan)], axis=1)


def _load(path: Path) -> Judged | None:
    if not path.is_file():
        return None
    try:
        return Judged(**read_npz(path))
    except (TypeError, MalformedError, OSError):
        # Of another version, or damaged: it is computed again.
        return None


def numbers(judged: Judged) -> dict[str, Any]:
    """What a report says of an estimator."""
    dof = int(judged.dof.max(initial=1))
    left_out = alone.spread_summary(judged.distance2, dof)
    bones = [alone.bones(judged.joints[judged.hand_left == side], judged.covariances[judged.hand_left == side])
             for side in (False, True) if (judged.hand_left == side).sum() > 2]
    variation = [part['variation'] for part in bones if np.isfinite(part['variation'])]
    return {'sets': int(judged.sets.sum()), 'hands': len(judged.joints),
            'nll': _mean(judged.nll), 'left_out' if dof == 2 else 'across_epipolar_lines':
                None if left_out is None else {**left_out, **(alone.pixels(judged.error_px) or {})},
            'reprojection': {**(alone.spread_summary(judged.nis, judged.nis_dof) or {}),
                             **(alone.pixels(judged.reprojection_px) or {})},
            'bones_variation': float(np.mean(variation)) if variation else None}


def compare(before: Judged, after: Judged) -> dict[str, Any]:
    """The verdict: gain_percent, by how much smaller all errors and claimed σ might be for as good a score, with
    interval_percent, 95 % by bootstrap over blocks of time; better: whether it is a gain for sure and nothing that
    counts became worse; against: why not, in words."""
    pairs = _paired(before, after)
    against: list[str] = []
    gain = interval = None
    if len(before.joints) < LEAST_HANDS or pairs is None:
        against.append(f'the held-out parts show {len(before.joints)} hands; {LEAST_HANDS} are needed for a verdict')
    else:
        dof = int(before.dof.max(initial=1))
        blocks, difference = pairs
        gain, interval = _bootstrap(blocks, difference)
        gain, interval = _percent(gain, dof), [_percent(end, dof) for end in interval]
        if interval[0] <= 0:
            against.append('the gain is not larger than chance makes it')
        against += _worse(before, after)
    return {'gain_percent': gain, 'interval_percent': interval, 'better': not against, 'against': against}


def _paired(before: Judged, after: Judged) -> tuple[np.ndarray, np.ndarray] | None:
    """Block of time and nll before less nll after of each landmark that both know; None without any."""
    rows = {key: row for row, key in enumerate(_keys(after))}
    both = [(row, rows[key]) for row, key in enumerate(_keys(before)) if key in rows]
    if not both:
        return None
    first, second = np.array(both).T
    difference = before.nll[first] - after.nll[second]
    known = np.isfinite(difference)
    if not known.any():
        return None
    blocks = np.broadcast_to((before.stamp_ns[first] // int(1e9 * BLOCK_S))[:, None], known.shape)
    return blocks[known], difference[known]


def _keys(judged: Judged) -> list[tuple[int, bool, int]]:
    return list(zip(judged.stamp_ns.tolist(), judged.left.tolist(), judged.camera.tolist()))


def _bootstrap(blocks: np.ndarray, difference: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The mean, and its 95 % interval."""
    _, which = np.unique(blocks, return_inverse=True)
    sums, counts = np.bincount(which, difference), np.bincount(which)
    drawn = np.random.default_rng(SEED).integers(len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return float(difference.mean()), tuple(np.quantile(means, (0.025, 0.975)).tolist())


def _percent(nats: float, dof: int) -> float:
    """A gain of `nats` a landmark of `dof` dimensions as the share by which its scale shrinks."""
    return 100 * (1 - float(np.exp(-nats / dof)))


def _worse(before: Judged, after: Judged) -> list[str]:
    old, new = numbers(before), numbers(after)
    found = []
    if new['hands'] < FEWEST_HANDS * old['hands']:
        found.append(f'fewer hands are found: {new["hands"]} instead of {old["hands"]}')
    error = [(part.get('left_out') or part.get('across_epipolar_lines') or {}).get('median_px') for part in (old, new)]
    if None not in error and error[1] > WORST_ERROR * error[0]:
        found.append(f'joints are farther from what the views show: {error[1]:.2f} px instead of {error[0]:.2f} px')
    bones = old['bones_variation'], new['bones_variation']
    # A spread that is measured by the 20 bones of N hands is known to about 1 / √(20 N) of it.
    chance = 2 / np.sqrt(20 * max(new['hands'], 1))
    if None not in bones and bones[1] > (WORST_BONES + chance) * bones[0]:
        found.append(f'bone lengths vary more: by {100 * bones[1]:.1f} % instead of {100 * bones[0]:.1f} %')
    return found


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
