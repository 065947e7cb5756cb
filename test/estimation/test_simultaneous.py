"""Images of a set that were not taken at one moment."""

import numpy as np
import pytest
from late_cases import Unsynchronised, swinging
from rig_cases import ring
from view_cases import IMAGE, START_NS, OneHand, hand, readings_of, see

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.estimation.build import build_estimator
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.estimation.simultaneous import simultaneous
from hand_unc_ros.estimation.tracks import Track
from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.geometry.gaussians import chi2_quantile
from hand_unc_ros.hand.covariance_blocks import joint_blocks
from hand_unc_ros.methods.contract import View

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
RATE_HZ = 30
# Of a set's images, milliseconds, by camera: within half a period.
PHASES_MS = (0.0, 8.0, -12.0, 15.0)
WARM_SETS = 10


def followed(motion, phases_ms, late_ms=None, sets=120, **options):
    """Mean error in mm at the stamps of the sets, share of the joints inside their 95 % ellipsoids, the last result."""
    method = Unsynchronised(motion, RIG, late_ms or {})
    tracker, errors, inside = OneHand(HandEstimator(method, EstimatorSettings(**options))), [], []
    for index in range(sets):
        stamp_ns = START_NS + round(1e9 * index / RATE_HZ)
        views = {camera.name: View(camera, IMAGE, stamp_ns + round(1e6 * phase))
                 for camera, phase in zip(RIG, phases_ms)}
        found = tracker.process(FrameSet(stamp_ns, views, RIG.names))
        if index >= WARM_SETS:
            error = found.joints - motion(index / RATE_HZ)
            errors.append(np.linalg.norm(error, axis=1))
            spread = joint_blocks(found.covariance)
            distance = (error * np.linalg.solve(spread, error[..., None])[..., 0]).sum(-1)
            inside.append(distance < chi2_quantile(0.95, 3))
    return 1e3 * np.mean(errors), np.mean(inside), tracker.result


@pytest.mark.parametrize('speed, most, least', ((0.05, 1.1, 0.95), (0.5, 1.2, 0.95), (1.0, 1.4, 0.85)))
def test_stamps_that_differ_cost_a_moving_hand_little(speed, most, least):
    """Against the same noise without any motion between the images. Taken as they are, the views of the quickest hand
    are up to 27 mm apart; moved on by its velocity, they keep what that errs by at 10 m/s²."""
    together, _, _ = followed(swinging(speed), (0.0,) * 4, view_health=False)
    apart, inside, _ = followed(swinging(speed), PHASES_MS, view_health=False)
    assert apart < most * together
    assert inside > least


def test_known_delays_cost_little():
    """Of two cameras that lie 28 mm apart at this speed."""
    late = {RIG.names[1]: 25.0, RIG.names[3]: -15.0}
    unknown, outside, _ = followed(swinging(0.7), (0.0,) * 4, late, view_health=False)
    delays = tuple(f'{camera}={1e-3 * ms}' for camera, ms in late.items())
    known, inside, _ = followed(swinging(0.7), (0.0,) * 4, late, view_health=False, camera_delays=delays)
    assert known < 0.75 * unknown
    assert outside < 0.85 and inside > 0.93


def test_a_camera_whose_delay_is_known_is_not_called_late():
    late, camera = {RIG.names[1]: 50.0}, RIG.names[1]
    *_, result = followed(swinging(0.35), (0.0,) * 4, late, 200)
    assert result.view_reports[1].late == (camera,)
    assert result.view_reports[1].delay_s == pytest.approx(0.05, abs=0.015)
    *_, result = followed(swinging(0.35), (0.0,) * 4, late, 200, camera_delays=(f'{camera}=0.05',))
    assert not any(report.late for report in result.view_reports)


def test_what_the_images_show_stays_beside_what_is_fused():
    """The published 2D joints belong to their image; the fused ones to the time of the set."""
    *_, result = followed(swinging(1.0), PHASES_MS, sets=17)
    readings, = result.readings
    shifts = [np.nanmedian(np.linalg.norm(readings.views[name].joints_px - seen.joints_px, axis=1))
              for name, seen in readings.seen.items()]
    assert shifts[0] == 0 and min(shifts[1:]) > 1
    assert [seen.stamp_ns - result.stamp_ns for seen in readings.seen.values()] == [1e6 * phase for phase in PHASES_MS]
    assert all(view.stamp_ns == result.stamp_ns for view in readings.views.values())


def test_nothing_is_changed_where_nothing_is_to_be_moved():
    readings = readings_of(see(RIG, hand()))
    track = Track(1, 'right')
    assert simultaneous(readings, RIG, track, START_NS + 10_000_000, {}) is readings
    track.seen_ns = START_NS - 33_000_000
    assert simultaneous(readings, RIG, track, START_NS + 400_000, {}) is readings


@pytest.mark.parametrize('text', ('cam_1', 'cam_1=', '=0.1', 'cam_1=soon', 'cam_1=nan', 'cam_1=0.3', 'cam_1=-33'))
def test_a_delay_that_cannot_be_is_refused(text):
    with pytest.raises(ConfigError, match='camera=seconds, from -0.2 to 0.2'):
        build_estimator(EstimatorSettings(camera_delays=(text,)), ('cam_1', 'cam_2'))


def test_a_delay_of_no_camera_is_refused():
    with pytest.raises(ConfigError, match='camera_delays names cam1; the cameras are cam_1, cam_2'):
        build_estimator(EstimatorSettings(camera_delays=('cam1=0.02', 'cam_2=0.01')), ('cam_1', 'cam_2'))
