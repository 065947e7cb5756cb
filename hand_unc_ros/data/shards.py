"""Sets of samples on disk: shards that are either whole or absent, so that making a set can stop and go on anywhere.

A folder holds `dataset.json` (see ShardedSet) and `shard-00000.safetensors`, …. A shard is one safetensors file, read
lazily; N samples with V views each:

    joints (N, 21, 3), vertices (N, M, 3), pose (N, 48), shape (N, 10), translation (N, 3)    float64, metres and rad
    K (N, V, 3, 3), D (N, V, n), world_from_camera (N, V, 4, 4) float64; size (N, V, 2) int64, width and height
    joints_px (N, V, 21, 2) float64; visible (N, V, 21) bool
    left (N,) bool; frame (N,), time_ns (N,) int64
    images (bytes,) uint8: all JPEG files one after the other; span (N, V, 2) int64: from where to where in it a view's
        image lies, twice the same number where the camera delivered nothing
    text (bytes,) uint8: JSON with `names`, `sequences` (N strings) and `cameras` (N lists of V names)

`vertices` and MANO's three are left out where the samples have none. The metadata names the set and the shard's number.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hand_unc_ros.data.samples import ManoParameters, Sample, SampleView
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.files import write_file
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand.joints import JOINT_NAMES

FORMAT = 1
DESCRIPTION = 'dataset.json'
JPEG_QUALITY = 95
OPEN_SHARDS = 16
REMEDY = 'run the command that made the set again: it makes what is missing'


@dataclass(frozen=True)
class ShardedSet:
    """What `dataset.json` says: all that decides the content of every shard.

    samples: their number, in sequences of `frames` that follow each other in time.  views: cameras of each.
    shard_samples: samples of a shard, whole sequences.  distortion_model: of all cameras.  hand_model: its name.
    generator: version and settings of what made the samples.
    """

    kind: str
    seed: int
    samples: int
    views: int
    frames: int
    shard_samples: int
    distortion_model: str
    hand_model: str
    generator: dict[str, Any]
    format: int = FORMAT
    joint_order: tuple[str, ...] = JOINT_NAMES

    @property
    def shards(self) -> int:
        """Number of shards, of which the last may be smaller."""
        return -(-self.samples // self.shard_samples)

    @cached_property
    def digest(self) -> str:
        """Hash of everything that defines the set."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:32]

    def range_of(self, shard: int) -> range:
        """Numbers of the samples in a shard."""
        return range(shard * self.shard_samples, min((shard + 1) * self.shard_samples, self.samples))

    def to_json(self) -> str:
        """The content of `dataset.json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


@contextlib.contextmanager
def unfinished(folder: Path, content: ShardedSet) -> Iterator[list[int]]:
    """The shards of a set that `folder` lacks; begins the set where there is none. Nobody else may write meanwhile.

    Raises DatasetError where the folder holds anything else or another process is writing into it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DatasetError(f'{folder} cannot be made a folder ({error.strerror}); choose another one') from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DatasetError(f'another process is writing into {folder}; wait for it or choose another '
                               'folder') from None
        _begin(folder, content)
        yield [number for number in range(content.shards) if _whole(folder, content, number) is not None]
    finally:
        os.close(handle)


def _begin(folder: Path, content: ShardedSet) -> None:
    for part in folder.glob('*.part'):
        part.unlink()
    if not (folder / DESCRIPTION).exists():
        if any(folder.iterdir()):
            raise DatasetError(f'{folder} is not empty and holds no {DESCRIPTION}; choose another folder or empty '
                               'this one')
        _write(folder / DESCRIPTION, content.to_json().encode())
    there = _read_description(folder)
    if there != content:
        ours, theirs = asdict(content), asdict(there)
        other = next(name for name in ours if ours[name] != theirs[name])
        raise DatasetError(f'{folder} holds another set: its {other} is {theirs[other]!r}, not {ours[other]!r}; '
                           'choose another folder or delete this one')


