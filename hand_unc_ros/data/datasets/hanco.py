"""HanCo: eight synchronised views of right hands, 1,518 sequences at 5 Hz.

Format after the official dataset tools (https://github.com/lmb-freiburg/contra-hand, show_dataset.py):
`rgb/SSSS/camC/FFFFFFFF.jpg`, `calib/SSSS/FFFFFFFF.json` (K and world-to-camera M of the eight cameras, metres),
`xyz/SSSS/FFFFFFFF.json` (21 joints, world, metres), `shape/SSSS/FFFFFFFF.json` (MANO), `meta.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hand_unc_ros.data.datasets.files import array, camera, choose, entry, read_json, required_dir, rigid
from hand_unc_ros.data.datasets.mano_hands import ManoHands
from hand_unc_ros.data.datasets.views import inverted, projected_view, runs
from hand_unc_ros.data.samples import ManoParameters, Sample
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.geometry.cameras import Camera

REMEDY = 'unpack HanCo from https://lmb.informatik.uni-freiburg.de/resources/datasets/HanCo.en.html'
IMAGES = ('rgb', 'rgb_merged', 'rgb_homo', 'rgb_color_auto', 'rgb_color_sample')
# Frames with a MANO fit, or only those whose fit a person has validated; keys of meta.json.
FITS = ('has_fit', 'is_valid')
PROTOCOLS = ('official', 'hamuco')
_CAMERAS = 8
_IMAGE_SIZE = (224, 224)
_PERIOD_NS = 200_000_000
# Calibrations kept in memory.
_CACHED = 256
# HaMuCo trains on the sequences below this one and tests on the others (https://github.com/zxz267/HaMuCo).
_HAMUCO_TEST = 1200


class HanCo:
    """One sample per annotated frame.

    split: 'train' or 'test'.  protocol: 'official' splits by meta.json's is_train, 'hamuco' by sequence.
    images: a folder of IMAGES; others than `rgb` exist only where is_train is set, before a green screen.
    fits: a key of FITS.  only: sequence numbers to use, for a partial copy; all for None.  mano_model: a converted
    MANO; without it samples have no vertices and no MANO parameters.  Raises DatasetError naming what is missing.
    """

    def __init__(self, root: Path | str, split: str, protocol: str = 'official', images: str = 'rgb',
                 fits: str = 'has_fit', only: Sequence[int] | None = None,
                 mano_model: Path | str | None = None) -> None:
        choose(split, ('train', 'test'), 'split of HanCo')
        choose(protocol, PROTOCOLS, 'protocol of HanCo')
        choose(images, IMAGES, 'images of HanCo')
        choose(fits, FITS, 'fits of HanCo')
        self._root = required_dir(Path(root), 'HanCo (meta.json, rgb, calib, xyz)', REMEDY)
        self._images = images
        self._hands = ManoHands(mano_model)
        self._frames = _frames(self._root, split, protocol, fits, images, only)
        for folder in (images, 'calib', 'xyz', *(('shape',) if 'right' in self._hands else ())):
            required_dir(self._root / folder, f"HanCo's folder {folder}", REMEDY)
            for sequence in dict.fromkeys(sequence for sequence, _ in self._frames):
                required_dir(self._root / folder / f'{sequence:04d}', f'sequence {sequence} of HanCo',
                             f'{REMEDY}, or name the sequences that you have with `only`')
        self._rigs: dict[bytes, tuple[Camera, ...]] = {}
        self.sequences = runs([sequence for sequence, _ in self._frames])
        self.times_ns = [frame * _PERIOD_NS for _, frame in self._frames]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        sequence, frame = self._frames[index]
        place = f'{sequence:04d}/{frame:08d}'
        path = self._root / 'xyz' / f'{place}.json'
        joints = array(read_json(path, 'the joints of a frame', REMEDY), (21, 3), str(path), REMEDY)
        images = self._root / self._images / f'{sequence:04d}'
        views = [projected_view(source, images / source.name / f'{frame:08d}.jpg', joints)
                 for source in self._cameras(self._root / 'calib' / f'{place}.json')]
        mano = vertices = None
        if 'right' in self._hands:
            mano = self._mano(self._root / 'shape' / f'{place}.json')
            vertices, _ = self._hands.surface('right', mano)
        return Sample(f'hanco/{place}', tuple(views), joints, vertices, mano, self.times_ns[index], 'right',
                      f'{sequence:04d}', frame)

    def _cameras(self, path: Path) -> tuple[Camera, ...]:
        calibration = read_json(path, 'the cameras of a frame', REMEDY)
        K = array(entry(calibration, 'K', path, REMEDY), (_CAMERAS, 3, 3), f"{path}: 'K'", REMEDY)
        M = array(entry(calibration, 'M', path, REMEDY), (_CAMERAS, 4, 4), f"{path}: 'M'", REMEDY)
        key = K.tobytes() + M.tobytes()
        if key not in self._rigs:
            # Many frames share a calibration, which is dear to check.
            if len(self._rigs) >= _CACHED:
                self._rigs.clear()
            self._rigs[key] = tuple(
                camera(f'cam{c}', _IMAGE_SIZE, K[c], inverted(rigid(M[c], f'{path}: camera {c}', REMEDY)),
                       f'{path}: camera {c}', REMEDY) for c in range(_CAMERAS))
        return self._rigs[key]

    def _mano(self, path: Path) -> ManoParameters:
        fit = read_json(path, 'the MANO fit of a frame', REMEDY)
        numbers = {}
        for key, count in (('poses', 48), ('shapes', 10), ('global_t', 3)):
            value = entry(fit, key, path, REMEDY)
            # The files keep a leading batch dimension, global_t two.
            numbers[key] = array(np.ravel(np.array(value, dtype=object)), (count,), f"{path}: '{key}'", REMEDY)
        return self._hands.parameters('right', numbers['poses'], numbers['shapes'], numbers['global_t'])


def _frames(root: Path, split: str, protocol: str, fits: str, images: str,
            only: Sequence[int] | None) -> list[tuple[int, int]]:
    """(sequence, frame) of a split, in order. Raises DatasetError."""
    path = root / 'meta.json'
    meta = read_json(path, 'the frames of all sequences', f'{REMEDY} (HanCo_calib_meta.zip)')
    tables = [entry(meta, key, path, REMEDY) for key in ('is_train', fits)]
    rows = [[len(row) if isinstance(row, list) else None for row in table] if isinstance(table, list) else None
            for table in tables]
    if None in (rows[0] or [None]) or rows[0] != rows[1]:
        raise DatasetError(f"{path}: 'is_train' and '{fits}' do not list the same frames; {REMEDY}")
    count = len(tables[0])
    missing = [sequence for sequence in only or () if not 0 <= sequence < count]
    if missing:
        raise DatasetError(f'{path} has {count} sequences; there is no sequence {missing[0]}')
    frames = []
    for sequence in sorted(set(range(count) if only is None else only)):
        for frame, (is_train, has_fit) in enumerate(zip(tables[0][sequence], tables[1][sequence])):
            in_train = bool(is_train) if protocol == 'official' else sequence < _HAMUCO_TEST
            if has_fit and in_train == (split == 'train') and (is_train or images == 'rgb'):
                frames.append((sequence, frame))
    if not frames:
        raise DatasetError(f"{path}: no frame of split '{split}' ({protocol}) with '{fits}' and {images}"
                           f'{"" if only is None else " in the sequences given with `only`"}; {REMEDY}')
    return frames
