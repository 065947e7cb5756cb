"""A hand out of one view's reading, in the world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hand_unc_ros.geometry.alignment import best_rotation
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.bone_lengths import OWN_SHARE, BoneLengths, bone_lengths
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import JOINT_COUNT
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.amvur.evidence import landmark_evidence
from hand_unc_ros.methods.amvur.network import Amvur, SeenShape
from hand_unc_ros.methods.contract import Triangulation, ViewReading
from hand_unc_ros.methods.view_gaussians import ViewGaussians
from hand_unc_ros.networks.mesh_attention import MeshGaussian

# Standard deviation, in half sides of the crop, of a landmark that lies outside of the image: it is not known.
UNKNOWN = 10.0
# Where several views have shown the lengths of the bones, errors along the rays are smaller than their covariance says,
# which no training saw: by this share of a standard deviation where the bones tell all. By eight lifelike synthetic
# scenes, where σ along the rays was 1.75 times the error.
LEARNED_SHARE = 0.65
# Fewest joints by which a mesh is laid onto a triangulated hand.
LEAST_JOINTS = 6


@dataclass(frozen=True)
class SingleHand:
    """joints: (21, 3), vertices: (N, 3) metres, world; covariance: (63, 63) m² of the joints, joint-major.  skinning:
    (N, 21), by which vertices follow joints."""

    joints: np.ndarray
    vertices: np.ndarray
    covariance: np.ndarray
    skinning: np.ndarray


@torch.inference_mode()
def seen_hand(network: Amvur, reading: ViewReading, bones: BoneLengths | None, device: torch.device,
              shape: Callable[..., SeenShape] | None = None) -> SingleHand:
    """The hand that a reading with the network's features (LandmarkMaps of one crop) shows. bones: what is known of
    the lengths of its bones, by which it is scaled.  shape: the network's `shape` on another runtime."""
    K = torch.from_numpy(reading.K).float()[None].to(device)
    evidence = landmark_evidence(reading.features, K)
    out = (shape or network.shape)(*evidence[:4], evidence.frame.reach)
    size_sigma, gain = None, 0.0
    if bones is not None:
        out, size_sigma, gain = _sized(out, bones)
    unknown = torch.from_numpy(~reading.valid)[None, :, None].to(device)
    evidence = evidence._replace(sigma=torch.where(unknown, UNKNOWN * evidence.frame.reach[:, None, None],
                                                   evidence.sigma))
    placed = network.placed(out, evidence, size_sigma)
    vertices = network.placed_vertices(out, placed)[0].double().cpu().numpy()
    joints, covariance = placed.joints[0].cpu().numpy(), placed.covariance[0].cpu().numpy()
    covariance = along_rays(covariance, joints, 1 - LEARNED_SHARE * gain)
    turn = evidence.frame.turn[0].double().cpu().numpy()
    # A left hand was read in the mirror.
    flip = np.diag([-1.0 if reading.handedness == 'left' else 1.0, 1.0, 1.0])
    rotation, shift = reading.camera_from_world[:, :3], reading.camera_from_world[:, 3]
    # Orthonormal to double precision, so that the covariance stays symmetric and positive.
    to_world = flip @ rotation.T @ _orthonormal(turn).T
    origin = flip @ rotation.T @ shift
    spread = np.kron(np.eye(JOINT_COUNT), to_world)
    covariance = spread @ covariance @ spread.T
    return SingleHand(joints @ to_world.T - origin, vertices @ to_world.T - origin, (covariance + covariance.T) / 2,
                      network.skinning.double().cpu().numpy())


def size_by_bones(joints: np.ndarray, bones: BoneLengths) -> tuple[float, float]:
    """How much larger a hand is than its joints (21, 3) say, by the lengths of its bones, and the variance of that.
    The lengths' errors are taken to be shared, so that no number of bones makes it smaller than that of one."""
    ratio = bones.length / bone_lengths(joints)
    variance = bones.variance / bones.length ** 2 + OWN_SHARE ** 2
    return float(np.average(ratio, weights=1 / variance)), float(1 / np.mean(1 / variance))


def triangulation_of(hand: SingleHand, views: ViewGaussians, rig: CameraRig, row: int) -> Triangulation:
    """What stands for the geometry of several views where view `row` alone was used."""
    count = len(rig)
    used = np.arange(count) == row
    seen = used[:, None] & views.valid
    with torch.inference_mode():
        px = rig.project(torch.from_numpy(hand.joints))[0].numpy()
    off = np.where(seen[..., None], views.joints_px - px, np.nan)
    blocks = joint_blocks(hand.covariance)
    weights = np.where(used[:, None], 1.0, np.zeros((count, JOINT_COUNT)))
    return Triangulation(
        hand.joints, blocks, np.ones(JOINT_COUNT, bool), weights, used, np.linalg.norm(off, axis=-1),
        (off ** 2 / np.where(seen[..., None], views.variance_px2, 1.0)).sum(-1), weights, blocks,
        np.broadcast_to(np.eye(3), blocks.shape).copy(), np.zeros((count, JOINT_COUNT)))


def with_joints(hand: SingleHand, joints: np.ndarray) -> np.ndarray | None:
    """The vertices (N, 3) of a hand, turned, moved and scaled onto triangulated joints (21, 3), and bent to them; NaN
    joints are those of the hand. None where too few joints are known."""
    known = np.isfinite(joints).all(axis=1)
    if known.sum() < LEAST_JOINTS:
        return None
    own, target = hand.joints[known], joints[known]
    middle, there = own.mean(axis=0), target.mean(axis=0)
    turn = best_rotation(own, target)
    scale = np.linalg.norm(target - there) / max(np.linalg.norm(own - middle), 1e-6)
    moved, vertices = ((points - middle) @ turn.T * scale + there for points in (hand.joints, hand.vertices))
    return vertices + hand.skinning @ np.where(known[:, None], np.nan_to_num(joints) - moved, 0.0)


def along_rays(covariance: np.ndarray, joints: np.ndarray, factor: float) -> np.ndarray:
    """A covariance (63, 63) of joints (21, 3), seen from the origin, whose deviations along the joints' rays are
    multiplied by a factor."""
    rays = joints / np.linalg.norm(joints, axis=1, keepdims=True)
    change = np.zeros((JOINT_COUNT, 3, JOINT_COUNT, 3))
    joint = np.arange(JOINT_COUNT)
    change[joint, :, joint] = np.eye(3) - (1 - factor) * rays[:, :, None] * rays[:, None]
    change = change.reshape(3 * JOINT_COUNT, -1)
    return change @ covariance @ change.T


def _sized(out: SeenShape, bones: BoneLengths) -> tuple[SeenShape, torch.Tensor, float]:
    """The network's hand with the size that its bones make likely, the standard deviation of that size, and the share
    of what is known of it that the bones have told."""
    ratio, variance = size_by_bones(HAND_UNIT * out.joints.mean[0].double().cpu().numpy(), bones)
    before = float(out.shared[0, 0]) ** 2
    gain = before / (before + variance)
    scale = 1 + gain * (ratio - 1)
    joints, vertices = (MeshGaussian(scale * part.mean, part.log_variance + 2 * np.log(scale))
                        for part in (out.joints, out.vertices))
    return out._replace(joints=joints, vertices=vertices), out.shared.new_tensor([np.sqrt((1 - gain) * before)]), gain


def _orthonormal(turn: np.ndarray) -> np.ndarray:
    u, _, v = np.linalg.svd(turn)
    return u @ v
