"""Messages of several cameras in, hands out: what runs live, and what recordings are measured by.

A message becomes a view here and nowhere else: synchronised, decoded, checked against the size that its camera is
calibrated for. The caller brings messages and clock: the worker of a node, or the log of a recording.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from hand_unc_ros.data.camera_messages import check_size
from hand_unc_ros.errors import ImageFormatError
from hand_unc_ros.estimation.synchroniser import MatchedSet, Synchroniser
from hand_unc_ros.estimation.types import FrameResult, FrameSet
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand.fitting import HandFitter
from hand_unc_ros.methods.contract import View


class Estimator(Protocol):
    """What a stream needs of `estimation.estimator.HandEstimator`. surfaces: by handedness, the hand models whose
    meshes it gives."""

    surfaces: Mapping[str, HandFitter]

    def process(self, frames: FrameSet) -> FrameResult:
        """All hands of one frame set."""

    def reset(self) -> None:
        """Forget all tracks."""

    def close(self) -> None:
        """Release what the method holds."""


class Processed(NamedTuple):
    """A set and what became of it. faults: of each calibrated camera of the set, why its image cannot be used, None
    where it can.  decode_ms: from messages to views."""

    frames: FrameSet
    result: FrameResult
    faults: dict[str, str | None]
    decode_ms: float


class Stream:
    """Synchroniser, decoder and estimator in a row.

    camera: name → its calibrated camera, None while that is not known.  decode: a message and its camera →
    (H, W, 3) uint8 RGB; raises ImageFormatError.
    `add`, `poll` and what reads `statistics` are to be called one at a time; `process` may run beside them.
    """

    def __init__(self, synchroniser: Synchroniser, estimator: Estimator, camera: Callable[[str], Camera | None],
                 decode: Callable[[Any, Camera], np.ndarray]) -> None:
        self.synchroniser = synchroniser
        self.estimator = estimator
        self._camera = camera
        self._decode = decode
        self._resets = synchroniser.statistics.resets

    def add(self, camera: str, stamp_ns: int, message: Any, now_ns: int) -> bool:
        """Take a message that arrived at `now_ns`. False where its camera is not calibrated: to the synchroniser it is
        then silent, so that no set waits for what cannot be used."""
        if self._camera(camera) is None:
            return False
        self.synchroniser.add(camera, stamp_ns, message, now_ns)
        return True

    def process(self, matched: MatchedSet) -> Processed:
        """The hands of a set. After a jump in time the estimator starts anew."""
        started = time.perf_counter()
        resets = self.synchroniser.statistics.resets
        if resets != self._resets:
            self._resets = resets
            self.estimator.reset()
        views: dict[str, View] = {}
        faults: dict[str, str | None] = {}
        for name, (stamp_ns, message) in matched.items.items():
            camera = self._camera(name)
            if camera is None:
                continue
            try:
                image = self._decode(message, camera)
                check_size(camera, image)
            except ImageFormatError as error:
                faults[name] = str(error)
                continue
            faults[name] = None
            views[name] = View(camera, image, stamp_ns)
        decode_ms = 1e3 * (time.perf_counter() - started)
        frames = FrameSet(matched.stamp_ns, views, self.synchroniser.cameras)
        least = self.synchroniser.min_views
        if len(views) < least:
            result = FrameResult(matched.stamp_ns, reasons=(f'{len(views)} usable images, {least} needed',))
        else:
            result = self.estimator.process(frames)
        return Processed(frames, result, faults, decode_ms)
