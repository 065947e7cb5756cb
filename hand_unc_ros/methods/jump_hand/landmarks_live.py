"""JUMP-Hand live on the frozen landmark network: views are read as by the method landmarks, and the decoder refines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods.contract import Fused, HandPrior, MethodOptions, ViewReading
from hand_unc_ros.methods.frozen_landmarks import check_fingerprints, fingerprints_of
from hand_unc_ros.methods.jump_hand.network import load_jump_hand
from hand_unc_ros.methods.jump_hand.refining import Refiner, ViewFeatures, split
from hand_unc_ros.methods.landmark_views import OnLandmarks
from hand_unc_ros.networks.blaze_hand import HandOutput
from hand_unc_ros.networks.landmark_errors import JudgedLandmarks
from hand_unc_ros.networks.landmark_gaussians import LandmarkMaps, landmark_maps
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
from hand_unc_ros.networks.placement import choose_device, choose_precision

log = logging.getLogger(__name__)



class JumpHandOnLandmarks(OnLandmarks):
    """Palms in whole images, landmarks and the trunk's features in crops, triangulation, refinement by the decoder.

    files: as `live.files` gives them.  cameras: of the rig, for how many crops the trunk's runtime is chosen.
    Both hands can be followed.  Raises ConfigError for files and options that do not fit together.
    """

    name = 'jump_hand'
    min_views = 2

    def __init__(self, files: Mapping[str, Path], options: MethodOptions = MethodOptions(), cameras: int = 1) -> None:
        self.device = choose_device(options.device)
        dtype = choose_precision(options.precision, self.device)
        self.network = load_jump_hand(files['weights']).to(self.device).eval()
        networks = LandmarkNetworks(files['landmark_weights'], files['finder_weights'], self.device, dtype,
                                    files['variance_head'])
        found = fingerprints_of(networks.hand, networks.errors)
        check_fingerprints(self.network.config.landmarks, found, files['weights'])
        self.refiner = Refiner(self.network, files, options, self.device, dtype)
        if self.refiner.refines:
            networks.describe = self._features
        # A crop's features belong to that crop: it is read once.
        super().__init__(networks, options, cameras)
        if options.acceleration == 'openvino':
            self.refiner.accelerate(max(2, cameras))
        log.info('JumpHand %s on the landmark network, on %s in %s', files['weights'].stem, self.device, dtype)

    @property
    def surface(self) -> str:
        """Name of the hand model whose mesh the network gives; '' where it does not refine."""
        return self.refiner.surface

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused:
        """See Refiner."""
        return self.refiner.fuse(window, rig, track)

    def _features(self, out: HandOutput, judged: JudgedLandmarks) -> list[ViewFeatures]:
        """The decoder's inputs of each crop."""
        maps = landmark_maps(out, judged, self.network.config.levels)
        with torch.inference_mode():
            return split(self.network.encode_maps(LandmarkMaps(*(part[None] for part in maps[:5]),
                                                               [level[None] for level in maps.levels])))
