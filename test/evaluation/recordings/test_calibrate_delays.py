"""`hand-unc calibrate-delays`: known delays of cameras are found again by the motion of a hand."""

import contextlib
import io
from functools import partial

import numpy as np
import pytest
from late_cases import Unsynchronised, swinging
from recording_cases import START_NS, calibration_messages, image_messages, write_bag
from rig_cases import ring
from view_cases import hand

from hand_unc_ros.errors import RecordingError
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.recordings import delays as command
from hand_unc_ros.evaluation.recordings.delays import calibrate_delays, run
from hand_unc_ros.settings.recordings import BagSettings

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
LATE_MS = dict(zip(RIG.names, (0.0, 30.0, -15.0, 5.0)))
AGAINST_THE_MEAN_MS = np.array(list(LATE_MS.values())) - np.mean(list(LATE_MS.values()))
SETS = 160


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    return write_bag(tmp_path_factory.mktemp('filmed') / 'bag',
                     [*calibration_messages(RIG), *image_messages(RIG, SETS)])


def see_with(patch, motion, late_ms):
    """Let the cameras of the bag see that; its images only have to be images."""
    patch.setattr(command, 'build_estimator', lambda settings, cameras: HandEstimator(
        Unsynchronised(motion, RIG, late_ms, START_NS), settings))


@pytest.fixture
def sees(monkeypatch):
    return partial(see_with, monkeypatch)


@pytest.fixture(scope='module')
def told(bag):
    """What is found of LATE_MS, and what the command prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        see_with(patch, swinging(0.3), LATE_MS)
        return run(bag, BagSettings()), printed.getvalue()


def test_delays_are_found_again(told):
    """To a thirteenth of the time between two images: views that are far apart count less, which makes delays shorter."""
    found, _ = told
    np.testing.assert_allclose(1e3 * found.delay_s, AGAINST_THE_MEAN_MS, atol=5)
    assert 1e3 * found.deviation_s.max() < 2


def test_delays_that_are_known_already_are_kept(sees, bag):
    sees(swinging(0.3), LATE_MS)
    known = tuple(f'{camera}={1e-3 * late}' for camera, late in LATE_MS.items())
    found = run(bag, BagSettings(EstimatorSettings(camera_delays=known)))
    np.testing.assert_allclose(1e3 * found.delay_s, list(LATE_MS.values()), atol=4.2)


def test_what_to_do_with_them_is_said(told, sees, bag, capsys):
    _, printed = told
    assert 'camera_delays: [' in printed and f'{RIG.names[1]}=0.02' in printed and 'hand-unc evaluate --bag' in printed
    sees(swinging(0.3), {})
    run(bag, BagSettings())
    assert 'go without camera_delays' in capsys.readouterr().out


def test_a_hand_that_rests_tells_no_delay(sees, bag):
    sees(lambda seconds: hand(), LATE_MS)
    with pytest.raises(RecordingError, match='in 0 of 10 parts .* move one before all cameras'):
        calibrate_delays(bag)


def test_one_camera_tells_no_delay(sees, bag):
    sees(swinging(0.3), LATE_MS)
    with pytest.raises(RecordingError, match='images of 1 of the cameras cam0, two are needed'):
        calibrate_delays(bag, BagSettings(cameras=RIG.names[:1]))
