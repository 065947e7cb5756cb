"""Sequences of features out of recordings: crops that follow the labelled hands, read once by the frozen landmark
network.

A shard is as data/feature_shards.py describes, with an axis of F frames after that of the views: K (N, V, F, 3, 3),
landmarks (N, V, F, 21, 2), …, `stamps_s` (N, F) from the first frame on, `labels_px` and `labels_sigma_px`
(N, V, F, 21, 2) px of the crops, `joints` (N, F, 21, 3), `hand` (N,) the same number for all sequences of one hand of
one recording. A view without an image is masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rosbags.typesys import Stores, get_typestore
from torch import Tensor
from tqdm import tqdm

from hand_unc_ros.adaptation.plan import Part, content_hash, rig_content
from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.bags.stored_images import decode_stored_image
from hand_unc_ros.data.batches import Augmentation, jitter
from hand_unc_ros.data.camera_messages import check_size
from hand_unc_ros.data.feature_shards import FeatureSet, begin_features, write_features
from hand_unc_ros.data.pseudo_labels import NO_IMAGE, PseudoLabels
from hand_unc_ros.errors import ImageFormatError
from hand_unc_ros.evaluation.recordings.replay import find_calibration, find_images, header_stamp_ns
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole, hand_box, mirror_view
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.networks.landmark_gaussians import FrozenLandmarks, LandmarkMaps
from hand_unc_ros.networks.placement import choose_precision

# How far the crop of a followed hand is off, alike for all frames of a window.
CROP_AUGMENTATION = Augmentation(scale=0.1, roll=0.12, centre=0.04)
# UST-Hand's window: four frames before, four after (section 4.1).
FRAMES = 9
SHARD_WINDOWS, READ_BATCH = 8, 32
# Frames of a window come at most so many periods apart: beyond, the hand was lost in between.
LONGEST_STEP = 2.5
# Windows of a hand that a short part of a short recording may have, whatever its share of a minute.
LEAST_OF_PART = 4
# Joints and views by which a frame can be cut and used.
LEAST_JOINTS, LEAST_VIEWS = 12, 2
# Of the mirrored world of a left hand.
MIRROR = np.array([-1.0, 1.0, 1.0])
# Numbers that half precision would spoil.
EXACT = ('landmarks', 'presence')


@dataclass(frozen=True)
class SequenceOptions:
    """frames: of a window.  per_minute: windows of each hand in a minute of recording, at most; ten
    minutes of four cameras are then 2 GB.  seed: of the crops."""

    frames: int = FRAMES
    per_minute: float = 20.0
    seed: int = 1


class Window(NamedTuple):
    """rows: (F,) of its part's labels, one hand on one track."""

    part: Part
    labels: PseudoLabels
    rows: np.ndarray


def choose_windows(part: Part, labels: PseudoLabels, period_s: float, options: SequenceOptions) -> list[Window]:
    """Windows that do not overlap, spread evenly over a part: its labels alone."""
    usable = np.isfinite(labels.joints).all(-1).sum(1) >= LEAST_JOINTS
    usable &= (labels.trusted.any(-1).sum(1) >= LEAST_VIEWS) & np.isfinite(labels.joints[:, [0, 9]]).all((1, 2))
    found: list[Window] = []
    for left in (False, True):
        mine = np.flatnonzero(usable & (labels.left == left))
        breaks = ((np.diff(labels.stamp_ns[mine]) > LONGEST_STEP * 1e9 * period_s)
                  | (np.diff(labels.track[mine]) != 0))
        starts = [run[place:place + options.frames] for run in np.split(mine, np.flatnonzero(breaks) + 1)
                  for place in range(0, len(run) - options.frames + 1, options.frames)]
        minutes = (min(part.part_s[1], part.source.duration_s) - part.part_s[0]) / 60
        most = max(LEAST_OF_PART, round(options.per_minute * minutes))
        if len(starts) > most:
            starts = [starts[place] for place in np.linspace(0, len(starts) - 1, most).round().astype(int)]
        found += [Window(part, labels, rows) for rows in starts]
    return sorted(found, key=lambda window: window.rows[0])


