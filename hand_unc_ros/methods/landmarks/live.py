"""2D landmarks by MediaPipe's networks, triangulated: a method for real images that needs no training of ours.

The networks give landmarks without uncertainty. Variances, and where landmarks are off on average, come from a head on
their features (`networks/landmark_errors.py`), variances without it from a noise model (`networks/landmark_noise.py`).

Zhang et al., "MediaPipe Hands: On-device Real-time Hand Tracking", 2020.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.methods import DEFAULT
from hand_unc_ros.methods.contract import Fused, HandPrior, MethodOptions, ViewReading
from hand_unc_ros.methods.frozen_landmarks import head_of_views
from hand_unc_ros.methods.geometric_fusion import fuse, with_refinement
from hand_unc_ros.methods.landmark_views import OnLandmarks
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.landmark_models import ERROR_HEADS, landmark_models, shipped_heads
from hand_unc_ros.networks.landmark_networks import LandmarkNetworks
from hand_unc_ros.networks.placement import choose_device, choose_precision

log = logging.getLogger(__name__)


def files(options: MethodOptions) -> dict[str, Path]:
    """The landmark network, the palm detector and, where there is one, the error head as `covariance_head`: the one
    that is named, else the shipped one, which goes with MediaPipe's weights and with no others.
    Raises ConfigError where the networks are neither named nor in the user's model folder."""
    named = {'weights': options.weights, 'finder_weights': options.finder_weights}
    head = head_of_views(options.covariance_head, [] if options.weights else shipped_heads())
    if all(named.values()):
        return {name: Path(path) for name, path in named.items()} | head
    stored = landmark_models()
    if stored is None:
        raise ConfigError('the method landmarks has no networks yet; fetch them with `hand-unc models get landmarks`,'
                          f' or take `method: {DEFAULT}`')
    return {name: Path(path or default) for (name, path), default in zip(named.items(), stored)} | head


def build(options: MethodOptions, cameras: tuple[str, ...]) -> Landmarks:
    """Load the networks, on the runtime that is fastest for a crop of each camera. Raises ConfigError with the remedy."""
    found = files(options)
    if 'covariance_head' not in found:
        log.warning('without an error head, the variances of landmarks are those of a noise model: the same for every'
                    ' image%s', '' if options.covariance_head == 'none' else f'; {ERROR_HEADS[0]} is missing')
    return Landmarks(found, options, len(cameras))


class Landmarks(OnLandmarks):
    """Palms in whole images, landmarks in crops, triangulation.

    files: as `files` gives them.  cameras: of the rig, for how many crops the runtimes are chosen.
    Raises ConfigError for files that are something else.
    """

    name = 'landmarks'
    min_views = 2
    surface = ''

    def __init__(self, files: Mapping[str, Path], options: MethodOptions = MethodOptions(), cameras: int = 1) -> None:
        device = choose_device(options.device)
        super().__init__(LandmarkNetworks(files['weights'], files['finder_weights'], device,
                                          choose_precision(options.precision, device), files.get('covariance_head')),
                         options, cameras, options.read_twice)

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused:
        """Triangulated, and held to the lengths of the hand's bones."""
        started = time.perf_counter()
        triangulation = fuse(stack(window[-1].values()), rig, self.options.triangulation, self.options.min_views)
        return with_refinement(triangulation, None, {'fusion': 1e3 * (time.perf_counter() - started)}, track.bones)
