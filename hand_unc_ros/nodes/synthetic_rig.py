"""The `synthetic_rig` node: calibrated cameras that film a synthetic hand, and the truth about it."""

from __future__ import annotations

import array
import sys
import threading
import time
from collections.abc import Collection

import cv2
import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.data.synthetic.pace import RenderingPace
from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
from hand_unc_ros.estimation.types import HandEstimate
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.geometry.quaternions import quaternions_xyzw
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.hand.standin import STANDIN
from hand_unc_ros.methods import known_hand
from hand_unc_ros.msg import HandJointsWithCovariance
from hand_unc_ros.nodes.messages import hand_to_message, stamp_to_message
from hand_unc_ros.nodes.parameters import declare
from hand_unc_ros.nodes.process import run_node
from hand_unc_ros.settings.parameter_files import names_for_any_node
from hand_unc_ros.settings.parameters import Parameter

PARAMETERS = (
    Parameter('cameras', 4, 'Number of cameras, cam0, cam1, …, around the hand.', low=2, high=16),
    Parameter('width', 640, 'Width of the images.', 'px', 64, 4096),
    Parameter('height', 480, 'Height of the images.', 'px', 64, 4096),
    Parameter('rate', 15.0, 'Images per second of each camera.', 'Hz', 0.1, 120.0),
    Parameter('hand_model', '',
              "The hand that is filmed: 'anny', lifelike, by webcams in rooms, or 'stand-in', on which jump_hand's shipped"
              ' weights were trained. Empty: the one that the method auto knows on this machine.',
              choices=('', ANNY, STANDIN)),
    Parameter('seed', 0, 'Of everything random: rig, hand, motion, light, objects.', low=0, high=2 ** 31 - 1),
    Parameter('objects', 1, 'Objects near the hand, which hide parts of it.', low=0, high=10),
    Parameter('transport', 'raw', 'sensor_msgs/Image, or sensor_msgs/CompressedImage (JPEG).',
              choices=('raw', 'compressed')),
    Parameter('world_frame', 'world', 'Frame of the truth and of the poses.'),
    Parameter('write_rig', '', 'Write the camera calibrations of the rig to this YAML file at start.'),
)
JPEG_QUALITY = 92


def camera_info(camera: Camera) -> CameraInfo:
    """The camera calibration as drivers publish it; P is K, as for one camera without rectification."""
    info = CameraInfo(width=camera.width, height=camera.height, distortion_model=camera.distortion_model)
    info.header.frame_id = optical_frame(camera.name)
    info.d = camera.D.tolist()
    info.k = camera.K.ravel().tolist()
    info.r = np.eye(3).ravel().tolist()
    info.p = np.hstack([camera.K, np.zeros((3, 1))]).ravel().tolist()
    return info


def optical_frame(camera: str) -> str:
    """Name of a camera's optical frame (REP-103)."""
    return f'{camera}_optical_frame'