def feature_content(windows: Sequence[Window], options: SequenceOptions, fingerprints: dict[str, str]) -> FeatureSet:
    """What describes the set of these windows."""
    sources = dict.fromkeys(window.part.source for window in windows)
    labels = [[window.part.name, window.labels.stamp_ns[window.rows].tolist(), bool(window.labels.left[window.rows[0]])]
              for window in windows]
    made_of: dict[str, Any] = {
        'bags': {source.path.name: source.sha256 for source in sources},
        'rigs': [rig_content(source.rig) for source in sources], 'sequences': asdict(options),
        'augmentation': asdict(CROP_AUGMENTATION), 'windows': content_hash({'labels': labels, 'values': [
            float(np.nansum(window.labels.labels_px[window.rows])) for window in windows]}),
        'shard_windows': SHARD_WINDOWS, 'hands': 'numbered'}
    return FeatureSet(f'{len(windows)} sequences of {options.frames} images of {", ".join(made_of["bags"])}',
                      -(-len(windows) // SHARD_WINDOWS), fingerprints, made_of)


def make_sequences(folder: Path, windows: Sequence[Window], options: SequenceOptions, networks: FrozenLandmarks,
                   fingerprints: dict[str, str], name: str = 'features') -> int:
    """Make the shards that a set in `folder` still lacks; how many crops were read. name: for the progress bar.
    Raises DatasetError for a folder that holds something else, RecordingError for a recording that cannot be read."""
    missing = begin_features(folder, feature_content(windows, options, fingerprints))
    hands = _numbered_hands(windows)
    crops = 0
    for number in tqdm(missing, desc=name, unit='shard', disable=None):
        chosen = windows[number * SHARD_WINDOWS:(number + 1) * SHARD_WINDOWS]
        numbers = range(number * SHARD_WINDOWS, number * SHARD_WINDOWS + len(chosen))
        batch = _batch(chosen, numbers, options) | {'hand': torch.from_numpy(hands[numbers])}
        crops += int(batch['view_mask'].sum())
        write_features(folder, number, _with_features(batch, networks))
    return crops


def _numbered_hands(windows: Sequence[Window]) -> np.ndarray:
    """(N,) which hand of which recording each window shows."""
    hands = [(window.part.source, bool(window.labels.left[window.rows[0]])) for window in windows]
    numbers = {hand: number for number, hand in enumerate(dict.fromkeys(hands))}
    return np.array([numbers[hand] for hand in hands], np.int64)


def _batch(windows: Sequence[Window], numbers: Sequence[int], options: SequenceOptions) -> dict[str, Tensor]:
    """Windows as `data.batches.collate` gives samples, with an axis of frames and their images. Rigs with fewer cameras
    than the largest are filled up with masked views."""
    views = max(len(window.part.source.cameras) for window in windows)
    shape = (len(windows), views, options.frames)
    out: dict[str, np.ndarray] = {
        'images': np.zeros((*shape, HAND_SIZE, HAND_SIZE, 3), np.uint8),
        'K': np.broadcast_to(np.eye(3), (*shape, 3, 3)).copy(),
        'camera_from_world': np.broadcast_to(np.eye(4)[:3], (*shape, 3, 4)).copy(),
        'view_mask': np.zeros(shape, bool), 'present': np.zeros(shape, bool),
        'labels_px': np.zeros((*shape, JOINT_COUNT, 2)), 'labels_sigma_px': np.full((*shape, JOINT_COUNT, 2), np.inf),
        'joints': np.full((len(windows), options.frames, JOINT_COUNT, 3), np.nan),
        'stamps_s': np.zeros((len(windows), options.frames)), 'index': np.array(numbers, np.int64)}
    wanted = list(enumerate(windows))
    for part in dict.fromkeys(window.part for window in windows):
        _fill(out, part, [(place, window) for place, window in wanted if window.part is part], options)
    for place, window in wanted:
        stamps = window.labels.stamp_ns[window.rows]
        out['stamps_s'][place] = (stamps - stamps[0]) * 1e-9
        out['joints'][place] = window.labels.joints[window.rows] * (MIRROR if window.labels.left[window.rows[0]] else 1)
    # The world is shifted to the hand, so that float32 keeps its digits.
    origin = np.nanmean(out['joints'], axis=(1, 2))
    out['joints'] -= origin[:, None, None]
    pose = out['camera_from_world']
    pose[..., 3] += (pose[..., :3] @ origin[:, None, None, :, None])[..., 0] * out['view_mask'][..., None]
    return {name: torch.from_numpy(value.astype(np.float32) if value.dtype == np.float64 else value)
            for name, value in out.items()}


def _fill(out: dict[str, np.ndarray], part: Part, windows: Sequence[tuple[int, Window]],
          options: SequenceOptions) -> None:
    """Cut the crops of windows out of the images of their part."""
    source = part.source
    jobs: dict[tuple[str, int], list[tuple[int, int, Window]]] = {}
    for place, window in windows:
        for frame, row in enumerate(window.rows):
            for name, stamp in zip(source.cameras, window.labels.view_stamp_ns[row].tolist()):
                if stamp != NO_IMAGE:
                    jobs.setdefault((name, stamp), []).append((place, frame, window))
    store = get_typestore(Stores.ROS2_HUMBLE)
    with open_bag(source.path, part.part_s) as bag:
        topics = find_images(bag, find_calibration(bag, part.settings), part.settings)
        camera_of = {topic: name for name, topic in topics.items()}
        chosen = [connection for connection in bag.connections if connection.topic in camera_of]
        for connection, _, data in bag.messages(chosen):
            name = camera_of[connection.topic]
            todo = jobs.pop((name, header_stamp_ns(data)), ())
            if not todo:
                continue
            camera, view = source.rig[name], source.cameras.index(name)
            try:
                image = decode_stored_image(store, connection.msgtype, data, camera)
                check_size(camera, image)
            except ImageFormatError:
                # As the live pipeline does without it.
                continue
            for place, frame, window in todo:
                cut = cut_view(image, source.rig.subset([name]), window, frame, view,
                               (options.seed, int(out['index'][place]), view))
                if cut is not None:
                    for key, value in cut.items():
                        out[key][place, view, frame] = value


def cut_view(image: np.ndarray, rig: CameraRig, window: Window, frame: int, view: int,
             seed: Sequence[int]) -> dict[str, Any] | None:
    """One camera's crop of a window's hand in one frame, with its label; None where the hand is not before it.
    rig: that camera alone.  view: its place among the cameras of the labels.  seed: decides how far the crop is off."""
    camera: Camera = next(iter(rig))
    row, labels = window.rows[frame], window.labels
    box = jitter(hand_box(labels.joints[row], camera, rule=box_of_hand), CROP_AUGMENTATION,
                   np.random.default_rng(seed))
    if not np.isfinite(box).all():
        return None
    K = crop_intrinsics(camera, box, HAND_SIZE)
    crop, pose = cut_pinhole(image, camera, K, HAND_SIZE), camera.camera_from_world[:3].copy()
    with torch.inference_mode():
        xy, ideal = (part[0].numpy() for part in rig.normalise_with_jacobian(
            torch.from_numpy(labels.labels_px[row, view][None])))
    px = xy @ K[:2, :2].T + K[:2, 2]
    # What is kept of the turned variance is its diagonal in the axes of the crop.
    variance = np.square(K[:2, :2] @ ideal) @ np.square(labels.sigma_px[row, view])[..., None]
    known = np.isfinite(px).all(-1) & np.isfinite(variance[..., 0]).all(-1)
    px, sigma = np.where(known[:, None], px, 0.0), np.where(known[:, None], np.sqrt(variance[..., 0]), np.inf)
    if labels.left[row]:
        crop, px, K, pose = mirror_view(crop, px, K, pose)
    return {'images': crop, 'K': K, 'camera_from_world': pose, 'view_mask': True, 'present': bool(known.any()),
            'labels_px': np.where(known[:, None], px, 0.0), 'labels_sigma_px': sigma}


def _with_features(batch: dict[str, Tensor], networks: FrozenLandmarks) -> dict[str, Tensor]:
    """The batch with LandmarkMaps in place of its images; zeros in masked views."""
    images, mask = batch.pop('images'), batch['view_mask']
    seen = images[mask]
    dtype = choose_precision('auto', torch.device('cpu'))
    parts: list[LandmarkMaps] = []
    for part in seen.split(READ_BATCH):
        with torch.autocast('cpu', dtype=dtype, enabled=dtype != torch.float32):
            parts.append(networks(image_tensor(part)))
    named = {name: torch.cat([maps[place] for maps in parts]) for place, name in enumerate(LandmarkMaps._fields[:5])}
    named |= {f'level_{place}': torch.cat([maps.levels[place] for maps in parts])
              for place in range(len(parts[0].levels))}
    kept = {}
    for name, value in named.items():
        value = value.float() if name in EXACT else value.half()
        kept[name] = value.new_zeros((*mask.shape, *value.shape[1:]))
        kept[name][mask] = value
    return batch | kept


