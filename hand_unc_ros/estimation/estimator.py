"""The live pipeline without ROS: a frame set in, hands with covariance out."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hand_unc_ros.estimation.carried import carried
from hand_unc_ros.estimation.covariance import CovarianceStages
from hand_unc_ros.estimation.covariance_map import CovarianceMap
from hand_unc_ros.estimation.crop_boxes import boxes_around
from hand_unc_ros.estimation.hand_assignment import boxes_of_new_hands, owned_readings, unclaimed
from hand_unc_ros.estimation.innovations import innovations
from hand_unc_ros.estimation.plausibility import implausibility
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.simultaneous import simultaneous
from hand_unc_ros.estimation.tracks import Track
from hand_unc_ros.estimation.types import FrameResult, FrameSet, HandEstimate, HandReadings
from hand_unc_ros.estimation.view_health import Observation, ViewHealth
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.inverted_poses import inversion_hint
from hand_unc_ros.geometry.measurement_range import MAX_SIGMA
from hand_unc_ros.geometry.rig_cache import RigCache
from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.hand.fitting import HandFitter
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.methods.contract import Crop, Fused, HandPrior, Method, NotFused, View, ViewReading
from hand_unc_ros.methods.cropping import cut_crop, whole_image
from hand_unc_ros.methods.view_gaussians import stack

# Seconds between two searches for a hand beside one that is followed.
SEARCH_PERIOD_S = 0.15
# Hands whose joints are nearer to each other in the median, metres, are one: those of folded hands are a palm apart.
SAME_HAND_M = 0.015


class _Sighting(NamedTuple):
    """A hand in a set before fusion: its track, new or followed, what is known of it, without a prediction where it was
    searched for, and what each view reads of it."""

    track: Track
    prior: HandPrior
    readings: dict[str, ViewReading]


class _Outcome(NamedTuple):
    """What became of a sighting. timed: its readings at the time of the set.  counted: these as they were fused.  fused:
    the hand, or why there is none."""

    sighting: _Sighting
    timed: Mapping[str, ViewReading]
    counted: Mapping[str, ViewReading]
    fused: Fused | NotFused


class HandEstimator:
    """Follows hands through frame sets by a method.

    covariance_map: applied to what is published.  surfaces: by handedness, the hand model whose mesh is given; it is
    fitted where the settings name one, else the vertices are the method's.  hands: those that are looked for, by
    default the one of the settings; the method must be able to find them.
    tracks: the hands that are followed.  health: of the cameras, None before the first hand and where it is not
    watched.
    """

    def __init__(self, method: Method, settings: EstimatorSettings = EstimatorSettings(),
                 covariance_map: CovarianceMap | None = None, surfaces: Mapping[str, HandFitter] | None = None,
                 hands: Sequence[str] | None = None) -> None:
        self.method = method
        self.settings = settings
        self.stages = CovarianceStages(covariance_map, settings.filter)
        self.surfaces = dict(surfaces or {})
        self.hands = tuple(hands or settings.hands)
        self.tracks: list[Track] = []
        self._lost: list[Track] = []
        self._searched_ns: int | None = None
        self.health: ViewHealth | None = None
        self._last_id = 0
        self._rigs = RigCache()

    def reset(self) -> None:
        """Forget the hands, as after a jump in time."""
        self.method.reset()
        self.tracks.clear()
        self._lost.clear()
        self._searched_ns = None

    def close(self) -> None:
        """Free what the method holds."""
        self.method.close()

    def process(self, frames: FrameSet) -> FrameResult:
        """Estimate the hands in a frame set. Never gives a non-finite valid joint or an indefinite covariance."""
        self._end([track for track in self.tracks if track.ended(frames.stamp_ns)])
        self._lost = [track for track in self._lost if not track.ended(frames.stamp_ns)]
        least = self.settings.least_views if self.tracks else self.settings.min_views
        if len(frames.views) < least:
            return FrameResult(frames.stamp_ns, reasons=(
                f'{len(frames.views)} of {len(frames.expected)} cameras came in time, '
                + _needed(least),))
        stage_ms: Counter[str] = Counter()
        rig = self._rigs.of([view.camera for view in frames.views.values()])
        outcomes = _without_doubles(self._outcomes(self._follow(frames, rig, stage_ms), rig, stage_ms,
                                                    frames.stamp_ns))
        if len(frames.views) >= self.settings.min_views:
            # What was followed and is no hand, or another one, is searched for at once; where few cameras deliver, it is
            # expected where it was going.
            self._lose([outcome.sighting.track for outcome in outcomes.values()
                        if isinstance(outcome.fused, NotFused)])
        # A hand that one view kept is looked for in the views that came back: they were cropped by a guess of its depth.
        alone = {side for side, outcome in outcomes.items() if isinstance(outcome.fused, Fused)
                 and outcome.fused.triangulation.used.sum() < self.settings.min_views <= len(frames.views)}
        known = {side: outcome.fused.joints if isinstance(outcome.fused, Fused) else outcome.sighting.prior.predicted
                 for side, outcome in outcomes.items() if side not in alone}
        found = self._search(frames, rig, stage_ms, known)
        for side, outcome in self._outcomes(found, rig, stage_ms, frames.stamp_ns).items():
            if side not in outcomes or isinstance(outcome.fused, Fused):
                outcomes[side] = outcome
        outcomes = _without_doubles(outcomes)
        hands, readings, reasons, observed = [], [], [], []
        for side in self.hands:
            if side not in outcomes:
                continue
            sighting, timed, _, fused = outcome = outcomes[side]
            if isinstance(fused, NotFused):
                hand = self._carried(sighting.track, frames)
                if hand is None:
                    reasons.append(fused.reason)
                    readings.append(HandReadings(0, side, timed, sighting.readings))
                else:
                    hands.append(hand)
                    readings.append(HandReadings(hand.track_id, side, timed, sighting.readings,
                                                 np.zeros((len(timed), JOINT_COUNT)), sighting.prior))
                continue
            # A rig's only camera has no other one to agree with.
            if self.settings.view_health and len(frames.expected) > 1:
                observed.append(self._observation(outcome, rig, stage_ms))
            hand = sighting.track.shown = self._publish(frames, outcome, stage_ms)
            readings.append(HandReadings(hand.track_id, side, timed, sighting.readings, fused.gate, sighting.prior))
            if hand.valid.any():
                hands.append(hand)
            else:
                reasons.append(f'no joint is known to a standard deviation of {MAX_SIGMA:g} m')
        reports = ()
        if observed:
            if self.health is None or self.health.cameras != frames.expected:
                self.health = ViewHealth(frames.expected, getattr(self.method, 'shift_factor', 1.0))
            started = time.perf_counter()
            self.health.update(frames.stamp_ns, observed)
            reports = self.health.reports()
            stage_ms['health'] += 1e3 * (time.perf_counter() - started)
        return FrameResult(frames.stamp_ns, tuple(hands), tuple(readings), tuple(reasons), reports, dict(stage_ms))

    def _carried(self, track: Track, frames: FrameSet) -> HandEstimate | None:
        """A followed hand of which too few cameras deliver images to search for it, where those show nothing of it."""
        if track.shown is None or len(frames.views) >= self.settings.min_views:
            return None
        hand = carried(track.shown, track.follower, frames)
        return hand if hand.valid.any() else None

    def _end(self, tracks: Sequence[Track]) -> None:
        """Follow these hands no longer."""
        if tracks:
            self.tracks = [track for track in self.tracks if not any(track is ended for ended in tracks)]
            self.method.reset()

    def _lose(self, tracks: Sequence[Track]) -> None:
        """Follow these hands no longer, but know them again if they come back within the memory of a track."""
        self._end(tracks)
        self._lost += tracks

    def _follow(self, frames: FrameSet, rig: CameraRig, stage_ms: Counter[str]) -> list[_Sighting]:
        """Read the followed hands in crops about where they are expected, each without what is another one's."""
        started = time.perf_counter()
        sightings, crops = [], []
        for side in self.hands:
            track = self._track(side)
            predicted = None if track is None else track.predict(frames.stamp_ns)
            if predicted is None:
                continue
            sightings.append(_Sighting(track, self._prior(track, predicted), _unread(frames.views, side)))
            if self.method.crop_size is None:
                boxes = np.zeros((len(frames.views), 4))
            else:
                boxes = boxes_around(rig, predicted, self.method.crop_box)
            crops.append(self._crops(frames.views, side, boxes))
        self._read(sightings, crops)
        if len(self.hands) > 1:
            owned = owned_readings([sighting.readings for sighting in sightings],
                                   [sighting.track for sighting in sightings], self._lost, rig, frames.stamp_ns)
            for sighting, cameras in zip(sightings, owned or ()):
                unread = _unread(frames.views, sighting.track.handedness)
                sighting.readings.update({name: unread[name] for name in unread if name not in cameras})
        stage_ms['views'] += 1e3 * (time.perf_counter() - started)
        return sightings

    def _search(self, frames: FrameSet, rig: CameraRig, stage_ms: Counter[str],
                known: Mapping[str, np.ndarray]) -> list[_Sighting]:
        """Find the hands that are missing in the whole images, and read them. What was lost a moment ago is searched for in
        every set, and so is what a single view keeps and several have just shown. Beside a followed hand, others are
        searched for every SEARCH_PERIOD_S.
        known: joints (21, 3) metres of the sides that need not be searched for."""
        tracks = {side: self._track(side) for side in self.hands}
        kept = [track for track in tracks.values() if track is not None and track.predict(frames.stamp_ns) is not None]
        followed = [track for track in kept if track.handedness in known]
        missing = [side for side in self.hands if not any(track is tracks[side] for track in followed)]
        waited = np.inf if self._searched_ns is None else abs(frames.stamp_ns - self._searched_ns) * 1e-9
        # A hand that a single view keeps is known about as well as one that was lost.
        alone = [track for track in kept if track.handedness in missing]
        lost = [*self._lost, *alone]
        hurried = any(track.handedness in missing for track in self._lost) or any(
            track.shown_by_several(frames.stamp_ns) for track in alone)
        if not missing or (kept and not hurried and waited < SEARCH_PERIOD_S):
            return []
        started = time.perf_counter()
        self._searched_ns = frames.stamp_ns
        found = unclaimed(self.method.find(frames.views), rig, [known[track.handedness] for track in followed])
        boxes = boxes_of_new_hands(found, rig, missing, followed, lost, frames.stamp_ns)
        sightings, crops = [], []
        for side in missing:
            track = tracks[side] or Track(0, side, readings=deque(maxlen=self.method.window - 1))
            sightings.append(_Sighting(track, self._prior(track, None), _unread(frames.views, side)))
            crops.append(self._crops(frames.views, side, boxes.get(side, np.full((len(frames.views), 4), np.nan))))
        self._read(sightings, crops)
        stage_ms['views'] += 1e3 * (time.perf_counter() - started)
        return sightings

    def _track(self, side: str) -> Track | None:
        return next((track for track in self.tracks if track.handedness == side), None)

    def _crops(self, views: Mapping[str, View], side: str, boxes: Sequence[np.ndarray]) -> list[Crop]:
        """One of each view that has a box (4,) of the hand: NaN where it does not show it."""
        size = self.method.crop_size
        return [whole_image(view, side) if size is None else cut_crop(view, box, side, size)
                for view, box in zip(views.values(), boxes) if np.isfinite(box).all()]

    def _read(self, sightings: Sequence[_Sighting], crops: Sequence[Sequence[Crop]]) -> None:
        """Put the readings of each sighting's crops into it; the crops of all are read together."""
        owners = [sighting for sighting, own in zip(sightings, crops) for _ in own]
        for owner, reading in zip(owners, self.method.read([crop for own in crops for crop in own])):
            owner.readings[reading.camera] = reading

    def _outcomes(self, sightings: Sequence[_Sighting], rig: CameraRig, stage_ms: Counter[str],
                  stamp_ns: int) -> dict[str, _Outcome]:
        """By side, what fusion makes of sightings in a set."""
        outcomes = {}
        for sighting in sightings:
            timed = simultaneous(sighting.readings, rig, sighting.track, stamp_ns, self.settings.delays_ns)
            counted = self._counted(timed)
            fused = self._fuse(sighting, counted, rig, stage_ms)
            outcomes[sighting.track.handedness] = _Outcome(sighting, timed, counted, fused)
        return outcomes

    def _counted(self, readings: Mapping[str, ViewReading]) -> Mapping[str, ViewReading]:
        """The readings that are fused: those of a camera that has moved count less, where that is wanted."""
        if not self.settings.down_weight or self.health is None:
            return readings
        extra = self.health.extra_variance_px2
        return {name: replace(reading, variance_px2=reading.variance_px2 + extra[name]) if name in extra else reading
                for name, reading in readings.items()}

    def _fuse(self, sighting: _Sighting, counted: Mapping[str, ViewReading], rig: CameraRig,
              stage_ms: Counter[str]) -> Fused | NotFused:
        """The hand, if it can be one."""
        started = time.perf_counter()
        followed = sighting.prior.predicted is not None
        least = max(self.settings.least_views if followed else self.settings.min_views, self.method.min_views)
        showing = sum(bool(reading.valid.any()) for reading in counted.values())
        if showing < least:
            return NotFused(f'{showing} of {len(counted)} views show a hand, {_needed(least)}')
        track = sighting.track
        fused = self.method.fuse([*track.readings, counted], rig, sighting.prior)
        if isinstance(fused, NotFused):
            return fused
        views = stack(counted.values())
        reason = implausibility(fused.triangulation, views)
        if reason is not None and (hint := inversion_hint(rig, views.joints_px, views.valid)) is not None:
            reason = f'{reason}; {hint}'
        own_ms = sum(fused.stage_ms.values())
        stage_ms.update(fused.stage_ms)
        stage_ms['fusion'] += 1e3 * (time.perf_counter() - started) - own_ms
        return fused if reason is None else NotFused(reason)

    def _prior(self, track: Track, predicted: np.ndarray | None) -> HandPrior:
        return HandPrior(track.handedness, predicted, track.bones if self.settings.bone_memory else None)

    def _observation(self, outcome: _Outcome, rig: CameraRig, stage_ms: Counter[str]) -> Observation:
        started = time.perf_counter()
        views, triangulation = stack(outcome.timed.values()), outcome.fused.triangulation
        observation = Observation(views, innovations(views, rig, triangulation.joints), triangulation.used,
                                  outcome.sighting.track.handedness)
        stage_ms['health'] += 1e3 * (time.perf_counter() - started)
        return observation

    def _begin(self, track: Track, joints: np.ndarray, stamp_ns: int) -> None:
        """Follow a hand that was searched for: as the lost one that it is, else as a new one."""
        side = track.handedness
        lost = next((one for one in self._lost if one.handedness == side and one.is_again(joints, stamp_ns)), None)
        self._lost = [one for one in self._lost if one.handedness != side]
        if lost is not None:
            track.resume(lost)
        else:
            self._last_id += 1
            track.track_id = self._last_id
        self.tracks.append(track)

    def _publish(self, frames: FrameSet, outcome: _Outcome, stage_ms: Counter[str]) -> HandEstimate:
        started = time.perf_counter()
        track, views, fused = outcome.sighting.track, stack(outcome.counted.values()), outcome.fused
        if track.track_id == 0:
            self._begin(track, fused.joints, frames.stamp_ns)
        fused = track.ranged(fused, views.cameras, frames)
        triangulation = fused.triangulation
        # What one view says of lengths is what its network makes of any hand.
        if self.settings.bone_memory and triangulation.used.sum() > 1:
            elapsed_ns = 0 if track.seen_ns is None else frames.stamp_ns - track.seen_ns
            track.bones = track.bones.learned(triangulation.joints, block_diagonal(triangulation.covariance),
                                              1e-9 * elapsed_ns)
        track.learn_calm(frames.stamp_ns, fused.joints)
        track.seen_ns = frames.stamp_ns
        if triangulation.used.sum() > 1:
            track.several_ns = frames.stamp_ns
        track.readings.append(outcome.timed)
        rig = self._rigs.of([view.camera for view in frames.views.values()])
        published = self.stages.publish(track, frames.stamp_ns, fused, rig, views.variance_px2)
        valid = np.isfinite(published.joints).all(axis=1)
        rows = [frames.expected.index(name) for name in views.cameras]
        count = len(frames.expected)
        weights, residuals, used = np.zeros((count, 21)), np.full((count, 21), np.nan), np.zeros(count, bool)
        weights[rows], residuals[rows] = triangulation.weights, triangulation.reprojection_px
        used[rows] = triangulation.used
        surface, vertices = self.surfaces.get(track.handedness), None
        if surface is not None and self.settings.hand_model:
            track.fit = surface.fit(published.joints, published.covariance, valid, track.fit)
            vertices = None if track.fit is None else track.fit.vertices
        elif surface is not None:
            vertices = fused.vertices
        spread = colours = None
        if vertices is not None:
            spread = surface.vertex_variance(published.covariance)
            # A mesh that is fitted has the method's vertices where it is of the same hand model.
            if fused.vertex_colours is not None and surface.name == self.method.surface:
                colours = fused.vertex_colours
        stage_ms['finish'] += 1e3 * (time.perf_counter() - started)
        return HandEstimate(
            stamp_ns=frames.stamp_ns, handedness=track.handedness,
            score=float(np.mean(views.score[triangulation.used])), joints=published.joints,
            covariance=published.covariance, valid=valid, cameras=frames.expected, view_used=used, view_weights=weights,
            reprojection_px=residuals, covariance_calibrated=published.calibrated, velocity=published.velocity,
            motion=published.motion, vertices=vertices, vertex_variance=spread, vertex_colours=colours, fit=track.fit,
            track_id=track.track_id)


