"""The live pipeline without ROS: a frame set in, a hand with covariance out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.covariance_map import FLOOR, CovarianceMap
from hand_unc_ros.estimation.filter import ConstantVelocityFilter
from hand_unc_ros.estimation.fusion import METHODS, Fused, fuse, innovations
from hand_unc_ros.estimation.network_front_end import NetworkFrontEnd
from hand_unc_ros.estimation.sanity import implausibility
from hand_unc_ros.estimation.types import (
    FrameSet,
    HandEstimate,
    NoHand,
    Refinement,
    RigCache,
    View,
    ViewEstimate,
    block_diagonal,
)
from hand_unc_ros.estimation.view_health import ViewHealth
from hand_unc_ros.geometry.calibration_uncertainty import calibration_covariance
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.inverted_poses import inversion_hint
from hand_unc_ros.hand.fitting import HandFit, HandFitter, load_hand_fitter
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST
from hand_unc_ros.hand.model import STANDIN
from hand_unc_ros.networks.weights import fingerprint
from hand_unc_ros.resources import resource
from hand_unc_ros.threads import live_threads

log = logging.getLogger(__name__)

# The network that comes with the package.
SHIPPED = 'models/jump_hand_lite.safetensors'
FRONT_ENDS = ('network', 'mediapipe')
# A hand not seen for this long is searched for anew and gets a new track id.
TRACK_MEMORY_S = 0.5


class FrontEnd(Protocol):
    """Anything that turns images into 2D joints with variances."""

    def estimate(self, views: dict[str, View], predicted: np.ndarray | None = None) -> ViewEstimate: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class EstimatorSettings:
    """What the user can choose.

    front_end: 'network' or 'mediapipe'.  weights, finder_weights: paths; empty takes what the package ships.
    covariance_head, calibration: paths, 'none' to go without; empty takes those that lie beside the weights.
    handedness: 'right' or 'left', the hand that is looked for.  hand_model: 'stand-in' or the path of a converted
    MANO, whose parameters are fitted to the joints and whose surface is the mesh; empty for the network's own.
    triangulation: one of fusion.METHODS.  refinement: let the network's decoder correct the fused joints.  min_views:
    fewest views for a hand.  filter: smooth joints over time. acceleration: one of network_front_end.ACCELERATIONS.
    threads: of torch on the CPU, 0 for half of the cores. view_health: watch whether the cameras still are where their
    calibration says.  down_weight: let a camera that is found to have moved count less.
    """

    front_end: str = 'network'
    weights: str = ''
    finder_weights: str = ''
    covariance_head: str = ''
    calibration: str = ''
    device: str = 'auto'
    precision: str = 'auto'
    acceleration: str = 'none'
    threads: int = 0
    handedness: str = 'right'
    hand_model: str = ''
    triangulation: str = 'refined'
    refinement: bool = True
    min_views: int = 2
    filter: bool = False
    view_health: bool = True
    down_weight: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (('front_end', self.front_end, FRONT_ENDS),
                                   ('handedness', self.handedness, ('right', 'left')),
                                   ('triangulation', self.triangulation, METHODS)):
            if value not in known:
                raise ConfigError(f'{name} {value!r} is unknown; choose one of {", ".join(known)}')
        if self.min_views < 2:
            raise ConfigError(f'min_views is {self.min_views}; depth is observable from 2 views on')


def build_estimator(settings: EstimatorSettings, cameras: tuple[str, ...]) -> HandEstimator:
    """Load weights and set up the pipeline for the named cameras. Raises HandUncError with the remedy."""
    torch.set_num_threads(settings.threads or live_threads())
    refine, surface, files = None, None, files_of(settings)
    head = files.get('covariance_head')
    if settings.front_end == 'mediapipe':
        from hand_unc_ros.estimation.mediapipe_front_end import MediapipeFrontEnd
        front_end: FrontEnd = MediapipeFrontEnd(cameras, settings.handedness)
    else:
        front_end = NetworkFrontEnd(
            files['weights'], files['finder_weights'], covariance_head=head, handedness=settings.handedness,
            device=settings.device, precision=settings.precision, acceleration=settings.acceleration)
        if settings.refinement and front_end.network.decoder is not None:
            refine = front_end.refine
            # MANO's triangles come with MANO alone.
            if front_end.network.config.surface == STANDIN:
                surface = load_hand_fitter(STANDIN, settings.handedness)
    calibration = calibration_of(settings)
    if settings.hand_model:
        surface = load_hand_fitter(settings.hand_model, settings.handedness)
    elif surface is None:
        log.info('no hand model is given: joints only, no mesh')
    return HandEstimator(front_end, settings, calibration, refine, surface)


def files_of(settings: EstimatorSettings) -> dict[str, Path]:
    """The files that decide what the estimator says, by the names of their settings; only those that are used."""
    files: dict[str, Path | None] = {}
    head, calibration = None, None
    if settings.front_end == 'network':
        weights = Path(settings.weights or resource(SHIPPED))
        files = {'weights': weights,
                 'finder_weights': Path(settings.finder_weights or resource('models/hand_finder.safetensors'))}
        if settings.refinement:
            head = _chosen(settings.covariance_head, weights.with_suffix('.covariance.safetensors'))
            calibration = weights.with_suffix('.calibration.json')
    files |= {'covariance_head': head, 'calibration': _chosen(settings.calibration, calibration)}
    return {name: path for name, path in files.items() if path is not None}


def _chosen(setting: str, beside: Path | None) -> Path | None:
    """The file that a setting names; of an empty one that which lies beside the weights, if any."""
    if setting:
        return None if setting == 'none' else Path(setting)
    return beside if beside is not None and beside.exists() else None


def calibration_of(settings: EstimatorSettings) -> CovarianceMap | None:
    """The covariance map that settings lead to. One that was fitted with another covariance head than the one in use is
    refused where it was asked for (ConfigError), and left out where it only lies beside the weights."""
    files = files_of(settings)
    if 'calibration' not in files:
        return None
    fitted = CovarianceMap.load(files['calibration'])
    if fitted.head == (fingerprint(files['covariance_head']) if 'covariance_head' in files else ''):
        if settings.filter and not fitted.filtered:
            log.warning('%s has no factors for the output of the filter: with it on, the covariance is published as'
                        ' not calibrated; fit a map by the truth (hand-unc calibrate-covariance --truth) or turn the'
                        ' filter off', files['calibration'])
        return fitted
    reason = f'{files["calibration"]} was fitted with {"another" if fitted.head else "no"} covariance head'
    if settings.calibration:
        raise ConfigError(f'{reason} and does not fit the one in use; fit it anew (hand-unc calibrate-covariance)')
    log.warning('%s: the covariance is published as it is, not calibrated', reason)
    return None


class HandEstimator:
    """Follows one hand through frame sets.

    refine: corrects fused joints (21, 3), given their covariance (21, 3, 3) and which views were fused; None to leave
    them.  surface: the hand model whose mesh is given; it is fitted where the settings name it, else the vertices are
    those of `refine`.
    last_views: the 2D estimate of the newest frame set, None where its views were too few to be read.
    health: of the cameras, None before the first frame set and where it is not watched.
    """

    def __init__(self, front_end: FrontEnd, settings: EstimatorSettings = EstimatorSettings(),
                 calibration: CovarianceMap | None = None,
                 refine: Callable[[np.ndarray, np.ndarray, np.ndarray], Refinement | None] | None = None,
                 surface: HandFitter | None = None) -> None:
        self.front_end = front_end
        self.settings = settings
        self.calibration = calibration
        self.refine = refine
        self.surface = surface
        # What comes next is where the crops will be cut. It follows what the views themselves say: a head that is wrong
        # on images unlike those it was trained on must not lose the hand.
        self.follower = ConstantVelocityFilter()
        self.smoother = ConstantVelocityFilter()
        self.last_views: ViewEstimate | None = None
        self.health: ViewHealth | None = None
        self.track_id = 0
        self._seen_ns: int | None = None
        self._fit: HandFit | None = None
        self._rigs = RigCache()

    def reset(self) -> None:
        """Forget the hand, as after a jump in time."""
        self.front_end.reset()
        self.follower.reset()
        self.smoother.reset()
        self._seen_ns = None
        self._fit = None

    def close(self) -> None:
        """Free what the front end holds."""
        self.front_end.close()

    def process(self, frames: FrameSet) -> HandEstimate | NoHand:
        """Estimate the hand in a frame set. Never returns a non-finite valid joint or an indefinite covariance."""
        started = time.perf_counter()
        if self._seen_ns is not None:
            gap = frames.stamp_ns - self._seen_ns
            if gap <= 0 or gap > TRACK_MEMORY_S * 1e9:
                self.reset()
        self.last_views = None
        if len(frames.views) < self.settings.min_views:
            return NoHand(frames.stamp_ns, f'{len(frames.views)} of {len(frames.expected)} cameras came in time,'
                          f' {self.settings.min_views} are needed: depth is not observable')
        predicted = self.follower.predict(frames.stamp_ns) if self._seen_ns is not None else None
        if predicted is not None and not np.isfinite(predicted[[WRIST, MIDDLE_MCP]]).all():
            predicted = None
        estimate = self.front_end.estimate(frames.views, predicted)
        self.last_views = estimate
        read = time.perf_counter()
        counted = estimate
        if self.settings.down_weight and self.health is not None:
            counted = self.health.counted(estimate)
        rig = self._rigs.of(frames.views)
        fused = fuse(counted, rig, self.settings.triangulation, self.settings.min_views)
        reason = self._objection(estimate, fused, rig)
        joined = time.perf_counter()
        stage_ms = {'views': 1e3 * (read - started), 'fusion': 1e3 * (joined - read)}
        if reason is not None:
            if predicted is not None:
                # What was followed is not a hand: search again next time.
                self.reset()
            return NoHand(frames.stamp_ns, reason, stage_ms)
        refined = self.refine(fused.joints, fused.covariance, fused.used) if self.refine is not None else None
        stage_ms['refinement'] = 1e3 * (time.perf_counter() - joined)
        gate = fused.gate if refined is None else refined.gate
        self.last_views = replace(estimate, gate=gate)
        if self.settings.view_health:
            self._watch(frames, estimate, fused, stage_ms)
        return self._finish(frames, counted, fused, refined, stage_ms)

    def _watch(self, frames: FrameSet, estimate: ViewEstimate, fused: Fused, stage_ms: dict[str, float]) -> None:
        started = time.perf_counter()
        if self.health is None or self.health.cameras != frames.expected:
            self.health = ViewHealth(frames.expected)
        innovation = innovations(estimate, self._rigs.of(frames.views), fused.joints)
        self.health.update(frames.stamp_ns, estimate, innovation, fused.used)
        stage_ms['health'] = 1e3 * (time.perf_counter() - started)

    @property
    def _calibrated(self) -> bool:
        """Whether what is published went through a fitted map; the filter's output needs factors of its own."""
        return self.calibration is not None and (not self.settings.filter or bool(self.calibration.filtered))

    def _objection(self, estimate: ViewEstimate, fused: Fused, rig: CameraRig) -> str | None:
        seeing = int(estimate.valid.any(axis=1).sum())
        if seeing < self.settings.min_views:
            return (f'{seeing} of {len(estimate.cameras)} views show a hand, {self.settings.min_views} are needed:'
                    ' depth is not observable')
        reason = implausibility(fused, estimate)
        if reason is not None and (hint := inversion_hint(rig, estimate.joints_px, estimate.valid)) is not None:
            return f'{reason}; {hint}'
        return reason

    def _joined(self, frames: FrameSet, estimate: ViewEstimate, fused: Fused, refined: Refinement | None
                ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """What is published: joints (21, 3), NaN where unknown, their velocity if filtered, and the covariance (63, 63)
        of all that it joins: views or head, map, filter, floor and calibration of the cameras."""
        joints, covariance = fused.joints, block_diagonal(fused.covariance)
        propagated = covariance + FLOOR ** 2 * np.eye(63)
        views = np.isfinite(fused.reprojection_px).sum(axis=0)
        if refined is not None:
            # A joint that was not triangulated has no covariance, so it stays invalid.
            joints = np.where(fused.valid[:, None], refined.joints, np.nan)
            if refined.covariance is not None:
                covariance = refined.covariance
        self.follower.update(frames.stamp_ns, joints, propagated)
        if self.calibration is not None:
            covariance = self.calibration.apply(covariance, views)
        velocity = None
        if self.settings.filter:
            filtered = self.smoother.update(frames.stamp_ns, joints, covariance)
            joints, velocity, covariance = filtered.joints, filtered.velocity, filtered.covariance
            if self.calibration is not None:
                covariance = self.calibration.apply_filtered(covariance, views)
        # These errors stay as they are from frame to frame, so that no filter lessens them.
        covariance = covariance + FLOOR ** 2 * np.eye(63)
        unsure = calibration_covariance(fused.joints, fused.covariance, self._rigs.of(frames.views),
                                        np.isfinite(fused.reprojection_px), estimate.variance_px2, joints)
        return joints, velocity, covariance if unsure is None else covariance + unsure

    def _finish(self, frames: FrameSet, estimate: ViewEstimate, fused: Fused, refined: Refinement | None,
                stage_ms: dict[str, float]) -> HandEstimate:
        started = time.perf_counter()
        if self._seen_ns is None:
            self.track_id += 1
        self._seen_ns = frames.stamp_ns
        joints, velocity, covariance = self._joined(frames, estimate, fused, refined)
        valid = np.isfinite(joints).all(axis=1)
        rows = [frames.expected.index(name) for name in estimate.cameras]
        count = len(frames.expected)
        weights, residuals = np.zeros((count, 21)), np.full((count, 21), np.nan)
        used = np.zeros(count, bool)
        weights[rows], residuals[rows], used[rows] = fused.weights, fused.reprojection_px, fused.used
        vertices = None
        if self.settings.hand_model:
            self._fit = self.surface.fit(joints, covariance, valid, self._fit)
            vertices = None if self._fit is None else self._fit.vertices
        elif refined is not None and self.surface is not None:
            vertices = refined.vertices
        spread = None if vertices is None else self.surface.vertex_variance(covariance)
        stage_ms['finish'] = 1e3 * (time.perf_counter() - started)
        return HandEstimate(
            stamp_ns=frames.stamp_ns, handedness=self.settings.handedness,
            score=float(np.mean(estimate.score[fused.used])), joints=joints, covariance=covariance,
            valid=valid, cameras=frames.expected, view_used=used, view_weights=weights, reprojection_px=residuals,
            covariance_calibrated=self._calibrated, velocity=velocity,
            vertices=vertices, vertex_variance=spread, fit=self._fit,
            view_reports=() if self.health is None else self.health.reports(), track_id=self.track_id,
            stage_ms=stage_ms)
