"""InterHand2.6M v1.0: one or two hands before 80 to 140 synchronised cameras.

Format after the official page (https://mks0601.github.io/InterHand2.6M/) and baseline
(https://github.com/facebookresearch/InterHand2.6M): `images/SPLIT/CaptureC/SEQUENCE/camNAME/imageF.jpg`;
`annotations/SPLIT/InterHand2.6M_SPLIT_{data,camera,joint_3d,MANO_NeuralAnnot}.json`; millimetres, but metres for
MANO's translation; x_camera = camrot (x_world − campos).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hand_unc_ros.data.datasets.files import array, camera, choose, entry, read_json, required_dir, rigid
from hand_unc_ros.data.datasets.mano_hands import ManoHands
from hand_unc_ros.data.datasets.views import inverted, projected_view, runs
from hand_unc_ros.data.samples import ManoParameters, Sample, SampleView
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.hand.joints import to_public

REMEDY = 'unpack InterHand2.6M v1.0 from https://mks0601.github.io/InterHand2.6M'
SPLITS = ('train', 'val', 'test')
SIDES = ('right', 'left')
# Of the 42 joints: 21 of the right hand, then 21 of the left; the wrist is the last of a hand.
_HAND = {'right': slice(0, 21), 'left': slice(21, 42)}
_WRIST = {'right': 20, 'left': 41}
# Folders of v0.0, which has another split of the annotations.
_OLD_FOLDERS = ('all', 'human_annot', 'machine_annot')


class _Image(NamedTuple):
    """visible: (42,) bool, annotated and inside the image."""

    camera: str
    file: str
    size: tuple[int, int]
    visible: np.ndarray


class _Frame(NamedTuple):
    """joints: (42, 3) metres, world, NaN where not annotated."""

    images: tuple[_Image, ...]
    joints: np.ndarray


class _Place(NamedTuple):
    capture: int
    sequence: str
    side: str
    frame: int


class InterHand:
    """One sample per annotated hand and frame, in the order of capture, sequence, side and frame.

    sides: hands to give.  A hand whose wrist is not annotated is left out, as in the official baseline.
    cameras: names of the cameras to use; for None `views` cameras, spread as far apart as possible, are taken of
    each sequence.  A camera without image of a frame is absent from its sample.  fps: 5 or 30, the release that was
    unpacked, for the time stamps.  only: numbers of the captures to use; all for None.  mano_right, mano_left:
    converted MANO models; a hand without its model has no vertices and no MANO parameters.  Raises DatasetError naming
    what is missing.
    """

    def __init__(self, root: Path | str, split: str, sides: Sequence[str] = SIDES, views: int = 8,
                 cameras: Sequence[str] | None = None, fps: int = 5, only: Sequence[int] | None = None,
                 mano_right: Path | str | None = None, mano_left: Path | str | None = None) -> None:
        choose(split, SPLITS, 'split of InterHand2.6M')
        for side in sides:
            choose(side, SIDES, 'side')
        if views < 1 or fps not in (5, 30):
            raise DatasetError(f'InterHand2.6M: views must be at least 1 (got {views}) and fps 5 or 30 (got {fps})')
        root = required_dir(Path(root), 'InterHand2.6M (images and annotations)', REMEDY)
        self._split = split
        self._images = required_dir(root / 'images' / split, f"images of split '{split}'", REMEDY)
        self._annotations = _annotation_folder(root, split)
        self._hands = ManoHands(mano_right, mano_left, mirror_shape=True)
        self._calibration_file, self._calibration = self._table('camera', 'calibrations')
        self._frames = self._read_frames(views, cameras, only)
        self._mano = self._read_mano()
        self._places = sorted(_Place(capture, sequence, side, frame)
                              for (capture, sequence, frame), content in self._frames.items() for side in set(sides)
                              if np.isfinite(content.joints[_WRIST[side]]).all())
        if not self._places:
            raise DatasetError(f"{self._annotations}: no hand of split '{split}' has the sides {', '.join(sides)} and "
                               f'the cameras and captures asked for; ask for others, or {REMEDY}')
        for capture in dict.fromkeys(place.capture for place in self._places):
            required_dir(self._images / f'Capture{capture}', f'images of capture {capture}',
                         f'{REMEDY}, or name the captures that you have with `only`')
        self.sequences = runs([place[:3] for place in self._places])
        steps = {self._places[start][:3]: _step([place.frame for place in self._places[start:stop]])
                 for start, stop in self.sequences}
        self.times_ns = [round(place.frame / steps[place[:3]] * 1e9 / fps) for place in self._places]
        self._cameras: dict[tuple[int, str, tuple[int, int]], Camera] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        place = self._places[index]
        frame = self._frames[place.capture, place.sequence, place.frame]
        joints = to_public(frame.joints[_HAND[place.side]], 'interhand')
        mano = self._mano.get((place.capture, place.frame, place.side))
        vertices = None if mano is None else self._hands.surface(place.side, mano)[0]
        name = f'interhand/{self._split}/Capture{place.capture}/{place.sequence}/{place.frame}/{place.side}'
        return Sample(name, tuple(self._view(place, image, joints) for image in frame.images), joints, vertices, mano,
                      self.times_ns[index], place.side, f'Capture{place.capture}/{place.sequence}', place.frame)

    def _view(self, place: _Place, image: _Image, joints: np.ndarray) -> SampleView:
        key = place.capture, image.camera, image.size
        if key not in self._cameras:
            self._cameras[key] = self._camera(*key)
        visible = to_public(image.visible[_HAND[place.side], None], 'interhand')[:, 0]
        return projected_view(self._cameras[key], self._images / image.file, joints, visible)

    def _camera(self, capture: int, name: str, size: tuple[int, int]) -> Camera:
        table = entry(self._calibration, str(capture), self._calibration_file, REMEDY)

        def numbers(key: str, shape: tuple[int, ...]) -> np.ndarray:
            where = f'{self._calibration_file}: {key} of camera {name}, capture {capture}'
            value = entry(entry(table, key, where, REMEDY), name, where, REMEDY)
            return array(value, shape, where, REMEDY)

        rotation, (fx, fy), (cx, cy) = numbers('camrot', (3, 3)), numbers('focal', (2,)), numbers('princpt', (2,))
        translation = -rotation @ numbers('campos', (3,)) / 1000.0
        K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        where = f'{self._calibration_file}: camera {name}, capture {capture}'
        pose = inverted(rigid(np.column_stack((rotation, translation)), where, REMEDY))
        return camera(f'cam{name}', size, K, pose, where, REMEDY)

    def _table(self, kind: str, what: str) -> tuple[Path, Any]:
        path = self._annotations / f'InterHand2.6M_{self._split}_{kind}.json'
        return path, read_json(path, what, REMEDY)

    def _read_frames(self, views: int, cameras: Sequence[str] | None,
                     only: Sequence[int] | None) -> dict[tuple[int, str, int], _Frame]:
        """Frames by capture, sequence and frame. Raises DatasetError."""
        path, data = self._table('data', 'the images and their annotations')
        joints_path, joints = self._table('joint_3d', '3D joints')
        try:
            by_id = {image['id']: image for image in data['images'] if only is None or int(image['capture']) in only}
            present: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
            for image in by_id.values():
                present[int(image['capture']), image['seq_name']].add(str(image['camera']))
            chosen = {key: set(cameras or self._spread(key[0], sorted(names), views))
                      for key, names in present.items()}
            images: defaultdict[tuple[int, str, int], list[_Image]] = defaultdict(list)
            for annotation in data['annotations']:
                image = by_id.get(annotation['image_id'])
                if image is None:
                    continue
                capture, sequence, name = int(image['capture']), image['seq_name'], str(image['camera'])
                if name in chosen[capture, sequence]:
                    visible = np.array(annotation['joint_valid'], dtype=np.float64).reshape(42) > 0
                    images[capture, sequence, int(image['frame_idx'])].append(
                        _Image(name, image['file_name'], (image['width'], image['height']), visible))
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f'{path}: an entry lacks or has a wrong {error}; expected the data.json of '
                               f'InterHand2.6M v1.0; {REMEDY}') from error
        return {key: _Frame(tuple(sorted(rows, key=lambda image: image.camera)),
                            _world_joints(joints, key[0], key[2], joints_path))
                for key, rows in images.items()}

    def _spread(self, capture: int, names: list[str], count: int) -> list[str]:
        """`count` of the cameras `names`: the first, then always the one farthest from those taken."""
        table = entry(entry(self._calibration, str(capture), self._calibration_file, REMEDY), 'campos',
                      self._calibration_file, REMEDY)
        where = f'{self._calibration_file}: campos of capture {capture}'
        places = np.array([array(entry(table, name, where, REMEDY), (3,), where, REMEDY) for name in names])
        distance = np.full(len(names), np.inf)
        taken = []
        while len(taken) < min(count, len(names)):
            taken.append(int(distance.argmax()))
            distance = np.minimum(distance, np.linalg.norm(places - places[taken[-1]], axis=1))
            distance[taken] = -1.0
        return [names[i] for i in taken]

    def _read_mano(self) -> dict[tuple[int, int, str], ManoParameters]:
        """MANO parameters by capture, frame and side, of the sides whose models are given. Raises DatasetError."""
        sides = [side for side in SIDES if side in self._hands]
        if not sides:
            return {}
        path, table = self._table('MANO_NeuralAnnot', 'MANO parameters')
        found = {}
        for capture, _, frame in self._frames:
            # A frame or a hand is absent, or a hand null, where the joints did not suffice for a fit.
            fits = entry(table, str(capture), path, REMEDY)
            fits = entry(fits, str(frame), path, REMEDY) if str(frame) in fits else {}
            for side in sides:
                if side not in fits or fits[side] is None:
                    continue
                where = f'{path}: capture {capture}, frame {frame}, {side}'
                pose, shape, translation = (array(entry(fits[side], key, where, REMEDY), (count,), where, REMEDY)
                                            for key, count in (('pose', 48), ('shape', 10), ('trans', 3)))
                found[capture, frame, side] = self._hands.parameters(side, pose, shape, translation)
        return found


def _annotation_folder(root: Path, split: str) -> Path:
    folder = root / 'annotations'
    old = [name for name in _OLD_FOLDERS if (folder / name).is_dir()]
    if old and not (folder / split).is_dir():
        raise DatasetError(f"{folder} holds '{old[0]}', so it is InterHand2.6M v0.0; expected the folder '{split}' of "
                           f'v1.0; {REMEDY}')
    return required_dir(folder / split, f"annotations of split '{split}'", REMEDY)


def _world_joints(table: Any, capture: int, frame: int, path: Path) -> np.ndarray:
    """(42, 3) metres, world, NaN where not annotated."""
    where = f'{path}: capture {capture}, frame {frame}'
    content = entry(entry(table, str(capture), path, REMEDY), str(frame), where, REMEDY)
    joints = array(entry(content, 'world_coord', where, REMEDY), (42, 3), where, REMEDY) / 1000.0
    valid = np.array(entry(content, 'joint_valid', where, REMEDY), dtype=np.float64).ravel()
    if valid.shape != (42,):
        raise DatasetError(f"{where}: 'joint_valid' has {valid.size} values, expected 42; {REMEDY}")
    joints[valid <= 0] = np.nan
    return joints


def _step(frames: list[int]) -> int:
    """Smallest distance of neighbouring frame numbers; 1 for a single frame."""
    return min((b - a for a, b in zip(frames, frames[1:])), default=1)