def _without_doubles(outcomes: Mapping[str, _Outcome]) -> dict[str, _Outcome]:
    """By side, as given, but of two sightings that became the same hand only the one that was expected nearer to it."""
    fused = {side: outcome for side, outcome in outcomes.items() if isinstance(outcome.fused, Fused)}
    if len(fused) == 2:
        right, left = (outcome.fused.joints for outcome in fused.values())
        if _median_distance(right, left) < SAME_HAND_M:
            worse = max(fused, key=lambda side: _surprise(fused[side]))
            reason = NotFused(f'the hand that was taken for the {worse} one is the other one')
            return {**outcomes, worse: fused[worse]._replace(fused=reason)}
    return dict(outcomes)


def _surprise(outcome: _Outcome) -> tuple[float, float]:
    """How far from where it was expected a hand is, metres, infinite where it was searched for; then the probability
    that the images give to the other side."""
    track, prior, readings = outcome.sighting
    other = np.mean([1 - one.right if track.handedness == 'right' else one.right for one in readings.values()])
    apart = np.inf if prior.predicted is None else _median_distance(outcome.fused.joints, prior.predicted)
    return apart, float(other)


def _median_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Of joints (21, 3) that both have; infinite without any."""
    apart = np.linalg.norm(one - other, axis=1)
    known = np.isfinite(apart)
    return float(np.median(apart[known])) if known.any() else np.inf


def _needed(least: int) -> str:
    return f'{least} are needed: depth is not observable' if least > 1 else 'one is needed'


def _unread(views: Mapping[str, View], side: str) -> dict[str, ViewReading]:
    return {name: ViewReading.unread(view, side) for name, view in views.items()}
