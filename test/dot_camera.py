"""One camera as a process of its own: publishes a picture at a rate, with faults switched on over stdin.

    python dot_camera.py NAME IMAGE.npy RIG.yaml RATE
Each line of stdin is a JSON object of settings to change; see `SETTINGS`.
"""

from __future__ import annotations

import array
import json
import sys
import threading
import time

import numpy as np
import rclpy
import yaml
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from hand_unc_ros.processes.exit_deadline import LEAVE_S
from hand_unc_ros.processes.stop_signals import StopSignals

SETTINGS = {
    'shift_s': 0.0,          # added to every stamp: a seek in a recording
    'stamps': 'normal',      # or zero, future, duplicate, backwards
    'step': None, 'encoding': None, 'cut': 0, 'k': None, 'd': None,
    'kind': 'raw',           # or compressed, on the same topic
    'reliable': True,
}


def main() -> None:
    name, image_path, rig_path, rate = sys.argv[1:5]
    pixels = np.load(image_path)
    calibration = yaml.safe_load(open(rig_path))['cameras'][name]
    settings = dict(SETTINGS)
    signals = StopSignals(LEAVE_S)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(f'{name}_driver', start_parameter_services=False)
    publishers = {}

    def publisher():
        kind = (settings['kind'], settings['reliable'])
        if kind not in publishers:
            for old in publishers.values():
                node.destroy_publisher(old)
            publishers.clear()
            qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE if settings['reliable']
                             else ReliabilityPolicy.BEST_EFFORT)
            publishers[kind] = node.create_publisher(
                Image if settings['kind'] == 'raw' else CompressedImage, f'/{name}/image_raw', qos)
        return publishers[kind]

    def listen():
        for line in sys.stdin:
            settings.update(json.loads(line))

    threading.Thread(target=listen, daemon=True).start()
    infos = node.create_publisher(CameraInfo, f'/{name}/camera_info', 5)
    height, width = pixels.shape[:2]
    data = array.array('B', pixels.tobytes())
    period_ns = round(1e9 / float(rate))
    frame = time.time_ns() // period_ns + 1
    while not signals.came:
        time.sleep(max(0.0, (frame * period_ns - time.time_ns()) / 1e9))
        mode = settings['stamps']
        stamp = frame * period_ns + round(settings['shift_s'] * 1e9)
        stamps = {'normal': [stamp], 'zero': [0], 'future': [stamp + 10 * 10 ** 9],
                  'duplicate': [stamp, stamp], 'backwards': [stamp, stamp - period_ns // 3]}[mode]
        info = CameraInfo(width=width, height=height, distortion_model='plumb_bob')
        info.k = settings['k'] or np.array(calibration['K'], float).ravel().tolist()
        info.d = settings['d'] if settings['d'] is not None else [0.0] * 5
        for value in stamps:
            if settings['kind'] == 'raw':
                message = Image(width=width, height=height, encoding=settings['encoding'] or 'rgb8',
                                step=settings['step'] or 3 * width, data=data[:len(data) - settings['cut']])
            else:
                message = CompressedImage(format='jpeg')
            for sent, to in ((info, infos), (message, publisher())):
                sent.header.stamp.sec, sent.header.stamp.nanosec = divmod(value, 10 ** 9)
                sent.header.frame_id = f'{name}_optical_frame'
                to.publish(sent)
        frame = max(frame + 1, time.time_ns() // period_ns)
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
