"""Our own networks as front end: find the hand once, then follow it by crops; refine what is fused from them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.cropping import fit_frame
from hand_unc_ros.estimation.types import Refinement, RigCache, View, ViewEstimate
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole, mirror_view
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, cells_to_pixels
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH, HandFinder, decode
from hand_unc_ros.networks.joint_covariance import JointCovariance, load_joint_covariance
from hand_unc_ros.networks.jump_hand import JumpHandOutput, ViewStage, load_jump_hand
from hand_unc_ros.networks.weights import read_weights

log = logging.getLogger(__name__)

# Low: a box too many costs a crop, whose presence score then decides; a hand overlooked costs the view.
FINDER_THRESHOLD = 0.08
PRESENCE_THRESHOLD = 0.5
# Turns of a found box that are tried, rad.
QUARTERS = np.array([0.0, 0.5, 1.0, -0.5]) * np.pi
# Share of the projected joints that must lie inside an image for a view to be worth a crop.
MIN_INSIDE = 0.5
# A joint this far outside of its image, in pixels, was guessed, not seen.
BORDER_PX = 2.0
PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')
# 'compile' is torch.compile; 'cuda_graph' the same with CUDA graphs, which takes the launches out of small networks.
ACCELERATIONS = ('none', 'compile', 'cuda_graph')


def choose_device(name: str) -> torch.device:
    """'auto' takes the first CUDA device if there is one. Raises ConfigError for one that is absent."""
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f'device {name!r} cannot be used ({str(error).splitlines()[0]});'
                          " use 'auto', 'cpu' or 'cuda'") from error
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """'auto' is float16 on CUDA, bfloat16 on a CPU with the instructions for it, else float32."""
    if name not in PRECISIONS:
        raise ConfigError(f'precision {name!r} is unknown; choose one of {", ".join(PRECISIONS)}')
    if name != 'auto':
        return getattr(torch, name)
    if device.type == 'cuda':
        return torch.float16
    has_bf16 = any(feature in torch.backends.cpu.get_cpu_capability() for feature in ('AVX512', 'SVE')) and \
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


class _Seen(NamedTuple):
    """What the fused stage needs of the newest crops.

    rows: indices of the views that had a crop.  K: (R, 3, 3) and camera_from_world: (R, 3, 4) of the crops, mirrored
    for a left hand.  stage: with one sample of R views.
    """

    rows: np.ndarray
    K: np.ndarray
    camera_from_world: np.ndarray
    stage: ViewStage


class NetworkFrontEnd:
    """Per-view Gaussians by `JumpHand`, with `HandFinder` for views whose hand is not being followed, and the
    refinement of the fused joints by JumpHand's decoder.

    handedness: the networks know right hands; a left one is shown to them in a mirrored world.  covariance_head: of
    JointCovariance, trained on these weights; None to go without.
    """

    def __init__(self, weights: Path, finder_weights: Path, *, covariance_head: Path | None = None,
                 handedness: str = 'right', device: str = 'auto', precision: str = 'auto',
                 acceleration: str = 'none') -> None:
        if acceleration not in ACCELERATIONS:
            raise ConfigError(f'acceleration {acceleration!r} is unknown; choose one of {", ".join(ACCELERATIONS)}')
        self.device = choose_device(device)
        if acceleration == 'cuda_graph' and self.device.type != 'cuda':
            raise ConfigError(f"acceleration 'cuda_graph' needs a CUDA device, chosen is {self.device};"
                              " use 'none' or 'compile'")
        self.dtype = choose_precision(precision, self.device)
        self.mirrored = handedness == 'left'
        self.network = load_jump_hand(weights)
        if self.network.config.gate == 'confidence':
            raise ConfigError(f"{weights} weights views by the gate 'confidence' of an outside detector, which the live"
                              ' pipeline does not have; take weights with another gate')
        self.covariance_head: JointCovariance | None = None
        if covariance_head is not None:
            # In double precision and on the CPU: it is small, and what leaves it must be positive semi-definite.
            self.covariance_head = load_joint_covariance(covariance_head, weights).double()
        self.finder = load_finder(finder_weights)
        for network in (self.network, self.finder):
            network.to(self.device, memory_format=torch.channels_last).eval()
        self._see = self.network.see
        if acceleration != 'none':
            self._see = torch.compile(self.network.see,
                                      mode='reduce-overhead' if acceleration == 'cuda_graph' else 'default')
        self._seen: _Seen | None = None
        self._rigs = RigCache()
        log.info('JumpHand %s on %s in %s, acceleration %s', Path(weights).stem, self.device, self.dtype, acceleration)

    @property
    def image_size(self) -> int:
        return self.network.config.view.image_size

    def reset(self) -> None:
        """Nothing is kept between frames: what is followed comes with `predicted`."""

    def estimate(self, views: dict[str, View], predicted: np.ndarray | None = None) -> ViewEstimate:
        """2D joints of each view, in the order given.

        predicted: joints (21, 3), world, expected at this time (NaN where unknown), or None when no hand is being
        followed; then the whole frames are searched, the boxes turned and refined once.
        """
        rig = self._rigs.of(views)
        if predicted is not None:
            return self._read(views, rig, _boxes_around(rig, predicted))
        boxes = self._turned(views, self._find(views, rig))
        first = self._read(views, rig, boxes)
        seen = first.valid[:, [WRIST, MIDDLE_MCP]].all(axis=1)
        ideal = _ideal(rig, first.joints_px)
        boxes[seen, :2] = ideal[seen, MIDDLE_MCP]
        boxes[seen, 3] = crops.upright_roll(ideal[seen])
        boxes[~seen] = np.nan
        return self._read(views, rig, boxes)

    def refine(self, joints: np.ndarray, covariance: np.ndarray, used: np.ndarray) -> Refinement | None:
        """The decoder's joints and surface, started from fused joints (21, 3), metres, world, NaN where unknown.

        covariance: (21, 3, 3) m², propagated to these, from which the head makes that of the refined ones.  used: (V,)
        bool, the views that were fused, of those of the last `estimate`.  None when the network has no decoder, fewer
        than two views were used, or its answer is not finite.
        """
        if self._seen is None or self.network.decoder is None:
            return None
        mask = used[self._seen.rows]
        if mask.sum() < 2:
            return None
        flip = np.array([-1.0 if self.mirrored else 1.0, 1.0, 1.0])
        # Near the origin float32 keeps its digits.
        origin = np.nanmean(joints, axis=0)
        pose = self._seen.camera_from_world.copy()
        pose[:, :, 3] += pose[:, :, :3] @ (origin * flip)
        inputs = [torch.from_numpy(np.asarray(value, np.float32))[None].to(self.device)
                  for value in (self._seen.K, pose, (joints - origin) * flip)]
        with torch.inference_mode(), self._autocast():
            out = self.network.join(self._seen.stage, *inputs[:2], torch.from_numpy(mask)[None].to(self.device),
                                    start=inputs[2])
        gate = np.zeros((len(used), out.gate.shape[2]))
        gate[self._seen.rows] = out.gate[0].double().cpu().numpy()
        result = torch.cat([out.joints[-1, 0], out.vertices[-1, 0]]).double().cpu().numpy()
        if not np.isfinite(result).all():
            return None
        learned = self._covariance(out, covariance * np.outer(flip, flip), np.tile(flip, len(joints)))
        result = result * flip + origin
        return Refinement(result[:len(joints)], result[len(joints):], gate, learned)

    def _covariance(self, out: JumpHandOutput, propagated: np.ndarray, flip: np.ndarray) -> np.ndarray | None:
        """(63, 63) m², world, of the refined joints. propagated: (21, 3, 3), in the world that the network sees.
        flip: (63,) signs, from there to the real one."""
        if self.covariance_head is None:
            return None
        known = torch.from_numpy(propagated)[None]
        with torch.inference_mode():
            covariance = self.covariance_head(out.features.double().cpu(), known, out.joints[-1].double().cpu())
        covariance = covariance[0].numpy() * np.outer(flip, flip)
        lost = np.repeat(~np.isfinite(propagated).all(axis=(1, 2)), 3)
        covariance[lost] = np.nan
        covariance[:, lost] = np.nan
        return (covariance + covariance.T) / 2

    def close(self) -> None:
        """Nothing to release."""

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def _find(self, views: dict[str, View], rig: CameraRig) -> np.ndarray:
        """Boxes (V, 4) in undistorted pixels; NaN where no hand is found."""
        frames, affines = zip(*(fit_frame(view.image, FRAME_WIDTH, FRAME_HEIGHT) for view in views.values()))
        stack = np.stack(frames)
        with torch.inference_mode(), self._autocast():
            found = decode(self.finder(self._images(stack[:, :, ::-1] if self.mirrored else stack)))
        boxes = found.box.double().cpu().numpy()
        if self.mirrored:
            boxes[:, 0] = FRAME_WIDTH - 1 - boxes[:, 0]
            boxes[:, 3] = -boxes[:, 3]
        for box, affine in zip(boxes, affines):
            box[:2] = crops.transform(affine, box[None, :2])[0]
            box[2] *= affine[0, 0]
        boxes[:, :2] = _ideal(rig, boxes[:, None, :2])[:, 0]
        boxes[found.score.cpu().numpy() < FINDER_THRESHOLD] = np.nan
        return boxes

    def _turned(self, views: dict[str, View], boxes: np.ndarray) -> np.ndarray:
        """The boxes (V, 4), each turned by that quarter under which the network is surest of the joints: a hand's
        direction is hard to see in the finder's small frames."""
        rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        if not len(rows):
            return boxes
        turned = boxes[np.repeat(rows, len(QUARTERS))]
        turned[:, 3] += np.tile(QUARTERS, len(rows))
        seen = list(views.values())
        images, _, _ = self._cut([seen[row] for row in rows for _ in QUARTERS], turned)
        with torch.inference_mode(), self._autocast():
            stage = self.network.see(self._images(images)[None])
        unsure = stage.variance.log().mean(dim=(0, 2, 3)).reshape(len(rows), -1).cpu().numpy()
        boxes = boxes.copy()
        boxes[rows] = turned.reshape(len(rows), -1, 4)[np.arange(len(rows)), unsure.argmin(axis=1)]
        return boxes

    def _images(self, images: np.ndarray) -> torch.Tensor:
        """(B, H, W, 3) uint8 to (B, 3, H, W) in [0, 1]; one copy to the device."""
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2).float() / 255.0

    def _read(self, views: dict[str, View], rig: CameraRig, boxes: np.ndarray) -> ViewEstimate:
        """Run the per-view stage on the crops under `boxes`; views without a box stay invalid."""
        count, size = len(views), self.image_size
        joints = np.full((count, 21, 2), np.nan)
        variance = np.full((count, 21, 2), np.nan)
        valid = np.zeros((count, 21), bool)
        score = np.zeros(count)
        rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        self._seen = None
        if len(rows):
            images, K, poses = self._cut([list(views.values())[row] for row in rows], boxes[rows])
            with torch.inference_mode(), self._autocast():
                stage = self._see(self._images(images)[None])
            self._seen = _Seen(rows, K, poses, stage)
            score[rows] = stage.presence[0].sigmoid().double().cpu().numpy()
            means = cells_to_pixels(stage.mean[0], size).double().cpu().numpy()
            spread = stage.variance[0].double().cpu().numpy() * (size / HEATMAP_SIZE) ** 2
            xy = np.full((count, 21, 2), np.nan)
            xy[rows], from_crop = _unmirrored(means, K, self.mirrored)
            px, to_image = (part.numpy() for part in rig.denormalise_with_jacobian(torch.from_numpy(xy)))
            # What is kept of the turned variance is its diagonal in image axes.
            px2 = (np.square(to_image[rows] @ from_crop[:, None]) @ spread[..., None])[..., 0]
            limits = np.array([[camera.width, camera.height] for camera in rig])[rows, None]
            inside = ((px[rows] > -BORDER_PX) & (px[rows] < limits + BORDER_PX) & np.isfinite(px2)).all(axis=2)
            inside &= (score[rows] >= PRESENCE_THRESHOLD)[:, None]
            joints[rows] = np.where(inside[..., None], px[rows], np.nan)
            variance[rows] = np.where(inside[..., None], px2, np.nan)
            valid[rows] = inside
        return ViewEstimate(tuple(views), joints, variance, valid, score, boxes)

    def _cut(self, views: list[View], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Crops (R, S, S, 3), their intrinsics (R, 3, 3) and poses (R, 3, 4), mirrored for a left hand."""
        images, Ks, poses = [], [], []
        for view, box in zip(views, boxes):
            K = crop_intrinsics(view.camera, box, self.image_size)
            image = cut_pinhole(view.image, view.camera, K, self.image_size)
            pose = view.camera.camera_from_world[:3]
            if self.mirrored:
                image, _, K, pose = mirror_view(image, np.zeros((0, 2)), K, pose)
            images.append(image)
            Ks.append(K)
            poses.append(pose)
        return np.stack(images), np.stack(Ks), np.stack(poses)


def load_finder(path: Path) -> HandFinder:
    """The finder stored at `path`. Raises ConfigError naming the file."""
    _, state = read_weights(path, 'HandFinder')
    finder = HandFinder()
    try:
        finder.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f'{path} does not fit the HandFinder of this version ({str(error).splitlines()[0]});'
                          ' train it anew or take the shipped one') from error
    return finder


def _boxes_around(rig: CameraRig, predicted: np.ndarray) -> np.ndarray:
    """Boxes (V, 4) in undistorted pixels around the projected joints; NaN where most of these are outside the image."""
    known = np.isfinite(predicted).all(axis=1)
    boxes = np.full((len(rig), 4), np.nan)
    projected, depths = (part.numpy() for part in rig.project(torch.from_numpy(predicted)))
    for row, camera in enumerate(rig.cameras):
        px, depth = projected[row], depths[row]
        seen = known & np.isfinite(px).all(axis=1)
        inside = seen & np.all((px > 0) & (px < [camera.width - 1, camera.height - 1]), axis=1)
        if seen[[WRIST, MIDDLE_MCP]].all() and inside.sum() >= MIN_INSIDE * known.sum():
            local = predicted @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
            ideal = local[:, :2] / local[:, 2:] @ camera.K[:2, :2].T + camera.K[:2, 2]
            focal = (camera.K[0, 0] + camera.K[1, 1]) / 2
            boxes[row] = crops.reach_box(predicted, ideal, focal / depth[MIDDLE_MCP])
    return boxes


def _ideal(rig: CameraRig, px: np.ndarray) -> np.ndarray:
    """Undistorted pixels (V, N, 2) of distorted ones."""
    xy = rig.normalise(torch.from_numpy(px)).numpy()
    K = np.stack([camera.K for camera in rig.cameras])
    return xy @ np.swapaxes(K[:, :2, :2], 1, 2) + K[:, None, :2, 2]


def _unmirrored(px: np.ndarray, K: np.ndarray, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Normalised coordinates (R, 21, 2) in the real cameras of crop pixels (R, 21, 2), and d xy / d px (R, 2, 2)."""
    inverse = np.linalg.inv(K[:, :2, :2])
    if mirrored:
        inverse = np.diag([-1.0, 1.0]) @ inverse
    return (px - K[:, None, :2, 2]) @ np.swapaxes(inverse, 1, 2), inverse
