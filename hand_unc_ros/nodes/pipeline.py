"""From messages to estimates: callbacks leave messages here, one thread works on the newest set of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from hand_unc_ros.data.camera_messages import check_size
from hand_unc_ros.errors import ImageFormatError
from hand_unc_ros.estimation.synchroniser import MatchedSet, Synchroniser
from hand_unc_ros.estimation.types import FrameSet, HandEstimate, NoHand, View
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.nodes.calibration import Calibrations
from hand_unc_ros.nodes.diagnostics import CameraHealth, OutputHealth

# Longest sleep of the worker. Simulated time may run at any speed, so deadlines on it are looked at often.
_IDLE_S = 0.5
_SIMULATED_S = 0.01


class Estimator(Protocol):
    """What the pipeline needs of `estimation.estimator.HandEstimator`."""

    def process(self, frame_set: FrameSet) -> HandEstimate | NoHand: ...

    def reset(self) -> None: ...

    def close(self) -> None: ...


class Pipeline:
    """Owns the synchroniser, the estimator and the worker thread.

    decode: message, its camera -> (H, W, 3) RGB, raises ImageFormatError.  now_ns: the ROS clock.
    publish: called from the worker with each estimate or NoHand and the set that it was made of.
    fail: called from the worker with a sentence and the exception when the estimator or `publish` raised.
    """

    def __init__(self, synchroniser: Synchroniser, estimator: Estimator, calibrations: Calibrations,
                 cameras: Mapping[str, CameraHealth], *, min_views: int, decode: Callable[[Any, Camera], np.ndarray],
                 now_ns: Callable[[], int], simulated: Callable[[], bool],
                 publish: Callable[[HandEstimate | NoHand, MatchedSet], None],
                 fail: Callable[[str, Exception], None]) -> None:
        self._synchroniser = synchroniser
        self._estimator = estimator
        self._calibrations = calibrations
        self._cameras = cameras
        self._min_views = min_views
        self._decode = decode
        self._now_ns = now_ns
        self._simulated = simulated
        self._publish = publish
        self._fail = fail
        self._condition = threading.Condition()
        self._stopping = False
        self._resets = 0
        self._thread: threading.Thread | None = None
        self.output = OutputHealth()

    def start(self) -> None:
        now_s = time.monotonic()
        self.output.started_s = now_s
        for health in self._cameras.values():
            health.started_s = now_s
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name='estimator', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return when the worker has ended: its set is finished, and nothing is published after that."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def add(self, camera: str, stamp_ns: int, message: Any) -> None:
        """Take a message as it arrives; never waits for the worker."""
        health = self._cameras[camera]
        health.arrived(time.monotonic())
        if self._calibrations.camera(camera) is None:
            # To the synchroniser the camera is silent, so that no set waits for what cannot be used.
            health.uncalibrated += 1
            return
        with self._condition:
            self._synchroniser.add(camera, stamp_ns, message, self._now_ns())
            self._condition.notify()

    def read_statistics(self, read: Callable[[Any], Any]) -> Any:
        """`read(statistics)` while no message is being added."""
        with self._condition:
            return read(self._synchroniser.statistics)

    def _work(self) -> None:
        while (matched := self._next_set()) is not None:
            self.output.taken += 1
            try:
                self._process(matched)
            except Exception as error:
                self._recover(error)

    def _next_set(self) -> MatchedSet | None:
        """The newest set, after waiting for one; None when the worker is to stop."""
        with self._condition:
            while not self._stopping:
                now_ns = self._now_ns()
                sets = self._synchroniser.poll(now_ns)
                if sets:
                    self.output.skipped += len(sets) - 1
                    self.output.last_set_s = time.monotonic()
                    return sets[-1]
                deadline_ns = self._synchroniser.next_deadline_ns
                wait_s = _IDLE_S if deadline_ns is None else min(_IDLE_S, (deadline_ns - now_ns) / 1e9)
                if deadline_ns is not None and self._simulated():
                    wait_s = min(wait_s, _SIMULATED_S)
                self._condition.wait(wait_s)
        return None

    def _process(self, matched: MatchedSet) -> None:
        begin_s = time.perf_counter()
        resets = self._synchroniser.statistics.resets
        if resets != self._resets:
            self._resets = resets
            self._estimator.reset()
        views = {}
        for name, (stamp_ns, message) in matched.items.items():
            camera = self._calibrations.camera(name)
            if camera is None:
                continue
            health = self._cameras[name]
            try:
                image = self._decode(message, camera)
                check_size(camera, image)
            except ImageFormatError as error:
                health.image_fault = str(error)
                continue
            health.image_fault = None
            views[name] = View(camera, image, stamp_ns)
        if len(views) < self._min_views:
            self.output.no_hand += 1
            self.output.no_hand_reason = f'{len(views)} usable images, {self._min_views} needed'
            return
        decoded_s = time.perf_counter()
        estimate = self._estimator.process(FrameSet(matched.stamp_ns, views, tuple(self._cameras)))
        estimated_s = time.perf_counter()
        self._publish(estimate, matched)
        if isinstance(estimate, NoHand):
            self.output.no_hand += 1
            self.output.no_hand_reason = estimate.reason
            self.output.failure = None
            return
        published_s = time.perf_counter()
        self.output.note_stages({'decode': 1000 * (decoded_s - begin_s), **estimate.stage_ms,
                                 'publish': 1000 * (published_s - estimated_s)})
        self.output.note_published(time.monotonic(), (self._now_ns() - matched.stamp_ns) / 1e6)
        for name, residuals in zip(estimate.cameras, estimate.reprojection_px):
            if np.isfinite(residuals).any():
                self._cameras[name].note_reprojection(float(np.nanmedian(residuals)))
        for name, report in zip(estimate.cameras, estimate.view_reports):
            self._cameras[name].view = report

    def _recover(self, error: Exception) -> None:
        """Tell what failed and make ready for the next set."""
        self.output.failures += 1
        what = f'{type(error).__name__}: {error}'
        if isinstance(error, torch.cuda.OutOfMemoryError):
            torch.cuda.empty_cache()
            what = (f'the GPU is out of memory ({error}); use fewer cameras, precision float16 or another '
                    'device')
        self.output.failure = what
        self._fail(what, error)
        self._estimator.reset()
