"""A method as `hand-unc evaluate` uses it on sets of samples: batches of crops to joints with covariance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from hand_unc_ros.methods.contract import CropBox


class Predictions(NamedTuple):
    """Of a batch of B samples with V views, in its world; NaN for what a method does not know.

    joints, coarse: (B, 21, 3) metres, the method's and those that were only triangulated.  vertices: (B, N, 3).
    gate: (B, V, 21) weights of the views.  mean_px: (B, V, 21, 2) and sigma_px: (B, V, 21) the 2D joints in the crops.
    covariance: (B, 63, 63) m² of joints, before the covariance map.
    """

    joints: Tensor
    coarse: Tensor
    vertices: Tensor
    gate: Tensor
    mean_px: Tensor
    sigma_px: Tensor
    covariance: np.ndarray


class Predictor(Protocol):
    """image_size: side of the crops in pixels.  crop_box: how they are drawn, as live.  surface: name of the hand model
    whose vertices it gives, '' without vertices.  description: the choices that decide the numbers, in words."""

    image_size: int
    crop_box: CropBox
    surface: str
    description: str

    def predict(self, batch: dict[str, Tensor]) -> Predictions:
        """batch: as `data.batches.collate` makes it, on any device."""
        ...


@dataclass(frozen=True)
class PredictorOptions:
    """weights, covariance_head: files; without a head the covariance is propagated from the views.
    gate, triangulation: in place of the weights' own.  device, precision: as the parameters of the node."""

    weights: Path
    covariance_head: Path | None = None
    gate: str = ''
    triangulation: str = ''
    device: str = 'auto'
    precision: str = 'auto'
