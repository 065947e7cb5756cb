"""What cannot be a hand is not published as one."""

from __future__ import annotations

import numpy as np

from hand_unc_ros.hand.bone_lengths import BONE_LENGTHS, bone_lengths
from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST
from hand_unc_ros.methods.contract import Triangulation
from hand_unc_ros.methods.view_gaussians import ViewGaussians

# Limits of a bone's length as shares of an adult's: they reject what is no hand at all.
MIN_RATIO, MAX_RATIO = 0.25, 2.2
# A hand may have this share of impossible bones (hidden fingers); with more it is rejected whole.
MAX_BAD_BONES = 0.3
MIN_VALID_JOINTS = 11
# Adult palms from wrist to middle knuckle, with room for children and for error, metres.
PALM_RANGE = (0.04, 0.16)
# Median reprojection error over all views as a share of the hand's box; above it the views see
# different things.
MAX_REPROJECTION_SHARE = 0.12
# Median σ of the 2D joints as a share of the hand's box (3 of 32 heatmap cells). Where there is no hand the network
# is unsure: mostly by 0.095 to 0.115 in synthetic rooms without a hand, by 0.02 to 0.09 on hands with an object.
MAX_SIGMA_SHARE = 0.094
# Of one view no other one tells the errors. In 15 lifelike synthetic scenes the three readings above were off by 53 to 83 mm,
# and one made a velocity by which the hand was then expected 0.13 m away.
MAX_SIGMA_SHARE_ALONE = 0.06


def implausibility(fused: Triangulation, views: ViewGaussians) -> str | None:
    """Why the fused joints cannot be a hand, or None if they can.

    views: the readings they were fused from; the sides of its boxes say how large the hand is in each.
    """
    count = int(fused.valid.sum())
    if count < MIN_VALID_JOINTS:
        return f'only {count} of 21 joints could be triangulated'
    # First the palm: with a rig in other units every bone is impossible, and the reason is what helps.
    palm = np.linalg.norm(fused.joints[MIDDLE_MCP] - fused.joints[WRIST])
    if np.isfinite(palm) and not PALM_RANGE[0] < palm < PALM_RANGE[1]:
        return (f'the palm would be {1000 * palm:.0f} mm long; are the units of the rig metres,'
                ' and are its poses those of the cameras?')
    ratio = bone_lengths(fused.joints) / BONE_LENGTHS
    known = np.isfinite(ratio)
    bad = known & ((ratio < MIN_RATIO) | (ratio > MAX_RATIO))
    if bad.sum() > MAX_BAD_BONES * max(1, known.sum()):
        return f'{int(bad.sum())} of {int(known.sum())} bones have impossible lengths'
    side = views.boxes_px[:, 2, None]
    unsure = np.sqrt(views.variance_px2[fused.used].mean(axis=-1)) / side[fused.used]
    if np.nanmedian(unsure) > (MAX_SIGMA_SHARE if fused.used.sum() > 1 else MAX_SIGMA_SHARE_ALONE):
        return f'the views are unsure of the joints by {100 * np.nanmedian(unsure):.0f} % of the hand, as of no hand'
    share = fused.reprojection_px / side
    if np.nanmedian(share) > MAX_REPROJECTION_SHARE:
        return (f'the views disagree by {100 * np.nanmedian(share):.0f} % of the hand'
                ' (camera calibration, synchronisation, or different hands)')
    return None
