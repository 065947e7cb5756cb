"""How many synthetic images a second one core renders, beside a job of OpenCV's on the same image.

    python benchmarks/rendering.py [--runs 5] [--seconds 2]

Single thread. `scene`: 256×256 images of `Scene` with one object, noise and motion blur, one camera at a time
and with the posing of the hand shared by four. `crops`: batches of 64 crops of 256 px,
as the training of the full-size network takes them; each scene is used several times there.
`lifelike`: crops of 224 px of the lifelike hand before synthetic webcams, four views of each sample rendered, cut and
augmented once. Rooms and skins, which many samples share, are made before.
`opencv`: an affine warp and a JPEG encoding of one of these images, what reading a stored data set would cost
at the least. Runs alternate; medians over runs of wall-clock rates and of rates per processor time, since a
busy machine stretches the former. The exit status is 1 below 100 images per second of processor time, 30 lifelike ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count

import cv2
import numpy as np
import torch

from hand_unc_ros.data.batches import SYNTHETIC_AUGMENTATION, crop_sample
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.training.streams import SyntheticStream

SIZE = 256
REQUIRED_PER_S = 100.0
LIFELIKE_SIZE, LIFELIKE_PER_S = 224, 30.0
# Rooms and skins that the lifelike samples choose from.
ROOMS, SKINS = 8, 4


def rate(job: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Images per second of wall-clock time and of processor time; job makes some images and says how many."""
    made, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        made += job()
    return made / (time.perf_counter() - wall), made / (time.process_time() - cpu)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=2.0, help='length of each run')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    model = load_hand_model(None)
    # The focal length that shows the work volume as the 640×480 rig does.
    rig = ring_of_cameras(4, size=(SIZE, SIZE), focal_px=560.0 * SIZE / 480)
    scene = Scene(model, rig, 0, SceneSettings(clutter=1))
    stream, chunks = SyntheticStream(model, 0, 64, MultiviewSettings(image_size=SIZE)), count()
    clock = iter(np.arange(10 ** 6) / 15.0)
    image = scene.images(0.0, ['cam0'])['cam0']
    turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), 20, 0.9)

    lifelike, numbers = MultiviewSamples(load_hand_model(ANNY), 0, MultiviewSettings(image_size=LIFELIKE_SIZE)), count()
    lifelike.surroundings.count, lifelike.skins.count = ROOMS, SKINS
    for number in range(max(ROOMS, SKINS)):
        lifelike.surroundings.store(number % ROOMS)
        lifelike.skins.skin(number % SKINS)

    def lifelike_crops() -> int:
        sample = lifelike.sample(number := next(numbers), 4)
        return len(crop_sample(sample, LIFELIKE_SIZE, SYNTHETIC_AUGMENTATION, (0, number))['images'])

    def opencv() -> int:
        cv2.imencode('.jpg', cv2.warpAffine(image, turn, (SIZE, SIZE)), [cv2.IMWRITE_JPEG_QUALITY, 90])
        return 1

    def crops() -> int:
        return sum(batch['view_mask'].numel() for batch in stream.chunk(next(chunks)))

    jobs = {
        'scene_one_camera': lambda: len(scene.images(float(next(clock)), ['cam0'])),
        'scene_four_cameras': lambda: len(scene.images(float(next(clock)))),
        'crops': crops,
        'lifelike': lifelike_crops,
        'opencv': opencv,
    }
    for job in jobs.values():
        job()
    results = {name: [] for name in jobs}
    for _ in range(arguments.runs):
        for name, job in jobs.items():
            results[name].append(rate(job, arguments.seconds))
    medians = {
        name: [statistics.median(run[part] for run in runs) for part in (0, 1)]
        for name, runs in results.items()
    }
    report = {
        name: {
            'images_per_s': round(wall, 1),
            'images_per_cpu_s': round(cpu, 1),
            'times_opencv': round(medians['opencv'][1] / cpu, 1),
        }
        for name, (wall, cpu) in medians.items()
    }
    print(json.dumps({'size': SIZE, 'runs': arguments.runs, **report}, indent=2))
    return 0 if all(cpu >= (LIFELIKE_PER_S if name == 'lifelike' else REQUIRED_PER_S)
                    for name, (_, cpu) in medians.items()) else 1


if __name__ == '__main__':
    sys.exit(main())
