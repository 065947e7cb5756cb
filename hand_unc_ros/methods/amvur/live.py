"""AMVUR live: one view of a hand is enough, and several are triangulated.

Views are read as by the method landmarks, with its error head, and several are fused as it does. Where one view alone
shows the hand, the network gives its shape, and its landmarks say where it is, as the error head of its own training
judges them; the covariance is long along the rays, for all joints together. The lengths of the bones that were learned
while several views saw the hand shorten it. Where texture weights are named, its mesh has the colours that they make of
the crop of the view that gave it, where its vertices lie there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.amvur.evidence import landmark_evidence
from hand_unc_ros.methods.amvur.network import load_amvur
from hand_unc_ros.methods.amvur.single_hand import SingleHand, seen_hand, triangulation_of, with_joints
from hand_unc_ros.methods.amvur.texture import load_textured
from hand_unc_ros.methods.contract import Crop, Fused, HandPrior, MethodOptions, NotFused, ViewReading
from hand_unc_ros.methods.frozen_landmarks import (
    check_fingerprints,
    error_head_of,
    fingerprints_of,
    head_of_views,
    landmark_files,
)
from hand_unc_ros.methods.geometric_fusion import fuse, with_refinement
from hand_unc_ros.methods.landmark_views import OnLandmarks
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.acceleration import Agreement, choose_runner
from hand_unc_ros.networks.blaze_hand import HAND_SIZE, HandOutput
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_errors import JudgedLandmarks, load_landmark_errors
from hand_unc_ros.networks.landmark_gaussians import LandmarkMaps, landmark_maps, random_maps
from hand_unc_ros.networks.landmark_models import shipped_heads
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
from hand_unc_ros.networks.placement import choose_device, choose_precision
from hand_unc_ros.resources import resource

log = logging.getLogger(__name__)

# By how much the runtimes of the network may differ.
SAME_METRES = 2e-5
SHIPPED, SHIPPED_TEXTURE = 'models/amvur_lite.safetensors', 'models/amvur_texture.safetensors'


def files(options: MethodOptions) -> dict[str, Path]:
    """The files that decide the numbers, by the names of their settings. Raises ConfigError where weights are neither
    named nor shipped, and without the landmark networks."""
    if options.weights:
        weights = Path(options.weights)
    else:
        try:
            weights = resource(SHIPPED)
        except ConfigError as error:
            raise ConfigError('the method amvur has no weights here; train it (hand-unc train'
                              ' config/train/amvur_lite.yaml) and name them in the setting weights') from error
    hand, palm, variance_head = landmark_files(error_head_of(weights))
    head = head_of_views(options.covariance_head, shipped_heads())
    named = options.texture_weights
    texture = {'texture_weights': resource(SHIPPED_TEXTURE) if named == 'shipped' else Path(named)} if named else {}
    return {'weights': weights, 'landmark_weights': hand, 'finder_weights': Path(options.finder_weights or palm),
            'variance_head': variance_head, **head, **texture}


def build(options: MethodOptions, cameras: tuple[str, ...]) -> AmvurLive:
    """Load the networks, on the runtime that is fastest for a crop of each camera. Raises ConfigError with the
    remedy."""
    return AmvurLive(files(options), options, len(cameras))


class SeenCrop(NamedTuple):
    """A reading's features where the mesh is coloured. image: (S, S, 3) uint8 RGB, of the crop that `maps` tell of."""

    maps: LandmarkMaps
    image: np.ndarray


