"""The contract between a method and the rest of the package: `find` and `read` on a camera's side, `fuse` on the other.

The wire between the sides is a `ViewReading` for each camera and hand. SI units; pixels have their centres at integers;
stamps are integer nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.hand.bone_lengths import BoneLengths
from hand_unc_ros.hand.joints import JOINT_COUNT

HANDEDNESS = ('right', 'left')
# The box (4,) of a hand's crop, from joints (21, 3) metres, their projections (21, 2) px and px per metre at the hand;
# as hand/crops.py's reach_box.
CropBox = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class View:
    """One camera's contribution to a frame set.

    image: (H, W, 3) uint8 RGB, read-only.  stamp_ns: this image's own capture stamp.
    """

    camera: Camera
    image: np.ndarray
    stamp_ns: int


@dataclass(frozen=True)
class Crop:
    """A hand as an image of a pinhole camera; for a method without `crop_size`, the whole image as it was captured.

    image: (S, S, 3) uint8 RGB.  K: (3, 3) px and camera_from_world: (3, 4) metres, of the crop.  box_px: (4,) as in
    Detection.  view: what it was cut from.  handedness: of the hand that is expected in it.  mirrored: the image, K and
    pose are those of the world reflected in x = 0, in which a left hand is a right one.
    """

    image: np.ndarray
    K: np.ndarray
    camera_from_world: np.ndarray
    box_px: np.ndarray
    view: View
    handedness: str
    mirrored: bool

    @property
    def camera(self) -> Camera:
        """The camera of the whole image."""
        return self.view.camera


@dataclass(frozen=True)
class ViewReading:
    """One hand as one camera's computer reads it: 2D Gaussians of the joints in pixels of the full, distorted image.

    camera: its name.  stamp_ns: capture stamp of the image.
    joints_px: (21, 2) and variance_px2: (21, 2), NaN where valid (21,) is False.
    score: in [0, 1], how sure the view is that it shows the hand.  handedness: of that hand.
    box_px: (4,) as in Detection, of the crop that was read, NaN where there was none.
    K: (3, 3) px and camera_from_world: (3, 4) metres of that crop (mirrored for a left hand); None without one.
    features: what else the method's `fuse` needs of the view; None where a method has none.
    right: probability of a right hand by the image alone, 0.5 where the method cannot tell.
    """

    camera: str
    stamp_ns: int
    joints_px: np.ndarray
    variance_px2: np.ndarray
    valid: np.ndarray
    score: float
    handedness: str
    box_px: np.ndarray
    K: np.ndarray | None = None
    camera_from_world: np.ndarray | None = None
    features: object | None = None
    right: float = 0.5

    @classmethod
    def unread(cls, view: View, handedness: str) -> ViewReading:
        """Of a view whose image was not read, as where the hand lies outside of it."""
        joints, variance = np.full((2, JOINT_COUNT, 2), np.nan)
        return cls(view.camera.name, view.stamp_ns, joints, variance, np.zeros(JOINT_COUNT, bool), 0.0, handedness,
                   np.full(4, np.nan))


@dataclass(frozen=True)
class Detection:
    """A hand in one camera's whole image.

    box_px: (4,) centre x, centre y, side, roll (rad), in the camera's pixels without its lens distortion.
    handedness: 'right' or 'left'.  score: in [0, 1].
    reading: the joints that were read while searching, by which detections of several views are associated; None where
    a method finds hands without reading them: then each view's best detection of a side is taken.
    """

    box_px: np.ndarray
    handedness: str
    score: float
    reading: ViewReading | None = None


@dataclass(frozen=True)
class HandPrior:
    """The prior of a hand before a set of readings is fused.

    predicted: (21, 3) metres, world, joints expected at the time of the set, NaN where unknown; None for a new hand.
    bones: the lengths to which triangulated joints are held; None where they are not.
    """

    handedness: str
    predicted: np.ndarray | None = None
    bones: BoneLengths | None = None


@dataclass(frozen=True)
class Triangulation:
    """Joints by the geometry of V views; a method that does not triangulate gives its own joints here.

    joints: (21, 3) metres, world, and covariance: (21, 3, 3) m², from the views' variances and residuals; NaN where
    invalid.  propagated: (21, 3, 3), what the views' variances alone give.  inflation: (21, 3, 3) T, with covariance =
    T propagated Tᵀ.  outlying: (V, 21) probability that a view's joint is a gross outlier.
    valid: (21,).  weights: (V, 21), each valid joint's sum to 1 over the views.  used: (V,) bool.
    reprojection_px: (V, 21) residual norms and mahalanobis2: (V, 21) their whitened squares, NaN where unused.
    gate: (V, 21) JUMP-Hand's softmax of the views' variances; zero where unused.
    """

    joints: np.ndarray
    covariance: np.ndarray
    valid: np.ndarray
    weights: np.ndarray
    used: np.ndarray
    reprojection_px: np.ndarray
    mahalanobis2: np.ndarray
    gate: np.ndarray
    propagated: np.ndarray
    inflation: np.ndarray
    outlying: np.ndarray


@dataclass(frozen=True)
class Fused:
    """A hand from several views.

    joints: (21, 3) metres, world, and covariance: (63, 63) m², joint-major, before the covariance map; NaN where the
    triangulation has no joint.  gate: (V, 21) the weights of the views by which the method made these joints.
    triangulation: their geometry, by which plausibility, view health and the error of the camera calibration are
    judged.  vertices: (N, 3) metres, world, of the method's `surface`, or None.  stage_ms: what the method's own
    stages took.  declined: the method refines joints and declined this once, so that these are the triangulated ones,
    of whose errors neither its covariance head nor a covariance map fitted to refined joints knows anything.
    vertex_colours: (N, 3) uint8 sRGB of the vertices, or None.
    """

    joints: np.ndarray
    covariance: np.ndarray
    gate: np.ndarray
    triangulation: Triangulation
    vertices: np.ndarray | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    declined: bool = False
    vertex_colours: np.ndarray | None = None


@dataclass(frozen=True)
class NotFused:
    """Why readings gave no hand, in words fit for diagnostics."""

    reason: str


class Method(Protocol):
    """One paper's way from images to a hand. Nothing of one call is needed by the next, except what trackers inside
    `find` and `read` keep for their own camera; `reset` forgets that.

    name: in the table of methods.  min_views: fewest views that `fuse` makes a hand of.  window: sets that `fuse` looks
    at.  crop_size: side in pixels of the crops that `read` takes, None for whole images.  surface: name of the hand
    model whose vertices `fuse` gives ('stand-in', 'anny' or 'mano'), '' without vertices.  crop_box: how the crop of a
    followed hand is drawn, as the method's networks were trained.  A method may have a shift_factor as well, see
    estimation.view_health, 1 without it.
    """

    name: str
    min_views: int
    window: int
    crop_size: int | None
    surface: str
    crop_box: CropBox

    def find(self, views: Mapping[str, View]) -> list[list[Detection]]:
        """The hands in each camera's image, in the order of `views`; the estimator asks when a hand is missing."""
        ...

    def read(self, crops: Sequence[Crop]) -> list[ViewReading]:
        """One reading for each crop. Crops of all cameras and hands come together, to be batched."""
        ...

    def fuse(self, window: Sequence[Mapping[str, ViewReading]], rig: CameraRig, track: HandPrior) -> Fused | NotFused:
        """One hand from its readings of the last `window` sets at most, oldest first.

        rig: the cameras of the newest set, in its order; V in Fused is their number.
        """
        ...

    def reset(self) -> None:
        """Forget everything between frames, as after a jump in time."""
        ...

    def close(self) -> None:
        """Free what the method holds; safe to call twice."""
        ...


@dataclass(frozen=True)
class MethodOptions:
    """The choices of a user; a method ignores those that do not concern it.

    weights, finder_weights, covariance_head: paths, '' for what the package ships, 'none' to go without a head.
    texture_weights: path, 'shipped' for the package's, '' to go without colours of the mesh.
    handedness: of the hand that `find` looks for, 'both' for one of each.  triangulation: one of
    geometric_fusion.TRIANGULATIONS.  refinement: let the method's network correct the triangulated joints.
    min_views: fewest views for a hand.  mesh: give vertices where several views show the hand.  device, precision,
    acceleration, read_twice: as the parameters of the node.
    """

    weights: str = ''
    finder_weights: str = ''
    covariance_head: str = ''
    texture_weights: str = ''
    device: str = 'auto'
    precision: str = 'auto'
    acceleration: str = 'auto'
    handedness: str = 'right'
    triangulation: str = 'refined'
    refinement: bool = True
    min_views: int = 2
    mesh: bool = True
    read_twice: bool = False
