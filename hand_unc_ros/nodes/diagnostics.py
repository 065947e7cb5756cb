"""Health of each camera and of the output, and the diagnostics made of it."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from hand_unc_ros.estimation.synchroniser import CameraStatistics
from hand_unc_ros.estimation.types import ViewReport

FAST_DDS_REMEDY = ('raw images are lost when Fast DDS has its default shared memory: start the camera driver '
                   'with FASTDDS_DEFAULT_PROFILES_FILE set to config/fastdds.xml of this package (this node '
                   'has it), or use compressed images (transport: compressed)')
_DROP_REMEDIES = {
    'zero_stamp': 'the driver does not stamp its images',
    'future': "stamps are ahead of this machine's clock: synchronise the clocks (PTP, chrony), or set "
              'use_sim_time for a recording that comes with /clock',
    'late': 'images come after their set has gone out: raise sync.deadline or shorten the transport',
    'duplicate': 'stamps are sent twice: are there two publishers on the topic?',
    'out_of_order': 'stamps go backwards: are there two publishers on the topic?',
    'unmatched': "no other camera has a stamp near this one's: raise sync.tolerance, or synchronise the "
                 'clocks',
}
# Below this share of the nominal rate a camera is reported, above this share of its images a cause of drops.
_LOW_RATE = 0.7
_MANY_DROPS = 0.1
_WINDOW_S = 3.0


@dataclass
class CameraHealth:
    """What is known of one camera besides the synchroniser's counts.

    image_fault: why its newest image cannot be decoded.  calibration_doubt: why its intrinsics may be those of another
    image, though they are used.  subscription_fault: why none can arrive (wrong type
    or QoS, nobody publishes).  uncalibrated: images thrown away for want of a calibration.
    reprojection_px: running mean of the median residual of its joints.  view: how its joints agree with those of the
    other cameras, None where that is not watched.
    """

    topic: str
    transport: str
    received: int = 0
    uncalibrated: int = 0
    image_fault: str | None = None
    calibration_doubt: str | None = None
    subscription_fault: str | None = None
    reprojection_px: float | None = None
    view: ViewReport | None = None
    started_s: float = 0.0
    _arrivals_s: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    _drops_before: Counter[str] = field(default_factory=Counter)
    _received_before: int = 0

    def arrived(self, now_s: float) -> None:
        self.received += 1
        self._arrivals_s.append(now_s)

    def age_s(self, now_s: float) -> float:
        """Since the last image, or since the start."""
        return now_s - (self._arrivals_s[-1] if self._arrivals_s else self.started_s)

    def rate_hz(self, now_s: float) -> float:
        """Images per second over the last seconds."""
        window = min(_WINDOW_S, max(now_s - self.started_s, 1e-3))
        return sum(arrival > now_s - window for arrival in self._arrivals_s) / window

    def note_reprojection(self, residual_px: float) -> None:
        if math.isfinite(residual_px):
            old = self.reprojection_px
            self.reprojection_px = residual_px if old is None else old + 0.1 * (residual_px - old)

    def status(self, name: str, statistics: CameraStatistics, calibration_fault: str | None, now_s: float,
               period_s: float) -> DiagnosticStatus:
        """The camera's diagnostic; drops are judged since the last call."""
        recent = statistics.drops - self._drops_before
        arrivals = max(self.received - self._received_before, 1)
        self._drops_before, self._received_before = Counter(statistics.drops), self.received
        worst, count = max(((reason, recent[reason]) for reason in _DROP_REMEDIES), key=lambda item: item[1])
        age_s, rate_hz = self.age_s(now_s), self.rate_hz(now_s)
        silent = age_s > silence_s(period_s)
        raw = self.transport == 'raw'

        level, message = DiagnosticStatus.OK, f'{rate_hz:.1f} images/s'
        if silent and self.subscription_fault:
            level, message = DiagnosticStatus.ERROR, self.subscription_fault
        elif silent:
            level = DiagnosticStatus.ERROR
            message = (f'{self.topic} has a publisher, but no image came for {age_s:.1f} s'
                       + (f': {FAST_DDS_REMEDY}' if raw else ''))
        elif calibration_fault:
            level, message = DiagnosticStatus.ERROR, f'left out, calibration: {calibration_fault}'
        elif self.image_fault:
            level, message = DiagnosticStatus.ERROR, f'left out, image: {self.image_fault}'
        elif self.calibration_doubt:
            level, message = DiagnosticStatus.WARN, self.calibration_doubt
        elif (fault := _view_fault(name, self.view)) is not None:
            level, message = DiagnosticStatus.WARN, fault
        elif count >= _MANY_DROPS * arrivals:
            level = DiagnosticStatus.WARN
            message = f'{count} of {arrivals} images dropped: {_DROP_REMEDIES[worst]}'
        elif now_s - self.started_s > _WINDOW_S and rate_hz < _LOW_RATE / period_s:
            level = DiagnosticStatus.WARN
            message = (f'{rate_hz:.1f} images/s instead of {1 / period_s:.1f}: set sync.period if the camera '
                       f'sends no more; if it does, {FAST_DDS_REMEDY if raw else "the network loses them"}')
        offset = statistics.offset_ns
        values = {
            'topic': self.topic, 'rate_hz': f'{rate_hz:.2f}', 'age_s': f'{age_s:.3f}',
            'offset_ms': '' if offset is None else f'{offset / 1e6:.3f}',
            'received': self.received, 'used': statistics.used, 'awaited': statistics.awaited,
            'calibration': calibration_fault or self.calibration_doubt or 'ok', 'image': self.image_fault or 'ok',
            'subscription': (self.subscription_fault if silent else None) or 'ok',
            'reprojection_px': '' if self.reprojection_px is None else f'{self.reprojection_px:.2f}',
            **_view_values(self.view),
            'dropped/uncalibrated': self.uncalibrated,
            **{f'dropped/{reason}': number for reason, number in sorted(statistics.drops.items()) if number},
        }
        return make_status(f'camera {name}', level, message, values, hardware_id=name)


