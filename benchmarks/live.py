"""The live frame set against the network alone: `python benchmarks/live.py [--views 2 4 8 16] [--device cpu]`.

One process, synthetic scenes rendered beforehand, the hand being followed. `bare` is JumpHand.forward on the same
number of crops that lie ready as a tensor; `live` is everything from images to a published estimate's numbers, of a rig
that says how well it is calibrated; `plain` is the same without covariance head, map, camera uncertainty and the
watch over the cameras. Runs of all three alternate, so that what else the machine does meets them alike. Peak memory
is that of the process, in a process of its own for each number of views.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from dataclasses import replace

import numpy as np
import torch

from hand_unc_ros.data.synthetic.ring import ring_of_cameras
from hand_unc_ros.data.synthetic.scene import Scene, SceneSettings
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.types import FrameResult, FrameSet
from hand_unc_ros.geometry.cameras import CalibrationUncertainty, CameraRig
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.contract import View

SETS = 12
RATE_HZ = 30.0


def measure(views: int, repeats: int, options: dict) -> dict:
    """Medians over `repeats` passes through SETS frame sets, milliseconds."""
    if options['threads']:
        torch.set_num_threads(options['threads'])
    rig = ring_of_cameras(views, seed=3)
    scene = Scene(load_hand_model(None), rig, 3, SceneSettings(clutter=1))
    known = CalibrationUncertainty(rotation_rad=1e-3, translation_m=1e-3, focal_px=1.0, centre_px=1.0)
    unsure = CameraRig([replace(camera, uncertainty=known) for camera in rig.cameras])
    sets, plain_sets = [], []
    for index in range(SETS):
        stamp = 1_000_000_000 + int(index / RATE_HZ * 1e9)
        images = scene.images(index / RATE_HZ)
        for into, cameras in ((sets, unsure), (plain_sets, rig)):
            views_of = {name: View(cameras[name], image, stamp) for name, image in images.items()}
            into.append(FrameSet(stamp, views_of, rig.names))
    settings = EstimatorSettings(method='jump_hand', **options)
    estimator = build_estimator(settings, rig.names)
    plain = build_estimator(replace(settings, covariance_head='none', covariance_map='none', view_health=False),
                            rig.names)
    network, device = estimator.method.network, estimator.method.device
    size = network.config.image_size
    K = torch.diag(torch.tensor([200.0, 200.0, 1.0])).expand(1, views, 3, 3)
    inputs = [torch.rand(1, views, 3, size, size), K, rig.camera_from_world[None].float(),
              torch.ones(1, views, dtype=torch.bool)]
    inputs = [value.to(device) for value in inputs]
    dtype = estimator.method.dtype

    def bare() -> float:
        started = time.perf_counter()
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            network(*inputs).joints[-1].cpu()
        return 1e3 * (time.perf_counter() - started)

    def timed(which: HandEstimator, frames: FrameSet) -> tuple[FrameResult, float]:
        started = time.perf_counter()
        result = which.process(frames)
        return result, 1e3 * (time.perf_counter() - started)

    bare()
    live_ms, plain_ms, bare_ms, found, stages = [], [], [], 0, []
    for _ in range(repeats):
        estimator.reset()
        plain.reset()
        for index, (frames, plain_frames) in enumerate(zip(sets, plain_sets)):
            result, elapsed = timed(estimator, frames)
            _, without = timed(plain, plain_frames)
            if index:
                # The first set of a pass searches for the hand.
                live_ms.append(elapsed)
                plain_ms.append(without)
                bare_ms.append(bare())
                found += len(result.hands)
                stages.append(result.stage_ms)
    live, without, alone = np.array(live_ms), np.array(plain_ms), np.array(bare_ms)
    return {'views': views, 'live_ms': float(np.median(live)), 'live_p95_ms': float(np.percentile(live, 95)),
            'plain_ms': float(np.median(without)), 'live_to_plain': float(np.median(live / without)),
            'bare_ms': float(np.median(alone)), 'ratio': float(np.median(live / alone)),
            'sets_per_s': float(1e3 / np.median(live)), 'found': found / len(live),
            'stage_ms': {name: round(float(np.median([s.get(name, np.nan) for s in stages])), 2) for name in stages[0]},
            'peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--views', type=int, nargs='+', default=[2, 4, 8, 16])
    parser.add_argument('--repeats', type=int, default=6)
    parser.add_argument('--weights', default='')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--acceleration', default='none')
    parser.add_argument('--threads', type=int, default=0)
    arguments = vars(parser.parse_args())
    views, repeats = arguments.pop('views'), arguments.pop('repeats')
    context = multiprocessing.get_context('spawn')
    for count in views:
        with context.Pool(1) as pool:
            row = pool.apply(measure, (count, repeats, arguments))
        print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}))


if __name__ == '__main__':
    main()
