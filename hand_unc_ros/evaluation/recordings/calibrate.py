"""`hand-unc calibrate-covariance`: the covariance map of a rig from a recording on it, by the truth or by its views.

With truth, errors of the joints are what the factors are fitted to, for every number of views from two to all.

Without, each view is left out in turn and its 2D joints are compared with what the others say of them (left_out.py).
The model is one factor on the variances of all views, the left-out one's included, for each number of other views, so
that a rig of V cameras gives factors up to V − 1, and the last is taken for V. This repairs what makes views disagree:
too small variances, blur, clocks and calibration that are off. It cannot repair what all views get wrong alike, errors
that point the same way in several views make the factor too small, and the left-out view's own variance is a large part
of what is compared. So it is a lower bound, and the map in use, or 1 without one, is never made smaller by it: that
takes the truth.

The output of the temporal filter has factors of its own, by the truth alone, from a second run with the map and the
filter on; without it those of the map in use are kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.errors import ConfigError, RecordingError
from hand_unc_ros.estimation.build import build_estimator, files_of
from hand_unc_ros.estimation.covariance_map import KINDS, PROBABILITY, CovarianceMap, Curve, fit_factor, fit_map
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.filter import SETTLED
from hand_unc_ros.estimation.types import HandReadings
from hand_unc_ros.evaluation.recordings.evaluate import bag_fingerprint
from hand_unc_ros.evaluation.recordings.left_out import SIZES, answers_of, check, subsets
from hand_unc_ros.evaluation.recordings.replay import Replay, find_calibration, find_images
from hand_unc_ros.evaluation.recordings.truth import Truth, load_truth
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.contract import Method
from hand_unc_ros.networks.weights import fingerprint
from hand_unc_ros.settings.recordings import BagSettings

# Below so many errors the 95 % quantile of one number of views is a guess.
FEWEST_ERRORS = 1000
# At which factors that depend on the predicted σ are compared, metres.
TYPICAL_SIGMA = 0.003
LEFT_OUT = 'leave-one-view-out: one factor on the variances of all views'


def calibrate(path: Path, settings: BagSettings = BagSettings(), kind: str = 'scalar',
              truth: str = '') -> tuple[CovarianceMap, dict[str, Any]]:
    """Run the pipeline on the images of a bag, without any map, and fit one of covariance_map.KINDS.

    Returns the map and notes on how it was fitted.  Raises HandUncError with the remedy.
    """
    if kind not in KINDS:
        raise ConfigError(f'covariance map {kind!r} is unknown; choose one of {", ".join(KINDS)}')
    in_use = files_of(settings.estimator).get('covariance_map')
    # What is fitted is what the map will be put on: the estimate as it is before map and filter.
    settings = replace(settings, estimator=replace(settings.estimator, covariance_map='none', filter=False))
    files = files_of(settings.estimator)
    head = fingerprint(files['covariance_head']) if 'covariance_head' in files else ''
    with open_bag(path, settings.part_s) as bag:
        true = load_truth(truth, bag) if truth else None
        calibrated = find_calibration(bag, settings)
        cameras = tuple(find_images(bag, calibrated, settings))
        if true is None and len(cameras) < 3:
            raise RecordingError(f'bag {path} has {len(cameras)} cameras with images: to leave one out, three are '
                                 'needed; give the true joints with --truth')
        if true is not None and true.frame_id and true.frame_id.strip('/') != settings.world_frame.strip('/'):
            raise RecordingError(f'the truth ({true.source}) is in frame {true.frame_id!r} and the rig in '
                                 f'{settings.world_frame!r}; give the truth in the world frame of the rig')
        estimator = build_estimator(settings.estimator, cameras)
        try:
            parts, hands = _collected(Replay(bag, calibrated, settings, estimator), estimator.method, true)
            fitted = replace(_fit(kind, parts, path, true is not None), head=head)
            if true is not None:
                smooth = HandEstimator(estimator.method, replace(settings.estimator, filter=True), fitted)
                fitted = replace(fitted, filtered=_filter_factors(Replay(bag, calibrated, settings, smooth), true))
        finally:
            estimator.close()
    lowest: dict[int, float] = {}
    if true is None:
        before = None if in_use is None else CovarianceMap.load(in_use)
        if before is not None and before.head != head:
            before = None
        lowest = _lowest(fitted, before)
        fitted = replace(fitted, filtered={} if before is None else before.filtered)
    asked = {str(views): round(_typical(fitted, views), 4) for views in fitted.views}
    notes = {'probability': PROBABILITY, 'fitted_to': LEFT_OUT if true is None else f'truth ({Path(truth).name})',
             'bag': path.name, 'bag_sha256': bag_fingerprint(path), **settings.part_notes, 'hands': hands,
             'errors': {str(views): count for views, count in _counts(parts).items()}, 'asked_for': asked,
             'not_below': {str(views): round(factor, 4) for views, factor in lowest.items()},
             'weights_sha256': {name: fingerprint(file) for name, file in files.items()}}
    return _at_least(fitted, lowest), notes


def fit_by_views(parts: Sequence[tuple], path: Path, head: str, lowest: Mapping[int, float]) -> CovarianceMap:
    """The map of one factor for each number of views by `errors_by_views` of recordings, of which `path` is named where
    they are too few. lowest: a lower bound of the factors by number of views, 1 where there is none, see above.  head:
    fingerprint of the covariance head in use, '' for none. Raises RecordingError."""
    fitted = replace(_fit('scalar', parts, path, False), head=head)
    return _at_least(fitted, _lowest(fitted, None) | {views: max(1.0, factor) for views, factor in lowest.items()})


def errors_by_views(path: Path, settings: BagSettings) -> tuple[list[tuple], int]:
    """Errors by leaving views out in turn, their covariances and numbers of views, in parts, and the number of hands,
    of a recording of three cameras or more. settings: without map and filter."""
    with open_bag(path, settings.part_s) as bag:
        calibrated = find_calibration(bag, settings)
        estimator = build_estimator(settings.estimator, tuple(find_images(bag, calibrated, settings)))
        try:
            return _collected(Replay(bag, calibrated, settings, estimator), estimator.method, None)
        finally:
            estimator.close()


def _lowest(fitted: CovarianceMap, before: CovarianceMap | None) -> dict[int, float]:
    """Factors below which the views alone must not bring a map."""
    return {views: _typical(before, views) if before is not None else 1.0 for views in fitted.views}


def _collected(replay: Replay, method: Method, true: Truth | None) -> tuple[list[tuple], int]:
    """Errors, their covariances and numbers of views, as `fit_map` takes them, in parts; and the number of hands."""
    parts: list[tuple] = []
    hands = 0
    rigs: dict[tuple[str, ...], CameraRig] = {}
    for processed in replay:
        for hand in processed.result.hands:
            hands += 1
            readings = processed.result.readings_of(hand)
            names = tuple(readings.views)
            rig = rigs.setdefault(names, replay.rig.subset(list(names)))
            parts += (_of_views(method, readings, rig) if true is None
                      else _of_truth(method, readings, rig, true.at(np.array([hand.stamp_ns]))[0]))
    return parts, hands


def _filter_factors(replay: Replay, true: Truth) -> dict[int, float]:
    """Number of views → factor on the output of the filter that `replay` has on, where there are enough errors."""
    parts: list[tuple] = []
    age: Counter[int] = Counter()
    for processed in replay:
        for hand in processed.result.hands:
            age[hand.track_id] += 1
            if age[hand.track_id] <= SETTLED:
                continue
            error = hand.joints - true.at(np.array([hand.stamp_ns]))[0]
            views = np.isfinite(hand.reprojection_px).sum(0)
            parts.append((error[None], joint_blocks(hand.covariance)[None], views[None]))
    enough = [views for views, count in _counts(parts).items() if count >= FEWEST_ERRORS]
    if not enough:
        return {}
    errors, covariances, views = (np.concatenate(arrays) for arrays in zip(*parts))
    known = np.isfinite(errors).all(-1)
    return {number: fit_factor(errors[known & (views == number)], covariances[known & (views == number)])
            for number in enough}


def _of_views(method: Method, readings: HandReadings, rig: CameraRig) -> list[tuple]:
    found = check(readings.gaussians, rig, answers_of(method, readings, rig), (*SIZES, len(rig) - 1))
    return [] if found is None else [(found.as_errors(), found.covariance, found.views)]


def _of_truth(method: Method, readings: HandReadings, rig: CameraRig, joints: np.ndarray) -> list[tuple]:
    """joints: (21, 3) metres, the true ones."""
    if not np.isfinite(joints).any():
        return []
    answers = answers_of(method, readings, rig)
    found = [answers(chosen) for chosen in subsets(readings.gaussians)]
    return [(answer.joints[None] - joints, answer.covariance[None], answer.views[None]) for answer in found]


def _fit(kind: str, parts: Sequence[tuple], path: Path, with_truth: bool) -> CovarianceMap:
    counts = _counts(parts)
    if not counts:
        raise RecordingError(f'bag {path} gave nothing to fit a covariance map to: ' + (
            'no hand was found at a time at which the truth is known' if with_truth
            else 'no hand was seen by three views at once'))
    enough = [views for views, count in counts.items() if count >= FEWEST_ERRORS]
    if not enough:
        raise RecordingError(f'bag {path} gave only {max(counts.values())} errors of joints, {FEWEST_ERRORS} are '
                             'needed; record the hand for longer, in many poses')
    errors, covariances, views = (np.concatenate(arrays) for arrays in zip(*parts))
    # A number of views that is rare here is left to those beside it.
    return fit_map(kind, errors, covariances, np.where(np.isin(views, enough), views, 0))


def _counts(parts: Sequence[tuple]) -> dict[int, int]:
    """Number of views → known errors."""
    if not parts:
        return {}
    known = np.concatenate([views[np.isfinite(errors).all(-1) & (views > 0)] for errors, _, views in parts])
    return {int(views): int(count) for views, count in zip(*np.unique(known, return_counts=True))}


def run(bag: Path, settings: BagSettings, output: Path, *, kind: str = 'scalar', truth: str = '') -> CovarianceMap:
    """The command: fit, write the map to `output`, and say what it is worth."""
    if not output.absolute().parent.is_dir():
        raise ConfigError(f'there is no folder {output.parent} to write {output.name} into; make it first')
    if output.is_dir():
        raise ConfigError(f'{output} is a folder; name a file')
    fitted, notes = calibrate(bag, settings, kind, truth)
    fitted.save(output, **notes)
    print(f'{output}: {kind}, from {notes["hands"]} hands, by {notes["fitted_to"]}')
    for views, entry in sorted(fitted.views.items()):
        line = f'{views} views: {_told(entry)} on the covariance ({notes["errors"][str(views)]} errors of joints)'
        asked, lowest = notes['asked_for'][str(views)], notes['not_below'].get(str(views), 0.0)
        if asked < lowest:
            line += (f'; the views ask for {asked:.3g}, but only the truth can show that less than {lowest:.3g} is '
                     'enough')
        print(line)
    for views, factor in sorted(fitted.filtered.items()):
        print(f'{views} views: factor {factor:.3g} more with the temporal filter on')
    if not fitted.filtered:
        print('None for the output of the temporal filter: with it on, the covariance counts as not calibrated.')
    if not truth:
        print('What all views get wrong alike is not in these factors: they are lower bounds.')
    print(f'In the parameters: covariance_map: {output}')
    return fitted


def _at_least(covariance_map: CovarianceMap, lowest: Mapping[int, float]) -> CovarianceMap:
    """The map with no factor below the lowest for its number of views."""
    def raised(entry: float | tuple[float, ...] | Curve, least: float) -> float | tuple[float, ...] | Curve:
        if isinstance(entry, Curve):
            return Curve(entry.sigma_m, tuple(max(factor, least) for factor in entry.factor))
        return tuple(max(factor, least) for factor in entry) if isinstance(entry, tuple) else max(entry, least)

    return replace(covariance_map, views={views: raised(entry, lowest.get(views, 0.0))
                                          for views, entry in covariance_map.views.items()})


def _typical(covariance_map: CovarianceMap, views: int) -> float:
    """Its factor for a number of views, mean over the joints, where σ is TYPICAL_SIGMA."""
    return float(covariance_map.factors(np.full(21, views), np.full(21, TYPICAL_SIGMA)).mean())


def _told(entry: Any) -> str:
    factors = np.atleast_1d(entry) if not hasattr(entry, 'factor') else np.array(entry.factor)
    if len(factors) == 1:
        return f'factor {factors[0]:.3g}'
    return f'factors {factors.min():.3g} to {factors.max():.3g}'
