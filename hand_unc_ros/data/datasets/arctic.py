"""ARCTIC: two hands that move articulated objects, before eight fixed cameras.

Format after the official documentation and code (https://github.com/zc-alexfan/arctic, docs/data and src/arctic), below
`arctic_data/data`: `meta/misc.json` (by subject: world2cam and intris_mat of the eight cameras, image_size with the
egocentric camera first, ioi_offset), `splits_json/protocol_p1.json`, `raw_seqs/SUBJECT/SEQUENCE.mano.npy` (a pickled
table by hand: rot, pose, trans, shape; metres, world), `images/SUBJECT/SEQUENCE/VIEW/NNNNN.jpg` or the same below
`cropped_images`. View 0 is the moving egocentric camera, which protocol p1 leaves out. Image NNNNN belongs to
annotation NNNNN − ioi_offset.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hand_unc_ros.data.datasets.files import array, camera, choose, entry, read_bytes, read_json, required_dir, rigid
from hand_unc_ros.data.datasets.mano_hands import ManoHands
from hand_unc_ros.data.datasets.views import inverted, projected_view, runs
from hand_unc_ros.data.samples import Sample
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand.inert_pickle import load_inert, plain
from hand_unc_ros.hand.pickle_limits import PickleError
from hand_unc_ros.hand.joints import to_public

REMEDY = 'unpack ARCTIC v1.0 with the scripts of https://github.com/zc-alexfan/arctic'
SPLITS = ('train', 'val')
SIDES = ('right', 'left')
IMAGES = ('images', 'cropped_images')
VIEWS = tuple(range(1, 9))
_PERIOD_NS = 1e9 / 30.0
# Images at both ends of a recording may be black, so the official splits leave out this many.
_MARGIN = 10
# A crop is a square of 1.5 times the object's box, which is given in units of 200 pixels, resized to 1000 pixels.
_CROP_SCALE = 1.5 * 200.0
_CROP_SIZE = 1000
# A processed sequence without vertices has some ten megabytes for every hundred frames.
_LARGEST_NPY = 2 ** 30
# Processed sequences kept in memory.
_CACHED = 4


class _Subject(NamedTuple):
    """cameras: of the whole images, in the order of VIEWS."""

    cameras: tuple[Camera, ...]
    offset: int


class _Fit(NamedTuple):
    """MANO parameters of one hand over N frames: pose (N, 48) without the mean, shape (N, 10), translation (N, 3)."""

    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray


class _Processed(NamedTuple):
    """joints: by side, (N, 21, 3) metres, world, smplx's order.  boxes: (N, 9, 3) centre and scale, pixels."""

    joints: dict[str, np.ndarray]
    boxes: np.ndarray