def write_shard(folder: Path, content: ShardedSet, number: int, samples: Sequence[Sample]) -> None:
    """Write shard `number`, whole or not at all. Raises ValueError for samples that are not what `content` says."""
    arrays = _arrays(content, samples)
    if len(samples) != len(content.range_of(number)):
        raise ValueError(f'shard {number} takes {len(content.range_of(number))} samples, got {len(samples)}')
    # One entry alone: safetensors writes several in any order, and equal shards shall be equal files.
    _write(_path(folder, number), save(arrays, {'shard': f'{content.digest}/{number}'}))


def _arrays(content: ShardedSet, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    views = [view for sample in samples for view in sample.views]
    if any(len(sample.views) != content.views for sample in samples):
        raise ValueError(f'every sample of this set has {content.views} views')
    if any(view.camera.distortion_model != content.distortion_model for view in views):
        raise ValueError(f'every camera of this set has the distortion model {content.distortion_model!r}')

    def per_view(values: list) -> np.ndarray:
        array = np.stack(values)
        return np.ascontiguousarray(array.reshape(len(samples), content.views, *array.shape[1:]))

    images = [_encoded(view) for view in views]
    ends = np.cumsum([len(image) for image in images])
    text = {'names': [sample.name for sample in samples], 'sequences': [sample.sequence for sample in samples],
            'cameras': [[view.camera.name for view in sample.views] for sample in samples]}
    arrays = {
        'joints': np.stack([sample.joints for sample in samples]).astype(np.float64),
        'left': np.array([sample.side == 'left' for sample in samples]),
        'frame': np.array([sample.frame for sample in samples], np.int64),
        'time_ns': np.array([sample.time_ns for sample in samples], np.int64),
        'K': per_view([view.camera.K for view in views]),
        'D': per_view([view.camera.D for view in views]),
        'world_from_camera': per_view([view.camera.world_from_camera for view in views]),
        'size': per_view([np.array([view.camera.width, view.camera.height], np.int64) for view in views]),
        'joints_px': per_view([np.asarray(view.joints_px, np.float64) for view in views]),
        'visible': per_view([np.asarray(view.visible, bool) for view in views]),
        'span': per_view([np.array([end - len(image), end], np.int64) for image, end in zip(images, ends)]),
        'images': np.frombuffer(b''.join(images), np.uint8),
        'text': np.frombuffer(json.dumps(text).encode(), np.uint8),
    }
    if samples[0].vertices is not None:
        arrays['vertices'] = np.stack([sample.vertices for sample in samples]).astype(np.float64)
    if samples[0].mano is not None:
        for name in ('pose', 'shape', 'translation'):
            arrays[name] = np.stack([getattr(sample.mano, name) for sample in samples]).astype(np.float64)
    return arrays


def _encoded(view: SampleView) -> bytes:
    if view.image is None:
        return b''
    _, data = cv2.imencode('.jpg', view.read()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


def _write(path: Path, data: bytes) -> None:
    write_file(path, data, DatasetError)


def _path(folder: Path, number: int) -> Path:
    return folder / f'shard-{number:05d}.safetensors'


def _whole(folder: Path, content: ShardedSet, number: int) -> str | None:
    """None for a whole shard, else what is wrong with its file. Raises DatasetError where it is of another set."""
    path = _path(folder, number)
    if not path.is_file():
        return 'is missing'
    try:
        with safe_open(path, framework='np') as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        return f'is cut off or damaged ({error})'
    if metadata.get('shard') != f'{content.digest}/{number}':
        raise DatasetError(f'{path} belongs to another set than the {DESCRIPTION} beside it; delete that file and '
                           f'{REMEDY}')
    return None


def _read_description(folder: Path) -> ShardedSet:
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise DatasetError(f'{path}: no such file; give the folder of a set that `hand-unc synth` has made') from None
    except (OSError, ValueError) as error:
        raise DatasetError(f'{path} cannot be read ({error}); delete it and the shards beside it, and make the set '
                           'again') from error
    if not isinstance(values, dict) or values.get('format') != FORMAT:
        found = values.get('format') if isinstance(values, dict) else None
        raise DatasetError(f'{path} has format {found!r}, expected {FORMAT}; make the set again with `hand-unc synth`')
    try:
        content = ShardedSet(**values | {'joint_order': tuple(values['joint_order'])})
        counts = (content.samples, content.views, content.frames, content.shard_samples)
        valid = all(isinstance(count, int) and count > 0 for count in counts)
    except (KeyError, TypeError) as error:
        raise DatasetError(f'{path} is no description of a set ({error}); make the set again') from error
    if not valid:
        raise DatasetError(f'{path} gives a number of samples, views or frames below 1; make the set again')
    if content.joint_order != JOINT_NAMES:
        raise DatasetError(f'{path} has another joint order than {JOINT_NAMES}; make the set again')
    return content


class ShardSource:
    """The samples of a set on disk, a SequenceSource. State: files held open; a copy in another process opens them
    anew.

    description: what the set is, for protocols.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.content = content = _read_description(self.folder)
        for number in range(content.shards):
            wrong = _whole(self.folder, content, number)
            if wrong is not None:
                raise DatasetError(f'{_path(self.folder, number)} {wrong}; {REMEDY}')
        self.sequences = [(start, min(start + content.frames, content.samples))
                          for start in range(0, content.samples, content.frames)]
        self.description = (f'synthetic {content.kind}, seed {content.seed}: {content.samples} samples of '
                            f'{content.views} views, {content.frames} per sequence, hand model {content.hand_model}, '
                            f'set {content.digest[:8]}')
        self._open: OrderedDict[int, tuple[Any, dict[str, list]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {'_open': OrderedDict()}

    def __len__(self) -> int:
        return self.content.samples

    @cached_property
    def times_ns(self) -> list[int]:
        """Of every sample. Raises DatasetError naming a damaged file."""
        try:
            return [time for number in range(self.content.shards)
                    for time in self._shard(number)[0].get_tensor('time_ns').tolist()]
        except (SafetensorError, OSError, ValueError) as error:
            raise DatasetError(f'{self.folder} has a damaged shard ({error}); delete it and {REMEDY}') from error

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f'sample {index} of {len(self)}')
        number, row = divmod(index % len(self), self.content.shard_samples)
        try:
            return self._sample(*self._shard(number), row)
        except (SafetensorError, OSError, ValueError, KeyError, IndexError) as error:
            raise DatasetError(f'{_path(self.folder, number)} is damaged ({error}); delete it and {REMEDY}') from error

    def _shard(self, number: int) -> tuple[Any, dict[str, list]]:
        if number not in self._open:
            file = safe_open(_path(self.folder, number), framework='np')
            text = json.loads(file.get_tensor('text').tobytes())
            self._open[number] = file, text
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def _sample(self, file: Any, text: dict[str, list], row: int) -> Sample:
        def value(name: str) -> np.ndarray:
            return file.get_slice(name)[row:row + 1][0]

        K, D, pose, size = value('K'), value('D'), value('world_from_camera'), value('size').tolist()
        joints_px, visible = value('joints_px'), value('visible')
        images = file.get_slice('images')
        views = []
        for place, (name, (start, stop)) in enumerate(zip(text['cameras'][row], value('span').tolist())):
            camera = Camera(name, *size[place], K[place], self.content.distortion_model, D[place], pose[place])
            image = images[start:stop].tobytes() if stop > start else None
            views.append(SampleView(camera, image, joints_px[place], visible[place]))
        names = set(file.keys())
        mano = ManoParameters(value('pose'), value('shape'), value('translation')) if 'pose' in names else None
        return Sample(text['names'][row], tuple(views), value('joints'),
                      value('vertices') if 'vertices' in names else None, mano, int(value('time_ns')),
                      'left' if value('left') else 'right', text['sequences'][row], int(value('frame')))


def open_shards(folder: Path) -> ShardSource:
    """The set that `hand-unc synth` made in `folder`.

    Raises DatasetError naming the file that is missing, cut off, of another set or of another version.
    """
    return ShardSource(folder)
