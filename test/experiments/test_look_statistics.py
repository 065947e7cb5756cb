"""Statistics of crops: known images give known numbers, and the command writes numbers and a plot."""

import json
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic import multiview
from hand_unc_ros.experiments import look_statistics


def crops(scale, count=6, size=64):
    rng = np.random.default_rng(3)
    images = [cv2.GaussianBlur(rng.uniform(0, 1, (size, size, 3)).astype(np.float32), (0, 0), 2) for _ in range(count)]
    return np.stack([np.clip(scale * 255 * image, 0, 255).astype(np.uint8) for image in images])


def test_statistics_of_known_crops():
    stats = look_statistics.statistics(crops(1.0))
    # Blurred noise is about its mean of a half.
    assert stats['crops'] == 6 and np.allclose(stats['mean'], 127, atol=3)
    assert sum(stats['luma_histogram']) == pytest.approx(1, abs=1e-3) and stats['saturation'][1] < 0.5
    grey = look_statistics.statistics(np.full((2, 64, 64, 3), 40, np.uint8))
    assert grey['saturation'] == [0, 0, 0] and grey['std_luma'] == [0, 0, 0] and grey['luma_histogram'][2] == 1


def test_distances_grow_with_brightness_and_detail():
    one, same, dark = (look_statistics.statistics(crops(scale)) for scale in (1.0, 1.0, 0.5))
    assert look_statistics.distance(one, same) == {'spectrum': 0.0, 'luma': 0.0}
    far = look_statistics.distance(one, dark)
    # Half the light is half of 127 darker, in bins of 16, and half the amplitude: 0.3 decades.
    assert far['luma'] == pytest.approx(64, abs=8) and far['spectrum'] == pytest.approx(0.3, abs=0.08)


def test_the_command_writes_numbers_and_a_plot(tmp_path, monkeypatch):
    pytest.importorskip('matplotlib')
    monkeypatch.setattr(multiview, 'BACKGROUND_COUNT', 2)
    folder = tmp_path / 'hands'
    folder.mkdir()
    for number, crop in enumerate(crops(0.8, 3)):
        cv2.imwrite(str(folder / f'{number}.png'), crop)
    command = ['look', '--photographs', str(folder), '--samples', '1', '-o', str(tmp_path / 'out')]
    monkeypatch.setattr(sys, 'argv', command)
    look_statistics.main()
    written = json.loads((tmp_path / 'out' / 'look.json').read_text())
    assert set(written['sets']) == {'hands', 'synthetic'} and written['sets']['synthetic']['crops'] == 4
    assert written['distances']['hands']['spectrum'] > 0 and (tmp_path / 'out' / 'look.png').stat().st_size > 1000
