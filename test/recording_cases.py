"""Small bags with images, estimates and truth, made without ROS, for the tests of `hand-unc evaluate --bag`."""

from __future__ import annotations


import cv2
import numpy as np
import torch
from repository import ROOT
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation
from view_cases import PERIOD_NS, START_NS, see

from hand_unc_ros.data.bags.from_videos import camera_info
from hand_unc_ros.data.bags.hands import HAND_TYPE, POSES_TYPE, VIEW_TYPE
from hand_unc_ros.data.bags.reader import TF_TYPE
from hand_unc_ros.data.bags.writer import METADATA_VERSION
from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.hand.covariance_blocks import block_diagonal
from hand_unc_ros.methods.geometric_fusion import fuse

torch.set_num_threads(1)

MESSAGES = ROOT / 'msg'
COMPRESSED, INFO = 'sensor_msgs/msg/CompressedImage', 'sensor_msgs/msg/CameraInfo'
# What a recorder needs from the camera to the disk, ns.
DELAY_NS = 4_000_000


def typestore():
    store = get_typestore(Stores.ROS2_HUMBLE)
    for kind in (HAND_TYPE, VIEW_TYPE):
        text = (MESSAGES / f'{kind.rpartition("/")[2]}.msg').read_text()
        store.register({name: fields for name, fields in get_types_from_msg(text, kind).items()
                        if name not in store.fielddefs})
    return store


STORE = typestore()
TYPES = STORE.types


def header(stamp_ns, frame=''):
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    return TYPES['std_msgs/msg/Header'](TYPES['builtin_interfaces/msg/Time'](seconds, nanoseconds), frame)


def jpeg(image):
    return cv2.imencode('.jpg', image[..., ::-1])[1].ravel()


def compressed(stamp_ns, data, frame=''):
    return TYPES[COMPRESSED](header(stamp_ns, frame), 'bgr8; jpeg compressed bgr8', np.asarray(data, np.uint8))


def hand_message(stamp_ns, joints, covariance, cameras, full=True, calibrated=False, frame='world'):
    """covariance: (63, 63)."""
    valid = np.isfinite(joints).all(-1)
    blocks = np.array([covariance[3 * j:3 * j + 3, 3 * j:3 * j + 3] for j in range(21)])
    point, views = TYPES['geometry_msgs/msg/Point'], len(cameras)
    return TYPES[HAND_TYPE](
        header=header(stamp_ns, frame), handedness=2, track_id=1, score=0.9,
        joints=[point(*row) for row in joints.tolist()], valid=valid, covariance=blocks.ravel(),
        full_covariance=covariance.ravel() if full else np.zeros(0), covariance_calibrated=calibrated, velocity=[],
        cameras=list(cameras), view_used=np.ones(views, bool), view_weights=np.zeros(21 * views, np.float32),
        reprojection_px=np.zeros(21 * views, np.float32))


def view_message(stamp_ns, views, row):
    return TYPES[VIEW_TYPE](
        header=header(stamp_ns), camera=views.cameras[row], handedness='right', track_id=1,
        score=float(views.score[row]),
        joints_px=views.joints_px[row].ravel().astype(np.float32),
        variance_px2=views.variance_px2[row].ravel().astype(np.float32), valid=views.valid[row],
        box_px=views.boxes_px[row].astype(np.float32), gate=np.zeros(21, np.float32))


def poses_message(stamp_ns, joints, frame='world'):
    pose, point = TYPES['geometry_msgs/msg/Pose'], TYPES['geometry_msgs/msg/Point']
    upright = TYPES['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0)
    return TYPES[POSES_TYPE](header(stamp_ns, frame), [pose(point(*row), upright) for row in joints.tolist()])


def tf_message(stamp_ns, rig, world='world'):
    transforms = []
    for camera in rig:
        place = TYPES['geometry_msgs/msg/Vector3'](*camera.world_from_camera[:3, 3].tolist())
        turn = Rotation.from_matrix(camera.world_from_camera[:3, :3]).as_quat().tolist()
        transforms.append(TYPES['geometry_msgs/msg/TransformStamped'](
            header(stamp_ns, world), f'{camera.name}_optical_frame',
            TYPES['geometry_msgs/msg/Transform'](place, TYPES['geometry_msgs/msg/Quaternion'](*turn))))
    return TYPES[TF_TYPE](transforms)


def write_bag(path, messages, rig=None):
    """messages: (topic, type, log time ns, message), in any order. rig: written beside them."""
    with Writer(path, version=METADATA_VERSION, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for topic, kind, log_ns, message in sorted(messages, key=lambda item: item[2]):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], log_ns, STORE.serialize_cdr(message, kind))
    if rig is not None:
        save_rig(rig, path / 'rig.yaml')
    return path


def calibration_messages(rig, stamp_ns=START_NS):
    """/tf_static and one CameraInfo of each camera."""
    infos = [(f'/{camera.name}/camera_info', INFO, stamp_ns,
              camera_info(camera, header(stamp_ns, f'{camera.name}_optical_frame'), TYPES)) for camera in rig]
    return [('/tf_static', TF_TYPE, stamp_ns, tf_message(stamp_ns, rig)), *infos]


def image_messages(rig, count, image=None, lost=()):
    """Sets of images 15 times a second: black ones, or image(set, camera). lost: (set, camera) that are missing."""
    black = {camera.name: jpeg(np.zeros((camera.height, camera.width, 3), np.uint8)) for camera in rig}
    messages = []
    for index in range(count):
        stamp = START_NS + index * PERIOD_NS
        for order, camera in enumerate(rig):
            if (index, camera.name) not in lost:
                data = black[camera.name] if image is None else jpeg(image(index, camera.name))
                messages.append((f'/{camera.name}/image_raw/compressed', COMPRESSED, stamp + DELAY_NS + 1000 * order,
                                 compressed(stamp, data)))
    return messages


def estimate_messages(rig, motion, count, noise=1.0, sigma_px=1.0, full=True, seed=0, bias=0.0, cameras=None,
                      scale=1.0):
    """Estimates and views of a hand that the cameras see with errors of noise · sigma_px, σ claimed as sigma_px.

    motion: seconds → joints (21, 3). bias: metres that all cameras see it off along x.  scale: of the published
    covariance, in m².
    """
    rig = rig if cameras is None else rig.subset(cameras)
    messages = []
    for index in range(count):
        stamp = START_NS + index * PERIOD_NS
        views = see(rig, motion(index * PERIOD_NS / 1e9) + [bias, 0, 0], sigma_px, noise, 1000 * seed + index)
        fused = fuse(views, rig)
        log = stamp + 10 * DELAY_NS
        messages.append(('/hand/joints_with_covariance', HAND_TYPE, log, hand_message(
            stamp, fused.joints, scale * block_diagonal(fused.covariance), rig.names, full)))
        messages += [('/hand/view_estimates', VIEW_TYPE, log, view_message(stamp, views, row))
                     for row in range(len(rig))]
    return messages


def truth_messages(motion, count, kind=HAND_TYPE, frame='world'):
    messages = []
    for index in range(count):
        stamp = START_NS + index * PERIOD_NS
        joints = motion(index * PERIOD_NS / 1e9)
        message = (hand_message(stamp, joints, np.zeros((63, 63)), (), frame=frame) if kind == HAND_TYPE
                   else poses_message(stamp, joints, frame))
        messages.append(('/ground_truth', kind, stamp, message))
    return messages
