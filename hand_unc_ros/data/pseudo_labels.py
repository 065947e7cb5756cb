"""2D labels of the joints of a recording that no human gave: a detector's, or what several views agree on.

A file of them is an .npz with the arrays of ARRAYS; nothing in it is unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hand_unc_ros.bounded import MalformedError, read_npz
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.files import replace_file
from hand_unc_ros.hand.joints import JOINT_COUNT

# Name → kinds of numbers and shape in a file, of N hands and V cameras.
ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    'cameras': ('U', ('V',)), 'stamp_ns': ('iu', ('N',)), 'view_stamp_ns': ('iu', ('N', 'V')), 'left': ('b', ('N',)),
    'track': ('iu', ('N',)), 'labels_px': ('f', ('N', 'V', JOINT_COUNT, 2)),
    'sigma_px': ('f', ('N', 'V', JOINT_COUNT, 2)), 'joints': ('f', ('N', JOINT_COUNT, 3))}
# Of an image that a camera did not deliver.
NO_IMAGE = -1


@dataclass(frozen=True)
class PseudoLabels:
    """N hands, in order of time; one person's two hands at one time are two of them.

    cameras: V names.  stamp_ns: (N,) of the sets of images, and view_stamp_ns: (N, V) of the images themselves,
    NO_IMAGE without one.  left: (N,) bool.  track: (N,), equal where a hand was followed without a break.
    labels_px: (N, V, 21, 2), pixels of the full, distorted images.  sigma_px: (N, V, 21, 2), their standard deviations
    along the axes of the images; infinite where a label is not to be trusted.  joints: (N, 21, 3) metres, world, which
    the labels agree on; NaN where unknown.
    """

    cameras: tuple[str, ...]
    stamp_ns: np.ndarray
    view_stamp_ns: np.ndarray
    left: np.ndarray
    track: np.ndarray
    labels_px: np.ndarray
    sigma_px: np.ndarray
    joints: np.ndarray

    def __len__(self) -> int:
        return len(self.stamp_ns)

    @property
    def trusted(self) -> np.ndarray:
        """(N, V, 21) bool."""
        return np.isfinite(self.sigma_px).all(-1)

    def rows(self, chosen: np.ndarray) -> PseudoLabels:
        """Those of the hands that a mask (N,) or indices choose."""
        return replace(self, **{name: vars(self)[name][chosen] for name in ARRAYS if name != 'cameras'})


def no_labels(cameras: Sequence[str]) -> PseudoLabels:
    """Of no hands."""
    size = {'N': 0, 'V': len(cameras)}
    kinds = {'iu': np.int64, 'b': bool, 'f': np.float64}
    return PseudoLabels(tuple(cameras), **{
        name: np.zeros([size.get(part, part) for part in shape], kinds[kind])
        for name, (kind, shape) in ARRAYS.items() if name != 'cameras'})


def joined(parts: Sequence[PseudoLabels]) -> PseudoLabels:
    """The hands of consecutive parts of a recording by the same cameras; tracks of different parts stay apart."""
    shifted, last = [], 0
    for part in parts:
        shifted.append(replace(part, track=part.track + last))
        last = int(shifted[-1].track.max(initial=last - 1)) + 1
    return PseudoLabels(parts[0].cameras, **{
        name: np.concatenate([vars(part)[name] for part in shifted]) for name in ARRAYS if name != 'cameras'})


def save_labels(path: Path, labels: PseudoLabels) -> None:
    """Write a file of labels, whole or not at all."""
    with replace_file(path, DatasetError) as file:
        np.savez_compressed(file, **{name: np.asarray(vars(labels)[name]) for name in ARRAYS})


def load_labels(path: Path) -> PseudoLabels:
    """The labels in a file; `joints` may be absent and are then unknown. Raises DatasetError naming what is wrong."""
    try:
        arrays = read_npz(path)
    except (OSError, KeyError, MalformedError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DatasetError(f'labels {path} cannot be read ({reason}); give an .npz with {", ".join(ARRAYS)}') from error
    strange, lacking = sorted(set(arrays) - set(ARRAYS)), [name for name in ARRAYS if name not in arrays]
    if strange:
        raise DatasetError(f'labels {path}: unknown array {strange[0]!r}; known are {", ".join(ARRAYS)}')
    if lacking and lacking != ['joints']:
        raise DatasetError(f'labels {path}: {lacking[0]} is missing; needed are {", ".join(ARRAYS)}, joints may be '
                           'left out')
    sizes = {'N': len(arrays['stamp_ns']), 'V': len(arrays['cameras'])}
    arrays.setdefault('joints', np.full((sizes['N'], JOINT_COUNT, 3), np.nan))
    for name, (kind, shape) in ARRAYS.items():
        wanted = tuple(sizes.get(part, part) for part in shape)
        if arrays[name].dtype.kind not in kind or arrays[name].shape != wanted:
            raise DatasetError(f'labels {path}: {name} is {arrays[name].dtype} {arrays[name].shape}; it must be '
                               f'{_KINDS[kind]} {wanted}')
    _check_values(path, arrays)
    cameras = tuple(str(name) for name in arrays.pop('cameras'))
    kinds = {'iu': np.int64, 'b': bool, 'f': np.float64}
    return PseudoLabels(cameras, **{name: value.astype(kinds[ARRAYS[name][0]]) for name, value in arrays.items()})


_KINDS = {'U': 'texts', 'iu': 'whole numbers', 'b': 'true or false', 'f': 'floating-point numbers'}


def _check_values(path: Path, arrays: dict[str, np.ndarray]) -> None:
    sigma, labels = arrays['sigma_px'], arrays['labels_px']
    trusted = np.isfinite(sigma)
    faults = {
        'cameras must differ from each other': len(set(arrays['cameras'].tolist())) < len(arrays['cameras']),
        'stamp_ns must not decrease': (np.diff(arrays['stamp_ns'].astype(np.int64)) < 0).any(),
        'sigma_px must be above 0, infinite where a label is not to be trusted': not (sigma > 0).all(),
        'labels_px must be finite where sigma_px is': not np.isfinite(labels[trusted]).all(),
        'labels_px of a camera without an image (view_stamp_ns −1) must have an infinite sigma_px':
            trusted[arrays['view_stamp_ns'] == NO_IMAGE].any()}
    for sentence, wrong in faults.items():
        if wrong:
            raise DatasetError(f'labels {path}: {sentence}')
