"""Where the joints really were: a topic of the bag or a file, at the times of the estimates.

Files: .npz with `stamp_ns` (N,) and `joints` (N, 21, 3), metres, world; or .csv whose first line names the columns
stamp_ns, x0, y0, z0, x1 … z20 in any order (others are ignored), empty or nan where a joint is not known.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hand_unc_ros.bounded import MalformedError, read_npz
from hand_unc_ros.data.bags.hands import HAND_TYPE, POSES_TYPE, hand_of, poses_of, read_messages, stamp_ns
from hand_unc_ros.data.bags.reader import Bag
from hand_unc_ros.errors import RecordingError
from hand_unc_ros.hand.joints import JOINT_COUNT

# Stamps this close are of one moment: clocks and files round.
SAME_NS = 1_000_000
# Between samples further apart than this many periods nothing is made up.
LONGEST_GAP = 1.5
MATCHING = ('the truth at the stamp of each estimate: a sample within 1 ms, else linearly between the two around it, '
            'where these are at most 1.5 of its periods apart')


class Truth(NamedTuple):
    """stamps_ns: (T,), increasing.  joints: (T, 21, 3) metres, NaN where unknown.  frame_id: '' where it is not told.
    source: in words."""

    stamps_ns: np.ndarray
    joints: np.ndarray
    frame_id: str
    source: str

    def at(self, stamps_ns: np.ndarray) -> np.ndarray:
        """Joints (N, 21, 3) at (N,) times, NaN where nothing is known (see MATCHING)."""
        after = np.searchsorted(self.stamps_ns, stamps_ns).clip(1, max(len(self.stamps_ns) - 1, 1))
        before = after - 1
        after = np.minimum(after, len(self.stamps_ns) - 1)
        left, right = stamps_ns - self.stamps_ns[before], self.stamps_ns[after] - stamps_ns
        step = np.maximum(left + right, 1)
        period = np.median(np.diff(self.stamps_ns)) if len(self.stamps_ns) > 1 else 0
        share = np.where(np.abs(left) <= SAME_NS, 0.0, np.where(np.abs(right) <= SAME_NS, 1.0, left / step))
        same = (np.abs(left) <= SAME_NS) | (np.abs(right) <= SAME_NS)
        between = (left >= 0) & (right >= 0) & (left + right <= LONGEST_GAP * period)
        share = share[:, None, None]
        # Not 0 · NaN: an exact sample must not suffer from its neighbour.
        joints = np.where(share == 0, self.joints[before], np.where(
            share == 1, self.joints[after], (1 - share) * self.joints[before] + share * self.joints[after]))
        return np.where((same | between)[:, None, None], joints, np.nan)


def load_truth(name: str, bag: Bag) -> Truth:
    """A topic of the bag or, where no topic has that name, a file. Raises RecordingError naming it and the remedy."""
    if any(connection.topic == name for connection in bag.connections):
        return _from_topic(name, bag)
    path = Path(name)
    if not path.is_file():
        fitting = sorted({connection.topic for connection in bag.connections
                          if connection.msgtype in (HAND_TYPE, POSES_TYPE)})
        raise RecordingError(f'truth {name} is neither a topic of bag {bag.path} nor a file; topics that could be: '
                             f'{", ".join(fitting) or "none"}')
    if path.suffix == '.npz':
        return _sorted(*_from_npz(path), '', str(path))
    if path.suffix == '.csv':
        return _sorted(*_from_csv(path), '', str(path))
    raise RecordingError(f'truth {path}: give a .npz or a .csv file')


def _sorted(stamps: np.ndarray, joints: np.ndarray, frame_id: str, source: str) -> Truth:
    """Of several samples at one time the first."""
    stamps, first = np.unique(np.asarray(stamps, np.int64), return_index=True)
    if not len(stamps):
        raise RecordingError(f'truth {source} holds nothing')
    return Truth(stamps, np.asarray(joints, np.float64)[first], frame_id, source)


def _from_topic(name: str, bag: Bag) -> Truth:
    kind = next(connection.msgtype for connection in bag.connections if connection.topic == name)
    if kind not in (HAND_TYPE, POSES_TYPE):
        raise RecordingError(f'truth {name} is of type {kind}; it must be {HAND_TYPE} or {POSES_TYPE}')
    stamps, joints, frames = [], [], set()
    for _, log_ns, message in read_messages(bag, [name]):
        stamps.append(stamp_ns(message))
        joints.append(hand_of(log_ns, message).joints if kind == HAND_TYPE else poses_of(name, message))
        frames.add(message.header.frame_id)
    if len(frames) > 1:
        raise RecordingError(f'truth {name} is in several frames: {", ".join(sorted(frames))}')
    return _sorted(np.array(stamps), np.array(joints), next(iter(frames), ''), f'topic {name}')


def _from_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        stamps, joints = read_npz(path, ('stamp_ns', 'joints')).values()
    except (OSError, KeyError, MalformedError) as error:
        reason: object = error
        if isinstance(error, KeyError):
            absent, held = error.args
            reason = f'it holds no {absent} but {", ".join(held) or "nothing"}'
        raise RecordingError(f'truth {path} must hold stamp_ns (N,) and joints (N, {JOINT_COUNT}, 3): {reason}'
                             ) from error
    if stamps.ndim != 1 or joints.shape != (len(stamps), JOINT_COUNT, 3) or stamps.dtype.kind not in 'iu':
        raise RecordingError(f'truth {path}: stamp_ns is {stamps.dtype} {stamps.shape} and joints {joints.shape}; they '
                             f'must be whole numbers (N,) and (N, {JOINT_COUNT}, 3)')
    return stamps, joints


def _from_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    columns = [f'{axis}{joint}' for joint in range(JOINT_COUNT) for axis in 'xyz']
    stamps, joints = [], []
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            lacking = [name for name in ('stamp_ns', *columns) if name not in (reader.fieldnames or ())]
            if lacking:
                raise RecordingError(f'truth {path}: its first line lacks the column {lacking[0]}')
            for row in reader:
                stamps.append(int(row['stamp_ns']))
                joints.append([float(row[name] or 'nan') for name in columns])
    except (OSError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(f'truth {path}, line {len(stamps) + 2}: {error}; stamps are whole nanoseconds, joints '
                             'metres') from error
    return np.array(stamps, np.int64), np.array(joints).reshape(-1, JOINT_COUNT, 3)
