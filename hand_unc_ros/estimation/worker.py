"""The thread between messages and estimates: callbacks leave messages here, it works on the newest set of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from hand_unc_ros.estimation.health import CameraHealth, OutputHealth
from hand_unc_ros.estimation.stream import Stream
from hand_unc_ros.estimation.synchroniser import MatchedSet
from hand_unc_ros.estimation.types import FrameResult

# Longest sleep of the worker. Simulated time may run at any speed, so deadlines on it are looked at often.
_IDLE_S = 0.5
_SIMULATED_S = 0.01


class Worker:
    """Owns the stream and its thread.

    cameras: health by camera name.  now_ns: the clock of the messages, and simulated: whether it is one that runs at
    any speed.  publish: called from the worker with the result of each set, and the set.
    fail: called from the worker with a sentence and the exception when the estimator or `publish` raised.
    """

    def __init__(self, stream: Stream, cameras: Mapping[str, CameraHealth], *, now_ns: Callable[[], int],
                 simulated: Callable[[], bool], publish: Callable[[FrameResult, MatchedSet], None],
                 fail: Callable[[str, Exception], None]) -> None:
        self._stream = stream
        self._cameras = cameras
        self._now_ns = now_ns
        self._simulated = simulated
        self._publish = publish
        self._fail = fail
        self._condition = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.output = OutputHealth()

    def start(self) -> None:
        """Start the thread."""
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
        with self._condition:
            if not self._stream.add(camera, stamp_ns, message, self._now_ns()):
                health.uncalibrated += 1
            self._condition.notify()

    def read_statistics(self, read: Callable[[Any], Any]) -> Any:
        """`read(statistics)` while no message is being added."""
        with self._condition:
            return read(self._stream.synchroniser.statistics)

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
                sets = self._stream.synchroniser.poll(now_ns)
                if sets:
                    self.output.skipped += len(sets) - 1
                    self.output.last_set_s = time.monotonic()
                    return sets[-1]
                deadline_ns = self._stream.synchroniser.next_deadline_ns
                wait_s = _IDLE_S if deadline_ns is None else min(_IDLE_S, (deadline_ns - now_ns) / 1e9)
                if deadline_ns is not None and self._simulated():
                    wait_s = min(wait_s, _SIMULATED_S)
                self._condition.wait(wait_s)
        return None

    def _process(self, matched: MatchedSet) -> None:
        frames, result, faults, decode_ms = self._stream.process(matched)
        for name, fault in faults.items():
            self._cameras[name].image_fault = fault
        estimated_s = time.perf_counter()
        if result.hands or result.readings:
            self._publish(result, matched)
        if result.reasons:
            self.output.no_hand_reason = '; '.join(result.reasons)
        if not result.hands:
            self.output.no_hand += 1
            if len(frames.views) >= self._stream.synchroniser.min_views:
                self.output.failure = None
            return
        published_s = time.perf_counter()
        self.output.note_stages({'decode': decode_ms, **result.stage_ms,
                                 'publish': 1000 * (published_s - estimated_s)})
        self.output.note_published(time.monotonic(), (self._now_ns() - matched.stamp_ns) / 1e6)
        for hand in result.hands:
            for name, residuals in zip(hand.cameras, hand.reprojection_px):
                if np.isfinite(residuals).any():
                    self._cameras[name].note_reprojection(float(np.nanmedian(residuals)))
        for name, report in zip(self._cameras, result.view_reports):
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
        self._stream.estimator.reset()
