"""Colours of the view, the uncertainty colour map and its legend."""

from __future__ import annotations

import numpy as np

Rgb = tuple[int, int, int]

BONE: Rgb = (226, 232, 240)
JOINT: Rgb = (248, 250, 252)
SKIN: Rgb = (140, 108, 94)
STALE: Rgb = (100, 116, 139)
CAMERA_USED: Rgb = (125, 211, 252)
CAMERA_IDLE: Rgb = (100, 116, 139)
CAMERA_FAULT: Rgb = (248, 113, 113)
LEVELS: dict[str, Rgb] = {
    'ok': (74, 222, 128),
    'warn': (251, 191, 36),
    'error': (248, 113, 113),
    'idle': (148, 163, 184),
}

# Semi-axis of the last colour, in mm: about a finger's width.
COLOUR_LIMIT_MM = 20.0

# Blue to orange to red: told apart with every common colour vision deficiency, and all of it
# is light enough for the dark background.
_STOPS = np.array(
    [(14, 165, 233), (45, 212, 191), (250, 204, 21), (249, 115, 22), (220, 38, 38)], dtype=float
)


def uncertainty_colours(radius_mm: np.ndarray, limit_mm: float) -> np.ndarray:
    """Colour of an uncertainty, saturating at the limit.

    radius_mm: (...,) largest semi-axis in mm; NaN gives the last colour.  limit_mm: value of the
    last colour.  Returns (..., 3) uint8 RGB.
    """
    share = np.asarray(radius_mm, dtype=float) / limit_mm
    fraction = np.clip(np.nan_to_num(share, nan=1.0, posinf=1.0), 0.0, 1.0)
    places = np.linspace(0.0, 1.0, len(_STOPS))
    channels = [np.interp(fraction, places, _STOPS[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def linear(colour: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) uint8 as the linear light that viser's batched meshes want (IEC 61966-2-1)."""
    c = np.asarray(colour, dtype=float) / 255.0
    light = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return np.rint(255.0 * light).astype(np.uint8)


def css(colour: Rgb) -> str:
    """RGB as a CSS colour."""
    return f'rgb({colour[0]}, {colour[1]}, {colour[2]})'


def legend_html(limit_mm: float, probability: float) -> str:
    """The colour bar with its ticks in mm, as HTML."""
    gradient = ', '.join(css(tuple(int(c) for c in stop)) for stop in _STOPS)
    ticks = [f'{limit_mm * k / 4:g}' for k in range(4)] + [f'≥ {limit_mm:g} mm']
    labels = ''.join(f'<span>{tick}</span>' for tick in ticks)
    return (
        '<div style="padding: 0 0.75em 0.4em; font-size: 0.8em;">'
        '<div style="opacity: 0.75; margin-bottom: 0.3em;">'
        f'{probability:.0%} ellipsoid, largest semi-axis</div>'
        '<div style="height: 0.7em; border-radius: 0.35em; '
        f'background: linear-gradient(90deg, {gradient});"></div>'
        '<div style="display: flex; justify-content: space-between; margin-top: 0.2em; '
        f'font-variant-numeric: tabular-nums;">{labels}</div></div>'
    )
