"""2D joints from our own networks: find the hand once, then follow it by crops."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.cropping import cut, fit_frame, uncut
from hand_unc_ros.estimation.types import View, ViewEstimate
from hand_unc_ros.hand import crops
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST
from hand_unc_ros.networks.gaussian_2d import HEATMAP_SIZE, Gaussian2DConfig, Gaussian2DNet, cells_to_pixels
from hand_unc_ros.networks.hand_finder import FRAME_HEIGHT, FRAME_WIDTH, HandFinder, decode
from hand_unc_ros.networks.weights import read_weights

log = logging.getLogger(__name__)

# Low: a box too many costs a crop, whose presence score then decides; a hand overlooked costs the view.
FINDER_THRESHOLD = 0.08
PRESENCE_THRESHOLD = 0.5
# Share of the projected joints that must lie inside an image for a view to be worth a crop.
MIN_INSIDE = 0.5
# A joint this far outside of its image, in pixels, was guessed, not seen.
BORDER_PX = 2.0
PRECISIONS = ('auto', 'float32', 'bfloat16', 'float16')


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


def _stored(build: Callable[[dict], torch.nn.Module], path: Path, name: str) -> torch.nn.Module:
    """The network that `build` makes of the stored configuration, with the stored state. Raises ConfigError."""
    config, state = read_weights(path, name)
    try:
        network = build(config)
        network.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(f'{path} does not fit the {name} of this version'
                          f' ({str(error).splitlines()[0]}); train it anew or take the shipped one') from error
    return network


class NetworkFrontEnd:
    """Per-view Gaussians by `Gaussian2DNet`, with `HandFinder` for views whose hand is not being followed.

    mirrored: the hand wanted is a left one; the networks know right hands and see mirrored images.
    """

    def __init__(self, weights: Path, finder_weights: Path, *, handedness: str = 'right',
                 device: str = 'auto', precision: str = 'auto') -> None:
        self.device = choose_device(device)
        self.dtype = choose_precision(precision, self.device)
        self.mirrored = handedness == 'left'
        self.network: Gaussian2DNet = _stored(
            lambda config: Gaussian2DNet(Gaussian2DConfig(**config | {'blocks': tuple(config['blocks'])})),
            weights, 'Gaussian2DNet')
        self.finder: HandFinder = _stored(lambda config: HandFinder(), finder_weights, 'HandFinder')
        for network in (self.network, self.finder):
            network.to(self.device, memory_format=torch.channels_last).eval()
        log.info('2D network %s on %s in %s', Path(weights).stem, self.device, self.dtype)

    @property
    def image_size(self) -> int:
        return self.network.config.image_size

    def reset(self) -> None:
        """Nothing is kept between frames: what is followed comes with `predicted`."""

    def estimate(self, views: dict[str, View], predicted: np.ndarray | None = None) -> ViewEstimate:
        """2D joints of each view, in the order given.

        predicted: joints (21, 3), world, expected at this time (NaN where unknown), or None when no hand
        is being followed; then the whole frames are searched and the crops refined once.
        """
        names = tuple(views)
        boxes = np.full((len(names), 4), np.nan)
        if predicted is not None:
            boxes = self._boxes_around(views, predicted)
        else:
            boxes = self._find(views)
            first = self._read(views, boxes)
            seen = first.valid[:, [WRIST, MIDDLE_MCP]].all(axis=1)
            boxes[seen, :2] = first.joints_px[seen, MIDDLE_MCP]
            boxes[seen, 3] = crops.upright_roll(first.joints_px[seen])
            boxes[~seen] = np.nan
        return self._read(views, boxes)

    def _boxes_around(self, views: dict[str, View], predicted: np.ndarray) -> np.ndarray:
        """Boxes (V, 4) around the projected joints; NaN where most of them fall outside of the image."""
        known = np.isfinite(predicted).all(axis=1)
        boxes = np.full((len(views), 4), np.nan)
        for row, view in enumerate(views.values()):
            camera = view.camera
            px, depth = camera.project(predicted)
            seen = known & np.isfinite(px).all(axis=1)
            inside = seen & np.all((px > 0) & (px < [camera.width - 1, camera.height - 1]), axis=1)
            if seen[[WRIST, MIDDLE_MCP]].all() and inside.sum() >= MIN_INSIDE * known.sum():
                focal = (camera.K[0, 0] + camera.K[1, 1]) / 2
                boxes[row] = crops.reach_box(predicted, px, focal / depth[MIDDLE_MCP])
        return boxes

    def _find(self, views: dict[str, View]) -> np.ndarray:
        frames, affines = zip(*(fit_frame(view.image, FRAME_WIDTH, FRAME_HEIGHT) for view in views.values()))
        stack = np.stack(frames)
        found = decode(self._run(self.finder, stack[:, :, ::-1] if self.mirrored else stack))
        boxes = found.box.double().cpu().numpy()
        if self.mirrored:
            boxes[:, 0] = FRAME_WIDTH - 1 - boxes[:, 0]
            boxes[:, 3] = -boxes[:, 3]
        for box, affine in zip(boxes, affines):
            box[:2] = crops.transform(affine, box[None, :2])[0]
            box[2] *= affine[0, 0]
        boxes[found.score.cpu().numpy() < FINDER_THRESHOLD] = np.nan
        return boxes

    def _run(self, network: torch.nn.Module, images: np.ndarray):
        """images: (B, H, W, 3) uint8; one copy to the device."""
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        tensor = tensor.permute(0, 3, 1, 2).float() / 255.0
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=self.dtype,
                                                    enabled=self.dtype != torch.float32):
            return network(tensor)

    def _read(self, views: dict[str, View], boxes: np.ndarray) -> ViewEstimate:
        """Run the 2D network on the crops under `boxes`; views without a box stay invalid."""
        count, size = len(views), self.image_size
        joints = np.full((count, 21, 2), np.nan)
        variance = np.full((count, 21, 2), np.nan)
        valid = np.zeros((count, 21), bool)
        score = np.zeros(count)
        rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        if len(rows):
            all_views = list(views.values())
            out = self._run(self.network, np.stack(
                [cut(all_views[row].image, boxes[row], size, self.mirrored) for row in rows]))
            means = cells_to_pixels(out.mean, size).double().cpu().numpy()
            variances = out.variance.double().cpu().numpy() * (size / HEATMAP_SIZE) ** 2
            presence = out.presence.sigmoid().double().cpu().numpy()
            for row, mean, var, sure in zip(rows, means, variances, presence):
                score[row] = sure
                if sure < PRESENCE_THRESHOLD:
                    continue
                camera = all_views[row].camera
                px, px2 = uncut(mean, var, boxes[row], size, self.mirrored)
                inside = np.all((px > -BORDER_PX) & (px < np.array([camera.width, camera.height]) + BORDER_PX),
                                axis=1) & np.isfinite(px2).all(axis=1) & np.isfinite(px).all(axis=1)
                joints[row, inside], variance[row, inside] = px[inside], px2[inside]
                valid[row] = inside
        return ViewEstimate(tuple(views), joints, variance, valid, score, boxes)

    def close(self) -> None:
        """Nothing to release."""
