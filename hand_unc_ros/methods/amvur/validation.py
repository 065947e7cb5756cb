"""AMVUR's errors, and how honest its uncertainty is, on held-out crops while it is trained."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from hand_unc_ros.geometry.alignment import align_root, align_similarity
from hand_unc_ros.geometry.gaussians import chi2_quantile, mahalanobis_squared
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import JOINT_COUNT, WRIST
from hand_unc_ros.methods.amvur.evidence import Evidence
from hand_unc_ros.methods.amvur.losses import Labels
from hand_unc_ros.methods.amvur.network import Amvur


@torch.no_grad()
def scores(network: Amvur, crops: Iterable[tuple[Evidence, Labels]], prior_alone: bool = False) -> dict[str, float]:
    """Of single views; prior_alone: of the hand of the prior net, whose mesh has the token vertices alone.

    mpjpe_mm: the joints' mean error relative to the wrist, pa_mpjpe_mm: after Procrustes, absolute_mm: in the camera;
    mpvpe_mm: of vertices relative to the wrist.

    coverage95: share of joints in the camera inside their 95 % ellipsoids; coverage95_root: of joints relative to the
    wrist.  nees_per_dof: the mean squared whitened error per degree of freedom of single joints, 1 where Σ is right,
    nees_63_per_dof: of all 63 coordinates together.  pearson: correlation of √tr Σ with the error.
    depth_sigma_ratio: mean σ along the joints' rays over mean σ across; depth_error_ratio: the same of root mean square
    errors, to which it should be equal.
    """
    joints, covariances, truths, meshes = [], [], [], []
    for evidence, labels in crops:
        out = network.of_prior(evidence) if prior_alone else network(evidence, with_prior=False)
        placed = network.placed(out, evidence)
        joints.append(placed.joints.cpu().numpy())
        covariances.append(placed.covariance.cpu().numpy())
        truths.append(labels.joints.double().cpu().numpy())
        if not prior_alone:
            vertices = network.placed_vertices(out, placed).double().cpu() - placed.joints[:, WRIST, None].cpu()
            target = (labels.vertices - labels.joints[:, WRIST, None]).double().cpu()
            meshes.append((vertices - target).norm(dim=-1).flatten().numpy())
    joint, covariance, truth = (np.concatenate(parts) for parts in (joints, covariances, truths))
    whole = np.isfinite(truth).all((1, 2))
    joint, covariance, truth = joint[whole], covariance[whole], truth[whole]
    mesh = np.concatenate(meshes) if meshes else np.zeros(0)
    error, blocks = joint - truth, joint_blocks(covariance)
    length, distance2 = np.linalg.norm(error, axis=-1), mahalanobis_squared(error, blocks)
    hands = mahalanobis_squared(error.reshape(len(error), -1), covariance)
    relative, rest = to_wrist(covariance), np.delete(error - error[:, WRIST, None], WRIST, axis=1)
    inside = mahalanobis_squared(rest, joint_blocks(relative)[:, 1:]) <= chi2_quantile(0.95, 3)
    sigma = np.sqrt(np.trace(blocks, axis1=-2, axis2=-1))
    along = truth / np.linalg.norm(truth, axis=-1, keepdims=True)
    depth = np.einsum('nja,njab,njb->nj', along, blocks, along)
    depth_error2 = np.square((error * along).sum(-1))
    across, across_error2 = (sigma ** 2 - depth) / 2, (length ** 2 - depth_error2) / 2
    return {
        'mpjpe_mm': 1e3 * _mean_length(align_root(joint, truth) - truth),
        'pa_mpjpe_mm': 1e3 * _mean_length(align_similarity(joint, truth) - truth),
        'absolute_mm': 1e3 * float(length.mean()),
        'mpvpe_mm': 1e3 * float(mesh[np.isfinite(mesh)].mean()) if np.isfinite(mesh).any() else np.nan,
        'coverage95': float(np.mean(distance2 <= chi2_quantile(0.95, 3))), 'coverage95_root': float(inside.mean()),
        'nees_per_dof': float(distance2.mean() / 3), 'nees_63_per_dof': float(hands.mean() / (3 * JOINT_COUNT)),
        'pearson': float(np.corrcoef(sigma.ravel(), length.ravel())[0, 1]),
        'depth_sigma_ratio': float(np.sqrt(depth).mean() / np.sqrt(across).mean()),
        'depth_error_ratio': float(np.sqrt(depth_error2.mean() / across_error2.mean())),
    }


def to_wrist(covariance: np.ndarray) -> np.ndarray:
    """(N, 63, 63) of joints relative to the wrist; its own rows are zero."""
    turn = np.eye(3 * JOINT_COUNT).reshape(JOINT_COUNT, 3, JOINT_COUNT, 3)
    turn[:, :, WRIST] -= np.eye(3)
    turn = turn.reshape(3 * JOINT_COUNT, -1)
    return turn @ covariance @ turn.T


def _mean_length(error: np.ndarray) -> float:
    return float(np.linalg.norm(error, axis=-1).mean())
