"""What every dataset gives: one hand, seen by several calibrated cameras at one time, with its truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hand_unc_ros.data.encoded_images import decode_colours
from hand_unc_ros.errors import DatasetError, ImageFormatError
from hand_unc_ros.geometry.cameras import Camera

# Samples of a window come at most so many times the usual interval apart.
LONGEST_GAP = 2.5


@dataclass(frozen=True)
class ManoParameters:
    """pose: (48,) axis-angle rad, 16 joints in MANO's order, global orientation first, the mean pose added (what
    MANO calls flat_hand_mean=True).  shape: (10,).  translation: (3,) metres.  All in the sample's world frame."""

    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray


@dataclass(frozen=True)
class SampleView:
    """One camera's image of the hand.

    camera: intrinsics of the whole image, its pose in the sample's world frame.  image: a file, an encoded image,
    RGB uint8 (H, W, 3), or None for a camera that delivered nothing.  joints_px: (21, 2) in the whole (distorted)
    image, NaN where not annotated. visible: (21,) bool, annotated and not marked as hidden.
    box_px: (4,) centre x, y, side and roll, as in hand/crops.py, of a box in which the dataset says the hand is; None
    where it says so by the joints alone.
    """

    camera: Camera
    image: Path | bytes | np.ndarray | None
    joints_px: np.ndarray
    visible: np.ndarray
    box_px: np.ndarray | None = None

    @property
    def annotated(self) -> np.ndarray:
        """(21,) bool, whether a 2D joint is known."""
        return np.isfinite(self.joints_px).all(axis=1)

    @property
    def in_image(self) -> np.ndarray:
        """(21,) bool, the annotated joints that lie on a pixel of the image. Datasets label hands beyond its border
        too, where the image says nothing of them: only these joints count, whichever reader gave the view."""
        with np.errstate(invalid='ignore'):
            inside = (self.joints_px > -0.5) & (self.joints_px < [self.camera.width - 0.5, self.camera.height - 0.5])
        return inside.all(axis=1)

    def read(self) -> np.ndarray:
        """RGB uint8 (H, W, 3). Raises DatasetError naming the file that cannot be read or has another size."""
        if isinstance(self.image, np.ndarray):
            return self.image
        what = self.image if isinstance(self.image, Path) else f"the image of camera '{self.camera.name}'"
        try:
            data = self.image.read_bytes() if isinstance(self.image, Path) else self.image
        except OSError as error:
            raise DatasetError(f'{what} cannot be read ({error.strerror}); is the dataset unpacked completely?'
                               ) from error
        try:
            return decode_colours(data, str(what), self._check_size)
        except ImageFormatError as error:
            raise DatasetError(f'{error}; unpack that file again') from error

    def _check_size(self, width: int, height: int) -> None:
        if (width, height) != (self.camera.width, self.camera.height):
            what = self.image if isinstance(self.image, Path) else f"the image of camera '{self.camera.name}'"
            raise DatasetError(f'{what} has {width}×{height} pixels, its camera calibration is for '
                               f'{self.camera.width}×{self.camera.height}')


@dataclass(frozen=True)
class Sample:
    """One hand at one time.

    name: unique within its dataset, for messages.  joints: (21, 3) metres, world, public order, NaN where not
    annotated.  vertices: (N, 3) metres, world, of a hand model's right or left mesh (real data: MANO's), or None.
    side: 'right' or 'left'.
    sequence, frame: which recording it is from and its place there; frames of one sequence are in order of time.
    left_out: cameras that the dataset lists here, but without an annotation.
    """

    name: str
    views: tuple[SampleView, ...]
    joints: np.ndarray
    vertices: np.ndarray | None = None
    mano: ManoParameters | None = None
    time_ns: int = 0
    side: str = 'right'
    sequence: str = ''
    frame: int = 0
    left_out: tuple[str, ...] = ()


class SampleSource(Protocol):
    """A dataset with random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class SequenceSource(SampleSource, Protocol):
    """A dataset whose samples follow each other in time.

    sequences: index ranges [start, stop) of samples of one hand in one recording, in order of time.
    times_ns: of every sample, as in `Sample`, known without reading any.
    """

    sequences: Sequence[tuple[int, int]]
    times_ns: Sequence[int]


def windows(source: SequenceSource, length: int, step: int = 1) -> list[range]:
    """The indices of `length` samples each, every `step`-th of a sequence and none in two windows.

    Where samples are missing the time between two is longer than usual: windows begin anew behind gaps of more than
    LONGEST_GAP usual ones. Raises ValueError for a length or step below 1.
    """
    if length < 1 or step < 1:
        raise ValueError(f'a window needs length and step of at least 1, got {length} and {step}')
    times = np.asarray(source.times_ns, np.int64)
    gaps = [np.diff(times[start:stop:step]) for start, stop in source.sequences]
    usual = np.median(np.concatenate(gaps)) if sum(map(len, gaps)) else 0
    found = []
    for (start, stop), apart in zip(source.sequences, gaps):
        borders = [0, *(np.flatnonzero(apart > LONGEST_GAP * usual) + 1).tolist(), len(apart) + 1]
        found += [range(start + step * first, start + step * (first + length), step)
                  for begin, end in zip(borders, borders[1:]) for first in range(begin, end - length + 1, length)]
    return found
