"""Tiny videos, a rig and a bag made of them, for the tests of recordings."""

import cv2
import numpy as np
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from hand_unc_ros.data.bags.from_videos import from_videos
from hand_unc_ros.geometry.cameras import Camera, CameraRig

WIDTH, HEIGHT, FPS, FRAMES = 64, 48, 20.0, 12
STORE = get_typestore(Stores.ROS2_HUMBLE)


def write_video(path, frames=FRAMES, size=(WIDTH, HEIGHT), fps=FPS, base=0):
    """A video whose frame i is uniformly base + 10 i bright: a frame says which one it is."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), fps, size)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), base + 10 * index, np.uint8))
    writer.release()
    return path


def make_camera(name, x=0.0, model='plumb_bob', D=(0.1, -0.2, 0.001, 0.002, 0.05)):
    pose = np.eye(4)
    turn = 0.3 + x
    pose[:3, :3] = cv2.Rodrigues(np.array([0.1, turn, -0.2]))[0]
    pose[:3, 3] = (x, 0.2, -0.5)
    K = np.array([[70.0, 0.0, 31.0], [0.0, 71.0, 24.0], [0.0, 0.0, 1.0]])
    return Camera(name, WIDTH, HEIGHT, K, model, np.array(D), pose)


def make_rig():
    return CameraRig([make_camera('left'), make_camera('right', 0.4, model='none', D=())])


def make_videos(folder):
    return [write_video(folder / 'a.mp4'), write_video(folder / 'b.mp4', base=5)]


def make_bag(folder):
    """A bag of FRAMES frames of the cameras left and right, from 100 s on."""
    return from_videos(make_videos(folder), make_rig(), folder / 'bag', start_time_s=100.0, progress=False)


def read_all(path):
    with Reader(path) as reader:
        return [(connection.topic, stamp, STORE.deserialize_cdr(data, connection.msgtype))
                for connection, stamp, data in reader.messages()]


def stamp_of(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def cut(bag, keep):
    """Truncate the bag's storage file to keep(size) bytes."""
    (storage,) = bag.glob('*.mcap')
    content = storage.read_bytes()
    storage.write_bytes(content[:keep(len(content))])
