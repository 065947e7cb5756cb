"""One camera of a chaos run as a process of its own: publishes a film over and over, with faults switched over stdin.

    python chaos_camera.py NAME FILM.npy RIG.yaml RATE TRANSPORT SEED
FILM.npy: (frames, H, W, 3) uint8 RGB. Each line of stdin is a JSON object of FAULTS to change.
"""

from __future__ import annotations

import array
import json
import sys
import threading
import time
from typing import Any

import cv2
import numpy as np
import rclpy
import yaml
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from hand_unc_ros.processes.exit_deadline import LEAVE_S
from hand_unc_ros.processes.stop_signals import StopSignals

FAULTS: dict[str, Any] = {
    'drop': 0.0,        # share of images that is not sent
    'reorder': 0.0,     # share of images that is sent after the next one
    'shift_s': 0.0,     # added to all stamps
    'stamps': 'right',  # or zero, future, duplicate, backwards
    'image': 'right',   # or truncated, empty, garbage, noise, wrong_size, huge_size, wrong_step, encoding
    'info': 'right',    # or one of INFOS
}
NAN, INF = float('nan'), float('inf')
INFOS: dict[str, dict[str, Any]] = {
    'zero': {'k': [0.0] * 9}, 'nan': {'k': [NAN] * 9}, 'infinite': {'k': [INF, 0, INF, 0, INF, INF, 0, 0, 1.0]},
    'huge_focal': {'scale': 1e12}, 'tiny_focal': {'scale': 1e-12}, 'largest': {'scale': 1e305},
    'negative': {'scale': -1}, 'twice': {'scale': 2.0}, 'transposed': {'transposed': True},
    'huge_distortion': {'d': [1e6] * 5}, 'nan_distortion': {'d': [NAN] * 5}, 'odd_distortion': {'d': [0.1, 0.2, 0.3]},
    'strong_distortion': {'d': [-2.0, 3.0, 0.1, 0.1, -5.0]}, 'unknown_model': {'distortion_model': 'bent'},
    'other_size': {'size': 0.5}, 'no_size': {'size': 0.0},
}


