"""Pseudo-labels of a hand: what its views agree on, projected into each of them.

A 2D detector is wrong on hidden fingers and on grasps, and is not wrong alike in all views. So no view's own landmark
is a label: the views are triangulated robustly, and the joints that several of them confirm are projected back, with
the covariance that is left by their residuals. UST-Hand trains on such labels, weighted by their variance.
"""

from __future__ import annotations

import numpy as np
import torch

from hand_unc_ros.data.pseudo_labels import PseudoLabels
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.bone_lengths import bone_lengths
from hand_unc_ros.hand.joints import BONES, JOINT_COUNT
from hand_unc_ros.methods.contract import Triangulation
from hand_unc_ros.methods.geometric_fusion import DISAGREEMENT_SIGMA, fuse
from hand_unc_ros.methods.view_gaussians import ViewGaussians

# Views that must confirm a joint, where there are as many cameras: of two views none can be called the wrong one.
CONFIRMING = 3
# A view confirms a joint whose residual is below this many of its σ (2D), as far as a whole view may be off to be
# fused, and that is no gross outlier, more likely than not. It is wide, since the σ of a rig that is to be adapted may
# be small.
CONFIRMS_SIGMA, OUTLYING = DISAGREEMENT_SIGMA, 0.5
# A landmark means its joint no closer than this, px of an image in which the palm is 100 px long.
LEAST_SHARE = 0.01
# Above this share of the length of the hand's box a label teaches nothing.
MOST_SHARE = 0.12
# A bone that is off its median length by more than this share has a wrong end.
BONE_TOLERANCE = 0.35
# Hands by which the length of a bone is known.
FEWEST_BONES = 20


def consensus(views: ViewGaussians, rig: CameraRig, triangulation: str = 'refined'
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joints (21, 3) metres, world, NaN where too few views confirm them; labels (V, 21, 2) px of the distorted images
    and their σ (V, 21, 2) px, infinite where not to be trusted.  rig: the cameras of `views`, in their order."""
    found = fuse(views, rig, triangulation)
    known = found.valid & confirmed(found)
    joints = np.where(known[:, None], found.joints, np.nan)
    with torch.inference_mode():
        px, jacobian = (part.numpy() for part in rig.project_with_jacobian(torch.from_numpy(joints)))
    variance = np.diagonal(jacobian @ found.covariance @ jacobian.swapaxes(-1, -2), axis1=-2, axis2=-1)
    sides = _box_sides(px)
    variance = variance + np.square(LEAST_SHARE * sides)[:, None, None]
    limits = np.array([[camera.width, camera.height] for camera in rig])[:, None]
    inside = ((px > -0.5) & (px < limits - 0.5)).all(-1)
    trusted = inside & np.isfinite(variance).all(-1) & (variance < np.square(MOST_SHARE * sides)[:, None, None]).all(-1)
    return joints, np.where(trusted[..., None], px, np.nan), np.where(trusted[..., None], np.sqrt(variance), np.inf)


def confirmed(found: Triangulation) -> np.ndarray:
    """(21,) bool, joints that enough views agree on: CONFIRMING of them, or both where there are two cameras."""
    agree = (found.mahalanobis2 < CONFIRMS_SIGMA ** 2) & (found.outlying < OUTLYING)
    return agree.sum(0) >= min(CONFIRMING, len(found.used))


def rigid(labels: PseudoLabels) -> PseudoLabels:
    """The labels without those whose bones have a length that the hand does not have: each side's median over the whole
    recording is taken for its length. Ends of such bones that no other bone confirms become unknown."""
    lengths = bone_lengths(labels.joints)
    good = np.zeros((len(labels), JOINT_COUNT), bool)
    bad = np.zeros((len(labels), JOINT_COUNT), bool)
    for side in (False, True):
        mine = labels.left == side
        own = lengths[mine]
        if not mine.any():
            continue
        enough = np.isfinite(own).sum(0) >= FEWEST_BONES
        usual = np.where(enough, np.nanmedian(np.where(enough, own, 1.0), axis=0), np.nan)
        off = np.abs(own / usual - 1)
        for bone, ends in enumerate(BONES):
            for mask, chosen in ((good, off[:, bone] <= BONE_TOLERANCE), (bad, off[:, bone] > BONE_TOLERANCE)):
                mask[np.ix_(np.flatnonzero(mine)[chosen], ends)] = True
    bad &= ~good
    trusted = labels.trusted & ~bad[:, None]
    return PseudoLabels(
        labels.cameras, labels.stamp_ns, labels.view_stamp_ns, labels.left, labels.track,
        np.where(trusted[..., None], labels.labels_px, np.nan), np.where(trusted[..., None], labels.sigma_px, np.inf),
        np.where(bad[..., None], np.nan, labels.joints))


def triangulated(labels: PseudoLabels, rig: CameraRig) -> PseudoLabels:
    """The labels with the joints that they agree on, where these are not known: of labels from elsewhere.
    rig: the cameras of the labels, in their order."""
    joints = labels.joints.copy()
    for row in np.flatnonzero(~np.isfinite(joints).any((1, 2))):
        valid = labels.trusted[row]
        views = ViewGaussians(labels.cameras, np.where(valid[..., None], labels.labels_px[row], np.nan),
                              np.where(valid[..., None], np.square(labels.sigma_px[row]), np.nan), valid,
                              valid.any(1).astype(float), _boxes(labels.labels_px[row], valid))
        joints[row] = fuse(views, rig).joints
    return PseudoLabels(labels.cameras, labels.stamp_ns, labels.view_stamp_ns, labels.left, labels.track,
                        labels.labels_px, labels.sigma_px, joints)


def _box_sides(px: np.ndarray) -> np.ndarray:
    """(V,) px, the longer side of the box around the known joints (V, 21, 2); NaN without any."""
    known = np.isfinite(px)
    low, high = np.where(known, px, np.inf).min(1), np.where(known, px, -np.inf).max(1)
    sides = (high - low).max(-1)
    return np.where(np.isfinite(sides) & (sides > 0), sides, np.nan)


def _boxes(px: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(V, 4) upright boxes around the valid joints."""
    known = np.where(valid[..., None], px, np.nan)
    sides = _box_sides(known)
    centre = np.where(np.isfinite(sides)[:, None], np.nan_to_num(known).sum(1) / np.maximum(valid.sum(1), 1)[:, None],
                      np.nan)
    return np.column_stack([centre, sides, np.where(np.isfinite(sides), 0.0, np.nan)])
