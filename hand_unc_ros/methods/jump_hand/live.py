"""JUMP-Hand live: find the hand in whole images, read it from crops, refine what is triangulated from the readings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.geometry.rig_cache import RigCache
from hand_unc_ros.hand.crops import reach_box, transform, upright_roll
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST
from hand_unc_ros.methods.contract import (
    HANDEDNESS,
    Crop,
    Detection,
    Fused,
    HandPrior,
    MethodOptions,
    Triangulation,
    View,
    ViewReading,
)
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.methods.geometric_fusion import Refinement
from hand_unc_ros.methods.jump_hand.finder_frames import fit_frame
from hand_unc_ros.methods.frozen_landmarks import error_head_of, landmark_files
from hand_unc_ros.methods.jump_hand.landmarks_live import JumpHandOnLandmarks
from hand_unc_ros.methods.jump_hand.network import load_jump_hand, reads_landmarks
from hand_unc_ros.methods.jump_hand.refining import Refiner, split
from hand_unc_ros.methods.jump_hand.runtimes import encode_runner
from hand_unc_ros.networks.acceleration import torch_runner
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, cells_to_pixels
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH, HandFinder, decode
from hand_unc_ros.networks.joint_covariance import JointCovariance
from hand_unc_ros.networks.placement import choose_device, choose_precision
from hand_unc_ros.networks.weights import read_weights
from hand_unc_ros.resources import resource

log = logging.getLogger(__name__)

# The networks that come with the package.
SHIPPED, SHIPPED_FINDER = 'models/jump_hand_lite.safetensors', 'models/hand_finder.safetensors'
# Low: a box too many costs a crop, whose presence score then decides; a hand overlooked costs the view.
FINDER_THRESHOLD = 0.08
PRESENCE_THRESHOLD = 0.5
# Turns of a found box that are tried, rad.
QUARTERS = np.array([0.0, 0.5, 1.0, -0.5]) * np.pi
# A joint this far outside of its image, in pixels, was guessed, not seen.
BORDER_PX = 2.0
# 'compile' is torch.compile; 'cuda_graph' the same with CUDA graphs, which takes the launches out of small networks.
# 'auto' is torch as it is: OpenVINO needs some seconds at the start, which `make demo` and tests would wait for.
ACCELERATIONS = ('auto', 'none', 'openvino', 'compile', 'cuda_graph')


def files(options: MethodOptions) -> dict[str, Path]:
    """The files that decide the numbers, by the names of their settings. A covariance head that lies beside the weights
    is taken unless another one, or 'none', is named; without refinement there is none."""
    weights = Path(options.weights or resource(SHIPPED))
    if reads_landmarks(weights):
        hand, palm, variance_head = landmark_files(error_head_of(weights))
        found = {'weights': weights, 'landmark_weights': hand, 'finder_weights': Path(options.finder_weights or palm),
                 'variance_head': variance_head}
    else:
        found = {'weights': weights, 'finder_weights': Path(options.finder_weights or resource(SHIPPED_FINDER))}
    beside = weights.with_suffix('.covariance.safetensors')
    if options.refinement and options.covariance_head != 'none':
        if options.covariance_head or beside.exists():
            found['covariance_head'] = Path(options.covariance_head or beside)
    return found


def build(options: MethodOptions, cameras: tuple[str, ...]) -> JumpHandLive | JumpHandOnLandmarks:
    """Load the networks, compiled for this number of cameras where OpenVINO is asked for. Any camera will do. Raises
    ConfigError with the remedy."""
    found = files(options)
    if 'landmark_weights' in found:
        return JumpHandOnLandmarks(found, options, len(cameras))
    method = JumpHandLive(found, options)
    if options.acceleration == 'openvino':
        method.accelerate(max(2, len(cameras)))
    return method


class JumpHandLive:
    """`HandFinder` on whole images, Gaussians of crops by `JumpHand`, triangulation, and refinement by its decoder.

    files: as `files` gives them.  The networks know right hands: `find` shows them a left one in a mirror.
    Raises ConfigError for files and options that do not fit together.
    """

    name = 'jump_hand'
    min_views = 2
    window = 1
    crop_box = staticmethod(reach_box)

    def __init__(self, files: Mapping[str, Path], options: MethodOptions = MethodOptions()) -> None:
        weights, acceleration = files['weights'], options.acceleration
        if options.handedness not in HANDEDNESS:
            raise ConfigError(f'the method jump_hand follows one hand, and handedness is {options.handedness!r}; choose'
                              ' right or left, or take the method landmarks')
        if acceleration not in ACCELERATIONS:
            raise ConfigError(f'acceleration {acceleration!r} is unknown; choose one of {", ".join(ACCELERATIONS)}')
        self.device = choose_device(options.device)
        if acceleration == 'cuda_graph' and self.device.type != 'cuda':
            raise ConfigError(f"acceleration 'cuda_graph' needs a CUDA device, chosen is {self.device};"
                              " use 'none' or 'compile'")
        self.dtype = choose_precision(options.precision, self.device)
        self.options = options
        self.network = load_jump_hand(weights)
        self.refiner = Refiner(self.network, files, options, self.device, self.dtype)
        self.finder = load_finder(files['finder_weights'])
        for network in (self.network, self.finder):
            network.to(self.device, memory_format=torch.channels_last).eval()
        encode = self.network.encode
        if acceleration in ('compile', 'cuda_graph'):
            encode = torch.compile(encode, mode='reduce-overhead' if acceleration == 'cuda_graph' else 'default')
        self._encode = torch_runner(encode, self.dtype, self.device).run
        self._rigs = RigCache()
        log.info('JumpHand %s on %s in %s, acceleration %s', Path(weights).stem, self.device, self.dtype, acceleration)

    def accelerate(self, views: int) -> None:
        """Run the per-view stage and the decoder by OpenVINO. Raises MissingDependencyError without it and ConfigError
        where it gives another answer. The finder and first readings, which are rare, stay with torch."""
        self._encode = encode_runner(self.network, self.device, self.dtype, views).run
        self.refiner.accelerate(views)

    @property
    def crop_size(self) -> int:
        """Side of the crops in pixels."""
        return self.network.config.image_size

    @property
    def surface(self) -> str:
        """Name of the hand model whose mesh the network gives; '' where it does not refine."""
        return self.refiner.surface

    @property
    def covariance_head(self) -> JointCovariance | None:
        """Of the refined joints."""
        return self.refiner.covariance_head

    def find(self, views: Mapping[str, View]) -> list[list[Detection]]:
        """At most one hand in each view: the finder's box, turned to where the network is surest of the joints and
        moved onto the knuckle that a first reading shows."""
        side = self.options.handedness
        rig = self._rigs.of([view.camera for view in views.values()])
        boxes = self._turned(views, self._find(views, rig))
        found: list[list[Detection]] = [[] for _ in views]
        rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        seen = list(views.values())
        first = self.read([cut_crop(seen[row], boxes[row], side, self.crop_size) for row in rows])
        joints = np.full((len(views), 21, 2), np.nan)
        joints[rows] = np.array([reading.joints_px for reading in first]).reshape(-1, 21, 2)
        ideal = _ideal(rig, joints)
        for row, reading in zip(rows, first):
            if reading.valid[[WRIST, MIDDLE_MCP]].all():
                middle, roll = ideal[row, MIDDLE_MCP], upright_roll(ideal[row])
                found[row] = [Detection(np.array([*middle, boxes[row, 2], roll]), side, reading.score)]
        return found

    def read(self, crops: Sequence[Crop]) -> list[ViewReading]:
        """The per-view stage on a batch of crops."""
        if not crops:
            return []
        size = self.crop_size
        with torch.inference_mode():
            stage = self._encode(self._images(np.stack([crop.image for crop in crops]))[None])
        scores = stage.presence[0].sigmoid().double().cpu().numpy()
        means = cells_to_pixels(stage.mean[0], size).double().cpu().numpy()
        spread = stage.variance[0].double().cpu().numpy() * (size / HEATMAP_SIZE) ** 2
        features = split(stage) if self.refiner.refines else [None] * len(crops)
        readings: list[ViewReading | None] = [None] * len(crops)
        # A camera occurs once for each hand.
        for side in HANDEDNESS:
            rows = [row for row, crop in enumerate(crops) if crop.handedness == side]
            if not rows:
                continue
            joints, variance, inside = self._in_images([crops[row] for row in rows], means[rows], spread[rows])
            inside &= (scores[rows] >= PRESENCE_THRESHOLD)[:, None]
            for place, row in enumerate(rows):
                known = inside[place][:, None]
                readings[row] = ViewReading(
                    crops[row].camera.name, crops[row].view.stamp_ns, np.where(known, joints[place], np.nan),
                    np.where(known, variance[place], np.nan), inside[place], float(scores[row]), side,
                    crops[row].box_px, crops[row].K, crops[row].camera_from_world, features[row])
        return readings

    @torch.inference_mode()
    def _in_images(self, crops: Sequence[Crop], means: np.ndarray, spread: np.ndarray
                   ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Joints (R, 21, 2) and variances (R, 21, 2), px of the crops, in pixels of the distorted images; and which lie
        inside of these (R, 21)."""
        rig = self._rigs.of([crop.camera for crop in crops])
        K = np.stack([crop.K for crop in crops])
        xy, from_crop = _unmirrored(means, K, np.array([crop.mirrored for crop in crops]))
        px, to_image = (part.numpy() for part in rig.denormalise_with_jacobian(torch.from_numpy(xy)))
        # What is kept of the turned variance is its diagonal in image axes.
        px2 = (np.square(to_image @ from_crop[:, None]) @ spread[..., None])[..., 0]
        limits = np.array([[camera.width, camera.height] for camera in rig])[:, None]
        inside = ((px > -BORDER_PX) & (px < limits + BORDER_PX) & np.isfinite(px2)).all(axis=2)
        return px, px2, inside

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused:
        """See Refiner."""
        return self.refiner.fuse(window, rig, track)

    def refine(self, readings: Sequence[ViewReading], start: Triangulation, handedness: str) -> Refinement | None:
        """See Refiner."""
        return self.refiner.refine(readings, start, handedness)

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def close(self) -> None:
        """Nothing to release."""

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def _find(self, views: Mapping[str, View], rig: CameraRig) -> np.ndarray:
        """Boxes (V, 4) in undistorted pixels; NaN where no hand is found."""
        mirrored = self.options.handedness == 'left'
        frames, affines = zip(*(fit_frame(view.image, FRAME_WIDTH, FRAME_HEIGHT) for view in views.values()))
        stack = np.stack(frames)
        with torch.inference_mode(), self._autocast():
            found = decode(self.finder(self._images(stack[:, :, ::-1] if mirrored else stack)))
        boxes = found.box.double().cpu().numpy()
        if mirrored:
            boxes[:, 0] = FRAME_WIDTH - 1 - boxes[:, 0]
            boxes[:, 3] = -boxes[:, 3]
        for box, affine in zip(boxes, affines):
            box[:2] = transform(affine, box[None, :2])[0]
            box[2] *= affine[0, 0]
        boxes[:, :2] = _ideal(rig, boxes[:, None, :2])[:, 0]
        boxes[found.score.cpu().numpy() < FINDER_THRESHOLD] = np.nan
        return boxes

    def _turned(self, views: Mapping[str, View], boxes: np.ndarray) -> np.ndarray:
        """The boxes (V, 4), each turned by that quarter under which the network is surest of the joints: a hand's
        direction is hard to see in the finder's small frames."""
        rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        if not len(rows):
            return boxes
        turned = boxes[np.repeat(rows, len(QUARTERS))]
        turned[:, 3] += np.tile(QUARTERS, len(rows))
        seen = list(views.values())
        images = np.stack([cut_crop(seen[row], box, self.options.handedness, self.crop_size).image
                           for row, box in zip(np.repeat(rows, len(QUARTERS)), turned)])
        with torch.inference_mode(), self._autocast():
            stage = self.network.encode(self._images(images)[None])
        unsure = stage.variance.log().mean(dim=(0, 2, 3)).reshape(len(rows), -1).cpu().numpy()
        boxes = boxes.copy()
        boxes[rows] = turned.reshape(len(rows), -1, 4)[np.arange(len(rows)), unsure.argmin(axis=1)]
        return boxes

    def _images(self, images: np.ndarray) -> torch.Tensor:
        """(B, H, W, 3) uint8 to (B, 3, H, W) in [0, 1]; one copy to the device."""
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2).float() / 255.0


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


@torch.inference_mode()
def _ideal(rig: CameraRig, px: np.ndarray) -> np.ndarray:
    """Undistorted pixels (V, N, 2) of distorted ones."""
    xy = rig.normalise(torch.from_numpy(px)).numpy()
    K = np.stack([camera.K for camera in rig.cameras])
    return xy @ np.swapaxes(K[:, :2, :2], 1, 2) + K[:, None, :2, 2]


def _unmirrored(px: np.ndarray, K: np.ndarray, mirrored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised coordinates (R, 21, 2) in the real cameras of crop pixels (R, 21, 2), and d xy / d px (R, 2, 2).
    mirrored: (R,) bool."""
    inverse = np.linalg.inv(K[:, :2, :2])
    inverse[mirrored, 0] *= -1.0
    return (px - K[:, None, :2, 2]) @ np.swapaxes(inverse, 1, 2), inverse
