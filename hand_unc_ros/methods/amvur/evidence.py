"""What AMVUR takes of N crops: features, and where the landmarks are."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hand_unc_ros.geometry.single_view import RayFrame, ray_frame
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.landmark_gaussians import LandmarkMaps

# What joints of a mesh and landmarks of the network mean differs by about this, px of the crop.
MEANING_PX = 1.0


class Evidence(NamedTuple):
    """whole: (N, C) features of the crop.  local: (N, 21, D) at the landmarks.  tangents, sigma: (N, 21, 2) of the
    landmarks and their standard deviations, in the ray frame.  All but the first are None without landmarks.
    frame: of the crops."""

    whole: Tensor
    local: Tensor | None
    tangents: Tensor | None
    sigma: Tensor | None
    frame: RayFrame

    @property
    def least_depth(self) -> Tensor:
        """(N,) metres: nearer, a hand would be far larger than its crop."""
        return HAND_UNIT / (2 * self.frame.reach)

    @property
    def places(self) -> Tensor:
        """(N, 21, 2) of the landmarks, from -1 to 1 over the crop."""
        return self.tangents / self.frame.reach[:, None, None]


def pooled_evidence(whole: Tensor, K: Tensor) -> Evidence:
    """Features (N, C) of crops with intrinsics K (N, 3, 3), without landmarks."""
    return Evidence(whole.float(), None, None, None, ray_frame(K.float(), HAND_SIZE))


def landmark_evidence(maps: LandmarkMaps, K: Tensor) -> Evidence:
    """What the frozen landmark network says of N crops with intrinsics K (N, 3, 3)."""
    K = K.float()
    frame = ray_frame(K, HAND_SIZE)
    variance = (2 * maps.log_sigma.float()).exp() + MEANING_PX ** 2
    return Evidence(maps.whole.float(), maps.local.float(), frame.tangents(K, maps.landmarks.float()),
                    variance.sqrt() * frame.step[:, None, None], frame)
