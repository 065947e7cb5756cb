"""Cost of fitting a hand model to joints, beside one forward pass of the same model through smplx.

    python benchmarks/fitting.py [--hands 20] [--runs 7]

One thread, processor time; the runs take turns and medians are compared.  `joints`: 21 joints with 5 mm of
noise, random poses within the anatomical limits.  `track`: the same with the fit before handed on.
`vertices`: with an observed surface as well.  The exit status is 1 where a fit
to joints takes more than 5 ms or more than 12 forward passes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

# Read by NumPy's and SciPy's linear algebra when it is loaded.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import numpy as np  # noqa: E402
import torch  # noqa: E402

from hand_unc_ros.hand.fitting import load_hand_fitter  # noqa: E402
from hand_unc_ros.hand.limits import ANGLE_LIMITS, FlexionAxes, pose_from_angles  # noqa: E402
from hand_unc_ros.hand.model import STANDIN, load_hand_model  # noqa: E402

NOISE_M = 0.005
ALLOWED_MS = 5.0
ALLOWED_RATIO = 12.0


def milliseconds(function: Callable[[], object], hands: int) -> float:
    """Processor time for each of the hands that `function` does."""
    start = time.process_time()
    function()
    return 1e3 * (time.process_time() - start) / hands


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--hands', type=int, default=20)
    parser.add_argument('--runs', type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_hand_model(None)
    fitter = load_hand_fitter(STANDIN, 'right')
    rng = np.random.default_rng(0)
    axes = FlexionAxes.from_rest_joints(model.rest_joints(), 'right')
    angles = torch.from_numpy(
        rng.uniform(ANGLE_LIMITS[:, 0], ANGLE_LIMITS[:, 1], (options.hands, len(ANGLE_LIMITS))))
    pose = torch.cat(
        [torch.from_numpy(rng.normal(0, 1, (options.hands, 3))), pose_from_angles(angles, axes)], 1).float()
    betas = torch.from_numpy(rng.normal(0, 1, 10)).float().expand(options.hands, -1)

    def forward() -> list:
        with torch.inference_mode():
            return [model(pose[k:k + 1], betas[k:k + 1]) for k in range(options.hands)]

    posed = forward()
    true = np.stack([hand.joints[0].double().numpy() for hand in posed])
    surfaces = np.stack([hand.vertices[0].double().numpy() for hand in posed])
    joints = true + rng.normal(0, NOISE_M, true.shape)
    vertices = surfaces + rng.normal(0, NOISE_M, surfaces.shape)
    covariance, variance = np.tile(NOISE_M ** 2 * np.eye(3), (21, 1, 1)), np.full((778, 3), NOISE_M ** 2)

    def track() -> list:
        fits = []
        for hand in joints:
            fits.append(fitter.fit(hand, covariance, previous=fits[-1] if fits else None))
        return fits

    jobs = {
        'forward': forward,
        'joints': lambda: [fitter.fit(hand, covariance) for hand in joints],
        'track': track,
        'vertices': lambda: [fitter.fit(hand, covariance, vertices=skin, variance=variance)
                             for hand, skin in zip(joints, vertices)],
    }
    answers = {name: job() for name, job in jobs.items()}
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.runs):
        for name, job in jobs.items():
            times[name].append(milliseconds(job, options.hands))
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f'{options.hands} hands, median of {options.runs} interleaved runs, processor time, 1 thread')
    for name in jobs:
        print(f"{name:10s} {median[name]:6.2f} ms a hand   {median[name] / median['forward']:5.2f} forward passes")
    print(f'joints put in: {1e3 * np.linalg.norm(joints - true, axis=-1).mean():.2f} mm off on average')
    for name in ('joints', 'track', 'vertices'):
        placed, skin = (np.stack([getattr(fit, part) for fit in answers[name]]) for part in ('joints', 'vertices'))
        steps = statistics.mean(fit.iterations for fit in answers[name])
        print(f'{name:10s} joints {1e3 * np.linalg.norm(placed - true, axis=-1).mean():.2f} mm, '
              f'vertices {1e3 * np.linalg.norm(skin - surfaces, axis=-1).mean():.2f} mm, {steps:.1f} steps')
    if median['joints'] > ALLOWED_MS or median['joints'] > ALLOWED_RATIO * median['forward']:
        print(f'a fit must take at most {ALLOWED_MS} ms and {ALLOWED_RATIO} forward passes', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
