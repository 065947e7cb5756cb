"""Diagnostics of each camera and of the output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from hand_unc_ros.estimation.camera_timeline import CameraStatistics
from hand_unc_ros.estimation.health import RATE_WINDOW_S, CameraHealth, OutputHealth
from hand_unc_ros.estimation.synchroniser import Statistics
from hand_unc_ros.estimation.types import ViewReport

FAST_DDS_REMEDY = ('raw images are lost when Fast DDS has its default shared memory: start the camera driver '
                   'with FASTDDS_DEFAULT_PROFILES_FILE set to the profile of this package, which this node has and '
                   '`hand-unc doctor` names, or use compressed images (transport: compressed)')
_DROP_REMEDIES = {
    'zero_stamp': 'the driver does not stamp its images',
    'future': "stamps are ahead of this machine's clock: synchronise the clocks (PTP, chrony), or set "
              'use_sim_time for a recording that comes with /clock',
    'late': 'images come after their set has gone out: raise sync.deadline or shorten the transport',
    'duplicate': 'stamps are sent twice: are there two publishers on the topic?',
    'out_of_order': 'stamps go backwards: are there two publishers on the topic?',
    'unmatched': "no other camera has a stamp near this one's: raise sync.tolerance (sync.policy exact takes "
                 'equal stamps only), or synchronise the clocks',
}
# Below this share of the nominal rate a camera is reported, above this share of its images a cause of drops.
_LOW_RATE = 0.7
_MANY_DROPS = 0.1


class CameraState(NamedTuple):
    """What else is known of a camera. calibration_fault: why it has no camera calibration, or None.
    calibration_doubt: why its intrinsics may be those of another image, though they are used, or None."""

    statistics: CameraStatistics
    calibration_fault: str | None = None
    calibration_doubt: str | None = None


def camera_status(name: str, health: CameraHealth, state: CameraState, now_s: float,
                  period_s: float) -> DiagnosticStatus:
    """The camera's diagnostic; drops are judged since the last call."""
    statistics, calibration_fault = state.statistics, state.calibration_fault
    recent, arrivals = health.recent(statistics.drops)
    arrivals = max(arrivals, 1)
    worst, count = max(((reason, recent[reason]) for reason in _DROP_REMEDIES), key=lambda item: item[1])
    age_s, rate_hz = health.age_s(now_s), health.rate_hz(now_s)
    silent = age_s > silence_s(period_s)
    raw = health.transport == 'raw'

    level, message = DiagnosticStatus.OK, f'{rate_hz:.1f} images/s'
    if silent and health.subscription_fault:
        level, message = DiagnosticStatus.ERROR, health.subscription_fault
    elif silent:
        level = DiagnosticStatus.ERROR
        message = (f'{health.topic} has a publisher, but no image came for {age_s:.1f} s'
                   + (f': {FAST_DDS_REMEDY}' if raw else ''))
    elif calibration_fault:
        level, message = DiagnosticStatus.ERROR, f'left out, camera calibration: {calibration_fault}'
    elif health.image_fault:
        level, message = DiagnosticStatus.ERROR, f'left out, image: {health.image_fault}'
    elif state.calibration_doubt:
        level, message = DiagnosticStatus.WARN, state.calibration_doubt
    elif (fault := _view_fault(name, health.view)) is not None:
        level, message = DiagnosticStatus.WARN, fault
    elif count >= _MANY_DROPS * arrivals:
        level = DiagnosticStatus.WARN
        message = f'{count} of {arrivals} images dropped: {_DROP_REMEDIES[worst]}'
    elif now_s - health.started_s > RATE_WINDOW_S and rate_hz < _LOW_RATE / period_s:
        level = DiagnosticStatus.WARN
        message = (f'{rate_hz:.1f} images/s instead of {1 / period_s:.1f}: set sync.period if the camera '
                   f'sends no more; if it does, {FAST_DDS_REMEDY if raw else "the network loses them"}')
    offset = statistics.offset_ns
    values = {
        'topic': health.topic, 'rate_hz': f'{rate_hz:.2f}', 'age_s': f'{age_s:.3f}',
        'offset_ms': '' if offset is None else f'{offset / 1e6:.3f}',
        'received': health.received, 'used': statistics.used, 'awaited': statistics.awaited,
        'calibration': calibration_fault or state.calibration_doubt or 'ok', 'image': health.image_fault or 'ok',
        'subscription': (health.subscription_fault if silent else None) or 'ok',
        'reprojection_px': '' if health.reprojection_px is None else f'{health.reprojection_px:.2f}',
        **_view_values(health.view),
        'dropped/uncalibrated': health.uncalibrated,
        **{f'dropped/{reason}': number for reason, number in sorted(statistics.drops.items()) if number},
    }
    return make_status(f'camera {name}', level, message, values, hardware_id=name)


class OutputState(NamedTuple):
    """cameras_arriving: of `cameras` in all.  statistics: of the synchroniser.  clock_fault: why no time passes, or
    None.  rival: another estimator in this namespace, or None.  max_age_s: of what is published, 0 for any."""

    cameras_arriving: int
    cameras: int
    statistics: Statistics
    clock_fault: str | None = None
    rival: str | None = None
    max_age_s: float = 0.0


