"""AMVUR's losses: supervised (supplement, Eqs. 6, 11, 15, 19) and weakly supervised (the ELBO, Eqs. 24 and 25).

The Kullback-Leibler divergence is that of Gaussians, with variances σ² and squared differences of means; the paper's
notation has σ in the place of σ², and what it prints for diag(B σ) is left to AmvurConfig.vertex_errors. Divergence
'l2' puts the squared difference of the means in its place, the paper's ablation. Every term is a mean over coordinates,
not a sum, so that its weight does not depend on the number of vertices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hand_unc_ros.geometry.single_view import NEAREST
from hand_unc_ros.hand.joints import WRIST
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.amvur.evidence import Evidence
from hand_unc_ros.methods.amvur.network import Amvur, AmvurOutput, CameraGaussian, camera_of, root_of
from hand_unc_ros.networks.mesh_attention import MeshGaussian

DIVERGENCES = ('kl', 'l2')
# Variance that is added to the covariance of placed joints, m²: half a millimetre.
PLACED_FLOOR = 0.0005 ** 2
# Of the camera among all crops, in CameraGaussian's numbers: the wrist is in the crop, hands are of about one size.
CAMERA_MEAN, CAMERA_SIGMA = (0.0, 0.5, 0.5), (0.5, 0.5, 0.5)


class Labels(NamedTuple):
    """Of N crops. joints (N, 21, 3), vertices (N, V, 3) metres, ray frame of the crop, NaN where unknown; both are
    None in training by 2D labels.  places: (N, 21, 2), from -1 to 1 over the crop.  seen: (N, 21), whose places are
    known."""

    joints: Tensor | None
    vertices: Tensor | None
    places: Tensor
    seen: Tensor


def gaussian_nll(gaussian: MeshGaussian, target: Tensor) -> Tensor:
    """−ln N(target; μ, σ²) of every coordinate."""
    return 0.5 * ((target - gaussian.mean).square() / gaussian.log_variance.exp() + gaussian.log_variance
                  + math.log(2 * math.pi))


def gaussian_divergence(one: MeshGaussian | CameraGaussian, other: MeshGaussian | CameraGaussian,
                        kind: str = 'kl') -> Tensor:
    """D_KL(one ‖ other) of every coordinate; with 'l2' the squared difference of the means."""
    apart = (one.mean - other.mean).square()
    if kind == 'l2':
        return apart
    ratio = one.log_variance - other.log_variance
    return 0.5 * (ratio.exp() + apart / other.log_variance.exp() - 1 - ratio)


def projected(joints: MeshGaussian, root: Tensor, reach: Tensor) -> MeshGaussian:
    """The 2D distribution of joints (N, 21, 3): S(μ) and, to first order at its depth, S(σ); from -1 to 1 over the
    crop. root: (N, 3) metres.  reach: (N,)."""
    points = HAND_UNIT * joints.mean + root[:, None]
    scale = 1 / (points[..., 2:].clamp_min(NEAREST) * reach[:, None, None])
    return MeshGaussian(points[..., :2] * scale,
                        joints.log_variance[..., :2] + 2 * (HAND_UNIT * scale).log())


def supervised_losses(network: Amvur, evidence: Evidence, labels: Labels, divergence: str = 'kl') -> dict[str, Tensor]:
    """Algorithm 1. Means over crops and coordinates: vertices (Eq. 6), camera (Eq. 11), joints (Eq. 15) and joints_2d
    (Eq. 19); prior, the likelihood of the true vertices in the prior net's eyes; placed, of the true joints in those of
    the joints that are placed, from which only their covariance learns; offset, the mean absolute error of these."""
    out = network(evidence)
    unit, wrist = HAND_UNIT, labels.joints[:, WRIST, None]
    vertices, joints = (labels.vertices - wrist) / unit, (labels.joints - wrist) / unit
    tokens = vertices[:, network.upsampling.picked]
    reach = evidence.frame.reach
    placed, truth = network.placed(out, evidence), labels.joints.double()
    return {
        'vertices': nll_mean(out.vertices, vertices)
        + known_mean(gaussian_divergence(out.coarse, out.prior.vertices, divergence)),
        'camera': square_mean(out.camera.mean, camera_of(labels.joints[:, WRIST], reach)),
        'joints': nll_mean(out.joints, joints)
        + known_mean(gaussian_divergence(out.joints, out.prior.joints, divergence)),
        'joints_2d': _likelihood_2d(out.joints, out.root, reach, labels)
        + _divergence_2d(out, reach, divergence),
        'prior': nll_mean(out.prior.vertices, tokens) + nll_mean(out.prior.joints, joints),
        'placed': known_mean(placed_nll(placed.joints.detach(), placed.covariance, truth)).float(),
        'offset': known_mean((placed.joints - known(truth, placed.joints)).abs() / unit, truth).float(),
    }


def weak_losses(network: Amvur, evidence: Evidence, labels: Labels, divergence: str = 'kl') -> dict[str, Tensor]:
    """Algorithm 2, by 2D labels alone: the negative ELBO. joints_2d: the likelihood of the labels given vertices,
    joints and camera that are drawn (one draw); its divergences: vertices, joints and camera; prior: the likelihood of
    the labels in the prior net's eyes; pose: the divergence of its pose and shape from those of all hands."""
    out = network(evidence)
    reach = evidence.frame.reach
    drawn = network.joints_of(MeshGaussian(out.vertices.sample(torch.randn_like(out.vertices.mean)),
                                           out.vertices.log_variance))
    root = root_of(out.camera.mean + (out.camera.log_variance / 2).exp() * torch.randn_like(out.camera.mean), reach)
    among_all = CameraGaussian(*(value.expand_as(out.camera.mean) for value in (
        reach.new_tensor(CAMERA_MEAN), 2 * reach.new_tensor(CAMERA_SIGMA).log())))
    return {
        'joints_2d': _likelihood_2d(drawn, root, reach, labels),
        'vertices': known_mean(gaussian_divergence(out.coarse, out.prior.vertices, divergence)),
        'joints': known_mean(gaussian_divergence(out.joints, out.prior.joints, divergence)),
        'camera': known_mean(gaussian_divergence(out.camera, among_all, divergence)),
        'prior': _likelihood_2d(out.prior.joints, out.root.detach(), reach, labels),
        'pose': known_mean(network.prior.divergence(out.prior.pose)),
    }


