"""UST-Hand live on the frozen landmark network: views are read as by the method landmarks, and the last few sets of
readings are refined together."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.methods.contract import Fused, HandPrior, MethodOptions, ViewReading
from hand_unc_ros.methods.frozen_landmarks import (
    check_fingerprints,
    error_head_of,
    fingerprints_of,
    landmark_files,
    refuse_head,
)
from hand_unc_ros.methods.geometric_fusion import fuse
from hand_unc_ros.methods.landmark_views import OnLandmarks
from hand_unc_ros.methods.ust_hand.network import Stages, load_ust_hand
from hand_unc_ros.methods.ust_hand.runtimes import faster_stages
from hand_unc_ros.methods.ust_hand.views import ViewMaps
from hand_unc_ros.methods.ust_hand.windows import Refinement, refine, split
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.blaze_hand import HandOutput
from hand_unc_ros.networks.landmark_errors import JudgedLandmarks
from hand_unc_ros.networks.landmark_gaussians import landmark_maps
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
from hand_unc_ros.networks.placement import choose_device, choose_precision
from hand_unc_ros.resources import resource

log = logging.getLogger(__name__)

SHIPPED = 'models/ust_hand_lite.safetensors'


def files(options: MethodOptions) -> dict[str, Path]:
    """The files that decide the numbers, by the names of their settings. Raises ConfigError without trained weights and
    without the networks for landmarks."""
    refuse_head(options, 'ust_hand')
    weights = _weights(options.weights)
    hand, palm, variance_head = landmark_files(error_head_of(weights))
    return {'weights': weights, 'landmark_weights': hand,
            'finder_weights': Path(options.finder_weights or palm), 'variance_head': variance_head}


def _weights(named: str) -> Path:
    if named:
        return Path(named)
    try:
        return resource(SHIPPED)
    except ConfigError as error:
        raise ConfigError('the method ust_hand needs trained weights: name a file by `weights`, as `hand-unc train'
                          ' config/train/ust_hand_lite.yaml` makes it, or take `method: landmarks`') from error


def build(options: MethodOptions, cameras: tuple[str, ...]) -> UstHandLive:
    """Load the networks. Any camera will do. Raises ConfigError with the remedy."""
    return UstHandLive(files(options), options, len(cameras))


class UstHandLive(OnLandmarks):
    """Palms in whole images, landmarks and features in crops, triangulation, and refinement over a window of sets.

    What a set adds to the window is the reading of its own crops: older features come with the older readings.

    files: as `files` gives them.  cameras: of the rig, for how many crops the trunk's runtime is chosen.
    Both hands can be followed.  Raises ConfigError for files and options that do not fit together.
    """

    name = 'ust_hand'
    min_views = 2

    def __init__(self, files: Mapping[str, Path], options: MethodOptions = MethodOptions(), cameras: int = 1) -> None:
        self.device = choose_device(options.device)
        self.network = load_ust_hand(files['weights']).to(self.device)
        config = self.network.config
        if config.landmarks is None or config.centre != 'last':
            raise ConfigError(f"{files['weights']} cannot run live: it reads images by a ResNet or refines the middle"
                              " of a window; take weights that were trained with network.landmarks and centre: last")
        networks = LandmarkNetworks(files['landmark_weights'], files['finder_weights'], self.device,
                                    choose_precision(options.precision, self.device), files['variance_head'])
        check_fingerprints(config.landmarks, fingerprints_of(networks.hand, networks.errors), files['weights'])
        if options.refinement:
            networks.describe = self._features
        # A crop's features belong to that crop: it is read once.
        super().__init__(networks, options, cameras)
        self.stages: Stages | None = None
        if options.refinement:
            self.stages = faster_stages(self.network, options.acceleration, max(2, cameras))
        log.info('UST-Hand %s on the landmark network, on %s', Path(files['weights']).stem, self.device)

    @property
    def window(self) -> int:
        """Sets that `fuse` looks at."""
        return self.network.config.frames if self.options.refinement else 1

    @property
    def surface(self) -> str:
        """Name of the hand model whose mesh the network gives; '' where it does not refine."""
        return self.network.config.surface if self.options.refinement else ''

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused:
        """Triangulated, refined by what the window holds where two views or more were used, and held to the lengths of
        the hand's bones.

        The covariance is that of the triangulated joints plus the spread of the hypotheses."""
        started = time.perf_counter()
        triangulation = fuse(stack(window[-1].values()), rig, self.options.triangulation, self.options.min_views)
        fused = time.perf_counter()
        refined: Refinement | None = None
        if self.options.refinement and triangulation.valid.any():
            refined = refine(self.network, window, triangulation, track.handedness, self.stages)
        stage_ms = {'fusion': 1e3 * (fused - started), 'refinement': 1e3 * (time.perf_counter() - fused)}
        joints, blocks, gate, vertices = triangulation.joints, triangulation.covariance, triangulation.gate, None
        if refined is not None:
            joints, blocks = refined.joints, blocks + refined.spread
            gate, vertices = refined.gate, refined.vertices
        covariance = block_diagonal(blocks)
        if track.bones is not None:
            joints, covariance = track.bones.hold(joints, covariance)
        return Fused(joints, covariance, gate, triangulation, vertices, stage_ms,
                     declined=self.options.refinement and refined is None)

    def _features(self, out: HandOutput, judged: JudgedLandmarks) -> list[ViewMaps]:
        """The features of each crop."""
        view = self.network.view
        with torch.inference_mode():
            return split(view.described(view.net.stage(landmark_maps(out, judged,
                                                                     self.network.config.landmarks.level_count))))