def output_status(health: OutputHealth, state: OutputState, now_s: float, period_s: float) -> DiagnosticStatus:
    """The diagnostic of the estimates as a whole."""
    cameras_arriving, cameras, statistics = state.cameras_arriving, state.cameras, state.statistics
    too_old = health.recently_too_old()
    limit_s = silence_s(period_s)
    set_age_s = now_s - max(health.last_set_s or 0.0, health.started_s)
    output_age_s = now_s - max(health.last_published_s or 0.0, health.started_s)
    level = DiagnosticStatus.OK
    message = f'{health.published} estimates, {cameras_arriving} of {cameras} cameras arrive'
    if state.clock_fault:
        level, message = DiagnosticStatus.ERROR, state.clock_fault
    elif set_age_s > limit_s:
        level = DiagnosticStatus.ERROR
        message = (f'no output for {output_age_s:.1f} s: no set of images; '
                   f'{cameras_arriving} of {cameras} cameras arrive')
        if cameras_arriving == 1:
            message += ', and from one alone depth is not observable'
    elif health.failure:
        level, message = DiagnosticStatus.ERROR, f'no output for {output_age_s:.1f} s: {health.failure}'
    elif too_old:
        level = DiagnosticStatus.WARN
        message = (f'{too_old} estimates were too old and are not published: {health.age_s:.3g} s, publish.max_age is '
                   f'{state.max_age_s:.3g} s; take fewer cameras or a faster device, or synchronise the clocks')
    elif state.rival:
        level, message = DiagnosticStatus.WARN, state.rival
    elif output_age_s > limit_s:
        level, message = DiagnosticStatus.WARN, f'no hand for {output_age_s:.1f} s: {health.no_hand_reason}'
    elif cameras_arriving < cameras:
        level = DiagnosticStatus.WARN
    ordered = sorted(health.latencies_ms)
    values = {
        'sets_taken': health.taken, 'sets_published': health.published, 'sets_without_hand': health.no_hand,
        'sets_skipped': health.skipped + statistics.sets_unclaimed, 'sets_failed': health.failures,
        'sets_too_old': health.too_old, 'resets': statistics.resets, 'regroups': statistics.regroups,
        **{f'latency_ms/p{q}': f'{ordered[min(len(ordered) - 1, q * len(ordered) // 100)]:.1f}'
           for q in (50, 95, 99) if ordered},
        **{f'stage_ms/{stage}': f'{value:.2f}' for stage, value in health.stage_ms.items()},
    }
    return make_status('output', level, message, values)


def _view_fault(name: str, view: ViewReport | None) -> str | None:
    """What is wrong with a camera by its joints against those of the others, and the remedy; None if nothing is."""
    if view is None:
        return None
    if view.late:
        return _late(name, view)
    if view.disagrees:
        return (f'left out of {100 * view.left_out:.0f} % of the sets: its joints disagree with those of all other '
                'cameras; has it moved far since it was calibrated, is it not synchronised, or does it see another '
                'hand?')
    if not view.suspects:
        return None
    off = f'its joints lie {view.shift_px:.1f} px from where the other cameras see them: '
    remedy = 'since it was calibrated, or is not synchronised; synchronise the cameras or calibrate the rig again'
    if len(view.suspects) == 1:
        return f'{off}{name} has moved {remedy}'
    *others, last = sorted(view.suspects)
    return f'{off}{", ".join(others)} or {last} has moved {remedy}. Which one it is the views cannot tell'


def _late(name: str, view: ViewReport) -> str:
    side = 'later' if view.delay_s > 0 else 'earlier'
    off = f'its images are at least {abs(view.delay_s):.2f} s {side} than their stamps say, by the motion of the hand: '
    remedy = ('stamp images at exposure, shorten the queues of the driver, synchronise the clocks, or, where it stays the'
              ' same, give it by camera_delays (hand-unc calibrate-delays)')
    if len(view.late) == 1:
        return f'{off}{remedy}'
    *others, last = sorted(view.late)
    return f'{off}of {", ".join(others)} and {last} one is wrong, and which one the views cannot tell; {remedy}'


def _view_values(view: ViewReport | None) -> dict[str, str]:
    if view is None:
        return {}
    numbers = {**{f'innovation/{group}': value for group, value in view.innovation.items()},
               'innovation/shift_px': view.shift_px, 'innovation/shift_sigma': view.strength,
               'left_out': view.left_out, 'delay_s': view.delay_s}
    return {key: f'{value:.2f}' if math.isfinite(value) else '' for key, value in numbers.items()}


def silence_s(period_s: float) -> float:
    """How long nothing may come before that is an error."""
    return max(1.0, 5 * period_s)


def make_status(name: str, level: bytes, message: str, values: Mapping[str, object],
                hardware_id: str = '') -> DiagnosticStatus:
    """A DiagnosticStatus; values become texts. name: within the node, whose own name the node puts before it."""
    return DiagnosticStatus(
        level=level, name=name, message=message, hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