class Arctic:
    """One sample per hand and frame of protocol p1, with eight views.

    ARCTIC publishes MANO parameters, not joints. Joints come from the converted MANO models mano_right and mano_left,
    which samples' vertices and MANO parameters need too, or from `processed`, a folder with the files
    SUBJECT/SEQUENCE.npy that ARCTIC's scripts_data/process_seqs.py writes (outputs/processed/seqs).
    split: 'train' or 'val'; the test set's annotations are not published.  sides: hands to give.
    images: 'images', or 'cropped_images', whose boxes are in `processed`.  only: sequences such as 's01/box_grab_01'
    to use, for a partial copy; all of the split for None.  Raises DatasetError naming what is missing.
    """

    def __init__(self, root: Path | str, split: str, sides: Sequence[str] = SIDES, images: str = 'images',
                 processed: Path | str | None = None, only: Sequence[str] | None = None,
                 mano_right: Path | str | None = None, mano_left: Path | str | None = None) -> None:
        if split == 'test':
            raise DatasetError("ARCTIC's test annotations are not published; use the split 'train' or 'val'")
        choose(split, SPLITS, 'split of ARCTIC')
        choose(images, IMAGES, 'images of ARCTIC')
        for side in sides:
            choose(side, SIDES, 'side')
        self._sides = tuple(side for side in SIDES if side in sides)
        self._hands = ManoHands(mano_right, mano_left)
        self._processed_root = None if processed is None else required_dir(
            Path(processed), 'processed sequences of ARCTIC', 'make them with its scripts_data/process_seqs.py')
        self._check_sources(images)
        self._root = _data_folder(Path(root))
        self._images = images
        self._names = _sequence_names(self._root, split, only)
        self._subjects = _subjects(self._root, sorted({name.split('/')[0] for name in self._names}))
        self._fits = {name: _fits(self._root / 'raw_seqs' / f'{name}.mano.npy', self._sides) for name in self._names}
        self._check_images()
        self._places = [(name, side, frame) for name in self._names for side in self._sides
                        for frame in self._frames(name)]
        if not self._places:
            raise DatasetError(f"{self._root}: no frame of split '{split}' has both annotation and image; {REMEDY}")
        self.sequences = runs([place[:2] for place in self._places])
        self.times_ns = [round(frame * _PERIOD_NS) for *_, frame in self._places]
        self._cache: dict[str, _Processed] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        name, side, frame = self._places[index]
        subject, fit = self._subjects[name.split('/')[0]], self._fits[name][side]
        processed = None if self._processed_root is None else self._processed(name)
        mano = vertices = None
        if side in self._hands:
            mano = self._hands.parameters(side, fit.pose[frame], fit.shape[frame], fit.translation[frame])
            vertices, joints = self._hands.surface(side, mano)
        else:
            joints = to_public(processed.joints[side][frame], 'smplx')
        image = frame + subject.offset
        views = []
        for view, whole in zip(VIEWS, subject.cameras):
            path = self._root / self._images / name / str(view) / f'{image:05d}.jpg'
            seen_by = whole if self._images == 'images' else _cropped(whole, processed.boxes[frame, view])
            views.append(projected_view(seen_by, path, joints))
        return Sample(f'arctic/{name}/{image:05d}/{side}', tuple(views), joints, vertices, mano,
                      self.times_ns[index], side, name, frame)

    def _check_sources(self, images: str) -> None:
        lacking = [side for side in self._sides if side not in self._hands]
        if lacking and self._processed_root is None:
            raise DatasetError(f'ARCTIC publishes MANO parameters, not joints: give mano_{lacking[0]}=FILE (made with '
                               '`hand-unc mano convert`), or processed=FOLDER (made with its process_seqs.py)')
        if images == 'cropped_images' and self._processed_root is None:
            raise DatasetError('the boxes of cropped_images are in the processed sequences: give processed=FOLDER '
                               '(made with its process_seqs.py), or use the whole images')

    def _check_images(self) -> None:
        for name in self._names:
            for view in VIEWS:
                required_dir(self._root / self._images / name / str(view), f'view {view} of a sequence',
                             f'{REMEDY}, or name the sequences that you have with `only`')

    def _frames(self, name: str) -> list[int]:
        count = len(next(iter(self._fits[name].values())).pose)
        offset = self._subjects[name.split('/')[0]].offset
        return [image - offset for image in range(max(_MARGIN, offset), count - _MARGIN)]

    def _processed(self, name: str) -> _Processed:
        if name not in self._cache:
            # Neighbouring samples share a file; more of them would fill the memory.
            while len(self._cache) >= _CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[name] = self._read_processed(name)
        return self._cache[name]

    def _read_processed(self, name: str) -> _Processed:
        path = self._processed_root / f'{name}.npy'
        remedy = "make it again with ARCTIC's scripts_data/process_seqs.py"
        table = _npy_table(path, 'a processed sequence', remedy)
        world = entry(table, 'world_coord', path, remedy)
        count = len(next(iter(self._fits[name].values())).pose)
        joints = {side: array(entry(world, f'joints.{side}', path, remedy), (count, 21, 3),
                              f"{path}: world_coord 'joints.{side}'", remedy) for side in self._sides}
        return _Processed(joints, array(entry(table, 'bbox', path, remedy), (count, 9, 3), f"{path}: 'bbox'", remedy))


def _data_folder(root: Path) -> Path:
    """The folder that holds meta/misc.json: root, or where ARCTIC's scripts put it below root."""
    for folder in (root, root / 'arctic_data' / 'data', root / 'data' / 'arctic_data' / 'data'):
        if (folder / 'meta').is_dir():
            return folder
    required_dir(root, 'ARCTIC', REMEDY)
    raise DatasetError(f'{root}: neither meta nor arctic_data/data/meta is there; expected ARCTIC (meta, raw_seqs, '
                       f'splits_json, images); {REMEDY}')


def _sequence_names(root: Path, split: str, only: Sequence[str] | None) -> list[str]:
    path = root / 'splits_json' / 'protocol_p1.json'
    names = entry(read_json(path, 'the splits of protocol p1', REMEDY), split, path, REMEDY)
    if not isinstance(names, list) or not all(isinstance(name, str) and name.count('/') == 1 for name in names):
        raise DatasetError(f"{path}: '{split}' is not a list of names such as 's01/box_grab_01'; {REMEDY}")
    foreign = sorted(set(only or ()) - set(names))
    if foreign:
        raise DatasetError(f"{path}: '{foreign[0]}' is not a sequence of split '{split}'")
    return sorted(names if only is None else set(only))