class SyntheticRig(Node):
    """Renders ahead of time and publishes at the instant that the images show, at a lower rate where rendering takes
    longer than the period."""

    def __init__(self, names_for_any: Collection[str] = ()) -> None:
        super().__init__('synthetic_rig')
        values = declare(self, PARAMETERS, names_for_any)
        rig = ring_of_cameras(values['cameras'], size=(values['width'], values['height']),
                              focal_px=0.875 * values['width'], seed=values['seed'])
        if values['write_rig']:
            save_rig(rig, values['write_rig'])
        self.scene = Scene(load_hand_model(values['hand_model'] or known_hand()), rig, values['seed'],
                           SceneSettings(clutter=values['objects']))
        self.pace = RenderingPace(round(1e9 / values['rate']))
        self.compressed = values['transport'] == 'compressed'
        self.world_frame = values['world_frame']
        kind, suffix = (CompressedImage, '/compressed') if self.compressed else (Image, '')
        quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self.image_publishers = {name: self.create_publisher(kind, f'/{name}/image_raw{suffix}', quality)
                                 for name in rig.names}
        self.info_publishers = {name: self.create_publisher(CameraInfo, f'/{name}/camera_info', quality)
                                for name in rig.names}
        self.infos = {camera.name: camera_info(camera) for camera in rig}
        self.truth_publisher = self.create_publisher(HandJointsWithCovariance, 'ground_truth', 10)
        self._broadcast_poses(rig)
        self.scene.images(0.0)  # compiles the renderer before the first tick
        self.late = 0
        self._lowered = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._film, name='film', daemon=True)
        self._thread.start()

    def destroy_node(self) -> None:
        """End the rendering thread and the node."""
        self._stopping.set()
        self._thread.join(timeout=1.0)
        super().destroy_node()

    def _broadcast_poses(self, rig) -> None:
        try:
            from tf2_ros import StaticTransformBroadcaster
        except ImportError:
            return  # a rig file carries the poses where tf2_ros is not installed
        self.broadcaster = StaticTransformBroadcaster(self)
        self.broadcaster.sendTransform([self._pose(camera) for camera in rig])

    def _pose(self, camera: Camera) -> TransformStamped:
        pose = TransformStamped(child_frame_id=optical_frame(camera.name))
        pose.header.frame_id = self.world_frame
        pose.header.stamp = self.get_clock().now().to_msg()
        place, turn = pose.transform.translation, pose.transform.rotation
        place.x, place.y, place.z = camera.world_from_camera[:3, 3].tolist()
        turn.x, turn.y, turn.z, turn.w = quaternions_xyzw(camera.world_from_camera[:3, :3]).tolist()
        return pose

    def _film(self) -> None:
        start_ns = time.time_ns()
        t_ns = 0
        while not self._stopping.is_set():
            t_ns += self.pace.period_ns
            t = t_ns / 1e9
            begin_ns = time.monotonic_ns()
            images = self.scene.images(t)
            messages = {name: self._image(name, image) for name, image in images.items()}
            self.pace.add(time.monotonic_ns() - begin_ns)
            if self.pace.lowered and not self._lowered:
                self._lowered = True
                self.get_logger().warning(
                    f'rendering takes {self.pace.rendering_ns / 1e6:.0f} ms on this machine: the rate is lowered from '
                    f'{1e9 / self.pace.asked_ns:.3g} to {1e9 / self.pace.period_ns:.3g} Hz, and follows what it can do')
            stamp_ns = start_ns + t_ns
            wait_s = (stamp_ns - time.time_ns()) / 1e9
            if wait_s < 0:
                # The hand waits, time does not.
                self.late += 1
                start_ns -= int(wait_s * 1e9)
                stamp_ns = time.time_ns()
            elif self._stopping.wait(wait_s):
                return
            self._publish(t, stamp_ns, messages)

    def _image(self, name: str, image: np.ndarray):
        if self.compressed:
            data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
            message = CompressedImage(format='rgb8; jpeg compressed bgr8')
            message.data = array.array('B', data.tobytes())
        else:
            height, width = image.shape[:2]
            message = Image(height=height, width=width, encoding='rgb8', step=3 * width)
            message.data = array.array('B', image.tobytes())
        message.header.frame_id = optical_frame(name)
        return message

    def _publish(self, t: float, stamp_ns: int, messages: dict) -> None:
        stamp = stamp_to_message(stamp_ns)
        for name, message in messages.items():
            message.header.stamp = stamp
            self.infos[name].header.stamp = stamp
            self.info_publishers[name].publish(self.infos[name])
            self.image_publishers[name].publish(message)
        joints, _ = self.scene.truth(t)
        names = self.scene.rig.names
        self.truth_publisher.publish(hand_to_message(HandEstimate(
            stamp_ns=stamp_ns, handedness='right', score=1.0, joints=joints, covariance=np.zeros((63, 63)),
            valid=np.ones(21, bool), cameras=names, view_used=np.zeros(len(names), bool),
            view_weights=np.zeros((len(names), 21)), reprojection_px=np.full((len(names), 21), np.nan)),
            self.world_frame))


def main() -> int:
    """The executable `synthetic_rig`."""
    argv = sys.argv[1:]
    return run_node('synthetic_rig', lambda: SyntheticRig(names_for_any_node(argv, 'synthetic_rig')), argv)


if __name__ == '__main__':
    raise SystemExit(main())
