"""AMVUR on the images of one camera: `python benchmarks/one_camera.py BAG --rig RIG [--camera cam0] [--seconds 12]`.

First the pipeline without ROS on one thread, as fast as it goes: medians of the processor time of a set and of its
stages, and their ratio to a product of matrices that is computed in turns with them, for machines that others use too.
Then a node: this process is the camera, publishes the compressed images at their rate with the time of now, and
listens. Printed, one JSON line each: the share of images in whose set a hand was published, from the first one on; p50
and p95 of the time from an image's stamp to the arrival of its hand; memory and processor time of the node.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from hand_unc_ros import HandTracker, load_bag
from hand_unc_ros.processes.supervise import end_processes

SIDE = 600
NODE = (sys.executable, '-m', 'hand_unc_ros.nodes.multiview', '--autostart', '--ros-args', '-r', '__ns:=/hand')
QUALITY = 90
# For a node to be up, and for its last hand.
PATIENCE_S, LEAVING_S = 120.0, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('bag', type=Path)
    parser.add_argument('--rig', type=Path, required=True, help='rig file; other cameras of it are left out')
    parser.add_argument('--camera', default='', help='default: the first of the bag')
    parser.add_argument('--acceleration', default='auto')
    parser.add_argument('--threads', type=int, default=0, help="of the node's networks")
    parser.add_argument('--seconds', type=float, default=12.0)
    parser.add_argument('--rate', type=float, default=30.0)
    arguments = parser.parse_args()
    recording = load_bag(arguments.bag, arguments.rig)
    camera = arguments.camera or recording.cameras[0]
    count = round(arguments.seconds * arguments.rate)
    images = [frames.images[camera] for frames in itertools.islice(recording, count) if camera in frames.images]
    settings = {'method': 'amvur', 'min_views': 1, 'acceleration': arguments.acceleration}
    tracker = HandTracker(recording.rig, threads=1, **settings)
    print(json.dumps(alone(tracker, camera, images, arguments.rate)), flush=True)
    del tracker
    if len(recording.rig) > 1:
        settings['cameras'] = [camera]
    print(json.dumps(live(camera, images, arguments.rate, {
        **settings, 'rig.file': str(arguments.rig.resolve()), 'transport': 'compressed', 'threads': arguments.threads,
        'sync.period': 1 / arguments.rate})))


def alone(tracker: HandTracker, camera: str, images: Sequence[np.ndarray], rate: float) -> dict:
    """Processor time of sets in which a followed hand is followed on."""
    square = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    clock, time.perf_counter = time.perf_counter, time.process_time
    rows, products, stages, before = [], [], [], 0
    try:
        for number, image in enumerate(images):
            started = time.process_time()
            result = tracker.process({camera: image}, round(1e9 * (1 + number / rate)))
            spent = time.process_time() - started
            if before and result.hands:
                rows.append(1e3 * spent)
                stages.append(result.stage_ms)
            before = len(result.hands)
            started = time.process_time()
            square @ square
            products.append(1e3 * (time.process_time() - started))
    finally:
        time.perf_counter = clock
    return {'sets': len(rows), 'processor_ms': round(float(np.median(rows)), 1),
            'processor_p95_ms': round(float(np.percentile(rows, 95)), 1),
            f'to_product_{SIDE}': round(float(np.median(rows) / np.median(products)), 2),
            'stage_ms': {name: round(float(np.median([stage.get(name, 0.0) for stage in stages])), 2)
                         for name in stages[0]}}


def live(camera: str, images: Sequence[np.ndarray], rate: float, parameters: dict) -> dict:
    """The node with these parameters, before a camera that is this process."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage

    from hand_unc_ros.msg import HandJointsWithCovariance

    encoded = [cv2.imencode('.jpg', image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1].tobytes()
               for image in images]
    words = [word for name, value in parameters.items() for word in ('-p', f'{name}:={json.dumps(value)}')]
    rclpy.init(args=[])
    node = rclpy.create_node('one_camera')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    publisher = node.create_publisher(CompressedImage, f'/{camera}/image_raw/compressed', qos_profile_sensor_data)
    arrived: dict[int, int] = {}

    def take(message: HandJointsWithCovariance) -> None:
        stamp_ns = message.header.stamp.sec * 10 ** 9 + message.header.stamp.nanosec
        arrived.setdefault(stamp_ns, time.time_ns())

    node.create_subscription(HandJointsWithCovariance, '/hand/joints_with_covariance', take, QoSProfile(depth=500))
    process = subprocess.Popen([*NODE, *words])
    try:
        end = time.monotonic() + PATIENCE_S
        while not publisher.get_subscription_count():
            assert process.poll() is None and time.monotonic() < end, 'the node did not start'
            executor.spin_once(timeout_sec=0.05)
        before_s, begin, stamps = _processor_s(process.pid), time.monotonic(), []
        for number, data in enumerate(encoded):
            while (left := begin + number / rate - time.monotonic()) > 0:
                executor.spin_once(timeout_sec=left)
            message = CompressedImage(format='jpeg', data=data)
            message.header.frame_id = camera
            stamps.append(time.time_ns())
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamps[-1], 10 ** 9)
            publisher.publish(message)
        end = time.monotonic() + LEAVING_S
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        spent_s, memory = _processor_s(process.pid) - before_s, _memory_mib(process.pid)
    finally:
        end_processes({'multiview': process})
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    latency = [1e-6 * (arrived[stamp] - stamp) for stamp in stamps if stamp in arrived]
    first = next((number for number, stamp in enumerate(stamps) if stamp in arrived), len(stamps))
    offered, seconds = len(stamps) - first, (len(stamps) - first) / rate
    return {'images': len(stamps), 'rate_hz': rate, 'published': round(len(latency) / max(offered, 1), 3),
            'hands_per_s': round(len(latency) / seconds, 1) if seconds else 0.0,
            'p50_ms': round(float(np.percentile(latency, 50)), 1) if latency else None,
            'p95_ms': round(float(np.percentile(latency, 95)), 1) if latency else None,
            'peak_mib': round(memory), 'processor_ms_per_hand': round(1e3 * spent_s / max(len(latency), 1), 1),
            'load': os.getloadavg()[0]}


def _processor_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def _memory_mib(pid: int) -> float:
    """Most resident memory of a process so far."""
    line = next(row for row in Path(f'/proc/{pid}/status').read_text().splitlines() if row.startswith('VmHWM'))
    return int(line.split()[1]) / 1024


if __name__ == '__main__':
    main()
