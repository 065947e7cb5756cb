"""What an adaptation is made of: the parts of the recordings, to learn from or to judge by, and hashes of all
inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.estimation.build import files_of
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.recordings.evaluate import bag_fingerprint
from hand_unc_ros.evaluation.recordings.replay import find_calibration, find_images
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.networks.weights import fingerprint
from hand_unc_ros.settings.recordings import BagSettings

# Seconds of a recording that are worked on at once: what a killed run loses at most, and long enough that finding the
# hands anew costs little. Short recordings are cut into at least FEWEST_PARTS.
PART_S, FEWEST_PARTS = 30.0, 5
# Every so many parts one is held out, where no recording of its own judges.
JUDGE_EVERY = 5


@dataclass(frozen=True, eq=False)
class Source:
    """A recording, itself alone equal to itself. sha256: of its files.  cameras: with images, and rig: theirs.  judges:
    it is only judged by."""

    path: Path
    settings: BagSettings
    sha256: str
    duration_s: float
    rig: CameraRig
    judges: bool = False

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras."""
        return self.rig.names


@dataclass(frozen=True, eq=False)
class Part:
    """part_s: from and to, seconds after the start of its recording.  number: among all parts of the recording.
    held_out: it judges, and nothing is learned from it."""

    source: Source
    number: int
    part_s: tuple[float, float]
    held_out: bool

    @property
    def settings(self) -> BagSettings:
        """How it is read."""
        return replace(self.source.settings, part_s=self.part_s)

    @property
    def name(self) -> str:
        """For files."""
        return f'{self.source.path.name}-{self.source.sha256[:8]}-{self.number:04d}'


def open_source(path: Path, settings: BagSettings, judges: bool = False) -> Source:
    """Raises RecordingError and CalibrationError for a recording that cannot be used, of one camera for example."""
    with open_bag(path) as bag:
        calibrated = find_calibration(bag, settings)
        cameras = list(find_images(bag, calibrated, settings))
        return Source(Path(path), settings, bag_fingerprint(path), bag.duration_ns / 1e9,
                      calibrated.rig.subset(cameras), judges)


def plan_parts(sources: Sequence[Source], minutes: float) -> list[Part]:
    """Parts of all recordings, at most so many minutes of them, spread evenly over each; every JUDGE_EVERY-th is held
    out unless recordings of their own judge. Raises RecordingError where none would be held out."""
    of_their_own = any(source.judges for source in sources)
    total_s = sum(source.duration_s for source in sources)
    share = min(1.0, 60.0 * minutes / max(total_s, 1e-9))
    parts = []
    for source in sources:
        length = min(PART_S, source.duration_s / FEWEST_PARTS)
        count = max(1, int(source.duration_s / max(length, 1e-9) + 1e-6))
        wanted = max(1, round(share * count))
        chosen = np.unique(np.linspace(0, count - 1, wanted).round().astype(int))
        for place, number in enumerate(chosen.tolist()):
            held_out = source.judges or (not of_their_own and place % JUDGE_EVERY == JUDGE_EVERY // 2)
            last = number == count - 1
            parts.append(Part(source, number, (number * length, source.duration_s + 1 if last else
                                               (number + 1) * length), held_out))
    for what, present in (('to learn from', [part for part in parts if not part.held_out]),
                          ('to judge by', [part for part in parts if part.held_out])):
        if not present:
            raise RecordingError(f'the recordings leave nothing {what}; record for longer, or raise --minutes')
    return parts


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 in hexadecimal of what JSON can say."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def rig_content(rig: CameraRig) -> list[dict[str, Any]]:
    """All numbers of a rig that decide what is computed with it."""
    return [{'name': camera.name, 'size': [camera.width, camera.height], 'K': np.asarray(camera.K).tolist(),
             'model': camera.distortion_model, 'D': np.asarray(camera.D).tolist(),
             'pose': np.asarray(camera.world_from_camera).tolist()} for camera in rig]


def estimator_content(settings: EstimatorSettings) -> dict[str, Any]:
    """The settings of an estimator, its files by their content."""
    content = asdict(settings)
    for name in ('weights', 'finder_weights', 'covariance_head', 'covariance_map', 'threads'):
        content.pop(name)
    return content | {'files': {name: fingerprint(file) for name, file in sorted(files_of(settings).items())}}
