"""The hand as standard markers: skeleton, 95 % ellipsoids coloured by uncertainty, mesh."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from scipy.spatial.transform import Rotation
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from hand_unc_ros.estimation.types import HandEstimate
from hand_unc_ros.geometry.gaussians import ellipsoid_axes
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.hand.joints import BONES
from hand_unc_ros.nodes.messages import stamp_to_message
from hand_unc_ros.viewer.colours import BONE, COLOUR_LIMIT_MM, SKIN, uncertainty_colours

PROBABILITY = 0.95
_BONE_WIDTH_M = 0.004
# A sphere without extent makes RViz complain with every message.
_SMALLEST_RADIUS_M = 1e-4


def hand_markers(estimate: HandEstimate, frame_id: str, lifetime_s: float,
                 triangles: np.ndarray | None = None) -> MarkerArray:
    """Markers of one hand in the frame `frame_id`, gone `lifetime_s` after they were published.

    A marker without a lifetime would stay when the cameras fall silent: a ghost hand.
    triangles: (F, 3) vertex indices, for the mesh where the estimate has vertices.
    """
    template = _Template(estimate.stamp_ns, frame_id, lifetime_s)
    markers = [_skeleton(estimate, template), *_ellipsoids(estimate, template)]
    if estimate.vertices is not None and triangles is not None:
        markers.append(_mesh(estimate, triangles, template))
    return MarkerArray(markers=markers)


class _Template:
    """What all markers of one hand have in common."""

    def __init__(self, stamp_ns: int, frame_id: str, lifetime_s: float) -> None:
        self._stamp = stamp_to_message(stamp_ns)
        self._frame_id = frame_id
        seconds, fraction = divmod(lifetime_s, 1.0)
        self._lifetime = Duration(sec=int(seconds), nanosec=int(fraction * 1e9))

    def marker(self, namespace: str, identifier: int, kind: int) -> Marker:
        marker = Marker(ns=namespace, id=identifier, type=kind, action=Marker.ADD, lifetime=self._lifetime)
        marker.header.stamp = self._stamp
        marker.header.frame_id = self._frame_id
        marker.pose.orientation.w = 1.0
        return marker


def _colour(rgb: tuple[int, int, int] | np.ndarray, alpha: float) -> ColorRGBA:
    r, g, b = (float(channel) / 255 for channel in rgb)
    return ColorRGBA(r=r, g=g, b=b, a=alpha)


def _points(positions: np.ndarray) -> list[Point]:
    return [Point(x=x, y=y, z=z) for x, y, z in positions.tolist()]


def _skeleton(estimate: HandEstimate, template: _Template) -> Marker:
    marker = template.marker('skeleton', 0, Marker.LINE_LIST)
    marker.scale.x = _BONE_WIDTH_M
    marker.color = _colour(BONE, 1.0)
    bones = [bone for bone in BONES if estimate.valid[list(bone)].all()]
    marker.points = _points(estimate.joints[np.array(bones, dtype=int).reshape(-1)])
    return marker


def _ellipsoids(estimate: HandEstimate, template: _Template) -> list[Marker]:
    radii, axes = ellipsoid_axes(joint_blocks(estimate.covariance), PROBABILITY)
    colours = uncertainty_colours(1000 * radii[:, 0], COLOUR_LIMIT_MM)
    markers = []
    turns = Rotation.from_matrix(axes[estimate.valid]).as_quat().tolist()
    for joint, turn in zip(np.flatnonzero(estimate.valid).tolist(), turns):
        marker = template.marker('ellipsoids', joint, Marker.SPHERE)
        position, orientation = marker.pose.position, marker.pose.orientation
        position.x, position.y, position.z = estimate.joints[joint].tolist()
        orientation.x, orientation.y, orientation.z, orientation.w = turn
        # A marker's scale is the diameter.
        marker.scale.x, marker.scale.y, marker.scale.z = (
            2 * np.maximum(radii[joint], _SMALLEST_RADIUS_M)).tolist()
        marker.color = _colour(colours[joint], 0.5)
        markers.append(marker)
    return markers


def _mesh(estimate: HandEstimate, triangles: np.ndarray, template: _Template) -> Marker:
    marker = template.marker('mesh', 0, Marker.TRIANGLE_LIST)
    marker.scale.x = marker.scale.y = marker.scale.z = 1.0
    marker.color = _colour(SKIN, 0.9)
    # Triangles share their corners: making a Point for each corner would take most of a frame's time.
    corners = _points(estimate.vertices)
    marker.points = [corners[vertex] for vertex in np.asarray(triangles).reshape(-1).tolist()]
    return marker