class Camera:
    """What is published, with the faults of the moment."""

    def __init__(self, film: np.ndarray, calibration: dict[str, Any], transport: str, seed: int) -> None:
        self.film, self.raw = film, transport == 'raw'
        self.K, self.D = np.array(calibration['K'], float), [float(value) for value in calibration['D']]
        self.model = calibration['distortion_model']
        self.random = np.random.default_rng(seed)
        self.faults = dict(FAULTS)
        self.late: list[tuple[int, Any]] = []

    def info(self) -> CameraInfo:
        fault = {} if self.faults['info'] == 'right' else INFOS[self.faults['info']]
        height, width = self.film.shape[1:3]
        K = np.array(fault.get('k', self.K), float).reshape(3, 3).copy()
        with np.errstate(all='ignore'):
            K[0, 0], K[1, 1] = np.array([K[0, 0], K[1, 1]]) * fault.get('scale', 1.0)
        if fault.get('transposed'):
            K = K.T
        size = fault.get('size', 1.0)
        return CameraInfo(width=int(width * size), height=int(height * size),
                          distortion_model=fault.get('distortion_model', self.model),
                          k=K.ravel().tolist(), d=fault.get('d', self.D))

    def image(self, frame: int) -> Image | CompressedImage:
        fault = self.faults['image']
        # Forth and back, so that the hand never jumps.
        count = len(self.film)
        place = frame % (2 * count - 2)
        pixels = self.film[place if place < count else 2 * count - 2 - place]
        if fault == 'noise':
            pixels = self.random.integers(0, 256, pixels.shape, np.uint8)
        if fault == 'wrong_size':
            pixels = pixels[:-16, :-32]
        return self._raw(pixels, fault) if self.raw else self._compressed(pixels, fault)

    def _raw(self, pixels: np.ndarray, fault: str) -> Image:
        height, width = pixels.shape[:2]
        data = pixels.tobytes()
        if fault == 'truncated':
            data = data[:int(self.random.integers(1, len(data)))]
        elif fault == 'empty':
            data = b''
        elif fault == 'garbage':
            data = self.random.bytes(int(self.random.integers(1, 2 * len(data))))
        message = Image(height=height, width=width, encoding='rgb8', step=3 * width, data=array.array('B', data))
        if fault == 'huge_size':
            message.height, message.width = 2 ** 31, 2 ** 31
        elif fault == 'wrong_step':
            message.step = int(self.random.integers(0, 3 * width))
        elif fault == 'encoding':
            message.encoding = str(self.random.choice(['pink8', '', '32FC1', '16UC1', 'rgb16', 'bayer_rggb8', 'nv12']))
        return message

    def _compressed(self, pixels: np.ndarray, fault: str) -> CompressedImage:
        data = cv2.imencode('.jpg', pixels[..., ::-1])[1].tobytes()
        if fault == 'truncated':
            data = data[:int(self.random.integers(1, len(data)))]
        elif fault == 'empty':
            data = b''
        elif fault in ('garbage', 'wrong_step'):
            data = self.random.bytes(len(data))
        elif fault == 'huge_size':
            # Height and width of the frame header, which follow its marker, length and precision.
            at = data.index(b'\xff\xc0') + 5
            data = data[:at] + b'\xff\xff\xff\xff' + data[at + 4:]
        return CompressedImage(format='pink8; jpeg compressed' if fault == 'encoding' else 'rgb8; jpeg compressed bgr8',
                               data=array.array('B', data))

    def stamps(self, stamp_ns: int, period_ns: int) -> list[int]:
        stamp_ns += round(self.faults['shift_s'] * 1e9)
        return {'right': [stamp_ns], 'zero': [0], 'future': [stamp_ns + 10 * 10 ** 9], 'duplicate': [stamp_ns] * 2,
                'backwards': [stamp_ns, stamp_ns - period_ns // 3]}[self.faults['stamps']]

    def sent(self, stamp_ns: int, message: Any) -> list[tuple[int, Any]]:
        """What goes out now: nothing, the message, or it and others that were held back."""
        if self.random.random() < self.faults['drop']:
            return []
        if self.random.random() < self.faults['reorder']:
            self.late.append((stamp_ns, message))
            return []
        out, self.late = [(stamp_ns, message), *self.late], []
        return out


def main() -> None:
    name, film, rig, rate, transport, seed = sys.argv[1:7]
    with open(rig) as file:
        calibration = yaml.safe_load(file)['cameras'][name]
    camera = Camera(np.load(film, mmap_mode='r'), calibration, transport, int(seed))
    signals = StopSignals(LEAVE_S)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node(f'{name}_driver', start_parameter_services=False)
    quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
    kind, topic = (Image, '') if camera.raw else (CompressedImage, '/compressed')
    images = node.create_publisher(kind, f'/{name}/image_raw{topic}', quality)
    infos = node.create_publisher(CameraInfo, f'/{name}/camera_info', quality)

    def listen() -> None:
        for line in sys.stdin:
            camera.faults.update(json.loads(line))

    threading.Thread(target=listen, daemon=True).start()
    period_ns = round(1e9 / float(rate))
    frame = time.time_ns() // period_ns + 1
    while not signals.came:
        time.sleep(max(0.0, (frame * period_ns - time.time_ns()) / 1e9))
        info = camera.info()
        for stamp_ns in camera.stamps(frame * period_ns, period_ns):
            for sent_ns, message in camera.sent(stamp_ns, camera.image(frame)):
                for out, publisher in ((info, infos), (message, images)):
                    out.header.stamp.sec, out.header.stamp.nanosec = divmod(sent_ns, 10 ** 9)
                    out.header.frame_id = f'{name}_optical_frame'
                    publisher.publish(out)
        frame = max(frame + 1, time.time_ns() // period_ns)
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
