"""A tree in HanCo's layout, after the official show_dataset.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from dataset_cases import random_joints, ring, write_image

CENTRE = np.array([0.1, -0.2, 0.6])
K = [[480.0, 0.0, 111.5], [0.0, 482.0, 113.0], [0.0, 0.0, 1.0]]


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_hanco(root: Path, meta: dict[str, list[list[Any]]], still: bool = False) -> dict[tuple[int, int], Any]:
    """Write the frames of meta.json; joints, MANO fit and camera poses by (sequence, frame) of those that have a fit.
    still: neither the hand of a sequence moves nor its cameras do."""
    rng, truth = np.random.default_rng(0), {}
    dump(root / 'meta.json', meta)
    for sequence, flags in enumerate(meta['has_fit']):
        joints = random_joints(rng, CENTRE) if still else None
        for frame, has_fit in enumerate(flags):
            place = f'{sequence:04d}/{frame:08d}'
            poses = ring(8, CENTRE if still else CENTRE + 0.01 * frame)
            for c in range(8):
                write_image(root / f'rgb/{sequence:04d}/cam{c}/{frame:08d}.jpg', 224, 224, (10 * c, 50, 200))
            dump(root / f'calib/{place}.json', {'K': [K] * 8, 'M': [np.round(M, 7).tolist() for M in poses]})
            if has_fit:
                here = random_joints(rng, CENTRE) if joints is None else joints
                fit = rng.normal(0, 0.3, 48), rng.normal(0, 1, 10), CENTRE + rng.normal(0, 0.02, 3)
                dump(root / f'xyz/{place}.json', here.tolist())
                dump(root / f'shape/{place}.json', {'poses': [fit[0].tolist()], 'shapes': [fit[1].tolist()],
                                                    'global_t': [[fit[2].tolist()]]})
                truth[sequence, frame] = here, fit, poses
    return truth