@dataclass
class OutputHealth:
    """What became of the frame sets."""

    started_s: float = 0.0
    taken: int = 0
    skipped: int = 0
    published: int = 0
    no_hand: int = 0
    failures: int = 0
    no_hand_reason: str = ''
    failure: str | None = None
    last_set_s: float | None = None
    last_published_s: float | None = None
    interval_s: float = 0.0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=300))
    stage_ms: dict[str, float] = field(default_factory=dict)

    def note_published(self, now_s: float, latency_ms: float) -> None:
        if self.last_published_s is not None:
            step_s = min(now_s - self.last_published_s, 1.0)
            before_s = self.interval_s or step_s
            self.interval_s = before_s + 0.1 * (step_s - before_s)
        self.published += 1
        self.last_published_s = now_s
        self.latencies_ms.append(latency_ms)
        self.failure = None

    def note_stages(self, stage_ms: Mapping[str, float]) -> None:
        """Running means of the time that each stage takes."""
        for stage, value in stage_ms.items():
            self.stage_ms[stage] = self.stage_ms.get(stage, value) * 0.9 + value * 0.1

    def status(self, now_s: float, period_s: float, cameras_arriving: int, cameras: int,
               unclaimed: int, resets: int) -> DiagnosticStatus:
        limit_s = silence_s(period_s)
        set_age_s = now_s - max(self.last_set_s or 0.0, self.started_s)
        output_age_s = now_s - max(self.last_published_s or 0.0, self.started_s)
        level = DiagnosticStatus.OK
        message = f'{self.published} estimates, {cameras_arriving} of {cameras} cameras arrive'
        if set_age_s > limit_s:
            level = DiagnosticStatus.ERROR
            message = (f'no output for {output_age_s:.1f} s: no set of images; '
                       f'{cameras_arriving} of {cameras} cameras arrive')
            if cameras_arriving == 1:
                message += ', and from one alone depth is not observable'
        elif self.failure:
            level, message = DiagnosticStatus.ERROR, f'no output for {output_age_s:.1f} s: {self.failure}'
        elif output_age_s > limit_s:
            level, message = DiagnosticStatus.WARN, f'no hand for {output_age_s:.1f} s: {self.no_hand_reason}'
        elif cameras_arriving < cameras:
            level = DiagnosticStatus.WARN
        ordered = sorted(self.latencies_ms)
        values = {
            'sets_taken': self.taken, 'sets_published': self.published, 'sets_without_hand': self.no_hand,
            'sets_skipped': self.skipped + unclaimed, 'sets_failed': self.failures, 'resets': resets,
            **{f'latency_ms/p{q}': f'{ordered[min(len(ordered) - 1, q * len(ordered) // 100)]:.1f}'
               for q in (50, 95, 99) if ordered},
            **{f'stage_ms/{stage}': f'{value:.2f}' for stage, value in self.stage_ms.items()},
        }
        return make_status('output', level, message, values)


def _view_fault(name: str, view: ViewReport | None) -> str | None:
    """What is wrong with a camera by its joints against those of the others, and the remedy; None if nothing is."""
    if view is None:
        return None
    if view.disagrees:
        return (f'left out of {100 * view.left_out:.0f} % of the sets: its joints disagree with those of all other '
                'cameras; has it moved far since its calibration, is it not synchronised, or does it see another hand?')
    if not view.suspects:
        return None
    off = f'its joints lie {view.shift_px:.1f} px from where the other cameras see them: '
    remedy = 'since the calibration, or is not synchronised; synchronise the cameras or calibrate the rig again'
    if len(view.suspects) == 1:
        return f'{off}{name} has moved {remedy}'
    *others, last = sorted(view.suspects)
    return f'{off}{", ".join(others)} or {last} has moved {remedy}. Which one it is the views cannot tell'


def _view_values(view: ViewReport | None) -> dict[str, str]:
    if view is None:
        return {}
    numbers = {**{f'innovation/{group}': value for group, value in view.innovation.items()},
               'innovation/shift_px': view.shift_px, 'innovation/shift_sigma': view.strength,
               'left_out': view.left_out}
    return {key: f'{value:.2f}' if math.isfinite(value) else '' for key, value in numbers.items()}


def silence_s(period_s: float) -> float:
    """How long nothing may come before that is an error."""
    return max(1.0, 5 * period_s)


def make_status(name: str, level: bytes, message: str, values: Mapping[str, object],
                hardware_id: str = '') -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level, name=f'hand_unc_ros: {name}', message=message, hardware_id=hardware_id,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
