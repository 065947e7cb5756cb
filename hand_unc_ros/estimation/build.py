"""From settings to an estimator: which files take part, and whether they fit together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.adapted import with_folder
from hand_unc_ros.estimation.covariance_map import CovarianceMap
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.fitting import load_hand_fitter
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.methods import AUTOMATIC, DEFAULT, automatic, build_method, fewest_views, method_files
from hand_unc_ros.networks.weights import fingerprint
from hand_unc_ros.threads import live_threads

log = logging.getLogger(__name__)


def build_estimator(settings: EstimatorSettings, cameras: tuple[str, ...]) -> HandEstimator:
    """Load weights and set up the pipeline for the named cameras. Raises HandUncError with the remedy."""
    chosen = with_method(settings)
    if chosen != settings and chosen.method == DEFAULT and not settings.weights:
        log.warning('the networks for real hands are missing (hand-unc models get landmarks): the method %s takes their'
                    ' place, which was trained on synthetic images only and fails on photographs', DEFAULT)
    settings = chosen
    strange = settings.delays_ns.keys() - set(cameras)
    if strange:
        raise ConfigError(f'camera_delays names {", ".join(sorted(strange))}; the cameras are {", ".join(cameras)}')
    torch.set_num_threads(settings.threads or live_threads())
    method = build_method(settings.method, settings.method_options, cameras)
    # MANO's triangles come with MANO alone.
    own = method.surface if method.surface in (STANDIN, ANNY) else ''
    model = (settings.hand_model or own) if settings.mesh else ''
    covariance_map = covariance_map_of(settings)
    surfaces = {side: load_hand_fitter(model, side) for side in settings.hands} if model else {}
    if not surfaces:
        log.info('joints only, no mesh%s', '' if not settings.mesh else ': no hand model is given')
    return HandEstimator(method, settings, covariance_map, surfaces)


def with_method(settings: EstimatorSettings) -> EstimatorSettings:
    """The settings with the method that 'auto' stands for on this machine, with what `temporal` makes of it, and with
    the files of the folder that `weights` may name. Raises ConfigError for a method that nothing refines over time."""
    settings = with_folder(settings)
    if settings.method == AUTOMATIC:
        method = automatic(settings.method_options)
        # What is refined over time is what several views say.
        over_time = settings.temporal != 'off' and method == 'amvur'
        settings = replace(settings, method='landmarks' if over_time else method)
    if settings.temporal == 'off' or settings.method == 'ust_hand':
        return settings
    if settings.method != 'landmarks' or settings.weights:
        raise ConfigError(f'temporal: {settings.temporal} refines what the method landmarks reads by its own networks,'
                          f' and the method is {settings.method}{" with other weights" if settings.weights else ""}; set'
                          ' temporal: off, or method: landmarks without weights')
    return replace(settings, method='ust_hand')


def files_of(settings: EstimatorSettings) -> dict[str, Path]:
    """The files that decide what the estimator gives, by the names of their settings; only those that are used."""
    settings = with_method(settings)
    files = method_files(settings.method, settings.method_options)
    if settings.covariance_map == 'none':
        return files
    beside = {owner: files[owner].with_suffix('.covariance_map.json') for owner in ('weights', 'covariance_head')
              if owner in files}
    beside = {owner: file for owner, file in beside.items() if file.exists()}
    if not settings.refinement:
        # The map that comes with weights was fitted to refined joints.
        beside.pop('weights', None)
    elif fewest_views(settings.method) == 1 and 'weights' in beside:
        # Several views are not those weights' business, but of the head that judges views.
        files['one_view_map'] = beside.pop('weights')
    if settings.covariance_map:
        files['covariance_map'] = Path(settings.covariance_map)
    elif beside:
        files['covariance_map'] = next(iter(beside.values()))
    return files


def covariance_map_of(settings: EstimatorSettings) -> CovarianceMap | None:
    """The covariance map that settings lead to, for numbers of views that it does not have with what lies beside weights
    for one view. One that was fitted with another covariance head than the one in use is refused where it was asked for
    (ConfigError), and left out where it only lies beside the weights."""
    settings = with_method(settings)
    files = files_of(settings)
    several = _of_several_views(files, settings) if 'covariance_map' in files else None
    if 'one_view_map' not in files:
        return several
    alone = CovarianceMap.load(files['one_view_map'])
    return alone if several is None else replace(several, views={**alone.views, **several.views})


def _of_several_views(files: Mapping[str, Path], settings: EstimatorSettings) -> CovarianceMap | None:
    fitted = CovarianceMap.load(files['covariance_map'])
    if fitted.head == (fingerprint(files['covariance_head']) if 'covariance_head' in files else ''):
        if settings.filter and not fitted.filtered:
            log.warning('%s has no factors for the output of the filter: with it on, the covariance is published as'
                        ' not calibrated; fit a map by the truth (hand-unc calibrate-covariance --truth) or turn the'
                        ' filter off', files['covariance_map'])
        return fitted
    reason = f'{files["covariance_map"]} was fitted with {"another" if fitted.head else "no"} covariance head'
    if settings.covariance_map:
        raise ConfigError(f'{reason} and does not fit the one in use; fit it anew (hand-unc calibrate-covariance)')
    log.warning('%s: the covariance is published as it is, not calibrated', reason)
    return None