def _subjects(root: Path, subjects: Sequence[str]) -> dict[str, _Subject]:
    path = root / 'meta' / 'misc.json'
    misc = read_json(path, 'cameras and offsets of all subjects', REMEDY)
    found = {}
    for subject in subjects:
        table, where = entry(misc, subject, path, REMEDY), f'{path}: {subject}'
        sizes, intrinsics, poses = (array(entry(table, key, where, REMEDY), shape, f"{where}: '{key}'", REMEDY)
                                    for key, shape in (('image_size', (9, 2)), ('intris_mat', (8, 3, 3)),
                                                       ('world2cam', (8, 4, 4))))
        offset = entry(table, 'ioi_offset', where, REMEDY)
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise DatasetError(f"{where}: 'ioi_offset' is not a whole number; {REMEDY}")
        cameras = []
        for view, K, pose in zip(VIEWS, intrinsics, poses):
            place = f'{where}, view {view}'
            size = int(sizes[view, 0]), int(sizes[view, 1])
            cameras.append(camera(f'cam{view}', size, K, inverted(rigid(pose, place, REMEDY)), place, REMEDY))
        found[subject] = _Subject(tuple(cameras), offset)
    return found


def _fits(path: Path, sides: Sequence[str]) -> dict[str, _Fit]:
    table = _npy_table(path, 'MANO parameters of a sequence', f'{REMEDY}, or name sequences with `only`')
    fits = {}
    for side in sides:
        hand = entry(table, side, path, REMEDY)
        rot, pose, trans = (array(entry(hand, key, path, REMEDY), (-1, count), f'{path}: {side} {key}', REMEDY)
                            for key, count in (('rot', 3), ('pose', 45), ('trans', 3)))
        # One shape for the whole sequence, in some files repeated for every frame.
        shape = array(np.atleast_2d(entry(hand, 'shape', path, REMEDY)), (-1, 10), f'{path}: {side} shape', REMEDY)
        if not len(rot) == len(pose) == len(trans) or len(shape) not in (1, len(rot)):
            raise DatasetError(f'{path}: rot, pose, trans and shape of the {side} hand differ in length; {REMEDY}')
        fits[side] = _Fit(np.concatenate((rot, pose), axis=1), np.broadcast_to(shape, (len(rot), 10)), trans)
    if len({len(fit.pose) for fit in fits.values()}) > 1:
        raise DatasetError(f'{path}: the two hands differ in length; {REMEDY}')
    return fits


def _npy_table(path: Path, what: str, remedy: str) -> Any:
    """The table that numpy.save pickled into `path`, read without running what the pickle asks for.

    Raises DatasetError.
    """
    content = read_bytes(path, what, remedy)
    if len(content) > _LARGEST_NPY:
        raise DatasetError(f'{path} is larger than {_LARGEST_NPY >> 20} MiB; expected {what}; {remedy}')
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read_header[version](file)
        if shape != () or dtype != np.dtype(object):
            raise ValueError(f'{dtype} {shape} instead of a pickled table')
        (table,) = plain(load_inert(file.read()), 'content')
    except (ValueError, KeyError, TypeError, PickleError) as error:
        raise DatasetError(f'{path} is not a whole npy file of a table ({error}); expected {what}; {remedy}') from error
    return table


def _cropped(whole: Camera, box: np.ndarray) -> Camera:
    """Camera of the crop that ARCTIC's crop_images.py cuts around box (centre x, y, scale) with Pillow."""
    half = box[2] * _CROP_SCALE / 2.0
    left, top, right, bottom = (int(round(edge)) for edge in
                                (box[0] - half, box[1] - half, box[0] + half, box[1] + half))
    sx, sy = _CROP_SIZE / (right - left), _CROP_SIZE / (bottom - top)
    # Pillow resizes areas, and a pixel's centre lies half a pixel inside its area.
    to_crop = np.array([[sx, 0.0, (0.5 - left) * sx - 0.5], [0.0, sy, (0.5 - top) * sy - 0.5], [0.0, 0.0, 1.0]])
    return Camera(whole.name, _CROP_SIZE, _CROP_SIZE, to_crop @ whole.K, whole.distortion_model, whole.D,
                  whole.world_from_camera)
