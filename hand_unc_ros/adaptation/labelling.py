"""Pseudo-labels of recordings by the live pipeline, part by part, kept on disk: a killed run goes on with the next
part. The pipeline finds and follows the hands; their landmarks are its own, or those of another network.

Labels lie beside the recording, or in a folder of the user's choice, in a folder that is named by the hash of all that
decides them: the recording, the rig, the networks and the settings. Another rig file makes other labels and leaves
these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hand_unc_ros.adaptation.consensus import consensus, rigid, triangulated
from hand_unc_ros.adaptation.plan import Part, Source, content_hash, estimator_content, rig_content
from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.pseudo_labels import NO_IMAGE, PseudoLabels, joined, load_labels, no_labels, save_labels
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.crop_boxes import boxes_around
from hand_unc_ros.evaluation.recordings.replay import Replay, find_calibration
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods.contract import HANDEDNESS, View
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.methods.view_gaussians import ViewGaussians
from hand_unc_ros.networks.landmark_noise import known_landmarks, landmark_variance
from hand_unc_ros.networks.onnx_landmarks import OnnxLandmarks
from hand_unc_ros.networks.weights import fingerprint

# Raised where the rules of consensus.py change, so that labels by others are not taken for theirs.
RULES = 1


def label_folder(source: Source, cache: Path | None = None, detector: Path | None = None) -> Path:
    """Where the labels of a recording lie."""
    made_of = {'rules': RULES, 'bag': source.sha256, 'rig': rig_content(source.rig),
               'estimator': estimator_content(source.settings.estimator),
               'period_s': source.settings.period_s, 'tolerance_s': source.settings.tolerance_s,
               **({} if detector is None else {'detector': fingerprint(detector)})}
    name = f'{source.path.name}.labels'
    return (cache / name if cache is not None else source.path.with_name(name)) / content_hash(made_of)[:16]


def label_parts(parts: Sequence[Part], cache: Path | None = None,
                detector: Path | None = None) -> dict[Source, PseudoLabels]:
    """The labels of all hands in parts of recordings, by recording: what is on disk is read, what is missing is made.
    cache: the folder to keep them in, beside each recording by default.  detector: a landmark network whose landmarks
    are taken. Raises DatasetError where the folder cannot be written, RecordingError for a recording that cannot be
    read, ConfigError for a detector that is none."""
    made: dict[Source, list[PseudoLabels]] = {}
    network = None if detector is None else OnnxLandmarks(detector)
    folders = {source: label_folder(source, cache, detector) for source in dict.fromkeys(part.source for part in parts)}
    for folder in folders.values():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(f'{folder} cannot be made ({error.strerror}); choose a folder for the labels with '
                               '--cache') from error
    for part in tqdm(parts, desc='pseudo-labels', unit='part', disable=None):
        begin, end = (round(1e3 * seconds) for seconds in part.part_s)
        path = folders[part.source] / f'{begin:09d}-{end:09d}.npz'
        if not path.is_file():
            save_labels(path, label_part(part, network))
        made.setdefault(part.source, []).append(load_labels(path))
    return {source: rigid(joined(labels)) for source, labels in made.items()}


def label_part(part: Part, network: OnnxLandmarks | None = None) -> PseudoLabels:
    """The labels of a part, by the pipeline that its settings describe. network: whose landmarks of the hands are taken
    in place of the pipeline's."""
    cameras = part.source.cameras
    settings = part.settings
    rows: list[dict[str, Any]] = []
    with open_bag(part.source.path, part.part_s) as bag:
        estimator = build_estimator(settings.estimator, cameras)
        try:
            for processed in Replay(bag, find_calibration(bag, settings), settings, estimator):
                views = processed.frames.views
                for hand in processed.result.hands:
                    read = processed.result.readings_of(hand).gaussians
                    if network is not None:
                        read = read_again(network, views, part.source.rig.subset(list(read.cameras)), hand.joints)
                    joints, px, sigma = consensus(read, part.source.rig.subset(list(read.cameras)),
                                                  settings.estimator.triangulation)
                    if not np.isfinite(sigma).any():
                        continue
                    places = [cameras.index(name) for name in read.cameras]
                    row = {'stamp_ns': hand.stamp_ns, 'left': hand.handedness == HANDEDNESS[1], 'track': hand.track_id,
                           'joints': joints, 'view_stamp_ns': np.full(len(cameras), NO_IMAGE),
                           'labels_px': np.full((len(cameras), 21, 2), np.nan),
                           'sigma_px': np.full((len(cameras), 21, 2), np.inf)}
                    row['labels_px'][places], row['sigma_px'][places] = px, sigma
                    for name, view in views.items():
                        row['view_stamp_ns'][cameras.index(name)] = view.stamp_ns
                    rows.append(row)
        finally:
            estimator.close()
    if not rows:
        return no_labels(cameras)
    return PseudoLabels(cameras, **{name: np.array([row[name] for row in rows]) for name in rows[0]})


def read_again(network: OnnxLandmarks, views: Mapping[str, View], rig: CameraRig, joints: np.ndarray) -> ViewGaussians:
    """What a landmark network makes of a hand in the images of a rig's cameras, with the variances of the noise model.
    joints: (21, 3) metres, world, NaN where unknown: where the hand is."""
    boxes = boxes_around(rig, joints)
    seen = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    # Not mirrored for left hands: such networks know both.
    crops = [cut_crop(views[rig.names[row]], boxes[row], HANDEDNESS[0], network.size) for row in seen]
    px, variance = np.full((len(rig), 21, 2), np.nan), np.full((len(rig), 21, 2), np.nan)
    for row, crop, landmarks in zip(seen, crops, network.read(np.array([crop.image for crop in crops]))):
        xy = (landmarks - crop.K[:2, 2]) @ np.linalg.inv(crop.K[:2, :2]).T
        found = crop.camera.denormalise(xy)
        px[row], variance[row] = known_landmarks(found, landmark_variance(found), crop.camera.width, crop.camera.height)
    valid = np.isfinite(px).all(-1)
    return ViewGaussians(rig.names, px, variance, valid, valid.any(1).astype(float), boxes)


def labels_of_file(path: Path, source: Source) -> PseudoLabels:
    """Labels that the user brings for a recording, in the order of its cameras. Raises DatasetError where they are not
    of this recording."""
    labels = load_labels(path)
    lacking = [name for name in source.cameras if name not in labels.cameras]
    if lacking:
        raise DatasetError(f'labels {path} have no camera {lacking[0]!r}; they have {", ".join(labels.cameras)}')
    order = [labels.cameras.index(name) for name in source.cameras]
    labels = PseudoLabels(source.cameras, labels.stamp_ns, labels.view_stamp_ns[:, order], labels.left, labels.track,
                          labels.labels_px[:, order], labels.sigma_px[:, order], labels.joints)
    with open_bag(source.path) as bag:
        first, last = bag.start_ns, bag.start_ns + bag.duration_ns
    # A recorder takes a message down seconds after its stamp at most.
    slack = 10_000_000_000
    if not len(labels) or labels.stamp_ns[0] < first - slack or labels.stamp_ns[-1] > last + slack:
        raise DatasetError(f'labels {path} are not of bag {source.path}: their stamps are not within its time')
    return triangulated(labels, source.rig)


def of_part(labels: PseudoLabels, part: Part, start_ns: int) -> PseudoLabels:
    """The labels of a recording that lie in a part of it. start_ns: when the recording begins."""
    seconds = (labels.stamp_ns - start_ns) * 1e-9
    return labels.rows((seconds >= part.part_s[0]) & (seconds < part.part_s[1]))
