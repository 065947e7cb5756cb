"""The read-outs beside the 3D view, as HTML made from plain values."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field

from hand_unc_ros.viewer.colours import LEVELS, css


@dataclass(frozen=True)
class HandReadout:
    """What the panel says of the hand.

    state: 'waiting', 'live', 'stale' (drawn faded) or 'gone' (not drawn).  age_s: since the last
    message.  rate_hz, latency_p50_ms, latency_p95_ms: over the last seconds, None when unknown.
    radius_mm: median over the joints of the largest semi-axis of the ellipsoids.
    views_used, views_known: cameras that took part, and all of them.
    """

    state: str
    age_s: float | None = None
    rate_hz: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    radius_mm: float | None = None
    views_used: int | None = None
    views_known: int | None = None
    calibrated: bool | None = None
    handedness: str = ''
    joints_valid: int | None = None


@dataclass(frozen=True)
class CameraReadout:
    """What the panel says of a camera; None is unknown.

    level: 'ok', 'warn', 'error' or 'idle' (nothing known).  message: what is wrong, in words.
    """

    level: str = 'idle'
    rate_hz: float | None = None
    age_ms: float | None = None
    offset_ms: float | None = None
    drops: int | None = None
    used: bool | None = None
    message: str = ''


@dataclass(frozen=True)
class SystemReadout:
    """level: 'ok', 'warn', 'error' or 'idle'.  message: of the estimator's diagnostics."""

    level: str = 'idle'
    message: str = ''
    cameras: Mapping[str, CameraReadout] = field(default_factory=dict)


_STATES = {
    'waiting': ('idle', 'Waiting for joints'),
    'live': ('ok', 'Live'),
    'stale': ('warn', 'Stale'),
    'gone': ('warn', 'No hand'),
}
_NUMBERS = 'font-variant-numeric: tabular-nums;'


def readout_html(hand: HandReadout, system: SystemReadout) -> str:
    """The whole panel: the hand's state, its figures, and a table of the cameras."""
    return (
        f'<div style="padding: 0.25em 0.75em 0.5em; font-size: 0.85em; line-height: 1.5; {_NUMBERS}">'
        f'{_headline(hand)}{_system_line(system)}{_figures(hand)}{_camera_table(system.cameras)}</div>'
    )


def _dot(level: str) -> str:
    colour = css(LEVELS.get(level, LEVELS['idle']))
    return (
        '<span style="display: inline-block; width: 0.65em; height: 0.65em; border-radius: 50%; '
        f'margin-right: 0.5em; background: {colour};"></span>'
    )


def _headline(hand: HandReadout) -> str:
    level, words = _STATES[hand.state]
    if hand.state in ('stale', 'gone') and hand.age_s is not None:
        words += f' for {hand.age_s:.1f} s'
    side = f'{html.escape(hand.handedness)} hand' if hand.state == 'live' and hand.handedness else ''
    return (
        '<div style="display: flex; justify-content: space-between; align-items: baseline;">'
        f'<span style="font-size: 1.2em; font-weight: 600;">{_dot(level)}{words}</span>'
        f'<span style="opacity: 0.7;">{side}</span></div>'
    )


def _system_line(system: SystemReadout) -> str:
    if system.level in ('ok', 'idle') or not system.message:
        return ''
    return f'<div style="color: {css(LEVELS[system.level])};">{html.escape(system.message)}</div>'


def _number(value: float | None, digits: int = 0, unit: str = '') -> str:
    if value is None or value != value:
        return '–'
    return f'{value:.{digits}f}{unit}'


def _figures(hand: HandReadout) -> str:
    unknown = hand.views_used is None or hand.views_known is None
    rows = [
        ('Rate', _number(hand.rate_hz, 1, ' Hz')),
        ('Latency p50 / p95', f'{_number(hand.latency_p50_ms)} / {_number(hand.latency_p95_ms, 0, " ms")}'),
        ('Views used', '–' if unknown else f'{hand.views_used} of {hand.views_known}'),
        ('Joints', '–' if hand.joints_valid is None else f'{hand.joints_valid} of 21'),
        ('Median semi-axis', _number(hand.radius_mm, 1, ' mm')),
        ('Covariance', {True: 'calibrated', False: 'not calibrated', None: '–'}[hand.calibrated]),
    ]
    cells = ''.join(
        f'<span style="opacity: 0.7;">{name}</span><span style="text-align: right;">{value}</span>'
        for name, value in rows
    )
    return (
        '<div style="display: grid; grid-template-columns: auto auto; margin: 0.35em 0 0.6em;">'
        f'{cells}</div>'
    )


def _camera_table(cameras: Mapping[str, CameraReadout]) -> str:
    if not cameras:
        return ''
    head = ''.join(
        f'<th style="text-align: {"left" if name == "Camera" else "right"}; font-weight: 400; opacity: 0.7;">'
        f'{name}</th>'
        for name in ('Camera', 'Hz', 'Age', 'Offset', 'Drops')
    )
    rows = []
    for name, camera in cameras.items():
        values = (
            _number(camera.rate_hz, 1), _age(camera.age_ms), _offset(camera.offset_ms),
            '–' if camera.drops is None else str(camera.drops),
        )
        fade = ' opacity: 0.55;' if camera.used is False else ''
        rows.append(
            f'<tr style="white-space: nowrap;{fade}"><td>{_dot(camera.level)}{html.escape(name)}</td>'
            + ''.join(f'<td style="text-align: right;">{value}</td>' for value in values) + '</tr>'
        )
        if camera.message and camera.level in ('warn', 'error'):
            rows.append(
                f'<tr><td colspan="5" style="padding-left: 1.15em; color: {css(LEVELS[camera.level])};">'
                f'{html.escape(camera.message)}</td></tr>'
            )
    return (
        '<table style="width: 100%; border-collapse: collapse;">'
        f'<tr>{head}</tr>{"".join(rows)}</table>'
        '<div style="opacity: 0.55;">age and offset to the set in ms</div>'
    )


def _age(value: float | None) -> str:
    return _number(value) if value is None or value < 1e3 else f'{value / 1e3:.0f} s'


def _offset(value: float | None) -> str:
    return '–' if value is None or value != value else f'{round(value):+d}'