class AmvurLive(OnLandmarks):
    """Palms in whole images, landmarks and features in crops; the network where one view shows the hand, triangulation
    where several do.

    files: as `files` gives them.  cameras: of the rig, for how many crops the trunk's runtime is chosen.
    Both hands can be followed.  Raises ConfigError for files and options that do not fit together.
    """

    name = 'amvur'
    min_views = 1

    def __init__(self, files: Mapping[str, Path], options: MethodOptions = MethodOptions(), cameras: int = 1) -> None:
        self.device = choose_device(options.device)
        self.network = load_amvur(files['weights']).to(self.device)
        if self.network.config.features != 'landmarks':
            raise ConfigError(f'{files["weights"]} reads images by a ResNet, which the live pipeline does not run;'
                              ' train with network.features: landmarks (config/train/amvur_lite.yaml)')
        self.textured = None
        if 'texture_weights' in files:
            self.textured = load_textured(files['texture_weights'], self.network, files['weights']).to(self.device)
        networks = LandmarkNetworks(files['landmark_weights'], files['finder_weights'], self.device,
                                    choose_precision(options.precision, self.device), files.get('covariance_head'))
        self._errors = load_landmark_errors(files['variance_head']).to(self.device)
        check_fingerprints(self.network.config, fingerprints_of(networks.hand, self._errors), files['weights'])
        networks.describe = self._maps
        # A crop's features belong to that crop: it is read once.
        super().__init__(networks, options, cameras)
        self._shape = choose_runner(self.network.shape, shape_inputs(self.device), torch.float32, options.acceleration,
                                    Agreement(lambda out: HAND_UNIT * out.vertices.mean, SAME_METRES))
        log.info('Amvur %s on the landmark network, on %s', files['weights'].stem, self.device)

    @property
    def surface(self) -> str:
        """Name of the hand model whose mesh the network gives."""
        return self.network.config.surface

    def read(self, crops: Sequence[Crop]) -> list[ViewReading]:
        """See LandmarkViews. features: LandmarkMaps, or a SeenCrop where the mesh is coloured."""
        readings = super().read(crops)
        if self.textured is None:
            return readings
        return [replace(reading, features=SeenCrop(reading.features, crop.image))
                for reading, crop in zip(readings, crops)]

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused | NotFused:
        """Triangulated, and held to the lengths of its bones, where two views or more show the hand, with the mesh of
        the view that knows it best if one is wanted; else the network's hand."""
        started = time.perf_counter()
        readings = list(window[-1].values())
        rows = [row for row, reading in enumerate(readings) if reading.features is not None and reading.valid.any()]
        if sum(bool(reading.valid.any()) for reading in readings) > 1:
            triangulation = fuse(stack(readings), rig, self.options.triangulation, self.options.min_views)
            fused = time.perf_counter()
            hand = with_refinement(triangulation, None, {'fusion': 1e3 * (fused - started)}, track.bones)
            if not self.options.mesh or not rows or not triangulation.valid.any():
                return hand
            best = min((readings[row] for row in rows),
                       key=lambda one: float(np.nanmean(one.variance_px2) / one.box_px[2] ** 2))
            vertices = with_joints(self._seen(best, track), hand.joints)
            meshed = time.perf_counter()
            colours = None if vertices is None else self._colours(best, vertices)
            return Fused(hand.joints, hand.covariance, hand.gate, triangulation, vertices,
                         {**hand.stage_ms, 'mesh': 1e3 * (meshed - fused), **self._texture_ms(meshed)},
                         vertex_colours=colours)
        if not rows:
            return NotFused('the one view that shows the hand was not read in a crop')
        row = rows[0]
        hand = self._seen(readings[row], track)
        if not np.isfinite(hand.covariance).all() or not np.isfinite(hand.vertices).all():
            return NotFused('the network gives no finite hand')
        triangulation = triangulation_of(hand, stack(readings), rig, row)
        meshed = time.perf_counter()
        colours = self._colours(readings[row], hand.vertices)
        return Fused(hand.joints, hand.covariance, triangulation.gate, triangulation, hand.vertices,
                     {'monocular': 1e3 * (meshed - started), **self._texture_ms(meshed)}, vertex_colours=colours)

    def _seen(self, reading: ViewReading, track: HandPrior) -> SingleHand:
        if isinstance(reading.features, SeenCrop):
            reading = replace(reading, features=reading.features.maps)
        return seen_hand(self.network, reading, track.bones, self.device, self._shape.run)

    @torch.inference_mode()
    def _colours(self, reading: ViewReading, vertices: np.ndarray) -> np.ndarray | None:
        """(N, 3) uint8 of vertices (N, 3) metres, world, by the crop of a reading; None without a texture."""
        if self.textured is None:
            return None
        # A left hand was read in the mirror.
        mirrored = vertices * (-1.0 if reading.handedness == 'left' else 1.0, 1.0, 1.0)
        local = mirrored @ reading.camera_from_world[:, :3].T + reading.camera_from_world[:, 3]
        K = torch.from_numpy(reading.K).float()[None].to(self.device)
        image = image_tensor(torch.from_numpy(np.array(reading.features.image))[None].to(self.device))
        colours, _ = self.textured.colours(image, K, landmark_evidence(reading.features.maps, K),
                                           torch.from_numpy(local).float()[None].to(self.device))
        return (255 * colours[0]).round().byte().cpu().numpy()

    def _maps(self, out: HandOutput, _: JudgedLandmarks | None) -> list[LandmarkMaps]:
        """What the networks say of each crop, with its landmarks as they were in training."""
        with torch.inference_mode():
            maps = landmark_maps(out, self._errors.judge(out), 0)
            return [LandmarkMaps(*(part[row:row + 1] for part in maps[:5]), []) for row in range(len(maps.landmarks))]

    def _texture_ms(self, started: float) -> dict[str, float]:
        return {} if self.textured is None else {'texture': 1e3 * (time.perf_counter() - started)}


def shape_inputs(device: torch.device) -> list[Tensor]:
    """Plausible inputs of the network's `shape`, of one crop."""
    maps = random_maps(1, torch.Generator().manual_seed(0))
    K = torch.tensor([[[500.0, 0.0, HAND_SIZE / 2], [0.0, 500.0, HAND_SIZE / 2], [0.0, 0.0, 1.0]]])
    evidence = landmark_evidence(maps, K)
    return [part.to(device) for part in (*evidence[:4], evidence.frame.reach)]