def prior_losses(network: Amvur, evidence: Evidence, labels: Labels) -> dict[str, Tensor]:
    """Algorithm 5: the prior net alone, by squared errors of vertices, camera and 2D joints; by 2D labels the last
    alone, with the divergence of pose and shape from all hands beside it."""
    out = network.of_prior(evidence)
    prior, reach = out.prior, evidence.frame.reach
    places = projected(prior.joints, out.root, reach).mean
    terms = {'joints_2d': _seen_mean((places - labels.places).square(), labels)}
    if labels.joints is None:
        return terms | {'pose': known_mean(network.prior.divergence(prior.pose))}
    wrist = labels.joints[:, WRIST, None]
    vertices = (labels.vertices - wrist)[:, network.upsampling.picked] / HAND_UNIT
    joints = (labels.joints - wrist) / HAND_UNIT
    return terms | {
        'vertices': square_mean(prior.vertices.mean, vertices),
        'joints': square_mean(prior.joints.mean, joints),
        'camera': square_mean(out.camera.mean, camera_of(labels.joints[:, WRIST], reach))}


def vertex_losses(network: Amvur, evidence: Evidence, labels: Labels) -> dict[str, Tensor]:
    """Algorithm 6: the attention blocks alone, without a prior net, by squared errors as in `prior_losses`."""
    out = network(evidence, with_prior=False)
    reach = evidence.frame.reach
    places = projected(out.joints, out.root, reach).mean
    terms = {'joints_2d': _seen_mean((places - labels.places).square(), labels)}
    if labels.joints is None:
        return terms
    wrist = labels.joints[:, WRIST, None]
    return terms | {
        'vertices': square_mean(out.vertices.mean, (labels.vertices - wrist) / HAND_UNIT),
        'camera': square_mean(out.camera.mean, camera_of(labels.joints[:, WRIST], reach))}


def placed_nll(joints: Tensor, covariance: Tensor, target: Tensor) -> Tensor:
    """−ln N(target; joints, covariance) per coordinate (N,), of joints (N, 21, 3) metres and covariance (N, 63, 63)."""
    size = covariance.shape[-1]
    whole = torch.isfinite(target).flatten(1).all(1)
    error = torch.where(whole[:, None], (target - joints).flatten(1), 0.0)
    floor = PLACED_FLOOR * torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    factor = torch.linalg.cholesky(covariance + floor)
    white = torch.linalg.solve_triangular(factor, error[..., None], upper=False)[..., 0]
    # In units, as the other terms are.
    values = 0.5 * white.square().mean(-1) + (factor.diagonal(dim1=1, dim2=2) / HAND_UNIT).log().mean(-1)
    return torch.where(whole, values + 0.5 * math.log(2 * math.pi), torch.nan)


def known(target: Tensor, otherwise: Tensor) -> Tensor:
    """Labels, with `otherwise` where they are missing (NaN), so that no gradient meets NaN."""
    return torch.where(torch.isfinite(target), target, otherwise.detach())


def known_mean(values: Tensor, labels: Tensor | None = None) -> Tensor:
    """The mean of the values whose labels (by default they themselves) are known, that is not NaN; zero without any."""
    there = torch.isfinite(values if labels is None else labels)
    return torch.where(there, values, 0.0).sum() / there.sum().clamp_min(1)


def nll_mean(gaussian: MeshGaussian, target: Tensor) -> Tensor:
    """The mean of `gaussian_nll` over known coordinates."""
    return known_mean(gaussian_nll(gaussian, known(target, gaussian.mean)), target)


def square_mean(values: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of known coordinates."""
    return known_mean((values - known(target, values)).square(), target)


def _seen_mean(values: Tensor, labels: Labels) -> Tensor:
    seen = labels.seen[..., None].expand_as(values)
    return torch.where(seen, values, 0.0).sum() / seen.sum().clamp_min(1)


def _likelihood_2d(joints: MeshGaussian, root: Tensor, reach: Tensor, labels: Labels) -> Tensor:
    return _seen_mean(gaussian_nll(projected(joints, root, reach), labels.places), labels)


def _divergence_2d(out: AmvurOutput, reach: Tensor, kind: str) -> Tensor:
    return known_mean(gaussian_divergence(projected(out.joints, out.root, reach),
                                          projected(out.prior.joints, out.root, reach), kind))
