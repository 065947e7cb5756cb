"""What the diagnostics say of each camera and of the output."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip('diagnostic_msgs.msg', reason='no ROS 2 messages here')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402

from hand_unc_ros.estimation.camera_timeline import CameraStatistics  # noqa: E402
from hand_unc_ros.estimation.health import CameraHealth, OutputHealth  # noqa: E402
from hand_unc_ros.estimation.types import ViewReport  # noqa: E402
from hand_unc_ros.nodes.diagnostics import CameraState, OutputState, camera_status, output_status  # noqa: E402

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
PERIOD_S = 1 / 15


def camera(rate_hz: float = 15.0, seconds: float = 10.0, transport: str = 'raw') -> CameraHealth:
    """A camera from which images came at a rate, from 100 s on."""
    health = CameraHealth('/cam0/image_raw', transport, started_s=100.0)
    for i in range(round(rate_hz * seconds)):
        health.arrived(100.0 + (i + 1) / rate_hz)
    return health


def status(health: CameraHealth, statistics: CameraStatistics | None = None, fault: str | None = None,
           now_s: float = 110.0) -> DiagnosticStatus:
    return camera_status('cam0', health, CameraState(statistics or CameraStatistics(), fault), now_s, PERIOD_S)


def test_a_good_camera():
    told = status(camera(), CameraStatistics(used=150, offset_ns=-1_500_000))
    assert told.level == OK and told.hardware_id == 'cam0' and told.name == 'hand_unc_ros: camera cam0'
    values = {pair.key: pair.value for pair in told.values}
    assert float(values['rate_hz']) == pytest.approx(15, abs=0.4)
    assert values['offset_ms'] == '-1.500' and values['calibration'] == values['image'] == 'ok'


@pytest.mark.parametrize('transport, remedy', [('raw', True), ('compressed', False)])
def test_images_far_below_their_rate_are_told_with_the_remedy(transport, remedy):
    told = status(camera(rate_hz=5.0, transport=transport))
    assert told.level == WARN and '5.0 images/s instead of 15.0' in told.message
    assert ('FASTDDS_DEFAULT_PROFILES_FILE' in told.message) == remedy
    # 4 of 5 images are no reason to worry anybody.
    assert status(camera(rate_hz=12.0)).level == OK


def test_a_silent_camera_is_an_error_with_what_is_known():
    health = camera()
    told = status(health, now_s=112.0)
    assert told.level == ERROR and 'no image came for 2.0 s' in told.message
    assert 'FASTDDS_DEFAULT_PROFILES_FILE' in told.message
    health.subscription_fault = 'nobody publishes /cam0/image_raw'
    assert status(health, now_s=112.0).message == 'nobody publishes /cam0/image_raw'


def test_faults_in_the_order_of_what_has_to_be_mended_first():
    health = camera()
    health.image_fault = "encoding 'x' cannot be decoded"
    told = status(health)
    assert (told.level, told.message) == (ERROR, "left out, image: encoding 'x' cannot be decoded")
    assert 'calibration: K is zero' in status(health, fault='K is zero').message


@pytest.mark.parametrize('reason, word', [
    ('zero_stamp', 'does not stamp'), ('future', 'synchronise the clocks'), ('late', 'sync.deadline'),
    ('duplicate', 'two publishers'), ('out_of_order', 'two publishers'), ('unmatched', 'sync.tolerance')])
def test_many_drops_are_told_with_the_remedy_and_forgotten_when_they_end(reason, word):
    health, statistics = camera(), CameraStatistics(drops=Counter({reason: 40}))
    told = status(health, statistics)
    assert told.level == WARN and '40 of 150 images dropped' in told.message and word in told.message
    assert {pair.key: pair.value for pair in told.values}[f'dropped/{reason}'] == '40'
    assert status(health, statistics).level == OK


def report(suspects: tuple[str, ...] = (), disagrees: bool = False, left_out: float = 0.0) -> ViewReport:
    return ViewReport({'palm': 0.91, 'thumb': float('nan')}, 9.26, 1.52, suspects, left_out, disagrees)


@pytest.mark.parametrize('view, level, words', [
    (report(), OK, ('15.',)),
    (report(('cam0',)), WARN, ('9.3 px', 'cam0 has moved', 'calibrate the rig again')),
    (report(('cam1', 'cam0')), WARN, ('cam0 or cam1 has moved', 'cannot tell')),
    (report(disagrees=True, left_out=0.8), WARN, ('left out of 80 % of the sets', 'another hand'))])
def test_a_camera_that_has_moved_is_told_with_the_remedy(view, level, words):
    health = camera()
    assert not any(pair.key.startswith('innovation') for pair in status(health).values)
    health.view = view
    told = status(health)
    assert told.level == level and all(word in told.message for word in words), told.message
    values = {pair.key: pair.value for pair in told.values}
    assert values['innovation/palm'] == '0.91' and values['innovation/thumb'] == ''
    assert values['innovation/shift_px'] == '9.26' and values['innovation/shift_sigma'] == '1.52'
    # What has to be mended first is told first.
    assert status(health, fault='K is zero').level == ERROR


def output(**changes) -> OutputHealth:
    health = OutputHealth(started_s=100.0, last_set_s=110.0, last_published_s=110.0, published=150)
    for name, value in changes.items():
        setattr(health, name, value)
    return health


@pytest.mark.parametrize('changes, now_s, arriving, level, word', [
    ({}, 110.05, 4, OK, '4 of 4'), ({}, 110.05, 3, WARN, '3 of 4'),
    ({}, 112.0, 0, ERROR, 'no output for 2.0 s: no set of images; 0 of 4'),
    (dict(last_set_s=None, last_published_s=None), 101.5, 0, ERROR, 'no output for 1.5 s'),
    (dict(last_set_s=None, last_published_s=None), 100.5, 0, WARN, '0 of 4'),
    (dict(last_published_s=105.0, no_hand_reason='no view shows one'), 110.05, 4, WARN,
     'no hand for 5.0 s: no view shows one'),
    (dict(last_published_s=109.0, failure='RuntimeError: x'), 110.05, 4, ERROR, 'RuntimeError: x')])
def test_the_output(changes, now_s, arriving, level, word):
    told = output_status(output(**changes), OutputState(arriving, 4, 0, 0), now_s, PERIOD_S)
    assert told.level == level and word in told.message


def test_latencies_and_stages_are_values():
    health = output()
    for i in range(100):
        health.note_published(110.0 + i * PERIOD_S, 10.0 + i)
        health.note_stages({'decode': 2.0, 'views': 30.0})
    told = output_status(health, OutputState(4, 4, 3, 1), 110.0 + 100 * PERIOD_S, PERIOD_S)
    values = {pair.key: pair.value for pair in told.values}
    assert [values[f'latency_ms/p{q}'] for q in (50, 95, 99)] == ['60.0', '105.0', '109.0']
    assert values['stage_ms/views'] == '30.00' and values['sets_skipped'] == '3' and values['resets'] == '1'
    assert health.interval_s == pytest.approx(PERIOD_S)
