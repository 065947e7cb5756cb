"""The toy method live: dots found by colour, triangulated with the learned variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from dots import find_dots
from toy_method.network import ToyNetwork

from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.methods.contract import Crop, Detection, Fused, HandPrior, MethodOptions, View, ViewReading
from hand_unc_ros.methods.cropping import whole_image
from hand_unc_ros.methods.geometric_fusion import fuse, with_refinement
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.weights import load_into, read_weights


def files(options: MethodOptions) -> dict[str, Path]:
    """The weights."""
    return {'weights': Path(options.weights)}


def build(options: MethodOptions, cameras: tuple[str, ...]) -> ToyMethod:
    """Load the weights."""
    network = ToyNetwork()
    load_into(network, read_weights(Path(options.weights), 'ToyNetwork')[1], options.weights)
    return ToyMethod(network().item() ** 2, options)


class ToyMethod:
    """variance_px2: of every dot."""

    name = 'toy'
    min_views = 2
    window = 1
    crop_size = None
    surface = ''
    crop_box = staticmethod(reach_box)

    def __init__(self, variance_px2: float, options: MethodOptions) -> None:
        self.variance_px2, self.options = variance_px2, options

    def find(self, views: Mapping[str, View]) -> list[list[Detection]]:
        side = self.options.handedness
        return [[Detection(whole_image(view, side).box_px, side, 1.0)] for view in views.values()]

    def read(self, crops: Sequence[Crop]) -> list[ViewReading]:
        readings = []
        for crop in crops:
            joints = find_dots(crop.image)
            valid = np.isfinite(joints).all(axis=1)
            variance = np.where(valid[:, None], self.variance_px2, np.nan) * np.ones(2)
            readings.append(ViewReading(crop.camera.name, crop.view.stamp_ns, joints, variance, valid,
                                        float(valid.any()), crop.handedness, crop.box_px))
        return readings

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused:
        views = stack(window[-1].values())
        return with_refinement(fuse(views, rig, self.options.triangulation, self.options.min_views), None)

    def reset(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing to free."""
