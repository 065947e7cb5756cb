"""Pseudo-labels of 2D joints: what the views agree on, without any 3D label."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hand_unc_ros.geometry.weighted_triangulation import Observations, triangulate
from hand_unc_ros.networks.view_fusion import coarse_spread, normalised

# No label is better than this, pixels of the crop: rigs and landmarks are not.
LEAST_SIGMA_PX = 1.5
# A label by a single view is worth less than that view believes: nobody has contradicted it.
ALONE = 2.0
NEAREST = 0.05


class Labels(NamedTuple):
    """px: (B, V, N, 2) in the crops of all views, and sigma_px: (B, V, N, 2) of them, finite.
    own_sigma_px: (B, V, N, 2) of each view's own joints, widened where the view contradicts the others."""

    px: Tensor
    sigma_px: Tensor
    own_sigma_px: Tensor


def project_into_crops(points: Tensor, K: Tensor, camera_from_world: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Crop pixels (…, B, V, N, 2) of points (…, B, N, 3) metres, world, their depths (…, B, V, N) metres, and the
    derivatives (…, B, V, N, 2, 3) px/m of the former by the points. Points nearer than NEAREST, or behind a camera, are
    projected as if they were at NEAREST."""
    local = points[..., None, :, :] @ camera_from_world[..., :3].mT + camera_from_world[:, :, None, :, 3]
    depth = local[..., 2:].clamp_min(NEAREST)
    along = local[..., :2] / depth
    # Of x / z and y / z in the camera's frame, then through K.
    turn = camera_from_world[:, :, None, :, :3]
    jacobian = K[:, :, None, :2, :2] @ (turn[..., :2, :] - along[..., None] * turn[..., 2:, :]) / depth[..., None]
    return along @ K[..., :2, :2].mT + K[:, :, None, :2, 2], local[..., 2], jacobian


@torch.no_grad()
def consensus_labels(px: Tensor, sigma_px: Tensor, K: Tensor, camera_from_world: Tensor, mask: Tensor) -> Labels:
    """Joints of B hands as V views agree on them: triangulated robustly by all, and projected into every view, also
    into those that saw nothing. So a view that is wrong about a joint gets the label of the others.

    px, sigma_px: (B, V, N, 2) of every view's own joints, in its crop.  K: (B, V, 3, 3).  camera_from_world:
    (B, V, 3, 4).  mask: (B, V) bool, views that saw the hand.
    The standard deviations are propagated, widened where the views contradict each other (`coarse_spread`). Those of a
    view's own joints grow with their whitened distance d from the consensus, by √(1 + d²), as in a Cauchy weight: so a
    gross error pulls next to nothing, and the rest keeps noise that is independent of the other views'. A joint that
    cannot be triangulated keeps each view's own label, with ALONE times its standard deviation.
    """
    xy, covariance = normalised(px, sigma_px.square(), K)
    seen = Observations(xy, covariance, camera_from_world, mask[..., None].expand(xy.shape[:-1]))
    found = triangulate('refined', seen)
    spread = coarse_spread(found.points, seen)
    points = torch.where(found.valid[..., None], found.points, 0.0)
    projected, depth, jacobian = project_into_crops(points, K, camera_from_world)
    sigma = (jacobian @ spread[:, None]).square().sum(-1).sqrt()
    ok = (found.valid[:, None] & (depth > NEAREST))[..., None]
    off2 = ((px - projected).square() / (sigma_px.square() + sigma.square())).sum(-1, keepdim=True)
    own = sigma_px * torch.where(ok, (1 + off2).sqrt(), ALONE)
    return Labels(torch.where(ok, projected, px), torch.where(ok, sigma, ALONE * sigma_px).clamp_min(LEAST_SIGMA_PX),
                  own.clamp_min(LEAST_SIGMA_PX))
