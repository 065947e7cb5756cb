"""Readings of the last sets, as a window that the network refines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hand_unc_ros.methods.contract import Triangulation, ViewReading
from hand_unc_ros.methods.ust_hand.network import Cameras, Stages, UstHand
from hand_unc_ros.methods.ust_hand.views import ViewMaps

# Older sets say nothing of a hand any more; windows in training are shorter.
OLDEST_S = 1.0
# Fewer hypotheses of a joint tell no spread.
FEWEST_HYPOTHESES = 3


@dataclass(frozen=True)
class Refinement:
    """joints: (21, 3) metres, world, NaN where not triangulated.  spread: (21, 3, 3) m², of the hypotheses.
    gate: (V, 21) shares of the views.  vertices: (N, 3) metres, world, or None."""

    joints: np.ndarray
    spread: np.ndarray
    gate: np.ndarray
    vertices: np.ndarray | None


def refine(network: UstHand, window: Sequence[Mapping[str, ViewReading]], start: Triangulation,
           handedness: str, stages: Stages | None = None) -> Refinement | None:
    """The newest set's joints, refined by the whole window, oldest set first. start: of the newest set.  stages: as of
    UstHand.fuse.

    Cameras may come and go: a view that a set lacks is masked in that frame. Frames are as far apart as their stamps
    say. None when fewer than two views were used, or the answer is not finite.
    """
    newest = list(window[-1].values())
    used = {reading.camera for reading, ok in zip(newest, start.used) if ok and reading.features is not None}
    if len(used) < 2:
        return None
    frames = _recent(window, used)
    cameras = list(dict.fromkeys(name for frame in reversed(frames) for name in frame))
    flip = np.array([-1.0 if handedness == 'left' else 1.0, 1.0, 1.0])
    # Near the origin float32 keeps its digits.
    origin = np.nanmean(start.joints, axis=0)
    maps, views = _stacked(frames, cameras, origin * flip, network.flow.masks.device)
    with torch.inference_mode():
        given = torch.from_numpy(((start.joints - origin) * flip).astype(np.float32))[None].to(views.K.device)
        out = network.fuse(maps, views, start=given, stages=stages, alone=True)
        anchors = out.anchors[0, 0].double().cpu().numpy() * flip
        joints = out.joints[-1][0, 0].double().cpu().numpy() * flip + origin
        vertices = None if out.vertices is None else out.vertices[0].double().cpu().numpy() * flip + origin
        confidence = out.confidence[0, :, -1].double().cpu().numpy()
    if not np.isfinite(joints).all():
        return None
    shares = confidence / np.maximum(confidence.sum(axis=0), 1e-12)
    gate = np.array([shares[cameras.index(reading.camera)] if reading.camera in used else np.zeros(len(joints))
                     for reading in newest])
    return Refinement(np.where(start.valid[:, None], joints, np.nan), hypothesis_spread(anchors), gate, vertices)


def hypothesis_spread(anchors: np.ndarray) -> np.ndarray:
    """(21, 3, 3) m², covariances of each joint's hypotheses (M, 21, 3) metres, NaN where not triangulated; zero where
    too few were."""
    there = np.isfinite(anchors).all(axis=-1)
    count = there.sum(axis=0)[:, None]
    filled = np.where(there[..., None], anchors, 0.0)
    offsets = np.where(there[..., None], anchors - filled.sum(axis=0) / np.maximum(count, 1), 0.0)
    spread = np.einsum('mji,mjk->jik', offsets, offsets) / np.maximum(count - 1, 1)[..., None]
    return np.where((count >= FEWEST_HYPOTHESES)[..., None], spread, 0.0)


def split(maps: ViewMaps) -> list[ViewMaps]:
    """Those of each of N crops."""
    return [ViewMaps(*parts) for parts in zip(*maps[:5])]


def _recent(window: Sequence[Mapping[str, ViewReading]], used: set[str]) -> list[dict[str, ViewReading]]:
    """The views with a hand and with features in each set, oldest first: sets without any, and those that are too old
    or not before the newest one, are left out. used: views of the newest set that are taken."""
    newest = {name: reading for name, reading in window[-1].items() if name in used}
    frames = [{name: reading for name, reading in readings.items()
               if reading.features is not None and reading.valid.any()} for readings in window[:-1]]
    ages = [(stamp_of(newest) - stamp_of(frame)) * 1e-9 if frame else np.inf for frame in frames]
    return [frame for frame, age in zip(frames, ages) if 0 < age <= OLDEST_S] + [newest]


def stamp_of(readings: Mapping[str, ViewReading]) -> int:
    """The middle of the stamps, nanoseconds."""
    stamps = sorted(reading.stamp_ns for reading in readings.values())
    return stamps[len(stamps) // 2]


def _stacked(frames: Sequence[Mapping[str, ViewReading]], cameras: Sequence[str], origin: np.ndarray,
             device: torch.device) -> tuple[ViewMaps, Cameras]:
    """One window, (1, V, T, …). origin: (3,) to which the world is shifted."""
    like = next(iter(frames[-1].values())).features
    nothing = ViewMaps(*(torch.ones_like(part) if name == 'variance' else torch.zeros_like(part)
                         for name, part in zip(ViewMaps._fields, like[:5])))
    slots = [[frame.get(name) for frame in frames] for name in cameras]
    parts = [[nothing if reading is None else reading.features for reading in row] for row in slots]
    maps = ViewMaps(*(torch.stack([torch.stack([part[index] for part in row]) for row in parts])[None]
                      for index in range(5)))
    K = np.array([[np.eye(3) if reading is None else reading.K for reading in row] for row in slots])
    pose = np.array([[np.eye(4)[:3] if reading is None else reading.camera_from_world for reading in row]
                     for row in slots])
    pose = np.concatenate([pose[..., :3], pose[..., 3:] + (pose[..., :3] @ origin)[..., None]], axis=-1)
    mask = np.array([[reading is not None for reading in row] for row in slots])
    seconds = np.array([stamp_of(frame) - stamp_of(frames[-1]) for frame in frames]) * 1e-9
    K, pose, seconds = (torch.from_numpy(value.astype(np.float32))[None].to(device) for value in (K, pose, seconds))
    return maps, Cameras(K, pose, torch.from_numpy(mask)[None].to(device), seconds)
